//! The broker's half of MQTT, both versions: reads what a client may send, writes what a
//! broker may send. Written by hand, so that no library stands between a test and the wire.

use super::super::{Context as _, Message, Result, Version, ensure};

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Connect(Hello),
    Publish(Message),
    Puback {
        packet_id: u16,
        reason: u8,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<Filter>,
        properties: Properties,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Pingreq,
    Disconnect {
        reason: u8,
        properties: Properties,
    },
    /// What no client may send; no wait for a packet succeeds any more.
    Broken(String),
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    /// Clean Session, or Clean Start.
    pub(crate) clean: bool,
    /// In seconds.
    pub(crate) keep_alive: u16,
    pub(crate) properties: Properties,
    /// Topic and payload of the last will.
    pub(crate) will: Option<(String, Vec<u8>)>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
}

/// A filter of SUBSCRIBE with its options: the QoS in the lowest two bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) options: u8,
}

/// What a broker sends.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Refused unless the code is 0. The properties are those of MQTT 5, as bytes.
    Connack {
        session_present: bool,
        code: u8,
        properties: Vec<u8>,
    },
    Publish(Message),
    /// 3.1.1 knows no reason.
    Puback {
        packet_id: u16,
        reason: u8,
    },
    Suback {
        packet_id: u16,
        codes: Vec<u8>,
    },
    Unsuback {
        packet_id: u16,
        codes: Vec<u8>,
    },
    Pingresp,
    /// MQTT 5 alone.
    Disconnect(u8),
}

/// The properties of MQTT 5: number and value as bytes, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(Vec<(u8, Vec<u8>)>);

