//! Our packets ↔ MQTT on the wire: the seam to the client library.
//!
//! Above this module nobody knows which MQTT version is spoken. Below it are the packet
//! codecs of the rumqttc family, one for each version; why only its codecs is told in
//! `docs/decisions/0001-mqtt-client.md`.

mod answer;
mod fields;
mod header;
mod publish;
mod reason;
mod v311;
mod v5;

use std::{fmt, time::Duration};

use bytes::{Buf as _, BytesMut};

use self::header::{Header, kind};
use crate::{
    message::{Message, Qos},
    router::Subscription,
    topic::TopicFilter,
};

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// What CONNECT says.
#[derive(Debug, Clone)]
pub(super) struct Connect {
    /// The device's name at the broker.
    pub client_id: String,
    /// How long the connection may be silent.
    pub keep_alive: Duration,
    /// How long the broker shall keep the session after a disconnect; zero: a clean start.
    pub session_expiry: Duration,
    /// For brokers that ask for them.
    pub username: Option<String>,
    /// Never logged.
    pub password: Option<Secret>,
    /// The most QoS 1 messages the broker may leave unacknowledged (MQTT 5).
    pub receive_maximum: u16,
    /// The largest packet taken (MQTT 5 announces it).
    pub max_packet: u32,
}

impl Refusal {
    /// It would work another time.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.code, 0x88 | 0x89 | 0x97 | 0x9f)
    }

    /// Another connection with the same client id has taken over.
    pub(super) fn is_taken_over(&self) -> bool {
        self.code == 0x8e
    }

    /// It is for something that was sent, not for the connection as such.
    pub(super) fn blames_a_packet(&self) -> bool {
        const FOR_A_PACKET: [u8; 13] = [0x81, 0x82, 0x87, 0x90, 0x93, 0x94, 0x95, 0x99, 0x9a, 0x9b, 0x9e, 0xa1, 0xa2];
        FOR_A_PACKET.contains(&self.code)
    }
}

impl ConnAck {
    /// Why the broker must not be sent a message (MQTT-3.2.2-11, MQTT-3.2.2-14), which may have been taken before it said so.
    pub(super) fn forbids(&self, message: &Message) -> Option<&'static str> {
        if message.qos > self.max_qos {
            Some("the broker takes QoS 0 only, as it said after the message was taken")
        } else if message.retain && !self.retain {
            Some("the broker keeps no messages (`retain`), as it said after the message was taken")
        } else {
            None
        }
    }
}

/// Bytes that do not show up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

/// What a packet of the broker says.
#[derive(Debug)]
pub(super) enum Inbound {
    /// The answer to CONNECT.
    ConnAck(Result<ConnAck, Refusal>),
    /// A message.
    Publish(Arrival),
    /// A message that can't be used.
    Unusable(Unusable),
    /// The answer to a QoS 1 message.
    PubAck {
        /// Which message.
        packet_id: u16,
        /// Refused: the broker has it and will not pass it on.
        result: Result<(), Refusal>,
        /// A reason code that this packet should not have.
        undefined: Option<u8>,
    },
    /// The answer to SUBSCRIBE.
    SubAck {
        /// Which SUBSCRIBE.
        packet_id: u16,
        /// For each filter, in order; there may be too few.
        results: Vec<Result<Qos, Refusal>>,
        /// As above.
        undefined: Option<u8>,
    },
    /// The answer to UNSUBSCRIBE.
    UnsubAck {
        /// Which UNSUBSCRIBE.
        packet_id: u16,
        /// As above.
        undefined: Option<u8>,
    },
    /// The answer to PINGREQ.
    PingResp,
    /// The broker ends the connection and says why (MQTT 5).
    Disconnect(Refusal),
    /// A packet that has no business here; its name.
    Unexpected(&'static str),
}

/// What the broker allows on this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// It still knows the session.
    pub session_present: bool,
    /// QoS 1 messages it lets be unacknowledged.
    pub receive_maximum: u16,
    /// The largest packet it takes.
    pub max_packet: Option<u32>,
    /// It wants another keep-alive.
    pub keep_alive: Option<Duration>,
    /// It chose the client id.
    pub client_id: Option<String>,
    /// It tells copies apart by subscription identifiers.
    pub subscription_identifiers: bool,
    /// The highest QoS it takes messages with.
    pub max_qos: Qos,
    /// It keeps messages.
    pub retain: bool,
    /// It takes filters with wildcards.
    pub wildcards: bool,
    /// It has shared subscriptions.
    pub shared: bool,
    /// How long it keeps the session, if not as long as was asked for.
    pub session_expiry: Option<Duration>,
}

