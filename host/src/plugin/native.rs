//! Components that were compiled elsewhere: what such a file is, and whether it may run here.
//!
//! They are native code, which can do whatever the host can. So one runs only if the bytes that
//! are loaded are signed by a key of `[host] trusted_keys`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use object::{
    Endianness, Object as _, ObjectSection as _,
    read::elf::{ElfFile64, FileHeader as _},
};

use super::compile::TARGET;
use crate::regular_file::{self, SECRET};
use crate::signature::{self, Seal, TrustedKeys, Untrusted, Vouched};

/// What a compiled component says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// What it was compiled for.
    pub target: String,
    /// The major version of the wasmtime it was compiled by, and that can run it.
    pub wasmtime: String,
}

/// A compiled component: what it says of itself, and who has signed it.
#[derive(Debug, Clone)]
pub struct Native {
    /// What it was compiled for.
    pub heading: Heading,
    /// None: nobody. Whether it is true, and whether the key is trusted, is another matter.
    pub seal: Option<Seal>,
}

/// Why a compiled file does not run. Each names the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// An ELF file of something else.
    #[error(
        "{} is native code, but not a compiled component: `alphorn build --aot` makes one", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// There is no signature beside it.
    #[error(
        "{} is compiled, so it could do whatever the host can, and it is not signed: there is no {}. \
         `alphorn build --aot --key FILE` compiles and signs; the signature has to lie beside it",
        path.display(), signature::beside(path).display())]
    Unsigned {
        /// The file.
        path: PathBuf,
    },
    /// There is one that can't be read.
    #[error("can't read {}, the signature of {}: {cause}", signature::beside(path).display(), path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Its signature is worth nothing here.
    #[error("{} is compiled, so it could do whatever the host can, and is refused: {cause}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: Untrusted,
    },
    /// Made for another version, other settings, another processor.
    #[error(
        "{} is not for this host, which is alphorn {} on {TARGET} with wasmtime {}: {cause}. \
         Compile it again with that version: `alphorn build --aot --target {TARGET} --key FILE`",
        path.display(), env!("CARGO_PKG_VERSION"), env!("WASMTIME_VERSION"))]
    ForAnother {
        /// The file.
        path: PathBuf,
        /// What wasmtime says.
        cause: String,
    },
    /// It can't be put where it is run from.
    #[error("{} can't be put into the folder for compiled components: {cause}", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

/// Whether these are native code, of whatever kind.
pub(super) fn is_native(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// What a file is, without believing it. None: no compiled component.
pub fn inspect(path: &Path) -> io::Result<Option<Native>> {
    let bytes = regular_file::read(path, regular_file::COMPONENT)?;
    let Some(heading) = Heading::read(&bytes) else { return Ok(None) };
    let seal =
        regular_file::read_to_string(&signature::beside(path), SECRET).ok().and_then(|text| Seal::parse(&text).ok());
    Ok(Some(Native { heading, seal }))
}

/// The file's bytes, if a trusted key has signed them.
pub(super) async fn vouched(
    path: &Path,
    bytes: Vec<u8>,
    keys: &Arc<TrustedKeys>,
) -> Result<(Vouched, Native), NativeError> {
    let (keys, file) = (keys.clone(), path.to_owned());
    aside(path, move || vouch(file, bytes, &keys)).await?
}

fn vouch(path: PathBuf, bytes: Vec<u8>, keys: &TrustedKeys) -> Result<(Vouched, Native), NativeError> {
    let Some(heading) = Heading::read(&bytes) else { return Err(NativeError::NotOurs { path }) };
    let signature = match regular_file::read_to_string(&signature::beside(&path), SECRET) {
        Ok(signature) => signature,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(NativeError::Unsigned { path }),
        Err(cause) => return Err(NativeError::Read { path, cause }),
    };
    let code = keys.vouch(bytes, &signature).map_err(|cause| NativeError::Untrusted { path, cause })?;
    let native = Native { heading, seal: Some(code.seal().clone()) };
    Ok((code, native))
}

/// Work on a whole file, which may take a while, does not hold up the plugins.
pub(super) async fn aside<R: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, NativeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|ended| NativeError::Place { path: path.to_owned(), cause: io::Error::other(ended) })
}

impl Heading {
    /// From the section that wasmtime looks at first, whatever its version: a zero, its version
    /// with its length before it, and what the code was compiled for in the same way.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
        let endian = file.elf_header().endian().ok()?;
        // wasmtime's own kind of ELF file, and a component.
        if file.elf_header().e_ident().os_abi != OS_ABI || file.elf_header().e_flags(endian) & COMPONENT == 0 {
            return None;
        }
        let section = file.section_by_name(".wasmtime.engine")?.data().ok()?;
        let (wasmtime, rest) = text(section.strip_prefix(&[0])?)?;
        let (target, _) = text(rest)?;
        Some(Self { target, wasmtime })
    }
}

/// `wasmtime_environ::obj::ELFOSABI_WASMTIME` and `EF_WASMTIME_COMPONENT`.
const OS_ABI: u8 = 200;
const COMPONENT: u32 = 1 << 1;

/// A short text with its length before it, and what follows.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, bytes) = bytes.split_first()?;
    // A length of more than one byte has its highest bit set; no name is that long.
    let (text, rest) = bytes.split_at_checked(usize::from(*length))?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
    if *length > 127 || !text.iter().all(is_name) {
        return None;
    }
    Some((String::from_utf8_lossy(text).into_owned(), rest))
}

#[cfg(feature = "compiler")]
#[cfg(test)]
mod tests {
    use super::{
        super::{compile::tests::bent, engine},
        *,
    };

    fn compiled(text: &str) -> Vec<u8> {
        let engine = wasmtime::Engine::new(&engine::config()).unwrap();
        engine.precompile_component(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn a_compiled_component_says_what_it_is_for() {
        let bytes = compiled("(component)");
        let heading = Heading::read(&bytes).unwrap();
        assert_eq!(heading.wasmtime, env!("WASMTIME_VERSION").split('.').next().unwrap());
        assert_eq!(heading.target.split('-').next(), TARGET.split('-').next());
        assert!(is_native(&bytes));
    }

    #[test]
    fn what_is_none_is_none_and_nothing_panics() {
        let whole = compiled("(component)");
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert!(is_native(&program));
        assert_eq!(Heading::read(&program), None);
        let engine = wasmtime::Engine::new(&engine::config()).unwrap();
        let module = engine.precompile_module(&wat::parse_str("(module)").unwrap()).unwrap();
        assert_eq!(Heading::read(&module), None);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..3000 {
            let _ = Heading::read(&bent(&whole, 0, &mut random));
        }
    }
}
