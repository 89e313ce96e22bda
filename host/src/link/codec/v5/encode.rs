//! Writes PUBLISH of MQTT 5 (section 3.3).
//!
//! The client library would want each user property in strings of its own; messages have them as
//! they are on the wire.

use bytes::{BufMut, BytesMut};

use super::super::EncodeError;
use crate::message::{Message, Properties, Qos};

/// The largest number a variable byte integer can be (section 1.5.5).
const LARGEST: usize = 268_435_455;

/// Appends a packet of at most `max` bytes.
pub(in crate::link) fn publish(
    message: &Message,
    packet_id: u16,
    duplicate: bool,
    max: u32,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let properties = message.properties.as_deref();
    let remaining = remaining(message);
    if remaining > LARGEST || 1 + variable_length(remaining) + remaining > max as usize {
        return Err(EncodeError::TooLarge(max));
    }
    out.reserve(1 + variable_length(remaining) + remaining);
    let qos = u8::from(message.qos == Qos::AtLeastOnce);
    out.put_u8(0x30 | u8::from(duplicate) << 3 | qos << 1 | u8::from(message.retain));
    variable(remaining, out);
    binary(message.topic.as_str().as_bytes(), out)?;
    if message.qos == Qos::AtLeastOnce {
        out.put_u16(packet_id);
    }
    variable(properties.map_or(0, Properties::wire_length), out);
    if let Some(properties) = properties {
        write(properties, out)?;
    }
    out.put_slice(&message.payload);
    Ok(())
}

/// Bytes of the whole packet.
pub(in crate::link) fn publish_length(message: &Message) -> usize {
    let remaining = remaining(message);
    1 + variable_length(remaining) + remaining
}

/// Bytes behind the fixed header.
fn remaining(message: &Message) -> usize {
    let properties = message.properties.as_deref().map_or(0, Properties::wire_length);
    let packet_id = if message.qos == Qos::AtLeastOnce { 2 } else { 0 };
    2 + message.topic.as_str().len() + packet_id + variable_length(properties) + properties + message.payload.len()
}

/// The numbers are those of table 2-4.
fn write(properties: &Properties, out: &mut BytesMut) -> Result<(), EncodeError> {
    if properties.utf8 {
        out.put_slice(&[0x01, 1]);
    }
    if let Some(seconds) = properties.message_expiry {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    if let Some(text) = &properties.content_type {
        out.put_u8(0x03);
        binary(text.as_bytes(), out)?;
    }
    if let Some(topic) = &properties.response_topic {
        out.put_u8(0x08);
        binary(topic.as_str().as_bytes(), out)?;
    }
    if let Some(data) = &properties.correlation_data {
        out.put_u8(0x09);
        binary(data, out)?;
    }
    out.put_slice(properties.user_properties.as_wire());
    Ok(())
}

/// Binary data (section 1.5.6), or a text.
fn binary(bytes: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len());
    let length = length.map_err(|_| EncodeError::Unencodable("a text has more than 65535 bytes".to_owned()))?;
    out.put_u16(length);
    out.put_slice(bytes);
    Ok(())
}

fn variable(mut value: usize, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn variable_length(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        link::codec::{Codec, Inbound, Version},
        topic::TopicName,
    };

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z]{0,9}", "[a-zä€😀]{100,200}", "x{17000}"]
    }

    fn properties() -> impl Strategy<Value = Properties> {
        let optional = proptest::option::of::<BoxedStrategy<String>>;
        let pairs = proptest::collection::vec((text(), text()), 0..4);
        (optional(text().boxed()), proptest::option::of(any::<u32>()), any::<bool>(), optional(text().boxed()), pairs)
            .prop_map(|(content_type, message_expiry, utf8, data, pairs)| {
                let mut user_properties = crate::message::UserProperties::default();
                for (name, value) in pairs {
                    // What is too much is left out.
                    let _ = user_properties.push(&name, &value);
                }
                Properties {
                    content_type: content_type.map(Into::into),
                    response_topic: utf8.then(|| TopicName::parse("answers").unwrap()),
                    correlation_data: data.map(|data| data.into_bytes().into()),
                    message_expiry,
                    utf8,
                    user_properties,
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_is_written_is_as_long_as_said_and_is_read_back(
            topic in "[a-z/]{1,300}", payload in 0_usize..20_000, qos_1: bool, retain: bool, duplicate: bool,
            properties in proptest::option::of(properties()),
        ) {
            let qos = if qos_1 { Qos::AtLeastOnce } else { Qos::AtMostOnce };
            let properties = properties.filter(|it| *it != Properties::default()).map(Properties::share);
            let message =
                Message { topic: TopicName::parse(topic).unwrap(), payload: vec![7; payload].into(), qos, retain, properties };
            let mut wire = BytesMut::new();
            publish(&message, 9, duplicate, u32::MAX, &mut wire).unwrap();
            prop_assert_eq!(wire.len(), publish_length(&message));
            let length = u32::try_from(wire.len()).unwrap();
            prop_assert!(publish(&message, 9, duplicate, length, &mut BytesMut::new()).is_ok());
            prop_assert!(publish(&message, 9, duplicate, length - 1, &mut BytesMut::new()).is_err());
            let Ok(Some(Inbound::Publish(arrival))) = Codec::new(Version::V5, u32::MAX).decode(&mut wire) else {
                return Err(TestCaseError::fail("it can't be read"));
            };
            prop_assert_eq!(arrival.message, message);
            prop_assert_eq!((arrival.packet_id, arrival.duplicate), (if qos_1 { 9 } else { 0 }, duplicate));
        }
    }
}
