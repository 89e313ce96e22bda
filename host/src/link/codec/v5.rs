//! MQTT 5 by the codec of rumqttc-v5-next.

mod encode;
mod publish;

use std::time::Duration;

use bytes::BytesMut;
pub(super) use rumqttc_v5::mqttbytes::v5::Packet;
use rumqttc_v5::mqttbytes::{
    self, Error, PacketType, QoS,
    v5::{
        self, ConnectAuth, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, PubAckReason, SubscribeFilter,
        SubscribeProperties, SubscribeReasonCode,
    },
};

use super::{ConnAck, Connect, DecodeError, EncodeError, Inbound, NOT_AUTHORIZED, Refusal};
use crate::{message::Qos, router::Subscription, topic::TopicFilter};

pub(super) use encode::{publish, publish_length};

pub(super) const PING: Packet = Packet::PingReq;

pub(super) fn decode(buffer: &mut BytesMut, max: u32) -> Result<Option<Inbound>, DecodeError> {
    let header = match mqttbytes::check(buffer.iter(), Some(max)) {
        Ok(header) => header,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(Error::PayloadSizeLimitExceeded { pkt_size, .. }) => return Err(DecodeError::TooLarge(pkt_size)),
        Err(error) => return Err(DecodeError::Malformed(error.to_string())),
    };
    if matches!(header.packet_type(), Ok(PacketType::Publish)) {
        let frame = buffer.split_to(header.frame_length()).freeze();
        return publish::read(header.flags(), frame).map(|arrival| Some(Inbound::Publish(arrival)));
    }
    if matches!(header.packet_type(), Ok(PacketType::Disconnect)) && header.frame_length() < 4 {
        // Without properties their length may be left out (section 3.14.2.2.1), which the codec does not know.
        let frame = buffer.split_to(header.frame_length());
        let mut whole = BytesMut::from(&[0xe0, 2, frame.get(2).copied().unwrap_or(0), 0][..]);
        let packet = Packet::read(&mut whole, Some(max));
        return packet.map(|packet| Some(inbound(packet))).map_err(|error| DecodeError::Malformed(error.to_string()));
    }
    match Packet::read(buffer, Some(max)) {
        Ok(packet) => Ok(Some(inbound(packet))),
        Err(Error::InvalidConnectReturnCode(code)) if matches!(header.packet_type(), Ok(PacketType::ConnAck)) => {
            let reason = "a reason MQTT 5 does not define".into();
            Ok(Some(Inbound::ConnAck(Err(Refusal { code, reason }))))
        }
        // The packet is there whole: one that wants more bytes contradicts itself.
        Err(Error::InsufficientBytes(_)) if header.frame_length() == 4 => {
            let hint =
                "a packet is shorter than MQTT 5 has it; does the broker speak MQTT 3.1.1 only? Then set `protocol`";
            Err(DecodeError::Malformed(hint.into()))
        }
        Err(error) => Err(DecodeError::Malformed(error.to_string())),
    }
}

pub(super) fn write(packet: &Packet, max: u32, out: &mut BytesMut) -> Result<(), EncodeError> {
    match packet.write(out, Some(max)) {
        Ok(_) => Ok(()),
        Err(Error::OutgoingPacketTooLarge { .. }) => Err(EncodeError::TooLarge(max)),
        Err(error) => Err(EncodeError::Unencodable(error.to_string())),
    }
}