impl Properties {
    /// The value of the property with this number, if it is one of a fixed size.
    pub(crate) fn number(&self, property: u8) -> Option<u32> {
        let (_, value) = self.0.iter().find(|(number, _)| *number == property)?;
        Some(value.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn read(rest: &mut &[u8]) -> Result<Self> {
        let length = variable(rest)?;
        let mut section = bytes(rest, length)?;
        let mut properties = Vec::new();
        while !section.is_empty() {
            let [number] = take(&mut section)?;
            let length = match number {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => 1,
                0x13 | 0x21..=0x23 => 2,
                0x02 | 0x11 | 0x18 | 0x27 => 4,
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => 2 + peek_length(section)?,
                0x26 => {
                    let name = 2 + peek_length(section)?;
                    name + 2 + peek_length(section.get(name..).context("short user property")?)?
                }
                0x0b => section.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1,
                _ => anyhow::bail!("property {number:#04x} does not exist"),
            };
            properties.push((number, bytes(&mut section, length)?.to_vec()));
        }
        Ok(Self(properties))
    }
}

/// A packet's first byte and what follows its length, if it is there whole; takes it off the buffer.
pub(super) fn split(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut rest = buffer.get(1..)?;
    // A length that never ends comes out here as one that is not there yet.
    let length = variable(&mut rest).ok()?;
    let body = rest.get(..length)?.to_vec();
    let head = *buffer.first()?;
    let whole = buffer.len() - rest.len() + length;
    buffer.drain(..whole);
    Some((head, body))
}

/// Reads a packet; `version` is what its CONNECT said, if there was one.
pub(super) fn read(head: u8, body: &[u8], version: Option<Version>) -> Packet {
    let mut rest = body;
    let packet = read_from(head, &mut rest, version).and_then(|packet| {
        ensure!(rest.is_empty(), "{} bytes behind the packet's end", rest.len());
        Ok(packet)
    });
    packet.unwrap_or_else(|error| Packet::Broken(format!("{head:#04x} {body:?}: {error:#}")))
}

fn read_from(head: u8, rest: &mut &[u8], version: Option<Version>) -> Result<Packet> {
    if head == 0x10 {
        ensure!(version.is_none(), "a second CONNECT");
        return Ok(Packet::Connect(hello(rest)?));
    }
    let version = version.context("something before the CONNECT")?;
    let five = version == Version::V5;
    Ok(match (head >> 4, head & 0xf) {
        (3, flags) => Packet::Publish(publish(flags, rest, five)?),
        (4, 0) => {
            let packet_id = packet_id(rest)?;
            let reason = if five && !rest.is_empty() { take::<1>(rest)?[0] } else { 0 };
            optional_properties(rest, five)?;
            Packet::Puback { packet_id, reason }
        }
        (8, 2) => {
            let packet_id = packet_id(rest)?;
            let properties = if five { Properties::read(rest)? } else { Properties::default() };
            let mut filters = Vec::new();
            while !rest.is_empty() {
                let name = text(rest)?;
                let [options] = take(rest)?;
                ensure!(options & 3 < 3 && (five || options < 3), "options {options:#04x}");
                filters.push(Filter { name, options });
            }
            ensure!(!filters.is_empty(), "no filter");
            Packet::Subscribe { packet_id, filters, properties }
        }
        (10, 2) => {
            let packet_id = packet_id(rest)?;
            if five {
                Properties::read(rest)?;
            }
            let mut filters = Vec::new();
            while !rest.is_empty() {
                filters.push(text(rest)?);
            }
            ensure!(!filters.is_empty(), "no filter");
            Packet::Unsubscribe { packet_id, filters }
        }
        (12, 0) => Packet::Pingreq,
        (14, 0) => {
            let reason = if five && !rest.is_empty() { take::<1>(rest)?[0] } else { 0 };
            Packet::Disconnect { reason, properties: optional_properties(rest, five)? }
        }
        _ => anyhow::bail!("no packet of a client"),
    })
}

fn hello(rest: &mut &[u8]) -> Result<Hello> {
    ensure!(text(rest)? == "MQTT", "another protocol");
    let [level, flags] = take(rest)?;
    let version = match level {
        4 => Version::V3,
        5 => Version::V5,
        _ => anyhow::bail!("protocol level {level}"),
    };
    ensure!(flags & 1 == 0, "a reserved flag");
    let keep_alive = u16::from_be_bytes(take(rest)?);
    let five = version == Version::V5;
    let properties = if five { Properties::read(rest)? } else { Properties::default() };
    let client_id = text(rest)?;
    let will = if flags & 4 == 0 {
        None
    } else {
        if five {
            Properties::read(rest)?;
        }
        let topic = text(rest)?;
        Some((topic, binary(rest)?.to_vec()))
    };
    let username = if flags & 0x80 == 0 { None } else { Some(text(rest)?) };
    let password = if flags & 0x40 == 0 { None } else { Some(binary(rest)?.to_vec()) };
    Ok(Hello { version, client_id, clean: flags & 2 != 0, keep_alive, properties, will, username, password })
}

fn publish(flags: u8, rest: &mut &[u8], five: bool) -> Result<Message> {
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    ensure!(qos < 2, "QoS {qos}");
    ensure!(qos > 0 || !dup, "DUP at QoS 0");
    let topic = text(rest)?;
    ensure!(!topic.contains(['+', '#', '\0']), "topic {topic:?}");
    let packet_id = if qos == 0 { None } else { Some(packet_id(rest)?) };
    let mut properties = Vec::new();
    if five {
        let mut section = *rest;
        Properties::read(rest)?;
        variable(&mut section)?;
        let length = section.len() - rest.len();
        properties = bytes(&mut section, length)?.to_vec();
    }
    let payload = std::mem::take(rest).to_vec();
    Ok(Message { topic, payload, qos, retain, dup, packet_id, properties })
}

impl Answer {
    /// As bytes.
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        let five = version == Version::V5;
        match self {
            Self::Connack { session_present, code, properties } => {
                let mut body = vec![u8::from(*session_present), *code];
                if five {
                    body.extend(section(properties));
                }
                frame(0x20, &body)
            }
            Self::Publish(message) => {
                let mut body = string(&message.topic);
                body.extend(message.packet_id.into_iter().flat_map(u16::to_be_bytes));
                if five {
                    body.extend(section(&message.properties));
                }
                body.extend(&message.payload);
                let flags = u8::from(message.dup) << 3 | message.qos << 1 | u8::from(message.retain);
                frame(0x30 | flags, &body)
            }
            Self::Puback { packet_id, reason } => {
                let mut body = packet_id.to_be_bytes().to_vec();
                if five && *reason != 0 {
                    body.push(*reason);
                }
                frame(0x40, &body)
            }
            Self::Suback { packet_id, codes } => acknowledgement(0x90, *packet_id, codes, five, true),
            Self::Unsuback { packet_id, codes } => acknowledgement(0xb0, *packet_id, codes, five, five),
            Self::Pingresp => frame(0xd0, &[]),
            Self::Disconnect(reason) => frame(0xe0, &[*reason]),
        }
    }
}

/// A packet: the first byte, the length, the rest.
pub(crate) fn frame(head: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![head];
    packet.extend(length(body.len()));
    packet.extend(body);
    packet
}

/// A length as MQTT writes it.
pub(crate) fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        bytes.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            return bytes;
        }
    }
}

/// A text as MQTT writes it.
pub(crate) fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn section(properties: &[u8]) -> Vec<u8> {
    [length(properties.len()).as_slice(), properties].concat()
}

fn acknowledgement(head: u8, packet_id: u16, codes: &[u8], properties: bool, with_codes: bool) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties.then_some(0));
    body.extend(codes.iter().filter(|_| with_codes));
    frame(head, &body)
}

fn optional_properties(rest: &mut &[u8], five: bool) -> Result<Properties> {
    if five && !rest.is_empty() { Properties::read(rest) } else { Ok(Properties::default()) }
}

fn packet_id(rest: &mut &[u8]) -> Result<u16> {
    let packet_id = u16::from_be_bytes(take(rest)?);
    ensure!(packet_id != 0, "packet id 0");
    Ok(packet_id)
}

fn text(rest: &mut &[u8]) -> Result<String> {
    Ok(String::from_utf8(binary(rest)?.to_vec())?)
}

fn binary<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = u16::from_be_bytes(take(rest)?);
    bytes(rest, length.into())
}

fn peek_length(mut rest: &[u8]) -> Result<usize> {
    Ok(u16::from_be_bytes(take(&mut rest)?).into())
}

fn variable(rest: &mut &[u8]) -> Result<usize> {
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let [byte] = take(rest)?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    anyhow::bail!("a length of more than four bytes")
}

fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count).context("short packet")?;
    *rest = left;
    Ok(taken)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, left) = rest.split_first_chunk().context("short packet")?;
    *rest = left;
    Ok(*taken)
}
