//! Who vouches for a file: minisign signatures, and the keys that are trusted.
//!
//! A signature lies beside its file, as the programs `minisign` and `rsign` make it. It covers the
//! file and a comment, in which `alphorn build --aot` says what the file was made from.

#[cfg(feature = "compiler")]
mod signing;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use minisign_verify::{Error, PublicKey, Signature};

#[cfg(feature = "compiler")]
pub use self::signing::{KeyPair, Signer, SigningError};

/// Keys whose signatures are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<TrustedKey>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct TrustedKey {
    id: String,
    key: PublicKey,
}

/// Bytes a trusted key has signed. Only [`TrustedKeys::vouch`] makes one.
#[derive(Debug)]
pub struct Vouched {
    bytes: Vec<u8>,
    seal: Seal,
}

/// A signature: who made it and what it says. That it is true is another matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The key's id, as minisign shows it.
    pub key: String,
    /// The comment it covers.
    pub comment: String,
    text: String,
}

/// A text that is no public key.
#[derive(Debug, thiserror::Error)]
#[error("it is no minisign public key: that is a line that begins with RW, alone or under a comment")]
pub struct KeyError;

/// Why a signature is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Not what minisign writes.
    #[error("the signature is no minisign signature, or is damaged: sign the file again")]
    Malformed,
    /// Signed as minisign did before 0.10.
    #[error("the signature is of minisign's old form: sign the file again with a newer one")]
    Legacy,
    /// Of another key.
    #[error("it is signed by key {key}, and {}", among(.trusted))]
    UnknownKey {
        /// Its id.
        key: String,
        /// The ids of those that are trusted.
        trusted: Vec<String>,
    },
    /// Of a trusted key, but of another file, or with another comment.
    #[error("the signature of key {key} is not for this file as it is: either was changed; sign the file again")]
    Altered {
        /// Its id.
        key: String,
    },
}

impl TrustedKeys {
    /// One more: the text of a `.pub` file, or its last line alone.
    pub fn add(&mut self, text: &str) -> Result<(), KeyError> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let key = PublicKey::from_base64(line).map_err(|_| KeyError)?;
        let key = TrustedKey { id: id(line).ok_or(KeyError)?, key };
        if !self.0.contains(&key) {
            self.0.push(key);
        }
        Ok(())
    }

    /// The bytes, if a trusted key has signed them: these, and not what a file holds by now.
    pub fn vouch(&self, bytes: Vec<u8>, signature: &str) -> Result<Vouched, Untrusted> {
        let seal = Seal::parse(signature)?;
        let signature = Signature::decode(signature).map_err(|_| Untrusted::Malformed)?;
        // Anybody may choose an id, so that two keys may have the same.
        let mut same_id = self.0.iter().filter(|key| key.id == seal.key).peekable();
        if same_id.peek().is_none() {
            let trusted = self.0.iter().map(|key| key.id.clone()).collect();
            return Err(Untrusted::UnknownKey { key: seal.key, trusted });
        }
        for key in same_id {
            match key.key.verify(&bytes, &signature, false) {
                Ok(()) => return Ok(Vouched { bytes, seal }),
                Err(Error::UnexpectedAlgorithm) => return Err(Untrusted::Legacy),
                Err(_) => {}
            }
        }
        Err(Untrusted::Altered { key: seal.key })
    }
}

impl Vouched {
    /// What was signed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The signature.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }
}

impl Seal {
    /// Reads a signature without asking whether it is true.
    pub fn parse(text: &str) -> Result<Self, Untrusted> {
        let signature = Signature::decode(text).map_err(|_| Untrusted::Malformed)?;
        let key = text.lines().nth(1).and_then(id).ok_or(Untrusted::Malformed)?;
        Ok(Self { key, comment: signature.trusted_comment().to_owned(), text: text.to_owned() })
    }

    /// As it is in the file.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Who signed it and what that says, in words fit for a terminal.
impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comment = self.comment.replace('\t', " ");
        write!(f, "by key {}: {}", self.key, comment.replace(char::is_control, "?"))
    }
}

