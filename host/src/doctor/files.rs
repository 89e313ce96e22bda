//! The certificates and the key that the configuration names, before anybody else sees them.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::SystemTime};

use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SigningKey},
};

use super::{
    certificate::{self, Certificate, Validity},
    report::{Check, Fault, Status},
};
use crate::exposure;
use crate::link::{TlsError, TlsSettings, certificates, private_key, provider, roots};

/// The name of the check of what the server is measured by.
pub(super) const CA: &str = "ca";
/// The name of the check of what the server measures us by.
pub(super) const CLIENT_CERTIFICATE: &str = "client-certificate";

/// Which servers are trusted.
pub(super) fn ca(settings: &TlsSettings, now: SystemTime) -> Check {
    let roots = match roots(settings.ca.as_deref()) {
        Ok(roots) => roots,
        Err(error) => return unusable(CA, settings.ca.as_deref(), &error),
    };
    let Some(path) = &settings.ca else {
        return Check::ok(CA, format!("the system's roots, {}", counted(roots.len(), "certificate")));
    };
    let chain = match certificates("CA file", path) {
        Ok(chain) => chain,
        Err(error) => return unusable(CA, Some(path), &error),
    };
    let shown: Vec<_> = chain.iter().filter_map(|der| Certificate::read(der).ok()).collect();
    let subjects: Vec<_> = shown.iter().take(3).map(|certificate| certificate.subject.as_str()).collect();
    let more = if shown.len() > subjects.len() { ", …" } else { "" };
    let found = format!("{}: {} ({}{more})", path.display(), counted(chain.len(), "certificate"), subjects.join("; "));
    match shown.iter().find(|root| matches!(root.validity(now), Validity::Expired | Validity::NotYet)) {
        None => Check::ok(CA, found),
        Some(root) => Check::warn(
            CA,
            found,
            format!("a root is not valid now: {}, {}", root.subject, root.times(now)),
            "get the broker's current root certificate, or set the clock",
        ),
    }
}

/// Who this device says it is.
pub(super) fn client_certificate(settings: &TlsSettings, now: SystemTime) -> Check {
    let Some((cert, key)) = &settings.identity else {
        return Check::ok(CLIENT_CERTIFICATE, "none configured (`cert` and `key`)");
    };
    match identity(cert, key, now) {
        Ok(check) => check,
        Err(error) => unusable(CLIENT_CERTIFICATE, Some(cert), &error),
    }
}

fn identity(cert: &Path, key: &Path, now: SystemTime) -> Result<Check, TlsError> {
    let chain = certificates("client certificate", cert)?;
    let secret = private_key(key)?;
    let mut parsed = Vec::new();
    for der in &chain {
        match Certificate::read(der) {
            Ok(certificate) => parsed.push(certificate),
            Err(cause) => {
                let cause = Error::General(format!("it can't be parsed: {cause}"));
                return Err(TlsError::Identity { cert: cert.into(), key: key.into(), cause });
            }
        }
    }
    let Some(own) = parsed.first() else {
        return Err(TlsError::Empty { what: "client certificate", path: cert.into(), wanted: "certificate" });
    };
    let found = format!(
        "{}: {}, {}{}",
        cert.display(),
        own.who(),
        own.times(now),
        if parsed.len() > 1 { format!(", chain of {}", parsed.len()) } else { String::new() }
    );
    let check = Check::ok(CLIENT_CERTIFICATE, found);
    if let Some(remedy) = mismatch(&chain, secret).map_err(|cause| bad_key(cert, key, cause))? {
        let cause = TlsError::Mismatch { cert: cert.into(), key: key.into() };
        return Ok(check.spoilt(Status::Fail(Fault::Configuration), cause.to_string(), remedy));
    }
    // Whatever else the link does not take.
    crate::link::identity(cert, key)?;
    let mut doubts = Vec::new();
    match own.validity(now) {
        Validity::Valid => {}
        Validity::EndsSoon => doubts.push(("it expires soon".to_owned(), "renew it in time".to_owned())),
        Validity::Expired => doubts.push((
            "it has expired, or the clock is ahead; a server need not take it".into(),
            "renew it, or set the clock".into(),
        )),
        Validity::NotYet => doubts.push((
            "it is not valid yet, or the clock is behind; a server need not take it".into(),
            "set the clock".into(),
        )),
    }
    if let Some(place) = certificate::gap(&parsed) {
        doubts.push((
            format!(
                "the chain is out of order: certificate {place} of the file was not issued by certificate {}",
                place + 1
            ),
            "put the device's certificate first and behind each one the one that issued it".into(),
        ));
    }
    if std::fs::metadata(key).is_ok_and(|metadata| exposure::is_for_everybody(metadata.mode())) {
        doubts.push((
            format!("everybody on this device can read the key {}", key.display()),
            format!("chmod 600 {}", key.display()),
        ));
    }
    if doubts.is_empty() {
        return Ok(check);
    }
    let (causes, remedies): (Vec<_>, Vec<_>) = doubts.into_iter().unzip();
    Ok(check.spoilt(Status::Warn, causes.join("; "), remedies.join("; ")))
}

