//! How a message is written into the store.
//!
//! ```text
//! magic 4 │ length 4 │ CRC-32 4 │ cost 4 │ body (postcard) │ packet id (postcard), if there is one
//! ```
//!
//! Numbers are little-endian; the checksum is over cost and body. The body says where it
//! belongs, and magic and checksum let it be recognised in a file that is damaged otherwise.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Stamp,
    message::{self, Message, Properties, Qos, UserProperties},
    store::Record,
    topic::TopicName,
};

/// What a message is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Outbox,
    Inbox,
    Quarantine,
    Probation,
    Dead,
}

/// A message with all that is known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Body<'a> {
    pub(super) kind: Kind,
    /// The plugin's name.
    pub(super) name: &'a str,
    /// Where it is among the others of its plugin.
    pub(super) place: u64,
    /// The number `publish` gave it.
    pub(super) number: u32,
    /// Its age when it was written, in milliseconds.
    pub(super) age: u64,
    /// When it was written.
    pub(super) written: Stamp,
    pub(super) redelivered: bool,
    /// Why it is in quarantine.
    pub(super) reason: &'a str,
    topic: &'a str,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    at_least_once: bool,
    retain: bool,
    #[serde(borrow)]
    properties: Option<StoredProperties<'a>>,
    /// Under which it arrived; 0: it did not, or that is not known. It stands behind the others, so that
    /// a host that does not know of it reads the rest.
    #[serde(skip)]
    pub(super) packet_id: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredProperties<'a> {
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    #[serde(with = "serde_bytes", borrow)]
    correlation_data: Option<&'a [u8]>,
    message_expiry: Option<u32>,
    utf8: bool,
    #[serde(borrow)]
    user_properties: Vec<(&'a str, &'a str)>,
}

/// Where a message belongs and how it came there.
pub(super) struct Label<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    pub(super) place: u64,
    pub(super) number: u32,
    pub(super) age: u64,
    pub(super) written: Stamp,
    pub(super) redelivered: bool,
    pub(super) reason: &'a str,
    pub(super) packet_id: u16,
}

impl<'a> Label<'a> {
    pub(super) fn new(kind: Kind, name: &'a str, place: u64, record: &Record, written: Stamp) -> Self {
        let age = u64::try_from(record.age.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { kind, name, place, number: record.number, age, written, redelivered: false, reason: "", packet_id: 0 }
    }
}

pub(super) const MAGIC: [u8; 4] = *b"\xa7lpH";

/// Everything before the body.
const HEADER: usize = 16;

/// No record is longer: a packet of MQTT has at most 256 MiB, and names are short.
const LONGEST: usize = 260 * 1024 * 1024;

/// The record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It goes on behind the bytes there are, up to this length in all.
    Short(usize),
    /// It is damaged, or none.
    Damaged,
}

/// Makes a record.
pub(super) fn encode(label: &Label<'_>, message: &Message) -> Option<Vec<u8>> {
    let mut record = Vec::new();
    write(label, message, &mut record)?;
    Some(record)
}

/// Writes a record behind what is there. None: it can't be written, and a part of it is there.
pub(super) fn write(label: &Label<'_>, message: &Message, out: &mut Vec<u8>) -> Option<()> {
    let properties = message.properties.as_deref().map(|properties| StoredProperties {
        content_type: properties.content_type.as_deref(),
        response_topic: properties.response_topic.as_ref().map(TopicName::as_str),
        correlation_data: properties.correlation_data.as_deref(),
        message_expiry: properties.message_expiry,
        utf8: properties.utf8,
        user_properties: properties.user_properties.iter().collect(),
    });
    let body = Body {
        kind: label.kind,
        name: label.name,
        place: label.place,
        number: label.number,
        age: label.age,
        written: label.written,
        redelivered: label.redelivered,
        reason: label.reason,
        topic: message.topic.as_str(),
        payload: &message.payload,
        at_least_once: message.qos == Qos::AtLeastOnce,
        retain: message.retain,
        properties,
        packet_id: label.packet_id,
    };
    let begin = out.len();
    out.reserve(HEADER + message.cost() + 64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&u32::try_from(message.cost()).unwrap_or(u32::MAX).to_le_bytes());
    postcard::to_io(&body, &mut *out).ok()?;
    if label.packet_id != 0 {
        postcard::to_io(&label.packet_id, &mut *out).ok()?;
    }
    let record = out.get_mut(begin..)?;
    let length = u32::try_from(record.len()).ok()?.to_le_bytes();
    let checksum = crc32fast::hash(record.get(12..)?).to_le_bytes();
    record.get_mut(4..8)?.copy_from_slice(&length);
    record.get_mut(8..12)?.copy_from_slice(&checksum);
    Some(())
}

