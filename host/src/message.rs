//! A message and what MQTT 5 adds to it.

use bytes::Bytes;
use bytestring::ByteString;

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
    /// The properties of MQTT 5, boxed since few messages have any.
    pub properties: Option<Box<Properties>>,
}

/// The MQTT 5 properties of a message (MQTT 5.0, section 3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// A MIME type, usually.
    pub content_type: Option<ByteString>,
    /// Where an answer is expected.
    pub response_topic: Option<TopicName>,
    /// What the answer has to carry.
    pub correlation_data: Option<Bytes>,
    /// Seconds until the message is worthless.
    pub message_expiry: Option<u32>,
    /// The payload is declared to be UTF-8.
    pub utf8: bool,
    /// The application's own pairs, in order.
    pub user_properties: Vec<(String, String)>,
}

impl Message {
    /// What the message takes from a budget of bytes. The fixed part stands for
    /// what a queue keeps beside the bytes, so that empty messages are bounded too.
    pub fn cost(&self) -> usize {
        const KEPT_BESIDE: usize = 128;
        KEPT_BESIDE
            + self.topic.as_str().len()
            + self.payload.len()
            + self.properties.as_ref().map_or(0, |properties| properties.size())
    }
}

impl Properties {
    fn size(&self) -> usize {
        let texts = self.user_properties.iter().map(|(name, value)| name.len() + value.len());
        size_of::<Self>()
            + self.content_type.as_ref().map_or(0, |text| text.len())
            + self.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + texts.sum::<usize>()
    }
}
