//! From a URL to an accepted connection: DNS, TCP, TLS, CONNECT, CONNACK, all within
//! one time limit.

use std::{cell::Cell, fmt, io, net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    LinkSettings,
    codec::{Codec, ConnAck, Connect, Inbound},
    error::LinkError,
    tls,
    wire::{Stream, Turn, Wire},
};

/// The broker has accepted it.
#[derive(Debug)]
pub(super) struct Connection {
    /// Bytes.
    pub wire: Wire,
    /// Packets.
    pub codec: Codec,
    /// What the broker allows.
    pub connack: ConnAck,
    /// For people.
    pub info: ConnectionInfo,
}

/// What is worth knowing about a connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionInfo {
    /// Where to.
    pub url: String,
    /// `None` without TLS.
    pub tls: Option<TlsInfo>,
    /// The MQTT version.
    pub version: super::codec::Version,
    /// The client id in force.
    pub client_id: String,
    /// The broker still knew the session.
    pub session_present: bool,
}

/// What was agreed in the TLS handshake.
#[derive(Debug, Clone)]
pub(super) struct TlsInfo {
    /// For instance `TLSv1_3`.
    pub version: String,
    /// For instance `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The ALPN name, if the server picked one.
    pub alpn: Option<String>,
    /// The names offered.
    pub offered: String,
}

/// The most QoS 1 arrivals the broker may leave unacknowledged; MQTT 5 announces it.
pub(super) const RECEIVE_MAXIMUM: u16 = 100;

/// Makes one attempt.
pub(super) async fn connect(settings: &LinkSettings) -> Result<Connection, LinkError> {
    let step = Cell::new("the name's address (DNS)");
    let limit = settings.connect_timeout;
    let connected = timeout(limit, attempt(settings, &step)).await;
    connected.unwrap_or_else(|_| Err(LinkError::TimedOut { during: step.get(), limit }))
}

async fn attempt(settings: &LinkSettings, step: &Cell<&'static str>) -> Result<Connection, LinkError> {
    let tcp = dial(settings, step).await?;
    let (stream, tls): (Box<dyn Stream>, _) = if settings.url.is_tls() {
        step.set("the TLS handshake");
        let (stream, info) = handshake(settings, tcp).await?;
        (stream, Some(info))
    } else {
        (Box::new(tcp), None)
    };
    step.set("the broker's CONNACK");
    greet(settings, Wire::new(stream), tls).await
}

async fn dial(settings: &LinkSettings, step: &Cell<&'static str>) -> Result<TcpStream, LinkError> {
    let (host, port) = (settings.url.host(), settings.url.port());
    let dns = |cause| LinkError::Dns { host: host.to_owned(), cause };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(dns)?.collect();
    step.set("a TCP connection");
    let to = format!("{host}:{port}");
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        // An address that never answers must leave time for the next one.
        let patience = settings.connect_timeout / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX) * 9 / 10;
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Nagle's algorithm and delayed acknowledgements cost 8 ms at QoS 1.
                stream.set_nodelay(true).map_err(|cause| LinkError::Tcp { to, cause })?;
                return Ok(stream);
            }
            Ok(Err(cause)) => failure = cause,
            Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(LinkError::Tcp { to, cause: failure })
}

async fn handshake(settings: &LinkSettings, tcp: TcpStream) -> Result<(Box<dyn Stream>, TlsInfo), LinkError> {
    let config = tls::client_config(&settings.tls).map_err(LinkError::Files)?;
    let host = settings.url.host();
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| LinkError::Tls(format!("`{host}` is not a name a certificate can be for")))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let stream = stream.map_err(|cause| match broken(settings, cause) {
        LinkError::Broken(cause) => LinkError::Tls(format!(
            "the server closed the connection during the TLS handshake ({cause}); offered ALPN: {}",
            tls::offered(&settings.tls)
        )),
        LinkError::Closed => LinkError::Tls(format!(
            "the server closed the connection during the TLS handshake; offered ALPN: {}",
            tls::offered(&settings.tls)
        )),
        error => error,
    })?;
    let (_, agreed) = stream.get_ref();
    let info = TlsInfo {
        version: agreed.protocol_version().map_or_else(String::new, |version| format!("{version:?}")),
        cipher: agreed.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        alpn: agreed.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        offered: tls::offered(&settings.tls),
    };
    Ok((Box::new(stream), info))
}

