//! Making keys and signatures. Only where something is compiled: a device that is given what was
//! compiled has no use for it.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use minisign::SecretKeyBox;

/// Two keys that belong together, as texts of files.
pub struct KeyPair {
    /// The public key's id.
    pub id: String,
    /// For everybody.
    pub public: String,
    /// For its owner alone.
    pub secret: String,
}

/// Who signs.
pub struct Signer {
    key: minisign::SecretKey,
}

/// Why there is no key, or no signature.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// Something else.
    #[error("it is no minisign secret key: `alphorn keygen` makes one")]
    Malformed,
    /// Not that of this key.
    #[error("the password is not the key's")]
    Password,
    /// Something that should always work.
    #[error("minisign: {0}")]
    Other(String),
}

impl KeyPair {
    /// A new pair. Without a password the secret key is as safe as its file.
    pub fn make(password: Option<String>) -> Result<Self, SigningError> {
        let pair = match password {
            Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password)),
            None => minisign::KeyPair::generate_unencrypted_keypair(),
        };
        let pair = pair.map_err(other)?;
        let public = pair.pk.to_box().map_err(other)?.into_string();
        let secret = pair.sk.to_box(Some("alphorn secret key")).map_err(other)?.into_string();
        let id = public.lines().last().and_then(super::id).ok_or(SigningError::Malformed)?;
        Ok(Self { id, public, secret })
    }
}

impl Signer {
    /// Whether the key is of use only with a password.
    pub fn needs_password(secret: &str) -> Result<bool, SigningError> {
        let line = secret.lines().nth(1).unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(line.trim()).map_err(|_| SigningError::Malformed)?;
        // Two bytes of algorithm, then two that say how the password becomes a key.
        bytes.get(2..4).map(|algorithm| algorithm != [0, 0]).ok_or(SigningError::Malformed)
    }

    /// Takes the text of a secret key's file.
    pub fn read(secret: &str, password: Option<String>) -> Result<Self, SigningError> {
        let secret = SecretKeyBox::from_string(secret).map_err(|_| SigningError::Malformed)?;
        let key = match password {
            Some(password) => secret.into_secret_key(Some(password)).map_err(|_| SigningError::Password),
            None => secret.into_unencrypted_secret_key().map_err(|_| SigningError::Malformed),
        };
        Ok(Self { key: key? })
    }

    /// The text of a signature for these bytes and this comment.
    pub fn sign(&self, bytes: &[u8], comment: &str) -> Result<String, SigningError> {
        let untrusted = "signature by alphorn";
        let signature = minisign::sign(None, &self.key, bytes, Some(comment), Some(untrusted)).map_err(other)?;
        Ok(signature.into_string())
    }
}

/// Not the keys: these are secret.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

fn other(error: minisign::PError) -> SigningError {
    SigningError::Other(error.to_string())
}
