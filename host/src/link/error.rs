//! Why there is no connection: the cause, and what to do about it.

use std::{fmt, io, time::Duration};

use super::{
    codec::{DecodeError, Farewell, NOT_AUTHORIZED, Refusal},
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
    },
    /// A file of the TLS configuration.
    Files(TlsError),
    /// The handshake failed, or an alert came; explained.
    Tls(TlsFailure),
    /// CONNACK, or a DISCONNECT in its place, says no.
    Refused(Refusal),
    /// The broker closed the connection in place of a CONNACK.
    ClosedUnanswered,
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
    /// Nothing came for one and a half keep-alives.
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

impl LinkError {
    /// What happened.
    pub fn cause(&self) -> String {
        match self {
            Self::Dns { host, cause } => format!("the name `{host}` can't be resolved ({cause})"),
            Self::Tcp { to, cause } => format!("no TCP connection to {to} ({cause})"),
            Self::Proxy { proxy, refusal } => format!("the proxy {proxy}: {}", refusal.cause()),
            Self::Upgrade(refusal) => refusal.cause(),
            Self::TimedOut { during, limit } => format!(
                "no connection within {} (`connect_timeout`), while waiting for {during}",
                humantime::format_duration(*limit)
            ),
            Self::Files(error) => error.to_string(),
            Self::Tls(failure) => failure.cause.clone(),
            Self::Refused(refusal) => format!("the broker refused the connection: {refusal}"),
            Self::ClosedUnanswered => "the broker closed the connection in answer to CONNECT".to_owned(),
            Self::Goodbye(said) => said.clone(),
            Self::OtherProtocol { what, .. } => format!("the server does not speak MQTT: {what}"),
            Self::NotMqtt(what) => format!("the server does not keep to MQTT: {what}"),
            Self::Flooded => {
                "the server does not keep to MQTT: it sends messages under packet ids that are not acknowledged"
                    .to_owned()
            }
            Self::Closed => "the broker closed the connection".to_owned(),
            Self::Broken(cause) => format!("the connection broke: {cause}"),
            Self::Silent(limit) => {
                format!("nothing came from the broker for {} (1.5 keep-alives)", humantime::format_duration(*limit))
            }
            Self::Unanswered { what, times, timeout } => format!(
                "the broker has not answered {what} for {times} times {} (`operation_timeout`)",
                humantime::format_duration(*timeout)
            ),
            Self::Disconnected(refusal) => format!("the broker ended the connection: {refusal}"),
        }
    }

    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        Some(match self {
            Self::Dns { .. } => "check `url` and the device's DNS",
            Self::Tcp { .. } => "check host and port in `url`, and the firewall",
            Self::Proxy { refusal, .. } => refusal.remedy(),
            Self::Upgrade(refusal) => refusal.remedy(),
            Self::TimedOut { during, .. } => match during {
                Stage::Name => "check the device's DNS",
                Stage::Tcp => "check host and port in `url`, and the firewall",
                Stage::Proxy => "check `proxy` (or HTTPS_PROXY), and whether it reaches the broker",
                Stage::Tls => {
                    "something takes connections there and answers no TLS; check the port in `url`, and the firewall"
                }
                Stage::WebSocket => "the web server takes the request and does not answer; check the path in `url`",
                Stage::ConnAck => {
                    "the server takes CONNECT and does not answer; check that it is a broker, on this port and over this scheme"
                }
            },
            Self::Tls(failure) => &failure.remedy,
            Self::Refused(refusal) => match refusal.code {
                NOT_AUTHORIZED => {
                    "check that its policy lets this certificate connect with this client id (AWS IoT Core: iot:Connect \
                     on client/ID), and that the certificate is active"
                }
                0x84 => "set `protocol` to the version that it speaks",
                0x85 => "set `client_id` to one that it takes",
                0x86 => "check `username` and `password_file`",
                _ => return None,
            },
            Self::ClosedUnanswered => {
                "on AWS IoT Core, the policy does not let this certificate connect with this client id, the \
                 certificate is not active, or the authorizer refused"
            }
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
        })
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
            Self::Refused(_)
            | Self::ClosedUnanswered
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