/// An inbound message with what the protocol says of it.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The message.
    pub message: Message,
    /// To acknowledge it; 0 at QoS 0.
    pub packet_id: u16,
    /// DUP: it may have been sent before.
    pub duplicate: bool,
    /// The filters this copy is for, where the broker says so.
    pub identifiers: Vec<u32>,
}

/// A message whose topic or properties are not what MQTT allows. The packet is whole.
#[derive(Debug)]
pub(super) struct Unusable {
    /// The beginning of its topic, as far as it could be read.
    pub topic: String,
    /// To acknowledge it; 0: there is nothing to acknowledge.
    pub packet_id: u16,
    /// What is wrong with it, in words.
    pub reason: String,
}

/// Why this side ends a connection, as MQTT 5 lets a client say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// All is well.
    Normal,
    /// Nothing that MQTT has a word for.
    Unspecified,
    /// What came is not MQTT, or not allowed.
    ProtocolError,
    /// More unacknowledged messages than can be told apart.
    ReceiveMaximumExceeded,
}

/// The broker's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason code as MQTT 5 numbers them; codes of 3.1.1 are translated.
    pub code: u8,
    /// In words.
    pub reason: String,
}

/// The reason code "not authorized" of MQTT 5.
pub const NOT_AUTHORIZED: u8 = 0x87;

/// The bytes are not MQTT, or not what was agreed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Told by its fixed header, before the rest is read.
    #[error("the broker announced a packet of {0} bytes, more than `max_packet` allows")]
    TooLarge(usize),
    /// Anything else, in words.
    #[error("{0}")]
    Malformed(String),
}

/// The packet can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EncodeError {
    /// Over what the broker takes, in bytes.
    #[error("the packet is larger than the {0} bytes the broker takes")]
    TooLarge(u32),
    /// Anything else, in words.
    #[error("{0}")]
    Unencodable(String),
}

/// Reads and writes packets of one MQTT version.
#[derive(Debug)]
pub(super) struct Codec {
    version: Version,
    max_inbound: u32,
    max_outbound: u32,
}

/// Results of one SUBACK that are looked at; no SUBSCRIBE of ours has as many filters. Each
/// carries the broker's text, so a long answer must not become a very long one in memory.
const MOST_RESULTS: usize = 256;

/// Bytes of a broker's text that are kept.
const LONGEST_REASON: usize = 512;

/// The largest packet MQTT can carry: a remaining length of 268,435,455 and its header (section 1.5.5).
const LARGEST: u32 = 268_435_460;

impl Codec {
    /// For a new connection; `max_inbound` in bytes.
    pub(super) fn new(version: Version, max_inbound: u32) -> Self {
        Self { version, max_inbound, max_outbound: LARGEST }
    }

    /// The broker has said how large a packet may be.
    pub(super) fn limit_outbound(&mut self, max: u32) {
        self.max_outbound = max;
    }

