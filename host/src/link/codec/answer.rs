//! Reads the broker's answers: PUBACK, SUBACK, UNSUBACK, and DISCONNECT of MQTT 5.
//!
//! The client library ends the connection over a code it does not know. Here the answer counts for
//! the packet it answers, whatever else is in it: see [`super::reason`].

use super::{
    DecodeError, Inbound, MOST_RESULTS, Refusal, Version,
    fields::Fields,
    reason::{self, defined},
};
use crate::message::Qos;

pub(super) fn puback(body: &[u8], version: Version) -> Result<Inbound, DecodeError> {
    let mut fields = Fields(body);
    let packet_id = packet_id("PUBACK", &mut fields)?;
    if version == Version::V311 {
        return Ok(Inbound::PubAck { packet_id, result: Ok(()), undefined: None });
    }
    let code = fields.byte().unwrap_or(0);
    let result = reason::result(code, text(&mut fields).as_deref());
    Ok(Inbound::PubAck { packet_id, result, undefined: undefined(&[code], defined::PUBACK) })
}

pub(super) fn suback(body: &[u8], version: Version) -> Result<Inbound, DecodeError> {
    let mut fields = Fields(body);
    let packet_id = packet_id("SUBACK", &mut fields)?;
    let (text, defined) = match version {
        Version::V311 => (None, defined::SUBACK_V311),
        Version::V5 => (text(&mut fields), defined::SUBACK),
    };
    let codes = fields.0;
    let results = codes.iter().take(MOST_RESULTS).map(|code| granted(*code, text.as_deref(), version)).collect();
    Ok(Inbound::SubAck { packet_id, results, undefined: undefined(codes, defined) })
}

pub(super) fn unsuback(body: &[u8], version: Version) -> Result<Inbound, DecodeError> {
    let mut fields = Fields(body);
    let packet_id = packet_id("UNSUBACK", &mut fields)?;
    if version == Version::V311 {
        return Ok(Inbound::UnsubAck { packet_id, undefined: None });
    }
    text(&mut fields);
    Ok(Inbound::UnsubAck { packet_id, undefined: undefined(fields.0, defined::UNSUBACK) })
}

/// Without properties their length may be left out, and without a reason the reason, too
/// (section 3.14.2.2.1).
pub(super) fn disconnect(body: &[u8]) -> Inbound {
    let mut fields = Fields(body);
    let code = fields.byte().unwrap_or(0);
    Inbound::Disconnect(reason::refusal(code, text(&mut fields).as_deref()))
}

fn packet_id(packet: &str, fields: &mut Fields<'_>) -> Result<u16, DecodeError> {
    let packet_id = fields.two_bytes().ok().filter(|packet_id| *packet_id != 0);
    packet_id.ok_or_else(|| DecodeError::Malformed(format!("a {packet} that does not say what it answers")))
}

/// The reason string (section 3.4.2.2.2). It is for people only, so what can't be read is left out.
fn text(fields: &mut Fields<'_>) -> Option<String> {
    let length = fields.variable().ok()?;
    let mut properties = Fields(fields.take(length).ok()?);
    loop {
        match properties.variable().ok()? {
            0x1f => return Some(String::from_utf8_lossy(properties.binary().ok()?).into_owned()),
            0x26 => {
                properties.binary().ok()?;
                properties.binary().ok()?;
            }
            _ => return None,
        }
    }
}

fn granted(code: u8, text: Option<&str>, version: Version) -> Result<Qos, Refusal> {
    if version == Version::V311 && code == 0x80 {
        return Err(Refusal { code, reason: "refused without a reason".into() });
    }
    reason::result(code, text)?;
    Ok(if code == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce })
}

/// The first code that the packet should not have.
fn undefined(codes: &[u8], defined: &[u8]) -> Option<u8> {
    codes.iter().find(|code| !defined.contains(code)).copied()
}
