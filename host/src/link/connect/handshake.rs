//! TLS over what carries it, and what was agreed.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::broken;
use crate::link::{
    LinkSettings,
    error::LinkError,
    tls::{self, ServerChain, TlsFailure, TlsPart},
};

/// What was agreed in the TLS handshake.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    /// For instance `TLSv1_3`.
    pub version: String,
    /// For instance `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The ALPN name, if the server picked one.
    pub alpn: Option<String>,
    /// The names offered.
    pub offered: String,
    /// The server's certificate and what it sent above it, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// The time that certificates were checked against, if it is not the system's clock.
    pub checked_at: Option<SystemTime>,
}

/// rustls alone asks the socket for some 4 KiB at a time; this is as much as a TLS record carries.
const READ: usize = 16 * 1024;

/// How long a server may take to read our last words after a failed handshake.
const LINGER: Duration = Duration::from_secs(1);

pub(super) async fn handshake(
    settings: &LinkSettings,
    tcp: TcpStream,
) -> Result<(TlsStream<BufReader<TcpStream>>, TlsInfo), LinkError> {
    let checked_at = settings.tls.not_before.filter(|not_before| *not_before > SystemTime::now());
    let (config, server_chain) = tls::witnessed(&settings.tls).map_err(LinkError::Files)?;
    let host = settings.url.host();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        let cause = format!("`{host}` is not a name a certificate can be for");
        LinkError::Tls(TlsFailure::new(TlsPart::ServerCertificate, cause, "check the host in `url`"))
    })?;
    let stream = match TlsConnector::from(Arc::new(config))
        .connect(name, BufReader::with_capacity(READ, tcp))
        .into_fallible()
        .await
    {
        Ok(stream) => stream,
        Err((cause, tcp)) => {
            end_in_order(tcp.into_inner());
            return Err(explain(settings, cause, &server_chain));
        }
    };
    let (_, agreed) = stream.get_ref();
    let info = TlsInfo {
        version: agreed.protocol_version().map_or_else(String::new, |version| format!("{version:?}")),
        cipher: agreed.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        alpn: agreed.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        offered: tls::offered(&settings.tls),
        chain: agreed.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
        checked_at,
    };
    Ok((stream, info))
}

fn explain(settings: &LinkSettings, cause: io::Error, server_chain: &ServerChain) -> LinkError {
    let failure = match broken(settings, cause) {
        LinkError::Tls(failure) => failure,
        LinkError::Broken(cause) => TlsFailure::closed(Some(&cause), &settings.tls),
        LinkError::Closed => TlsFailure::closed(None, &settings.tls),
        error => return error,
    };
    let server_chain = server_chain.get().cloned().unwrap_or_default();
    let is_version_1 = server_chain.first().is_some_and(|own| tls::is_version_1(own));
    let failure = match failure.part {
        TlsPart::ServerCertificate if is_version_1 => TlsFailure::server_of_version_1(),
        _ => failure,
    };
    LinkError::Tls(TlsFailure { server_chain, ..failure })
}

/// Ends our direction and reads until the server ends its own. rustls has written the
/// alert by now, but to close with unread bytes is to reset the connection, which would
/// destroy the alert before the server has read it.
fn end_in_order(mut tcp: TcpStream) {
    tokio::spawn(timeout(LINGER, async move {
        let mut ignored = [0; 1024];
        // Whether the server is still there makes no difference any more.
        if tcp.shutdown().await.is_ok() {
            while tcp.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
        }
    }));
}
