//! Processor time of threads: on a machine that does other things too, it says more than the clock
//! on the wall. Memory of processes.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// The time this thread has run.
pub(crate) fn of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time the threads of this name have run. Of a thread that runs at this moment the last
/// milliseconds may be missing.
pub(crate) fn of_threads(name: &str) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        // It may have ended since.
        let Ok(its_name) = fs::read_to_string(thread.join("comm")) else { continue };
        if its_name.trim() == name {
            let times = fs::read_to_string(thread.join("schedstat"))?;
            let nanoseconds = times.split_whitespace().next().context("schedstat is empty")?;
            sum += Duration::from_nanos(nanoseconds.parse()?);
        }
    }
    Ok(sum)
}

/// Kilobytes of a process that are in memory: all, and those that are not shared with a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resident {
    pub(crate) all: f64,
    pub(crate) anonymous: f64,
}

/// What of a process is in memory; `self` for this one.
pub(crate) fn resident(process: &str) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let of = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    };
    Ok(Resident { all: of("VmRSS:")?, anonymous: of("RssAnon:")? })
}
