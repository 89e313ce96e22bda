//! One Store and its guest: calls under a deadline, or a program's one call without.
//!
//! Guest code runs on a stack of its own and yields at each tick of the epoch, so a call
//! that takes too long is found by its time limit whether it computes or waits for the
//! host. Whatever a call left behind then is thrown away with the Store.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    task::unconstrained,
    time::{sleep_until, timeout},
};
use tracing::debug;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::{
    I32Exit, WasiCtxBuilder,
    p2::bindings::{Command, CommandPre},
};

use super::{
    bindings::{
        Plugin, PluginPre,
        alphorn::plugin::types::{MessageParam, PropertiesParam, UserPropertyParam},
        exports::alphorn::plugin::guest::{self, Event, Failure, StartInfo, StopReason},
    },
    component::{Loaded, in_mib},
    engine::Engine,
    imports::GuestState,
    lent::Lent,
    messaging::{MessagingCore, MessagingCorePre, failure},
    output::{Output, said},
    timers::Timers,
};
use crate::{
    allowance::Allowance,
    config::{Limits, PluginConfig},
    message::{Message, Properties, Qos},
};

/// The most bytes that cross from a guest to the host in one piece, whatever its limits say: what is
/// copied holds the thread up, and the host has it beside the guest's own memory.
pub(crate) const MOST_COPIED: usize = 16 * 1024 * 1024;

/// How far the epoch advances in a whole tick: the next advance may come at once.
const A_TICK: u64 = 2;

/// A guest that can be called: `G` is what it exports.
pub(super) struct Instance<G> {
    store: Store<GuestState>,
    guest: G,
    engine: Engine,
    limits: Limits,
    turn: Arc<Turn>,
    /// When the last call began.
    began: Instant,
    /// Bytes the version before has handed over, which count as its memory while the host keeps them.
    handed_over: usize,
}

/// Whether a call that computes for longer than a tick holds one of the turns for such calls.
/// Shared with the Store's callback, on the guest's one task: nobody ever waits for it.
struct Turn {
    is_held: AtomicBool,
    /// It is waited for.
    is_awaited: AtomicBool,
    /// The guest has waited for the host meanwhile, so it begins with a tick of its own.
    is_rested: AtomicBool,
    long: Arc<Semaphore>,
}

impl Turn {
    fn new(long: Arc<Semaphore>) -> Self {
        let no = || AtomicBool::new(false);
        Self { is_held: no(), is_awaited: no(), is_rested: no(), long }
    }

    /// Lets others compute that have waited longer, and waits in turn.
    async fn wait(&self) {
        self.end();
        self.is_awaited.store(true, Relaxed);
        // Not only to the tasks of this thread: a thread that has just woken, the link's for one, else waits
        // until the system takes the processor from this one, which Linux does after up to 4 ms.
        std::thread::yield_now();
        tokio::task::yield_now().await;
        // Fails only when the semaphore is closed, which nobody does.
        if let Ok(permit) = self.long.acquire().await {
            permit.forget();
            self.is_held.store(true, Relaxed);
        }
        self.is_awaited.store(false, Relaxed);
    }

    /// The guest waits, for a turn or for the host.
    fn rests(&self) {
        self.end();
        if !self.is_awaited.load(Relaxed) {
            self.is_rested.store(true, Relaxed);
        }
    }

    fn end(&self) {
        if self.is_held.load(Relaxed) && self.is_held.swap(false, Relaxed) {
            self.long.add_permits(1);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

/// When a call has to be over, and how long that is from its begin.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

/// A guest broke a rule; its instance is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("it trapped: {0}")]
    Trapped(String),
    #[error("it took longer than {} (`limits.deadline`)", humantime::format_duration(*.0))]
    Overran(Duration),
    #[error("its start took longer than {} (`limits.start_deadline`)", humantime::format_duration(*.0))]
    StartOverran(Duration),
    #[error("it asked for more than {0} bytes of memory (`limits.memory`)")]
    Memory(usize),
    #[error(
        "it has {needs} bytes of memory or more when it begins, and may have {limit} (`limits.memory`): raise that to \
         at least \"{}\"", in_mib(*.needs)
    )]
    Begins { needs: usize, limit: usize },
    #[error("it gave the host more than {0} bytes and a payload in one call (`limits.hostcall_bytes`)")]
    Copied(usize),
    #[error("its start failed: {0}")]
    Start(String),
    #[error("it ended with exit code {0}")]
    Exited(i32),
    /// With what the guest said last.
    #[error("{0}; its last words: {1}")]
    Said(Box<Fault>, String),
}

