//! What the running host says and does about a request.

use std::time::Duration;

use super::protocol::{Action, Answer, Failure, Letter, PluginRow, Quarantined, Request, Status};
use crate::{
    host::Host,
    link::LinkState,
    plugin::{InForce, Report, SwapError, short},
    store::StoreError,
};

/// Everything but the log, which goes on and on.
pub(super) async fn answer(host: &Host, request: Request) -> Answer {
    match request {
        Request::Ps => Answer::Status(Box::new(status(host).await)),
        Request::Swap { name, file, wait } => match host.plugin(&name).await {
            Some(plugin) => {
                let swapped = plugin.swap(file.into()).await;
                host.drop_old_versions().await;
                match swapped {
                    Ok(in_force) if wait => match plugin.stood(&in_force.digest).await {
                        Ok(()) => Answer::Stood { version: short(&in_force.digest).to_owned() },
                        Err(error) => not_swapped(&error),
                    },
                    Ok(_) => Answer::Done { count: 1 },
                    Err(error) => not_swapped(&error),
                }
            }
            None => unknown(host, &name).await,
        },
        Request::Rollback { name, to, dry_run } => match host.plugin(&name).await {
            Some(plugin) => match plugin.roll_back(to, dry_run).await {
                Ok(InForce { digest, instead_of }) => Answer::RolledBack {
                    version: short(&digest).to_owned(),
                    instead_of: instead_of.as_deref().map(|digest| short(digest).to_owned()),
                },
                Err(error) => not_swapped(&error),
            },
            None => unknown(host, &name).await,
        },
        Request::Stop { name } => match host.plugin(&name).await {
            Some(plugin) => {
                plugin.stop().await;
                Answer::Done { count: 1 }
            }
            None => unknown(host, &name).await,
        },
        Request::Start { name } => match host.plugin(&name).await {
            Some(plugin) => match plugin.start().await {
                Ok(()) => Answer::Done { count: 1 },
                Err(text) => Answer::Failed { kind: Failure::Unavailable, text },
            },
            None => unknown(host, &name).await,
        },
        Request::Explain { name, action, topic } => {
            let Some(plugin) = host.plugin(&name).await else { return unknown(host, &name).await };
            explain(&plugin.grants(), action, &topic)
        }
        Request::DeadLetters { name } => match letters(host, name.as_deref()).await {
            Ok(letters) => Answer::Letters { letters: letters.iter().map(letter).collect() },
            Err(failed) => failed,
        },
        Request::DeadLetter { name, number } => match letters(host, Some(&name)).await {
            Ok(letters) => match letters.iter().find(|letter| number.is_none_or(|number| letter.number == number)) {
                Some(found) => shown(found),
                None => counted(0, NO_LETTER),
            },
            Err(failed) => failed,
        },
        Request::SettleLetters { name, number, again } => {
            let letters = match letters(host, Some(&name)).await {
                Ok(letters) => letters,
                Err(failed) => return failed,
            };
            let is_meant = |letter: &&crate::store::DeadLetter| number.is_none_or(|number| letter.number == number);
            let count = letters.iter().filter(is_meant).map(|letter| host.link().settle_letter(letter, again)).count();
            counted(count, NO_LETTER)
        }
        Request::Quarantine => match host.link().quarantined().await.map_or(Ok(Vec::new()), |found| found) {
            Ok(messages) => Answer::Quarantined {
                messages: messages
                    .into_iter()
                    .map(|(about, _)| Quarantined {
                        plugin: about.owner.to_string(),
                        number: about.seq,
                        topic: about.topic,
                        reason: about.reason,
                    })
                    .collect(),
            },
            Err(error) => unreadable(&error),
        },
        Request::SettleQuarantine { name, again } => {
            let messages = match host.link().quarantined().await.map_or(Ok(Vec::new()), |found| found) {
                Ok(messages) => messages,
                Err(error) => return unreadable(&error),
            };
            let is_meant = |owner: &str| name.as_deref().is_none_or(|name| name == owner);
            let meant = messages.into_iter().filter(|(about, _)| is_meant(&about.owner));
            let count = meant.map(|message| host.link().settle_quarantined(message, again)).count();
            counted(count, "nothing is in quarantine")
        }
        Request::Logs { .. } => Answer::Done { count: 0 },
    }
}

