//! Reads PUBLISH of both versions (section 3.3), leniently.
//!
//! A message whose topic or properties can't be used is still a whole packet: it comes out as one
//! that can't be used, so that it can be acknowledged and never comes again. Only a length without
//! end, or a QoS that was never asked for, is worth the connection.
//!
//! The client library would end it over each of these; besides, rumqttc-v5-next 0.34 counts each
//! subscription identifier one byte too long, and so takes the last properties of a message that
//! two of our filters match for its payload.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    Arrival, DecodeError, Inbound, LONGEST_REASON, Unusable, Version,
    fields::{Fields, Trouble, unusable},
};
use crate::{
    message::{Message, Properties, Qos},
    topic::TopicName,
};

/// `frame` is the packet without its fixed header, `flags` are that header's.
pub(super) fn read(flags: u8, frame: &Bytes, version: Version) -> Result<Inbound, DecodeError> {
    let qos = match (flags >> 1) & 3 {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        qos => return Err(DecodeError::Malformed(format!("a message of QoS {qos}, which was never asked for"))),
    };
    // Of what can't be read, as much as can be said.
    let (mut topic, mut packet_id) = (&[][..], 0);
    let mut fields = Fields(frame);
    let read = (|| {
        topic = fields.binary()?;
        if qos == Qos::AtLeastOnce {
            packet_id = fields.two_bytes()?;
            if packet_id == 0 {
                return Err(unusable("packet id 0"));
            }
        }
        let (properties, identifiers) = match version {
            Version::V311 => (None, Vec::new()),
            Version::V5 => properties(frame, &mut fields)?,
        };
        let topic = topic_name(frame.slice_ref(topic))?;
        let message = Message { topic, payload: frame.slice_ref(fields.0), qos, retain: flags & 1 != 0, properties };
        Ok(Arrival { message, packet_id, duplicate: flags & 8 != 0, identifiers })
    })();
    match read {
        Ok(arrival) => Ok(Inbound::Publish(arrival)),
        Err(Trouble::Endless) => Err(Trouble::Endless.into()),
        Err(Trouble::Unusable(reason)) => {
            let topic = String::from_utf8_lossy(topic.get(..LONGEST_REASON).unwrap_or(topic)).into_owned();
            Ok(Inbound::Unusable(Unusable { topic, packet_id, reason }))
        }
    }
}

fn topic_name(topic: Bytes) -> Result<TopicName, Trouble> {
    let text = ByteString::try_from(topic).map_err(|_| unusable("its topic is not UTF-8"))?;
    TopicName::arrived(text).map_err(|cause| unusable(format!("its topic can't be used: {cause}")))
}

type Read = (Option<Arc<Properties>>, Vec<u32>);

fn properties(frame: &Bytes, fields: &mut Fields<'_>) -> Result<Read, Trouble> {
    let length = fields.variable()?;
    let mut fields = Fields(fields.take(length)?);
    let mut properties = Properties::default();
    let mut identifiers = Vec::new();
    while !fields.0.is_empty() {
        // The numbers are those of table 2-4.
        match fields.variable()? {
            0x01 => properties.utf8 = fields.byte()? == 1,
            0x02 => properties.message_expiry = Some(fields.four_bytes()?),
            0x03 => {
                let content_type = frame.slice_ref(text(fields.binary()?)?.as_bytes());
                properties.content_type = ByteString::try_from(content_type).ok();
            }
            0x08 => {
                let topic = topic_name(frame.slice_ref(fields.binary()?));
                properties.response_topic = Some(topic.map_err(|_| unusable("its response topic can't be used"))?);
            }
            0x09 => properties.correlation_data = Some(frame.slice_ref(fields.binary()?)),
            0x0b => identifiers.extend(u32::try_from(fields.variable()?)),
            // We allow none; where the topic is there as well, nothing is missing.
            0x23 => drop(fields.two_bytes()?),
            0x26 => {
                let (name, value) = (text(fields.binary()?)?, text(fields.binary()?)?);
                properties.user_properties.push(name, value).map_err(|error| unusable(error.to_string()))?;
            }
            other => return Err(unusable(format!("it has a property 0x{other:02x}, which a message can't have"))),
        }
    }
    Ok(((properties != Properties::default()).then(|| properties.share()), identifiers))
}

