//! What keeping messages on disk costs: a plugin whose calls publish 100 messages each, QoS 1,
//! 256 bytes, with the outbox in memory and on disk, safe before the next call
//! (`commit = "call"`) and 50 ms later. In turn, in one run, each in a process of its own.
//!
//!     cargo bench -p alphorn-benches --bench outbox
//!
//! The messages go to the same sink as those of `publish.rs`. The disk is the one of the
//! target folder.

mod support;

use std::{fs, path::Path, time::Duration};

use alphorn::builder;
use alphorn_dev_broker::Sink;
use anyhow::{Context, Result};
use support::{
    is_quick, is_wanted,
    process::{self, Worker},
    publishers::{Job, Who},
    report::{self, Report},
    servers::Certificates,
};
use tokio::time::timeout;

const SIZE: usize = 256;
const CALL: u32 = 100;
const ROUNDS: usize = 7;

/// How long one round may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Names, what the configuration says, and messages of a round: enough for a good second, so
/// that what is written 50 ms later is within it.
const MODES: [(&str, &str, u32); 3] = [
    ("memory", "storage = \"memory\"", 400_000),
    ("disk, commit = call", "storage = \"disk\"\ncommit = \"call\"", 40_000),
    ("disk, commit = 50ms", "storage = \"disk\"\ncommit = \"50ms\"", 400_000),
];

fn main() -> Result<()> {
    if let Some(job) = process::job::<Job>()? {
        return job.run();
    }
    if !is_wanted() {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let guest = builder::build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("guest")).await?.component;
    let certificates = Certificates::new()?;
    let sink = Sink::start(&certificates.front())?;
    let job = Job {
        who: Who::Plugin,
        qos: 1,
        size: SIZE,
        count: 0,
        place: certificates.place(sink.addr().port()),
        guest,
        call: CALL,
        timers: 16,
        host: String::new(),
    };
    let rounds = if is_quick() { 1 } else { ROUNDS };
    let mut report = Report::new("outbox");
    report.setting("messages", format!("{SIZE} bytes at QoS 1, {CALL} a call, {rounds} rounds"));
    report.setting("plugin", Who::Plugin.settings());
    let mut modes = MODES.map(|mode| (mode, Vec::new()));
    for _ in 0..rounds {
        for ((name, outbox, count), runs) in &mut modes {
            let count = *count / if is_quick() { 4 } else { 1 };
            runs.push(measure(&sink, Job { count, ..job.clone() }, outbox).await.with_context(|| (*name).to_owned())?);
        }
    }
    let [(_, memory), ..] = &modes;
    for ((name, ..), runs) in &modes {
        report.figure("speed", "messages/s", &[("outbox", name)], runs.iter().map(|run| run.0).collect());
        report.figure("cpu", "us/message", &[("outbox", name)], runs.iter().map(|run| run.1).collect());
        let ratios = runs.iter().zip(memory).map(|(run, memory)| run.0 / memory.0).collect();
        report.figure("speed ratio", "", &[("outbox", name), ("beside", &"memory")], ratios);
    }
    report.write()
}

/// Messages a second, and microseconds of CPU for each.
async fn measure(sink: &Sink, job: Job, outbox: &str) -> Result<(f64, f64)> {
    fs::create_dir_all(report::folder())?;
    let folder = tempfile::tempdir_in(report::folder())?;
    let data =
        if outbox.contains("disk") { format!("[host]\ndata_dir = {:?}\n", folder.path()) } else { String::new() };
    let job = Job { host: format!("{data}[outbox]\n{outbox}"), ..job };
    sink.reset();
    let worker = Worker::start(&job)?;
    let all = timeout(PATIENCE, sink.wait_for(job.count)).await;
    let tally = all.with_context(|| format!("of {} messages there came {:?}", job.count, sink.tally()))?;
    let (first, last) = tally.first.zip(tally.last).context("nothing came")?;
    let usage = worker.end().await?;
    let speed = f64::from(tally.numbers) / (last - first).as_secs_f64();
    Ok((speed, usage.cpu_seconds * 1e6 / f64::from(usage.messages)))
}
