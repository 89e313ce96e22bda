//! Certificates made at run time, the good ones and the ones that must be refused.
//!
//! An [`Authority`] issues an [`Identity`] for each [`Profile`]. Keys are ECDSA P-256; ring,
//! the only provider in this build, cannot generate RSA keys.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};

/// How far a usable certificate reaches into the past, for clocks that do not agree.
const SKEW: Duration = Duration::days(1);

/// How far a usable certificate reaches into the future.
const LIFETIME: Duration = Duration::days(365);

/// A certificate authority whose key exists only in this process.
#[derive(Debug)]
pub struct Authority {
    /// The authority's own certificate and key.
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What an identity sends after its own certificate: empty below a root, else the
    /// certificates of the intermediates, nearest first.
    chain_pem: String,
}

impl Authority {
    /// A new root with a certificate of its own signature.
    ///
    /// # Errors
    ///
    /// Fails if the system gives no randomness for the key.
    pub fn new(common_name: &str) -> anyhow::Result<Self> {
        let issuer = CertifiedIssuer::self_signed(authority_params(common_name), KeyPair::generate()?)
            .with_context(|| format!("sign the authority {common_name:?}"))?;
        Ok(Self { issuer, chain_pem: String::new() })
    }

    /// An authority below this one. What it issues carries its certificate along, so that a
    /// peer which trusts only the root can still follow the chain.
    ///
    /// # Errors
    ///
    /// Fails if the system gives no randomness for the key.
    pub fn intermediate(&self, common_name: &str) -> anyhow::Result<Self> {
        let issuer = CertifiedIssuer::signed_by(authority_params(common_name), KeyPair::generate()?, &self.issuer)
            .with_context(|| format!("sign the intermediate authority {common_name:?}"))?;
        let chain_pem = issuer.pem() + &self.chain_pem;
        Ok(Self { issuer, chain_pem })
    }

    /// The authority's own certificate, which is what a peer trusts.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for these host names and addresses.
    ///
    /// # Errors
    ///
    /// Fails if a name is no host name, or the system gives no randomness for the key.
    pub fn issue_server(&self, names: &[&str]) -> anyhow::Result<Identity> {
        self.issue(&Profile::server(names))
    }

    /// A client certificate with this common name.
    ///
    /// # Errors
    ///
    /// Fails if the system gives no randomness for the key.
    pub fn issue_client(&self, common_name: &str) -> anyhow::Result<Identity> {
        self.issue(&Profile::client(common_name))
    }

    /// A certificate that is exactly as good or as bad as its profile says.
    ///
    /// # Errors
    ///
    /// Fails if a name is no host name, or the system gives no randomness for the key.
    pub fn issue(&self, profile: &Profile) -> anyhow::Result<Identity> {
        let Profile { common_name, names, usage, not_before, not_after } = profile;
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(names.as_slice()).with_context(|| format!("certificate names {names:?}"))?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage.clone()];
        params.use_authority_key_identifier_extension = true;
        params.not_before = *not_before;
        params.not_after = *not_after;
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("sign the certificate of {common_name:?}"))?;
        Ok(Identity { cert_pem: certificate.pem() + &self.chain_pem, key_pem: key.serialize_pem() })
    }
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + LIFETIME;
    params
}

/// What a certificate says. Usable unless one of the methods spoils it.
///
/// A wrong host name needs no method (`Profile::server(&["elsewhere.invalid"])`), nor does a
/// certificate of a stranger: let another [`Authority`] issue it.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Subject; servers are told apart by `names`, clients by this.
    common_name: String,
    /// Host names and addresses; empty for a client.
    names: Vec<String>,
    /// Server or client authentication, never both: a peer that mixes them up must notice.
    usage: ExtendedKeyUsagePurpose,
    /// First moment of validity.
    not_before: OffsetDateTime,
    /// Last moment of validity.
    not_after: OffsetDateTime,
}

impl Profile {
    /// A server with these host names and addresses.
    #[must_use]
    pub fn server(names: &[&str]) -> Self {
        let common_name = names.first().copied().unwrap_or("server");
        Self {
            names: names.iter().map(ToString::to_string).collect(),
            ..Self::with_usage(common_name, ExtendedKeyUsagePurpose::ServerAuth)
        }
    }

