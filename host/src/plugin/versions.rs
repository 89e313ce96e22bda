//! The components that were in force, on disk by their digest: what a roll-back needs when
//! the file they came from is another one by now.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::component::hexadecimal;
use crate::regular_file;
use crate::signature::{self, Seal};

/// `data_dir/components`.
#[derive(Debug, Clone)]
pub struct Versions {
    /// None: nothing is kept on disk.
    folder: Option<PathBuf>,
    /// Held by who puts a version in force, until others can see which.
    in_use: Arc<RwLock<()>>,
}

/// As long as this lives no version is removed.
#[derive(Debug)]
pub(super) struct InUse {
    _guard: OwnedRwLockReadGuard<()>,
}

impl Versions {
    /// Within the host's folder.
    pub fn within(data_dir: Option<&Path>) -> Self {
        Self { folder: data_dir.map(|folder| folder.join("components")), in_use: Arc::default() }
    }

    /// Keeps all there are for a while.
    pub(super) async fn hold(&self) -> InUse {
        InUse { _guard: self.in_use.clone().read_owned().await }
    }

    /// Where the version of this digest is, if it is there and whole.
    pub(super) fn find(&self, digest: &str) -> Option<PathBuf> {
        [COMPONENT, COMPILED].into_iter().find_map(|end| {
            let path = self.path(digest, end)?;
            (self::digest(&path).ok()? == digest).then_some(path)
        })
    }

    /// Keeps a copy of the file, which has to have this digest; of a compiled one the signature
    /// too, since that is asked for at each start.
    pub(super) fn keep(&self, file: &Path, digest: &str, seal: Option<&Seal>) -> io::Result<()> {
        let end = if seal.is_some() { COMPILED } else { COMPONENT };
        let (Some(folder), Some(path)) = (&self.folder, self.path(digest, end)) else { return Ok(()) };
        if let Some(seal) = seal {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // The last one: the key of an earlier one may not be trusted any more.
            put(folder, &signature::beside(&path), seal.text().as_bytes())?;
        }
        if path.try_exists()? {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Piece by piece: many plugins may do so at once.
        let mut file = regular_file::open(file, regular_file::COMPONENT)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        if copy(&mut file, &mut temporary)? != digest {
            return Err(io::Error::other("it has changed meanwhile"));
        }
        place(folder, &path, temporary)
    }

    /// Removes all but those that are wanted, unless somebody is about to put one in force. Failing
    /// to do so harms nobody. None: it is not known which.
    pub fn tidy(&self, wanted: impl FnOnce() -> Option<HashSet<String>>) -> Option<HashSet<String>> {
        let _alone = self.in_use.try_write().ok()?;
        let digests = wanted()?;
        self.keep_only(&digests);
        Some(digests)
    }

    fn keep_only(&self, digests: &HashSet<String>) {
        let Some(Ok(entries)) = self.folder.as_ref().map(fs::read_dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.split('.').next().is_some_and(|digest| digests.contains(digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, digest: &str, end: &str) -> Option<PathBuf> {
        // A digest from a file that is not ours to trust must not lead elsewhere.
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(self.folder.as_ref().filter(|_| is_digest)?.join(format!("{digest}.{end}")))
    }
}

/// What a version's file ends with.
const COMPONENT: &str = "wasm";
const COMPILED: &str = "cwasm";

/// Puts a file in place, whole or not at all.
fn put(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(bytes)?;
    place(folder, path, temporary)
}

fn place(folder: &Path, path: &Path, temporary: tempfile::NamedTempFile) -> io::Result<()> {
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// The digest of a file, which need not be in memory for that.
pub(super) fn digest(path: &Path) -> io::Result<String> {
    copy(&mut regular_file::open(path, regular_file::COMPONENT)?, &mut io::sink())
}

/// The digest of what was copied.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<String> {
    let mut from = from.take(regular_file::COMPONENT + 1);
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut piece)?;
        match piece.get(..count) {
            Some(piece) if count > 0 => {
                hasher.update(piece);
                to.write_all(piece)?;
            }
            _ => return Ok(hexadecimal(&hasher.finalize())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_version_outlasts_the_file_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::within(Some(folder.path()));
        let file = folder.path().join("plugin.wasm");
        fs::write(&file, "one").unwrap();
        let one = digest(&file).unwrap();
        versions.keep(&file, &one, None).unwrap();
        fs::write(&file, "two").unwrap();
        assert!(versions.keep(&file, &"0".repeat(64), None).is_err(), "another file by now");
        assert_eq!(fs::read(versions.find(&one).unwrap()).unwrap(), b"one");
        assert_eq!(versions.find("../../etc/passwd"), None);
        fs::write(versions.find(&one).unwrap(), "damaged").unwrap();
        assert_eq!(versions.find(&one), None);
        let held = versions.hold().await;
        assert_eq!(versions.tidy(|| Some(HashSet::new())), None, "somebody may be about to use one");
        drop(held);
        assert_eq!(versions.tidy(|| None), None);
        assert_eq!(fs::read_dir(folder.path().join("components")).unwrap().count(), 1);
        assert_eq!(versions.tidy(|| Some(HashSet::new())), Some(HashSet::new()));
        assert_eq!(fs::read_dir(folder.path().join("components")).unwrap().count(), 0);
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let versions = Versions::within(None);
        versions.keep(Path::new("/nowhere"), "", None).unwrap();
        assert_eq!(versions.find("a"), None);
    }
}
