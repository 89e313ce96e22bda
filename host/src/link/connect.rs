//! From a URL to an accepted connection: DNS, TCP, proxy, TLS, WebSocket, CONNECT and
//! CONNACK, all within one time limit.
//!
//! Each stage has a room of its own. An observer hears of every stage that succeeded;
//! the error that ends an attempt knows its own ([`LinkError::stage`]).

mod dial;
mod greet;
mod handshake;
mod http;
mod proxy;
mod websocket;

use std::{cell::Cell, fmt, io, net::SocketAddr};

use tokio::{net::TcpStream, time::timeout};

use self::{
    dial::DialError,
    websocket::{Goodbye, NoUpgrade},
};
pub use self::{handshake::TlsInfo, proxy::ProxyRefusal, websocket::UpgradeRefusal};
use super::{
    LinkSettings,
    codec::{Codec, ConnAck, Version},
    error::{LinkError, Tried},
    proxy::Proxy,
    tls::TlsFailure,
    wire::{Stream, Wire},
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
    /// By which proxy.
    pub proxy: Option<String>,
    /// `None` without TLS.
    pub tls: Option<TlsInfo>,
    /// The MQTT version.
    pub version: Version,
    /// The client id in force.
    pub client_id: String,
    /// The broker still knew the session.
    pub session_present: bool,
}

/// A stage of an attempt that succeeded, in the order in which they come.
#[derive(Debug, Clone)]
pub enum Step {
    /// The name has these addresses; with a proxy it is the proxy's name.
    Resolved(Vec<SocketAddr>),
    /// This one, of the broker or the proxy, takes a TCP connection.
    Tcp(SocketAddr),
    /// The proxy of this name has opened a way to the broker.
    Proxied(String),
    /// TLS stands, and the server is the one it should be.
    Tls(TlsInfo),
    /// The server speaks WebSocket now.
    Upgraded,
    /// The broker has accepted the connection.
    Accepted(ConnAck),
}

/// What an attempt is doing, or was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking up the name.
    Name,
    /// Opening a TCP connection.
    Tcp,
    /// Looking up the proxy, connecting to it and asking it for a way to the broker.
    Proxy,
    /// Reading the files that TLS needs, and the handshake.
    Tls,
    /// Asking the web server for a WebSocket.
    WebSocket,
    /// CONNECT is sent, CONNACK is not there.
    ConnAck,
}

/// Hears of each step.
pub type Observer<'a> = &'a mut (dyn FnMut(Step) + Send);

/// Makes one attempt.
pub(super) async fn connect(settings: &LinkSettings, observer: Observer<'_>) -> Result<Connection, LinkError> {
    let stage = Cell::new(Stage::Name);
    let limit = settings.connect_timeout;
    let connected = timeout(limit, attempt(settings, &stage, observer)).await;
    connected.unwrap_or_else(|_| Err(LinkError::TimedOut { during: stage.get(), limit, tried: Tried::with(settings) }))
}

async fn attempt(
    settings: &LinkSettings,
    stage: &Cell<Stage>,
    observer: Observer<'_>,
) -> Result<Connection, LinkError> {
    let tcp = reach(settings, stage, observer).await?;
    let mut agreed = None;
    let stream: Box<dyn Stream> = if settings.url.is_tls() {
        stage.set(Stage::Tls);
        let (stream, info) = handshake::handshake(settings, tcp).await?;
        observer(Step::Tls(info.clone()));
        agreed = Some(info);
        Box::new(stream)
    } else {
        Box::new(tcp)
    };
    let stream = upgrade(settings, stream, stage, observer).await?;
    stage.set(Stage::ConnAck);
    let connection = greet::greet(settings, Wire::new(stream), agreed).await?;
    observer(Step::Accepted(connection.connack.clone()));
    Ok(connection)
}

