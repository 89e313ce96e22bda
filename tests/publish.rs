//! From a plugin to the broker: nothing that is granted gets lost, nothing else gets out.

use std::time::{Duration, Instant};

use alphorn_dev_broker::Direction;

use crate::harness::{
    Answer, Bed, Broker, Do, Message, Packet, Program, Result, Scripted, Step, Watcher, ensure, in_both_versions, kind,
    subscribes,
};

in_both_versions! {
    every_number_arrives_in_order_while_the_link_is_cut
    every_number_arrives_while_sessions_are_lost
    what_was_published_offline_arrives
    qos_0_is_dropped_offline
    qos_0_is_kept_offline_on_request
    a_retained_message_is_retained
    what_is_not_granted_does_not_get_out
}

/// Publishes numbers to `seq`, up to `count`.
fn sequence(count: u32, interval: u32, more: &str) -> String {
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
        {more}
        "#
    )
}

async fn every_number_arrives_in_order_while_the_link_is_cut(protocol: &str) -> Result<()> {
    const COUNT: u32 = 400;
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    let mut host = bed.connected(protocol, &sequence(COUNT, 3, "")).await?;
    for cut in 1..=4 {
        cut_with_some_in_flight(&bed, &watcher, cut * 60).await?;
        host.connects(cut + 1, "present").await?;
    }
    watcher.wait_for("the last number", |messages| arrived(messages, COUNT - 1)).await?;
    host.stop().await?;
    assert_eq!(first_arrivals(&watcher.payloads())?, (0..COUNT).collect::<Vec<_>>());
    Ok(())
}

