//! Why there is no connection: the cause, and what to do about it.

use std::{borrow::Cow, fmt, io, time::Duration};

use super::{
    LinkSettings,
    codec::{DecodeError, Farewell, NOT_AUTHORIZED, Refusal, Version},
    connect::{ProxyRefusal, Stage, UpgradeRefusal},
    tls::{TlsError, TlsFailure},
};

/// An attempt failed, or a connection ended.
#[derive(Debug)]
pub enum LinkError {
    /// The name has no address.
    Dns {
        /// The name.
        host: String,
        /// What the resolver says.
        cause: io::Error,
    },
    /// No TCP connection.
    Tcp {
        /// `host:port`.
        to: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The proxy opens no way to the broker.
    Proxy {
        /// Its `host:port`.
        proxy: String,
        /// Why not.
        refusal: ProxyRefusal,
    },
    /// The web server opens no WebSocket.
    Upgrade(UpgradeRefusal),
    /// `connect_timeout` is over.
    TimedOut {
        /// What was being waited for.
        during: Stage,
        /// How long all steps may take together.
        limit: Duration,
        /// How it was tried.
        tried: Tried,
    },
    /// A file of the TLS configuration.
    Files(TlsError),
    /// The handshake failed, or an alert came; explained.
    Tls(TlsFailure),
    /// CONNACK, or a DISCONNECT in its place, says no.
    Refused(Refusal, Tried),
    /// The broker closed the connection in place of a CONNACK.
    ClosedUnanswered(Tried),
    /// The server closed the WebSocket with a reason; in words.
    Goodbye(String),
    /// What came in place of a CONNACK is another protocol.
    OtherProtocol {
        /// In words.
        what: String,
        /// How to get to MQTT.
        remedy: &'static str,
    },
    /// What came is not MQTT, or not allowed.
    NotMqtt(String),
    /// More unacknowledged messages than MQTT has packet ids for.
    Flooded,
    /// The broker closed the connection.
    Closed,
    /// The connection broke.
    Broken(io::Error),
    /// Nothing came for so long, and no answer to a PINGREQ in time.
    Silent(Duration),
    /// Something was not acknowledged, however often and long the broker was given time.
    Unanswered {
        /// What.
        what: &'static str,
        /// How many time-outs passed.
        times: u32,
        /// `operation_timeout`.
        timeout: Duration,
    },
    /// The broker sent DISCONNECT with a reason.
    Disconnected(Refusal),
}

/// What of the settings decides which remedy is worth a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Over TLS.
    pub tls: bool,
    /// With a client certificate.
    pub certificate: bool,
    /// With a user name.
    pub login: bool,
    /// In this version.
    pub version: Version,
}

impl Tried {
    /// With these settings.
    pub fn with(settings: &LinkSettings) -> Self {
        let tls = settings.url.is_tls();
        Self {
            tls,
            certificate: tls && settings.tls.identity.is_some(),
            login: settings.username.is_some(),
            version: settings.protocol,
        }
    }

    /// Why a broker may not let us in.
    fn not_authorised(self) -> &'static str {
        const LOGIN: &str = "check `username` and `password_file`, and what the broker allows this user";
        const CERTIFICATE: &str = "check that its policy lets this certificate connect with this client id (AWS IoT \
             Core: iot:Connect on client/ID), and that the certificate is active";
        const BOTH: &str = "check `username` and `password_file`, and that the broker lets this certificate connect \
             with this client id (AWS IoT Core: iot:Connect on client/ID)";
        const NEITHER: &str = "it wants to know who connects: set `username` and `password_file`, or `cert` and `key`";
        match (self.login, self.certificate) {
            (true, false) => LOGIN,
            (false, true) => CERTIFICATE,
            (true, true) => BOTH,
            (false, false) => NEITHER,
        }
    }

    /// Why a broker may close the connection in answer to CONNECT.
    fn closed_unanswered(self) -> String {
        let access = match (self.tls, self.certificate, self.login) {
            (false, _, _) => "if it speaks TLS on this port, use mqtts:// (wss://) in `url`".to_owned(),
            (true, true, _) => {
                "on AWS IoT Core, the policy does not let this certificate connect with this client id, \
                 the certificate is not active, or the authorizer refused"
                    .to_owned()
            }
            (true, false, _) => self.not_authorised().to_owned(),
        };
        format!("{access}{}", self.older_version())
    }

    /// Some brokers of MQTT 3.1.1 don't know what to say to a CONNECT of MQTT 5.
    fn older_version(self) -> &'static str {
        match self.version {
            Version::V5 => "; if it speaks MQTT 3.1.1 only, set `protocol = \"3.1.1\"`",
            Version::V311 => "",
        }
    }
}

