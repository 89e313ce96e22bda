//! `alphorn ps` and `alphorn top`: how the plugins are.

use std::{collections::HashMap, time::Duration};

use alphorn::{
    control::protocol::{Answer, PluginRow, Request, Status},
    escape::{shown, shown_lines},
};
use anyhow::Context;
use bytesize::ByteSize;

use super::{
    ask::{ask, unexpected},
    print,
};
use crate::{
    cli::{PsArgs, TopArgs},
    exit::Failure,
    signals::Ending,
};

pub(crate) async fn ps(args: PsArgs) -> Result<(), Failure> {
    let Answer::Status(status) = ask(&args.host, &Request::Ps).await? else { return Err(unexpected()) };
    let printed = match args.json {
        true => print::json(&status),
        false => print::line(&format!("{}\n{}", headline(&status), table(&status))),
    };
    printed.context("stdout is closed")?;
    Ok(())
}

pub(crate) async fn top(args: TopArgs) -> Result<(), Failure> {
    let mut ending = Ending::new()?;
    let mut before: HashMap<String, PluginRow> = HashMap::new();
    let mut left = args.count;
    while left != Some(0) {
        // Each time anew: who is silent for long makes room for others.
        let Answer::Status(status) = ask(&args.host, &Request::Ps).await? else { return Err(unexpected()) };
        let clear = if super::colour(&std::io::stdout()) { "\x1b[H\x1b[2J" } else { "" };
        let text = format!("{}\n{}", headline(&status), rates(&status, &before, args.every));
        print::composed(&format!("{clear}{}", shown_lines(&text))).context("stdout is closed")?;
        before = status.plugins.into_iter().map(|row| (row.name.clone(), row)).collect();
        left = left.map(|left| left - 1);
        if left != Some(0) {
            tokio::select! {
                () = tokio::time::sleep(args.every) => {}
                _ = ending.next() => return Ok(()),
            }
        }
    }
    Ok(())
}

fn headline(status: &Status) -> String {
    let since = time(status.link_since_ms);
    let disk = status.disk.as_deref().map(|cause| format!("\ndisk: {}", shown(cause))).unwrap_or_default();
    let link = shown(&status.link);
    format!("alphorn {}, {}: link {link} for {since}{disk}", status.version, shown(&status.client_id))
}

fn table(status: &Status) -> String {
    let head = [
        "NAME",
        "STATE",
        "SINCE",
        "VERSION",
        "HANDLED",
        "DEAD",
        "DROPPED",
        "FAULTS",
        "SWAPS",
        "WAITING",
        "MEMORY",
        "LAST ERROR",
    ];
    print::table(
        &head,
        status.plugins.iter().map(|row| {
            vec![
                row.name.clone(),
                row.state.clone(),
                time(row.since_ms),
                row.version.clone().unwrap_or_default(),
                row.handled.to_string(),
                row.dead.to_string(),
                format!("{} in, {} out", row.dropped, row.lost),
                row.faults.to_string(),
                row.swaps.to_string(),
                format!("{} in, {} out", row.mailbox, row.outbox),
                ByteSize(row.memory as u64).to_string(),
                row.last_error.clone().unwrap_or_default(),
            ]
        }),
    )
}

fn rates(status: &Status, before: &HashMap<String, PluginRow>, time: Duration) -> String {
    let head = ["NAME", "STATE", "CPU", "CALLS/s", "HANDLED/s", "WAITING", "MEMORY"];
    let seconds = time.as_secs_f64().max(0.001);
    print::table(
        &head,
        status.plugins.iter().map(|row| {
            let past = before.get(&row.name).unwrap_or(row);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            vec![
                row.name.clone(),
                row.state.clone(),
                format!("{:.1} %", rate(row.busy_us, past.busy_us) / 10_000.0),
                format!("{:.0}", rate(row.calls, past.calls)),
                format!("{:.0}", rate(row.handled, past.handled)),
                format!("{} in, {} out", row.mailbox, row.outbox),
                ByteSize(row.memory as u64).to_string(),
            ]
        }),
    )
}

/// Whole seconds are enough for people.
pub(super) fn time(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string()
}