    /// Takes one packet off the buffer, if one is there whole.
    pub(super) fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Inbound>, DecodeError> {
        let Some(header) = Header::read(buffer, self.max_inbound)? else { return Ok(None) };
        let version = self.version;
        let inbound = match header.kind() {
            kind::PUBLISH => {
                let mut packet = buffer.split_to(header.frame).freeze();
                packet.advance(header.length);
                return publish::read(header.flags(), &packet, version).map(Some);
            }
            kind::PUBACK => answer::puback(header.body(buffer)?, version)?,
            kind::SUBACK => answer::suback(header.body(buffer)?, version)?,
            kind::UNSUBACK => answer::unsuback(header.body(buffer)?, version)?,
            kind::DISCONNECT if version == Version::V5 => answer::disconnect(header.body(buffer)?),
            kind::CONNACK => {
                header.body(buffer)?;
                let packet = buffer.split_to(header.frame).freeze();
                let connack = match version {
                    Version::V311 => v311::connack(header, packet),
                    Version::V5 => v5::connack(header, packet),
                };
                return connack.map(|connack| Some(Inbound::ConnAck(connack)));
            }
            kind::PINGRESP => header.body(buffer).map(|_| Inbound::PingResp)?,
            _ => Inbound::Unexpected(header.unexpected(version)?),
        };
        buffer.advance(header.frame);
        Ok(Some(inbound))
    }

    /// CONNECT.
    pub(super) fn connect(&self, connect: &Connect, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::connect(connect), out),
            Version::V5 => self.write_v5(&v5::connect(connect), out),
        }
    }

    /// PUBLISH; the packet id is used at QoS 1.
    pub(super) fn publish(
        &self,
        message: &Message,
        packet_id: u16,
        duplicate: bool,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::publish(message, packet_id, duplicate), out),
            Version::V5 => {
                let written = out.len();
                v5::publish(message, packet_id, duplicate, self.max_outbound, out)
                    .inspect_err(|_| out.truncate(written))
            }
        }
    }

    /// SUBSCRIBE. `identify` sends the filter's number along, where the broker has use for
    /// it; there has to be one filter then.
    pub(super) fn subscribe(
        &self,
        packet_id: u16,
        to: &[Subscription],
        identify: bool,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::subscribe(packet_id, to), out),
            Version::V5 => self.write_v5(&v5::subscribe(packet_id, to, identify), out),
        }
    }

    /// UNSUBSCRIBE.
    pub(super) fn unsubscribe(
        &self,
        packet_id: u16,
        filters: &[TopicFilter],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::unsubscribe(packet_id, filters), out),
            Version::V5 => self.write_v5(&v5::unsubscribe(packet_id, filters), out),
        }
    }

    /// PUBACK.
    pub(super) fn puback(&self, packet_id: u16, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::puback(packet_id), out),
            Version::V5 => self.write_v5(&v5::puback(packet_id), out),
        }
    }

    /// PINGREQ.
    pub(super) fn ping(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::PING, out),
            Version::V5 => self.write_v5(&v5::PING, out),
        }
    }

    /// DISCONNECT, the normal one.
    pub(super) fn disconnect(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => self.write_v311(&v311::DISCONNECT, out),
            Version::V5 => self.write_v5(&v5::disconnect(Farewell::Normal), out),
        }
    }

    /// DISCONNECT for a reason, where there is one that says so: in MQTT 3.1.1 it always means that
    /// all is well, and the broker would keep the last will to itself.
    pub(super) fn give_up(&self, farewell: Farewell, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.version {
            Version::V311 => Ok(()),
            Version::V5 => self.write_v5(&v5::disconnect(farewell), out),
        }
    }

    fn write_v311(&self, packet: &v311::Packet, out: &mut BytesMut) -> Result<(), EncodeError> {
        let written = out.len();
        v311::write(packet, self.max_outbound, out).inspect_err(|_| out.truncate(written))
    }

    fn write_v5(&self, packet: &v5::Packet, out: &mut BytesMut) -> Result<(), EncodeError> {
        let written = out.len();
        v5::write(packet, self.max_outbound, out).inspect_err(|_| out.truncate(written))
    }
}

