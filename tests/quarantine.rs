//! A broker that closes the connection over one topic: the topic is found out and held back,
//! and everybody else flows on.

use std::time::Duration;

use crate::harness::{
    Bed, Do, Event, Packet, Program, Result, Scripted, Step, in_both_versions, kind, publishes, resuming, subscribes,
};

in_both_versions! {
    a_topic_the_broker_closes_over_is_held_back_and_the_others_flow
    a_topic_at_qos_0_is_found_too
    a_subscription_the_broker_closes_over_is_not_asked_for_again
    a_topic_that_is_never_acknowledged_is_found_and_the_others_flow
}

const BACKOFF: &str = "backoff = { min = \"20ms\", max = \"50ms\" }";

fn plugins(qos: u8) -> String {
    format!(
        r#"
        [plugins.bad]
        component = "sequence.wasm"
        publish = ["bad"]
        [plugins.bad.config]
        topic = "bad"
        count = "1000000"
        interval = "300"
        qos = "{qos}"
        [plugins.good]
        component = "sequence.wasm"
        publish = ["good"]
        [plugins.good.config]
        topic = "good"
        count = "1000000"
        interval = "100"
        "#
    )
}

fn closes_over(topic: &'static str) -> impl FnMut(&Event) -> Vec<Do> + Send + 'static {
    move |event| match &event.step {
        Step::Packet(packet) if publishes(packet, topic) || subscribes(packet, topic) => vec![Do::Close],
        _ => kind(event),
    }
}

async fn a_topic_the_broker_closes_over_is_held_back_and_the_others_flow(protocol: &str) -> Result<()> {
    found(protocol, 1).await
}

async fn a_topic_at_qos_0_is_found_too(protocol: &str) -> Result<()> {
    found(protocol, 0).await
}

async fn found(protocol: &str, qos: u8) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, closes_over("bad")).await?;
    let config = broker.config(&bed, &plugins(qos)).link(&format!("protocol = {protocol:?}")).link(BACKOFF);
    let mut host = Program::run(&config)?;
    let line = host.log(&["ERROR", "the broker closes the connection", "topic=bad"]).await?;
    assert!(line.contains("plugin=\"bad\"") && line.contains("iot:Publish"), "{line}");
    // The plugin is told at its next attempt, and all is calm from now on.
    host.log(&["plugin{name=bad}", "refused", "held back"]).await?;
    let (connections, good) = (broker.connections(), broker.published("good").len());
    assert!(connections <= 8, "found at connection {connections}");
    broker.publish("good", good + 20).await?;
    assert!(broker.connections() <= connections + 1, "{} connections", broker.connections());
    host.stop().await
}

async fn a_subscription_the_broker_closes_over_is_not_asked_for_again(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, closes_over("in/bad")).await?;
    let plugin = r#"
        [plugins.recorder]
        component = "recorder.wasm"
        publish = ["out"]
        subscribe = ["in/+"]
        config = { to = "out", filters = "in/bad in/good" }
    "#;
    let config = broker.config(&bed, plugin).link(&format!("protocol = {protocol:?}")).link(BACKOFF);
    let mut host = Program::run(&config)?;
    host.log(&["ERROR", "the broker closes the connection", "filter=in/bad", "iot:Subscribe"]).await?;
    let told = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"* refused: in/bad"));
    broker.packet("the plugin's word", told).await?;
    let asked = |packet: &Packet| subscribes(packet, "in/good");
    broker.packet("the other subscription", asked).await?;
    host.stop().await
}

#[tokio::test]
async fn what_went_to_quarantine_is_shown_at_the_next_start() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, closes_over("bad")).await?;
    let config = broker.config(&bed, &plugins(1)).link(BACKOFF);
    let mut host = Program::run(&config)?;
    host.log(&["WARN", "a message goes to quarantine", "topic=\"bad\""]).await?;
    host.log(&["plugin{name=bad}", "refused", "held back"]).await?;
    host.stop().await?;
    broker.now(kind);
    let mut host = Program::run(&config)?;
    host.log(&["WARN", "in quarantine since an earlier run", "plugin=bad", "topic=bad"]).await?;
    // The policy may have changed: the topic may be tried again.
    broker.publish("bad", broker.published("bad").len() + 2).await?;
    host.stop().await
}

#[tokio::test]
async fn a_taken_over_session_names_the_client_id() -> Result<()> {
    let bed = Bed::start().await?;
    let mut first = Program::run(&bed.config(""))?;
    first.log(&["connect success"]).await?;
    let mut second = Program::run(&bed.config(""))?;
    first.log(&["WARN", "client id `device`", "another client"]).await?;
    second.stop().await?;
    first.stop().await
}

/// One topic after the other: the plugin is held back as a whole, and others hardly notice.
#[tokio::test]
async fn a_plugin_that_poisons_with_a_new_topic_each_time_is_held_back_as_a_whole() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(message)) if message.topic.starts_with("bad/") => vec![Do::Close],
        _ => resuming(event),
    })
    .await?;
    let plugins = plugins(1).replace("topic = \"bad\"", "topic = \"bad/{n}\"").replace("[\"bad\"]", "[\"bad/+\"]");
    let mut host = Program::run(&broker.config(&bed, &plugins).link(BACKOFF))?;
    broker.publish("good", 1).await?;
    let line = host.log_in_its_own_time(&["ERROR", "all its messages are held back", "plugin=\"bad\""]).await?;
    assert!(line.contains("1m"), "{line}");
    host.log(&["plugin{name=bad}", "refused", "all messages of this plugin are held back"]).await?;
    // Calm from now on: nothing of it leaves, and the other one's messages do.
    let (connections, good) = (broker.connections(), broker.published("good").len());
    broker.publish("good", good + 30).await?;
    assert!(broker.connections() <= connections + 1, "{} connections", broker.connections());
    let times: Vec<_> = broker.events().into_iter().filter(is_good).map(|event| event.at).collect();
    let longest = times.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default();
    assert!(longest < Duration::from_secs(5), "nothing of the other one's for {longest:?}");
    host.stop().await
}

fn is_good(event: &Event) -> bool {
    matches!(&event.step, Step::Packet(packet) if publishes(packet, "good"))
}

async fn a_topic_that_is_never_acknowledged_is_found_and_the_others_flow(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(packet) if publishes(packet, "bad") => Vec::new(),
        _ => resuming(event),
    })
    .await?;
    let config = broker.config(&bed, &plugins(1)).link(BACKOFF).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config.link("operation_timeout = \"500ms\""))?;
    host.log_in_its_own_time(&["ERROR", "never acknowledges", "topic=bad"]).await?;
    let (connections, good) = (broker.connections(), broker.published("good").len());
    assert!(connections <= 6, "found at connection {connections}");
    broker.publish("good", good + 50).await?;
    assert!(broker.connections() <= connections + 1, "{} connections", broker.connections());
    host.stop().await
}