async fn every_number_arrives_while_sessions_are_lost(protocol: &str) -> Result<()> {
    const COUNT: u32 = 300;
    let mut bed = Bed::start().await?;
    let mut watchers = vec![bed.watch("seq").await?];
    let mut host = bed.connected(protocol, &sequence(COUNT, 3, "")).await?;
    let mut old = Vec::new();
    for loss in 1..=3 {
        let watcher = watchers.last().ok_or_else(|| anyhow::anyhow!("no watcher"))?;
        old.push(bed.redirect(Broker::start().await?));
        let next = bed.watch("seq").await?;
        cut_with_some_in_flight(&bed, watcher, 50).await?;
        watchers.push(next);
        host.connects(loss + 1, "new").await?;
    }
    let last = watchers.last().ok_or_else(|| anyhow::anyhow!("no watcher"))?;
    last.wait_for("the last number", |messages| arrived(messages, COUNT - 1)).await?;
    host.stop().await?;
    let mut all = Vec::new();
    for watcher in &watchers {
        let numbers = first_arrivals(&watcher.payloads())?;
        ensure!(numbers.is_sorted(), "out of order: {numbers:?}");
        all.extend(numbers);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
    Ok(())
}

/// Once there are so many messages, withholds acknowledgements, waits for some more, and cuts.
async fn cut_with_some_in_flight(bed: &Bed, watcher: &Watcher, count: usize) -> Result<()> {
    watcher.count(count).await?;
    bed.faults().blackhole(Direction::ToClient, true);
    let now = watcher.lines().len();
    watcher.count(now + 20).await?;
    bed.cut().await?;
    bed.faults().blackhole(Direction::ToClient, false);
    Ok(())
}

fn arrived(messages: &[Message], number: u32) -> Option<()> {
    let number = number.to_string();
    messages.iter().any(|message| message.payload == number.as_bytes()).then_some(())
}

/// The numbers in the order in which each came for the first time.
fn first_arrivals(payloads: &[String]) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for payload in payloads {
        let number = payload.parse()?;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

async fn what_was_published_offline_arrives(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    bed.faults().refuse(true).await?;
    let mut host = Program::run(&bed.config(&sequence(500, 0, "")).link(&format!("protocol = {protocol:?}")))?;
    host.log(&["all 500 numbers are taken"]).await?;
    host.log(&["connect failed (attempt 2)"]).await?;
    bed.faults().refuse(false).await?;
    watcher.count(500).await?;
    assert_eq!(first_arrivals(&watcher.payloads())?, (0..500).collect::<Vec<_>>());
    host.stop().await?;
    assert_eq!(watcher.payloads().len(), 500);
    Ok(())
}

/// A QoS 1 message that was taken after the others and arrives before none of them.
const FENCE: &str = r#"
    [plugins.fence]
    component = "sequence.wasm"
    publish = ["fence"]
    config = { topic = "fence" }
"#;

async fn qos_0_is_dropped_offline(protocol: &str) -> Result<()> {
    let (host, watcher) = qos_0_offline(protocol, "drop").await?;
    assert_eq!(watcher.lines(), ["fence 0", "end end"]);
    assert!(host.logged(&["WARN", "QoS 0", "dropped", "qos0_offline"]) >= 1);
    Ok(())
}

async fn qos_0_is_kept_offline_on_request(protocol: &str) -> Result<()> {
    let (host, watcher) = qos_0_offline(protocol, "store").await?;
    let mut lines = watcher.lines();
    lines.retain(|line| line != "fence 0");
    assert_eq!(lines, ["seq 0", "seq 1", "seq 2", "end end"]);
    assert_eq!(host.logged(&["dropped"]), 0);
    Ok(())
}

/// Three messages of QoS 0 and one of QoS 1 taken offline, then a connection, then the end:
/// before it the host sends all it has.
async fn qos_0_offline(protocol: &str, policy: &str) -> Result<(Program, Watcher)> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    bed.faults().refuse(true).await?;
    let config = format!("{}{FENCE}\n[outbox]\nqos0_offline = {policy:?}", sequence(3, 0, "qos = \"0\""));
    let mut host = Program::run(&bed.config(&config).link(&format!("protocol = {protocol:?}")))?;
    host.log(&["plugin{name=sequence}", "all 3 numbers are taken"]).await?;
    host.log(&["connect failed (attempt 1)"]).await?;
    bed.faults().refuse(false).await?;
    host.log(&["connect success"]).await?;
    let fence = |messages: &[Message]| messages.iter().find(|message| message.topic == "fence").map(drop);
    watcher.wait_for("the fence", fence).await?;
    host.stop().await?;
    // Behind everything of the host's.
    bed.client().await?.publish("end", b"end").await?;
    watcher.payload("end").await?;
    Ok((host, watcher))
}

async fn a_retained_message_is_retained(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("").link(&format!("protocol = {protocol:?}")).write()?;
    let arguments = ["pub", "state", "on", "--retain", "--config", &config.to_string_lossy()];
    Program::start(&arguments)?.fails(0, &[]).await?;
    let late = bed.watch("state").await?;
    assert!(late.payload("on").await?.retain);
    Ok(())
}

async fn what_is_not_granted_does_not_get_out(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let config = r#"
        [plugins.outside]
        component = "outside.wasm"
        publish = ["report", "secret/+/x"]
        subscribe = ["secret/+/x"]
        config = { topic = "secret/plans", to = "report", times = "3" }
    "#;
    let mut host = bed.connected(protocol, config).await?;
    // The guest is told, each time.
    watcher.count(6).await?;
    for line in watcher.lines() {
        for part in ["report ", "not granted", "`secret/plans`", "secret/+/x"] {
            assert!(line.contains(part), "{line}");
        }
    }
    // The log says it once for each.
    for what in ["publish grants", "subscribe grants"] {
        let line = host.log(&["WARN", "plugin{name=outside}", "not granted", what]).await?;
        for part in ["`secret/plans`", "secret/+/x"] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(host.logged(&["not granted: ", what]), 1, "{what}");
    }
    // Nor was the broker asked for a subscription.
    let mut client = bed.client().await?;
    client.publish("secret/plans", b"by somebody else").await?;
    host.stop().await?;
    client.publish("end", b"end").await?;
    watcher.payload("end").await?;
    let forbidden = watcher.lines().iter().filter(|line| line.starts_with("secret/plans")).count();
    assert_eq!(forbidden, 1, "{:?}", watcher.lines());
    Ok(())
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_stays() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let config = format!("{}\n{FENCE}", sequence(1, 20, "bytes = \"131073\""));
    let mut host = bed.connected("5", &config).await?;
    host.log_times(2, &["plugin{name=sequence}", "number 0 refused", "over the limit of 131072 bytes"]).await?;
    watcher.payload("0").await?;
    assert_eq!((bed.connections(), host.logged(&["connection lost"])), (1, 0));
    host.stop().await?;
    assert_eq!(watcher.lines(), ["fence 0"]);
    Ok(())
}

#[tokio::test]
async fn a_full_share_of_the_outbox_refuses_what_is_new_and_keeps_what_was_taken() -> Result<()> {
    const COUNT: u32 = 1000;
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    bed.faults().refuse(true).await?;
    let sequence = sequence(COUNT, 0, "bytes = \"100\"").replace("limits = {", "limits = { outbox_bytes = \"4KiB\",");
    let mut host = Program::run(&bed.config(&format!("{sequence}\n{FENCE}")))?;
    // The neighbour has a share of its own.
    host.log(&["plugin{name=fence}", "all 1 numbers are taken"]).await?;
    host.log(&["connect failed"]).await?;
    bed.faults().refuse(false).await?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    bed.client().await?.publish("end", b"end").await?;
    watcher.payload("end").await?;
    let lines = watcher.lines();
    let taken: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("seq ")).collect();
    assert!((5..COUNT as usize).contains(&taken.len()), "{}", taken.len());
    assert!((0..).zip(&taken).all(|(number, payload)| payload.trim_end() == number.to_string()), "{taken:?}");
    assert!(lines.iter().any(|line| line == "fence 0"));
    assert_eq!(host.logged(&["plugin{name=sequence}", "numbers are taken"]), 0);
    Ok(())
}

