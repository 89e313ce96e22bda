//! What guests call. The one place where what the host says becomes what WIT says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytestring::ByteString;
use tokio::time::sleep;
use tracing::{debug, error, info, trace, warn};
use wasmtime::{
    ResourceLimiter, StoreContextMut,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    bindings::alphorn::plugin::{host, mqtt, state, timers, types},
    output::Allowance,
    payload::Payloads,
    state::{NoRoom, State},
    timers::{MOST, Timers},
};
use crate::{
    config::Limits,
    grants::Grants,
    link::{Breach, Client, NotTaken, Outcome},
    message::{Message, Properties, Qos},
    rate::Bucket,
    store::{Change, Saved},
    topic::{TopicFilter, TopicName},
};

/// The data of a guest's Store.
pub(crate) struct GuestState {
    wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) memory: Memory,
    /// Lines in the log.
    allowance: Allowance,
    /// Of the component, for the guest.
    version: String,
    pub(super) timers: Timers,
    /// What wasi:messaging, which has no QoS, publishes with.
    pub(super) sends_with: Qos,
    /// What the guest was lent. Empty while an instance is only made ready beside another.
    pub(super) lent: Option<Lent>,
}

/// What belongs to the plugin, not to one instance of it: it goes from Store to Store.
pub(super) struct Lent {
    pub(super) client: Client,
    pub(super) about: Arc<About>,
    bucket: Bucket,
    payloads: Payloads,
    /// Topics it has published to, and may; the last one first.
    topics: VecDeque<TopicName>,
    /// Its name, as what is kept on disk is kept under.
    plugin: Arc<str>,
    pub(super) state: State,
    /// Filters it has asked for.
    subscriptions: BTreeMap<TopicFilter, Qos>,
    /// Those of them this version has asked for.
    asked: BTreeSet<TopicFilter>,
    /// Refusals, each logged once.
    refused: BTreeSet<String>,
    /// When a publish of this call has to stop waiting for room.
    patience: Instant,
}

/// A message that is published as soon as it may be.
pub(super) struct Waiting {
    message: Message,
    /// The plugin's rate allows for it.
    has_turn: bool,
}

/// What a plugin is told about itself, and may do.
pub(super) struct About {
    pub(super) name: String,
    pub(super) client_id: String,
    pub(super) grants: Grants,
    pub(super) config: BTreeMap<String, String>,
}

/// All memories and tables of one guest together, and the messages the host holds for it.
pub(super) struct Memory {
    used: usize,
    /// The same, for whoever looks on while it runs.
    shown: Arc<AtomicUsize>,
    limit: usize,
    /// A request over the limit was refused.
    pub(super) refused: bool,
}

/// Filters one plugin may have; AWS IoT Core allows 50 on a connection.
const SUBSCRIPTIONS: usize = 50;

/// Topics that are remembered.
const TOPICS: usize = 8;

/// Bytes of a line in the log; the rest is cut off.
pub(super) const LONGEST_LINE: usize = 4096;

/// Resources of WASI a guest may hold at a time.
const RESOURCES: usize = 1024;

/// Refusals that are remembered, so that each is logged once; beyond them none is logged.
const REFUSED: usize = 64;

impl GuestState {
    pub(super) fn new(wasi: WasiCtx, version: String, memory_limit: usize, allowance: Allowance) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            wasi,
            table,
            allowance,
            memory: Memory::new(memory_limit),
            version,
            timers: Timers::default(),
            sends_with: Qos::AtLeastOnce,
            lent: None,
        }
    }

    pub(super) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    pub(super) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    pub(super) fn may_log(&mut self) -> bool {
        self.allowance.take()
    }

    pub(super) fn lent(&mut self) -> wasmtime::Result<&mut Lent> {
        self.lent.as_mut().ok_or_else(|| wasmtime::Error::msg("a plugin may call the host from `start` on, not before"))
    }
}

