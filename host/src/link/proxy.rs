//! Which proxy leads to the broker, if any: what the configuration or the environment says.
//!
//! The environment is read as curl reads it, with `https_proxy`, `all_proxy` and `no_proxy`
//! in either case. It applies to TLS only; without TLS brokers are local.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    codec::Secret,
    url::{BrokerUrl, bracketed},
};

/// An HTTP proxy that is asked to CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `user:password`.
    login: Option<Secret>,
}

/// Why a text names no proxy. None of them repeats the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// Not a URL at all.
    #[error("it is not a URL ({0}); a proxy's looks like http://user:password@proxy:3128")]
    Syntax(url::ParseError),
    /// TLS to the proxy itself.
    #[error(
        "a proxy that is itself spoken to over TLS (https://) is not supported: use its http:// port. What goes through it is encrypted in any case"
    )]
    Tls,
    /// Another kind of proxy.
    #[error("`{0}://` is not supported: only HTTP proxies are, as http://proxy:3128")]
    Scheme(String),
    /// Something after the port.
    #[error("it contains more than login, host and port; a proxy's URL looks like http://user:password@proxy:3128")]
    More,
    /// Basic authentication can't carry it.
    #[error("its user name contains a colon, which HTTP's Basic authentication can't carry")]
    User,
}

impl Proxy {
    /// Where it listens.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port; 80 unless given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `user:password`, if it has to be told.
    pub(super) fn login(&self) -> Option<&[u8]> {
        self.login.as_ref().map(|login| login.0.as_slice())
    }

    /// What the environment says about the way to this broker; an error names the variable.
    pub fn from_environment(
        broker: &BrokerUrl,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, (&'static str, ProxyUrlError)> {
        if !broker.is_tls() {
            return Ok(None);
        }
        let set = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, variable(name).filter(|value| !value.is_empty())?)))
        };
        let Some((name, value)) = set(["https_proxy", "HTTPS_PROXY"]).or_else(|| set(["all_proxy", "ALL_PROXY"]))
        else {
            return Ok(None);
        };
        if set(["no_proxy", "NO_PROXY"]).is_some_and(|(_, list)| is_exempt(&list, broker.host(), broker.port())) {
            return Ok(None);
        }
        value.parse().map(Some).map_err(|error| (name, error))
    }
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        // As curl takes it: `proxy:3128`.
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&with_scheme).map_err(ProxyUrlError::Syntax)?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(ProxyUrlError::Tls),
            other => return Err(ProxyUrlError::Scheme(other.to_owned())),
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyUrlError::More);
        }
        let host = url.host_str().ok_or(ProxyUrlError::Syntax(url::ParseError::EmptyHost))?;
        let login = if url.username().is_empty() && url.password().is_none() {
            None
        } else {
            let mut login: Vec<u8> = percent_decode_str(url.username()).collect();
            if login.contains(&b':') {
                return Err(ProxyUrlError::User);
            }
            login.push(b':');
            login.extend(percent_decode_str(url.password().unwrap_or_default()));
            Some(Secret(login))
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port().unwrap_or(80), login })
    }
}

/// Whether a list as in `NO_PROXY` has the host: names (with all below them), addresses,
/// networks like `10.0.0.0/8`, each with or without a port, or `*`.
fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some((network, length)) = entry.split_once('/') {
            return address.is_some_and(|address| is_within(address, network, length));
        }
        let (name, only) = split_port(entry);
        if only.is_some_and(|only| only != port) {
            return false;
        }
        match (address, name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>()) {
            (Some(address), Ok(exempt)) => address == exempt,
            (Some(_), Err(_)) | (None, Ok(_)) => false,
            (None, Err(_)) => {
                let name = name.trim_start_matches('*').trim_matches('.').to_ascii_lowercase();
                let below = host.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                !name.is_empty() && below
            }
        }
    })
}

/// A name or an address, and its port if it has one; the colons of an IPv6 address are its own.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<Ipv6Addr>().is_ok() {
        return (entry, None);
    }
    match entry.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
        Some((name, Ok(port))) => (name, Some(port)),
        _ => (entry, None),
    }
}