/// What to do if the key is not that of the first certificate.
fn mismatch(chain: &[CertificateDer<'static>], key: PrivateKeyDer<'static>) -> Result<Option<String>, Error> {
    let key = provider().key_provider.load_private_key(key)?;
    let fits = |certificate: &CertificateDer<'static>, key: &Arc<dyn SigningKey>| {
        CertifiedKey::new(vec![certificate.clone()], key.clone()).keys_match()
    };
    let places: Vec<_> = chain.iter().map(|certificate| fits(certificate, &key)).collect();
    let differs =
        |result: &Result<(), Error>| matches!(result, Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)));
    if !places.first().is_some_and(differs) {
        return Ok(None);
    }
    Ok(Some(match places.iter().position(Result::is_ok) {
        Some(place) => format!("the key is that of certificate {} in the file: put that one first", place + 1),
        None => "take the key that was made together with this certificate, or make a new pair".into(),
    }))
}

fn bad_key(cert: &Path, key: &Path, cause: Error) -> TlsError {
    TlsError::Identity { cert: cert.into(), key: key.into(), cause }
}

/// The check that an error belongs to.
pub(super) fn blamed(error: &TlsError) -> &'static str {
    match error {
        TlsError::Ca { .. }
        | TlsError::NoSystemRoots(_)
        | TlsError::Read { what: "CA file", .. }
        | TlsError::Empty { what: "CA file", .. } => CA,
        _ => CLIENT_CERTIFICATE,
    }
}

fn unusable(name: &'static str, path: Option<&Path>, error: &TlsError) -> Check {
    let found = path.map_or_else(|| "the system's roots".into(), |path: &Path| path.display().to_string());
    Check::fail(name, Fault::Configuration, found, error.to_string(), remedy(error))
}

