//! The program under test, as a user starts it.

use std::{
    ffi::OsStr,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
};

use super::{Config, Context as _, Result, ensure, seen::Seen, soon};

/// A running `alphorn`. Dropping it kills it and prints what it said.
pub(crate) struct Program {
    command: String,
    child: Child,
    stdout: Seen<String>,
    stderr: Seen<String>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Term,
    Int,
    Hup,
}

/// What the environment of whoever runs the tests must not change.
const INHERITED: [&str; 8] =
    ["RUST_LOG", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "NOTIFY_SOCKET"];

impl Program {
    /// `alphorn` with these arguments.
    pub(crate) fn start<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Self> {
        Self::start_with(arguments, &[])
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_with<A: AsRef<OsStr>>(arguments: &[A], environment: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alphorn"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ALPHORN_")) {
            command.env_remove(name);
        }
        for name in INHERITED {
            command.env_remove(name);
        }
        // Of each its own: nobody finds an `alphorn dev` of another test, or of whoever runs them.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let runtime = format!("runtime-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        command.env("XDG_RUNTIME_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(runtime));
        command.args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start alphorn")?;
        let (stdout, stderr) = (Seen::new(), Seen::new());
        read(child.stdout.take().context("stdout")?, stdout.clone());
        read(child.stderr.take().context("stderr")?, stderr.clone());
        Ok(Self { command: format!("{:?}", command.as_std()), child, stdout, stderr })
    }

    /// `alphorn run` with this configuration.
    pub(crate) fn run(config: &Config) -> Result<Self> {
        Self::start(&[OsStr::new("run"), OsStr::new("--config"), config.write()?.as_os_str()])
    }

    /// The first line of the log with all of these parts.
    pub(crate) async fn log(&self, parts: &[&str]) -> Result<String> {
        self.log_times(1, parts).await
    }

    /// The `count`th line of the log with all of these parts.
    pub(crate) async fn log_times(&self, count: usize, parts: &[&str]) -> Result<String> {
        let what = format!("line {count} with {parts:?} on stderr");
        self.stderr.wait_for(&what, |lines| lines.iter().filter(|line| has(line, parts)).nth(count - 1).cloned()).await
    }

    /// The first line of the log with all of these parts, however long it takes: something
    /// is built or compiled before it.
    pub(crate) async fn log_in_its_own_time(&self, parts: &[&str]) -> Result<String> {
        self.log_times_in_its_own_time(1, parts).await
    }

    /// The `count`th such line.
    pub(crate) async fn log_times_in_its_own_time(&self, count: usize, parts: &[&str]) -> Result<String> {
        for _ in 0..9 {
            if let Ok(line) = self.log_times(count, parts).await {
                return Ok(line);
            }
        }
        self.log_times(count, parts).await
    }

    /// Waits for the `count`th connection, whose session has to be `new` or `present`.
    pub(crate) async fn connects(&self, count: usize, session: &str) -> Result<()> {
        let line = self.log_times(count, &["connect success"]).await?;
        ensure!(line.contains(&format!("session {session}")), "connection {count}: {line}");
        Ok(())
    }

    /// How many lines of the log have all of these parts, up to now.
    pub(crate) fn logged(&self, parts: &[&str]) -> usize {
        self.stderr.look(|lines| lines.iter().filter(|line| has(line, parts)).count())
    }

    /// The first line of the output with all of these parts.
    pub(crate) async fn prints(&self, parts: &[&str]) -> Result<String> {
        let what = format!("a line with {parts:?} on stdout");
        self.stdout.wait_for(&what, |lines| lines.iter().find(|line| has(line, parts)).cloned()).await
    }

    /// The first line of the output, from the `skip`th on, with all of these parts.
    // `dev` with a broker of its own is the one that prints without end.
    #[cfg(feature = "embedded-broker")]
    pub(crate) async fn prints_after(&self, skip: usize, parts: &[&str]) -> Result<String> {
        let what = format!("a line with {parts:?} on stdout behind the first {skip}");
        self.stdout.wait_for(&what, |lines| lines.iter().skip(skip).find(|line| has(line, parts)).cloned()).await
    }

    /// The output up to now.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.look(<[String]>::to_vec)
    }

    /// The log up to now.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.look(|lines| lines.join("\n"))
    }

    /// The memory it has, in bytes.
    pub(crate) fn resident(&self) -> Result<usize> {
        self.status("VmRSS:")
    }

    /// The most it had, in bytes.
    pub(crate) fn peak(&self) -> Result<usize> {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> Result<usize> {
        let id = self.child.id().context("it has ended already")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
        Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
    }

    /// How often the code of files with this in their name is mapped into its memory.
    pub(crate) fn code_of(&self, part: &str) -> Result<usize> {
        let id = self.child.id().context("it has ended already")?;
        let maps = std::fs::read_to_string(format!("/proc/{id}/maps"))?;
        Ok(maps.lines().filter(|line| line.contains(" r-xp ") && line.contains(part)).count())
    }

    /// The time it has computed so far; the kernel counts hundredths of a second.
    pub(crate) fn cpu(&self) -> Result<std::time::Duration> {
        let id = self.child.id().context("it has ended already")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("stat")?;
        let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(std::time::Duration::from_millis(ticks.iter().sum::<u64>() * 10))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().context("it has ended already")?;
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Hup => "HUP",
        };
        let sent = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status()?;
        ensure!(sent.success(), "kill -{name} {id}: {sent}");
        Ok(())
    }

    /// Waits for its end; the exit code. All it said has been read by then.
    pub(crate) async fn exit(&mut self) -> Result<i32> {
        let status = soon("the program's end", self.child.wait()).await??;
        self.stdout.wait_for_end().await?;
        self.stderr.wait_for_end().await?;
        let panic = self.stderr.look(|lines| lines.iter().find(|line| line.starts_with("thread '")).cloned());
        ensure!(panic.is_none(), "the host panicked: {panic:?}");
        status.code().with_context(|| format!("ended by a signal: {status}"))
    }

    /// Waits for its end without a deadline: it compiles.
    pub(crate) async fn ends_in_its_own_time(&mut self) -> Result<()> {
        self.child.wait().await?;
        self.exit().await.map(drop)
    }

    /// Waits for its end, which has to be in this way, and for these words on stderr.
    pub(crate) async fn fails(&mut self, code: i32, parts: &[&str]) -> Result<()> {
        let exit = self.exit().await?;
        ensure!(exit == code, "exit code {exit} instead of {code}");
        let stderr = self.stderr();
        for part in parts {
            ensure!(stderr.contains(part), "no {part:?} on stderr");
        }
        Ok(())
    }

    /// Its process, while nobody has waited for its end.
    pub(crate) fn id(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(self.child.id()?.try_into().ok()?)
    }

    /// SIGKILL: the host has no time for anything.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.start_kill()?;
        soon("the program's end", self.child.wait()).await??;
        Ok(())
    }

    /// SIGTERM, and a clean end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::Term)?;
        self.fails(0, &[]).await
    }
}

impl Drop for Program {
    #[expect(clippy::print_stdout, reason = "the test's own output, shown when it fails")]
    fn drop(&mut self) {
        println!("\n$ {}", self.command);
        for (name, lines) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            lines.look(|lines| lines.iter().for_each(|line| println!("{name}: {line}")));
        }
    }
}

fn has(line: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| line.contains(part))
}

fn read(stream: impl AsyncRead + Unpin + Send + 'static, seen: Seen<String>) {
    let mut stream = BufReader::new(stream);
    tokio::spawn(async move {
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
            seen.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
            line.clear();
        }
        seen.end("the program has ended".to_owned());
    });
}