fn is_within(address: IpAddr, network: &str, length: &str) -> bool {
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bracketed(&self.host, Some(self.port)))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.login.is_some() { " with a login" } else { "" };
        write!(f, "{self}{login}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Result<Proxy, ProxyUrlError> {
        text.parse()
    }

    #[test]
    fn a_proxys_url_is_taken_apart() {
        for (text, shown, login) in [
            ("http://proxy:3128", "proxy:3128", None),
            ("http://proxy", "proxy:80", None),
            ("proxy:3128", "proxy:3128", None),
            ("http://[::1]:3128/", "[::1]:3128", None),
            ("http://u:p@proxy:3128", "proxy:3128", Some("u:p")),
            ("u:p@proxy:3128", "proxy:3128", Some("u:p")),
            ("http://u@proxy:3128", "proxy:3128", Some("u:")),
            ("http://u:p%40ss%3Aword@proxy:3128", "proxy:3128", Some("u:p@ss:word")),
        ] {
            let proxy = proxy(text).unwrap();
            assert_eq!((proxy.to_string().as_str(), proxy.login()), (shown, login.map(str::as_bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_and_passwords_are_not_repeated() {
        for (text, expected) in [
            ("https://u:secret@proxy:3128", "https://"),
            ("socks5://u:secret@proxy:1080", "socks5"),
            ("http://u:secret@proxy:3128/path", "more than"),
            ("http://u:secret@proxy:port", "not a URL"),
            ("http://a%3Ab:secret@proxy:3128", "colon"),
            ("http://", "not a URL"),
        ] {
            let error = proxy(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected) && !shown.contains("secret"), "{text}: {shown}");
        }
    }

    #[test]
    fn the_password_does_not_show() {
        let proxy = proxy("http://u:secret@proxy:3128").unwrap();
        assert_eq!(format!("{proxy:?}"), "proxy:3128 with a login");
    }

    fn from(broker: &str, variables: &[(&str, &str)]) -> Option<String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Proxy::from_environment(&broker.parse().unwrap(), variable).unwrap().map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let tls = "mqtts://a.example";
        for (variables, expected) in [
            (&[][..], None),
            (&[("HTTPS_PROXY", "http://a:1")], Some("a:1")),
            (&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")], Some("b:2")),
            (&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "")], Some("a:1")),
            (&[("ALL_PROXY", "http://a:1")], Some("a:1")),
            (&[("all_proxy", "http://b:2"), ("HTTPS_PROXY", "http://a:1")], Some("a:1")),
            (&[("HTTP_PROXY", "http://a:1"), ("http_proxy", "http://a:1")], None),
            (&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "example")], None),
            (&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "other")], Some("a:1")),
            (&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "example"), ("no_proxy", "other")], Some("a:1")),
        ] {
            assert_eq!(from(tls, variables).as_deref(), expected, "{variables:?}");
            assert_eq!(from("wss://a.example", variables).as_deref(), expected, "{variables:?}");
        }
        let set = [("HTTPS_PROXY", "http://a:1"), ("ALL_PROXY", "http://a:1")];
        assert_eq!(from("mqtt://a.example", &set), None);
        assert_eq!(from("ws://a.example", &set), None);
        // Loopback is no exception of its own.
        assert_eq!(from("mqtts://localhost", &set).as_deref(), Some("a:1"));
    }

    #[test]
    fn a_proxy_of_the_environment_that_is_not_supported_is_named_by_its_variable() {
        let socks = |name: &str| (name == "ALL_PROXY").then(|| "socks5://u:secret@proxy".to_owned());
        let (name, error) = Proxy::from_environment(&"mqtts://a".parse().unwrap(), socks).unwrap_err();
        assert_eq!((name, error), ("ALL_PROXY", ProxyUrlError::Scheme("socks5".to_owned())));
    }

    #[test]
    fn exemptions_are_names_suffixes_addresses_networks_and_ports() {
        for (list, host, exempt) in [
            ("*", "a.example", true),
            ("a.example", "a.example", true),
            ("A.Example.", "a.example", true),
            ("example", "a.example", true),
            (".example", "a.example", true),
            ("*.example", "a.example", true),
            ("ample", "a.example", false),
            ("b.a.example", "a.example", false),
            ("x, a.example ,y", "a.example", true),
            ("a.example:443", "a.example", true),
            ("a.example:8883", "a.example", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("0.0.1", "127.0.0.1", false),
            ("127.0.0.1:443", "127.0.0.1", true),
            ("127.0.0.0/8", "127.1.2.3", true),
            ("10.0.0.0/8", "127.1.2.3", false),
            ("0.0.0.0/0", "127.1.2.3", true),
            ("127.0.0.0/33", "127.1.2.3", false),
            ("127.0.0.0/8", "a.example", false),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("[::1]:443", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "::1", false),
            ("", "a.example", false),
            (".", "a.example", false),
        ] {
            assert_eq!(is_exempt(list, host, 443), exempt, "{list:?} {host}");
        }
    }
}