/// TCP to the broker, by the proxy if there is one.
async fn reach(settings: &LinkSettings, stage: &Cell<Stage>, observer: Observer<'_>) -> Result<TcpStream, LinkError> {
    let (host, port) = match &settings.proxy {
        // It looks the broker's name up itself.
        Some(proxy) => (proxy.host(), proxy.port()),
        None => (settings.url.host(), settings.url.port()),
    };
    let refused = |proxy: &Proxy, refusal| LinkError::Proxy { proxy: proxy.to_string(), refusal };
    let failed = |error| match (error, &settings.proxy) {
        (DialError::Dns(cause), Some(proxy)) => refused(proxy, ProxyRefusal::Dns(cause)),
        (DialError::Tcp(cause), Some(proxy)) => refused(proxy, ProxyRefusal::Tcp(cause)),
        (DialError::Dns(cause), None) => LinkError::Dns { host: host.to_owned(), cause },
        (DialError::Tcp(cause), None) => LinkError::Tcp { to: settings.url.authority(), cause },
    };
    let proxied = settings.proxy.is_some();
    stage.set(if proxied { Stage::Proxy } else { Stage::Name });
    let addresses = dial::resolve(host, port).await.map_err(failed)?;
    observer(Step::Resolved(addresses.clone()));
    stage.set(if proxied { Stage::Proxy } else { Stage::Tcp });
    let (mut tcp, address) = dial::dial(&addresses, settings.connect_timeout).await.map_err(failed)?;
    observer(Step::Tcp(address));
    if let Some(proxy) = &settings.proxy {
        let opened = proxy::open(&mut tcp, proxy, &settings.url.authority()).await;
        opened.map_err(|refusal| refused(proxy, refusal))?;
        observer(Step::Proxied(proxy.to_string()));
    }
    Ok(tcp)
}

/// A WebSocket over the stream where the URL wants one, else the stream itself.
async fn upgrade(
    settings: &LinkSettings,
    stream: Box<dyn Stream>,
    stage: &Cell<Stage>,
    observer: Observer<'_>,
) -> Result<Box<dyn Stream>, LinkError> {
    /// Servers may put many packets into a frame.
    const FRAME: usize = 1024 * 1024;
    let Some(path) = settings.url.websocket() else { return Ok(stream) };
    stage.set(Stage::WebSocket);
    let longest = usize::try_from(settings.largest_packet()).unwrap_or(usize::MAX).max(FRAME);
    let upgraded = websocket::upgrade(stream, &settings.url.web_host(), path, &settings.headers, longest).await;
    let stream = upgraded.map_err(|failed| match failed {
        NoUpgrade::Refused(refusal) => LinkError::Upgrade(refusal),
        NoUpgrade::Broken(cause) => match broken(settings, cause) {
            LinkError::Broken(_) | LinkError::Closed => LinkError::Upgrade(UpgradeRefusal::Closed),
            error => error,
        },
    })?;
    observer(Step::Upgraded);
    Ok(Box::new(stream))
}

