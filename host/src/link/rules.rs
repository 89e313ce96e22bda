//! What a message has to keep to before it is taken: the profile's limits, the
//! configuration's, and what the broker of this connection announced.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::{
    codec::{ConnAck, publish_length},
    profile::{Breach, Profile},
};
use crate::{
    message::{Message, Qos},
    text,
    topic::TopicFilter,
};

/// Shared by the link, which learns what the broker takes, and all clients.
#[derive(Debug)]
pub(super) struct Rules {
    profile: Profile,
    /// The largest payload, in bytes.
    max_payload: u32,
    /// The largest packet the broker takes, in bytes.
    max_packet: AtomicU32,
    takes_qos1: AtomicBool,
    takes_retained: AtomicBool,
    takes_wildcards: AtomicBool,
    takes_shared: AtomicBool,
}

/// Whether all of the message is what any broker takes. A topic that was parsed to publish to is;
/// one from the disk may have been put there by an earlier version, which took more.
pub(super) fn check_stored(message: &Message) -> Result<(), Breach> {
    if !message.topic.may_be_sent() {
        return Err(Breach::InvalidTopic("its topic has characters for which a broker may end the connection".into()));
    }
    check_properties(message)
}

/// A broker may end the connection, which is everybody's, over any of these.
fn check_properties(message: &Message) -> Result<(), Breach> {
    let Some(properties) = message.properties.as_deref() else { return Ok(()) };
    let check = |what: &str, text: &str| {
        text::check(text).map_err(|cause| Breach::Malformed(format!("{what} can't be sent: {cause}")))
    };
    if let Some(content_type) = &properties.content_type {
        check("the content type", content_type)?;
    }
    if properties.response_topic.as_ref().is_some_and(|topic| !topic.may_be_sent()) {
        let why = "the response topic has characters for which a broker may end the connection";
        return Err(Breach::InvalidTopic(why.to_owned()));
    }
    for (name, value) in &properties.user_properties {
        check("the name of a user property", name)?;
        check("the value of a user property", value)?;
    }
    if properties.utf8
        && let Err(error) = std::str::from_utf8(&message.payload)
    {
        let at = error.valid_up_to();
        let why = format!("the payload is declared to be UTF-8 (`utf8`) and is not, from byte {at} on");
        return Err(Breach::Malformed(why));
    }
    Ok(())
}

impl Rules {
    /// Before a broker has said anything.
    pub(super) fn new(profile: Profile, max_payload: u32) -> Self {
        Self {
            profile,
            max_payload,
            max_packet: AtomicU32::new(u32::MAX),
            takes_qos1: AtomicBool::new(true),
            takes_retained: AtomicBool::new(true),
            takes_wildcards: AtomicBool::new(true),
            takes_shared: AtomicBool::new(true),
        }
    }

    /// A broker has accepted the connection and said what it takes.
    pub(super) fn announced(&self, connack: &ConnAck) {
        self.max_packet.store(connack.max_packet.unwrap_or(u32::MAX), Relaxed);
        self.takes_qos1.store(connack.max_qos != Qos::AtMostOnce, Relaxed);
        self.takes_retained.store(connack.retain, Relaxed);
        self.takes_wildcards.store(connack.wildcards, Relaxed);
        self.takes_shared.store(connack.shared, Relaxed);
    }

    /// Whether the broker would take the message.
    pub(super) fn check(&self, message: &Message) -> Result<(), Breach> {
        if message.payload.len() > self.max_payload as usize {
            return Err(Breach::TooLarge(self.max_payload));
        }
        self.profile.check(message)?;
        let max_packet = self.max_packet.load(Relaxed);
        let length = publish_length(message);
        if length > max_packet as usize {
            let beside = length - message.payload.len();
            return Err(match (max_packet as usize).checked_sub(beside) {
                Some(room) => Breach::TooLarge(u32::try_from(room).unwrap_or(u32::MAX)),
                None => Breach::Unsupported(format!(
                    "topic and properties have {beside} bytes, and the broker takes packets of at most {max_packet}"
                )),
            });
        }
        if message.retain && !self.takes_retained.load(Relaxed) {
            return Err(Breach::Unsupported("the broker keeps no messages (`retain`)".to_owned()));
        }
        if message.qos == Qos::AtLeastOnce && !self.takes_qos1.load(Relaxed) {
            return Err(Breach::Unsupported("the broker takes QoS 0 only".to_owned()));
        }
        check_properties(message)
    }

    /// Whether the broker would take the subscription.
    pub(super) fn check_filter(&self, filter: &TopicFilter) -> Result<(), Breach> {
        self.profile.check_filter(filter)?;
        if filter.is_shared() && !self.takes_shared.load(Relaxed) {
            return Err(Breach::Unsupported("the broker has no shared subscriptions".to_owned()));
        }
        if filter.has_wildcards() && !self.takes_wildcards.load(Relaxed) {
            return Err(Breach::Unsupported("the broker takes no wildcards".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{message::Properties, topic::TopicName};

    fn message(payload: &'static [u8], properties: Properties) -> Message {
        Message {
            topic: TopicName::parse("t").unwrap(),
            payload: Bytes::from_static(payload),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Some(properties.share()),
        }
    }

    fn check(payload: &'static [u8], properties: Properties) -> Result<(), Breach> {
        Rules::new(Profile::Generic, 1024).check(&message(payload, properties))
    }

    #[test]
    fn a_property_over_which_a_broker_may_end_the_connection_is_not_taken() {
        let none = Properties::default;
        assert_eq!(check(b"\xff", none()), Ok(()), "bytes may be any");
        assert_eq!(check("ä".as_bytes(), Properties { utf8: true, ..none() }), Ok(()));
        let words = |payload, properties| check(payload, properties).unwrap_err().to_string();
        let utf8 = words(b"ok\xff", Properties { utf8: true, ..none() });
        assert!(utf8.contains("UTF-8") && utf8.contains("byte 2"), "{utf8}");
        for bad in ["\0", "a\nb", "\u{7f}", "\u{85}", "\u{fdd0}", "\u{ffff}", "\u{10fffe}"] {
            let content_type = words(b"", Properties { content_type: Some(bad.into()), ..none() });
            assert!(content_type.contains("content type") && content_type.contains("U+"), "{content_type}");
            for (name, value) in [(bad, "v"), ("n", bad)] {
                let user_properties = [("fine", "fine"), (name, value)][..].try_into().unwrap();
                let pair = words(b"", Properties { user_properties, ..none() });
                assert!(pair.contains("user property"), "{pair}");
            }
        }
    }

    #[test]
    fn what_an_earlier_version_took_is_looked_at_again() {
        let odd = |text: &str| TopicName::arrived(text.to_owned()).unwrap();
        let fine = message(b"", Properties::default());
        assert_eq!(check_stored(&fine), Ok(()));
        assert!(check_stored(&Message { topic: odd("a\u{1}"), ..fine }).is_err());
        let response_topic = Some(odd("\u{fffe}"));
        assert!(check_stored(&message(b"", Properties { response_topic, ..Properties::default() })).is_err());
    }
}
