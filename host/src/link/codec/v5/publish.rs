//! Reads PUBLISH of MQTT 5 (section 3.3).
//!
//! The one packet that rumqttc-v5-next 0.34 does not read for us: it counts each
//! subscription identifier one byte too long, and so takes the last properties of a
//! message that two of our filters match for its payload.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::super::{Arrival, DecodeError};
use crate::message::{Message, Properties, Qos, UserProperties};

/// `frame` is the whole packet with its fixed header; `flags` are the low four bits of its first byte.
pub(super) fn read(flags: u8, mut frame: Bytes) -> Result<Arrival, DecodeError> {
    let header = 2 + frame.iter().skip(1).take_while(|byte| **byte >= 0x80).count();
    let mut rest = take(&mut frame, header).map(|_| frame)?;
    let qos = match (flags >> 1) & 3 {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => return Err(malformed("a QoS 2 message was never asked for")),
    };
    let topic = super::super::topic_name(binary(&mut rest)?)?;
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { rest.try_get_u16().map_err(|_| short())? };
    if qos == Qos::AtLeastOnce && packet_id == 0 {
        return Err(malformed("packet id 0"));
    }
    let length = variable(&mut rest)?;
    let (properties, identifiers) = properties(take(&mut rest, length)?)?;
    let message = Message { topic, payload: rest, qos, retain: flags & 1 != 0, properties };
    Ok(Arrival { message, packet_id, duplicate: flags & 8 != 0, identifiers })
}

fn properties(mut bytes: Bytes) -> Result<(Option<Arc<Properties>>, Vec<u32>), DecodeError> {
    let mut properties = Properties::default();
    let (mut identifiers, mut is_too_much) = (Vec::new(), false);
    while bytes.has_remaining() {
        // The numbers are those of table 2-4.
        match variable(&mut bytes)? {
            0x01 => properties.utf8 = bytes.try_get_u8().map_err(|_| short())? == 1,
            0x02 => properties.message_expiry = Some(bytes.try_get_u32().map_err(|_| short())?),
            0x03 => properties.content_type = Some(text(&mut bytes)?),
            0x08 => properties.response_topic = Some(super::super::topic_name(binary(&mut bytes)?)?),
            0x09 => properties.correlation_data = Some(binary(&mut bytes)?),
            0x0b => identifiers.push(u32::try_from(variable(&mut bytes)?).map_err(|_| short())?),
            0x23 => return Err(malformed("a topic alias, which was not allowed")),
            0x26 => {
                let (name, value) = (text(&mut bytes)?, text(&mut bytes)?);
                // Beyond what a message may have they are left out, all of them.
                is_too_much |= properties.user_properties.push(&name, &value).is_err();
            }
            other => return Err(malformed(&format!("property 0x{other:02x}"))),
        }
    }
    if is_too_much {
        properties.user_properties = UserProperties::default();
    }
    Ok(((properties != Properties::default()).then(|| properties.share()), identifiers))
}

/// A variable byte integer (section 1.5.5).
fn variable(bytes: &mut Bytes) -> Result<usize, DecodeError> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = bytes.try_get_u8().map_err(|_| short())?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed("a length of more than four bytes"))
}

/// Binary data (section 1.5.6), shared with the frame.
fn binary(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length = bytes.try_get_u16().map_err(|_| short())?;
    take(bytes, length.into())
}

fn text(bytes: &mut Bytes) -> Result<ByteString, DecodeError> {
    ByteString::try_from(binary(bytes)?).map_err(|_| malformed("text that is not UTF-8"))
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, DecodeError> {
    if bytes.remaining() < length { Err(short()) } else { Ok(bytes.split_to(length)) }
}

fn short() -> DecodeError {
    malformed("a length that goes beyond the packet")
}

fn malformed(what: &str) -> DecodeError {
    DecodeError::Malformed(format!("a malformed PUBLISH: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Arrival, DecodeError> {
        super::read(bytes[0] & 15, Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn several_subscription_identifiers_leave_the_payload_alone() {
        let bytes = [0x32, 17, 0, 1, b't', 0, 9, 8, 0x0b, 1, 0x0b, 0x82, 0x01, 0x0b, 3, 1, 1, b'A', b'B'];
        let error = read(&bytes);
        assert!(error.is_err(), "the property length is one short");
        let bytes = [0x32, 17, 0, 1, b't', 0, 9, 9, 0x0b, 1, 0x0b, 0x82, 0x01, 0x0b, 3, 1, 1, b'A', b'B'];
        let arrival = read(&bytes).unwrap();
        assert_eq!(&arrival.message.payload[..], b"AB");
        assert_eq!(arrival.identifiers, [1, 130, 3]);
        assert_eq!(arrival.packet_id, 9);
        assert!(arrival.message.properties.unwrap().utf8);
    }

    #[test]
    fn what_goes_beyond_its_length_is_malformed() {
        for bytes in [
            &[0x30, 3, 0, 1, b't'][..],
            &[0x30, 4, 0, 9, b't', 0],
            &[0x30, 6, 0, 1, b't', 2, 0x03, 0],
            &[0x32, 6, 0, 1, b't', 0, 0, 0],
            &[0x34, 6, 0, 1, b't', 0, 1, 0],
            &[0x30, 7, 0, 1, b't', 3, 0x23, 0, 1],
            &[0x30, 5, 0, 1, b'#', 0, 0],
        ] {
            assert!(read(bytes).is_err(), "{bytes:02x?}");
        }
    }
}
