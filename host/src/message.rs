//! A message and what MQTT 5 adds to it.

mod properties;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::Bytes;

pub use self::properties::{
    LONGEST_TEXT, MOST_PAIR_BYTES, MOST_PAIRS, Pairs, Properties, TooMuch, USER_PROPERTY, UserProperties,
};
use crate::topic::TopicName;

/// How often a message may arrive. QoS 2 is not offered; see `wit/types.wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
}

/// A message, outbound or inbound. Cloning one shares its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it is published.
    pub topic: TopicName,
    /// Its bytes.
    pub payload: Bytes,
    /// What it is sent, or was delivered, with.
    pub qos: Qos,
    /// Outbound: keep it for later subscribers. Inbound: it was kept.
    pub retain: bool,
    /// The properties of MQTT 5; few messages have any.
    pub properties: Option<Arc<Properties>>,
}

/// By which a message is recognised when it is sent again; never written to disk, since it may change
/// with the compiler.
pub(crate) fn digest(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    payload.hash(&mut hasher);
    hasher.finish()
}

impl Message {
    /// By which it is recognised when it is sent again.
    pub(crate) fn digest(&self) -> u64 {
        digest(self.topic.as_str(), &self.payload)
    }

    /// What the message takes from a budget of bytes: what the host keeps for it, whatever it is in.
    /// It follows from the message alone, so that it is the same once it was on disk.
    pub fn cost(&self) -> usize {
        /// What queues keep beside its bytes: its place there and in the journal, and the headers of
        /// its pieces of memory. `tests/accounting.rs` counts.
        const KEPT_BESIDE: usize = 128;
        KEPT_BESIDE
            + self.topic.as_str().len()
            + self.payload.len()
            + self.properties.as_ref().map_or(0, |properties| properties.size())
    }
}
