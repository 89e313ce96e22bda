//! One Store and its guest: calls under a deadline.
//!
//! Guest code runs on a stack of its own and yields at each tick of the epoch, so a call
//! that takes too long is found by its time limit whether it computes or waits for the
//! host. Whatever a call left behind then is thrown away with the Store.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::debug;
use wasmtime::{Store, Trap, UpdateDeadline};

use super::{
    bindings::{
        Plugin,
        alphorn::plugin::types::{MessageParam, PropertiesParam, UserPropertyParam},
        exports::alphorn::plugin::guest::{self, Event, Failure, StartInfo, StopReason},
    },
    component::Loaded,
    engine::Engine,
    imports::{GuestState, Lent},
    output::{Allowance, Output},
    timers::Timers,
};
use crate::{
    config::{Limits, PluginConfig},
    link::Outcome,
    message::{Message, Properties},
};

/// A guest that can be called.
pub(super) struct Instance {
    store: Store<GuestState>,
    guest: Plugin,
    engine: Engine,
    limits: Limits,
    turn: Turn,
}

/// What a call holds that computes for longer than a tick; shared with the Store's callback, on
/// the guest's one task.
#[derive(Clone, Default)]
struct Turn(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Turn {
    /// Lets others compute that have waited longer, and waits in turn.
    async fn wait(&self, long: Arc<Semaphore>) {
        self.end();
        tokio::task::yield_now().await;
        // Fails only when the semaphore is closed, which nobody does.
        let permit = long.acquire_owned().await.ok();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A guest broke a rule; its instance is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("it trapped: {0}")]
    Trapped(String),
    #[error("it took longer than {}", humantime::format_duration(*.0))]
    Overran(Duration),
    #[error("it asked for more than {0} bytes of memory (`limits.memory`)")]
    Memory(usize),
    #[error("its start failed: {0}")]
    Start(String),
}

/// Bytes a guest may have copied out of it in one call to the host, beyond the largest
/// payload. A payload somewhat over its limit is an error to the guest; one far over it is a trap.
const COPIED: usize = 1024 * 1024;

impl Instance {
    /// Makes a guest ready; none of its exports has run.
    pub(super) async fn new(
        engine: &Engine,
        loaded: &Loaded,
        config: &PluginConfig,
        max_payload: u32,
    ) -> Result<Self, Fault> {
        let limits = config.limits;
        let allowance = Allowance::new(limits.log_rate);
        let (out, err) = (Output::out(allowance.clone()), Output::err(allowance.clone()));
        let wasi = config.wasi.context(out, err).map_err(Fault::Start)?;
        let state = GuestState::new(wasi, loaded.about.version().to_owned(), limits.memory, allowance);
        let mut store = Store::new(&engine.engine, state);
        store.limiter(|state| state.memory());
        let turn = Turn::default();
        let (long, taken) = (engine.long.clone(), turn.clone());
        store.epoch_deadline_callback(move |_| {
            let (long, turn) = (long.clone(), taken.clone());
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(async move { turn.wait(long).await })))
        });
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(COPIED.saturating_add(max_payload as usize));
        let running = engine.run();
        let guest = timeout(limits.start_deadline, loaded.pre.instantiate_async(&mut store)).await;
        drop(running);
        turn.end();
        match guest {
            Ok(Ok(guest)) => Ok(Self { store, guest, engine: engine.clone(), limits, turn }),
            Ok(Err(_)) if store.data_mut().memory().refused => Err(Fault::Memory(limits.memory)),
            Ok(Err(error)) => Err(Fault::trapped(&error)),
            Err(_) => Err(Fault::Overran(limits.start_deadline)),
        }
    }

    /// Gives it what belongs to the plugin.
    pub(super) fn lend(&mut self, lent: Lent) {
        self.store.data_mut().lent = Some(lent);
    }

    /// A call has ended well.
    pub(super) async fn call_ended(&mut self, outcome: Outcome) {
        if let Some(lent) = &mut self.store.data_mut().lent {
            lent.call_ended(outcome).await;
        }
    }

    /// What belongs to the plugin.
    pub(super) fn lent(&mut self) -> Option<&Lent> {
        self.store.data().lent.as_ref()
    }

    /// What belongs to the plugin.
    pub(super) fn lent_mut(&mut self) -> Option<&mut Lent> {
        self.store.data_mut().lent.as_mut()
    }

    /// Bytes of its memories and tables.
    pub(super) fn memory(&mut self) -> usize {
        self.store.data_mut().memory().used()
    }

    /// Takes that back.
    pub(super) fn take_back(&mut self) -> Option<Lent> {
        self.store.data_mut().lent.take()
    }

    pub(super) fn timers(&mut self) -> &mut Timers {
        &mut self.store.data_mut().timers
    }

    pub(super) async fn start(&mut self, start: StartInfo<'_>) -> Result<(), Fault> {
        let deadline = self.limits.start_deadline;
        self.begins(deadline);
        let call = self.guest.alphorn_plugin_guest().call_start(&mut self.store, start);
        let result = guarded(&self.engine, &self.turn, deadline, call).await;
        self.judge(result)?.map_err(Fault::Start)
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
        let deadline = self.limits.deadline;
        self.begins(deadline);
        let call = self.guest.alphorn_plugin_guest().call_on_message(&mut self.store, delivery);
        let result = guarded(&self.engine, &self.turn, deadline, call).await;
        self.judge(result)
    }

    pub(super) async fn on_timer(&mut self, timer: u32, missed: u32) -> Result<Result<(), String>, Fault> {
        let deadline = self.limits.deadline;
        self.begins(deadline);
        let call = self.guest.alphorn_plugin_guest().call_on_timer(&mut self.store, timer, missed);
        let result = guarded(&self.engine, &self.turn, deadline, call).await;
        self.judge(result)
    }

    pub(super) async fn on_event(&mut self, event: Event<'_>) -> Result<(), Fault> {
        let deadline = self.limits.deadline;
        self.begins(deadline);
        let call = self.guest.alphorn_plugin_guest().call_on_event(&mut self.store, event);
        let result = guarded(&self.engine, &self.turn, deadline, call).await;
        self.judge(result)
    }

    pub(super) async fn stop(&mut self, reason: StopReason) -> Result<Result<Option<Vec<u8>>, String>, Fault> {
        let deadline = self.limits.deadline;
        self.begins(deadline);
        let call = self.guest.alphorn_plugin_guest().call_stop(&mut self.store, reason);
        let result = guarded(&self.engine, &self.turn, deadline, call).await;
        self.judge(result)
    }

    fn begins(&mut self, deadline: Duration) {
        if let Some(lent) = &mut self.store.data_mut().lent {
            lent.call_begins(deadline);
        }
    }

    /// A guest that was refused memory usually traps over it; the cause is worth more than the trap.
    fn judge<R>(&mut self, result: Result<R, Fault>) -> Result<R, Fault> {
        let refused = std::mem::take(&mut self.store.data_mut().memory().refused);
        self.turn.end();
        match result {
            Err(Fault::Trapped(_)) if refused => Err(Fault::Memory(self.limits.memory)),
            result => result,
        }
    }
}

impl Fault {
    /// In one line; where in the guest it happened is for who debugs it.
    fn trapped(error: &wasmtime::Error) -> Self {
        debug!("{error:#}");
        match error.downcast_ref::<Trap>() {
            Some(trap) => Self::Trapped(trap.to_string()),
            None => Self::Trapped(error.root_cause().to_string()),
        }
    }
}

async fn guarded<R>(
    engine: &Engine,
    turn: &Turn,
    deadline: Duration,
    call: impl Future<Output = wasmtime::Result<R>>,
) -> Result<R, Fault> {
    let _running = engine.run();
    let mut call = pin!(call);
    let call = poll_fn(|context| {
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            // It waits for the host, perhaps for long; others may compute meanwhile.
            turn.end();
        }
        polled
    });
    match timeout(deadline, call).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(Fault::trapped(&error)),
        Err(_) => Err(Fault::Overran(deadline)),
    }
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
