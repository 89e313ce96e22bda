//! A measurement's own program as a child process, so that what one contender costs is told
//! from what the others do, and from what receives it.
//!
//! The child gets its job as an argument. It works until the parent says that all has come
//! (a line on stdin), prints one line of JSON, and ends.

use std::{
    fs,
    io::{self, BufRead},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::say;

const JOB: &str = "--job";

/// How long a child may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a child has used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) messages: u32,
    /// From before it connected until it was told to end.
    pub(crate) seconds: f64,
    /// Meanwhile, user and system, all threads together.
    pub(crate) cpu_seconds: f64,
    /// Resident at the end.
    pub(crate) memory_kib: u64,
}

/// A child at work.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(job: &impl Serialize) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([JOB, &serde_json::to_string(job)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self(child))
    }

    /// Tells it to end.
    pub(crate) async fn end(mut self) -> Result<Usage> {
        let ending = async {
            let mut stdin = self.0.stdin.take().context("no stdin")?;
            stdin.write_all(b"\n").await?;
            let mut said = String::new();
            self.0.stdout.take().context("no stdout")?.read_to_string(&mut said).await?;
            let status = self.0.wait().await?;
            ensure!(status.success(), "the child ended with {status}");
            serde_json::from_str(&said).with_context(|| format!("the child said {said:?}"))
        };
        timeout(PATIENCE, ending).await.context("the child does not end")?
    }
}

/// In a child: its job.
pub(crate) fn job<J: DeserializeOwned>() -> Result<Option<J>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != JOB).skip(1);
    Ok(arguments.next().map(|job| serde_json::from_str(&job)).transpose()?)
}

/// In a child: returns when the parent has told it to end, or is gone.
pub(crate) async fn until_told() -> Result<()> {
    tokio::task::spawn_blocking(|| io::stdin().lock().read_line(&mut String::new())).await??;
    Ok(())
}

/// In a child: what it uses from now on.
pub(crate) struct Meter {
    begin: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { begin: Instant::now(), cpu: cpu() }
    }

    /// Tells the parent.
    pub(crate) fn tell(&self, messages: u32) -> Result<()> {
        let cpu = cpu().saturating_sub(self.cpu);
        let (seconds, cpu_seconds) = (self.begin.elapsed().as_secs_f64(), cpu.as_secs_f64());
        let usage = Usage { messages, seconds, cpu_seconds, memory_kib: memory()? };
        say(&serde_json::to_string(&usage)?);
        Ok(())
    }
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

fn memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(resident.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
}
