//! A file into a checked component, or why not.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use futures_util::future::BoxFuture;
use semver::Version;
use sha2::{Digest, Sha256};
use tracing::{debug, info};
use wasmtime::component::Component;

#[cfg(feature = "compiler")]
use super::surface::Surface;
use super::{
    compile::{CompileError, CompileLimits},
    engine::Engine,
    guest::Pre,
    kind::{GUEST, Kind},
    memory::{ENTRY, MOST_INSTANCES, MOST_MEMORIES, PAGE},
    native::{self, Native, NativeError},
};
use crate::{
    config::{Limits, PluginConfig},
    signature::Vouched,
};

/// A component that can run here.
#[derive(Clone)]
pub struct Loaded {
    pub(super) pre: Arc<Pre>,
    /// What it is and asks for.
    pub about: Arc<About>,
}

/// What a component is and asks for.
#[derive(Debug, Clone)]
pub struct About {
    /// Its file.
    pub path: PathBuf,
    /// How it is driven.
    pub kind: Kind,
    /// The file's size in bytes.
    pub size: usize,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// The interfaces it imports.
    pub imports: Vec<String>,
    /// The interfaces it exports.
    pub exports: Vec<String>,
    /// Where it was compiled elsewhere: for what, and who has signed it.
    pub native: Option<Native>,
    /// What it takes when it begins. None: it was compiled elsewhere, and who has signed it is trusted
    /// with that.
    pub footprint: Option<Footprint>,
    /// Bytes it has when it begins; at the least, if it was compiled elsewhere.
    pub at_start: usize,
}

/// What loading a component keeps to.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadLimits {
    /// What compiling it may take.
    pub compile: CompileLimits,
    /// Bytes it may have when it begins. None: any, since nothing is configured that would run it.
    pub memory: Option<usize>,
}

impl From<&Limits> for LoadLimits {
    fn from(limits: &Limits) -> Self {
        Self { compile: limits.compile, memory: Some(limits.memory) }
    }
}

/// What a component takes when it is instantiated, or one instance of a module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Core instances.
    pub instances: usize,
    /// Memories.
    pub memories: usize,
    /// Tables.
    pub tables: usize,
    /// Bytes of all that, without what is in memories and tables.
    pub bytes: usize,
    /// Bytes that its memories and tables begin with.
    pub initial: usize,
}

impl Footprint {
    /// Bytes it has when it begins.
    pub fn at_start(&self) -> usize {
        self.bytes.saturating_add(self.initial)
    }
}

/// Why a file can't run as a plugin. Each names the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Not there, or not to be read.
    #[error("can't read the component {}: {cause}; put it there, or let `component` name another file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// Something else than WebAssembly.
    #[error("{} is not WebAssembly: it begins with {begin}. `alphorn build` makes a component from a plugin's folder", path.display())]
    NotWasm {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        begin: String,
    },
    /// A core module.
    #[error("{} is a core WebAssembly module, not a component: build it for wasm32-wasip2, or let `alphorn build FILE` make one of it", path.display())]
    Module {
        /// The file.
        path: PathBuf,
    },
    /// Compiled elsewhere, and not to be run here.
    #[error(transparent)]
    Native(#[from] NativeError),
    /// Not to be compiled here, or not within its limits.
    #[error("{}: {cause}", path.display())]
    Compile {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: CompileError,
    },
    /// Broken, or beyond what the engine takes.
    #[error("{} is not a valid component: {cause}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the compiler says.
        cause: String,
    },
    /// Written for another world.
    #[error("{} does not export {GUEST}, so it is not an Alphorn plugin, nor is it a plain WASI program (wasi:cli/run@0.2) or a component of wasi:messaging; it exports {exports}", path.display())]
    World {
        /// The file.
        path: PathBuf,
        /// What it has instead.
        exports: String,
    },
    /// Written for this world, in another version.
    #[error("{} was built for {package} {built_for}, and this host has {here}: {remedy}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Whose interface.
        package: &'static str,
        /// The version of the interface.
        built_for: Version,
        /// What there is instead.
        here: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Imports the host has not got.
    #[error("{} imports {missing}, which this host does not lend; {lent}", path.display())]
    Imports {
        /// The file.
        path: PathBuf,
        /// All of them.
        missing: String,
        /// What it may import.
        lent: &'static str,
    },
    /// More of them than any component needs.
    #[error(
        "{} asks for {} core instances with {} memories and {} tables, and a plugin may have {MOST_INSTANCES} \
         instances, as many tables and {MOST_MEMORIES} memories: make one component of fewer modules of it",
        path.display(), footprint.instances, footprint.memories, footprint.tables
    )]
    Instances {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        footprint: Footprint,
    },
    /// It can't begin with what it may have.
    #[error(
        "{} has {at_start} bytes of memory{}, and may have {limit} (`limits.memory`): raise that to at least \"{}\", \
         and by what it is to work with",
        path.display(), when_it_begins(footprint.as_ref()), in_mib(*at_start)
    )]
    Memory {
        /// The file.
        path: PathBuf,
        /// Bytes it has when it begins; at the least, without a footprint.
        at_start: usize,
        /// What these are for.
        footprint: Option<Footprint>,
        /// Bytes it may have.
        limit: usize,
    },
    /// Its settings are for another kind of component.
    #[error("{} does not fit its configuration: {cause}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What does not fit, and what to do about it.
        cause: String,
    },
    /// The names are right and the types are not.
    #[error("{} was built against another version of the interface than this host's: {cause}", path.display())]
    Types {
        /// The file.
        path: PathBuf,
        /// What the linker says.
        cause: String,
    },
}

