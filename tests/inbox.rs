//! Inbound messages: one slow plugin does not stop the others, and what is acknowledged is not lost.

use std::time::{Duration, Instant};

use crate::harness::{Bed, Do, Packet, Program, Result, Scripted, Step, in_both_versions, kind, resuming, subscribes};

in_both_versions! {
    a_slow_plugins_messages_are_acknowledged_and_survive_the_end_of_the_process
    a_quarantined_plugins_messages_wait_for_it
}

fn recorder(name: &str, more: &str) -> String {
    format!(
        r#"
        [plugins.{name}]
        component = "recorder.wasm"
        publish = ["out/{name}"]
        subscribe = ["in/{name}"]
        config = {{ to = "out/{name}", filters = "in/{name}", slow = "60000" }}
        limits = {{ deadline = "2m", {more} }}
        "#
    )
}

fn pubacks(broker: &Scripted) -> Vec<u16> {
    let ids = broker.packets(|packet| match packet {
        Packet::Puback { packet_id, .. } => Some(*packet_id),
        _ => None,
    });
    ids.into_iter().map(|(_, id)| id).collect()
}

async fn puback(broker: &Scripted, id: u16) -> Result<()> {
    let is = |packet: &Packet| matches!(packet, Packet::Puback { packet_id, .. } if *packet_id == id);
    broker.packet(&format!("PUBACK {id}"), is).await.map(drop)
}

async fn a_slow_plugins_messages_are_acknowledged_and_survive_the_end_of_the_process(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, resuming).await?;
    let plugins =
        format!("{}{}", recorder("lame", "mailbox = { messages = 2, bytes = \"1MiB\" }"), recorder("quick", ""));
    let config = broker.config(&bed, &plugins).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/lame")).await?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/quick")).await?;
    let begin = Instant::now();
    // The first holds the plugin for a minute; the others wait behind it, most of them on disk.
    broker.act(Do::deliver("in/lame", "slow", 1, false))?;
    for id in 2..=9 {
        broker.act(Do::deliver("in/lame", format!("number {id}"), id, false))?;
    }
    broker.act(Do::deliver("in/quick", "hello", 10, false))?;
    let quick = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload == b"in/quick hello");
    broker.packet("the quick plugin's answer", quick).await?;
    puback(&broker, 10).await?;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(pubacks(&broker), (1..=10).collect::<Vec<_>>(), "in order of arrival");

    host.kill().await?;
    let plugins = plugins.replace("slow = \"60000\"", "slow = \"0\"");
    let again = bed.config(&plugins).in_place_of(&config);
    let mut host = Program::run(&again)?;
    host.log(&["wait in the inbox", "lame", "messages=9"]).await?;
    let last = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"in/lame number 9"));
    broker.packet("the last message", last).await?;
    host.stop().await?;
    let lines: Vec<_> = broker
        .published("out/lame")
        .iter()
        .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
        .collect();
    let lines: Vec<_> = lines.iter().filter(|line| line.starts_with("in/")).collect();
    let expected: Vec<_> =
        std::iter::once("in/lame slow".to_owned()).chain((2..=9).map(|id| format!("in/lame number {id}"))).collect();
    assert_eq!(lines.iter().map(|line| line.trim_end_matches(" redelivered")).collect::<Vec<_>>(), expected);

    // Nothing of it is left.
    let mut host = Program::run(&again)?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert_eq!(host.logged(&["wait in the inbox"]), 0);
    Ok(())
}

async fn a_quarantined_plugins_messages_wait_for_it(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, resuming).await?;
    let plugin = r#"
        [plugins.misbehaves]
        component = "misbehaves.wasm"
        publish = ["out"]
        subscribe = ["in"]
        config = { to = "out", filters = "in" }
        limits = { restart = { max = 0, within = "1m" }, retry = { max = 1, min = "1s" } }
    "#;
    let config = broker.config(&bed, plugin).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in")).await?;
    broker.act(Do::deliver("in", "trap", 1, false))?;
    host.log(&["quarantined"]).await?;
    for id in 2..=4 {
        broker.act(Do::deliver("in", format!("message {id}"), id, false))?;
    }
    puback(&broker, 4).await?;
    assert_eq!(pubacks(&broker), [1, 2, 3, 4]);
    host.stop().await?;
    let mut host = Program::run(&config)?;
    host.log(&["wait in the inbox", "misbehaves", "messages=3"]).await?;
    let last =
        |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"message 4"));
    broker.packet("the last message", last).await?;
    host.stop().await
}

#[tokio::test]
async fn a_full_inbox_drops_its_oldest_and_says_so() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    let limits = "mailbox = { messages = 1, bytes = \"1MiB\" }, inbox_bytes = \"2KiB\"";
    let mut host = Program::run(&broker.config(&bed, &recorder("lame", limits)))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/lame")).await?;
    broker.act(Do::deliver("in/lame", "slow", 1, false))?;
    for id in 2..=40 {
        broker.act(Do::deliver("in/lame", format!("number {id}"), id, false))?;
    }
    host.log(&["WARN", "the inbox is full", "lame", "inbox_bytes"]).await?;
    puback(&broker, 40).await?;
    host.kill().await
}

/// A plugin that does not start leaves its messages in its inbox: its subscriptions are known from the last run.
#[tokio::test]
async fn a_plugin_that_fails_to_start_keeps_its_subscriptions_and_its_messages() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| {
        let mut actions = resuming(event);
        if let Step::Packet(Packet::Connect(_)) = event.step
            && event.connection == 1
        {
            actions.push(Do::deliver("in/late", "from the backlog", 7, false));
        }
        actions
    })
    .await?;
    let config = broker.config(&bed, &recorder("late", ""));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/late")).await?;
    host.log(&["connect success"]).await?;
    broker.publish("out/late", 2).await?;
    host.stop().await?;
    bed.file("rubbish.wasm", "rubbish")?;
    let broken = recorder("late", "").replace("recorder.wasm", "rubbish.wasm");
    let mut host = Program::run(&bed.config(&broken).in_place_of(&config))?;
    puback(&broker, 7).await?;
    host.stop().await?;
    assert_eq!(broker.packets(|packet| matches!(packet, Packet::Unsubscribe { .. }).then_some(())).len(), 0);
    let mut host = Program::run(&config)?;
    let arrived = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"in/late from the backlog"));
    broker.packet("the message of the backlog", arrived).await?;
    host.stop().await
}
