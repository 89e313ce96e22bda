//! Where a broker is: `mqtts://host:port`.

use std::{fmt, str::FromStr};

use url::Url;

/// A checked URL of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
}

/// Why a URL names no broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("`{0}` is not a URL ({1}); a broker's looks like mqtts://host:443")]
    Syntax(String, url::ParseError),
    /// Another scheme.
    #[error("`{0}://` is not supported: use mqtts:// (TLS) or mqtt:// (without; local brokers only)")]
    Scheme(String),
    /// No host.
    #[error("`{0}` names no host; a broker's URL looks like mqtts://host:443")]
    Host(String),
    /// Something after the port, or a login before the host.
    #[error("`{0}` contains more than host and port; user name and password have keys of their own")]
    More(String),
}

impl BrokerUrl {
    /// The connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The name to connect to, sent as SNI, and checked against the certificate.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port: 8883 with TLS and 1883 without, unless given.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for BrokerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|cause| UrlError::Syntax(text.into(), cause))?;
        let (tls, usual) = match url.scheme() {
            "mqtts" => (true, 8883),
            "mqtt" => (false, 1883),
            other => return Err(UrlError::Scheme(other.into())),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| UrlError::Host(text.into()))?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::More(format!("{}://{host}…", url.scheme())));
        }
        // An IPv6 address is bracketed in a URL and bare everywhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, host, port: url.port().unwrap_or(usual) })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
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
        ] {
            assert_eq!(text.parse::<BrokerUrl>().unwrap().to_string(), shown);
        }
        assert_eq!("mqtts://[::1]:443".parse::<BrokerUrl>().unwrap().host(), "::1");
    }

    #[test]
    fn what_is_no_brokers_url_is_refused_and_secrets_are_not_repeated() {
        for (text, expected) in [
            ("a.example:443", "not supported"),
            ("https://a.example", "not supported"),
            ("mqtts://", "names no host"),
            ("nonsense", "not a URL"),
            ("mqtts://u:secret@a.example", "keys of their own"),
            ("mqtts://a.example/path", "more than host"),
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
