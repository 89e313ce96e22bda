//! rustls settings from the configuration.
//!
//! One TLS stack, one crypto provider: ring, always passed explicitly, since a process
//! default could be missing or another one.

mod failure;
mod witness;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, Error, RootCertStore,
    client::{ResolvesClientCert, WebPkiServerVerifier},
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};
use x509_parser::{
    nom::Parser as _,
    prelude::{X509Certificate, X509CertificateParser, X509Result, X509Version},
};

pub use self::failure::{TlsFailure, TlsPart};
pub(super) use self::witness::ServerChain;
use self::witness::Witness;
use crate::regular_file::{self, CERTIFICATES, SECRET};

/// What the configuration says about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Trusted certificates, PEM; none: the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Offered by ALPN, the first the most wanted; empty: none are.
    pub alpn: Vec<String>,
    /// It can't be earlier than this, whatever the system's clock says: certificates are
    /// checked against the later of the two.
    pub not_before: Option<SystemTime>,
}

/// The files do not make a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read the {what} {}: {cause}", path.display())]
    Read {
        /// Which of the files.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        cause: rustls::pki_types::pem::Error,
    },
    /// A file has no PEM block of the right kind.
    #[error("the {what} {} contains no {wanted} in PEM form{}", path.display(), if *.what == "key" { ": it has to be PKCS#8, PKCS#1 or SEC1 and not encrypted" } else { "" })]
    Empty {
        /// Which of the files.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What it should contain.
        wanted: &'static str,
    },
    /// A certificate in the CA file can't be used.
    #[error("the CA file {} contains a certificate that can't be used: {cause}", path.display())]
    Ca {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        cause: Error,
    },
    /// The system has no roots.
    #[error("the system has no trusted root certificates ({0}): install ca-certificates, or name a file with `ca`")]
    NoSystemRoots(String),
    /// They were made for different identities.
    #[error("the key {} does not belong to the certificate {}: their public keys differ", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Its form is of 1988, which the TLS library does not read.
    #[error("the client certificate {} is of X.509 version 1, and TLS here takes version 3 only: `openssl x509 -req` makes version 1 unless it is given extensions (-extfile)", cert.display())]
    Version1 {
        /// The certificate's file.
        cert: PathBuf,
    },
    /// Certificate or key are of a kind that can't be used.
    #[error("the certificate {} and the key {} can't be used: {cause}", cert.display(), key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        cause: Error,
    },
}

/// Reads the files and makes the configuration for a connection. It is done anew for
/// each connection, so files that changed are picked up.
pub fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    witnessed(settings).map(|(config, _)| config)
}

/// The same, and where the server's certificates will be found after the handshake.
pub(super) fn witnessed(settings: &TlsSettings) -> Result<(ClientConfig, ServerChain), TlsError> {
    let judge = WebPkiServerVerifier::builder_with_provider(roots(settings.ca.as_deref())?.into(), provider())
        .build()
        .unwrap_or_else(|_| unreachable!("there are roots, and no revocation lists"));
    let seen = ServerChain::default();
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Clock { not_before: settings.not_before }))
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("ring has cipher suites for TLS 1.2 and 1.3"))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Witness { judge, seen: seen.clone() }));
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder.with_client_cert_resolver(identity(cert, key)?),
    };
    config.alpn_protocols = settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    // AWS IoT Core has no session tickets, and a config lives for one connection.
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, seen))
}

/// The device's certificate with something that signs for it. The one place that knows
/// where the key is: one that a TPM or a PKCS#11 token holds would be another
/// [`rustls::sign::SigningKey`] here, and nothing else would change.
pub(crate) fn identity(cert: &Path, key: &Path) -> Result<Arc<dyn ResolvesClientCert>, TlsError> {
    let chain = certificates("client certificate", cert)?;
    let unusable = |cause| TlsError::Identity { cert: cert.into(), key: key.into(), cause };
    if chain.first().is_some_and(|own| is_version_1(own)) {
        return Err(TlsError::Version1 { cert: cert.into() });
    }
    let signing = provider().key_provider.load_private_key(private_key(key)?).map_err(unusable)?;
    let identity = CertifiedKey::new(chain, signing);
    match identity.keys_match() {
        // A key that does not tell its public half can't be compared.
        Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => return Err(TlsError::Mismatch { cert: cert.into(), key: key.into() }),
        Err(cause) => return Err(unusable(cause)),
    }
    Ok(Arc::new(SingleCertAndKey::from(identity)))
}

/// Reads a certificate, and none of its extensions: there are many, and who needs one reads that.
pub(crate) fn read_certificate(der: &[u8]) -> X509Result<'_, X509Certificate<'_>> {
    X509CertificateParser::new().with_deep_parse_extensions(false).parse(der)
}

/// Whether a certificate can be read, and has the form without extensions.
pub(super) fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    read_certificate(certificate).is_ok_and(|(_, parsed)| parsed.version() == X509Version::V1)
}

/// The system's clock, which on a device may start in 1970.
#[derive(Debug)]
struct Clock {
    not_before: Option<SystemTime>,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now();
        let now = self.not_before.map_or(now, |not_before| not_before.max(now));
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(since_1970))
    }
}

/// The one crypto provider of the program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The ALPN names offered, for messages.
pub(super) fn offered(settings: &TlsSettings) -> String {
    match settings.alpn.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// The certificates that servers are measured by: those of a file, or the system's.
pub(crate) fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates("CA file", path)? {
                roots.add(certificate).map_err(|cause| TlsError::Ca { path: path.into(), cause })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let cause = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
                return Err(TlsError::NoSystemRoots(cause));
            }
        }
    }
    Ok(roots)
}

/// The certificates of a file, at least one.
pub(crate) fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |cause| TlsError::Read { what, path: path.into(), cause };
    let bytes = regular_file::read(path, CERTIFICATES).map_err(|cause| read(pem::Error::Io(cause)))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(read)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what, path: path.into(), wanted: "certificate" });
    }
    Ok(certificates)
}

/// The key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "key";
    let read = |cause| TlsError::Read { what, path: path.into(), cause };
    let bytes = regular_file::read(path, SECRET).map_err(|cause| read(pem::Error::Io(cause)))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|cause| match cause {
        pem::Error::NoItemsFound => TlsError::Empty { what, path: path.into(), wanted: "private key" },
        cause => read(cause),
    })
}