/// The WIT package of plugins, and its version here.
const PACKAGE: &str = "alphorn:plugin";
const VERSION: Version = Version::new(0, 1, 0);
const VERSION_TEXT: &str = "0.1.0";

/// Reads, compiles and checks a component. It is boxed so that the program has its code once: what waits
/// for an `async fn` of another crate has a copy of it.
pub fn load<'a>(
    engine: &'a Engine,
    path: &'a Path,
    limits: LoadLimits,
) -> BoxFuture<'a, Result<Loaded, ComponentError>> {
    Box::pin(load_here(engine, path, limits))
}

async fn load_here(engine: &Engine, path: &Path, limits: LoadLimits) -> Result<Loaded, ComponentError> {
    let read = engine.read(path).await;
    let (bytes, turn) = read.map_err(|cause| ComponentError::Read { path: path.into(), cause })?;
    let path = path.to_owned();
    let (size, digest) = (bytes.len(), digest(&bytes));
    // The preamble: `\0asm`, then a version that tells modules (1) from components (13).
    let (code, native, footprint) = match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => return Err(ComponentError::Module { path }),
        Some([0, b'a', b's', b'm', ..]) => {
            let footprint = check_before(&path, &bytes)?;
            (Code::Wasm(bytes), None, footprint)
        }
        _ if native::is_native(&bytes) => {
            let (code, native) = native::vouched(&path, bytes, &engine.trusted).await?;
            (Code::Native(code), Some(native), None)
        }
        _ => return Err(ComponentError::NotWasm { path, begin: beginning(&bytes) }),
    };
    if let Some(pre) = engine.shared.find(&digest) {
        debug!(?path, "another plugin runs it");
        let about = About::of(engine, pre.component(), path, size, digest, native)?.with(footprint);
        about.begins_within(limits.memory)?;
        return Ok(Loaded { pre, about: Arc::new(about) });
    }
    if let Some(footprint) = footprint {
        begins_within(&path, footprint.at_start(), Some(footprint), limits.memory)?;
    }
    let component = match code {
        Code::Wasm(bytes) => compile(engine, &path, bytes, &digest, limits.compile).await?,
        Code::Native(code) => accept(engine, &path, code, &digest).await?,
    };
    drop(turn);
    let about = About::of(engine, &component, path.clone(), size, digest, native)?.with(footprint);
    about.begins_within(limits.memory)?;
    check_imports(&path, about.kind, &about.imports)?;
    let types = |cause: wasmtime::Error| ComponentError::Types { path: path.clone(), cause: format!("{cause:#}") };
    let pre = engine.linker.instantiate_pre(&component).map_err(types)?;
    let pre = engine.shared.share(&about.digest, Pre::new(about.kind, pre).map_err(types)?);
    Ok(Loaded { pre, about: Arc::new(about) })
}