#[tokio::test]
async fn the_largest_message_passes() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    let mut host = bed.connected("5", &sequence(1, 0, "bytes = \"131072\"")).await?;
    watcher.count(1).await?;
    assert_eq!(watcher.payloads().first().map(String::len), Some(131_072));
    host.stop().await
}

/// The old SDK drains its queue at 2 Hz.
#[tokio::test]
async fn the_backlog_leaves_at_the_drain_rate_and_in_order() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    let config = format!("{}\n[outbox]\ndrain_rate = \"2/s\"", sequence(4, 0, ""));
    let mut host = bed.connected("5", &config).await?;
    watcher.count(1).await?;
    let first = Instant::now();
    watcher.count(4).await?;
    // Three pauses of half a second; the first message may have been seen late.
    assert!(first.elapsed() >= Duration::from_millis(1100), "after {:?}", first.elapsed());
    assert_eq!(watcher.payloads(), ["0", "1", "2", "3"]);
    host.stop().await
}

/// Properties count for the broker's maximum packet when a message is taken, and an answer to somewhere
/// else is warned about. (Issue 12, C7 and A7.)
#[tokio::test]
async fn a_message_is_measured_with_its_properties_and_its_response_topic_is_looked_at() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Connect(_)) => {
            // Maximum packet size: 1000 bytes.
            let properties = vec![0x27, 0, 0, 3, 0xe8];
            vec![Do::Say(Answer::Connack { session_present: false, code: 0, properties })]
        }
        _ => kind(event),
    })
    .await?;
    let plugin = "[plugins.hostile]\ncomponent = \"hostile.wasm\"\npublish = [\"said\"]\nsubscribe = [\"deeds\"]\n\
                  config = { to = \"said\", filters = \"deeds\" }\n";
    let mut host = Program::run(&broker.config(&bed, plugin))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "deeds")).await?;
    for packet_id in [1, 2] {
        broker.act(Do::deliver("deeds", "heavy", packet_id, false))?;
    }
    let said = |packet: &Packet| matches!(packet, Packet::Publish(it) if it.payload.starts_with(b"refused"));
    let event = broker.packet_times(2, "what it got for it", said).await?;
    let Step::Packet(Packet::Publish(message)) = event.step else { anyhow::bail!("{event:?}") };
    let words = String::from_utf8_lossy(&message.payload);
    let [first, second, third] = words.split("; ").collect::<Vec<_>>()[..] else { anyhow::bail!("{words}") };
    ensure!(first.contains("topic and properties have 20") && first.contains("at most 1000"), "{words}");
    ensure!(second.contains("over the limit of 4") && third == "taken", "{words}");
    assert_eq!(host.logged(&["WARN", "plugin{name=hostile}", "response topic `elsewhere`", "the next one wants"]), 1);
    host.stop().await
}