    /// A client with this common name.
    #[must_use]
    pub fn client(common_name: &str) -> Self {
        Self::with_usage(common_name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Valid until an hour ago.
    #[must_use]
    pub fn expired(mut self) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now - Duration::days(30);
        self.not_after = now - Duration::hours(1);
        self
    }

    /// Valid from tomorrow on.
    #[must_use]
    pub fn not_yet_valid(mut self) -> Self {
        self.not_before = OffsetDateTime::now_utc() + Duration::days(1);
        self
    }

    fn with_usage(common_name: &str, usage: ExtendedKeyUsagePurpose) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            common_name: common_name.to_owned(),
            names: Vec::new(),
            usage,
            not_before: now - SKEW,
            not_after: now + LIFETIME,
        }
    }
}

/// A certificate with the chain it needs, and its private key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, then the intermediates above it.
    pub cert_pem: String,
    /// The key as PKCS#8 (`-----BEGIN PRIVATE KEY-----`).
    pub key_pem: String,
}

impl Identity {
    /// The key as SEC1 (`-----BEGIN EC PRIVATE KEY-----`), the form of `openssl ecparam -genkey`.
    ///
    /// # Errors
    ///
    /// Fails if the key is not one that this module made.
    pub fn key_sec1_pem(&self) -> anyhow::Result<String> {
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes()).context("read the PKCS#8 key")?;
        let sec1 = sec1_from_pkcs8(pkcs8.secret_pkcs8_der()).context("the key is not a P-256 key as ring writes it")?;
        // `pem` ends lines with CRLF unless told otherwise; the PKCS#8 form has LF.
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Ok(pem::encode_config(&pem::Pem::new("EC PRIVATE KEY", sec1), config))
    }

    /// The same certificate as X.509 version 1: without extensions, as `openssl x509 -req` makes it
    /// unless told otherwise. Its signature is void.
    ///
    /// # Errors
    ///
    /// Fails if the certificate is not one that this module made.
    pub fn version_1(mut self) -> anyhow::Result<Self> {
        let certificate = pem::parse(&self.cert_pem).context("read the certificate")?;
        let der = version_1(certificate.contents()).context("the certificate is not of three parts in DER")?;
        self.cert_pem = pem::encode(&pem::Pem::new("CERTIFICATE", der));
        Ok(self)
    }

    /// Writes `<stem>.pem` and `<stem>.key` into the folder and returns their paths. Only the
    /// owner can read the key; files that are already there are replaced.
    ///
    /// # Errors
    ///
    /// Fails if one of the files cannot be written.
    pub fn write(&self, dir: &Path, stem: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let cert_path = dir.join(format!("{stem}.pem"));
        let key_path = dir.join(format!("{stem}.key"));
        fs::write(&cert_path, &self.cert_pem).with_context(|| format!("write {}", cert_path.display()))?;
        write_secret(&key_path, &self.key_pem).with_context(|| format!("write {}", key_path.display()))?;
        Ok((cert_path, key_path))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A mode given to `open` counts only for a file that it creates, hence the removal before.
fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(secret.as_bytes())
}

