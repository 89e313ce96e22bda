//! How costs grow: with subscriptions, with plugins, with payloads, with what waits for the broker.
//!
//!     cargo bench -p alphorn-benches --bench growth
//!
//! - Router: time to find who a message is for, with 1 to 1,000 subscriptions: exact filters,
//!   filters with `+`, and one filter that all have subscribed to.
//! - Plugins: processor time of a delivery with 1 to 500 plugins, each with a filter of its own,
//!   told in turn; of the plugins' thread and of the link's.
//! - Payload: processor time of a publish and a delivery from 16 bytes to 128 KiB.
//! - Outbox: messages of 256 bytes that wait on disk for a connection: how fast they are taken, what
//!   they take of memory, and how fast they leave when there is one. Each count has a
//!   process of its own.

mod rig;
mod support;

use std::{
    hint::black_box,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use alphorn::{
    journal::{Commit, JournalSettings},
    link::{ClientOptions, Disk, Link, LinkState, Outcome},
    message::Qos,
    router::{Router, UnderWay},
    store::{Store, StoreSettings},
    topic::{TopicFilter, TopicName},
};
use anyhow::{Context, Result, ensure};
use rig::{MeterPlugin, Rig, peer::Peer, processor};
use support::report::Report;

const SUBSCRIPTIONS: [u32; 4] = [1, 10, 100, 1_000];
const PLUGINS: [usize; 5] = [1, 10, 50, 100, 500];
const PAYLOADS: [usize; 6] = [16, 256, 4 * 1024, 16 * 1024, 64 * 1024, 128 * 1024];
const WAITING: [usize; 4] = [0, 10_000, 100_000, 1_000_000];
const ROUNDS: usize = 11;

/// What the process that measures an outbox is told.
const OUTBOX: &str = "outbox";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, count] = arguments.as_slice()
        && mode == OUTBOX
    {
        return outbox(count.parse()?);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let mut report = Report::new("growth");
    router(&mut report)?;
    let component = rig::meter()?;
    plugins(&component, &mut report)?;
    payloads(&component, &mut report)?;
    outboxes(&mut report)?;
    report.write()
}

fn router(report: &mut Report) -> Result<()> {
    const LOOKUPS: u32 = 20_000;
    type Filter = fn(u32) -> String;
    let kinds: [(&str, Filter); 3] = [
        ("exact", |number| format!("site/{number}/temperature")),
        ("with +", |number| format!("+/{number}/+")),
        ("one for all", |_| "site/+/temperature".to_owned()),
    ];
    for (kind, filter) in kinds {
        for count in SUBSCRIPTIONS {
            let mut router = Router::default();
            for number in 0..count {
                router.subscribe(number, TopicFilter::parse(filter(number))?, Qos::AtMostOnce, UnderWay::Nothing);
            }
            let topics = (0..count).map(|number| TopicName::parse(format!("site/{number}/temperature")));
            let topics = topics.collect::<Result<Vec<_>, _>>()?;
            let mut found = Vec::new();
            let mut times = Vec::new();
            let lookups = if kind == "one for all" { LOOKUPS / count.min(100) } else { LOOKUPS };
            for _ in 0..ROUNDS {
                let begin = processor::of_this_thread();
                for topic in topics.iter().cycle().take(lookups as usize) {
                    router.find(black_box(topic), &[], false, &mut found);
                    black_box(&found);
                }
                times.push((processor::of_this_thread() - begin).as_nanos() as f64 / f64::from(lookups));
            }
            report.figure("router lookup", "ns", &[("filters", &kind), ("subscriptions", &count)], times);
        }
    }
    Ok(())
}

fn plugins(component: &std::path::Path, report: &mut Report) -> Result<()> {
    const MESSAGES: usize = 4_000;
    for count in PLUGINS {
        let meters: Vec<_> =
            (0..count).map(|number| MeterPlugin::new(&format!("meter{number}"), 256, Qos::AtMostOnce, 0)).collect();
        let rig = Rig::start(component, &meters)?;
        let handles = meters.iter().map(|meter| rig.plugin(&meter.name)).collect::<Result<Vec<_>>>()?;
        let topics: Vec<_> = meters.iter().map(|meter| format!("in/{}/in", meter.name)).collect();
        let handled = || handles.iter().map(|handle| handle.report().handled).sum::<u64>();
        let waiting = || handles.iter().map(|handle| handle.report().mailbox.0).sum::<usize>();
        let (mut of_plugins, mut of_link) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let link = processor::of_threads("alphorn-link")?;
            rig.peer.publish_each(256, Qos::AtMostOnce, topics.iter().map(String::as_str).cycle().take(MESSAGES))?;
            rig.wait_until("messages in mailboxes", |_| waiting() == MESSAGES)?;
            // What the link's thread has done is known when it sleeps.
            thread::sleep(Duration::from_millis(5));
            of_link.push((processor::of_threads("alphorn-link")? - link).as_nanos() as f64 / MESSAGES as f64);
            let goal = handled() + MESSAGES as u64;
            let mut taken = Duration::ZERO;
            // Asking all plugins takes time, which is not to be measured.
            while handled() < goal {
                let begin = processor::of_this_thread();
                rig.run(async {
                    // After each turn of this task come up to 61 others.
                    for _ in 0..=count / 61 {
                        tokio::task::yield_now().await;
                    }
                });
                taken += processor::of_this_thread() - begin;
            }
            of_plugins.push(taken.as_nanos() as f64 / MESSAGES as f64);
        }
        report.figure("delivery, plugins' thread", "ns/message", &[("plugins", &count)], of_plugins);
        report.figure("delivery, link's thread", "ns/message", &[("plugins", &count)], of_link);
        drop(handles);
        rig.stop();
    }
    Ok(())
}

