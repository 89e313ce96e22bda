//! Answers of the broker that do not come, come late, come twice, or say no.

use std::time::Duration;

use crate::harness::{
    Answer, Bed, Do, Event, Message, Packet, Program, Result, Scripted, Step, in_both_versions, kind, publishes,
    resuming, subscribes,
};

in_both_versions! {
    acknowledgements_in_any_order_and_twice_are_borne
    what_is_unacknowledged_is_sent_again_with_dup_on_the_next_connection
    a_kept_session_is_not_subscribed_again_and_a_lost_one_is
    nothing_is_lost_when_more_waits_than_the_window_takes
}

const QUICK: &str = "operation_timeout = \"300ms\"";

fn sequence(count: u32, interval: u32) -> String {
    format!(
        r#"
        [plugins.sequence]
        component = "sequence.wasm"
        publish = ["seq"]
        limits = {{ publish_rate = "unlimited" }}
        [plugins.sequence.config]
        topic = "seq"
        count = "{count}"
        interval = "{interval}"
        "#
    )
}

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in/+"]
    config = { to = "out", filters = "in/+" }
"#;

fn payload(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// AWS IoT Device Advisor, MQTT_PublishRetry and MQTT_SubscribeRetry.
#[tokio::test]
async fn at_3_1_1_what_is_not_answered_is_sent_again_on_the_same_connection() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(message)) if message.topic == "seq" && !message.dup => Vec::new(),
        Step::Packet(Packet::Subscribe { .. }) if event.connection == 0 => {
            // Answered the second time.
            static SEEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            match SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => Vec::new(),
                _ => kind(event),
            }
        }
        _ => kind(event),
    })
    .await?;
    let plugins = format!("{}{RECORDER}", sequence(1, 0));
    let config = broker.config(&bed, &plugins).link("protocol = \"3.1.1\"").link(QUICK);
    let mut host = Program::run(&config)?;
    let again = broker.publish("seq", 2).await?;
    let first = broker.publish("seq", 1).await?;
    assert!(again.dup && !first.dup && again.packet_id == first.packet_id && again.payload == first.payload);
    let subscribe = |packet: &Packet| match packet {
        Packet::Subscribe { packet_id, .. } => Some(*packet_id),
        _ => None,
    };
    broker.packet_times(2, "a SUBSCRIBE", |packet| subscribe(packet).is_some()).await?;
    let ids = broker.packets(subscribe);
    assert_eq!(ids.first(), ids.get(1), "same connection, same packet id");
    host.stop().await?;
    assert_eq!(broker.connections(), 1);
    broker.keeps_the_rules()
}

#[tokio::test]
async fn at_5_what_is_not_answered_waits_and_three_time_outs_end_the_connection() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(packet) if publishes(packet, "seq") && event.connection == 0 => Vec::new(),
        _ => resuming(event),
    })
    .await?;
    let mut host = Program::run(&broker.config(&bed, &sequence(1, 0)).link(QUICK))?;
    host.log(&["connection lost", "not answered a PUBLISH", "3 times 300ms"]).await?;
    let again = broker.publish("seq", 2).await?;
    assert!(again.dup);
    let connections = broker.packets(|packet| publishes(packet, "seq").then_some(()));
    assert_eq!(connections.iter().map(|(connection, ())| *connection).collect::<Vec<_>>(), [0, 1]);
    host.stop().await?;
    broker.keeps_the_rules()
}