/// What instances are made of.
pub(super) trait Linked {
    /// What they export.
    type Exports;

    fn instantiate(
        &self,
        store: &mut Store<GuestState>,
    ) -> impl Future<Output = wasmtime::Result<Self::Exports>> + Send;
}

impl Linked for PluginPre<GuestState> {
    type Exports = Plugin;

    async fn instantiate(&self, store: &mut Store<GuestState>) -> wasmtime::Result<Plugin> {
        self.instantiate_async(store).await
    }
}

impl Linked for CommandPre<GuestState> {
    type Exports = Command;

    async fn instantiate(&self, store: &mut Store<GuestState>) -> wasmtime::Result<Command> {
        self.instantiate_async(store).await
    }
}

impl Linked for MessagingCorePre<GuestState> {
    type Exports = MessagingCore;

    async fn instantiate(&self, store: &mut Store<GuestState>) -> wasmtime::Result<MessagingCore> {
        self.instantiate_async(store).await
    }
}

impl<G> Instance<G> {
    /// Makes a guest ready; none of its exports has run. `connect` says where its standard
    /// streams lead, but for stderr, which is the log.
    pub(super) async fn new(
        engine: &Engine,
        loaded: &Loaded,
        pre: &impl Linked<Exports = G>,
        config: &PluginConfig,
        max_payload: u32,
        connect: impl FnOnce(&mut WasiCtxBuilder, &Allowance),
    ) -> Result<Self, Fault> {
        let limits = config.limits;
        let allowance = Allowance::of_its_own(limits.log_rate);
        let mut wasi = config.wasi.context().map_err(Fault::Start)?;
        let stderr = Output::err(allowance.clone());
        wasi.stderr(stderr.clone());
        connect(&mut wasi, &allowance);
        let wasi = wasi.build();
        let state = GuestState::new(wasi, loaded.about.version().to_owned(), limits.memory, allowance, stderr.clone());
        let mut store = Store::new(&engine.engine, state);
        store.limiter(|state| state.memory());
        let turn = Arc::new(Turn::new(engine.long.clone()));
        let taken = turn.clone();
        store.epoch_deadline_callback(move |_| {
            if taken.is_rested.swap(false, Relaxed) {
                return Ok(UpdateDeadline::Continue(A_TICK));
            }
            let turn = taken.clone();
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(async move { turn.wait().await })))
        });
        store.set_epoch_deadline(A_TICK);
        store.set_hostcall_fuel(limits.hostcall_bytes.saturating_add(max_payload as usize));
        // What its instances take beside memories and tables; nobody tells when they are made.
        let footprint = loaded.about.footprint.map_or(0, |footprint| footprint.bytes);
        let begins = |needs| Fault::Begins { needs, limit: limits.memory };
        store.data_mut().memory().take(footprint).map_err(|_| begins(footprint))?;
        let (running, begin) = (engine.run(), Instant::now());
        let guest = timeout(limits.start_deadline, pre.instantiate(&mut store)).await;
        drop(running);
        turn.end();
        match guest {
            Ok(Ok(guest)) => {
                let (engine, began) = (engine.clone(), Instant::now());
                Ok(Self { store, guest, engine, limits, turn, began, handed_over: 0 })
            }
            Ok(Err(error)) => match store.data_mut().memory().refused {
                Some(needs) => Err(begins(needs)),
                None => Err(Fault::trapped(&error, &limits).with(stderr.last_words(begin))),
            },
            Err(_) => Err(Fault::StartOverran(limits.start_deadline)),
        }
    }

    /// Gives it what belongs to the plugin.
    pub(super) fn lend(&mut self, lent: Lent) {
        self.store.data_mut().lent = Some(lent);
    }

    /// What belongs to the plugin.
    pub(super) fn lent(&mut self) -> Option<&mut Lent> {
        self.store.data_mut().lent.as_mut()
    }

    /// Takes that back. What a call that did not end well wrote to the state is undone.
    pub(super) fn take_back(&mut self) -> Option<Lent> {
        let mut lent = self.store.data_mut().lent.take()?;
        lent.undo();
        Some(lent)
    }

    /// The task has waited since the last call, so the next one begins with a tick of its own.
    /// Calls without a wait in between share theirs: many short ones are as a long one to others.
    pub(super) fn rested(&mut self) {
        self.store.set_epoch_deadline(A_TICK);
    }

    /// Bytes of its memories and tables.
    pub(super) fn memory(&mut self) -> usize {
        self.store.data_mut().memory().used()
    }

    pub(super) fn timers(&mut self) -> &mut Timers {
        &mut self.store.data_mut().timers
    }

    /// When the last call began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// A call begins that may take so long.
    fn begins(&mut self, deadline: Duration) -> Deadline {
        let now = Instant::now();
        self.began = now;
        if let Some(lent) = &mut self.store.data_mut().lent {
            lent.call_begins(now, deadline);
        }
        Deadline { at: now + deadline, after: deadline }
    }

    /// A guest that was refused memory usually traps over it; the cause is worth more than the trap.
    fn judge<R>(&mut self, result: Result<R, Fault>) -> Result<R, Fault> {
        let refused = std::mem::take(&mut self.store.data_mut().memory().refused);
        self.turn.end();
        match result {
            Err(Fault::Trapped(_)) if refused.is_some() => Err(Fault::Memory(self.limits.memory)),
            Err(fault @ (Fault::Trapped(_) | Fault::Exited(_))) => {
                Err(fault.with(self.store.data().last_words(self.began)))
            }
            result => result,
        }
    }
}