/// What can be said of a component before it is compiled: it takes a while, and for nothing.
#[cfg(feature = "compiler")]
fn check_before(path: &Path, bytes: &[u8]) -> Result<Option<Footprint>, ComponentError> {
    let footprint = Footprint::of(bytes);
    if let Some(footprint) = footprint
        .filter(|it| it.instances > MOST_INSTANCES || it.tables > MOST_INSTANCES || it.memories > MOST_MEMORIES)
    {
        return Err(ComponentError::Instances { path: path.into(), footprint });
    }
    // What can't be read is the compiler's to refuse.
    let Some(surface) = Surface::of(bytes) else { return Ok(footprint) };
    match Kind::of(&surface.exports) {
        Some(kind) => check_imports(path, kind, &surface.imports).map(|()| footprint),
        None => Err(of_no_kind(path.into(), &surface.exports)),
    }
}

/// Whatever is in it, nobody here could compile it.
#[cfg(not(feature = "compiler"))]
fn check_before(path: &Path, _: &[u8]) -> Result<Option<Footprint>, ComponentError> {
    Err(ComponentError::Compile { path: path.into(), cause: CompileError::NoCompiler })
}

fn check_imports(path: &Path, kind: Kind, imports: &[String]) -> Result<(), ComponentError> {
    let missing: Vec<_> = imports.iter().filter(|name| !kind.lends(name)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ComponentError::Imports { path: path.into(), missing: listed(&missing), lent: kind.lent() })
}

/// Whether a component can begin with the memory it may have.
fn begins_within(
    path: &Path,
    at_start: usize,
    footprint: Option<Footprint>,
    limit: Option<usize>,
) -> Result<(), ComponentError> {
    match limit.filter(|limit| at_start > *limit) {
        Some(limit) => Err(ComponentError::Memory { path: path.into(), at_start, footprint, limit }),
        None => Ok(()),
    }
}

/// What follows the bytes of memory that a component has when it begins: what they are for, as far as
/// that is known.
pub fn when_it_begins(footprint: Option<&Footprint>) -> String {
    match footprint {
        Some(Footprint { instances, bytes, initial, .. }) => format!(
            " when it begins ({initial} in its memories and tables, and its {instances} core instances take {bytes})"
        ),
        None => " or more when it begins".to_owned(),
    }
}

/// As the configuration takes it, and no less.
pub fn in_mib(bytes: usize) -> String {
    format!("{}MiB", bytes.div_ceil(1024 * 1024))
}

/// Bytes that code compiled elsewhere has when it begins, at the least: the engine tells only of the
/// largest memory and of the largest table.
fn least_of(component: &Component) -> usize {
    let Some(resources) = component.resources_required() else { return 0 };
    let bytes = |count: Option<u64>, each: usize| {
        usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX).saturating_mul(each)
    };
    let (pages, entries) = (resources.max_initial_memory_size, resources.max_initial_table_size);
    bytes(pages, PAGE).saturating_add(bytes(entries, ENTRY))
}

/// What is in a file.
enum Code {
    Wasm(Vec<u8>),
    Native(Vouched),
}

async fn compile(
    engine: &Engine,
    path: &Path,
    bytes: Vec<u8>,
    digest: &str,
    limits: CompileLimits,
) -> Result<Component, ComponentError> {
    let begin = Instant::now();
    let compiled = engine.compiling.compile(&engine.engine, bytes, digest, limits).await;
    let (component, was_kept) = compiled.map_err(|cause| match cause {
        CompileError::Invalid(cause) => ComponentError::Invalid { path: path.into(), cause },
        cause => ComponentError::Compile { path: path.into(), cause },
    })?;
    if was_kept {
        debug!(?path, "compiled before");
    } else {
        info!("compiled {} in {} ms", path.display(), begin.elapsed().as_millis());
    }
    Ok(component)
}

/// Takes what was compiled elsewhere. That is quick: the file is written once, and mapped.
async fn accept(engine: &Engine, path: &Path, code: Vouched, digest: &str) -> Result<Component, ComponentError> {
    let (engine, compiling, kept_as) = (engine.engine.clone(), engine.compiling.clone(), digest.to_owned());
    let seal = code.seal().clone();
    let placed = native::aside(path, move || compiling.accept(&engine, &code, &kept_as)).await?;
    let placed = placed.map_err(|cause| NativeError::Place { path: path.into(), cause })?;
    let component =
        placed.map_err(|cause| NativeError::ForAnother { path: path.into(), cause: format!("{cause:#}") })?;
    info!("{} is compiled, and signed {seal}", path.display());
    Ok(component)
}

