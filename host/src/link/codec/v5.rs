//! MQTT 5 by the codec of rumqttc-v5-next.

mod encode;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
pub(super) use rumqttc_v5::mqttbytes::v5::Packet;
use rumqttc_v5::mqttbytes::{
    Error, FixedHeader, QoS,
    v5::{
        self, ConnectAuth, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, SubscribeFilter,
        SubscribeProperties,
    },
};

use super::{ConnAck, Connect, DecodeError, EncodeError, Farewell, Header, NOT_AUTHORIZED, Refusal, kind, reason};
use crate::{message::Qos, router::Subscription, topic::TopicFilter};

pub(super) use encode::{publish, publish_length};

pub(super) const PING: Packet = Packet::PingReq;

/// A CONNACK that is there whole. Of what a broker sends, the library reads nothing else.
pub(super) fn connack(header: Header, packet: Bytes) -> Result<Result<ConnAck, Refusal>, DecodeError> {
    let (length, rest) = (packet.len(), packet.len() - header.length);
    match v5::ConnAck::read(FixedHeader::new(kind::CONNACK << 4, header.length - 1, rest), packet) {
        Ok(connack) => Ok(connected(connack)),
        Err(Error::InvalidConnectReturnCode(code)) => Ok(Err(reason::refusal(code, None))),
        // The packet is there whole: one that wants more bytes contradicts itself.
        Err(Error::InsufficientBytes(_)) if length == 4 => {
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

pub(super) fn disconnect(farewell: Farewell) -> Packet {
    let reason = match farewell {
        Farewell::Normal => DisconnectReasonCode::NormalDisconnection,
        Farewell::Unspecified => DisconnectReasonCode::UnspecifiedError,
        Farewell::ProtocolError => DisconnectReasonCode::ProtocolError,
        Farewell::ReceiveMaximumExceeded => DisconnectReasonCode::ReceiveMaximumExceeded,
    };
    Packet::Disconnect(v5::Disconnect::new(reason))
}

fn connected(connack: v5::ConnAck) -> Result<ConnAck, Refusal> {
    let properties = connack.properties;
    if connack.code != ConnectReturnCode::Success {
        let text = properties.and_then(|properties| properties.reason_string);
        return Err(reason::refusal(connect_code(connack.code), text.as_deref()));
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
