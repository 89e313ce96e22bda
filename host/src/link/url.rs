//! Where a broker is: `mqtts://host:port`, or `wss://host:port/path`.

use std::{fmt, str::FromStr};

use tokio_tungstenite::tungstenite::http::uri::PathAndQuery;
use url::Url;

/// A checked URL of a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Of a WebSocket.
    path: Option<PathAndQuery>,
}

/// How MQTT travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

/// Why a URL names no broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("`{0}` is not a URL ({1}); a broker's looks like mqtts://host:443")]
    Syntax(String, url::ParseError),
    /// Another scheme.
    #[error(
        "`{0}://` is not supported: use mqtts:// (TLS), wss:// (WebSocket over TLS), or for local brokers mqtt:// or ws://"
    )]
    Scheme(String),
    /// No host.
    #[error("`{0}` names no host; a broker's URL looks like mqtts://host:443")]
    Host(String),
    /// Something after the port, or a login before the host.
    #[error(
        "`{0}` contains more than host and port; user name and password have keys of their own, and only wss:// and ws:// have a path"
    )]
    More(String),
    /// A path that no web server can be asked for.
    #[error("the path of `{0}` can't be used: a WebSocket's URL looks like wss://host/mqtt")]
    Path(String),
}

/// Where brokers have their WebSocket unless told otherwise.
const USUAL_PATH: &str = "/mqtt";

impl BrokerUrl {
    /// The connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Mqtts | Scheme::Wss)
    }

    /// What to ask the web server for, if MQTT travels over WebSocket; its query may be secret.
    pub fn websocket(&self) -> Option<&PathAndQuery> {
        self.path.as_ref()
    }

    /// The name to connect to, sent as SNI, and checked against the certificate.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; unless given 8883 and with WebSocket 443, without TLS 1883 and 80.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        bracketed(&self.host, Some(self.port))
    }

    /// What a web server expects as its name: the port only where it is not the usual one.
    pub fn web_host(&self) -> String {
        bracketed(&self.host, Some(self.port).filter(|port| *port != self.scheme.usual_port()))
    }
}

impl Scheme {
    fn usual_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|cause| UrlError::Syntax(presentable(text), cause))?;
        let scheme = match url.scheme() {
            "mqtts" => Scheme::Mqtts,
            "mqtt" => Scheme::Mqtt,
            "wss" => Scheme::Wss,
            "ws" => Scheme::Ws,
            other => return Err(UrlError::Scheme(other.into())),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| UrlError::Host(presentable(text)))?;
        let shown = || format!("{}://{host}…", url.scheme());
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(UrlError::More(shown()));
        }
        let path = match scheme {
            Scheme::Ws | Scheme::Wss => {
                // The library makes `/` of no path; who writes it means it.
                let written = text.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
                let path = if url.path() == "/" && !written { USUAL_PATH } else { url.path() };
                let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
                Some(format!("{path}{query}").parse().map_err(|_| UrlError::Path(shown()))?)
            }
            Scheme::Mqtt | Scheme::Mqtts => {
                if !matches!(url.path(), "" | "/") || url.query().is_some() {
                    return Err(UrlError::More(shown()));
                }
                None
            }
        };
        // An IPv6 address is bracketed in a URL and bare everywhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { scheme, host, port: url.port().unwrap_or(scheme.usual_port()), path })
    }
}

/// `host:port` as URLs and HTTP have it.
pub(super) fn bracketed(host: &str, port: Option<u16>) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// A text that is no URL, without what could be a password or a token in it.
fn presentable(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        (None, Some((_, host))) => format!("…@{host}"),
        (_, None) => text.to_owned(),
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        };
        write!(f, "{scheme}://{}", self.authority())?;
        match &self.path {
            None => Ok(()),
            Some(path) if path.query().is_none() => f.write_str(path.path()),
            Some(path) => write!(f, "{}?…", path.path()),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_put_together() {
        for (text, shown) in [
            ("mqtts://a.example:443", "mqtts://a.example:443"),
            ("mqtts://a.example", "mqtts://a.example:8883"),
            ("mqtt://127.0.0.1/", "mqtt://127.0.0.1:1883"),
            ("mqtts://[::1]:443", "mqtts://[::1]:443"),
            ("wss://a.example", "wss://a.example:443/mqtt"),
            ("wss://a.example:443", "wss://a.example:443/mqtt"),
            ("wss://a.example/", "wss://a.example:443/"),
            ("ws://a.example:9001/ws/mqtt", "ws://a.example:9001/ws/mqtt"),
            ("ws://[::1]", "ws://[::1]:80/mqtt"),
            ("wss://a.example?token=secret", "wss://a.example:443/mqtt?…"),
        ] {
            assert_eq!(text.parse::<BrokerUrl>().unwrap().to_string(), shown);
        }
        assert_eq!("mqtts://[::1]:443".parse::<BrokerUrl>().unwrap().host(), "::1");
    }

    #[test]
    fn a_query_is_asked_for_and_not_shown() {
        let url: BrokerUrl = "wss://a.example/mqtt?token=secret".parse().unwrap();
        assert_eq!(url.websocket().unwrap().as_str(), "/mqtt?token=secret");
        assert!(!format!("{url} {url:?}").contains("secret"));
    }

    #[test]
    fn a_web_server_is_told_its_port_only_where_it_is_unusual() {
        for (text, host) in [
            ("wss://a.example", "a.example"),
            ("wss://a.example:8443", "a.example:8443"),
            ("ws://[::1]:80", "[::1]"),
            ("ws://a.example:443", "a.example:443"),
        ] {
            assert_eq!(text.parse::<BrokerUrl>().unwrap().web_host(), host);
        }
    }

    #[test]
    fn what_is_no_brokers_url_is_refused_and_secrets_are_not_repeated() {
        for (text, expected) in [
            ("a.example:443", "not supported"),
            ("https://a.example", "not supported"),
            ("mqtts://", "names no host"),
            ("wss://", "not a URL"),
            ("nonsense", "not a URL"),
            ("mqtts://u:secret@a.example", "keys of their own"),
            ("wss://u:secret@a.example/mqtt", "keys of their own"),
            ("mqtts://u:secret@a.example:x", "not a URL"),
            ("wss://a.example:x/mqtt?token=secret", "not a URL"),
            ("mqtts://a.example/path", "more than host"),
            ("mqtts://a.example?token=secret", "more than host"),
            ("wss://a.example/mqtt#secret", "more than host"),
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
