//! What AWS IoT Device Advisor asks of a device, from the public description of its MQTT
//! suites, with shorter waits. (Its TLS suite: `tls.rs`, and below.)

use std::time::{Duration, Instant};

use alphorn_dev_broker::ALPN;

use crate::harness::{
    Bed, Do, Event, Message, Packet, Program, Result, Scripted, Step, in_both_versions, kind, resuming, subscribes,
};

in_both_versions! {
    connect_jittered_retries_without_a_connack
    connect_exponential_retries
    reconnect_with_back_off_on_an_unstable_connection
    nothing_is_sent_before_the_connack
    puback_of_the_largest_message
    keep_alive_and_a_missing_pingresp
    persistent_session
    a_device_that_publishes_all_the_time_notices_silence
}

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in/+"]
    config = { to = "out", filters = "in/+" }
"#;

/// The times between connections.
fn pauses(broker: &Scripted) -> Vec<Duration> {
    let came: Vec<Instant> =
        broker.events().iter().filter(|event| event.step == Step::Came).map(|event| event.at).collect();
    came.iter().zip(came.iter().skip(1)).map(|(one, next)| *next - *one).collect()
}

async fn connect_jittered_retries_without_a_connack(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |_| Vec::new()).await?;
    let config = broker
        .config(&bed, "")
        .link(&format!("protocol = {protocol:?}"))
        .link("connect_timeout = \"200ms\"")
        .link("backoff = { min = \"100ms\", max = \"100ms\" }");
    let mut host = Program::run(&config)?;
    broker.connect(9).await?;
    host.stop().await?;
    let pauses = pauses(&broker);
    // 200 ms of patience and 50 to 100 ms of pause, not the same each time.
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(245)), "{pauses:?}");
    let (least, most) = (pauses.iter().min(), pauses.iter().max());
    assert!(most.zip(least).is_some_and(|(most, least)| *most - *least > Duration::from_millis(3)), "{pauses:?}");
    Ok(())
}

async fn connect_exponential_retries(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Connect(_)) => vec![Do::Close],
        _ => Vec::new(),
    })
    .await?;
    let config = broker
        .config(&bed, "")
        .link(&format!("protocol = {protocol:?}"))
        .link("backoff = { min = \"50ms\", max = \"10s\" }");
    let mut host = Program::run(&config)?;
    broker.connect(6).await?;
    host.stop().await?;
    for (number, pause) in (0..).zip(pauses(&broker)) {
        let least = Duration::from_millis(25 << number);
        assert!(pause >= least, "pause {number}: {pause:?} instead of {least:?} at least");
    }
    Ok(())
}

async fn reconnect_with_back_off_on_an_unstable_connection(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    // Each connection is accepted, and closed at once.
    let broker = Scripted::start(&bed, |event: &Event| match &event.step {
        Step::Packet(Packet::Connect(_)) => vec![Do::welcome(false), Do::Close],
        _ => kind(event),
    })
    .await?;
    let config = broker
        .config(&bed, "")
        .link(&format!("protocol = {protocol:?}"))
        .link("backoff = { min = \"40ms\", max = \"10s\", stable_after = \"20s\" }");
    let mut host = Program::run(&config)?;
    broker.connect(6).await?;
    host.stop().await?;
    for (number, pause) in (0..).zip(pauses(&broker)) {
        assert!(pause >= Duration::from_millis(20 << number), "pause {number}: {pause:?}");
    }
    Ok(())
}

async fn nothing_is_sent_before_the_connack(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Connect(_)) => vec![Do::welcome(false).after(Duration::from_millis(400))],
        _ => kind(event),
    })
    .await?;
    let config = broker.config(&bed, RECORDER).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    let events = broker.events();
    let mut times = events.iter().filter(|event| matches!(event.step, Step::Packet(_))).map(|event| event.at);
    let between = times.next().zip(times.next()).map(|(connect, next)| next - connect);
    assert!(between.is_some_and(|between| between >= Duration::from_millis(390)), "{between:?}");
    host.stop().await?;
    broker.keeps_the_rules()
}

async fn puback_of_the_largest_message(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    let plugin = RECORDER.replace("config =", "limits = { memory = \"64MiB\" }\n    config =");
    let mut host = Program::run(&broker.config(&bed, &plugin).link(&format!("protocol = {protocol:?}")))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    broker.act(Do::deliver("in/a", vec![b'x'; 128 * 1024], 77, false))?;
    broker.packet("the PUBACK", |packet| matches!(packet, Packet::Puback { packet_id: 77, .. })).await?;
    host.stop().await?;
    assert_eq!(broker.connections(), 1);
    broker.keeps_the_rules()
}