impl Instance<Command> {
    /// Shows how much memory it has while it runs.
    pub(super) fn gauge(&mut self) -> Arc<AtomicUsize> {
        self.store.data_mut().memory().gauge()
    }

    /// Its lines in the log; who writes there on its account while it runs uses them up, too.
    pub(super) fn allowance(&self) -> Allowance {
        self.store.data().allowance()
    }

    /// Runs it to its end, however long that takes. Ok: it has finished.
    pub(super) async fn run(mut self) -> Result<(), Fault> {
        let call = self.guest.wasi_cli_run().call_run(&mut self.store);
        let result = unlimited(&self.engine, &self.turn, call).await;
        let result = match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) => Err(Fault::Exited(1)),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(0)) => Ok(()),
                Some(I32Exit(code)) => Err(Fault::Exited(*code)),
                None => Err(Fault::trapped(&error, &self.limits)),
            },
        };
        self.judge(result)
    }
}

impl Instance<MessagingCore> {
    /// What it sends leaves with this.
    pub(super) fn publish_with(&mut self, qos: Qos) {
        self.store.data_mut().sends_with = qos;
    }

    pub(super) async fn on_message(&mut self, message: &Message) -> Result<Result<(), Failure>, Fault> {
        let deadline = self.begins(self.limits.deadline);
        let result = match self.store.data_mut().hold(message) {
            Ok(message) => {
                let call = self.guest.wasi_messaging_incoming_handler().call_handle(&mut self.store, message);
                guarded(&self.engine, &self.turn, deadline, &self.limits, pin!(call)).await
            }
            Err(error) => Err(Fault::trapped(&error, &self.limits)),
        };
        Ok(self.judge(result)?.map_err(|error| Failure::Retry(said(&failure(error)))))
    }
}

impl Instance<Plugin> {
    pub(super) async fn start(&mut self, start: StartInfo<'_>) -> Result<(), Fault> {
        let handed_over = start.handed_over.map_or(0, <[u8]>::len);
        self.keeps(handed_over)?;
        self.handed_over = handed_over;
        let deadline = self.begins(self.limits.start_deadline);
        let call = self.guest.alphorn_plugin_guest().call_start(&mut self.store, start);
        let result = guarded(&self.engine, &self.turn, deadline, &self.limits, pin!(call)).await;
        let started = self.judge(result).map_err(|fault| match fault {
            Fault::Overran(deadline) => Fault::StartOverran(deadline),
            fault => fault,
        });
        started?.map_err(|words| Fault::Start(said(&words)))
    }

