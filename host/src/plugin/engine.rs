//! The wasmtime engine: its one configuration, and what it lends.

use std::{collections::HashSet, fmt, io, path::Path, sync::Arc, thread};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
};
use wasmtime::{
    Config,
    component::{HasSelf, Linker},
};

use super::{
    bindings::Plugin,
    compile::{Compiler, Compiling},
    component::Shared,
    imports::{GuestState, link_publish_at_once},
    messaging::MessagingCore,
    ticker::{Running, Ticker},
};
use crate::{
    link::WhenFull,
    regular_file::{self, COMPONENT},
    signature::TrustedKeys,
};

/// Shared by all plugins.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Arc<Linker<GuestState>>,
    ticker: Arc<Ticker>,
    pub(super) compiling: Arc<Compiling>,
    /// Who may compute for longer than a tick: one thread fewer than there are, so that a
    /// short call never has to wait for a long one.
    pub(super) long: Arc<Semaphore>,
    /// So many verify and compile whole files at a time.
    turns: Arc<Semaphore>,
    /// So many read whole files at a time, or wait with one for such a turn.
    reads: Arc<Semaphore>,
    /// What plugins run.
    pub(super) shared: Arc<Shared>,
    /// Who may bring native code.
    pub(super) trusted: Arc<TrustedKeys>,
}

impl Engine {
    /// Makes the engine and what it lends to guests.
    /// `data_dir`: where what was compiled is kept, if anywhere.
    pub fn new(compiler: Compiler, data_dir: Option<&Path>, when_full: WhenFull) -> anyhow::Result<Self> {
        let engine = wasmtime::Engine::new(&config())?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        // All are offered what any kind may import; `kind.rs` says what each may.
        MessagingCore::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        if when_full == WhenFull::DropNewest {
            link_publish_at_once(&mut linker)?;
        }
        let ticker = Ticker::start(engine.weak())?;
        let compiling = Arc::new(Compiling::new(compiler, &engine, data_dir));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (turns, reads) = (Arc::new(Semaphore::new(cores)), Arc::new(Semaphore::new(cores)));
        let threads = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        let long = Arc::new(Semaphore::new(threads.saturating_sub(1).max(1)));
        Ok(Self {
            engine,
            linker: Arc::new(linker),
            ticker,
            compiling,
            long,
            turns,
            reads,
            shared: Arc::default(),
            trusted: Arc::default(),
        })
    }

    /// Takes native code, too: what one of these has signed.
    #[must_use]
    pub fn trusting(mut self, keys: TrustedKeys) -> Self {
        self.trusted = Arc::new(keys);
        self
    }

    /// Forgets what was compiled of all others.
    pub fn keep_only(&self, digests: &HashSet<String>) {
        self.compiling.keep_only(digests);
    }

    /// A whole file, and the turn to verify or compile it, to be held while it is in memory: what
    /// many plugins need at a start would else be there all at once, and its memory not given back.
    /// The turn comes after the file: others compile while a slow disk keeps this one waiting.
    pub(super) async fn read(&self, path: &Path) -> io::Result<(Vec<u8>, Option<SemaphorePermit<'_>>)> {
        // They fail only when the semaphore is closed, which nobody does.
        let _reads = self.reading().await;
        let bytes = regular_file::read_aside(path, COMPONENT).await?;
        Ok((bytes, self.turns.acquire().await.ok()))
    }

    /// To be held by who reads a file otherwise, for which it has no need of a whole one in memory.
    pub(super) async fn reading(&self) -> Option<SemaphorePermit<'_>> {
        self.reads.acquire().await.ok()
    }

    /// Keeps the epoch advancing until dropped.
    pub(super) fn run(&self) -> Running {
        self.ticker.run()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

/// All settings in one place: a compiled component is bound to each of them.
pub(super) fn config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    // WASI 0.3's way of calling costs half a microsecond a call and is not lent.
    config.concurrency_support(false);
    config
}
