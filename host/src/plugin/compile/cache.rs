//! Native code in a folder of its own, by digest and what else it is bound to.
//!
//! The one place where native code is loaded. What is loaded was made by this program's compiler,
//! or vouched for by somebody who is trusted, and nobody but this user could have changed it since.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tracing::warn;
use wasmtime::component::Component;

use crate::signature::Vouched;

/// Folders in which something is being made begin so.
const WORK: &str = "alphorn-compile-";

/// Compiled components.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    suffix: String,
}

impl Cache {
    pub(super) fn open(folder: PathBuf, engine: &wasmtime::Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let metadata = fs::symlink_metadata(&folder)?;
        let own = rustix::process::geteuid().as_raw();
        let why = match () {
            () if !metadata.is_dir() => "it is no folder",
            () if metadata.uid() != own => "it belongs to another user, who could put code there",
            () if metadata.mode() & 0o077 != 0 => "other users may use it and put code there; make its mode 0700",
            () => "",
        };
        if !why.is_empty() {
            return Err(io::Error::other(format!("{}: {why}", folder.display())));
        }
        let cache = Self { folder, suffix: format!("-{:016x}.cwasm", bound_to(engine)) };
        cache.retain(|_| true);
        // What an end in mid-work left; one data folder is for one host.
        for entry in fs::read_dir(&cache.folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORK) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(cache)
    }

    /// A folder of this user's to make something in.
    pub(super) fn work(cache: Option<&Self>) -> io::Result<TempDir> {
        let mut folder = tempfile::Builder::new();
        folder.prefix(WORK);
        match cache {
            // On the same file system, so that what was made can be renamed.
            Some(cache) => folder.tempdir_in(&cache.folder),
            None => folder.tempdir(),
        }
    }

    /// What is kept of this digest, if it can be used.
    pub(super) fn find(&self, engine: &wasmtime::Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        if !path.exists() {
            return None;
        }
        load(engine, &path)
            .inspect_err(|error| {
                warn!("{} can't be used ({error:#}) and is compiled anew, or put there again", path.display());
                let _ = fs::remove_file(&path);
            })
            .ok()
    }

    /// Takes a file from a folder made by `work`, if it can be used here.
    pub(super) fn keep(
        &self,
        engine: &wasmtime::Engine,
        file: &Path,
        digest: &str,
    ) -> io::Result<wasmtime::Result<Component>> {
        let component = load(engine, file);
        if component.is_ok() {
            fs::rename(file, self.path(digest))?;
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(component)
    }

    /// Removes what is of other engines or not wanted.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.strip_suffix(&self.suffix).is_some_and(&wanted) && name.ends_with(".cwasm") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}{}", self.suffix))
    }
}

/// What the code of this host's compiler is bound to: all settings of the engine, and its version.
#[cfg(feature = "compiler")]
fn bound_to(engine: &wasmtime::Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Without a compiler it is the program's own version; that code fits is found out when it is loaded.
#[cfg(not(feature = "compiler"))]
fn bound_to(_: &wasmtime::Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), env!("WASMTIME_VERSION")).hash(&mut hasher);
    hasher.finish()
}

/// A new file, on disk when this returns.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What is in a file of the cache, or of a folder made by `Cache::work`.
#[allow(unsafe_code, reason = "loading native code can't be checked; see below")]
pub(super) fn load(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by this program, into a folder only this user can write to
    // (`Cache::open`, or a private temporary one), and is renamed into place and never changed.
    // What was written is the compiler's, or was vouched for (`accept`, which has a `Vouched`).
    unsafe { Component::deserialize_file(engine, path) }
}

/// The same from memory, for a host that keeps nothing.
#[allow(unsafe_code, reason = "loading native code can't be checked; see below")]
pub(super) fn copy(engine: &wasmtime::Engine, code: &Vouched) -> wasmtime::Result<Component> {
    // SAFETY: these very bytes are signed by a key the configuration trusts with native code;
    // nothing else makes a `Vouched`.
    unsafe { Component::deserialize(engine, code.bytes()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn engine() -> wasmtime::Engine {
        wasmtime::Engine::new(&super::super::super::engine::config()).unwrap()
    }

    #[test]
    fn a_folder_others_can_write_to_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compiled");
        Cache::open(path.clone(), &engine()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        let error = Cache::open(path, &engine()).unwrap_err().to_string();
        assert!(error.contains("0700"), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Cache::open(file, &engine()).is_err());
    }

    #[test]
    fn what_another_engine_compiled_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compiled");
        let cache = Cache::open(path.clone(), &engine()).unwrap();
        fs::write(cache.path("mine"), "").unwrap();
        fs::write(path.join("mine-0000000000000000.cwasm"), "").unwrap();
        fs::create_dir(path.join("alphorn-compile-left")).unwrap();
        let cache = Cache::open(path.clone(), &engine()).unwrap();
        assert!(cache.path("mine").exists());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        cache.retain(|_| false);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
}
