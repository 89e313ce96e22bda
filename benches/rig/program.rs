//! The program itself, as a device runs it, in front of a peer behind a TLS front that demands
//! what AWS demands.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use alphorn::{
    plugin::{ahead, compile::TARGET},
    signature::{self, KeyPair, Signer},
};
use alphorn_dev_broker::{ALPN, Authority, Front, FrontConfig};
use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use super::peer::Peer;

/// The longest a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which build of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// `cargo build --release`.
    Full,
    /// `cargo build --profile device -p alphorn --no-default-features`, which takes minutes. It has
    /// no compiler, so it is given [`Compiled`] components.
    Device,
}

/// Says that the build for devices is measured as well, and perhaps where it is.
const DEVICE: &str = "BENCH_DEVICE";

impl Build {
    /// Those to measure.
    pub(crate) fn wanted() -> Vec<Self> {
        let device = std::env::var_os(DEVICE).map(|_| Self::Device);
        [Self::Full].into_iter().chain(device).collect()
    }

    /// As a figure calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Device => "device",
        }
    }

    /// Has cargo build it; the program's file. A measurement has no `CARGO_BIN_EXE_alphorn`, since
    /// the program is another package's. `BENCH_PROGRAM` names one that is there already
    /// and is taken as the full build.
    pub(crate) fn program(self) -> Result<PathBuf> {
        let variable = if self == Self::Full { "BENCH_PROGRAM" } else { DEVICE };
        if let Some(program) = std::env::var_os(variable).map(PathBuf::from).filter(|program| program.is_file()) {
            return Ok(program);
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
        let (arguments, folder): (&[&str], _) = match self {
            Self::Full => (&["build", "--release"], "release"),
            Self::Device => (&["build", "--profile", "device", "-p", "alphorn", "--no-default-features"], "device"),
        };
        let status = Command::new(env!("CARGO")).current_dir(root).args(arguments).status()?;
        ensure!(status.success(), "the program does not build");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(target.join(folder).join("alphorn"))
    }
}

/// A component that was compiled ahead of time and signed, as a device without a compiler needs it.
pub(crate) struct Compiled {
    pub(crate) path: PathBuf,
    /// The key that has signed it, for `trusted_keys`.
    pub(crate) key: String,
    _folder: tempfile::TempDir,
}

impl Compiled {
    pub(crate) fn make(component: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("plugin.cwasm");
        let code = ahead::compile(&fs::read(component)?, TARGET)?;
        let pair = KeyPair::make(None)?;
        fs::write(signature::beside(&path), Signer::read(&pair.secret, None)?.sign(&code, "")?)?;
        fs::write(&path, code)?;
        let key = pair.public.lines().last().context("an empty key")?.to_owned();
        Ok(Self { path, key, _folder: folder })
    }
}

/// A peer behind a front, and the certificates to get through.
pub(crate) struct Bed {
    pub(crate) peer: Peer,
    front: Front,
    /// For certificates and configurations; what a program keeps is elsewhere.
    folder: tempfile::TempDir,
    /// Of the front.
    _runtime: Runtime,
}

impl Bed {
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new("Alphorn measuring authority")?;
        fs::write(folder.path().join("ca.pem"), authority.ca_pem())?;
        authority.issue_client("device")?.write(folder.path(), "device")?;
        let config = FrontConfig {
            client_ca: Some(authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(authority.issue_server(&["localhost"])?)
        };
        let peer = Peer::start()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let upstream: SocketAddr = peer.addr();
        let front = runtime.block_on(Front::start(upstream, config))?;
        Ok(Self { peer, front, folder, _runtime: runtime })
    }

    /// Writes a configuration for a program that keeps what it keeps in `data_dir` and trusts this key.
    pub(crate) fn configure(&self, data_dir: &Path, key: Option<&str>, plugins: &str) -> Result<PathBuf> {
        let path = self.folder.path().join("alphorn.toml");
        let socket = self.folder.path().join("socket");
        let port = self.front.addr().port();
        let keys: Vec<_> = key.into_iter().collect();
        let text = format!(
            "[host]\ndata_dir = {data_dir:?}\nsocket = {socket:?}\ntrusted_keys = {keys:?}\n\
             [link]\nurl = \"mqtts://localhost:{port}\"\nclient_id = \"rig\"\nprotocol = \"3.1.1\"\n\
             session_expiry = \"0s\"\nca = \"ca.pem\"\ncert = \"device.pem\"\nkey = \"device.key\"\n\
             alpn = [\"x-amzn-mqtt-ca\"]\n{plugins}"
        );
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// A running program; it is killed when this goes.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
    pub(crate) started: Instant,
}

impl Program {
    /// `alphorn run`. Its log goes to a file beside the configuration.
    pub(crate) fn run(program: &Path, config: &Path) -> Result<Self> {
        let log = config.with_extension("log");
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log)?);
        let started = Instant::now();
        Ok(Self { child: command.spawn().with_context(|| program.display().to_string())?, log, started })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until there is something, and fails with the log if the program ends before.
    pub(crate) fn until<R>(&mut self, what: &str, mut find: impl FnMut() -> Option<R>) -> Result<R> {
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the program ended with {status} before {what}:\n{}", log());
            }
            ensure!(self.started.elapsed() < PATIENCE, "no end of waiting for {what}:\n{}", log());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it in good order, so that the next one finds its store as it should be.
    pub(crate) fn end(mut self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begin.elapsed() < PATIENCE, "the program does not end");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails where it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
