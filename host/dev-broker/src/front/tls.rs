//! The TLS side: which handshakes are answered, and how they are refused.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::FrontConfig;
use super::records::{ConnectionRecord, Records};

/// A TLS record with the fatal alert `no_application_protocol` (RFC 7301, section 3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// How long the peer may take to read our last words.
const LINGER: Duration = Duration::from_secs(1);

/// Versions of TLS that the front speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// TLS 1.2 and 1.3.
    #[default]
    Both,
    /// TLS 1.2 alone.
    Only12,
    /// TLS 1.3 alone.
    Only13,
}

impl TlsVersions {
    fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
        static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::Both => rustls::ALL_VERSIONS,
            Self::Only12 => TLS12,
            Self::Only13 => TLS13,
        }
    }
}

/// Answers handshakes.
#[derive(Debug)]
pub(crate) struct Terminator {
    config: Arc<ServerConfig>,
    require_alpn: bool,
}

impl Terminator {
    pub(crate) fn new(config: &FrontConfig) -> anyhow::Result<Self> {
        // The process-wide provider may be another one, or none.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(config.versions.supported())?;
        let builder = match &config.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).context("read the client authority")? {
                    roots.add(certificate).context("trust the client authority")?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .context("trust the client authority")?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates(&config.identity.cert_pem).context("read the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(config.identity.key_pem.as_bytes()).context("read the private key")?;
        let mut server = builder.with_single_cert(chain, key)?;
        server.alpn_protocols.clone_from(&config.alpn);
        server.max_fragment_size = config.max_fragment;
        // Without resumption each handshake is complete, and each record says what the client
        // presented this time.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(server), require_alpn: config.require_alpn })
    }

    /// Takes a handshake to its end and notes what it was about.
    pub(crate) async fn accept<IO>(&self, tcp: IO, records: &Records, id: u64) -> anyhow::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.context("no ClientHello")?;
        let hello = start.client_hello();
        let without_alpn = hello.alpn().is_none();
        records.update(id, |record| note_hello(record, &hello));
        if without_alpn && self.require_alpn {
            // rustls would go on without a protocol.
            start.io.write_all(&NO_APPLICATION_PROTOCOL).await?;
            end_in_order(&mut start.io).await;
            anyhow::bail!("the client offered no ALPN protocol");
        }
        let accepted = start.into_stream(Arc::clone(&self.config)).into_fallible();
        match accepted.await {
            Ok(tls) => {
                records.update(id, |record| note_agreement(record, tls.get_ref().1));
                Ok(tls)
            }
            Err((error, tcp)) => {
                end_in_order(tcp).await;
                Err(error).context("TLS handshake")
            }
        }
    }
}

/// Ends our direction, then reads until the peer ends its own. Closing with unread bytes would
/// reset the connection and could destroy an alert before the peer has read it: in TLS 1.3 a
/// client sends its first request before it can know that its certificate is refused.
pub(super) async fn end_in_order(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let goodbye = async {
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the peer was still there makes no difference any more.
    let _ = tokio::time::timeout(LINGER, goodbye).await;
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
    anyhow::ensure!(!certificates.is_empty(), "there is no certificate in the PEM");
    Ok(certificates)
}

fn note_hello(record: &mut ConnectionRecord, hello: &ClientHello<'_>) {
    record.server_name = hello.server_name().map(str::to_owned);
    record.alpn_offered = hello.alpn().map(|offered| offered.map(<[u8]>::to_vec).collect());
}

fn note_agreement(record: &mut ConnectionRecord, session: &rustls::ServerConnection) {
    record.alpn_agreed = session.alpn_protocol().map(<[u8]>::to_vec);
    record.client_certificate =
        session.peer_certificates().and_then(|chain| chain.first()).map(|certificate| certificate.clone().into_owned());
    record.tls_version = session.protocol_version();
}
