//! Strict in what leaves, lenient in what arrives: a packet of the broker that breaks a rule costs
//! that packet, never the connection, as long as its end can be found.

use crate::harness::{
    Answer, Bed, Do, Event, Packet, Program, Result, Scripted, Step, frame, in_both_versions, kind, string, subscribes,
};

in_both_versions! {
    a_message_that_can_not_be_used_is_skipped_and_acknowledged
    a_code_nobody_knows_counts_for_its_packet
    a_suback_with_too_few_codes_refuses_what_it_leaves_out
}

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in/+"]
    config = { to = "out", filters = "in/a in/b" }
"#;

/// PUBLISH of QoS 1 as bytes. At 3.1.1 there are no properties.
fn publish(topic: &[u8], packet_id: u8, protocol: &str, properties: &[u8], payload: &[u8]) -> Do {
    let length = (topic.len() as u16).to_be_bytes();
    let properties = match protocol {
        "5" => [&[properties.len() as u8], properties].concat(),
        _ => Vec::new(),
    };
    Do::Raw(frame(0x32, &[&length[..], topic, &[0, packet_id], &properties, payload].concat()))
}

async fn a_message_that_can_not_be_used_is_skipped_and_acknowledged(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let version = protocol.to_owned();
    let broker = Scripted::start(&bed, move |event| {
        let mut actions = kind(event);
        if let Step::Packet(packet) = &event.step
            && subscribes(packet, "in/a")
        {
            let wildcard = [&[0x08][..], &string("answers/#")].concat();
            let no_text = [&[0x03][..], &[0, 2, 0xff, 0xfe]].concat();
            actions.push(publish(b"in/+", 1, &version, &[], b"wildcard"));
            actions.push(publish(&[b'i', b'n', b'/', 0xff], 2, &version, &[], b"no text"));
            actions.push(publish(b"in/\0", 3, &version, &[], b"nul"));
            if version == "5" {
                actions.push(publish(b"in/a", 4, &version, &wildcard, b"response topic"));
                actions.push(publish(b"in/a", 5, &version, &no_text, b"content type"));
                actions.push(publish(b"in/a", 6, &version, &[0x7f], b"no such property"));
                actions.push(publish(b"in/b", 7, &version, &[0x26, 0, 9, b'k'], b"length"));
            }
            actions.push(publish(b"in/+", 8, &version, &[], b"wildcard again"));
            actions.push(publish("in/\u{ffff}".as_bytes(), 9, &version, &[], b"odd, but a text"));
            actions.push(publish(b"in/a", 10, &version, &[], b"good"));
        }
        actions
    })
    .await?;
    let config = broker.config(&bed, RECORDER).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    let record = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload == b"in/a good");
    broker.packet("the record of the good one", record).await?;
    let acknowledges = |packet: &Packet| matches!(packet, Packet::Puback { packet_id: 10, .. });
    broker.packet("its PUBACK", acknowledges).await?;
    let acknowledged = broker.packets(|packet| match packet {
        Packet::Puback { packet_id, .. } => Some(*packet_id),
        _ => None,
    });
    let expected: &[u16] = if protocol == "5" { &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10] } else { &[1, 2, 3, 8, 9, 10] };
    assert_eq!(acknowledged.iter().map(|(_, packet_id)| *packet_id).collect::<Vec<_>>(), expected);
    assert!(acknowledged.iter().all(|(connection, _)| *connection == 0));
    // Each topic once: in/+, in/\xff, in/\0, and at 5 in/a and in/b.
    let lines = host.logged(&["WARN", "is skipped"]);
    assert_eq!(lines, if protocol == "5" { 5 } else { 3 });
    assert_eq!(broker.connections(), 1);
    host.stop().await?;
    broker.keeps_the_rules()
}

/// Answers the messages whose payload it is asked about with these codes.
fn answering(filters: &'static [(&str, u8)], codes: Vec<u8>) -> impl FnMut(&Event) -> Vec<Do> + Send + 'static {
    let mut codes = codes.into_iter();
    move |event| match &event.step {
        Step::Packet(Packet::Subscribe { packet_id, filters: asked, .. }) => {
            let code = |name: &str| filters.iter().find(|(filter, _)| *filter == name).map_or(1, |(_, code)| *code);
            let codes = asked.iter().map(|filter| code(&filter.name)).collect();
            vec![Do::Say(Answer::Suback { packet_id: *packet_id, codes })]
        }
        Step::Packet(Packet::Publish(message)) => {
            let reason = codes.next().unwrap_or(0);
            message.packet_id.map(|packet_id| Do::Say(Answer::Puback { packet_id, reason })).into_iter().collect()
        }
        _ => kind(event),
    }
}

async fn a_code_nobody_knows_counts_for_its_packet(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    // 3.1.1 has no codes for messages.
    let codes = if protocol == "5" { vec![0x42, 0x42, 0xee, 0x9a] } else { Vec::new() };
    let broker = Scripted::start(&bed, answering(&[("in/a", 0x87), ("in/b", 0x55)], codes)).await?;
    let config = broker.config(&bed, RECORDER).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    let told =
        |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"* refused: in/a"));
    broker.packet("the plugin's word", told).await?;
    host.log(&["WARN", "a subscription was refused", "filter=in/a", "0x87"]).await?;
    // At 3.1.1 both are in one SUBACK, of which the first odd code is named; MQTT 5 defines 0x87.
    let named = if protocol == "5" { ["SUBACK", "0x55", "a yes"] } else { ["SUBACK", "0x87", "a no"] };
    host.log(&named).await?;
    if protocol == "5" {
        for number in 1..=5 {
            broker.act(Do::deliver("in/b", number.to_string(), number, false))?;
            let record = format!("in/b {number}");
            let recorded = move |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload == record.as_bytes());
            broker.packet("a record", recorded).await?;
        }
        let dropped = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"* dropped: out"));
        broker.packet_times(2, "word of the refused messages", dropped).await?;
        assert_eq!(host.logged(&["PUBACK", "0x42", "a yes"]), 1, "said once");
        assert_eq!(host.logged(&["PUBACK", "0xee", "a no"]), 1);
    }
    assert_eq!(broker.connections(), 1);
    host.stop().await?;
    broker.keeps_the_rules()
}

async fn a_suback_with_too_few_codes_refuses_what_it_leaves_out(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Subscribe { packet_id, filters, .. }) => {
            let codes = vec![1; filters.iter().filter(|filter| filter.name == "in/a").count()];
            vec![Do::Say(Answer::Suback { packet_id: *packet_id, codes })]
        }
        _ => kind(event),
    })
    .await?;
    let config = broker.config(&bed, RECORDER).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    let told =
        |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"* refused: in/b"));
    broker.packet("the plugin's word", told).await?;
    assert_eq!(host.logged(&["a subscription was refused", "filter=in/a"]), 0);
    assert_eq!(broker.connections(), 1);
    host.stop().await
}

/// A reason MQTT 5 does not define ends the connection as any other: it is not an endless loop of
/// protocol errors.
#[tokio::test]
async fn a_disconnect_with_a_code_nobody_knows_is_a_disconnect() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Connect(_)) if event.connection == 0 => {
            vec![Do::welcome(false), Do::Say(Answer::Disconnect(0xee)), Do::Close]
        }
        _ => kind(event),
    })
    .await?;
    let mut host = Program::run(&broker.config(&bed, ""))?;
    let line = host.log(&["connection lost", "0xee"]).await?;
    assert!(!line.contains("does not keep to MQTT"), "{line}");
    host.log_times(2, &["connect success"]).await?;
    host.stop().await
}