async fn greet(settings: &LinkSettings, mut wire: Wire, tls: Option<TlsInfo>) -> Result<Connection, LinkError> {
    let mut codec = Codec::new(settings.protocol, settings.largest_packet());
    let connect = Connect {
        client_id: settings.client_id.clone(),
        keep_alive: settings.keep_alive,
        session_expiry: settings.session_expiry,
        username: settings.username.clone(),
        password: settings.password.clone(),
        receive_maximum: RECEIVE_MAXIMUM,
        max_packet: settings.largest_packet(),
    };
    codec.connect(&connect, &mut wire.outbound).map_err(|error| LinkError::NotMqtt(format!("CONNECT: {error}")))?;
    let inbound = loop {
        let turn = wire.turn().await.map_err(|cause| match broken(settings, cause) {
            LinkError::Closed | LinkError::Broken(_) => LinkError::ClosedUnanswered,
            error => error,
        });
        match turn? {
            Turn::Read => {
                not_http(&wire.inbound, tls.as_ref())?;
                if let Some(inbound) = codec.decode(&mut wire.inbound)? {
                    break inbound;
                }
            }
            Turn::Written => {}
            Turn::Closed => return Err(LinkError::ClosedUnanswered),
        }
    };
    let connack = match inbound {
        Inbound::ConnAck(Ok(connack)) => connack,
        Inbound::ConnAck(Err(refusal)) => return Err(LinkError::Refused(refusal)),
        Inbound::Disconnect(refusal) => return Err(LinkError::Disconnected(refusal)),
        other => {
            return Err(LinkError::NotMqtt(format!("expected CONNACK, got {other:?}")));
        }
    };
    if let Some(max) = connack.max_packet {
        codec.limit_outbound(max);
    }
    let info = ConnectionInfo {
        url: settings.url.to_string(),
        tls,
        version: settings.protocol,
        client_id: connack.client_id.clone().unwrap_or_else(|| settings.client_id.clone()),
        session_present: connack.session_present,
    };
    Ok(Connection { wire, codec, connack, info })
}

/// A port that routes by ALPN (AWS IoT Core's 443, a company's front) hands whoever
/// offers the wrong name, or none, to a web server, which answers as such.
fn not_http(inbound: &[u8], tls: Option<&TlsInfo>) -> Result<(), LinkError> {
    if !inbound.starts_with(b"HTTP/") {
        return Ok(());
    }
    let line = String::from_utf8_lossy(inbound.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let offered = tls.map_or("none", |tls| tls.offered.as_str());
    Err(LinkError::NotMqtt(format!(
        "a web server answered (\"{line}\"); ALPN offered: {offered}. A port shared with HTTPS wants the right name, on AWS IoT Core `x-amzn-mqtt-ca`: set `alpn`"
    )))
}

/// An error of the stream; TLS alerts that come late (a refused client certificate at
/// TLS 1.3) are in it.
pub(super) fn broken(settings: &LinkSettings, cause: io::Error) -> LinkError {
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(error) => LinkError::Tls(tls::explain(error, settings.url.host(), &settings.tls)),
        // A peer that closes TCP without closing TLS first.
        None if cause.kind() == io::ErrorKind::UnexpectedEof => LinkError::Closed,
        None => LinkError::Broken(cause),
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.url)?;
        match &self.tls {
            None => f.write_str("no TLS")?,
            Some(tls) => {
                write!(f, "{} {}, ", tls.version.replace('_', "."), tls.cipher)?;
                match &tls.alpn {
                    Some(name) => write!(f, "ALPN {name}")?,
                    None => write!(f, "ALPN none agreed (offered: {})", tls.offered)?,
                }
            }
        }
        let session = if self.session_present { "present" } else { "new" };
        write!(f, ", MQTT {}, client id {}, session {session}", self.version, self.client_id)
    }
}
