//! Reason codes (MQTT 5.0, section 2.4). Those of 3.1.1 are translated into them.
//!
//! A broker may answer with a code that the specification does not give to this packet, or to
//! none. The highest bit says what such a one means: 0x80 and above is a no to the packet it
//! answers, anything below a yes. It is never worth the connection.

use super::{LONGEST_REASON, Refusal};

/// What the specification calls the code, in words.
fn name(code: u8) -> Option<&'static str> {
    Some(match code {
        0x00 => "success",
        0x01 => "granted QoS 1",
        0x02 => "granted QoS 2",
        0x04 => "disconnect with will message",
        0x10 => "no matching subscribers",
        0x11 => "no subscription existed",
        0x18 => "continue authentication",
        0x19 => "re-authenticate",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep alive timeout",
        0x8e => "session taken over",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9e => "shared subscriptions not supported",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        0xa1 => "subscription identifiers not supported",
        0xa2 => "wildcard subscriptions not supported",
        _ => return None,
    })
}

/// The codes the specification gives to a packet, by table 2-6.
pub(super) mod defined {
    pub(in super::super) const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    pub(in super::super) const SUBACK: &[u8] =
        &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
    /// MQTT 3.1.1, section 3.9.3.
    pub(in super::super) const SUBACK_V311: &[u8] = &[0x00, 0x01, 0x02, 0x80];
    pub(in super::super) const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
}

/// A yes or a no. `text`: the broker's own words.
pub(super) fn result(code: u8, text: Option<&str>) -> Result<(), Refusal> {
    if code < 0x80 { Ok(()) } else { Err(refusal(code, text)) }
}

/// A no.
pub(super) fn refusal(code: u8, text: Option<&str>) -> Refusal {
    let mut reason = name(code).unwrap_or("a reason MQTT 5 does not define").to_owned();
    if let Some(text) = text {
        reason.push_str(": ");
        reason.push_str(text.get(..text.floor_char_boundary(LONGEST_REASON)).unwrap_or(text));
    }
    Refusal { code, reason }
}