impl Lent {
    pub(super) fn new(client: Client, about: Arc<About>, limits: &Limits, saved: &mut Saved) -> Self {
        let now = Instant::now();
        let mut lent = Self {
            client,
            plugin: about.name.as_str().into(),
            about,
            bucket: Bucket::new(limits.publish_rate, now),
            payloads: Payloads::default(),
            topics: VecDeque::new(),
            state: State::new(std::mem::take(&mut saved.state), limits.state_bytes),
            subscriptions: std::mem::take(&mut saved.subscriptions).into_iter().collect(),
            asked: BTreeSet::new(),
            refused: BTreeSet::new(),
            patience: now,
        };
        lent.release(|about, filter| !about.grants.allow_subscribe(filter));
        lent
    }

    /// A call begins that may take so long. A publish that waits for room leaves the guest
    /// a tenth of that to make something of the refusal.
    pub(super) fn call_begins(&mut self, now: Instant, deadline: Duration) {
        self.patience = now + deadline * 9 / 10;
        self.undo();
    }

    /// What a call that did not end well wrote to the state never was.
    pub(super) fn undo(&mut self) {
        self.state.undo();
    }

    /// A call has ended well: what it wrote takes effect, with what else is to be written.
    pub(super) async fn call_ended(&mut self, mut outcome: Outcome) {
        outcome.changes.extend(self.writes());
        self.client.end_call(outcome).await;
    }

    /// What the call that has ended well wrote to the state.
    pub(super) fn writes(&mut self) -> Vec<Change> {
        let plugin = &self.plugin;
        let change = |(key, value)| Change::State { plugin: plugin.clone(), key, value };
        self.state.accept().map(change).collect()
    }

    /// Puts another configuration in force; subscriptions it does not grant end.
    pub(super) fn configure(&mut self, about: Arc<About>, limits: &Limits) {
        self.about = about;
        self.topics.clear();
        self.bucket = Bucket::new(limits.publish_rate, Instant::now());
        self.state.set_limit(limits.state_bytes);
        self.refused.clear();
        self.release(|about, filter| !about.grants.allow_subscribe(filter));
    }

    /// From now on it is noted which filters are asked for. Those there are come out.
    pub(super) fn note_subscriptions(&mut self) -> BTreeMap<TopicFilter, Qos> {
        self.asked.clear();
        self.subscriptions.clone()
    }

    /// All there are count as asked for: nobody knows any more which were.
    pub(super) fn ask_for_all(&mut self) {
        self.asked = self.subscriptions.keys().cloned().collect();
    }

    /// Gives back the filters there were not before, and asks for those there were.
    pub(super) fn restore_subscriptions(&mut self, before: BTreeMap<TopicFilter, Qos>) {
        self.release(|_, filter| !before.contains_key(filter));
        for (filter, qos) in before {
            if !self.subscriptions.contains_key(&filter) && self.about.grants.allow_subscribe(&filter) {
                self.subscriptions.insert(filter.clone(), qos);
                self.client.subscribe(filter, qos);
            }
        }
    }

    /// Gives back the filters nobody has asked for since.
    pub(super) fn release_others(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        self.release(|_, filter| !asked.contains(filter));
    }

    fn release(&mut self, is_superfluous: impl Fn(&About, &TopicFilter) -> bool) {
        let (client, about) = (&self.client, &self.about);
        self.subscriptions.retain(|filter, _| {
            let goes = is_superfluous(about, filter);
            if goes {
                debug!(%filter, "given back");
                client.unsubscribe(filter.clone());
            }
            !goes
        });
    }

    fn state(&mut self) -> Result<&mut State, state::StateError> {
        if !self.client.is_durable() {
            let why = "this host keeps nothing on disk; set `host.data_dir`";
            return Err(state::StateError::Other(why.to_owned()));
        }
        Ok(&mut self.state)
    }

    /// Checks what is the plugin's own matter; the rest is the link's.
    fn checked(&mut self, message: types::MessageResult, now: Instant) -> Result<Message, mqtt::PublishError> {
        let topic = self.granted(message.topic)?;
        let properties = message.properties.map(properties).transpose()?;
        self.bucket.take(now).map_err(|wait| mqtt::PublishError::RateLimited(milliseconds(wait)))?;
        let qos = message.qos.into();
        let payload = self.payloads.pack(message.payload, qos);
        trace!(%topic, bytes = payload.len(), "publish");
        Ok(Message { topic, payload, qos, retain: message.retain, properties })
    }

