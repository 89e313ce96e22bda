//! MQTT 3.1.1 by the codec of rumqttc-v4-next.

use bytes::{Bytes, BytesMut};
pub(super) use rumqttc_v4::mqttbytes::v4::Packet;
use rumqttc_v4::mqttbytes::{
    Error, FixedHeader, QoS,
    v4::{self, ConnectReturnCode, SubscribeFilter},
};

use super::{ConnAck, Connect, DecodeError, EncodeError, Header, NOT_AUTHORIZED, Refusal, kind};
use crate::{
    message::{Message, Qos},
    router::Subscription,
    topic::TopicFilter,
};

pub(super) const PING: Packet = Packet::PingReq;
pub(super) const DISCONNECT: Packet = Packet::Disconnect;

/// A CONNACK that is there whole. Of what a broker sends, the library reads nothing else.
pub(super) fn connack(header: Header, packet: Bytes) -> Result<Result<ConnAck, Refusal>, DecodeError> {
    let rest = packet.len() - header.length;
    match v4::ConnAck::read(FixedHeader::new(kind::CONNACK << 4, header.length - 1, rest), packet) {
        Ok(connack) => Ok(connected(&connack)),
        // The codec knows the codes 0 to 5; AWS IoT Core answers 7 for "not authorised".
        Err(Error::InvalidConnectReturnCode(code)) => Ok(Err(connect_refusal(code))),
        Err(error) => Err(DecodeError::Malformed(error.to_string())),
    }
}

pub(super) fn write(packet: &Packet, max: u32, out: &mut BytesMut) -> Result<(), EncodeError> {
    match packet.write(out, max as usize) {
        Ok(_) => Ok(()),
        Err(Error::OutgoingPacketTooLarge { .. }) => Err(EncodeError::TooLarge(max)),
        Err(error) => Err(EncodeError::Unencodable(error.to_string())),
    }
}

pub(super) fn connect(connect: &Connect) -> Packet {
    let mut packet = v4::Connect::new(&connect.client_id);
    packet.keep_alive = u16::try_from(connect.keep_alive.as_secs()).unwrap_or(u16::MAX);
    packet.clean_session = connect.session_expiry.is_zero();
    match (&connect.username, &connect.password) {
        (Some(username), Some(password)) => {
            packet.set_credentials(username, password.0.clone());
        }
        (Some(username), None) => {
            packet.set_username(username);
        }
        (None, _) => {}
    }
    Packet::Connect(packet)
}

pub(super) fn publish(message: &Message, packet_id: u16, duplicate: bool) -> Packet {
    Packet::Publish(v4::Publish {
        dup: duplicate,
        qos: qos(message.qos),
        retain: message.retain,
        topic: message.topic.as_bytes().clone(),
        pkid: if message.qos == Qos::AtMostOnce { 0 } else { packet_id },
        payload: message.payload.clone(),
    })
}

pub(super) fn subscribe(packet_id: u16, to: &[Subscription]) -> Packet {
    let filters = to.iter().map(|to| SubscribeFilter { path: to.filter.to_string(), qos: qos(to.qos) });
    let mut packet = v4::Subscribe::new_many(filters);
    packet.pkid = packet_id;
    Packet::Subscribe(packet)
}

pub(super) fn unsubscribe(packet_id: u16, filters: &[TopicFilter]) -> Packet {
    let topics = filters.iter().map(ToString::to_string).collect();
    Packet::Unsubscribe(v4::Unsubscribe { pkid: packet_id, topics })
}

pub(super) fn puback(packet_id: u16) -> Packet {
    Packet::PubAck(v4::PubAck::new(packet_id))
}

fn connected(connack: &v4::ConnAck) -> Result<ConnAck, Refusal> {
    match connack.code {
        ConnectReturnCode::Success => Ok(ConnAck {
            session_present: connack.session_present,
            receive_maximum: u16::MAX,
            max_packet: None,
            keep_alive: None,
            client_id: None,
            subscription_identifiers: false,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            wildcards: true,
            shared: true,
            session_expiry: None,
        }),
        code => Err(connect_refusal(code as u8)),
    }
}

/// The codes of section 3.2.2.3 as MQTT 5 numbers them.
fn connect_refusal(code: u8) -> Refusal {
    let (code, reason) = match code {
        1 => (0x84, "the broker does not speak this MQTT version".to_owned()),
        2 => (0x85, "the broker does not take this client id".to_owned()),
        3 => (0x88, "the broker is not available".to_owned()),
        4 => (0x86, "bad user name or password".to_owned()),
        5 | 7 => (NOT_AUTHORIZED, format!("not authorised (CONNACK code {code})")),
        other => (0x80, format!("CONNACK code {other}, which MQTT 3.1.1 does not define")),
    };
    Refusal { code, reason }
}

fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}
