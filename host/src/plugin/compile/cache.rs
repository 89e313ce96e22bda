//! Native code in a folder of its own, by digest and what else it is bound to.
//!
//! The one place where native code is loaded. What is loaded was made by this program's compiler,
//! or vouched for by somebody who is trusted, and nobody but this user could have changed it since.
//!
//! ```text
//! digest of the component - what it is bound to - CRC-32 of the file .cwasm
//! ```
//!
//! Storage forgets bits, and one wrong bit in native code ends the host whenever it gets there. So each
//! file is read and measured against the checksum in its name before it is loaded. That is for decay
//! only, which CRC-32 finds, 10 MB in 0.4 ms where SHA-256 takes 22; who could forge a checksum could put
//! other code there with its own. In its name a checksum comes into being together with the file, and
//! the file is as wasmtime wrote it.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tracing::warn;
use wasmtime::component::Component;

use crate::{exposure, signature::Vouched};

/// Folders in which something is being made begin so.
const WORK: &str = "alphorn-compile-";

/// Compiled components.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// What is between digest and checksum.
    bound_to: String,
}

/// What the name of a kept file ends with.
const END: &str = ".cwasm";

impl Cache {
    pub(super) fn open(folder: PathBuf, engine: &wasmtime::Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        is_own(&folder)?;
        // From here on no link on the way leads elsewhere.
        let folder = folder.canonicalize()?;
        let cache = Self { folder, bound_to: format!("-{:016x}-", bound_to(engine)) };
        cache.retain(|_| true);
        // What an end in mid-work left; one data folder is for one host.
        for entry in fs::read_dir(&cache.folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORK) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(cache)
    }

    /// Whether still nobody else can have put anything there. Rights change, so this is asked before
    /// each load.
    pub(super) fn check(&self) -> io::Result<()> {
        is_own(&self.folder)
    }

    /// A folder of this user's to make something in.
    pub(super) fn work(cache: Option<&Self>) -> io::Result<TempDir> {
        let mut folder = tempfile::Builder::new();
        folder.prefix(WORK).permissions(fs::Permissions::from_mode(0o700));
        let folder = match cache {
            // On the same file system, so that what was made can be renamed.
            Some(cache) => folder.tempdir_in(&cache.folder),
            None => folder.tempdir_in(std::env::temp_dir().canonicalize()?),
        }?;
        is_own(folder.path())?;
        Ok(folder)
    }

    /// What is kept of this digest, if it is whole and can be used.
    pub(super) fn find(&self, engine: &wasmtime::Engine, digest: &str) -> Option<Component> {
        let (path, checksum) = fs::read_dir(&self.folder).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name();
            let (of, checksum) = self.parse(name.to_str()?)?;
            (of == digest).then(|| (entry.path(), checksum))
        })?;
        let why = match checksum_of(&path).map(|found| found == checksum) {
            Ok(true) => match load(engine, &path) {
                Ok(component) => return Some(component),
                Err(error) => format!("{error:#}"),
            },
            Ok(false) => "it is damaged: its checksum is not the one in its name".to_owned(),
            Err(error) => error.to_string(),
        };
        warn!("{} can't be used ({why}) and is compiled anew, or put there again", path.display());
        let _ = fs::remove_file(&path);
        None
    }

    /// Takes a file from a folder made by `work`, if it can be used here.
    pub(super) fn keep(
        &self,
        engine: &wasmtime::Engine,
        file: &Path,
        digest: &str,
    ) -> io::Result<wasmtime::Result<Component>> {
        self.check()?;
        let component = load(engine, file);
        if component.is_ok() {
            fs::rename(file, self.path(digest, checksum_of(file)?))?;
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(component)
    }

    /// Removes what is of other engines, of other versions of this program, or not wanted.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(END) && !self.parse(&name).is_some_and(|(digest, _)| wanted(digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn path(&self, digest: &str, checksum: u32) -> PathBuf {
        self.folder.join(format!("{digest}{}{checksum:08x}{END}", self.bound_to))
    }

    /// Digest and checksum out of a name that `path` has made.
    fn parse<'n>(&self, name: &'n str) -> Option<(&'n str, u32)> {
        let (digest, checksum) = name.strip_suffix(END)?.split_once(&self.bound_to)?;
        Some((digest, u32::from_str_radix(checksum, 16).ok().filter(|_| checksum.len() == 8)?))
    }
}