/// Components that plugins run, by digest: several plugins of one have one in memory.
#[derive(Default)]
pub(super) struct Shared(Mutex<HashMap<String, Weak<Pre>>>);

impl Shared {
    fn find(&self, digest: &str) -> Option<Arc<Pre>> {
        self.components().get(digest)?.upgrade()
    }

    /// The one there is comes back, if there is one.
    fn share(&self, digest: &str, pre: Pre) -> Arc<Pre> {
        let mut components = self.components();
        if let Some(there) = components.get(digest).and_then(Weak::upgrade) {
            return there;
        }
        let pre = Arc::new(pre);
        components.retain(|_, component| component.strong_count() > 0);
        components.insert(digest.to_owned(), Arc::downgrade(&pre));
        pre
    }

    fn components(&self) -> MutexGuard<'_, HashMap<String, Weak<Pre>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl About {
    fn of(
        engine: &Engine,
        component: &Component,
        path: PathBuf,
        size: usize,
        digest: String,
        native: Option<Native>,
    ) -> Result<Self, ComponentError> {
        let names = component.component_type();
        let imports = names.imports(&engine.engine).map(|(name, _)| name.to_owned()).collect();
        let exports: Vec<_> = names.exports(&engine.engine).map(|(name, _)| name.to_owned()).collect();
        match Kind::of(&exports) {
            Some(kind) => {
                let at_start = least_of(component);
                Ok(Self { path, kind, size, digest, imports, exports, native, footprint: None, at_start })
            }
            None => Err(of_no_kind(path, &exports)),
        }
    }

    /// With what is known of it, if that is so.
    fn with(self, footprint: Option<Footprint>) -> Self {
        Self { at_start: footprint.map_or(self.at_start, |footprint| footprint.at_start()), footprint, ..self }
    }

    fn begins_within(&self, limit: Option<usize>) -> Result<(), ComponentError> {
        begins_within(&self.path, self.at_start, self.footprint, limit)
    }

    /// Short enough for people: the first digits of the digest.
    pub fn version(&self) -> &str {
        self.digest.get(..12).unwrap_or(&self.digest)
    }
}

impl Loaded {
    /// Whether these settings are for it.
    pub fn fits(&self, config: &PluginConfig) -> Result<(), ComponentError> {
        let settings = |cause| ComponentError::Settings { path: self.about.path.clone(), cause };
        self.about.kind.fits(config).map_err(settings)?;
        self.about.begins_within(Some(config.limits.memory))
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Loaded").field(&self.about).finish()
    }
}

fn of_no_kind(path: PathBuf, exports: &[String]) -> ComponentError {
    let other_version = |package, interface: &str| exports.iter().find_map(|name| version_of(name, package, interface));
    if let Some(built_for) = other_version(PACKAGE, "guest") {
        let is_newer = built_for > VERSION;
        let remedy = if is_newer { "update the host" } else { "build it again with this host's guest SDK" };
        return ComponentError::Version { path, package: PACKAGE, built_for, here: VERSION_TEXT, remedy };
    }
    for (package, interface, here) in
        [("wasi:messaging", "incoming-handler", "0.2.0-draft"), ("wasi:cli", "run", "0.2")]
    {
        if let Some(built_for) = other_version(package, interface) {
            return ComponentError::Version { path, package, built_for, here, remedy: "build it for that" };
        }
    }
    ComponentError::World { path, exports: listed(exports) }
}

fn version_of(export: &str, package: &str, interface: &str) -> Option<Version> {
    let version = export.strip_prefix(package)?.strip_prefix('/')?.strip_prefix(interface)?.strip_prefix('@')?;
    Version::parse(version).ok()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn beginning(bytes: &[u8]) -> String {
    let bytes = bytes.get(..8).unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok("") => "nothing (the file is empty)".to_owned(),
        Ok(text) => format!("{text:?}"),
        Err(_) => hexadecimal(bytes),
    }
}

/// SHA-256 in hexadecimal, by which a component is known.
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
