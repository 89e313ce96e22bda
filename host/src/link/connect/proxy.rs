//! A way through an HTTP proxy: CONNECT, and what its answers mean.

use std::{fmt, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::http::{self, Head, NoHead};
use crate::link::{proxy::Proxy, wire::Stream};

/// Why the proxy opened no way.
#[derive(Debug)]
pub enum ProxyRefusal {
    /// Its name has no address.
    Dns(io::Error),
    /// No TCP connection to it.
    Tcp(io::Error),
    /// It wants a login, or another one (407).
    Login {
        /// The schemes it offers.
        offered: Vec<String>,
        /// It was told one.
        told: bool,
    },
    /// Another status than 2xx.
    Status {
        /// For instance 403.
        status: u16,
        /// What the proxy calls it.
        reason: String,
    },
    /// It closed the connection in place of an answer.
    Closed,
    /// The connection to it broke.
    Broken(io::Error),
    /// What it says is no HTTP.
    NotHttp(String),
}

/// Asks for a way to `target`, which is `host:port`: the proxy looks the name up.
pub(super) async fn open(stream: &mut impl Stream, proxy: &Proxy, target: &str) -> Result<(), ProxyRefusal> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(login) = proxy.login() {
        request += &format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(login));
    }
    request += "\r\n";
    let head = http::ask(stream, request.as_bytes()).await.map_err(|none| match none {
        NoHead::Closed => ProxyRefusal::Closed,
        NoHead::Broken(cause) => ProxyRefusal::Broken(cause),
        NoHead::NotHttp(what) => ProxyRefusal::NotHttp(what),
    })?;
    match head.status {
        // Behind the proxy nobody speaks before us.
        200..=299 if head.rest.is_empty() => Ok(()),
        200..=299 => Err(ProxyRefusal::NotHttp("more than an answer to CONNECT".to_owned())),
        407 => Err(ProxyRefusal::Login { offered: schemes(&head), told: proxy.login().is_some() }),
        status => Err(ProxyRefusal::Status { status, reason: head.reason }),
    }
}

/// The schemes of all `Proxy-Authenticate` headers. A header may have several challenges,
/// each a scheme with parameters, all parted by commas.
fn schemes(head: &Head) -> Vec<String> {
    let mut schemes = Vec::new();
    for value in head.values("proxy-authenticate") {
        // Every second piece is within quotes.
        let unquoted: String = value.split('"').step_by(2).collect();
        for item in unquoted.split(',') {
            let word = item.split_whitespace().next().unwrap_or_default();
            if !word.is_empty() && !word.contains('=') && !schemes.iter().any(|known| known == word) {
                schemes.push(word.to_owned());
            }
        }
    }
    schemes
}

impl ProxyRefusal {
    /// What happened.
    pub fn cause(&self) -> String {
        match self {
            Self::Dns(cause) => format!("its name can't be resolved ({cause})"),
            Self::Tcp(cause) => format!("no TCP connection ({cause})"),
            Self::Login { offered, told } => {
                let offers = if offered.is_empty() { "none named".to_owned() } else { offered.join(", ") };
                let what = match (told, takes_basic(offered)) {
                    (false, true) => "wants a login",
                    (true, true) => "refused user name or password",
                    (_, false) => "wants a login by another scheme than Basic, the only one supported",
                };
                format!("it {what} (status 407; schemes: {offers})")
            }
            Self::Status { status, reason } => {
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                format!("it answered with status {status}{reason} to CONNECT")
            }
            Self::Closed => "it closed the connection in place of an answer".to_owned(),
            Self::Broken(cause) => format!("the connection to it broke ({cause})"),
            Self::NotHttp(what) => format!("it does not speak HTTP, but sent {what}"),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Dns(_) => "check `link.proxy` (or HTTPS_PROXY) and the device's DNS",
            Self::Tcp(_) => "check host and port in `link.proxy` (or HTTPS_PROXY), and the firewall",
            Self::Login { offered, told } => match (told, takes_basic(offered)) {
                (false, true) => {
                    "put user name and password into `link.proxy` (or HTTPS_PROXY), as http://user:password@proxy:3128"
                }
                (true, true) => {
                    "check them in `link.proxy` (or HTTPS_PROXY); special characters are written as %40 and so on"
                }
                (_, false) => "have the broker allowed without a login there, or Basic offered",
            },
            Self::Status { status, .. } => match status {
                403 | 451 => "its rules do not allow this host and port; have them allowed there",
                400 | 404 | 405 | 501 => "it may not be a proxy, or not one for CONNECT; check host and port",
                429 => "it is asked too often",
                500 | 502..=504 => {
                    "it could not reach the broker; check host and port in `link.url`, and the proxy's own network"
                }
                _ => "look into its log",
            },
            Self::Closed => "its rules may not allow this device or host; look into its log",
            Self::Broken(_) => "look into its log, and at the network",
            Self::NotHttp(_) => "check host and port in `link.proxy` (or HTTPS_PROXY)",
        }
    }
}