fn payloads(component: &std::path::Path, report: &mut Report) -> Result<()> {
    for bytes in PAYLOADS {
        let count = (8 * 1024 * 1024 / bytes).clamp(100, 1_000);
        let rig = Rig::start(component, &[MeterPlugin::new("meter", bytes, Qos::AtMostOnce, count)])?;
        let handle = rig.plugin("meter")?;
        let (mut publish, mut deliver) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let received = rig.peer.received() + count as u64;
            rig.gather(&handle, "meter", "go", 0, Qos::AtMostOnce, 1)?;
            publish.push(each(count, || rig.handle(&handle, 1))?);
            rig.drained(received)?;
            rig.gather(&handle, "meter", "in", bytes, Qos::AtMostOnce, count)?;
            deliver.push(each(count, || rig.handle(&handle, count as u64))?);
        }
        report.figure("publish", "ns/message", &[("bytes", &bytes)], publish);
        report.figure("delivery", "ns/message", &[("bytes", &bytes)], deliver);
        drop(handle);
        rig.stop();
    }
    Ok(())
}

/// Nanoseconds of this thread for each of so many messages.
fn each(count: usize, what: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = processor::of_this_thread();
    what()?;
    Ok((processor::of_this_thread() - begin).as_nanos() as f64 / count as f64)
}

fn outboxes(report: &mut Report) -> Result<()> {
    for count in WAITING {
        let output = Command::new(std::env::current_exe()?).args([OUTBOX, &count.to_string()]).output()?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{count} waiting messages: {words}");
        let figures: Vec<f64> = serde_json::from_slice(&output.stdout)?;
        let [taken, filled, most, drained] = figures.as_slice() else { anyhow::bail!("{figures:?}") };
        let of: [(&'static str, &dyn ToString); 1] = [("waiting on disk", &count)];
        if count > 0 {
            report.figure("taken", "messages/s", &of, vec![*taken]);
            report.figure("drained", "messages/s", &of, vec![*drained]);
        }
        report.figure("RSS when filled", "MB", &of, vec![*filled]);
        report.figure("RSS at its most", "MB", &of, vec![*most]);
    }
    Ok(())
}

/// Fills an outbox while nobody is there to connect to, then lets it drain.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn outbox(count: usize) -> Result<()> {
    /// As a plugin's call publishes, and then waits for the disk.
    const CALL: usize = 1_000;
    let peer = Peer::start()?;
    let folder = tempfile::tempdir()?;
    let mut settings = rig::configuration(&peer, "[outbox]\nstorage = \"memory\"\n", "")?.link;
    settings.outbox_bytes = usize::MAX;
    let (store, restored) = Store::open(&StoreSettings { folder: folder.path().to_owned(), min_free: 0 })?;
    let disk = Disk { store, restored, settings: JournalSettings { commit: Commit::Call }, keeps_outbox: true };
    let link = Link::start(settings, Some(disk))?;
    let (client, _mailbox) = link.client(&ClientOptions { name: Some("native".into()), ..rig::unlimited() });
    let message = rig::message("out/native", 256, Qos::AtLeastOnce)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut most: f64 = 0.0;
    let mut look = || -> Result<f64> {
        let now = processor::resident("self")?.all * 1.024 / 1000.0;
        most = most.max(now);
        Ok(now)
    };
    let figures = runtime.block_on(async {
        let end_call = async || {
            if let Some(durable) = client.end_call(Outcome::default()) {
                durable.wait().await;
            }
        };
        let begin = Instant::now();
        for number in 0..count {
            client.publish_at_once(message.clone(), Instant::now())?;
            if (number + 1) % CALL == 0 {
                end_call().await;
                look()?;
            }
        }
        end_call().await;
        let taken = count as f64 / begin.elapsed().as_secs_f64();
        let filled = look()?;
        let mut status = link.status();
        link.open();
        status.wait_for(|status| matches!(status.state, LinkState::Up { .. })).await.context("the link ended")?;
        let begin = Instant::now();
        while client.queued().0 > 0 {
            look()?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let drained = count as f64 / begin.elapsed().as_secs_f64();
        link.close(Duration::from_secs(10)).await;
        anyhow::Ok([taken, filled, drained])
    })?;
    let [taken, filled, drained] = figures;
    println!("{}", serde_json::to_string(&[taken, filled, most, drained])?);
    Ok(())
}
