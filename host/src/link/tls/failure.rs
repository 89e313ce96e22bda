//! What TLS errors mean, and what to do about them.

use std::{
    fmt, io,
    time::{Duration, SystemTime},
};

use rustls::{
    AlertDescription, CertificateError, Error,
    pki_types::{CertificateDer, UnixTime},
};

use super::{TlsSettings, offered};

/// Where TLS stopped, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFailure {
    /// What it is about.
    pub part: TlsPart,
    /// What happened.
    pub cause: String,
    /// What to do.
    pub remedy: String,
    /// What the server presented, its own certificate first, as far as it came to that.
    pub server_chain: Vec<CertificateDer<'static>>,
}

/// The parts of TLS that have remedies of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPart {
    /// Neither of the others: the peer, versions, cipher suites.
    Handshake,
    /// Who the server says it is.
    ServerCertificate,
    /// The protocol's name.
    Alpn,
    /// Who we say we are.
    ClientCertificate,
}

impl TlsFailure {
    pub(in crate::link) fn new(part: TlsPart, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { part, cause: cause.into(), remedy: remedy.into(), server_chain: Vec::new() }
    }

    /// The server has gone before the handshake was complete.
    pub(in crate::link) fn closed(how: Option<&io::Error>, settings: &TlsSettings) -> Self {
        let how = how.map_or_else(String::new, |how| format!(" ({how})"));
        let cause = format!(
            "the server closed the connection during the TLS handshake{how}; offered ALPN: {}",
            offered(settings)
        );
        let remedy = "it may not speak TLS on this port (mqtt:// is for brokers without), or want another ALPN name: check the port, and `alpn`";
        Self::new(TlsPart::Handshake, cause, remedy)
    }

    /// What the server presented is in a form that the TLS library does not read.
    pub(in crate::link) fn server_of_version_1() -> Self {
        Self::new(
            TlsPart::ServerCertificate,
            "the server's certificate is of X.509 version 1, and TLS here takes version 3 only",
            "sign it again with its name as an extension, which makes it version 3: put `subjectAltName=DNS:HOST` into \
             a file v3.ext, and give -extfile v3.ext to `openssl x509 -req`",
        )
    }

    /// What a TLS error means and what to do about it.
    pub(in crate::link) fn explain(error: &Error, host: &str, settings: &TlsSettings) -> Self {
        let cert = || match &settings.identity {
            Some((cert, _)) => format!("the client certificate {}", cert.display()),
            None => "no client certificate (`cert` and `key` are not set)".to_owned(),
        };
        match error {
            Error::InvalidCertificate(cause) => Self::untrusted(cause, host, settings),
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::new(
                TlsPart::Alpn,
                format!("the server agrees to none of the ALPN names offered ({})", offered(settings)),
                "set `alpn`: AWS IoT Core takes `x-amzn-mqtt-ca` on port 443, `mqtt` there for custom authorizers, and none on \
                 8883 or for wss://",
            ),
            Error::AlertReceived(AlertDescription::CertificateRequired) => Self::new(
                TlsPart::ClientCertificate,
                format!("the server demands a client certificate and got {}", cert()),
                "set `cert` and `key`",
            ),
            Error::AlertReceived(
                alert @ (AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError),
            ) => Self::new(
                TlsPart::ClientCertificate,
                format!("the server refused {} (alert {alert:?})", cert()),
                "see that the server knows it or its issuer (AWS IoT Core: that it is registered and active), and that it \
                 has not expired",
            ),
            Error::AlertReceived(AlertDescription::HandshakeFailure) => Self::new(
                if settings.identity.is_none() { TlsPart::ClientCertificate } else { TlsPart::Handshake },
                "the server ended the handshake (alert HandshakeFailure)",
                format!("it may demand a client certificate, and got {}; or no cipher suite is common", cert()),
            ),
            Error::AlertReceived(AlertDescription::UnrecognisedName) => Self::new(
                TlsPart::ServerCertificate,
                format!("the server does not know the name `{host}` (SNI)"),
                "check the host in `url`",
            ),
            Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::new(
                TlsPart::Handshake,
                "the server speaks neither TLS 1.2 nor TLS 1.3",
                "renew the server's TLS; older versions are broken",
            ),
            Error::AlertReceived(alert) => Self::new(
                TlsPart::Handshake,
                format!("the server ended TLS with the alert {alert:?}"),
                "the server's log says more",
            ),
            Error::InvalidMessage(_) => Self::new(
                TlsPart::Handshake,
                format!("the server at `{host}` does not speak TLS on this port ({error})"),
                "check the port, or use mqtt:// for a broker without TLS",
            ),
            error => Self::new(TlsPart::Handshake, format!("TLS failed: {error}"), "see what listens on this port"),
        }
    }

    fn untrusted(cause: &CertificateError, host: &str, settings: &TlsSettings) -> Self {
        let ca = match &settings.ca {
            Some(path) => path.display().to_string(),
            None => "the system's roots".to_owned(),
        };
        let (cause, remedy) = match cause {
            CertificateError::UnknownIssuer => (
                format!("the server's certificate was issued by a CA that {ca} does not contain"),
                "set `ca` to the broker's root certificate".to_owned(),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                format!("the server's certificate is not for `{host}` ({cause})"),
                "check the host in `url`".to_owned(),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                format!("the server's certificate has expired{}, or this device's clock is ahead", times(cause)),
                "set the clock if it is wrong; else the server's certificate has to be renewed".to_owned(),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                format!("the server's certificate is not valid yet{}, or this device's clock is behind", times(cause)),
                "set the clock; give the device NTP".to_owned(),
            ),
            cause => (
                format!("the server's certificate was refused ({cause})"),
                "the server needs a certificate for server authentication that a trusted CA has issued".to_owned(),
            ),
        };
        Self::new(TlsPart::ServerCertificate, cause, remedy)
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.remedy)
    }
}

/// When a certificate's time is, and what time it is here.
fn times(cause: &CertificateError) -> String {
    let shown = |time: &UnixTime| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
        humantime::format_rfc3339_seconds(time)
    };
    match cause {
        CertificateError::ExpiredContext { time, not_after } => {
            format!(" (it was valid until {}; the clock says {})", shown(not_after), shown(time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!(" (it is valid from {} on; the clock says {})", shown(not_before), shown(time))
        }
        _ => String::new(),
    }
}