async fn keep_alive_and_a_missing_pingresp(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Pingreq) if event.connection == 0 => Vec::new(),
        _ => resuming(event),
    })
    .await?;
    let config = broker.config(&bed, "").link(&format!("protocol = {protocol:?}")).link("keep_alive = \"1s\"");
    let mut host = Program::run(&config)?;
    assert_eq!(broker.connect(1).await?.keep_alive, 1);
    broker.gone(0).await?;
    // On the second connection PINGREQs are answered, and it stays.
    broker.packet_times(3, "a PINGREQ", |packet| matches!(packet, Packet::Pingreq)).await?;
    assert_eq!(broker.connections(), 2);
    host.log(&["connection lost", "nothing came from the broker for 1s 5", "PINGREQ"]).await?;
    host.stop().await?;
    broker.keeps_the_rules()
}

async fn persistent_session(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| {
        let mut actions = resuming(event);
        if event.connection == 1
            && let Step::Packet(Packet::Connect(_)) = &event.step
        {
            // Stored while the device was away.
            actions.push(Do::deliver("in/a", "stored", 5, false));
        }
        actions
    })
    .await?;
    let mut host = Program::run(&broker.config(&bed, RECORDER).link(&format!("protocol = {protocol:?}")))?;
    let hello = broker.connect(1).await?;
    assert!(!hello.clean, "{hello:?}");
    if protocol == "5" {
        assert_eq!(hello.properties.number(17), Some(3600), "Session Expiry Interval");
    }
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    broker.publish("out", 2).await?;
    broker.act(Do::Close)?;
    let stored = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload == b"in/a stored");
    broker.packet("what the plugin makes of the stored message", stored).await?;
    broker.packet("its PUBACK", |packet| matches!(packet, Packet::Puback { packet_id: 5, .. })).await?;
    host.stop().await?;
    assert_eq!(broker.packets(|packet| subscribes(packet, "in/+").then_some(())).len(), 1, "not subscribed again");
    broker.keeps_the_rules()
}

/// Its own packets are no sign that the other side lives.
async fn a_device_that_publishes_all_the_time_notices_silence(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Connect(_)) => kind(event),
        _ if event.connection == 0 => Vec::new(),
        _ => kind(event),
    })
    .await?;
    let plugin = r#"
        [plugins.sequence]
        component = "sequence.wasm"
        publish = ["seq"]
        config = { topic = "seq", count = "1000000", interval = "50", qos = "0" }
    "#;
    let config = broker.config(&bed, plugin).link(&format!("protocol = {protocol:?}")).link("keep_alive = \"1s\"");
    let mut host = Program::run(&config)?;
    host.log(&["connection lost", "nothing came from the broker"]).await?;
    host.log_times(2, &["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn the_cipher_suites_aws_recommends_are_offered_and_the_name_is_sent() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    let mut host = Program::run(&broker.config(&bed, ""))?;
    host.log(&["connect success"]).await?;
    let events = broker.events();
    let offer = events.iter().find_map(|event| match &event.step {
        Step::Asked(offer) => Some(offer.clone()),
        _ => None,
    });
    let offer = offer.ok_or_else(|| anyhow::anyhow!("no ClientHello"))?;
    // TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    // TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384
    for suite in [0xc02f, 0xc02b, 0xc030, 0x1301, 0x1302] {
        assert!(offer.suites.contains(&suite), "{suite:#06x} is not among {:?}", offer.suites);
    }
    assert_eq!((offer.server_name.as_deref(), &offer.alpn[..]), (Some("localhost"), &[ALPN.to_vec()][..]));
    host.stop().await
}

/// A link that comes and goes: everything arrives, in order.
#[tokio::test]
async fn long_run_with_an_intermittent_link() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, resuming).await?;
    let plugin = r#"
        [plugins.sequence]
        component = "sequence.wasm"
        publish = ["seq"]
        config = { topic = "seq", count = "120", interval = "25" }
    "#;
    let mut host = Program::run(&broker.config(&bed, plugin))?;
    for count in 1..=8 {
        host.log_times(count, &["connect success"]).await?;
        broker.publish("seq", count * 12).await?;
        broker.act(if count % 2 == 0 { Do::Close } else { Do::Reset })?;
    }
    let last = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload == b"119");
    broker.packet("the last number", last).await?;
    host.stop().await?;
    let mut seen = std::collections::BTreeSet::new();
    let first: Vec<u32> =
        broker.published("seq").iter().filter_map(number).filter(|number| seen.insert(*number)).collect();
    assert_eq!(first, (0..120).collect::<Vec<_>>());
    broker.keeps_the_rules()
}

fn number(message: &Message) -> Option<u32> {
    String::from_utf8_lossy(&message.payload).parse().ok()
}

/// With one connection and no traffic the host sleeps.
#[tokio::test]
async fn an_idle_host_uses_no_measurable_cpu() -> Result<()> {
    let bed = Bed::start().await?;
    let host = Program::run(&bed.config(RECORDER))?;
    host.log(&["connect success"]).await?;
    // What its start has left to do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = host.cpu()?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let used = host.cpu()? - before;
    assert!(used <= Duration::from_millis(20), "{used:?} in 30 s");
    Ok(())
}
