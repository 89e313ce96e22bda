//! From a component to native code, and where that is kept.
//!
//! A host with a compiler (feature `compiler`) compiles what it is given, in a process of its own
//! (`child`). Any host can be given what was compiled elsewhere, if somebody it trusts has signed
//! it. What comes out of either is kept in a folder that only this user can write to (`cache`): it
//! is native code and trusted as the program itself is.

mod cache;
#[cfg(feature = "compiler")]
mod child;

use std::{collections::HashSet, io, path::Path, time::Duration};

#[cfg(feature = "compiler")]
use tracing::info;
use tracing::warn;
use wasmtime::component::Component;

use self::cache::Cache;
#[cfg(feature = "compiler")]
pub use self::child::{COMMAND, compile_file};
use crate::signature::Vouched;

/// Who compiles.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// Nobody: what runs was compiled elsewhere.
    Nobody,
    /// This process, without limits: for tests and benchmarks.
    #[cfg(feature = "compiler")]
    InProcess,
    /// This program, which is `alphorn`, as a child.
    #[cfg(feature = "compiler")]
    Child(std::path::PathBuf),
}

/// What compiling one component may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// The longest it may take.
    pub time: Duration,
    /// Bytes of memory.
    pub memory: u64,
}

/// Why there is no compiled component.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// There is no compiler.
    #[error(
        "this host has no compiler. On a machine that has one, `alphorn build --aot --target {TARGET} --key FILE` \
         compiles and signs it for this one; or use a host built with `--features compiler`"
    )]
    NoCompiler,
    /// The compiler says so.
    #[error("{0}")]
    Invalid(String),
    /// It took too long.
    #[error("compiling it takes longer than {} (`limits.compile.time`)", humantime::format_duration(*.0))]
    Time(Duration),
    /// It took too much.
    #[error("compiling it takes more than {0} bytes of memory (`limits.compile.memory`): {1}")]
    Memory(u64, String),
    /// The system does not play along.
    #[error("it can't be compiled: {0}")]
    System(#[from] io::Error),
}

/// What this program was built for.
pub const TARGET: &str = env!("BUILT_FOR");

/// Compiling as much as this takes so long that somebody may ask what is going on.
#[cfg(feature = "compiler")]
const LARGE: usize = 4 * 1024 * 1024;

/// Whether code of this component is kept there. Only looked for: a running host's own is not touched.
pub fn is_kept(data_dir: &Path, digest: &str) -> bool {
    let names = std::fs::read_dir(data_dir.join(KEPT)).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().strip_prefix(digest).is_some_and(|rest| rest.starts_with('-')))
}

/// The folder in `data_dir` of what was compiled.
const KEPT: &str = "compiled";

/// Compiles, and keeps what was compiled.
#[derive(Debug)]
pub(super) struct Compiling {
    #[cfg_attr(not(feature = "compiler"), expect(dead_code, reason = "it can only be Nobody"))]
    compiler: Compiler,
    cache: Option<Cache>,
}