pub(super) fn connect(connect: &Connect) -> Packet {
    let properties = ConnectProperties {
        session_expiry_interval: Some(u32::try_from(connect.session_expiry.as_secs()).unwrap_or(u32::MAX)),
        receive_maximum: Some(connect.receive_maximum),
        max_packet_size: Some(connect.max_packet),
        ..ConnectProperties::new()
    };
    let auth = match (&connect.username, &connect.password) {
        (Some(username), Some(password)) => {
            ConnectAuth::UsernamePassword { username: username.clone(), password: password.0.clone().into() }
        }
        (Some(username), None) => ConnectAuth::Username { username: username.clone() },
        (None, Some(password)) => ConnectAuth::Password { password: password.0.clone().into() },
        (None, None) => ConnectAuth::None,
    };
    let packet = v5::Connect {
        keep_alive: u16::try_from(connect.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: connect.client_id.clone(),
        clean_start: connect.session_expiry.is_zero(),
        properties: Some(properties),
    };
    Packet::Connect(packet, None, auth)
}

pub(super) fn subscribe(packet_id: u16, to: &[Subscription], identify: bool) -> Packet {
    let identifier = to.first().filter(|_| identify).map(|to| to.identifier as usize);
    let properties = identifier.map(|id| SubscribeProperties { id: Some(id), user_properties: Vec::new() });
    let filters = to.iter().map(|to| SubscribeFilter::new(to.filter.as_str(), qos(to.qos)));
    let mut packet = v5::Subscribe::new_many(filters, properties);
    packet.pkid = packet_id;
    Packet::Subscribe(packet)
}

pub(super) fn unsubscribe(packet_id: u16, filters: &[TopicFilter]) -> Packet {
    let filters = filters.iter().map(ToString::to_string).collect();
    Packet::Unsubscribe(v5::Unsubscribe { pkid: packet_id, filters, properties: None })
}

pub(super) fn puback(packet_id: u16) -> Packet {
    Packet::PubAck(v5::PubAck::new(packet_id, None))
}

pub(super) fn disconnect() -> Packet {
    Packet::Disconnect(v5::Disconnect::new(DisconnectReasonCode::NormalDisconnection))
}

fn inbound(packet: Packet) -> Inbound {
    match packet {
        Packet::ConnAck(connack) => Inbound::ConnAck(connected(connack)),
        Packet::Publish(_) => Inbound::Unexpected("PUBLISH"),
        Packet::PubAck(puback) => Inbound::PubAck { packet_id: puback.pkid, result: acknowledged(puback) },
        Packet::SubAck(suback) => {
            let text = suback.properties.and_then(|properties| properties.reason_string);
            let results = suback
                .return_codes
                .into_iter()
                .take(super::MOST_RESULTS)
                .map(|code| granted(code, text.as_deref()))
                .collect();
            Inbound::SubAck { packet_id: suback.pkid, results }
        }
        Packet::UnsubAck(unsuback) => Inbound::UnsubAck { packet_id: unsuback.pkid },
        Packet::PingResp => Inbound::PingResp,
        Packet::Disconnect(disconnect) => {
            let code = disconnect.reason_code as u8;
            let text = disconnect.properties.and_then(|properties| properties.reason_string);
            Inbound::Disconnect(refusal(code, &format!("{:?}", disconnect.reason_code), text.as_deref()))
        }
        Packet::Auth(_) => Inbound::Unexpected("AUTH"),
        Packet::Connect(..) => Inbound::Unexpected("CONNECT"),
        Packet::PubRec(_) => Inbound::Unexpected("PUBREC"),
        Packet::PubRel(_) => Inbound::Unexpected("PUBREL"),
        Packet::PubComp(_) => Inbound::Unexpected("PUBCOMP"),
        Packet::Subscribe(_) => Inbound::Unexpected("SUBSCRIBE"),
        Packet::Unsubscribe(_) => Inbound::Unexpected("UNSUBSCRIBE"),
        Packet::PingReq => Inbound::Unexpected("PINGREQ"),
    }
}

fn connected(connack: v5::ConnAck) -> Result<ConnAck, Refusal> {
    let properties = connack.properties;
    if connack.code != ConnectReturnCode::Success {
        let text = properties.and_then(|properties| properties.reason_string);
        return Err(refusal(connect_code(connack.code), &format!("{:?}", connack.code), text.as_deref()));
    }
    let announced = properties.as_ref();
    Ok(ConnAck {
        session_present: connack.session_present,
        receive_maximum: announced.and_then(|it| it.receive_max).unwrap_or(u16::MAX),
        max_packet: announced.and_then(|it| it.max_packet_size),
        keep_alive: announced.and_then(|it| it.server_keep_alive).map(|seconds| Duration::from_secs(seconds.into())),
        subscription_identifiers: announced.and_then(|it| it.subscription_identifiers_available) != Some(0),
        max_qos: if announced.and_then(|it| it.max_qos) == Some(0) { Qos::AtMostOnce } else { Qos::AtLeastOnce },
        retain: announced.and_then(|it| it.retain_available) != Some(0),
        wildcards: announced.and_then(|it| it.wildcard_subscription_available) != Some(0),
        shared: announced.and_then(|it| it.shared_subscription_available) != Some(0),
        session_expiry: announced
            .and_then(|it| it.session_expiry_interval)
            .map(|seconds| Duration::from_secs(seconds.into())),
        client_id: properties.and_then(|it| it.assigned_client_identifier),
    })
}

fn acknowledged(puback: v5::PubAck) -> Result<(), Refusal> {
    match puback.reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
        reason => {
            let text = puback.properties.and_then(|properties| properties.reason_string);
            Err(refusal(reason as u8, &format!("{reason:?}"), text.as_deref()))
        }
    }
}