/// A proxy that names no scheme at all is given the benefit of the doubt.
fn takes_basic(offered: &[String]) -> bool {
    offered.is_empty() || offered.iter().any(|scheme| scheme.eq_ignore_ascii_case("Basic"))
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause(), self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The request, and what becomes of the answer.
    async fn asked(proxy: &str, answer: &str) -> (String, Result<(), ProxyRefusal>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        let result = open(&mut ours, &proxy.parse().unwrap(), "broker.example:443").await;
        drop(ours);
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        (request, result)
    }

    #[tokio::test]
    async fn the_request_names_the_target_and_carries_the_login() {
        let (request, result) = asked("http://proxy", "HTTP/1.1 200 Connection established\r\n\r\n").await;
        assert_eq!(request, "CONNECT broker.example:443 HTTP/1.1\r\nHost: broker.example:443\r\n\r\n");
        result.unwrap();
        let (request, result) = asked("http://user:p%40ss@proxy", "HTTP/1.0 200 OK\r\nA: b\r\n\r\n").await;
        assert!(request.ends_with("\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"), "{request}");
        result.unwrap();
    }

    #[tokio::test]
    async fn each_refusal_has_its_words() {
        let digest = "407 No\r\nProxy-Authenticate: Digest realm=\"Basic, really\", nonce=\"x\", NTLM";
        let basic = "407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=\"a\"";
        for (proxy, answer, expected) in [
            ("http://proxy", basic, &["wants a login", "Negotiate, Basic", "http://user:password@"][..]),
            ("http://u:secret@proxy", basic, &["refused user name or password", "Negotiate, Basic"]),
            ("http://proxy", "407 No", &["wants a login", "none named"]),
            ("http://u:secret@proxy", digest, &["another scheme than Basic", "schemes: Digest, NTLM)"]),
            ("http://proxy", "403 Forbidden", &["403 (Forbidden)", "rules do not allow"]),
            ("http://proxy", "502 Bad Gateway", &["502 (Bad Gateway)", "could not reach the broker"]),
            ("http://proxy", "405", &["405", "may not be a proxy"]),
            ("http://proxy", "302 Found", &["302 (Found)", "its log"]),
        ] {
            let (_, result) = asked(proxy, &format!("HTTP/1.1 {answer}\r\n\r\n")).await;
            let error = result.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(expected.iter().all(|part| shown.contains(part)) && !shown.contains("secret"), "{shown}");
        }
        let (_, result) = asked("http://proxy", "220 mail.example ESMTP\r\n").await;
        assert!(result.unwrap_err().to_string().contains("does not speak HTTP, but sent \"220 mail"));
        let (_, result) = asked("http://proxy", "HTTP/1.1 200 OK\r\n\r\nhello").await;
        assert!(result.unwrap_err().to_string().contains("more than an answer"));
    }
}
