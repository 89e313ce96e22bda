//! `wasi:messaging` 0.2.0-draft on what the host has: the adapter.
//!
//! A message is a resource here: the host holds it, the component has a number for it. So what
//! the host holds counts as the component's memory.

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi::WasiCtxBuilder;

use self::bindings::wasi::messaging::{
    producer,
    types::{self, Error},
};
use super::{
    bindings::{
        alphorn::plugin::{mqtt::PublishError, types as plugin},
        exports::alphorn::plugin::guest::StartReason,
    },
    component::Loaded,
    engine::Engine,
    imports::{GuestState, in_words},
    instance::{Fault, Instance},
    output::Output,
};
use crate::{
    allowance::Allowance,
    config::{MessagingConfig, PluginConfig},
    message::{Message, UserProperties},
};

/// The bindings of `wit/messaging`; the host's side.
mod bindings {
    #![allow(unsafe_code, missing_debug_implementations, missing_docs, reason = "generated code")]
    #![allow(unreachable_pub, clippy::all, reason = "generated code")]

    wasmtime::component::bindgen!({
        path: "wit/messaging",
        world: "messaging-core",
        imports: {
            // It may have to wait for room.
            "wasi:messaging/producer.send": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "wasi:messaging/types.client": super::Connection,
            "wasi:messaging/types.message": super::Held,
        },
    });
}

pub(super) use self::bindings::{MessagingCore, MessagingCorePre};

/// A component of wasi:messaging, and its settings.
pub(super) struct Handler {
    pub(super) instance: Instance<MessagingCore>,
    settings: MessagingConfig,
}

#[expect(unreachable_pub, reason = "the generated bindings name it")]
/// What a component takes for a connection.
pub struct Connection;

#[expect(unreachable_pub, reason = "the generated bindings name it")]
/// A message the host holds for a component.
pub struct Held {
    /// None: the component has made it.
    topic: Option<String>,
    content_type: Option<String>,
    data: Bytes,
    metadata: UserProperties,
}

impl Handler {
    /// Makes a component ready; none of its exports has run.
    pub(super) async fn new(
        engine: &Engine,
        loaded: &Loaded,
        pre: &MessagingCorePre<GuestState>,
        config: &PluginConfig,
        max_payload: u32,
    ) -> Result<Self, Fault> {
        let settings = config.messaging.clone().unwrap_or_else(|| MessagingConfig::all_granted(&config.grants));
        let printed = |wasi: &mut WasiCtxBuilder, allowance: &Allowance| {
            wasi.stdout(Output::out(allowance.clone()));
        };
        let mut instance = Instance::new(engine, loaded, pre, config, max_payload, printed).await?;
        instance.publish_with(settings.qos);
        Ok(Self { instance, settings })
    }

    /// It is not called for that; its subscriptions are made.
    pub(super) fn start(&mut self, reason: StartReason) {
        if let Some(lent) = self.instance.lent() {
            let is_successor = reason == StartReason::Swap;
            lent.subscribe_as_configured(&self.settings.subscribe, self.settings.qos, is_successor);
        }
    }
}

impl Held {
    /// An arrival. What MQTT has and wasi:messaging has not is left out.
    fn arrived(message: &Message) -> Self {
        let properties = message.properties.as_deref();
        Self {
            topic: Some(message.topic.as_str().to_owned()),
            content_type: properties.and_then(|properties| Some(properties.content_type.as_ref()?.to_string())),
            data: message.payload.clone(),
            metadata: properties.map(|properties| properties.user_properties.clone()).unwrap_or_default(),
        }
    }

    /// What it takes of the component's memory.
    fn cost(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + length(&self.topic)
            + length(&self.content_type)
            + self.data.len()
            + self.metadata.as_wire().len()
    }

    fn published_to(self, topic: String, qos: plugin::Qos) -> plugin::MessageResult {
        let pair =
            |(name, value): (&str, &str)| plugin::UserPropertyResult { name: name.to_owned(), value: value.to_owned() };
        let has_properties = self.content_type.is_some() || !self.metadata.is_empty();
        let properties = has_properties.then(|| plugin::PropertiesResult {
            content_type: self.content_type,
            response_topic: None,
            correlation_data: None,
            message_expiry: None,
            utf8: false,
            user_properties: self.metadata.iter().map(pair).collect(),
        });
        plugin::MessageResult { topic, payload: self.data.into(), qos, retain: false, properties }
    }
}

/// What a component has said for not having handled a message.
pub(super) fn failure(error: Error) -> String {
    match error {
        Error::Timeout => "timeout".to_owned(),
        Error::Connection(words) => format!("connection: {words}"),
        Error::PermissionDenied(words) => format!("permission-denied: {words}"),
        Error::Other(words) => words,
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotGranted(why) => Self::PermissionDenied(why),
            PublishError::OutboxFull | PublishError::RateLimited(_) => Self::Connection(in_words(error)),
            PublishError::InvalidTopic(_)
            | PublishError::TooLarge(_)
            | PublishError::Held(_)
            | PublishError::Unsupported(_)
            | PublishError::Other(_) => Self::Other(in_words(error)),
        }
    }
}

