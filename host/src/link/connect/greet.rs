//! CONNECT, and what the broker says to it.

use super::{Connection, ConnectionInfo, TlsInfo, broken};
use crate::link::{
    LinkSettings,
    codec::{Codec, ConnAck, Connect, Inbound},
    error::{LinkError, Tried},
    tls,
    wire::{Turn, Wire},
};

/// The most QoS 1 arrivals the broker may leave unacknowledged; MQTT 5 announces it.
const RECEIVE_MAXIMUM: u16 = 100;

pub(super) async fn greet(
    settings: &LinkSettings,
    mut wire: Wire,
    agreed: Option<TlsInfo>,
) -> Result<Connection, LinkError> {
    let tried = Tried::with(settings);
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
        let turn = wire.turn(true).await.map_err(|cause| match broken(settings, cause) {
            LinkError::Closed | LinkError::Broken(_) => LinkError::ClosedUnanswered(tried),
            error => error,
        });
        match turn? {
            Turn::Read(_) => {
                not_another_protocol(&wire.inbound, settings)?;
                if let Some(inbound) = codec.decode(&mut wire.inbound)? {
                    break inbound;
                }
            }
            Turn::Written => {}
            Turn::Closed => return Err(LinkError::ClosedUnanswered(tried)),
        }
    };
    let connack = match inbound {
        Inbound::ConnAck(Ok(connack)) => connack,
        Inbound::ConnAck(Err(refusal)) | Inbound::Disconnect(refusal) => {
            return Err(LinkError::Refused(refusal, tried));
        }
        other => return Err(LinkError::NotMqtt(format!("expected CONNACK, got {other:?}"))),
    };
    keeps_to_mqtt(&connack, connect.session_expiry.is_zero())?;
    if let Some(max) = connack.max_packet {
        codec.limit_outbound(max);
    }
    let info = ConnectionInfo {
        url: settings.url.to_string(),
        proxy: settings.proxy.as_ref().map(ToString::to_string),
        tls: agreed,
        version: settings.protocol,
        client_id: connack.client_id.clone().unwrap_or_else(|| settings.client_id.clone()),
        session_present: connack.session_present,
    };
    Ok(Connection { wire, codec, connack, info })
}

/// What a CONNACK must not say (sections 3.2.2.1.1 and 3.2.2.3.6; a receive maximum of 0 does not get past the
/// codec). With any of it there is no way to go on that both sides would understand alike.
fn keeps_to_mqtt(connack: &ConnAck, is_clean_start: bool) -> Result<(), LinkError> {
    let what = if connack.max_packet == Some(0) {
        "it takes packets of at most 0 bytes"
    } else if connack.session_present && is_clean_start {
        "it still has a session, though it was asked for a clean start"
    } else {
        return Ok(());
    };
    Err(LinkError::NotMqtt(format!("its CONNACK says that {what}")))
}

/// Other protocols give themselves away by how they begin. A port that routes by ALPN (AWS
/// IoT Core's 443, a company's front) hands whoever offers the wrong name, or none, to a web
/// server, which answers as such. And an alert of TLS begins as no packet of a broker does.
fn not_another_protocol(inbound: &[u8], settings: &LinkSettings) -> Result<(), LinkError> {
    const ALERT: [u8; 2] = [21, 3];
    if settings.url.websocket().is_some() {
        return Ok(());
    }
    if inbound.starts_with(b"HTTP/") {
        let line = inbound.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line.get(..100).unwrap_or(line)).escape_debug().to_string();
        let offered = if settings.url.is_tls() { tls::offered(&settings.tls) } else { "none".to_owned() };
        return Err(LinkError::OtherProtocol {
            what: format!("a web server answered (\"{line}\"); ALPN offered: {offered}"),
            remedy: "set `alpn` if the port is shared with HTTPS (AWS IoT Core wants `x-amzn-mqtt-ca`), or use wss:// (ws://) if that is where MQTT is",
        });
    }
    if inbound.starts_with(&ALERT) && !settings.url.is_tls() {
        let what = "it speaks TLS on this port".to_owned();
        return Err(LinkError::OtherProtocol { what, remedy: "use mqtts:// in `url`" });
    }
    Ok(())
}