impl Compiling {
    /// `data_dir`: where to keep what was compiled, if anywhere.
    pub(super) fn new(compiler: Compiler, engine: &wasmtime::Engine, data_dir: Option<&Path>) -> Self {
        let cache = data_dir.and_then(|data_dir| match Cache::open(data_dir.join(KEPT), engine) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!("compiled components are not kept, so each start compiles them again: {error}");
                None
            }
        });
        Self { compiler, cache }
    }

    /// The compiled component; true: it was kept from before.
    pub(super) async fn compile(
        &self,
        engine: &wasmtime::Engine,
        bytes: Vec<u8>,
        digest: &str,
        limits: CompileLimits,
    ) -> Result<(Component, bool), CompileError> {
        if let Some(component) = self.safe_cache().and_then(|cache| cache.find(engine, digest)) {
            return Ok((component, true));
        }
        self.compile_anew(engine, bytes, digest, limits).await.map(|component| (component, false))
    }

    #[cfg(not(feature = "compiler"))]
    #[expect(clippy::unused_async, reason = "with a compiler it waits")]
    async fn compile_anew(
        &self,
        _: &wasmtime::Engine,
        _: Vec<u8>,
        _: &str,
        _: CompileLimits,
    ) -> Result<Component, CompileError> {
        Err(CompileError::NoCompiler)
    }

    #[cfg(feature = "compiler")]
    async fn compile_anew(
        &self,
        engine: &wasmtime::Engine,
        bytes: Vec<u8>,
        digest: &str,
        limits: CompileLimits,
    ) -> Result<Component, CompileError> {
        let compiled = match &self.compiler {
            Compiler::Nobody => return Err(CompileError::NoCompiler),
            Compiler::InProcess => {
                let engine = engine.clone();
                let compiled = tokio::task::spawn_blocking(move || Component::new(&engine, &bytes)).await;
                compiled.map_err(io::Error::other)?
            }
            Compiler::Child(program) => {
                if bytes.len() > LARGE {
                    let size = bytes.len() / 1024 / 1024;
                    info!("compiling {size} MiB of WebAssembly to native code, which takes a while the first time");
                }
                let cache = self.safe_cache();
                let folder = Cache::work(cache)?;
                let (input, output) = (folder.path().join("in.wasm"), folder.path().join("out.cwasm"));
                std::fs::write(&input, bytes)?;
                child::run(program, &input, &output, limits).await?;
                match cache {
                    Some(cache) => cache.keep(engine, &output, digest)?,
                    None => cache::load(engine, &output),
                }
            }
        };
        compiled.map_err(|cause| CompileError::Invalid(format!("{cause:#}")))
    }

    /// Code that was compiled elsewhere and that a trusted key has signed. The error inside says
    /// that it is for another host.
    pub(super) fn accept(
        &self,
        engine: &wasmtime::Engine,
        code: &Vouched,
        digest: &str,
    ) -> io::Result<wasmtime::Result<Component>> {
        // From a file the system has in memory what is used, and no more.
        let Some(cache) = self.safe_cache() else { return Ok(cache::copy(engine, code)) };
        if let Some(component) = cache.find(engine, digest) {
            return Ok(Ok(component));
        }
        let folder = Cache::work(Some(cache))?;
        let file = folder.path().join("out.cwasm");
        cache::write(&file, code.bytes())?;
        cache.keep(engine, &file, digest)
    }

    /// What is kept, if nobody else could have put it there.
    fn safe_cache(&self) -> Option<&Cache> {
        let cache = self.cache.as_ref()?;
        let checked = cache.check();
        checked.inspect_err(|error| warn!("no compiled component that is kept is used: {error}")).ok().map(|()| cache)
    }

    /// Forgets all others.
    pub(super) fn keep_only(&self, digests: &HashSet<String>) {
        if let Some(cache) = &self.cache {
            cache.retain(|digest| digests.contains(digest));
        }
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(120), memory: 1024 * 1024 * 1024 }
    }
}

#[cfg(feature = "compiler")]
#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A part of it, `least` bytes or more, of which some have changed.
    pub(in crate::plugin) fn bent(whole: &[u8], least: usize, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bent = whole.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..bent.len());
            bent[at] = random.u8(..);
        }
        bent.truncate(random.usize(least..=bent.len()));
        bent
    }

    fn engine() -> wasmtime::Engine {
        wasmtime::Engine::new(&super::super::engine::config()).unwrap()
    }

    #[tokio::test]
    async fn what_is_no_component_is_an_error_of_the_compiler_and_damage_is_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let compiling = Compiling::new(Compiler::InProcess, &engine, Some(folder.path()));
        let path = compiling.cache.as_ref().unwrap().path("digest", crc32fast::hash(b"no native code"));
        std::fs::write(&path, "no native code").unwrap();
        let bytes = b"\0asm\x0d\0\x01\0nonsense".to_vec();
        let compiled = compiling.compile(&engine, bytes, "digest", CompileLimits::default()).await;
        assert!(matches!(compiled, Err(CompileError::Invalid(_))));
        assert!(!path.exists(), "the damaged file is gone");
    }

    #[tokio::test]
    async fn damage_without_a_compiler_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let compiling = Compiling::new(Compiler::Nobody, &engine, Some(folder.path()));
        let path = compiling.cache.as_ref().unwrap().path("digest", 0);
        std::fs::write(&path, "something else than that").unwrap();
        let compiled = compiling.compile(&engine, Vec::new(), "digest", CompileLimits::default()).await;
        assert!(matches!(compiled, Err(CompileError::NoCompiler)));
        assert!(!path.exists(), "the damaged file is gone");
    }

    #[test]
    fn bent_components_are_refused_and_nothing_panics() {
        let engine = engine();
        // A component with a module, a function, and an export, as text: see the WebAssembly component model.
        let whole = wat::parse_str(
            r#"(component
                (core module $m (func (export "f") (param i32) (result i32) local.get 0 i32.const 1 i32.add))
                (core instance $i (instantiate $m))
                (func (export "f") (param "x" u32) (result u32) (canon lift (core func $i "f"))))"#,
        )
        .unwrap();
        assert!(Component::new(&engine, &whole).is_ok());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..3000 {
            let _ = Component::new(&engine, bent(&whole, 8, &mut random));
        }
    }
}
