//! Broker, front and certificates put together for a developer's machine.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::certs::Authority;
use crate::{ALPN, Broker, Front, FrontConfig};

/// The host name to connect to; the server's certificate is made out to it.
const HOST: &str = "localhost";

/// A broker that demands what AWS IoT demands on port 443: a client certificate and the ALPN
/// protocol [`ALPN`]. Dropping it ends its tasks soon; [`DevBroker::shutdown`] waits for that.
#[derive(Debug)]
pub struct DevBroker {
    front: Front,
    broker: Broker,
    files: DevFiles,
}

/// Where [`DevBroker::start`] wrote the certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DevFiles {
    /// `ca.pem`: the authority that issued all the others, the server's included.
    pub ca: PathBuf,
    /// `device.pem`: certificate of the host.
    pub device_cert: PathBuf,
    /// `device.key`: private key of the host.
    pub device_key: PathBuf,
    /// `monitor.pem`: certificate of a developer who looks on.
    pub monitor_cert: PathBuf,
    /// `monitor.key`: private key of a developer who looks on.
    pub monitor_key: PathBuf,
}

impl DevBroker {
    /// Starts broker and front and writes new certificates into the folder, which is created
    /// if need be. Certificates of an earlier run are replaced.
    ///
    /// # Errors
    ///
    /// Fails if the files cannot be written or no port is free.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let authority = Authority::new("Alphorn development authority")?;
        let files = write_files(&authority, dir)?;
        let broker = Broker::start().await?;
        let config = FrontConfig {
            client_ca: Some(authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(authority.issue_server(&[HOST, "127.0.0.1"])?)
        };
        let front = Front::start(broker.addr(), config).await?;
        Ok(Self { front, broker, files })
    }

    /// The host name to connect to.
    #[must_use]
    pub fn host(&self) -> &'static str {
        HOST
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.front.addr().port()
    }

    /// The certificates and keys to connect with.
    #[must_use]
    pub fn files(&self) -> &DevFiles {
        &self.files
    }

    /// The front, with its records and faults.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Disconnects all clients, frees the port and waits until that is done. The files stay.
    ///
    /// # Errors
    ///
    /// Fails if the broker had failed before.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.front.shutdown().await;
        self.broker.shutdown().await
    }
}

/// A handful of small files once at the start: not worth a detour through other threads.
fn write_files(authority: &Authority, dir: &Path) -> anyhow::Result<DevFiles> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, authority.ca_pem()).with_context(|| format!("write {}", ca.display()))?;
    let (device_cert, device_key) = authority.issue_client("device")?.write(dir, "device")?;
    let (monitor_cert, monitor_key) = authority.issue_client("monitor")?.write(dir, "monitor")?;
    Ok(DevFiles { ca, device_cert, device_key, monitor_cert, monitor_key })
}