fn granted(code: SubscribeReasonCode, text: Option<&str>) -> Result<Qos, Refusal> {
    let number = match code {
        SubscribeReasonCode::Success(QoS::AtMostOnce) => return Ok(Qos::AtMostOnce),
        SubscribeReasonCode::Success(_) => return Ok(Qos::AtLeastOnce),
        SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified => 0x80,
        SubscribeReasonCode::ImplementationSpecific => 0x83,
        SubscribeReasonCode::NotAuthorized => NOT_AUTHORIZED,
        SubscribeReasonCode::TopicFilterInvalid => 0x8f,
        SubscribeReasonCode::PkidInUse => 0x91,
        SubscribeReasonCode::QuotaExceeded => 0x97,
        SubscribeReasonCode::SharedSubscriptionsNotSupported => 0x9e,
        SubscribeReasonCode::SubscriptionIdNotSupported => 0xa1,
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => 0xa2,
    };
    Err(refusal(number, &format!("{code:?}"), text))
}

/// The codec's names are the specification's in camel case: "NotAuthorized" → "not authorized".
fn refusal(code: u8, name: &str, text: Option<&str>) -> Refusal {
    let mut reason = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        if character.is_uppercase() && !reason.is_empty() {
            reason.push(' ');
        }
        reason.extend(character.to_lowercase());
    }
    if let Some(text) = text {
        reason.push_str(": ");
        reason.push_str(text.get(..text.floor_char_boundary(super::LONGEST_REASON)).unwrap_or(text));
    }
    Refusal { code, reason }
}

fn connect_code(code: ConnectReturnCode) -> u8 {
    match code {
        ConnectReturnCode::Success => 0,
        ConnectReturnCode::MalformedPacket => 0x81,
        ConnectReturnCode::ProtocolError => 0x82,
        ConnectReturnCode::ImplementationSpecificError => 0x83,
        ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => 0x84,
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => 0x85,
        ConnectReturnCode::BadUserNamePassword => 0x86,
        ConnectReturnCode::NotAuthorized => NOT_AUTHORIZED,
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::ServerUnavailable => 0x88,
        ConnectReturnCode::ServerBusy => 0x89,
        ConnectReturnCode::Banned => 0x8a,
        ConnectReturnCode::BadAuthenticationMethod => 0x8c,
        ConnectReturnCode::TopicNameInvalid => 0x90,
        ConnectReturnCode::PacketTooLarge => 0x95,
        ConnectReturnCode::QuotaExceeded => 0x97,
        ConnectReturnCode::PayloadFormatInvalid => 0x99,
        ConnectReturnCode::RetainNotSupported => 0x9a,
        ConnectReturnCode::QoSNotSupported => 0x9b,
        ConnectReturnCode::UseAnotherServer => 0x9c,
        ConnectReturnCode::ServerMoved => 0x9d,
        ConnectReturnCode::ConnectionRateExceeded => 0x9f,
        ConnectReturnCode::UnspecifiedError => 0x80,
    }
}

fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}
