//! What a certificate says of itself.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use x509_parser::{
    oid_registry::{OID_X509_EXT_SUBJECT_ALT_NAME, OidRegistry},
    prelude::{FromDer, GeneralName, SubjectAlternativeName, X509Name},
};

use crate::link::read_certificate;

/// The parts of a certificate that people look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Whose it is.
    pub(super) subject: String,
    /// The names of the server it is for.
    pub(super) names: Vec<String>,
    /// Who signed it.
    pub(super) issuer: String,
    /// From when, and until when. Times before 1970 count as 1970.
    not_before: SystemTime,
    not_after: SystemTime,
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
}

/// How a certificate stands in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validity {
    /// For longer than [`SOON`].
    Valid,
    /// For less.
    EndsSoon,
    /// Over.
    Expired,
    /// Its time has not come.
    NotYet,
}

/// Who hears it this early can still do something about it.
const SOON: Duration = Duration::from_secs(30 * DAY);

const DAY: u64 = 24 * 60 * 60;

impl Certificate {
    /// Reads the DER form.
    pub(super) fn read(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = read_certificate(der).map_err(|error| error.to_string())?;
        let names = parsed.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).ok().flatten();
        let names = names.and_then(|extension| SubjectAlternativeName::from_der(extension.value).ok());
        let names = names.map(|(_, names)| names.general_names.iter().filter_map(name).collect());
        let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            subject: shown(parsed.subject()),
            names: names.unwrap_or_default(),
            issuer: shown(parsed.issuer()),
            not_before: at(parsed.validity().not_before.timestamp()),
            not_after: at(parsed.validity().not_after.timestamp()),
            raw_subject: parsed.subject().as_raw().to_vec(),
            raw_issuer: parsed.issuer().as_raw().to_vec(),
        })
    }

    /// Whether it is valid at a time.
    pub(super) fn validity(&self, now: SystemTime) -> Validity {
        match self.not_after.duration_since(now) {
            _ if now < self.not_before => Validity::NotYet,
            Err(_) => Validity::Expired,
            Ok(left) if left < SOON => Validity::EndsSoon,
            Ok(_) => Validity::Valid,
        }
    }

    /// When it is valid, in words: the end that matters, and how far that is.
    pub(super) fn times(&self, now: SystemTime) -> String {
        let (words, at) = match self.validity(now) {
            Validity::NotYet => ("valid from", self.not_before),
            Validity::Expired => ("expired", self.not_after),
            Validity::Valid | Validity::EndsSoon => ("valid until", self.not_after),
        };
        let (distance, ago) = match at.duration_since(now) {
            Ok(distance) => (distance, false),
            Err(error) => (error.duration(), true),
        };
        let distance = roughly(distance);
        let distance = if ago { format!("{distance} ago") } else { format!("in {distance}") };
        format!("{words} {} ({distance})", humantime::format_rfc3339_seconds(at))
    }

    /// Whose it is and who says so.
    pub(super) fn who(&self) -> String {
        let subject = if self.subject.is_empty() { "(no subject)" } else { &self.subject };
        match self.raw_subject == self.raw_issuer {
            true => format!("{subject}, self-signed"),
            false => format!("{subject}, issued by {}", self.issuer),
        }
    }

    /// Its issuer is the other one's subject.
    pub(super) fn is_issued_by(&self, other: &Self) -> bool {
        self.raw_issuer == other.raw_subject
    }
}

/// The first place, counted from 1, whose certificate was not issued by the next one's owner.
pub(super) fn gap(chain: &[Certificate]) -> Option<usize> {
    let pairs = chain.iter().zip(chain.iter().skip(1));
    pairs.enumerate().find(|(_, (lower, upper))| !lower.is_issued_by(upper)).map(|(place, _)| place + 1)
}

/// As people write it, with the attributes that names have.
fn shown(name: &X509Name<'_>) -> String {
    let attributes = OidRegistry::default().with_x509().with_pkcs9();
    name.to_string_with_registry(&attributes).unwrap_or_else(|_| "<X509Error: Invalid X.509 name>".to_owned())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

fn roughly(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / DAY, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use alphorn_dev_broker::{Authority, Identity, Profile};
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    fn chain(identity: &Identity) -> Vec<Certificate> {
        CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
            .map(|der| Certificate::read(&der.unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn it_says_whose_it_is_for_what_and_by_whom() {
        let authority = Authority::new("root").unwrap();
        let server = chain(&authority.issue_server(&["a.example", "127.0.0.1", "::1"]).unwrap());
        assert_eq!(server[0].names, ["a.example", "127.0.0.1", "::1"]);
        assert!(server[0].who().ends_with("CN=a.example, issued by CN=root"), "{}", server[0].who());
        let root = Certificate::read(&CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap()).unwrap();
        assert!(root.who().ends_with("CN=root, self-signed"), "{}", root.who());
    }

    #[test]
    fn it_knows_how_it_stands_in_time() {
        let authority = Authority::new("root").unwrap();
        let [valid, expired, early] =
            [Profile::client("device"), Profile::client("device").expired(), Profile::client("device").not_yet_valid()]
                .map(|profile| chain(&authority.issue(&profile).unwrap()).remove(0));
        let now = SystemTime::now();
        assert_eq!(valid.validity(now), Validity::Valid);
        assert!(valid.times(now).contains("valid until 2") && valid.times(now).contains("(in 364 days)"));
        assert_eq!(valid.validity(valid.not_after - Duration::from_secs(29 * DAY)), Validity::EndsSoon);
        assert_eq!(expired.validity(now), Validity::Expired);
        assert!(expired.times(now).starts_with("expired 2") && expired.times(now).ends_with("(60 minutes ago)"));
        assert_eq!(early.validity(now), Validity::NotYet);
        assert!(early.times(now).starts_with("valid from 2"), "{}", early.times(now));
    }

    #[test]
    fn a_gap_in_the_chain_is_found() {
        let root = Authority::new("root").unwrap();
        let mut chain = chain(&root.intermediate("middle").unwrap().issue_client("device").unwrap());
        assert_eq!((chain.len(), gap(&chain)), (2, None));
        chain.swap(0, 1);
        assert_eq!(gap(&chain), Some(1));
        assert_eq!(gap(&chain[..1]), None);
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        assert!(Certificate::read(b"nonsense").is_err());
    }
}