impl GuestState {
    /// Takes an arrival into what the component can reach.
    pub(super) fn hold(&mut self, message: &Message) -> wasmtime::Result<Resource<Held>> {
        self.take(Held::arrived(message))
    }

    fn take(&mut self, held: Held) -> wasmtime::Result<Resource<Held>> {
        self.memory.take(held.cost())?;
        Ok(self.table.push(held)?)
    }

    fn give_back(&mut self, message: Resource<Held>) -> wasmtime::Result<Held> {
        let held = self.table.delete(message)?;
        self.memory.give_back(held.cost());
        Ok(held)
    }

    fn change(&mut self, message: &Resource<Held>, change: impl FnOnce(&mut Held)) -> wasmtime::Result<()> {
        let held = self.table.get_mut(message)?;
        let before = held.cost();
        change(held);
        let after = held.cost();
        self.memory.give_back(before);
        self.memory.take(after)
    }
}

impl types::Host for GuestState {}

impl types::HostClient for GuestState {
    fn connect(&mut self, _name: String) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        Ok(Ok(self.table.push(Connection)?))
    }

    fn disconnect(&mut self, _client: Resource<Connection>) -> wasmtime::Result<Result<(), Error>> {
        Ok(Ok(()))
    }

    fn drop(&mut self, client: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(client)?;
        Ok(())
    }
}

impl types::HostMessage for GuestState {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Held>> {
        self.take(Held { topic: None, content_type: None, data: data.into(), metadata: UserProperties::default() })
    }

    fn topic(&mut self, message: Resource<Held>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<Held>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<Held>, content_type: String) -> wasmtime::Result<()> {
        self.change(&message, |held| held.content_type = Some(content_type))
    }

    fn data(&mut self, message: Resource<Held>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.to_vec())
    }

    fn set_data(&mut self, message: Resource<Held>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.change(&message, |held| held.data = data.into())
    }

    fn metadata(&mut self, message: Resource<Held>) -> wasmtime::Result<Option<Vec<(String, String)>>> {
        let metadata = &self.table.get(&message)?.metadata;
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok((!metadata.is_empty()).then(|| metadata.iter().map(pair).collect()))
    }

    fn add_metadata(&mut self, message: Resource<Held>, key: String, value: String) -> wasmtime::Result<()> {
        let others = self.table.get(&message)?.metadata.iter().filter(|(name, _)| *name != key);
        let pairs: Vec<_> = others.chain([(&*key, &*value)]).collect();
        let metadata = UserProperties::try_from(&pairs[..])?;
        self.change(&message, |held| held.metadata = metadata)
    }

    fn set_metadata(&mut self, message: Resource<Held>, meta: Vec<(String, String)>) -> wasmtime::Result<()> {
        let metadata = UserProperties::try_from(&meta[..])?;
        self.change(&message, |held| held.metadata = metadata)
    }

    fn remove_metadata(&mut self, message: Resource<Held>, key: String) -> wasmtime::Result<()> {
        let metadata = &self.table.get(&message)?.metadata;
        let others: Vec<_> = metadata.iter().filter(|(name, _)| *name != key).collect();
        let metadata = UserProperties::try_from(&others[..])?;
        self.change(&message, |held| held.metadata = metadata)
    }

    fn drop(&mut self, message: Resource<Held>) -> wasmtime::Result<()> {
        self.give_back(message).map(drop)
    }
}

impl producer::Host for GuestState {
    async fn send(
        &mut self,
        client: Resource<Connection>,
        topic: String,
        message: Resource<Held>,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.table.get(&client)?;
        let message = self.give_back(message)?.published_to(topic, self.sends_with.into());
        Ok(self.lent()?.publish(message).await.map(drop).map_err(Error::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_has_a_cost_that_follows_what_is_in_it() {
        let held = |metadata| Held { topic: None, content_type: None, data: Bytes::new(), metadata };
        let empty = held(UserProperties::default()).cost();
        assert!(empty > 0, "many empty ones are bounded, too");
        let pairs = UserProperties::try_from(&[("name", "value"), ("", "")][..]).unwrap();
        assert_eq!(held(pairs).cost(), empty + 9 + 2 * 5);
    }

    #[test]
    fn what_has_no_property_costs_none() {
        let held = Held {
            topic: Some("from".to_owned()),
            content_type: None,
            data: "x".into(),
            metadata: UserProperties::default(),
        };
        let message = held.published_to("to".to_owned(), plugin::Qos::AtLeastOnce);
        assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("to", &b"x"[..]));
        assert!(message.properties.is_none() && !message.retain);
    }
}