async fn acknowledgements_in_any_order_and_twice_are_borne(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let mut kept = Vec::new();
    let broker = Scripted::start(&bed, move |event| match &event.step {
        Step::Packet(Packet::Publish(Message { packet_id: Some(id), .. })) => {
            kept.push(*id);
            if kept.len() < 10 {
                return Vec::new();
            }
            // Backwards, each twice, and one for nothing.
            let all: Vec<_> = kept.drain(..).rev().flat_map(|id| [Do::puback(id), Do::puback(id)]).collect();
            all.into_iter().chain([Do::puback(60_000)]).collect()
        }
        _ => kind(event),
    })
    .await?;
    let config = broker.config(&bed, &sequence(100, 1)).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.publish("seq", 100).await?;
    host.log(&["all 100 numbers are taken"]).await?;
    host.stop().await?;
    let numbers: Vec<_> = broker.published("seq").iter().map(payload).collect();
    assert_eq!(numbers, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(broker.connections(), 1);
    broker.keeps_the_rules()
}

async fn what_is_unacknowledged_is_sent_again_with_dup_on_the_next_connection(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(_)) if event.connection == 0 => Vec::new(),
        _ => resuming(event),
    })
    .await?;
    let mut host = Program::run(&broker.config(&bed, &sequence(5, 0)).link(&format!("protocol = {protocol:?}")))?;
    broker.publish("seq", 5).await?;
    broker.act(Do::Reset)?;
    broker.publish("seq", 10).await?;
    host.stop().await?;
    let messages = broker.published("seq");
    let (first, again) = messages.split_at(5);
    assert!(first.iter().all(|message| !message.dup) && again.iter().all(|message| message.dup), "{messages:?}");
    let ids = |messages: &[Message]| messages.iter().map(|message| message.packet_id).collect::<Vec<_>>();
    assert_eq!(ids(first), ids(again));
    broker.keeps_the_rules()
}

async fn a_kept_session_is_not_subscribed_again_and_a_lost_one_is(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    // Kept, kept, lost.
    let broker =
        Scripted::start(&bed, |event| if event.connection == 3 { kind(event) } else { resuming(event) }).await?;
    let mut host = Program::run(&broker.config(&bed, RECORDER).link(&format!("protocol = {protocol:?}")))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    for count in 2..=4 {
        host.log_times(count - 1, &["connect success"]).await?;
        broker.publish("out", 2 * (count - 1)).await?;
        broker.act(Do::Reset)?;
        broker.connect(count).await?;
    }
    broker.packet_times(2, "a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    host.stop().await?;
    let asked = broker.packets(|packet| subscribes(packet, "in/+").then_some(()));
    assert_eq!(asked.iter().map(|(connection, ())| *connection).collect::<Vec<_>>(), [0, 3]);
    broker.keeps_the_rules()
}

/// 100 unacknowledged and 100 more, with a window of 5 where the protocol has one, and
/// acknowledgements later than the resending takes; on kept and on lost sessions.
async fn nothing_is_lost_when_more_waits_than_the_window_takes(protocol: &str) -> Result<()> {
    for is_kept in [true, false] {
        let bed = Bed::start().await?;
        let window = if protocol == "5" { vec![33, 0, 5] } else { Vec::new() };
        let broker = Scripted::start(&bed, move |event: &Event| match &event.step {
            Step::Packet(Packet::Connect(_)) => {
                let session_present = is_kept && event.connection > 0;
                vec![Do::Say(Answer::Connack { session_present, code: 0, properties: window.clone() })]
            }
            Step::Packet(Packet::Publish(_)) if event.connection == 0 => Vec::new(),
            Step::Packet(Packet::Publish(Message { packet_id: Some(id), .. })) => {
                vec![Do::puback(*id).after(Duration::from_millis(20))]
            }
            _ => kind(event),
        })
        .await?;
        let config = broker.config(&bed, &sequence(200, 0)).link(&format!("protocol = {protocol:?}"));
        let mut host = Program::run(&config)?;
        broker.publish("seq", if protocol == "5" { 5 } else { 100 }).await?;
        host.log(&["all 200 numbers are taken"]).await?;
        broker.act(Do::Reset)?;
        let last = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload == b"199");
        broker.packet("the last number", last).await?;
        host.stop().await?;
        let mut numbers: Vec<u32> =
            broker.published("seq").iter().filter_map(|message| payload(message).parse().ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "session kept: {is_kept}");
        broker.keeps_the_rules()?;
    }
    Ok(())
}