    /// A topic it may publish to. Most plugins publish to a few again and again.
    fn granted(&mut self, topic: String) -> Result<TopicName, mqtt::PublishError> {
        if let Some(at) = self.topics.iter().position(|known| known.as_str() == topic) {
            self.topics.swap(0, at);
            if let Some(known) = self.topics.front() {
                return Ok(known.clone());
            }
        }
        let topic = TopicName::parse(topic)
            .map_err(|cause| mqtt::PublishError::InvalidTopic(format!("a topic can't be used: {cause}")))?;
        if !self.about.grants.allow_publish(&topic) {
            let granted = listed(self.about.grants.publish());
            let why = format!("`{topic}` is not within the plugin's publish grants ({granted}): add it to `publish`");
            self.log_refusal(&why);
            return Err(mqtt::PublishError::NotGranted(why));
        }
        self.topics.truncate(TOPICS - 1);
        self.topics.push_front(topic.clone());
        Ok(topic)
    }

    pub(super) async fn publish(&mut self, message: types::MessageResult) -> Result<u32, mqtt::PublishError> {
        let now = Instant::now();
        let message = self.checked(message, now)?;
        Ok(self.client.publish(message, now, self.patience).await?)
    }

    /// The same where nobody ever waits for room.
    fn publish_at_once(&mut self, message: types::MessageResult) -> Result<u32, mqtt::PublishError> {
        let now = Instant::now();
        let message = self.checked(message, now)?;
        Ok(self.client.publish_at_once(message, now)?)
    }

    /// A message for [`Self::publish_in_time`], if it may be published at all.
    pub(super) fn waiting(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        qos: Qos,
        retain: bool,
    ) -> Result<Waiting, mqtt::PublishError> {
        let topic = self.granted(topic)?;
        let payload = self.payloads.pack(payload, qos);
        Ok(Waiting { message: Message { topic, payload, qos, retain, properties: None }, has_turn: false })
    }

    /// Publishes for who can't be told to come again: where a plugin would be, this waits. Safe to
    /// drop; nothing was published then.
    pub(super) async fn publish_in_time(&mut self, waiting: &mut Waiting) -> Result<u32, mqtt::PublishError> {
        while !waiting.has_turn {
            match self.bucket.take(Instant::now()) {
                Ok(()) => waiting.has_turn = true,
                Err(wait) => sleep(wait).await,
            }
        }
        let Message { topic, payload, .. } = &waiting.message;
        trace!(%topic, bytes = payload.len(), "publish");
        Ok(self.client.publish_in_time(&waiting.message).await?)
    }

    /// Subscribes who can't ask for it. Whatever else there is ends, unless somebody may still
    /// need it: the version before, if this one fails.
    pub(super) fn subscribe_as_configured(&mut self, filters: &[TopicFilter], qos: Qos, is_successor: bool) {
        if !is_successor {
            self.release(|_, filter| !filters.contains(filter));
        }
        for filter in filters {
            debug!(%filter, "subscribe");
            self.subscriptions.insert(filter.clone(), qos);
            self.asked.insert(filter.clone());
            self.client.subscribe(filter.clone(), qos);
        }
    }

