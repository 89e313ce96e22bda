//! The broker behind the front: the embedded one, or mosquitto where the program is built
//! without it or the environment says `ALPHORN_TEST_BROKER=mosquitto`.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{Context as _, Result, ensure, soon};

/// A broker on plain TCP.
pub(crate) enum Broker {
    #[cfg(feature = "embedded-broker")]
    Embedded(alphorn_dev_broker::Broker),
    Mosquitto(Mosquitto),
}

impl Broker {
    pub(crate) async fn start() -> Result<Self> {
        let mosquitto = std::env::var("ALPHORN_TEST_BROKER").is_ok_and(|broker| broker == "mosquitto");
        #[cfg(feature = "embedded-broker")]
        if !mosquitto {
            return Ok(Self::Embedded(alphorn_dev_broker::Broker::start().await?));
        }
        let _ = mosquitto;
        Ok(Self::Mosquitto(Mosquitto::start(|_| String::new()).await?))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            #[cfg(feature = "embedded-broker")]
            Self::Embedded(broker) => broker.addr(),
            Self::Mosquitto(mosquitto) => mosquitto.addr,
        }
    }
}

/// A mosquitto that ends when it is dropped.
pub(crate) struct Mosquitto {
    /// Its plain listener.
    pub(crate) addr: SocketAddr,
    /// Free for a listener that the test configures.
    pub(crate) other_port: u16,
    _server: Ready,
    _folder: TempDir,
}

impl Mosquitto {
    /// With a plain listener for everybody, and what `more` says about the other port.
    pub(crate) async fn start(more: impl Fn(u16) -> String) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("mosquitto.conf");
        let mut failure = None;
        // Somebody may take a port between its choice and its use.
        for _ in 0..5 {
            let [port, other_port] = free_ports()?;
            let more = more(other_port);
            // Mosquitto gives up root, and with it the right to read our files, unless told.
            let text = format!(
                "user root\npersistence false\nset_tcp_nodelay true\nmax_inflight_messages 100\n\
                 max_queued_messages 0\nlog_dest stderr\nlog_type all\nallow_anonymous true\n\
                 listener {port} 127.0.0.1\n{more}\n"
            );
            std::fs::write(&file, text)?;
            match Ready::start("mosquitto", &[OsStr::new("-c"), file.as_os_str()], " running").await {
                Ok(server) => {
                    let addr = (Ipv4Addr::LOCALHOST, port).into();
                    return Ok(Self { addr, other_port, _server: server, _folder: folder });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("unreachable")?)
    }
}

/// A server that is ready. It ends when this is dropped.
pub(crate) struct Ready {
    _child: Child,
}

impl Ready {
    /// Starts a program and waits until it says on stderr that it is ready.
    pub(crate) async fn start(program: &str, arguments: &[&OsStr], ready: &str) -> Result<Self> {
        let path = find(program).with_context(|| format!("{program} is not installed"))?;
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let mut said = String::new();
        let start = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains(ready) {
                    return Ok(());
                }
                said += &line;
                said += "\n";
            }
            anyhow::bail!("it ended");
        };
        soon("the start", start).await.flatten().with_context(|| format!("{program} did not start:\n{said}"))?;
        // Read on: a server whose log nobody takes would stop one day.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { _child: child })
    }
}

/// Ports of 127.0.0.1 that nobody listens on, all different.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

/// Whether these programs are there for a test that cannot do without. Where `CI=true` they
/// have to be; elsewhere the test says that it was skipped.
#[expect(clippy::print_stderr, reason = "whoever runs the tests should know")]
pub(crate) fn needs(programs: &[&str]) -> Result<bool> {
    let missing: Vec<_> = programs.iter().copied().filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(true);
    }
    let missing = missing.join(" and ");
    ensure!(std::env::var("CI").as_deref() != Ok("true"), "{missing} must be installed where CI=true");
    eprintln!("skipped: {missing} not installed");
    Ok(false)
}

/// Servers are often where only root's `PATH` leads.
fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| Path::is_file(file))
}