/// A message that one connection does not get acknowledged, until `ticks` others are; then the next
/// connection, on the same session. Both plugins publish at QoS 1.
async fn sent_again(old: &str, outbox: &str, ticks: usize) -> Result<(Scripted, Program, Bed)> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event: &Event| match &event.step {
        Step::Packet(packet) if publishes(packet, "seq") && event.connection == 0 => Vec::new(),
        _ => resuming(event),
    })
    .await?;
    let tick = sequence(1000, 300).replace("plugins.sequence", "plugins.tick").replace("\"seq\"", "\"tick\"");
    let rest = format!("{}\n{old}\n{tick}\n[outbox]\n{outbox}", sequence(1, 0));
    let host = Program::run(&broker.config(&bed, &rest))?;
    broker.publish("seq", 1).await?;
    broker.publish("tick", ticks).await?;
    broker.act(Do::Reset)?;
    broker.connect(2).await?;
    broker.publish("tick", broker.published("tick").len() + 1).await?;
    Ok((broker, host, bed))
}

/// The time that has passed counts, also where the broker still knows the session.
#[tokio::test]
async fn the_expiry_of_a_message_is_less_when_it_is_sent_again() -> Result<()> {
    let (broker, mut host, _bed) = sent_again("expiry = \"100\"", "", 8).await?;
    let expiries: Vec<_> = broker
        .published("seq")
        .iter()
        .map(|message| match message.properties[..] {
            [2, a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        })
        .collect();
    assert_eq!(expiries.len(), 2, "{expiries:?}");
    assert!((91..=100).contains(&expiries[0]) && expiries[1] + 2 <= expiries[0], "{expiries:?}");
    host.stop().await?;
    broker.keeps_the_rules()
}

#[tokio::test]
async fn what_is_too_old_is_not_sent_again() -> Result<()> {
    for (old, outbox, why) in [("", "max_age = \"1s\"", "max_age"), ("expiry = \"1\"", "", "message expiry passed")] {
        let (broker, mut host, _bed) = sent_again(old, outbox, 8).await?;
        host.log(&["WARN", "a message was dropped", "seq", why]).await?;
        assert_eq!(broker.published("seq").len(), 1, "{why}");
        host.stop().await?;
        broker.keeps_the_rules()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_asks_for_a_pause_gets_the_message_after_it() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(Message { packet_id: Some(id), topic, .. })) if topic == "seq" => {
            static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let is_first = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            vec![Do::Say(Answer::Puback { packet_id: *id, reason: if is_first { 0x97 } else { 0 } })]
        }
        _ => kind(event),
    })
    .await?;
    let mut host = Program::run(&broker.config(&bed, &sequence(1, 0)))?;
    host.log(&["WARN", "asks for a pause", "quota exceeded"]).await?;
    let again = broker.publish("seq", 2).await?;
    assert_eq!((payload(&again), again.dup), ("0".to_owned(), false));
    host.stop().await?;
    assert_eq!(host.logged(&["was dropped"]), 0);
    broker.keeps_the_rules()
}

#[tokio::test]
async fn a_refused_message_is_dropped_with_an_event() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(Message { packet_id: Some(id), payload, .. })) if payload.starts_with(b"in/") => {
            vec![Do::Say(Answer::Puback { packet_id: *id, reason: 0x87 })]
        }
        _ => kind(event),
    })
    .await?;
    let mut host = Program::run(&broker.config(&bed, RECORDER))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    broker.act(Do::deliver("in/a", "text", 9, false))?;
    host.log(&["WARN", "a message was dropped", "not authorized"]).await?;
    let told =
        |packet: &Packet| matches!(packet, Packet::Publish(message) if payload(message).contains("dropped: out"));
    broker.packet("the event", told).await?;
    host.stop().await
}