    pub(super) async fn on_message(
        &mut self,
        message: &Message,
        attempt: u32,
        redelivered: bool,
    ) -> Result<Result<(), Failure>, Fault> {
        let pairs = message.properties.as_deref().map(user_properties).unwrap_or_default();
        let message = MessageParam {
            topic: message.topic.as_str(),
            payload: &message.payload,
            qos: message.qos.into(),
            retain: message.retain,
            properties: message.properties.as_deref().map(|properties| inbound(properties, &pairs)),
        };
        let delivery = guest::Delivery { message, attempt, redelivered };
        let deadline = self.begins(self.limits.deadline);
        let call = self.guest.alphorn_plugin_guest().call_on_message(&mut self.store, delivery);
        let result = guarded(&self.engine, &self.turn, deadline, &self.limits, pin!(call)).await;
        Ok(self.judge(result)?.map_err(|failure| match failure {
            Failure::Retry(words) => Failure::Retry(said(&words)),
            Failure::Drop(words) => Failure::Drop(said(&words)),
        }))
    }

    pub(super) async fn on_timer(&mut self, timer: u32, missed: u32) -> Result<Result<(), String>, Fault> {
        let deadline = self.begins(self.limits.deadline);
        let call = self.guest.alphorn_plugin_guest().call_on_timer(&mut self.store, timer, missed);
        let result = guarded(&self.engine, &self.turn, deadline, &self.limits, pin!(call)).await;
        Ok(self.judge(result)?.map_err(|words| said(&words)))
    }

    pub(super) async fn on_event(&mut self, event: Event<'_>) -> Result<(), Fault> {
        let deadline = self.begins(self.limits.deadline);
        let call = self.guest.alphorn_plugin_guest().call_on_event(&mut self.store, event);
        let result = guarded(&self.engine, &self.turn, deadline, &self.limits, pin!(call)).await;
        self.judge(result)
    }

    pub(super) async fn stop(&mut self, reason: StopReason) -> Result<Result<Option<Vec<u8>>, String>, Fault> {
        let deadline = self.begins(self.limits.deadline);
        let call = self.guest.alphorn_plugin_guest().call_stop(&mut self.store, reason);
        let result = guarded(&self.engine, &self.turn, deadline, &self.limits, pin!(call)).await;
        let result = self.judge(result)?;
        if let Ok(Some(handed_over)) = &result {
            self.keeps(handed_over.len())?;
        }
        Ok(result.map_err(|words| said(&words)))
    }

    /// The host keeps so many bytes that are the plugin's.
    fn keeps(&mut self, bytes: usize) -> Result<(), Fault> {
        self.store.data_mut().memory().take(bytes).map_err(|_| Fault::Memory(self.limits.memory))
    }

    /// What the version before has handed over is kept no longer.
    pub(super) fn forget_handed_over(&mut self) {
        let bytes = std::mem::take(&mut self.handed_over);
        self.store.data_mut().memory().give_back(bytes);
    }
}

impl Fault {
    /// With what the guest said last, if anything.
    fn with(self, words: Option<String>) -> Self {
        match words {
            Some(words) => Self::Said(Box::new(self), words),
            None => self,
        }
    }

    /// In one line; where in the guest it happened is for who debugs it.
    fn trapped(error: &wasmtime::Error, limits: &Limits) -> Self {
        for line in format!("{error:#}").lines() {
            debug!("{line}");
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return Self::Trapped(trap.to_string());
        }
        let cause = error.root_cause().to_string();
        // It has no type of its own; `tests/hostile.rs` notices when the words change.
        if cause.contains("fuel allocated for hostcalls has been exhausted") {
            return Self::Copied(limits.hostcall_bytes);
        }
        Self::Trapped(cause)
    }
}