fn text(bytes: &[u8]) -> Result<&str, Trouble> {
    std::str::from_utf8(bytes).map_err(|_| unusable("a text in its properties is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], version: Version) -> Result<Inbound, DecodeError> {
        super::read(bytes[0] & 15, &Bytes::copy_from_slice(&bytes[2..]), version)
    }

    #[test]
    fn several_subscription_identifiers_leave_the_payload_alone() {
        let bytes = [0x32, 17, 0, 1, b't', 0, 9, 9, 0x0b, 1, 0x0b, 0x82, 0x01, 0x0b, 3, 1, 1, b'A', b'B'];
        let Ok(Inbound::Publish(arrival)) = read(&bytes, Version::V5) else { panic!() };
        assert_eq!(&arrival.message.payload[..], b"AB");
        assert_eq!(arrival.identifiers, [1, 130, 3]);
        assert_eq!(arrival.packet_id, 9);
        assert!(arrival.message.properties.unwrap().utf8);
    }

    /// What independent testing did from outside: 26,000 pairs of nothing in each message.
    #[test]
    fn more_user_properties_than_a_message_may_have_make_it_unusable() {
        let packet = |pairs: usize| {
            let properties = [0x26, 0, 0, 0, 0].repeat(pairs);
            let length = properties.len();
            let length = [length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
            Bytes::from([&[0, 1, b't', 0, 9][..], &length, &properties, b"payload"].concat())
        };
        let Ok(Inbound::Publish(arrival)) = super::read(2, &packet(1024), Version::V5) else { panic!() };
        assert_eq!((&*arrival.message.payload, arrival.packet_id), (&b"payload"[..], 9));
        assert_eq!(arrival.message.properties.unwrap().user_properties.len(), 1024);
        let Ok(Inbound::Unusable(unusable)) = super::read(2, &packet(26_000), Version::V5) else { panic!() };
        assert_eq!((&*unusable.topic, unusable.packet_id), ("t", 9));
        assert!(unusable.reason.contains("1024 user properties"), "{}", unusable.reason);
    }

    #[test]
    fn what_can_not_be_used_can_still_be_acknowledged() {
        let five: &[(&[u8], u16)] = &[
            // Lengths that go beyond the packet: of the topic, the properties, a property.
            (&[0x30, 4, 0, 9, b't', 0], 0),
            (&[0x32, 6, 0, 1, b't', 0, 7, 9], 7),
            (&[0x32, 9, 0, 1, b't', 0, 7, 3, 0x03, 0, 9], 7),
            (&[0x32, 17, 0, 1, b't', 0, 9, 8, 0x0b, 1, 0x0b, 0x82, 0x01, 0x0b, 3, 1, 1, b'A', b'B'], 9),
            // No packet id, or one that is none.
            (&[0x32, 3, 0, 1, b't'], 0),
            (&[0x32, 6, 0, 1, b't', 0, 0, 0], 0),
            // A topic that is empty, has a wildcard, a NUL, or is no text.
            (&[0x32, 8, 0, 0, 0, 7, 3, 0x23, 0, 1], 7),
            (&[0x32, 6, 0, 1, b'#', 0, 7, 0], 7),
            (&[0x32, 6, 0, 1, 0, 0, 7, 0], 7),
            (&[0x32, 6, 0, 1, 0xff, 0, 7, 0], 7),
            // A response topic with a wildcard, a content type that is no text, an unknown property.
            (&[0x32, 10, 0, 1, b't', 0, 7, 4, 0x08, 0, 1, b'+'], 7),
            (&[0x32, 10, 0, 1, b't', 0, 7, 4, 0x03, 0, 1, 0xff], 7),
            (&[0x32, 13, 0, 1, b't', 0, 7, 7, 0x26, 0, 1, b'k', 0, 1, 0xff], 7),
            (&[0x32, 7, 0, 1, b't', 0, 7, 1, 0x7f], 7),
        ];
        let three: &[(&[u8], u16)] = &[
            (&[0x30, 4, 0, 9, b't', 0], 0),
            (&[0x32, 5, 0, 1, b'#', 0, 7], 7),
            (&[0x32, 4, 0, 0, 0, 7], 7),
            (&[0x32, 5, 0, 1, 0xff, 0, 7], 7),
        ];
        for (version, cases) in [(Version::V5, five), (Version::V311, three)] {
            for (bytes, expected) in cases {
                let Ok(Inbound::Unusable(unusable)) = read(bytes, version) else { panic!("{version} {bytes:02x?}") };
                assert_eq!(unusable.packet_id, *expected, "{version} {bytes:02x?}");
            }
        }
    }

    #[test]
    fn what_only_looks_odd_is_taken() {
        for (version, bytes) in [
            // DUP at QoS 0.
            (Version::V5, &[0x38, 4, 0, 1, b't', 0][..]),
            (Version::V311, &[0x38, 3, 0, 1, b't']),
            // U+FFFF, and a control character.
            (Version::V5, &[0x30, 6, 0, 3, 0xef, 0xbf, 0xbf, 0]),
            (Version::V311, &[0x30, 3, 0, 1, 7]),
            // A topic alias beside the topic.
            (Version::V5, &[0x30, 7, 0, 1, b't', 3, 0x23, 0, 1]),
        ] {
            assert!(matches!(read(bytes, version), Ok(Inbound::Publish(_))), "{version} {bytes:02x?}");
        }
    }

    #[test]
    fn a_length_without_end_and_a_qos_nobody_asked_for_are_malformed() {
        for bytes in [
            &[0x32, 10, 0, 1, b't', 0, 7, 0xff, 0xff, 0xff, 0xff, 0xff][..],
            &[0x30, 9, 0, 1, b't', 5, 0x0b, 0xff, 0xff, 0xff, 0xff],
            &[0x34, 6, 0, 1, b't', 0, 1, 0],
            &[0x36, 6, 0, 1, b't', 0, 1, 0],
        ] {
            assert!(read(bytes, Version::V5).is_err(), "{bytes:02x?}");
        }
    }
}