/// The constant parts of the two encodings of a P-256 key pair. The scalar of 32 bytes stands
/// between head and middle, the uncompressed public point of 65 bytes after the middle.
mod p256 {
    /// RFC 5208 around RFC 5915 without parameters, as in ring's template.
    pub(super) const PKCS8_HEAD: &[u8] = &[
        0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
        0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01, 0x04, 0x20,
    ];
    /// Tag and lengths of the public key.
    pub(super) const PUBLIC_HEAD: &[u8] = &[0xa1, 0x44, 0x03, 0x42, 0x00];
    /// RFC 5915 up to the scalar.
    pub(super) const SEC1_HEAD: &[u8] = &[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
    /// The curve, which only the PKCS#8 form names elsewhere.
    pub(super) const SEC1_CURVE: &[u8] = &[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    /// Length of the private scalar.
    pub(super) const SCALAR: usize = 32;
    /// Length of the uncompressed public point.
    pub(super) const POINT: usize = 65;
}

/// Leaves out the version, which is that of the default then, and the extensions (RFC 5280, 4.1).
fn version_1(certificate: &[u8]) -> Option<Vec<u8>> {
    const VERSION: u8 = 0xa0;
    const EXTENSIONS: u8 = 0xa3;
    let whole = elements(certificate)?;
    let [(_, signed)] = whole.as_slice() else { return None };
    let parts = elements(content(signed)?)?;
    let [(_, to_sign), rest @ ..] = parts.as_slice() else { return None };
    let fields = elements(content(to_sign)?)?;
    let kept = fields.iter().filter(|(tag, _)| ![VERSION, EXTENSIONS].contains(tag)).map(|(_, field)| *field);
    let to_sign = sequence(&kept.collect::<Vec<_>>().concat());
    let rest: Vec<_> = rest.iter().map(|(_, part)| *part).collect();
    Some(sequence(&[to_sign, rest.concat()].concat()))
}

/// The elements of DER in a row, each with its tag, and with its head.
fn elements(mut der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let Some(tag) = der.first() {
        let (element, rest) = der.split_at_checked(head(der)? + content(der)?.len())?;
        found.push((*tag, element));
        der = rest;
    }
    Some(found)
}

/// How long the tag and the length of an element are.
fn head(element: &[u8]) -> Option<usize> {
    let length = *element.get(1)?;
    Some(if length < 0x80 { 2 } else { 2 + usize::from(length & 0x7f) })
}

fn content(element: &[u8]) -> Option<&[u8]> {
    let head = head(element)?;
    let length = match element.get(2..head)? {
        [] => usize::from(*element.get(1)?),
        bytes => bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
    };
    element.get(head..head.checked_add(length)?)
}

fn sequence(content: &[u8]) -> Vec<u8> {
    // Two bytes of length, whatever it is: who reads a certificate here does not mind.
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&[0x30, 0x82][..], &length.to_be_bytes(), content].concat()
}

fn sec1_from_pkcs8(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (scalar, rest) = pkcs8.strip_prefix(p256::PKCS8_HEAD)?.split_at_checked(p256::SCALAR)?;
    let point = rest.strip_prefix(p256::PUBLIC_HEAD)?;
    if point.len() != p256::POINT {
        return None;
    }
    let parts = [p256::SEC1_HEAD, scalar, p256::SEC1_CURVE, p256::PUBLIC_HEAD, point];
    Some(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;

    fn identity() -> anyhow::Result<Identity> {
        Authority::new("root")?.issue_client("device")
    }

    #[test]
    fn key_is_the_same_in_both_forms() -> anyhow::Result<()> {
        let identity = identity()?;
        let sec1 = identity.key_sec1_pem()?;
        assert!(sec1.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
        assert_eq!(public_key(&sec1)?, public_key(&identity.key_pem)?);
        Ok(())
    }

    #[test]
    fn foreign_key_has_no_sec1_form() -> anyhow::Result<()> {
        let foreign = Identity { key_pem: KeyPair::generate_for(&rcgen::PKCS_ED25519)?.serialize_pem(), ..identity()? };
        assert!(foreign.key_sec1_pem().is_err());
        Ok(())
    }

    #[test]
    fn debug_output_keeps_the_key_secret() -> anyhow::Result<()> {
        assert!(!format!("{:?}", identity()?).contains("PRIVATE KEY"));
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn key_file_is_private_even_where_a_public_one_stood() -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir()?;
        let stale = dir.path().join("device.key");
        fs::write(&stale, "old")?;
        fs::set_permissions(&stale, fs::Permissions::from_mode(0o644))?;

        let identity = identity()?;
        let (cert, key) = identity.write(dir.path(), "device")?;
        assert_eq!(key, stale);
        assert_eq!(fs::read_to_string(cert)?, identity.cert_pem);
        assert_eq!(fs::read_to_string(&key)?, identity.key_pem);
        assert_eq!(fs::metadata(key)?.permissions().mode() & 0o777, 0o600);
        Ok(())
    }

    fn public_key(pem: &str) -> anyhow::Result<Vec<u8>> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key)?;
        let public = signing.public_key().context("no public key")?;
        Ok(public.to_vec())
    }
}