/// The length a record claims to have, and its cost.
pub(super) fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    Some((number(4)?, number(12)?)).filter(|(length, _)| (HEADER..LONGEST).contains(length))
}

/// Reads the record at the beginning of the bytes; it and its length come out.
pub(super) fn decode(bytes: &[u8]) -> Result<(Body<'_>, usize), Unreadable> {
    let (length, _) = match header(bytes) {
        Some(header) => header,
        None if bytes.len() < HEADER && MAGIC.starts_with(bytes.get(..4.min(bytes.len())).unwrap_or_default()) => {
            return Err(Unreadable::Short(HEADER));
        }
        None => return Err(Unreadable::Damaged),
    };
    let record = bytes.get(..length).ok_or(Unreadable::Short(length))?;
    let checked = record.get(12..).ok_or(Unreadable::Damaged)?;
    let checksum = record.get(8..12).ok_or(Unreadable::Damaged)?;
    if checksum != crc32fast::hash(checked).to_le_bytes() {
        return Err(Unreadable::Damaged);
    }
    let body = record.get(HEADER..).ok_or(Unreadable::Damaged)?;
    let (body, rest) = postcard::take_from_bytes::<Body<'_>>(body).map_err(|_| Unreadable::Damaged)?;
    let packet_id = postcard::from_bytes(rest).unwrap_or_default();
    Ok((Body { packet_id, ..body }, length))
}

impl Body<'_> {
    /// By which the message is recognised when it arrives once more.
    pub(super) fn digest(&self) -> u64 {
        message::digest(self.topic, self.payload)
    }

    /// The message, in memory of its own.
    pub(super) fn message(&self) -> Option<Message> {
        let properties = self.properties.as_ref().map(|stored| {
            let response_topic = stored.response_topic.map(|topic| TopicName::arrived(topic.to_owned())).transpose();
            let mut user_properties = UserProperties::default();
            for (name, value) in &stored.user_properties {
                user_properties.push_any(name, value).ok()?;
            }
            let properties = Properties {
                content_type: stored.content_type.map(Into::into),
                response_topic: response_topic.ok()?,
                correlation_data: stored.correlation_data.map(Bytes::copy_from_slice),
                message_expiry: stored.message_expiry,
                utf8: stored.utf8,
                user_properties,
            };
            Some(properties.share())
        });
        Some(Message {
            topic: TopicName::arrived(self.topic.to_owned()).ok()?,
            payload: Bytes::copy_from_slice(self.payload),
            qos: if self.at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce },
            retain: self.retain,
            properties: match properties {
                None => None,
                Some(properties) => Some(properties?),
            },
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) fn message(topic: &str, payload: usize) -> Message {
        Message {
            topic: TopicName::parse(topic.to_owned()).unwrap(),
            payload: Bytes::from(vec![7; payload]),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Some(Properties::share(Properties {
                content_type: Some("text/plain".into()),
                response_topic: Some(TopicName::parse("r").unwrap()),
                correlation_data: Some(Bytes::from_static(b"\0\xff")),
                message_expiry: Some(60),
                utf8: true,
                user_properties: UserProperties::try_from(&[("k", "v")][..]).unwrap(),
            })),
        }
    }

    fn record() -> Vec<u8> {
        let label = Label {
            kind: Kind::Inbox,
            name: "plugin",
            place: 9,
            number: 3,
            age: 1500,
            written: Stamp::now(None),
            redelivered: true,
            reason: "",
            packet_id: 0x1234,
        };
        encode(&label, &message("a/b", 100)).unwrap()
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let record = record();
        let (body, length) = decode(&record).unwrap();
        assert_eq!(length, record.len());
        assert_eq!((body.name, body.place, body.number, body.age), ("plugin", 9, 3, 1500));
        assert_eq!(body.packet_id, 0x1234);
        assert_eq!(body.message().unwrap(), message("a/b", 100));
        assert_eq!(header(&record).unwrap().1, message("a/b", 100).cost());
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_goes_unnoticed() {
        let record = record();
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut bent = record.clone();
                bent[at] ^= 1 << bit;
                assert!(decode(&bent).is_err(), "byte {at}, bit {bit}");
            }
            assert!(matches!(decode(&record[..at]), Err(Unreadable::Short(_))), "{at}");
        }
    }
}