/// `call` is pinned by the caller: a call's future is large, and each move of it a copy.
async fn guarded<R>(
    engine: &Engine,
    turn: &Turn,
    deadline: Deadline,
    limits: &Limits,
    mut call: Pin<&mut impl Future<Output = wasmtime::Result<R>>>,
) -> Result<R, Fault> {
    let _running = engine.run();
    // Most calls are over at once, and need no timer.
    let mut overrun = pin!(None);
    let result = poll_fn(|context| {
        let polled = call.as_mut().poll(context);
        if polled.is_ready() {
            return polled.map(Some);
        }
        // It waits for the host, perhaps for long; others may compute meanwhile.
        turn.end();
        if overrun.is_none() {
            // Whatever the call has used up of the task's budget, its deadline is looked at.
            overrun.set(Some(unconstrained(sleep_until(deadline.at.into()))));
        }
        match overrun.as_mut().as_pin_mut() {
            Some(overrun) => overrun.poll(context).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await;
    match result {
        Some(result) => result.map_err(|error| Fault::trapped(&error, limits)),
        None => Err(Fault::Overran(deadline.after)),
    }
}

/// The same without a deadline. The epoch advances only while it computes: it may well be that it
/// waits for its input most of its life.
async fn unlimited<R>(engine: &Engine, turn: &Turn, call: impl Future<Output = R>) -> R {
    let mut call = pin!(call);
    poll_fn(|context| {
        let _running = engine.run();
        let polled = call.as_mut().poll(context);
        turn.rests();
        polled
    })
    .await
}

fn user_properties(properties: &Properties) -> Vec<UserPropertyParam<'_>> {
    properties.user_properties.iter().map(|(name, value)| UserPropertyParam { name, value }).collect()
}

fn inbound<'a>(properties: &'a Properties, pairs: &'a [UserPropertyParam<'a>]) -> PropertiesParam<'a> {
    PropertiesParam {
        content_type: properties.content_type.as_deref(),
        response_topic: properties.response_topic.as_ref().map(|topic| topic.as_str()),
        correlation_data: properties.correlation_data.as_deref(),
        message_expiry: properties.message_expiry,
        utf8: properties.utf8,
        user_properties: pairs,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
    use wit_parser::{ManglingAndAbi, Resolve};

    use super::*;
    use crate::{
        grants::Grants,
        link::WhenFull,
        plugin::{
            bindings::exports::alphorn::plugin::guest::StartReason,
            compile::Compiler,
            component::{self, LoadLimits},
            guest::Guest,
            wasi::Wasi,
        },
    };

    /// A component of the plugins' world whose functions trap at once.
    fn dummy() -> Vec<u8> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
        let world = resolve.select_world(&[package], Some("plugin")).unwrap();
        let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn time_that_passed_before_a_call_does_not_make_it_a_long_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dummy.wasm");
        std::fs::write(&path, dummy()).unwrap();
        let engine = Engine::new(Compiler::InProcess, None, WhenFull::DropNewest).unwrap();
        let loaded = component::load(&engine, &path, LoadLimits::default()).await.unwrap();
        let config = PluginConfig {
            component: path,
            grants: Grants::default(),
            config: Arc::default(),
            limits: Limits::default(),
            wasi: Wasi::default(),
            command: None,
            messaging: None,
        };
        // Once a call is taken for a long one, it waits for ever.
        let mut instances = Vec::new();
        for _ in 0..20 {
            instances.push(Guest::new(&engine, &loaded, &config, 0).await.unwrap());
        }
        let turns = u32::try_from(engine.long.available_permits()).unwrap();
        let _all_turns = engine.long.acquire_many(turns).await.unwrap();
        let ticking = engine.run();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(ticking);
        let mut ended = false;
        // On a busy machine one call or another does take longer than a tick.
        for mut instance in instances {
            instance.rested();
            let info = StartInfo { reason: StartReason::First, previous_version: None, handed_over: None };
            let call = timeout(Duration::from_millis(200), instance.start(info)).await;
            ended |= matches!(call, Ok(Err(Fault::Trapped(_))));
        }
        assert!(ended, "no call ended without a turn for long ones");
    }
}
