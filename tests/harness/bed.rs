//! A broker behind a front, certificates, and a folder with configuration and components.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use alphorn_dev_broker::{ALPN, Authority, ConnectionRecord, Faults, Front, FrontConfig, Identity};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Broker, Config, Context as _, Mqtt, Program, Result, Watcher, guests, soon, watcher};

/// Everything a device needs, and everything it connects to.
pub(crate) struct Bed {
    pub(crate) authority: Authority,
    pub(crate) front: Front,
    pub(crate) broker: Broker,
    folder: TempDir,
}

impl Bed {
    /// Demands what AWS IoT demands: a client certificate and ALPN `x-amzn-mqtt-ca`.
    pub(crate) async fn start() -> Result<Self> {
        Self::with(|_, _| Ok(())).await
    }

    /// The same with another front.
    pub(crate) async fn with(adapt: impl FnOnce(&Authority, &mut FrontConfig) -> Result<()>) -> Result<Self> {
        let authority = Authority::new("the tests' authority")?;
        let mut config = FrontConfig {
            client_ca: Some(authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(authority.issue_server(&["localhost"])?)
        };
        adapt(&authority, &mut config)?;

        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), authority.ca_pem())?;
        authority.issue_client("device")?.write(folder.path(), "device")?;
        // Linked, so that a configuration names them as a user's does: relative to itself.
        for component in guests::all()? {
            let name = component.file_name().context("a component without a name")?;
            std::os::unix::fs::symlink(&component, folder.path().join(name))?;
        }
        let broker = Broker::start().await?;
        let front = Front::start(broker.addr(), config).await?;
        Ok(Self { authority, front, broker, folder })
    }

    /// Where configurations and certificates are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file there with this content.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.folder().join(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Certificate and key there, as `NAME.pem` and `NAME.key`.
    pub(crate) fn identity(&self, name: &str, identity: &Identity) -> Result<()> {
        identity.write(self.folder(), name)?;
        Ok(())
    }

    /// Connects to the front with all it demands; `rest` follows the section `[link]`.
    pub(crate) fn config(&self, rest: &str) -> Config {
        let url = format!("mqtts://localhost:{}", self.front.addr().port());
        Config::new(self.folder(), &url, rest)
            .link("ca = \"ca.pem\"")
            .link("cert = \"device.pem\"")
            .link("key = \"device.key\"")
            .link("alpn = [\"x-amzn-mqtt-ca\"]")
    }

    /// Runs the host with these plugins and a version of MQTT, and waits for the connection.
    pub(crate) async fn connected(&self, protocol: &str, rest: &str) -> Result<Program> {
        let host = Program::run(&self.config(rest).link(&format!("protocol = {protocol:?}")))?;
        host.log(&["connect success"]).await?;
        Ok(host)
    }

    /// A subscriber beside the front.
    pub(crate) async fn watch(&self, filter: &str) -> Result<Watcher> {
        Watcher::start(self.broker.addr(), filter).await
    }

    /// A client beside the front.
    pub(crate) async fn client(&self) -> Result<Mqtt<TcpStream>> {
        watcher::client(self.broker.addr()).await
    }

    /// New connections reach another broker, which knows no sessions. The old one ends with
    /// what this returns.
    pub(crate) fn redirect(&mut self, other: Broker) -> Broker {
        self.front.redirect(other.addr());
        std::mem::replace(&mut self.broker, other)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.front.addr()
    }

    pub(crate) fn faults(&self) -> Faults {
        self.front.faults()
    }

    /// Connections that came so far, refused ones included.
    pub(crate) fn connections(&self) -> usize {
        self.front.records().len()
    }

    /// Drops the connection as a middlebox does, and waits until it is gone at the front.
    pub(crate) async fn cut(&self) -> Result<()> {
        let before = self.connections();
        self.faults().cut();
        let gone = |records: &[ConnectionRecord]| records.iter().take(before).all(|record| record.closed);
        soon("the cut", self.front.wait_for(gone)).await?;
        Ok(())
    }

    /// Waits for the first record that is as wanted.
    pub(crate) async fn record(&self, wanted: impl Fn(&ConnectionRecord) -> bool) -> Result<ConnectionRecord> {
        let records = soon("a connection", self.front.wait_for(|records| records.iter().any(&wanted))).await?;
        records.into_iter().find(|record| wanted(record)).context("no such connection")
    }
}