impl LinkError {
    /// What happened.
    pub fn cause(&self) -> String {
        match self {
            Self::Dns { host, cause } => format!("the name `{host}` can't be resolved ({cause})"),
            Self::Tcp { to, cause } => format!("no TCP connection to {to} ({cause})"),
            Self::Proxy { proxy, refusal } => format!("the proxy {proxy}: {}", refusal.cause()),
            Self::Upgrade(refusal) => refusal.cause(),
            Self::TimedOut { during, limit, .. } => format!(
                "no connection within {} (`connect_timeout`), while waiting for {during}",
                humantime::format_duration(*limit)
            ),
            Self::Files(error) => error.to_string(),
            Self::Tls(failure) => failure.cause.clone(),
            Self::Refused(refusal, _) => format!("the broker refused the connection: {refusal}"),
            Self::ClosedUnanswered(_) => "the broker closed the connection in answer to CONNECT".to_owned(),
            Self::Goodbye(said) => said.clone(),
            Self::OtherProtocol { what, .. } => format!("the server does not speak MQTT: {what}"),
            Self::NotMqtt(what) => format!("the server does not keep to MQTT: {what}"),
            Self::Flooded => {
                "the server does not keep to MQTT: it sends messages under packet ids that are not acknowledged"
                    .to_owned()
            }
            Self::Closed => "the broker closed the connection".to_owned(),
            Self::Broken(cause) => format!("the connection broke: {cause}"),
            Self::Silent(silence) => format!(
                "nothing came from the broker for {}, and no answer to a PINGREQ within half of `keep_alive`",
                humantime::format_duration(Duration::from_millis(
                    u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)
                ))
            ),
            Self::Unanswered { what, times, timeout } => format!(
                "the broker has not answered {what} for {times} times {} (`operation_timeout`)",
                humantime::format_duration(*timeout)
            ),
            Self::Disconnected(refusal) => format!("the broker ended the connection: {refusal}"),
        }
    }

    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<Cow<'_, str>> {
        let remedy = match self {
            Self::Dns { .. } => "check `url` and the device's DNS",
            Self::Tcp { .. } => "check host and port in `url`, and the firewall",
            Self::Proxy { refusal, .. } => refusal.remedy(),
            Self::Upgrade(refusal) => refusal.remedy(),
            Self::TimedOut { during, tried, .. } => match during {
                Stage::Name => "check the device's DNS",
                Stage::Tcp => "check host and port in `url`, and the firewall",
                Stage::Proxy => "check `proxy` (or HTTPS_PROXY), and whether it reaches the broker",
                Stage::Tls => {
                    "something takes connections there and answers no TLS; check the port in `url`, and the firewall"
                }
                Stage::WebSocket => "the web server takes the request and does not answer; check the path in `url`",
                Stage::ConnAck => {
                    let remedy = "the server takes CONNECT and does not answer; check that it is a broker, on this port \
                         and over this scheme";
                    return Some(format!("{remedy}{}", tried.older_version()).into());
                }
            },
            Self::Tls(failure) => &failure.remedy,
            Self::Refused(refusal, tried) => match refusal.code {
                NOT_AUTHORIZED => tried.not_authorised(),
                0x84 => "set `protocol` to the version that it speaks",
                0x85 => "set `client_id` to one that it takes",
                0x86 if tried.login => "check `username` and `password_file`",
                0x86 => "set `username` and `password_file`",
                _ => return None,
            },
            Self::ClosedUnanswered(tried) => return Some(tried.closed_unanswered().into()),
            Self::OtherProtocol { remedy, .. } => remedy,
            Self::Unanswered { .. } => "it may be throttling, or have lost what was sent",
            Self::Files(_)
            | Self::Goodbye(_)
            | Self::NotMqtt(_)
            | Self::Flooded
            | Self::Closed
            | Self::Broken(_)
            | Self::Silent(_)
            | Self::Disconnected(_) => return None,
        };
        Some(Cow::Borrowed(remedy))
    }

    /// What to tell the broker of a connection that is given up on this side; nothing where it has
    /// ended itself.
    pub(super) fn farewell(&self) -> Option<Farewell> {
        match self {
            Self::NotMqtt(_) => Some(Farewell::ProtocolError),
            Self::Flooded => Some(Farewell::ReceiveMaximumExceeded),
            Self::Silent(_) | Self::Unanswered { .. } => Some(Farewell::Unspecified),
            _ => None,
        }
    }

    /// At which stage an attempt failed; of use only for that. `None`: only a connection
    /// that stood ends so.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Dns { .. } => Some(Stage::Name),
            Self::Tcp { .. } => Some(Stage::Tcp),
            Self::Proxy { .. } => Some(Stage::Proxy),
            Self::Upgrade(_) => Some(Stage::WebSocket),
            Self::TimedOut { during, .. } => Some(*during),
            Self::Files(_) | Self::Tls(_) => Some(Stage::Tls),
            Self::Refused(..)
            | Self::ClosedUnanswered(_)
            | Self::Goodbye(_)
            | Self::OtherProtocol { .. }
            | Self::NotMqtt(_) => Some(Stage::ConnAck),
            Self::Flooded
            | Self::Closed
            | Self::Broken(_)
            | Self::Silent(_)
            | Self::Unanswered { .. }
            | Self::Disconnected(_) => None,
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        match self.remedy() {
            Some(remedy) => write!(f, ": {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<DecodeError> for LinkError {
    fn from(error: DecodeError) -> Self {
        Self::NotMqtt(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIED: Tried = Tried { tls: true, certificate: false, login: true, version: Version::V311 };

    #[test]
    fn a_refusal_is_about_what_was_shown() {
        let said = |code, tried| LinkError::Refused(Refusal { code, reason: "no".into() }, tried).to_string();
        let login = said(NOT_AUTHORIZED, TRIED);
        assert!(login.contains("`password_file`") && !login.contains("certificate"), "{login}");
        let certificate = said(NOT_AUTHORIZED, Tried { certificate: true, login: false, ..TRIED });
        assert!(certificate.contains("iot:Connect") && !certificate.contains("password"), "{certificate}");
        let nothing = said(NOT_AUTHORIZED, Tried { login: false, ..TRIED });
        assert!(nothing.contains("set `username`"), "{nothing}");
        assert!(said(0x86, Tried { login: false, ..TRIED }).contains("set `username`"));
    }

    #[test]
    fn silence_and_closing_hint_at_tls_and_at_the_older_version() {
        let closed = |tried| LinkError::ClosedUnanswered(tried).to_string();
        let plain = Tried { tls: false, ..TRIED };
        assert!(closed(plain).contains("mqtts://") && !closed(TRIED).contains("mqtts://"));
        assert!(closed(Tried { version: Version::V5, ..plain }).contains("protocol = \"3.1.1\""));
        let silent =
            |tried| LinkError::TimedOut { during: Stage::ConnAck, limit: Duration::from_secs(1), tried }.to_string();
        assert!(silent(Tried { version: Version::V5, ..TRIED }).contains("protocol = \"3.1.1\""));
        assert!(!silent(TRIED).contains("3.1.1"));
    }
}