    fn subscribe(&mut self, filter: String, qos: types::Qos) -> Result<(), mqtt::SubscribeError> {
        let filter = TopicFilter::parse(filter.clone())
            .map_err(|cause| mqtt::SubscribeError::InvalidFilter(format!("`{filter}`: {cause}")))?;
        if !self.about.grants.allow_subscribe(&filter) {
            let granted = listed(self.about.grants.subscribe());
            let why = format!(
                "`{filter}` does not lie within the plugin's subscribe grants ({granted}): add it to `subscribe`"
            );
            self.log_refusal(&why);
            return Err(mqtt::SubscribeError::NotGranted(why));
        }
        if !self.subscriptions.contains_key(&filter) && self.subscriptions.len() >= SUBSCRIPTIONS {
            return Err(mqtt::SubscribeError::LimitReached(SUBSCRIPTIONS as u32));
        }
        self.bucket.take(Instant::now()).map_err(|wait| {
            mqtt::SubscribeError::Other(format!("the plugin's rate is used up; try again in {} ms", milliseconds(wait)))
        })?;
        debug!(%filter, "subscribe");
        let qos = qos.into();
        self.subscriptions.insert(filter.clone(), qos);
        self.asked.insert(filter.clone());
        self.client.subscribe(filter, qos);
        Ok(())
    }

    fn unsubscribe(&mut self, filter: String) -> Result<(), mqtt::SubscribeError> {
        let filter = TopicFilter::parse(filter.clone())
            .map_err(|cause| mqtt::SubscribeError::InvalidFilter(format!("`{filter}`: {cause}")))?;
        self.asked.remove(&filter);
        if self.subscriptions.remove(&filter).is_some() {
            self.client.unsubscribe(filter);
        }
        Ok(())
    }

    fn log_refusal(&mut self, why: &str) {
        if self.refused.len() < REFUSED && self.refused.insert(why.to_owned()) {
            warn!("not granted: {why}");
        }
    }
}

/// A refusal in words, for those who can't be given it as it is.
pub(super) fn in_words(error: mqtt::PublishError) -> String {
    match error {
        mqtt::PublishError::NotGranted(why)
        | mqtt::PublishError::InvalidTopic(why)
        | mqtt::PublishError::Held(why)
        | mqtt::PublishError::Unsupported(why)
        | mqtt::PublishError::Other(why) => why,
        mqtt::PublishError::TooLarge(limit) => format!("the payload has more than {limit} bytes"),
        mqtt::PublishError::RateLimited(wait) => {
            format!("the plugin's rate is used up (`limits.publish_rate`); try again in {wait} ms")
        }
        mqtt::PublishError::OutboxFull => "the outbox has no room for it (`limits.outbox_bytes`)".to_owned(),
    }
}

impl From<NotTaken> for mqtt::PublishError {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Breach(Breach::TooLarge(limit)) => Self::TooLarge(limit),
            NotTaken::Breach(Breach::InvalidTopic(why)) => Self::InvalidTopic(why),
            NotTaken::Breach(Breach::Unsupported(why)) => Self::Unsupported(why),
            NotTaken::Full => Self::OutboxFull,
            NotTaken::Held(_) => Self::Held(error.to_string()),
            NotTaken::Ended => Self::Other(error.to_string()),
        }
    }
}

/// Puts a `publish` in place of the generated one that needs no future of its own, where it never
/// has to wait for room.
pub(super) fn link_publish_at_once(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let call = |mut store: StoreContextMut<'_, GuestState>, (message,): (types::MessageResult,)| {
        Ok((store.data_mut().lent()?.publish_at_once(message),))
    };
    linker.allow_shadowing(true);
    linker.instance("alphorn:plugin/mqtt@0.1.0")?.func_wrap("publish", call)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl mqtt::Host for GuestState {
    async fn publish(&mut self, message: types::MessageResult) -> wasmtime::Result<Result<u32, mqtt::PublishError>> {
        Ok(self.lent()?.publish(message).await)
    }

    fn subscribe(&mut self, filter: String, qos: types::Qos) -> wasmtime::Result<Result<(), mqtt::SubscribeError>> {
        Ok(self.lent()?.subscribe(filter, qos))
    }

    fn unsubscribe(&mut self, filter: String) -> wasmtime::Result<Result<(), mqtt::SubscribeError>> {
        Ok(self.lent()?.unsubscribe(filter))
    }

    fn link(&mut self) -> wasmtime::Result<mqtt::LinkState> {
        let client = &self.lent()?.client;
        let (queued_messages, queued_bytes) = client.queued();
        let status = client.status();
        let status = status.borrow();
        Ok(mqtt::LinkState {
            connected: status.connection().is_some(),
            since: status.since.elapsed().as_secs_f64() * 1000.0,
            queued_messages,
            queued_bytes: queued_bytes as f64,
        })
    }
}