/// What to do about a file that can't be used.
pub(super) fn remedy(error: &TlsError) -> &'static str {
    match error {
        TlsError::Read { .. } => {
            "see that the file is there and that this user may read it; relative paths begin at the configuration's folder"
        }
        TlsError::Empty { what: "key", .. } => "give the key as unencrypted PEM: openssl pkey -in KEY -out device.key",
        TlsError::Empty { .. } => "give it in PEM form: openssl x509 -in FILE -inform DER -out FILE.pem",
        TlsError::Ca { .. } => "get the broker's root certificate again",
        TlsError::NoSystemRoots(_) => "install the package ca-certificates, or set `ca`",
        TlsError::Version1 { .. } => {
            "sign it again with an extension, which makes it version 3: put `basicConstraints=CA:FALSE` into a file \
             v3.ext, and give -extfile v3.ext to `openssl x509 -req`"
        }
        TlsError::Mismatch { .. } | TlsError::Identity { .. } => "make a new pair of key and certificate",
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use alphorn_dev_broker::{Authority, Identity, Profile};

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        authority: Authority,
    }

    impl Folder {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("root").unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn device(&self, identity: &Identity) -> Check {
            identity.write(self.folder.path(), "device").unwrap();
            self.check()
        }

        fn check(&self) -> Check {
            let identity = Some((self.path("device.pem"), self.path("device.key")));
            client_certificate(&TlsSettings { identity, ..TlsSettings::default() }, SystemTime::now())
        }

        fn ca(&self, text: &str) -> Check {
            fs::write(self.path("ca.pem"), text).unwrap();
            let settings = TlsSettings { ca: Some(self.path("ca.pem")), ..TlsSettings::default() };
            ca(&settings, SystemTime::now())
        }
    }

    /// Status, cause and remedy in one text.
    fn said(check: &Check) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{:?} {} | {} | {}", check.status, check.found, text(&check.cause), text(&check.remedy))
    }

    #[track_caller]
    fn says(check: &Check, status: Status, parts: &[&str]) {
        let text = said(check);
        assert_eq!(check.status, status, "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }

    const BAD: Status = Status::Fail(Fault::Configuration);

    #[test]
    fn a_good_pair_is_shown_with_its_owner_issuer_and_end() {
        let folder = Folder::new();
        let check = folder.device(&folder.authority.issue_client("device").unwrap());
        says(&check, Status::Ok, &["CN=device, issued by", "CN=root", "valid until", "in 364 days"]);
        let chained = folder.authority.intermediate("middle").unwrap().issue_client("device").unwrap();
        says(&folder.device(&chained), Status::Ok, &["chain of 2"]);
    }

    #[test]
    fn a_certificate_without_extensions_is_named_as_such() {
        let folder = Folder::new();
        let old = folder.authority.issue_client("device").unwrap().version_1().unwrap();
        says(&folder.device(&old), BAD, &["X.509 version 1", "openssl x509 -req", "v3.ext"]);
    }

    #[test]
    fn none_is_fine_until_the_server_says_otherwise() {
        says(&client_certificate(&TlsSettings::default(), SystemTime::now()), Status::Ok, &["none configured"]);
    }

    #[test]
    fn a_key_of_another_certificate_is_named() {
        let folder = Folder::new();
        let mut identity = folder.authority.issue_client("device").unwrap();
        identity.key_pem = folder.authority.issue_client("other").unwrap().key_pem;
        says(&folder.device(&identity), BAD, &["does not belong to the certificate", "made together"]);
    }

    #[test]
    fn a_chain_with_the_wrong_one_first_is_told_from_a_wrong_key() {
        let folder = Folder::new();
        let mut identity = folder.authority.issue_client("device").unwrap();
        identity.cert_pem = folder.authority.ca_pem() + &identity.cert_pem;
        says(&folder.device(&identity), BAD, &["the key is that of certificate 2", "put that one first"]);
    }

    #[test]
    fn a_chain_with_a_gap_and_times_that_are_over_are_worth_a_look() {
        let folder = Folder::new();
        let mut identity = folder.authority.intermediate("middle").unwrap().issue_client("device").unwrap();
        identity.cert_pem += &Authority::new("stranger").unwrap().ca_pem();
        says(&folder.device(&identity), Status::Warn, &["certificate 2 of the file was not issued by certificate 3"]);
        let expired = folder.authority.issue(&Profile::client("device").expired()).unwrap();
        says(&folder.device(&expired), Status::Warn, &["has expired", "60 minutes ago", "renew it"]);
        let early = folder.authority.issue(&Profile::client("device").not_yet_valid()).unwrap();
        says(&folder.device(&early), Status::Warn, &["not valid yet", "set the clock"]);
    }

    #[test]
    fn a_key_that_everybody_can_read_is_worth_a_look() {
        let folder = Folder::new();
        folder.device(&folder.authority.issue_client("device").unwrap());
        fs::set_permissions(folder.path("device.key"), fs::Permissions::from_mode(0o644)).unwrap();
        says(&folder.check(), Status::Warn, &["everybody", "chmod 600"]);
    }

    #[test]
    fn files_that_are_not_there_or_hold_something_else_are_named() {
        let folder = Folder::new();
        says(&folder.check(), BAD, &["can't read the client certificate", "device.pem", "see that the file is there"]);
        let identity = folder.authority.issue_client("device").unwrap();
        folder.device(&Identity { key_pem: identity.cert_pem.clone(), ..identity.clone() });
        says(&folder.check(), BAD, &["device.key contains no private key", "openssl pkey"]);
        folder.device(&Identity { cert_pem: "hello".into(), ..identity });
        says(&folder.check(), BAD, &["device.pem contains no certificate", "openssl x509"]);
    }

    #[test]
    fn roots_are_counted_and_looked_at() {
        let folder = Folder::new();
        let two = folder.authority.ca_pem() + &Authority::new("second").unwrap().ca_pem();
        says(&folder.ca(&two), Status::Ok, &["2 certificates", "CN=root; ", "CN=second"]);
        says(&folder.ca("nothing"), BAD, &["ca.pem contains no certificate"]);
    }
}
