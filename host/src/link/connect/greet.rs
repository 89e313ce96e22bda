//! CONNECT, and what the broker says to it.

use super::{Connection, ConnectionInfo, TlsInfo, broken};
use crate::link::{
    LinkSettings,
    codec::{Codec, Connect, Inbound},
    error::LinkError,
    wire::{Turn, Wire},
};

/// The most QoS 1 arrivals the broker may leave unacknowledged; MQTT 5 announces it.
pub(in crate::link) const RECEIVE_MAXIMUM: u16 = 100;

pub(super) async fn greet(
    settings: &LinkSettings,
    mut wire: Wire,
    tls: Option<TlsInfo>,
) -> Result<Connection, LinkError> {
    let mut codec = Codec::new(settings.protocol, settings.largest_packet());
    let connect = Connect {
        client_id: settings.client_id.clone(),
        keep_alive: settings.keep_alive,
        session_expiry: settings.session_expiry,
        username: settings.username.clone(),
        password: settings.password.clone(),
        receive_maximum: RECEIVE_MAXIMUM,
        max_packet: settings.largest_packet(),
    };
    codec.connect(&connect, &mut wire.outbound).map_err(|error| LinkError::NotMqtt(format!("CONNECT: {error}")))?;
    let inbound = loop {
        let turn = wire.turn().await.map_err(|cause| match broken(settings, cause) {
            LinkError::Closed | LinkError::Broken(_) => LinkError::ClosedUnanswered,
            error => error,
        });
        match turn? {
            Turn::Read => {
                not_http(&wire.inbound, tls.as_ref())?;
                if let Some(inbound) = codec.decode(&mut wire.inbound)? {
                    break inbound;
                }
            }
            Turn::Written => {}
            Turn::Closed => return Err(LinkError::ClosedUnanswered),
        }
    };
    let connack = match inbound {
        Inbound::ConnAck(Ok(connack)) => connack,
        Inbound::ConnAck(Err(refusal)) | Inbound::Disconnect(refusal) => return Err(LinkError::Refused(refusal)),
        other => return Err(LinkError::NotMqtt(format!("expected CONNACK, got {other:?}"))),
    };
    if let Some(max) = connack.max_packet {
        codec.limit_outbound(max);
    }
    let info = ConnectionInfo {
        url: settings.url.to_string(),
        proxy: settings.proxy.as_ref().map(ToString::to_string),
        tls,
        version: settings.protocol,
        client_id: connack.client_id.clone().unwrap_or_else(|| settings.client_id.clone()),
        session_present: connack.session_present,
    };
    Ok(Connection { wire, codec, connack, info })
}

/// A port that routes by ALPN (AWS IoT Core's 443, a company's front) hands whoever
/// offers the wrong name, or none, to a web server, which answers as such.
fn not_http(inbound: &[u8], tls: Option<&TlsInfo>) -> Result<(), LinkError> {
    if !inbound.starts_with(b"HTTP/") {
        return Ok(());
    }
    let line = String::from_utf8_lossy(inbound.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let offered = tls.map_or("none", |tls| tls.offered.as_str());
    Err(LinkError::NotMqtt(format!(
        "a web server answered (\"{line}\"); ALPN offered: {offered}. A port shared with HTTPS wants the right name, on AWS IoT Core `x-amzn-mqtt-ca`: set `alpn`"
    )))
}