/// Where the signature of a file is.
pub fn beside(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}

/// The id in a key's or a signature's line: two bytes of algorithm, then eight of id.
fn id(line: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(line.trim()).ok()?;
    let id = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

fn among(trusted: &[String]) -> String {
    if trusted.is_empty() {
        return "no key is trusted here: name those that are in `[host] trusted_keys`".to_owned();
    }
    format!("trusted are {}: sign it with one of these, or add that key to `[host] trusted_keys`", trusted.join(", "))
}

#[cfg(feature = "compiler")]
#[cfg(test)]
mod tests {
    use super::*;

    fn signed(pair: &KeyPair, bytes: &[u8]) -> String {
        Signer::read(&pair.secret, None).unwrap().sign(bytes, "sha256:0").unwrap()
    }

    fn refused(keys: &TrustedKeys, bytes: &[u8], signature: &str) -> String {
        keys.vouch(bytes.to_vec(), signature).unwrap_err().to_string()
    }

    #[test]
    fn bytes_that_a_trusted_key_has_signed_are_vouched_for_and_no_others() {
        let (mine, other) = (KeyPair::make(None).unwrap(), KeyPair::make(None).unwrap());
        let mut keys = TrustedKeys::default();
        let signature = signed(&mine, b"code");
        assert!(refused(&keys, b"code", &signature).contains("no key is trusted"));
        keys.add(&other.public).unwrap();
        assert!(refused(&keys, b"code", &signature).contains(&other.id), "which are trusted");
        // A file's text, or its line.
        keys.add(&mine.public).unwrap();
        keys.add(mine.public.lines().last().unwrap()).unwrap();
        assert_eq!(keys.0.len(), 2);
        let vouched = keys.vouch(b"code".to_vec(), &signature).unwrap();
        assert_eq!((vouched.bytes(), vouched.seal().comment.as_str()), (b"code".as_slice(), "sha256:0"));
        assert_eq!(vouched.seal().key, mine.id);
        let altered = format!("key {} is not for this file", mine.id);
        assert!(refused(&keys, b"Code", &signature).contains(&altered));
        assert!(refused(&keys, b"code", &signature.replace("sha256:0", "sha256:1")).contains(&altered));
        assert!(refused(&keys, b"code", "nonsense").contains("no minisign signature"));
    }

    #[test]
    fn damaged_signatures_and_keys_are_refused_and_nothing_panics() {
        let pair = KeyPair::make(None).unwrap();
        let mut keys = TrustedKeys::default();
        keys.add(&pair.public).unwrap();
        let whole = signed(&pair, b"code");
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut bent = whole.clone().into_bytes();
            // The first comment is covered by nothing.
            let first = whole.find('\n').unwrap() + 1;
            let at = random.usize(first..bent.len() - 1);
            bent[at] = bent[at].wrapping_add(random.u8(1..));
            let bent = String::from_utf8_lossy(&bent).into_owned();
            assert!(keys.vouch(b"code".to_vec(), &bent).is_err(), "{bent}");
        }
        for text in ["", "RW", "\n\n", &whole, &pair.secret] {
            assert!(keys.clone().add(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_with_a_password_needs_it() {
        let pair = KeyPair::make(Some("secret".to_owned())).unwrap();
        assert!(Signer::needs_password(&pair.secret).unwrap());
        let wrong = Signer::read(&pair.secret, Some("guess".to_owned())).unwrap_err();
        assert!(wrong.to_string().contains("password"), "{wrong}");
        let signature = Signer::read(&pair.secret, Some("secret".to_owned())).unwrap().sign(b"code", "").unwrap();
        let mut keys = TrustedKeys::default();
        keys.add(&pair.public).unwrap();
        keys.vouch(b"code".to_vec(), &signature).unwrap();
    }

    #[test]
    fn a_comment_cannot_play_tricks_with_a_terminal() {
        let seal = Seal { key: "A".to_owned(), comment: "file:x\tred:\u{1b}[31m".to_owned(), text: String::new() };
        assert_eq!(seal.to_string(), "by key A: file:x red:?[31m");
    }
}
