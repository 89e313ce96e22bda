//! The wasmtime engine: its one configuration, and what it lends.

use std::{collections::HashSet, fmt, path::Path, sync::Arc, thread};

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
use crate::{link::WhenFull, signature::TrustedKeys};

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
    /// So many read, verify and compile whole files at a time.
    turns: Arc<Semaphore>,
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
        let turns = Arc::new(Semaphore::new(thread::available_parallelism().map_or(1, usize::from)));
        let threads = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        let long = Arc::new(Semaphore::new(threads.saturating_sub(1).max(1)));
        Ok(Self {
            engine,
            linker: Arc::new(linker),
            ticker,
            compiling,
            long,
            turns,
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

    /// To be held while a whole file is in memory, or being compiled: what many plugins need at a
    /// start would else be there all at once, and its memory not given back.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Fails only when the semaphore is closed, which nobody does.
        self.turns.acquire().await.ok()
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
