//! The bytes below a scripted broker: plain, or TLS that demands what AWS IoT demands.

use std::{io, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{Acceptor, ClientHello, WebPkiClientVerifier},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use super::super::{Context as _, Result};

/// A fatal alert before anything is encrypted: handshake_failure.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// What the server side of TLS shows and demands.
pub(crate) struct Tls {
    /// Certificates and key of the server, PEM.
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    /// Who must have issued the client's certificate, PEM; `None` asks for none.
    pub(crate) client_ca: Option<String>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) versions: Vec<&'static rustls::SupportedProtocolVersion>,
    /// The largest record it sends, header included, in bytes.
    pub(crate) max_fragment: Option<usize>,
}

impl Tls {
    pub(super) fn config(&self) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&self.versions)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate?)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?)?;
        config.alpn_protocols.clone_from(&self.alpn);
        config.max_fragment_size = self.max_fragment;
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// What a ClientHello offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Vec<Vec<u8>>,
    /// The numbers of the cipher suites, in the client's order.
    pub(crate) suites: Vec<u16>,
}

impl Offer {
    fn of(hello: &ClientHello<'_>) -> Self {
        Self {
            server_name: hello.server_name().map(str::to_owned),
            alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
            suites: hello.cipher_suites().iter().map(|suite| u16::from(*suite)).collect(),
        }
    }
}

/// One connection, at whatever stage it is.
pub(super) enum Stream {
    Tcp(TcpStream),
    /// The ClientHello has come and is not answered.
    Asked(Box<StartHandshake<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    /// It ended itself.
    Gone,
}

impl Stream {
    /// Waits for the ClientHello.
    pub(super) async fn hello(&mut self) -> Result<Offer> {
        let Self::Tcp(tcp) = std::mem::replace(self, Self::Gone) else { anyhow::bail!("not at the start") };
        let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.context("no ClientHello")?;
        let offer = Offer::of(&start.client_hello());
        *self = Self::Asked(Box::new(start));
        Ok(offer)
    }

    /// Answers the ClientHello. In TLS 1.3 the client's certificate is checked by now, too.
    pub(super) async fn shake(&mut self, config: Arc<ServerConfig>) -> Result<()> {
        let Self::Asked(start) = std::mem::replace(self, Self::Gone) else { anyhow::bail!("no ClientHello") };
        *self = Self::Tls(Box::new(start.into_stream(config).await.context("TLS handshake")?));
        Ok(())
    }

    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read_buf(buffer).await,
            Self::Tls(tls) => tls.read_buf(buffer).await,
            Self::Asked(_) | Self::Gone => Ok(0),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
            _ => self.tcp().ok_or(io::ErrorKind::NotConnected)?.write_all(bytes).await,
        }
    }

    /// Ends our direction in order: `close_notify` where there is TLS, then FIN.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(tls) => tls.shutdown().await,
            _ => self.tcp().ok_or(io::ErrorKind::NotConnected)?.shutdown().await,
        }
    }

    /// Makes the drop of the connection a RST.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.tcp().ok_or(io::ErrorKind::NotConnected)?.set_zero_linger()
    }

    /// A fatal alert, then FIN.
    pub(super) async fn alert(&mut self) -> io::Result<()> {
        if let Self::Tls(tls) = self {
            let (tcp, session) = tls.get_mut();
            // What can't be decrypted makes it say so to the peer, encrypted as is due.
            let nonsense = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
            session.read_tls(&mut nonsense.as_slice())?;
            let _refused = session.process_new_packets();
            let mut alert = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut alert)?;
            }
            tcp.write_all(&alert).await?;
            return tcp.shutdown().await;
        }
        let tcp = self.tcp().ok_or(io::ErrorKind::NotConnected)?;
        tcp.write_all(&HANDSHAKE_FAILURE).await?;
        tcp.shutdown().await
    }

    /// Reads until the peer has ended its direction, and forgets what comes.
    pub(super) async fn discard(&mut self) {
        let mut rest = [0; 4096];
        while let Some(tcp) = self.tcp()
            && tcp.read(&mut rest).await.is_ok_and(|count| count > 0)
        {}
    }

    fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Asked(start) => Some(&mut start.io),
            Self::Tls(tls) => Some(tls.get_mut().0),
            Self::Gone => None,
        }
    }
}
