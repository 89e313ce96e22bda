//! What guests call. The one place where what the host says becomes what WIT says.

use std::time::{Duration, Instant, SystemTime};

use bytestring::ByteString;
use tracing::{debug, error, info, trace, warn};
use wasmtime::{
    StoreContextMut,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    bindings::alphorn::plugin::{host, mqtt, state, timers, types},
    lent::Lent,
    memory::Memory,
    output::Output,
    state::NoRoom,
    timers::{MOST, Timers},
};
use crate::{
    allowance::Allowance,
    link::{Breach, NotTaken},
    message::{LONGEST_TEXT, Properties, Qos, UserProperties},
    topic::TopicName,
};

/// The data of a guest's Store.
pub(crate) struct GuestState {
    wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) memory: Memory,
    /// Lines in the log.
    allowance: Allowance,
    stderr: Output,
    /// Of the component, for the guest.
    version: String,
    pub(super) timers: Timers,
    /// What wasi:messaging, which has no QoS, publishes with.
    pub(super) sends_with: Qos,
    /// What the guest was lent. Empty while an instance is only made ready beside another.
    pub(super) lent: Option<Lent>,
}

/// Bytes of a line in the log; the rest is cut off.
pub(super) const LONGEST_LINE: usize = 4096;

/// Bytes that one call may log; the rest is left out.
const LOGGED: usize = 64 * 1024;

/// Resources of WASI a guest may hold at a time.
const RESOURCES: usize = 1024;

impl GuestState {
    pub(super) fn new(
        wasi: WasiCtx,
        version: String,
        memory_limit: usize,
        allowance: Allowance,
        stderr: Output,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            wasi,
            table,
            allowance,
            stderr,
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

    /// What the guest said last, and not before then.
    pub(super) fn last_words(&self, since: Instant) -> Option<String> {
        self.stderr.last_words(since)
    }

    pub(super) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    pub(super) fn lent(&mut self) -> wasmtime::Result<&mut Lent> {
        self.lent.as_mut().ok_or_else(|| wasmtime::Error::msg("a plugin may call the host from `start` on, not before"))
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
            NotTaken::Breach(Breach::Malformed(why)) => Self::Other(why),
            NotTaken::Full => Self::OutboxFull,
            NotTaken::Held(_) | NotTaken::AllHeld => Self::Held(error.to_string()),
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
        let logged = text.get(..text.floor_char_boundary(LOGGED)).unwrap_or(&text);
        let mut lines = logged.lines();
        while let Some(line) = lines.next() {
            if !self.allowance.take() {
                // Behind one that may not be written none is; there may be as many as bytes.
                self.allowance.leave_out(lines.count());
                break;
            }
            let line = line.get(..line.floor_char_boundary(LONGEST_LINE)).unwrap_or(line);
            match level {
                host::Level::Trace => trace!(target: "plugin", "{line}"),
                host::Level::Debug => debug!(target: "plugin", "{line}"),
                host::Level::Info => info!(target: "plugin", "{line}"),
                host::Level::Warn => warn!(target: "plugin", "{line}"),
                host::Level::Error => {
                    self.stderr.note(line);
                    error!(target: "plugin", "{line}");
                }
            }
        }
        self.allowance.leave_out(usize::from(logged.len() < text.len()));
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

impl TryFrom<types::PropertiesResult> for Properties {
    type Error = mqtt::PublishError;

    fn try_from(properties: types::PropertiesResult) -> Result<Self, Self::Error> {
        let response_topic = properties.response_topic.map(TopicName::parse).transpose();
        let response_topic = response_topic
            .map_err(|cause| mqtt::PublishError::InvalidTopic(format!("the response topic can't be used: {cause}")))?;
        let mut user_properties = UserProperties::default();
        for pair in &properties.user_properties {
            user_properties
                .push(&pair.name, &pair.value)
                .map_err(|error| mqtt::PublishError::Other(error.to_string()))?;
        }
        let properties = Self {
            content_type: properties.content_type.map(ByteString::from),
            response_topic,
            correlation_data: properties.correlation_data.map(Into::into),
            message_expiry: properties.message_expiry,
            utf8: properties.utf8,
            user_properties,
        };
        if properties.correlation_data.as_ref().is_some_and(|data| data.len() > LONGEST_TEXT) {
            return Err(mqtt::PublishError::TooLarge(LONGEST_TEXT as u32));
        }
        Ok(properties)
    }
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