impl timers::Host for GuestState {
    fn every(&mut self, period: u32) -> wasmtime::Result<Result<u32, String>> {
        Ok(self.start_timer(period, true))
    }

    fn after(&mut self, delay: u32) -> wasmtime::Result<Result<u32, String>> {
        Ok(self.start_timer(delay, false))
    }

    fn cancel(&mut self, timer: u32) -> wasmtime::Result<()> {
        self.timers.cancel(timer);
        Ok(())
    }
}

impl GuestState {
    fn start_timer(&mut self, milliseconds: u32, periodic: bool) -> Result<u32, String> {
        if milliseconds == 0 {
            return Err("a timer takes at least 1 ms".to_owned());
        }
        let delay = Duration::from_millis(milliseconds.into());
        let started = self.timers.start(Instant::now(), delay, periodic);
        started.ok_or_else(|| format!("a plugin has at most {MOST} timers"))
    }
}

impl state::Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, state::StateError>> {
        Ok(self.lent()?.state().map(|state| state.get(&key).map(<[u8]>::to_vec)))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), state::StateError>> {
        let lent = self.lent()?;
        if lent.client.disk_is_full() {
            return Ok(Err(state::StateError::Other("the disk takes nothing for now".to_owned())));
        }
        Ok(lent.state().and_then(|state| Ok(state.set(key.into(), value.into())?)))
    }

    fn remove(&mut self, key: String) -> wasmtime::Result<Result<(), state::StateError>> {
        Ok(self.lent()?.state().map(|state| state.remove(key.into())))
    }

    fn keys(
        &mut self,
        prefix: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<Vec<String>, state::StateError>> {
        let state = self.lent()?.state();
        Ok(state.map(|state| state.keys(&prefix, after.as_deref()).map(str::to_owned).collect()))
    }
}

impl From<NoRoom> for state::StateError {
    fn from(error: NoRoom) -> Self {
        let bytes = |limit| u32::try_from(limit).unwrap_or(u32::MAX);
        match error {
            NoRoom::None => Self::NotGranted,
            NoRoom::TooLarge(limit) => Self::TooLarge(bytes(limit)),
            NoRoom::Full => Self::Full,
        }
    }
}

impl host::Host for GuestState {
    fn identity(&mut self) -> wasmtime::Result<host::About> {
        let version = self.version.clone();
        let about = &self.lent()?.about;
        Ok(host::About {
            client_id: about.client_id.clone(),
            plugin: about.name.clone(),
            version,
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn config(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.lent()?.about.config.get(&key).cloned())
    }

    fn config_keys(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.lent()?.about.config.keys().cloned().collect())
    }

    /// Line by line, so that a guest can't write lines that look like the host's own.
    fn log(&mut self, level: host::Level, text: String) -> wasmtime::Result<()> {
        for line in text.lines() {
            if !self.allowance.take() {
                continue;
            }
            let line = line.get(..line.floor_char_boundary(LONGEST_LINE)).unwrap_or(line);
            match level {
                host::Level::Trace => trace!(target: "plugin", "{line}"),
                host::Level::Debug => debug!(target: "plugin", "{line}"),
                host::Level::Info => info!(target: "plugin", "{line}"),
                host::Level::Warn => warn!(target: "plugin", "{line}"),
                host::Level::Error => error!(target: "plugin", "{line}"),
            }
        }
        Ok(())
    }

    fn now(&mut self) -> wasmtime::Result<f64> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(now.map_or(0.0, |now| now.as_secs_f64() * 1000.0).floor())
    }
}

impl types::Host for GuestState {}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(size_of::<usize>())))
    }
}

impl Memory {
    fn new(limit: usize) -> Self {
        Self { used: 0, shown: Arc::default(), limit, refused: false }
    }