/// An error of the stream; TLS alerts that come late (a refused client certificate at
/// TLS 1.3) are in it.
pub(super) fn broken(settings: &LinkSettings, cause: io::Error) -> LinkError {
    if let Some(said) = cause.get_ref().and_then(|inner| inner.downcast_ref::<Goodbye>()) {
        return LinkError::Goodbye(said.to_string());
    }
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(error) => LinkError::Tls(TlsFailure::explain(error, settings.url.host(), &settings.tls)),
        // A peer that closes TCP without closing TLS first.
        None if cause.kind() == io::ErrorKind::UnexpectedEof => LinkError::Closed,
        None => LinkError::Broken(cause),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved(addresses) => write!(f, "the name has the addresses {addresses:?}"),
            Self::Tcp(address) => write!(f, "TCP to {address}"),
            Self::Proxied(proxy) => write!(f, "the proxy {proxy} has opened a way"),
            Self::Tls(info) => write!(f, "{} {}", info.version, info.cipher),
            Self::Upgraded => f.write_str("the server speaks WebSocket"),
            Self::Accepted(connack) => write!(f, "{connack:?}"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the name's address (DNS)",
            Self::Tcp => "a TCP connection",
            Self::Proxy => "the proxy's answer",
            Self::Tls => "the TLS handshake",
            Self::WebSocket => "the WebSocket upgrade",
            Self::ConnAck => "the broker's CONNACK",
        })
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.url)?;
        if let Some(proxy) = &self.proxy {
            write!(f, "by the proxy {proxy}, ")?;
        }
        match &self.tls {
            None => f.write_str("no TLS")?,
            Some(tls) => {
                write!(f, "{} {}, ", tls.version.replace('_', "."), tls.cipher)?;
                match &tls.alpn {
                    Some(name) => write!(f, "ALPN {name}")?,
                    None => write!(f, "ALPN none agreed (offered: {})", tls.offered)?,
                }
                if let Some(time) = tls.checked_at {
                    let time = humantime::format_rfc3339_seconds(time);
                    write!(f, ", certificates checked as of {time} since the clock is behind that")?;
                }
            }
        }
        let session = if self.session_present { "present" } else { "new" };
        write!(f, ", MQTT {}, client id {}, session {session}", self.version, self.client_id)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        path::Path,
        time::{Duration, SystemTime},
    };

    use alphorn_dev_broker::{Authority, Front, FrontConfig, Profile};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::config::{Config, Overrides};

    /// Takes any CONNECT, behind a front with this certificate.
    async fn front(profile: &Profile, folder: &Path) -> Front {
        let authority = Authority::new("the tests' authority").unwrap();
        std::fs::write(folder.join("ca.pem"), authority.ca_pem()).unwrap();
        let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = broker.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = broker.accept().await {
                let mut received = [0; 1024];
                if client.read(&mut received).await.is_ok() && client.write_all(&[0x20, 3, 0, 0, 0]).await.is_ok() {
                    while client.read(&mut received).await.is_ok_and(|count| count > 0) {}
                }
            }
        });
        Front::start(addr, FrontConfig::new(authority.issue(profile).unwrap())).await.unwrap()
    }

    fn settings(front: &Front, folder: &Path) -> LinkSettings {
        let port = front.addr().port();
        let text = format!("[link]\nurl = \"mqtts://localhost:{port}\"\nclient_id = \"a\"\nca = \"ca.pem\"");
        Config::parse(&text, folder, std::iter::empty(), &Overrides::default()).unwrap().link
    }

    async fn steps(settings: &LinkSettings) -> (Vec<Step>, Result<(), LinkError>) {
        let mut steps = Vec::new();
        let result = connect(settings, &mut |step| steps.push(step)).await;
        (steps, result.map(drop))
    }

    #[tokio::test]
    async fn an_observer_hears_of_each_step_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let front = front(&Profile::server(&["localhost"]), folder.path()).await;
        let mut settings = settings(&front, folder.path());
        let (steps_of_success, result) = steps(&settings).await;
        result.unwrap();
        let [Step::Resolved(addresses), Step::Tcp(address), Step::Tls(tls), Step::Accepted(connack)] =
            &steps_of_success[..]
        else {
            panic!("{steps_of_success:?}")
        };
        assert_eq!((addresses.contains(address), *address), (true, front.addr()));
        assert_eq!((tls.chain.len(), tls.checked_at, connack.session_present), (1, None, false));

        std::fs::write(folder.path().join("other.pem"), Authority::new("somebody else").unwrap().ca_pem()).unwrap();
        settings.tls.ca = Some(folder.path().join("other.pem"));
        let (steps_of_failure, result) = steps(&settings).await;
        assert_eq!((steps_of_failure.len(), result.unwrap_err().stage()), (2, Some(Stage::Tls)));
    }

    #[tokio::test]
    async fn certificates_are_checked_against_a_later_time_where_the_clock_is_behind() {
        const DAY: Duration = Duration::from_secs(86_400);
        let folder = tempfile::tempdir().unwrap();
        let front = front(&Profile::server(&["localhost"]).not_yet_valid(), folder.path()).await;
        let mut settings = settings(&front, folder.path());
        for not_before in [None, Some(SystemTime::now() - 2 * DAY)] {
            settings.tls.not_before = not_before;
            let (_, result) = steps(&settings).await;
            assert!(result.unwrap_err().to_string().contains("is not valid yet"));
        }
        let later = SystemTime::now() + 2 * DAY;
        settings.tls.not_before = Some(later);
        let connection = connect(&settings, &mut |_| {}).await.unwrap();
        let shown = connection.info.to_string();
        let time = humantime::format_rfc3339_seconds(later).to_string();
        assert!(shown.contains(&format!("checked as of {time} since the clock is behind")), "{shown}");
    }
}
