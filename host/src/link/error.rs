//! Why there is no connection: the cause, and what to do about it.

use std::{fmt, io, time::Duration};

use super::{
    codec::{DecodeError, NOT_AUTHORIZED, Refusal},
    connect::{ProxyRefusal, Stage, UpgradeRefusal},
    tls::TlsError,
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
    Tls(String),
    /// CONNACK, or a DISCONNECT in its place, says no.
    Refused(Refusal),
    /// The broker closed the connection in place of a CONNACK.
    ClosedUnanswered,
    /// The server closed the WebSocket with a reason; in words.
    Goodbye(String),
    /// What came is not MQTT, or not allowed.
    NotMqtt(String),
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
            Self::Refused(_) | Self::ClosedUnanswered | Self::Goodbye(_) | Self::NotMqtt(_) => Some(Stage::ConnAck),
            Self::Closed | Self::Broken(_) | Self::Silent(_) | Self::Unanswered { .. } | Self::Disconnected(_) => None,
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { host, cause } => {
                write!(f, "the name `{host}` can't be resolved ({cause}): check `url` and the device's DNS")
            }
            Self::Tcp { to, cause } => {
                write!(f, "no TCP connection to {to} ({cause}): check host and port in `url`, and the firewall")
            }
            Self::Proxy { proxy, refusal } => write!(f, "the proxy {proxy}: {refusal}"),
            Self::Upgrade(refusal) => refusal.fmt(f),
            Self::TimedOut { during, limit } => {
                let limit = humantime::format_duration(*limit);
                write!(f, "no connection within {limit} (`connect_timeout`), while waiting for {during}: ")?;
                f.write_str(match during {
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
                })
            }
            Self::Files(error) => error.fmt(f),
            Self::Tls(explained) => f.write_str(explained),
            Self::Refused(refusal) => {
                write!(f, "the broker refused the connection: {refusal}")?;
                match refusal.code {
                    NOT_AUTHORIZED => {
                        f.write_str("; check that its policy lets this certificate connect with this client id")
                    }
                    0x84 => f.write_str("; set `protocol`"),
                    0x85 => f.write_str("; set `client_id`"),
                    0x86 => f.write_str("; set `username` and `password_file`"),
                    _ => Ok(()),
                }
            }
            Self::ClosedUnanswered => f.write_str(
                "the broker closed the connection in answer to CONNECT; on AWS IoT Core: the policy does not let this \
                 certificate connect with this client id, the certificate is not active, or the authorizer refused",
            ),
            Self::Goodbye(said) => f.write_str(said),
            Self::NotMqtt(what) => write!(f, "the server does not keep to MQTT: {what}"),
            Self::Closed => f.write_str("the broker closed the connection"),
            Self::Broken(cause) => write!(f, "the connection broke: {cause}"),
            Self::Silent(limit) => {
                write!(f, "nothing came from the broker for {} (1.5 keep-alives)", humantime::format_duration(*limit))
            }
            Self::Unanswered { what, times, timeout } => write!(
                f,
                "the broker has not answered {what} for {times} times {} (`operation_timeout`); it may be throttling",
                humantime::format_duration(*timeout)
            ),
            Self::Disconnected(refusal) => write!(f, "the broker ended the connection: {refusal}"),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<DecodeError> for LinkError {
    fn from(error: DecodeError) -> Self {
        Self::NotMqtt(error.to_string())
    }
}
