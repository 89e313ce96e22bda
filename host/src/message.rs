//! A message and what MQTT 5 adds to it.

mod properties;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

pub(crate) use self::properties::moved;
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
        const KEPT_BESIDE: usize = 320;
        KEPT_BESIDE
            + self.topic.as_str().len()
            + self.payload.len()
            + self.properties.as_ref().map_or(0, |properties| properties.size())
    }

    /// The same in memory of its own. What arrives shares the memory it was read into, and would
    /// keep all of that for as long as it waits.
    #[must_use]
    pub fn detached(self) -> Self {
        let mut memory = BytesMut::with_capacity(self.shared_bytes());
        self.moved(&mut memory)
    }

    /// The same, small as it is together with others in a piece of memory; one that stays for long
    /// keeps no more than that.
    #[must_use]
    pub fn packed(self, piece: &mut BytesMut) -> Self {
        const PIECE: usize = 8 * 1024;
        const SMALL: usize = 1024;
        let length = self.shared_bytes();
        if length > SMALL {
            return self.detached();
        }
        if piece.capacity() < length {
            *piece = BytesMut::with_capacity(PIECE);
        }
        self.moved(piece)
    }

    /// Bytes of it that may share memory with others.
    fn shared_bytes(&self) -> usize {
        let texts = self.properties.as_deref().map(Properties::texts);
        let texts = texts.map_or(0, |texts| texts.map(<[u8]>::len).iter().sum());
        self.topic.as_str().len() + self.payload.len() + texts
    }

    fn moved(self, memory: &mut BytesMut) -> Self {
        let mut own = |bytes: &[u8]| {
            memory.extend_from_slice(bytes);
            memory.split().freeze()
        };
        let topic = self.topic.moved(&mut own);
        let payload = own(&self.payload);
        let properties = self.properties.as_deref().map(|properties| Arc::new(properties.moved(&mut own)));
        Self { topic, payload, properties, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_detached_is_the_same_in_memory_of_its_own() {
        let read = Bytes::from(b"topic/payload/type/answer/data".repeat(1000));
        let text = |range| bytestring::ByteString::try_from(read.slice(range)).unwrap();
        let properties = Properties {
            content_type: Some(text(14..18)),
            response_topic: Some(TopicName::parse(text(19..25)).unwrap()),
            correlation_data: Some(read.slice(26..30)),
            message_expiry: Some(9),
            ..Properties::default()
        };
        let message = Message {
            topic: TopicName::parse(text(0..5)).unwrap(),
            payload: read.slice(6..13),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Some(properties.share()),
        };
        let detached = message.clone().detached();
        assert_eq!(detached, message);
        drop(message);
        assert!(read.try_into_mut().is_ok(), "nobody has any of it");
        let properties = detached.properties.unwrap();
        let begin = detached.topic.as_bytes().as_ptr() as usize;
        let end = properties.correlation_data.as_deref().unwrap().as_ptr_range().end as usize;
        assert_eq!(end - begin, 5 + 7 + 4 + 6 + 4, "one piece");
    }

    #[test]
    fn small_ones_are_packed_together_and_large_ones_are_not() {
        let message = |payload: usize| Message {
            topic: TopicName::parse("topic").unwrap(),
            payload: vec![7; payload].into(),
            qos: Qos::AtMostOnce,
            retain: false,
            properties: None,
        };
        let mut piece = BytesMut::new();
        let packed: Vec<_> = (0..1000).map(|_| message(100).packed(&mut piece)).collect();
        assert!(packed.iter().all(|packed| *packed == message(100)));
        let begins = packed
            .windows(2)
            .filter(|two| !std::ptr::eq(two[1].topic.as_bytes().as_ptr(), two[0].payload.as_ptr_range().end));
        assert!(begins.count() < 20, "some eighty are in a piece");
        let room = piece.capacity();
        assert_eq!(message(2000).packed(&mut piece), message(2000));
        assert_eq!(piece.capacity(), room);
    }
}