/// Bytes of a PUBLISH at MQTT 5; at 3.1.1 it is somewhat shorter, and nobody says how long it may be.
pub(super) fn publish_length(message: &Message) -> usize {
    v5::publish_length(message)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (reason code 0x{:02x})", self.reason, self.code)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        message::{Properties, UserProperties},
        topic::TopicName,
    };

    const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

    fn message(payload: usize) -> Message {
        Message {
            topic: TopicName::parse("a/b").unwrap(),
            payload: Bytes::from(vec![7; payload]),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: None,
        }
    }

    fn decode(codec: &Codec, bytes: &[u8]) -> Result<Option<Inbound>, DecodeError> {
        codec.decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_message_survives_the_wire_at_both_versions() {
        for version in VERSIONS {
            let codec = Codec::new(version, 1024);
            let mut wire = BytesMut::new();
            codec.publish(&message(5), 9, true, &mut wire).unwrap();
            let Some(Inbound::Publish(arrival)) = codec.decode(&mut wire).unwrap() else { panic!() };
            assert_eq!(arrival.message, message(5));
            assert_eq!((arrival.packet_id, arrival.duplicate), (9, true));
            assert!(wire.is_empty());
        }
    }

    #[test]
    fn properties_travel_at_5_and_are_dropped_at_3_1_1() {
        let properties = Properties {
            content_type: Some("text/plain".into()),
            response_topic: Some(TopicName::parse("r").unwrap()),
            correlation_data: Some(Bytes::from_static(b"c")),
            message_expiry: Some(60),
            utf8: true,
            user_properties: UserProperties::try_from(&[("k", "v"), ("k", "w")][..]).unwrap(),
        };
        let message = Message { properties: Some(properties.share()), ..message(1) };
        for (version, kept) in [(Version::V311, None), (Version::V5, message.properties.clone())] {
            let codec = Codec::new(version, 1024);
            let mut wire = BytesMut::new();
            codec.publish(&message, 9, false, &mut wire).unwrap();
            let Some(Inbound::Publish(arrival)) = codec.decode(&mut wire).unwrap() else { panic!() };
            assert_eq!(arrival.message.properties, kept);
        }
    }

    #[test]
    fn code_7_of_aws_is_not_authorized_rather_than_malformed() {
        let codec = Codec::new(Version::V311, 1024);
        for (code, expected) in [(5, NOT_AUTHORIZED), (7, NOT_AUTHORIZED), (2, 0x85), (9, 0x80)] {
            let Ok(Some(Inbound::ConnAck(Err(refusal)))) = decode(&codec, &[0x20, 2, 0, code]) else { panic!() };
            assert_eq!(refusal.code, expected);
        }
    }

    #[test]
    fn what_no_broker_sends_is_called_by_its_name() {
        let named = |version, first| match decode(&Codec::new(version, 1024), &[first, 0]) {
            Ok(Some(Inbound::Unexpected(name))) => Some(name),
            _ => None,
        };
        let names = [
            (0x10, "CONNECT"),
            (0x50, "PUBREC"),
            (0x62, "PUBREL"),
            (0x70, "PUBCOMP"),
            (0x82, "SUBSCRIBE"),
            (0xa2, "UNSUBSCRIBE"),
            (0xc0, "PINGREQ"),
        ];
        for version in VERSIONS {
            for (first, name) in names {
                assert_eq!(named(version, first), Some(name));
            }
            assert!(decode(&Codec::new(version, 1024), &[0, 0]).is_err(), "there is no such packet");
            assert!(matches!(decode(&Codec::new(version, 1024), &[0xd0, 0]), Ok(Some(Inbound::PingResp))));
        }
        assert_eq!((named(Version::V311, 0xe0), named(Version::V5, 0xe0)), (Some("DISCONNECT"), None));
        assert_eq!((named(Version::V311, 0xf0), named(Version::V5, 0xf0)), (None, Some("AUTH")));
    }

    /// Section 3.14.2: the length of the properties may be left away, and the reason, too.
    #[test]
    fn a_short_disconnect_is_understood() {
        let codec = Codec::new(Version::V5, 1024);
        for (bytes, expected) in [(&[0xe0, 0][..], 0), (&[0xe0, 1, 0x8e], 0x8e), (&[0xe0, 2, 0x8e, 0], 0x8e)] {
            let Ok(Some(Inbound::Disconnect(refusal))) = decode(&codec, bytes) else { panic!("{bytes:?}") };
            assert_eq!(refusal.code, expected);
        }
        let Ok(Some(Inbound::Disconnect(refusal))) = decode(&codec, &[0xe0, 1, 0xee]) else { panic!() };
        assert_eq!(refusal.code, 0xee, "a code MQTT 5 does not define ends the connection as any other");
        assert!(decode(&codec, &[0xe0, 1]).unwrap().is_none());
    }

    #[test]
    fn a_packet_over_the_limit_is_refused_on_its_header() {
        for version in VERSIONS {
            let codec = Codec::new(version, 1024);
            let error = decode(&codec, &[0x30, 0xff, 0xff, 0xff, 0x7f]).unwrap_err();
            assert!(matches!(error, DecodeError::TooLarge(268_435_455..)), "{error}");
            assert!(decode(&codec, &[0x30, 0x80]).unwrap().is_none());
        }
    }

    #[test]
    fn a_message_over_the_brokers_limit_is_refused_and_leaves_no_bytes() {
        for version in VERSIONS {
            let mut codec = Codec::new(version, 1024);
            codec.limit_outbound(100);
            let mut wire = BytesMut::from(&b"before"[..]);
            assert_eq!(codec.publish(&message(100), 1, false, &mut wire), Err(EncodeError::TooLarge(100)));
            assert_eq!(&wire[..], b"before");
        }
    }

    #[test]
    fn what_a_broker_announces_is_understood() {
        let codec = Codec::new(Version::V5, 1024);
        let bytes = [0x20, 17, 1, 0, 14, 33, 0, 20, 39, 0, 0, 4, 0, 19, 0, 30, 41, 0, 34];
        let Ok(None) = decode(&codec, &bytes[..12]) else { panic!("a part is not a packet") };
        let bytes = [0x20, 16, 1, 0, 13, 33, 0, 20, 39, 0, 0, 4, 0, 19, 0, 30, 41, 0];
        let Ok(Some(Inbound::ConnAck(Ok(connack)))) = decode(&codec, &bytes) else { panic!() };
        let expected = ConnAck {
            session_present: true,
            receive_maximum: 20,
            max_packet: Some(1024),
            keep_alive: Some(Duration::from_secs(30)),
            client_id: None,
            subscription_identifiers: false,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            wildcards: true,
            shared: true,
            session_expiry: None,
        };
        assert_eq!(connack, expected);
        let bytes = [0x20, 16, 0, 0, 13, 36, 0, 37, 0, 40, 0, 42, 0, 17, 0, 0, 0, 60];
        let Ok(Some(Inbound::ConnAck(Ok(connack)))) = decode(&codec, &bytes) else { panic!() };
        assert_eq!(connack.max_qos, Qos::AtMostOnce);
        assert!(!connack.retain && !connack.wildcards && !connack.shared);
        assert_eq!(connack.session_expiry, Some(Duration::from_secs(60)));
    }

    #[test]
    fn several_filters_go_into_one_packet() {
        let subscription =
            |text: &str, qos| Subscription { filter: TopicFilter::parse(text.to_owned()).unwrap(), qos, identifier: 1 };
        let two = [subscription("a", Qos::AtMostOnce), subscription("b", Qos::AtLeastOnce)];
        let filters = two.clone().map(|subscription| subscription.filter);
        for (version, properties) in [(Version::V311, &[][..]), (Version::V5, &[0][..])] {
            let codec = Codec::new(version, 1024);
            let mut wire = BytesMut::new();
            codec.subscribe(7, &two, false, &mut wire).unwrap();
            assert_eq!(wire[..2], [0x82, 10 + properties.len() as u8]);
            assert_eq!(wire[2..], [&[0, 7], properties, &[0, 1, b'a', 0, 0, 1, b'b', 1]].concat());
            wire.clear();
            codec.unsubscribe(7, &filters, &mut wire).unwrap();
            assert_eq!(wire[2..], [&[0, 7], properties, &[0, 1, b'a', 0, 1, b'b']].concat());
        }
    }

    #[test]
    fn a_refusal_says_of_which_kind_it_is() {
        let refusal = |code| Refusal { code, reason: String::new() };
        assert!(refusal(0x97).is_transient() && !refusal(NOT_AUTHORIZED).is_transient());
        assert!(refusal(0x8e).is_taken_over() && !refusal(0x8e).blames_a_packet());
        assert!(refusal(0x90).blames_a_packet() && refusal(NOT_AUTHORIZED).blames_a_packet());
    }

    #[test]
    fn a_broker_may_refuse_a_message_with_and_without_words() {
        let codec = Codec::new(Version::V5, 1024);
        let with_words = [0x40, 9, 0, 9, 0x97, 5, 31, 0, 2, b'h', b'i'];
        for (bytes, expected) in [
            (&[0x40, 2, 0, 9][..], None),
            (&[0x40, 3, 0, 9, 0x10][..], None),
            (&[0x40, 3, 0, 9, 0x87][..], Some((0x87, "not authorized"))),
            (&with_words[..], Some((0x97, "quota exceeded: hi"))),
        ] {
            let Ok(Some(Inbound::PubAck { packet_id: 9, result, undefined: None })) = decode(&codec, bytes) else {
                panic!("{bytes:?}")
            };
            let refusal = result.err().map(|refusal| (refusal.code, refusal.reason));
            assert_eq!(refusal, expected.map(|(code, reason)| (code, reason.to_owned())));
        }
    }

    #[test]
    fn a_long_suback_with_a_long_text_takes_little_memory() {
        let text = [&[31][..], &60_000u16.to_be_bytes(), &vec![b'x'; 60_000]].concat();
        // 60,003 bytes of properties, written as a variable byte integer.
        let body = [&[0, 9, 0xe3, 0xd4, 0x03][..], &text, &vec![0x87; 60_000]].concat();
        let mut packet = vec![0x90];
        let mut length = body.len();
        while length > 0 {
            packet.push((length & 0x7f) as u8 | if length > 0x7f { 0x80 } else { 0 });
            length >>= 7;
        }
        packet.extend(body);
        let codec = Codec::new(Version::V5, 200_000);
        let Ok(Some(Inbound::SubAck { packet_id: 9, results, undefined: None })) = decode(&codec, &packet) else {
            panic!()
        };
        assert_eq!(results.len(), MOST_RESULTS);
        assert!(results.iter().all(|result| result.as_ref().is_err_and(|refusal| refusal.reason.len() < 600)));
    }

    #[test]
    fn a_code_that_is_not_defined_is_not_taken_for_a_connack() {
        let codec = Codec::new(Version::V5, 1024);
        let decoded = decode(&codec, &[0x40, 3, 0, 9, 0xee]);
        assert!(!matches!(decoded, Ok(Some(Inbound::ConnAck(_)))), "{decoded:?}");
    }

    /// From 0x80 on it is a no to this packet, below a yes; and it is told that it is odd.
    #[test]
    fn a_code_that_is_not_defined_counts_for_its_packet() {
        let codec = Codec::new(Version::V5, 1024);
        for (code, is_yes) in [(0x42, true), (0x7f, true), (0x9a, false), (0xee, false)] {
            let puback = decode(&codec, &[0x40, 3, 0, 9, code]);
            let Ok(Some(Inbound::PubAck { packet_id: 9, result, undefined })) = puback else { panic!("{puback:?}") };
            assert_eq!((result.is_ok(), undefined), (is_yes, Some(code)));
            let suback = decode(&codec, &[0x90, 5, 0, 9, 0, 1, code]);
            let Ok(Some(Inbound::SubAck { packet_id: 9, results, undefined })) = suback else { panic!("{suback:?}") };
            assert_eq!((results.len(), undefined), (2, Some(code)));
            assert_eq!((results[0].is_ok(), results[1].is_ok()), (true, is_yes));
            let unsuback = decode(&codec, &[0xb0, 4, 0, 9, 0, code]);
            assert!(
                matches!(unsuback, Ok(Some(Inbound::UnsubAck { packet_id: 9, undefined })) if undefined == Some(code))
            );
        }
        let codec = Codec::new(Version::V311, 1024);
        for (code, is_yes) in [(0x87, false), (0x05, true)] {
            let suback = decode(&codec, &[0x90, 4, 0, 9, 1, code]);
            let Ok(Some(Inbound::SubAck { packet_id: 9, results, undefined })) = suback else { panic!("{suback:?}") };
            assert_eq!((results[0].is_ok(), results[1].is_ok(), undefined), (true, is_yes, Some(code)));
        }
    }

    #[test]
    fn an_answer_may_say_less_than_it_should() {
        for version in VERSIONS {
            let codec = Codec::new(version, 1024);
            let properties = if version == Version::V5 { &[0][..] } else { &[] };
            for codes in [&[][..], &[1]] {
                let body = [&[0, 9], properties, codes].concat();
                let packet = [&[0x90, body.len() as u8][..], &body].concat();
                let Ok(Some(Inbound::SubAck { results, .. })) = decode(&codec, &packet) else { panic!("{packet:?}") };
                assert_eq!(results.len(), codes.len());
            }
            for nothing in [&[0x40, 0][..], &[0x90, 1, 0], &[0xb0, 2, 0, 0]] {
                assert!(decode(&codec, nothing).is_err(), "{nothing:?}: for which packet?");
            }
        }
        // Words that are none, and properties that go beyond the packet.
        let codec = Codec::new(Version::V5, 1024);
        for packet in [&[0x40, 8, 0, 9, 0x87, 4, 31, 0, 1, 0xff][..], &[0x40, 4, 0, 9, 0x87, 9]] {
            let Ok(Some(Inbound::PubAck { packet_id: 9, result, .. })) = decode(&codec, packet) else { panic!() };
            assert_eq!(result.unwrap_err().code, NOT_AUTHORIZED);
        }
    }

    #[test]
    fn a_broker_may_say_goodbye_in_few_bytes() {
        let codec = Codec::new(Version::V5, 1024);
        for (bytes, expected) in [(&[0xe0, 0][..], 0), (&[0xe0, 1, 0x8e][..], 0x8e), (&[0xe0, 2, 0x8b, 0][..], 0x8b)] {
            let mut wire = BytesMut::from(bytes);
            wire.extend_from_slice(b"rest");
            let Ok(Some(Inbound::Disconnect(refusal))) = codec.decode(&mut wire) else { panic!("{bytes:?}") };
            assert_eq!((refusal.code, &wire[..]), (expected, &b"rest"[..]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for version in VERSIONS {
                let codec = Codec::new(version, 100);
                let mut buffer = BytesMut::from(&bytes[..]);
                while let Ok(Some(_)) = codec.decode(&mut buffer) {}
            }
        }

        #[test]
        fn no_bent_packet_panics(at in 0usize..40, value: u8, cut in 0usize..40) {
            for version in VERSIONS {
                let codec = Codec::new(version, 1024);
                let mut wire = BytesMut::new();
                codec.publish(&message(10), 3, false, &mut wire).unwrap();
                codec.subscribe(4, &[Subscription {
                    filter: TopicFilter::parse("a/+").unwrap(), qos: Qos::AtLeastOnce, identifier: 300,
                }], true, &mut wire).unwrap();
                let len = wire.len();
                wire[at % len] = value;
                wire.truncate(len - cut % len);
                while let Ok(Some(_)) = codec.decode(&mut wire) {}
            }
        }
    }
}