/// Whether a plugin with these grants may do that.
pub fn explain(grants: &crate::grants::Grants, action: Action, topic: &str) -> Answer {
    let explained = match action {
        Action::Publish => grants.explain_publish(topic),
        Action::Subscribe => grants.explain_subscribe(topic),
    };
    match explained {
        Ok(why) => Answer::Explained { allowed: true, why },
        Err(why) => Answer::Explained { allowed: false, why },
    }
}

async fn status(host: &Host) -> Status {
    let link = host.link().status().borrow().clone();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client_id: host.client_id().to_owned(),
        link: match &link.state {
            LinkState::Up { .. } => "up".to_owned(),
            LinkState::Starting => "connecting".to_owned(),
            LinkState::Down { reason } => format!("down: {reason}"),
        },
        link_since_ms: milliseconds(link.since.elapsed()),
        disk: link.trouble.as_deref().map(str::to_owned),
        plugins: host.plugins().await.into_iter().map(|(name, plugin)| row(name, plugin.report())).collect(),
    }
}

fn row(name: String, report: Report) -> PluginRow {
    PluginRow {
        name,
        state: report.state.to_string(),
        since_ms: milliseconds(report.since),
        version: report.version,
        digest: report.digest,
        previous: report.previous,
        handled: report.handled,
        dead: report.dead,
        dropped: report.dropped,
        lost: report.lost,
        faults: report.faults,
        swaps: report.swaps,
        calls: report.calls,
        busy_us: u64::try_from(report.busy.as_micros()).unwrap_or(u64::MAX),
        memory: report.memory,
        mailbox: report.mailbox.0,
        outbox: report.outbox.0,
        last_error: report.last_error,
    }
}

async fn letters(host: &Host, name: Option<&str>) -> Result<Vec<crate::store::DeadLetter>, Answer> {
    match host.link().dead_letters(name).await {
        Some(Ok(letters)) => Ok(letters),
        Some(Err(error)) => Err(unreadable(&error)),
        None => {
            let text = "this host keeps nothing on disk, so it has no dead letters: set `host.data_dir`".to_owned();
            Err(Answer::Failed { kind: Failure::Unavailable, text })
        }
    }
}

const NO_LETTER: &str = "no such dead letter: `alphorn dead-letters` lists them";

fn shown(found: &crate::store::DeadLetter) -> Answer {
    let payload = &found.message.payload;
    let (text, hexadecimal) = match std::str::from_utf8(payload) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(payload.iter().map(|byte| format!("{byte:02x}")).collect())),
    };
    Answer::Letter { letter: letter(found), payload: text, payload_hex: hexadecimal }
}

fn letter(letter: &crate::store::DeadLetter) -> Letter {
    Letter {
        plugin: letter.plugin.to_string(),
        number: letter.number,
        topic: letter.message.topic.to_string(),
        bytes: letter.message.payload.len(),
        attempts: letter.attempts,
        age_ms: milliseconds(letter.age),
        reason: letter.reason.clone(),
    }
}

fn not_swapped(error: &SwapError) -> Answer {
    let kind = match error {
        SwapError::Component(_) | SwapError::Start(_) | SwapError::RolledBack(_) => Failure::Data,
        SwapError::Refused(_)
        | SwapError::Stop(_)
        | SwapError::Removed
        | SwapError::Overtaken
        | SwapError::StoppedOnProbation
        | SwapError::NotKept(_) => Failure::Unavailable,
        SwapError::NoneBefore(_) | SwapError::Unknown(_) | SwapError::InForce(_) | SwapError::OnProbation => {
            Failure::Usage
        }
    };
    Answer::Failed { kind, text: error.to_string() }
}

fn counted(count: usize, none: &str) -> Answer {
    match count {
        0 => Answer::Failed { kind: Failure::Usage, text: none.to_owned() },
        count => Answer::Done { count },
    }
}

fn unreadable(error: &StoreError) -> Answer {
    Answer::Failed { kind: Failure::Unavailable, text: error.to_string() }
}

async fn unknown(host: &Host, name: &str) -> Answer {
    let names: Vec<_> = host.plugins().await.into_iter().map(|(name, _)| name).collect();
    let names = if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    Answer::Failed { kind: Failure::Usage, text: format!("no plugin is called `{name}`; {names}") }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
