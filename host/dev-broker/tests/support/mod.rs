//! What the tests share: deadlines, TLS clients and a minimal MQTT client.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod mqtt;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alphorn_dev_broker::{Authority, Identity};
use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Tls = TlsStream<TcpStream>;

/// Far beyond what any step takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Fails instead of waiting forever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(DEADLINE, future).await.with_context(|| format!("{what}: not within {DEADLINE:?}"))
}

/// A TLS client before it connects.
pub(crate) struct Client<'a> {
    /// Who must have issued the server's certificate.
    pub(crate) ca_pem: String,
    pub(crate) identity: Option<&'a Identity>,
    /// Protocols it offers; none leaves the extension away.
    pub(crate) alpn: &'a [&'a [u8]],
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) server_name: &'a str,
}

impl<'a> Client<'a> {
    pub(crate) fn new(authority: &'a Authority) -> Self {
        Self::trusting(authority.ca_pem())
    }

    pub(crate) fn trusting(ca_pem: String) -> Self {
        Self { ca_pem, identity: None, alpn: &[], versions: rustls::ALL_VERSIONS, server_name: "localhost" }
    }

    /// Connects and completes the handshake, as far as the client can tell: in TLS 1.3 a
    /// refused certificate shows in the first read.
    pub(crate) async fn connect(&self, addr: impl ToSocketAddrs) -> anyhow::Result<Tls> {
        let connect = async {
            let tcp = TcpStream::connect(addr).await?;
            let name = ServerName::try_from(self.server_name.to_owned())?;
            let connector = TlsConnector::from(Arc::new(self.config()?));
            anyhow::Ok(connector.connect(name, tcp).await?)
        };
        soon("connect", connect).await?
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)?
            .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain =
                    CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}
