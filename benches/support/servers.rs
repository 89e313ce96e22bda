//! What is published to: certificates, and brokers that take them.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use alphorn_dev_broker::{ALPN, Authority, Broker, Front, FrontConfig, Identity};
use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::Place;

const HOST: &str = "localhost";

/// How long a broker may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// An authority, and what it has issued to a server and to a device.
pub(crate) struct Certificates {
    folder: TempDir,
    authority: Authority,
    server: Identity,
}

impl Certificates {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new("Alphorn benchmarks")?;
        let server = authority.issue_server(&[HOST, "127.0.0.1"])?;
        fs::write(folder.path().join("ca.pem"), authority.ca_pem())?;
        server.write(folder.path(), "server")?;
        authority.issue_client("device")?.write(folder.path(), "device")?;
        Ok(Self { folder, authority, server })
    }

    /// What a device needs to connect to a server with this port.
    pub(crate) fn place(&self, port: u16) -> Place {
        let file = |name| self.folder.path().join(name);
        Place { host: HOST.to_owned(), port, ca: file("ca.pem"), cert: file("device.pem"), key: file("device.key") }
    }

    /// A front that demands what AWS IoT demands.
    pub(crate) fn front(&self) -> FrontConfig {
        FrontConfig {
            client_ca: Some(self.authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(self.server.clone())
        }
    }
}

/// A broker that one reaches by TLS, and without.
pub(crate) struct BothWays {
    pub(crate) name: &'static str,
    pub(crate) tls: u16,
    pub(crate) plain: u16,
    _running: Running,
}

enum Running {
    Mosquitto { _child: Child, _folder: TempDir },
    Embedded { _broker: Broker, _front: Front },
}

impl BothWays {
    /// mosquitto, which ends TLS itself; `None`: it is not installed.
    pub(crate) async fn mosquitto(certificates: &Certificates) -> Result<Option<Self>> {
        let Some(program) = find("mosquitto") else { return Ok(None) };
        let mut failure = None;
        // Somebody may take a port between its choice and its use.
        for _ in 0..5 {
            match start_mosquitto(&program, certificates).await {
                Ok(started) => return Ok(Some(started)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("unreachable")?)
    }

    /// The embedded one, behind the front that ends TLS for it.
    pub(crate) async fn embedded(certificates: &Certificates) -> Result<Self> {
        let broker = Broker::start().await?;
        let front = Front::start(broker.addr(), certificates.front()).await?;
        let (tls, plain) = (front.addr().port(), broker.addr().port());
        let running = Running::Embedded { _broker: broker, _front: front };
        Ok(Self { name: "embedded broker", tls, plain, _running: running })
    }
}

async fn start_mosquitto(program: &Path, certificates: &Certificates) -> Result<BothWays> {
    let folder = tempfile::tempdir()?;
    let (plain, tls) = (free_port()?, free_port()?);
    let issued = certificates.folder.path().display();
    // Root's mosquitto gives up its rights, and with them that to read our files, unless told.
    // Without nodelay at its end, it is its own delay that would be measured.
    let text = format!(
        "user root\npersistence false\nset_tcp_nodelay true\nmax_inflight_messages 100\nmax_queued_messages 0\n\
         log_dest stderr\nallow_anonymous true\nlistener {plain} 127.0.0.1\nlistener {tls} 127.0.0.1\n\
         cafile {issued}/ca.pem\ncertfile {issued}/server.pem\nkeyfile {issued}/server.key\nrequire_certificate true\n"
    );
    let file = folder.path().join("mosquitto.conf");
    fs::write(&file, text)?;
    let mut child = Command::new(program)
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    let starting = async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            if line.contains(" running") {
                return Ok(());
            }
            said += &(line + "\n");
        }
        bail!("mosquitto ended:\n{said}")
    };
    timeout(PATIENCE, starting).await.context("mosquitto does not start")??;
    // Read on: a server whose log nobody takes would stop one day.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let running = Running::Mosquitto { _child: child, _folder: folder };
    Ok(BothWays { name: "mosquitto", tls, plain, _running: running })
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Servers are often where only root's `PATH` leads.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