    /// Shows the bytes it has.
    pub(super) fn gauge(&self) -> Arc<AtomicUsize> {
        self.shown.clone()
    }

    /// Bytes it has.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// The host holds so many bytes more for it.
    pub(super) fn take(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if self.grow(bytes) { Ok(()) } else { Err(wasmtime::Error::msg("no memory is left for another message")) }
    }

    /// It holds so many less.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
        self.shown.store(self.used, Relaxed);
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        if used > self.limit {
            self.refused = true;
            return false;
        }
        self.used = used;
        self.shown.store(used, Relaxed);
        true
    }
}

fn properties(properties: types::PropertiesResult) -> Result<Box<Properties>, mqtt::PublishError> {
    // MQTT gives the length of a text in 16 bits (section 1.5.4).
    const LONGEST: usize = 65_535;
    let response_topic = properties.response_topic.map(TopicName::parse).transpose();
    let response_topic = response_topic
        .map_err(|cause| mqtt::PublishError::InvalidTopic(format!("the response topic can't be used: {cause}")))?;
    let pairs = properties.user_properties.into_iter().map(|pair| (pair.name, pair.value));
    let properties = Properties {
        content_type: properties.content_type.map(ByteString::from),
        response_topic,
        correlation_data: properties.correlation_data.map(Into::into),
        message_expiry: properties.message_expiry,
        utf8: properties.utf8,
        user_properties: pairs.collect(),
    };
    let fits = |text: &str| text.len() <= LONGEST && !text.contains('\0');
    let texts_fit = properties.user_properties.iter().all(|(name, value)| fits(name) && fits(value))
        && properties.content_type.as_deref().is_none_or(fits);
    if !texts_fit {
        return Err(mqtt::PublishError::Other("a property's text has at most 65535 bytes and no NUL".to_owned()));
    }
    if properties.correlation_data.as_ref().is_some_and(|data| data.len() > LONGEST) {
        return Err(mqtt::PublishError::TooLarge(LONGEST as u32));
    }
    Ok(Box::new(properties))
}

fn listed(filters: &[TopicFilter]) -> String {
    if filters.is_empty() {
        return "none".to_owned();
    }
    filters.iter().map(TopicFilter::as_str).collect::<Vec<_>>().join(", ")
}

fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl From<types::Qos> for Qos {
    fn from(qos: types::Qos) -> Self {
        match qos {
            types::Qos::AtMostOnce => Self::AtMostOnce,
            types::Qos::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}

impl From<Qos> for types::Qos {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::AtMostOnce,
            Qos::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Instance, Module, Store};

    use super::*;

    /// Whether a module can be instantiated with so many bytes, and what its function `grow` says.
    fn grows(limit: usize, text: &str) -> Option<i32> {
        let engine = wasmtime::Engine::new(&super::super::engine::config()).unwrap();
        let memory = Memory::new(limit);
        let mut store = Store::new(&engine, memory);
        store.limiter(|memory| memory);
        store.set_epoch_deadline(1);
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).ok()?;
        let grow = instance.get_typed_func::<(), i32>(&mut store, "grow").unwrap();
        Some(grow.call(&mut store, ()).unwrap())
    }

    #[test]
    fn memories_and_tables_are_counted_together() {
        let two = r#"(module (memory $a 1) (memory $b 1) (table $t 1000 funcref)
            (func (export "grow") (result i32) (memory.grow $b (i32.const 1))))"#;
        let pages = |count: usize| count * 65536 + 1000 * size_of::<usize>();
        assert_eq!(grows(pages(3), two), Some(1));
        assert_eq!(grows(pages(3) - 1, two), Some(-1), "a third page is over the limit");
        assert_eq!(grows(pages(2) - 1, two), None, "it does not even start");
        let bomb = r#"(module (table $t 0 funcref)
            (func (export "grow") (result i32) (table.grow $t (ref.null func) (i32.const 10000000))))"#;
        assert_eq!(grows(16 * 1024 * 1024, bomb), Some(-1));
        assert_eq!(grows(16 * 1024 * 1024, "(module (table 100000000 funcref))"), None);
    }
}