/// A folder of this user's that nobody else can write to or exchange.
fn is_own(folder: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    let own = rustix::process::geteuid().as_raw();
    let why = match () {
        () if !metadata.is_dir() => "it is no folder",
        () if metadata.uid() != own => "it belongs to another user, who could put code there",
        () if metadata.mode() & 0o077 != 0 => "other users may use it and put code there; make its mode 0700",
        () => return exposure::check_way(folder),
    };
    Err(io::Error::other(format!("{}: {why}", folder.display())))
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

/// A file's checksum; it need not be in memory for that.
fn checksum_of(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut checksum = crc32fast::Hasher::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(checksum.finalize()),
            Ok(count) => checksum.update(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What is in a file of the cache, or of a folder made by `Cache::work`.
#[allow(unsafe_code, reason = "loading native code can't be checked; see below")]
pub(super) fn load(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by this program, into a folder only this user can write to, on a way
    // nobody else can change (`is_own`, asked before each load), and is renamed into place and never changed;
    // one that has been lying there was measured against its checksum.
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
    fn a_folder_somebody_could_exchange_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let cache = Cache::open(data_dir.join("compiled"), &engine()).unwrap();
        cache.check().unwrap();
        fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(data_dir.join("compiled"), &engine()).is_err());
        let error = cache.check().unwrap_err().to_string();
        assert!(error.contains("/data: everybody may exchange"), "{error}");
        let file = data_dir.join("compiled/file");
        fs::write(&file, "").unwrap();
        assert!(cache.keep(&engine(), &file, "digest").is_err(), "nothing is loaded from there");
    }

    #[test]
    fn what_another_engine_compiled_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compiled");
        let cache = Cache::open(path.clone(), &engine()).unwrap();
        let mine = cache.path("mine", 0xabc);
        assert_eq!(cache.parse(mine.file_name().unwrap().to_str().unwrap()), Some(("mine", 0xabc)));
        fs::write(&mine, "").unwrap();
        fs::write(path.join("mine-0000000000000000-00000abc.cwasm"), "").unwrap();
        // Of a version that kept no checksums.
        fs::write(path.join(format!("mine{}.cwasm", cache.bound_to.trim_end_matches('-'))), "").unwrap();
        fs::create_dir(path.join("alphorn-compile-left")).unwrap();
        let cache = Cache::open(path.clone(), &engine()).unwrap();
        assert!(mine.exists());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        cache.retain(|_| false);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    /// A component in the cache, its file, and what is in that.
    #[cfg(feature = "compiler")]
    fn filled(folder: &Path, engine: &wasmtime::Engine) -> (Cache, PathBuf, Vec<u8>) {
        let cache = Cache::open(folder.join("compiled"), engine).unwrap();
        let text = r#"(component
            (core module $m (func (export "f") (param i32) (result i32) local.get 0 i32.const 1 i32.add))
            (core instance $i (instantiate $m))
            (func (export "f") (param "x" u32) (result u32) (canon lift (core func $i "f"))))"#;
        let code = engine.precompile_component(&wat::parse_str(text).unwrap()).unwrap();
        let work = Cache::work(Some(&cache)).unwrap();
        let file = work.path().join("out.cwasm");
        write(&file, &code).unwrap();
        cache.keep(engine, &file, "digest").unwrap().unwrap();
        let path = cache.path("digest", crc32fast::hash(&code));
        assert_eq!(fs::read(&path).unwrap(), code);
        (cache, path, code)
    }

    #[cfg(feature = "compiler")]
    #[test]
    fn no_flipped_bit_is_loaded_wherever_it_is() {
        let rounds = std::env::var("ALPHORN_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1800);
        let seed =
            std::env::var("ALPHORN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let (folder, engine) = (tempfile::tempdir().unwrap(), engine());
        let (cache, path, whole) = filled(folder.path(), &engine);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..rounds {
            let (at, bit) = (random.usize(..whole.len()), random.u8(..8));
            let mut rotten = whole.clone();
            rotten[at] ^= 1 << bit;
            fs::write(&path, &rotten).unwrap();
            let found = cache.find(&engine, "digest");
            assert!(found.is_none(), "ALPHORN_SEED={seed}, round {round}: bit {bit} of byte {at}");
            assert!(!path.exists(), "it is not tried again");
        }
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(cache.find(&engine, "digest").is_none(), "cut off at {cut}");
        }
        fs::write(&path, [&whole[..], b"\0"].concat()).unwrap();
        assert!(cache.find(&engine, "digest").is_none(), "longer");
        fs::write(&path, &whole).unwrap();
        assert!(cache.find(&engine, "digest").is_some());
        assert!(cache.find(&engine, "dig").is_none(), "another digest");
    }
}
