//! Compiling components in a process of their own, and keeping what comes out.
//!
//! Cranelift can neither be cancelled nor held to an amount of memory within a process, so a
//! hostile component could stop the device. A child of the same program compiles under limits
//! of the kernel and is killed when it takes too long. What it makes is kept in a folder that
//! only this user can write to: it is native code and trusted as the program itself is.

use std::{
    collections::HashSet,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};
use tracing::warn;
use wasmtime::component::Component;

/// Who compiles.
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// This process, without limits: for tests and benchmarks.
    #[default]
    InProcess,
    /// This program, which is `alphorn`, as a child.
    Child(PathBuf),
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

/// The name of the command that compiles.
pub const COMMAND: &str = "compile-component";

/// Folders in which something is being compiled begin so.
const WORK: &str = "alphorn-compile-";

/// The exit code of the child for a component that is none (EX_DATAERR).
const DATA: i32 = 65;

/// Compiles, and keeps what was compiled.
#[derive(Debug)]
pub(super) struct Compiling {
    compiler: Compiler,
    cache: Option<Cache>,
}

/// Compiled components in a folder, by digest and what else they are bound to.
#[derive(Debug)]
struct Cache {
    folder: PathBuf,
    suffix: String,
}

impl Compiling {
    /// `data_dir`: where to keep what was compiled, if anywhere.
    pub(super) fn new(compiler: Compiler, engine: &wasmtime::Engine, data_dir: Option<&Path>) -> Self {
        let cache = data_dir.and_then(|data_dir| match Cache::open(data_dir.join("compiled"), engine) {
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
        let path = self.cache.as_ref().map(|cache| cache.path(digest));
        if let Some(component) = path.as_deref().and_then(|path| kept(engine, path)) {
            return Ok((component, true));
        }
        let Compiler::Child(program) = &self.compiler else {
            let engine = engine.clone();
            let compiled = tokio::task::spawn_blocking(move || Component::new(&engine, &bytes)).await;
            let compiled = compiled.map_err(|panic| CompileError::Invalid(panic.to_string()))?;
            return compiled
                .map(|component| (component, false))
                .map_err(|cause| CompileError::Invalid(format!("{cause:#}")));
        };
        let mut folder = tempfile::Builder::new();
        folder.prefix(WORK);
        let folder = match &self.cache {
            // On the same file system, so that it can be renamed.
            Some(cache) => folder.tempdir_in(&cache.folder)?,
            None => folder.tempdir()?,
        };
        let (input, output) = (folder.path().join("in.wasm"), folder.path().join("out.cwasm"));
        fs::write(&input, bytes)?;
        run(program, &input, &output, limits).await?;
        let component = match &path {
            Some(path) => {
                fs::rename(&output, path)?;
                path.parent().map(File::open).transpose()?.map(|folder| folder.sync_all()).transpose()?;
                deserialize(engine, path)
            }
            None => deserialize(engine, &output),
        };
        component.map(|component| (component, false)).map_err(|cause| CompileError::Invalid(format!("{cause:#}")))
    }

    /// Forgets all others.
    pub(super) fn keep_only(&self, digests: &HashSet<String>) {
        if let Some(cache) = &self.cache {
            cache.retain(|digest| digests.contains(digest));
        }
    }
}

impl Cache {
    fn open(folder: PathBuf, engine: &wasmtime::Engine) -> io::Result<Self> {
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
        // All settings of the engine and its version.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self { folder, suffix: format!("-{:016x}.cwasm", hasher.finish()) };
        cache.retain(|_| true);
        // What an end in mid-work left; one data folder is for one host.
        for entry in fs::read_dir(&cache.folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORK) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(cache)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}{}", self.suffix))
    }

    /// Removes what is of other engines or not wanted.
    fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.strip_suffix(&self.suffix).is_some_and(&wanted) && name.ends_with(".cwasm") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// What is kept under this name, if it can be used.
fn kept(engine: &wasmtime::Engine, path: &Path) -> Option<Component> {
    if !path.exists() {
        return None;
    }
    deserialize(engine, path)
        .inspect_err(|error| {
            warn!("{} can't be used ({error:#}) and is compiled anew", path.display());
            let _ = fs::remove_file(path);
        })
        .ok()
}

#[allow(unsafe_code, reason = "loading native code can't be checked; see below")]
fn deserialize(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by this program, into a folder only this user can write to
    // (`Cache::open`, or a private temporary one), and is renamed into place and never changed.
    unsafe { Component::deserialize_file(engine, path) }
}

/// Has the child compile one file.
async fn run(program: &Path, input: &Path, output: &Path, limits: CompileLimits) -> Result<(), CompileError> {
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(input).arg(output).arg(limits.memory.to_string()).arg(limits.time.as_secs().to_string());
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match timeout(limits.time, command.spawn()?.wait_with_output()).await {
        Ok(output) => output?,
        // Dropping what waits for it kills it.
        Err(_) => return Err(CompileError::Time(limits.time)),
    };
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(DATA), _) => Err(CompileError::Invalid(words)),
        (_, Some(signal)) if signal == rustix::process::Signal::XCPU.as_raw() => Err(CompileError::Time(limits.time)),
        _ => Err(CompileError::Memory(limits.memory, format!("the compiler ended with {} {words}", output.status))),
    }
}

/// The child's work. An error is one of the component.
pub fn compile_file(input: &Path, output: &Path, memory: u64, seconds: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Data, limit(memory))?;
    // Of all its threads together; the parent looks at the clock.
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    setrlimit(Resource::Cpu, limit((seconds + 1).saturating_mul(threads)))?;
    let engine = wasmtime::Engine::new(&super::engine::config())?;
    let compiled = engine.precompile_component(&fs::read(input)?)?;
    let mut file = File::create_new(output)?;
    file.write_all(&compiled)?;
    file.sync_all()?;
    Ok(())
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(120), memory: 1024 * 1024 * 1024 }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn engine() -> wasmtime::Engine {
        wasmtime::Engine::new(&super::super::engine::config()).unwrap()
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

    #[tokio::test]
    async fn what_is_no_component_is_an_error_of_the_compiler_and_damage_is_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let compiling = Compiling::new(Compiler::InProcess, &engine, Some(folder.path()));
        let path = compiling.cache.as_ref().unwrap().path("digest");
        fs::write(&path, "no native code").unwrap();
        let bytes = b"\0asm\x0d\0\x01\0nonsense".to_vec();
        let compiled = compiling.compile(&engine, bytes, "digest", CompileLimits::default()).await;
        assert!(matches!(compiled, Err(CompileError::Invalid(_))));
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
            let mut bent = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bent.len());
                bent[at] = random.u8(..);
            }
            bent.truncate(random.usize(8..=bent.len()));
            let _ = Component::new(&engine, &bent);
        }
    }
}
