//! Inbound messages: one slow plugin does not stop the others, and what is acknowledged is not lost.

use std::time::{Duration, Instant};

use crate::harness::{
    Bed, Do, Message, Packet, Program, Result, Scripted, Step, ensure, in_both_versions, kind, publishes, resuming,
    subscribes,
};

in_both_versions! {
    a_burst_is_handled_once_each_over_one_connection
    what_a_broker_sends_beyond_what_there_is_room_for_stays_with_it
    order_outlasts_a_kill_while_a_mailbox_overflows
    another_message_under_an_old_packet_id_is_delivered
    a_connection_that_is_given_up_is_closed_so_that_acknowledgements_arrive
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

/// Messages of QoS 1 as bytes: number, topic, padded to 100 bytes.
fn burst(version: &str, numbers: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        let mut body = [&[0, 2][..], b"in", &u16::try_from(number % 65_535 + 1).unwrap_or(1).to_be_bytes()].concat();
        if version == "5" {
            body.push(0);
        }
        body.extend(format!("{number:<100}").into_bytes());
        bytes.extend(crate::harness::frame(0x32, &body));
    }
    bytes
}

/// All that waits at a broker, sent at once and without regard to what is acknowledged, as mosquitto does.
async fn a_burst_is_handled_once_each_over_one_connection(protocol: &str) -> Result<()> {
    const COUNT: u32 = 20_000;
    for storage in ["disk", "memory"] {
        let bed = Bed::start().await?;
        let broker = Scripted::start(&bed, kind).await?;
        let plugin = format!(
            r#"
            [plugins.echo]
            component = {:?}
            publish = ["in/echo"]
            subscribe = ["in"]
            config = {{ filter = "in" }}
            limits = {{ publish_rate = "unlimited", outbox_bytes = "32MiB", inbox_bytes = "64MiB" }}
            "#,
            crate::harness::plugin("echo")?
        );
        let config = broker.config(&bed, &plugin).link(&format!("protocol = {protocol:?}"));
        let config = if storage == "disk" { config } else { config.in_memory() };
        let mut host = Program::run(&config)?;
        broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in")).await?;
        // Acknowledged, but not by the script: that would be one event more for each.
        broker.act(Do::Raw(burst(protocol, 0..COUNT)))?;
        broker.publish("in/echo", COUNT as usize).await?;
        let peak = host.peak()?;
        let numbers: Vec<u32> = broker
            .published("in/echo")
            .iter()
            .filter_map(|message| String::from_utf8_lossy(&message.payload).trim().parse().ok())
            .collect();
        ensure!(
            numbers == (0..COUNT).collect::<Vec<_>>(),
            "{storage}: not once each and in order: {} are",
            numbers.len()
        );
        let acknowledged = |packet: &Packet| matches!(packet, Packet::Puback { .. });
        broker.packet_times(COUNT as usize, "a PUBACK", acknowledged).await?;
        host.stop().await?;
        ensure!(broker.connections() == 1, "{storage}: {} connections", broker.connections());
        ensure!(peak < 100 << 20, "{storage}: {peak} bytes of memory");
        broker.keeps_the_rules()?;
    }
    Ok(())
}

/// Without a disk TCP alone holds back what a slow plugin can't take: for longer than the keep-alive,
/// while the broker neither reads nor answers.
async fn what_a_broker_sends_beyond_what_there_is_room_for_stays_with_it(protocol: &str) -> Result<()> {
    const COUNT: u16 = 200;
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    // It answers with all it gets, and the broker takes that only when it has sent everything.
    let limits = "mailbox = { messages = 2, bytes = \"1MiB\" }, outbox_bytes = \"48MiB\"";
    let plugin = recorder("lame", limits).replace("60000", "7000");
    let config = broker
        .config(&bed, &plugin)
        .in_memory()
        .link(&format!("protocol = {protocol:?}"))
        .link("keep_alive = \"2s\"")
        .link("operation_timeout = \"500ms\"");
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/lame")).await?;
    broker.act(Do::deliver("in/lame", "slow", 1, false))?;
    let large = "x".repeat(100_000);
    for id in 2..=COUNT {
        broker.act(Do::deliver("in/lame", format!("{id} {large}"), id, false))?;
    }
    host.log_in_its_own_time(&["WARN", "nothing more was read from the broker"]).await?;
    let held = host.resident()?;
    ensure!(held < 100 << 20, "{held} bytes of memory");
    // Only now the plugin goes on, and the broker hears of it.
    let numbers = |message: &Message| {
        let line = String::from_utf8_lossy(&message.payload).into_owned();
        line.split(' ').nth(1).and_then(|number| number.parse::<u16>().ok())
    };
    broker
        .wait_for("the last message", |events| {
            let last =
                |step: &Step| matches!(step, Step::Packet(Packet::Publish(message)) if numbers(message) == Some(COUNT));
            events.iter().any(|event| last(&event.step)).then_some(())
        })
        .await?;
    host.stop().await?;
    let handled: Vec<_> = broker.published("out/lame").iter().filter_map(numbers).collect();
    ensure!(handled == (2..=COUNT).collect::<Vec<_>>(), "not once each and in order: {handled:?}");
    ensure!(broker.connections() == 1, "{} connections", broker.connections());
    Ok(())
}

/// Some messages are in memory only and later ones on disk when the process is killed; the broker
/// then sends all of them again.
async fn order_outlasts_a_kill_while_a_mailbox_overflows(protocol: &str) -> Result<()> {
    const LAST: u16 = 9;
    let bed = Bed::start().await?;
    let text = |id: u16| if id == 1 { "slow".to_owned() } else { format!("number {id}") };
    let broker = Scripted::start(&bed, move |event| {
        let mut actions = resuming(event);
        if matches!(event.step, Step::Packet(Packet::Connect(_))) && event.connection == 1 {
            actions.extend((1..=LAST).map(|id| Do::deliver("in/lame", text(id), id, true)));
        }
        actions
    })
    .await?;
    let plugins =
        format!("{}{}", recorder("lame", "mailbox = { messages = 2, bytes = \"1MiB\" }"), recorder("quick", ""));
    let config = broker.config(&bed, &plugins).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/lame")).await?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/quick")).await?;
    broker.publish("out/lame", 2).await?;
    for id in 1..=LAST {
        broker.act(Do::deliver("in/lame", text(id), id, false))?;
    }
    // When it handles its second message, what came before its first one is on disk.
    for id in LAST + 1..=LAST + 2 {
        broker.act(Do::deliver("in/quick", format!("number {id}"), id, false))?;
    }
    let second =
        |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.ends_with(b"number 11"));
    broker.packet("the quick plugin's second answer", second).await?;
    host.kill().await?;
    let before = broker.published("out/lame").len();

    let plugins = plugins.replace("slow = \"60000\"", "slow = \"0\"");
    let mut host = Program::run(&bed.config(&plugins).in_place_of(&config))?;
    broker
        .packet_times(
            1 + usize::from(pubacks(&broker).contains(&LAST)),
            "the last PUBACK",
            |packet| matches!(packet, Packet::Puback { packet_id, .. } if *packet_id == LAST),
        )
        .await?;
    let is_last = |packet: &Packet| {
        publishes(packet, "out/lame")
            && matches!(packet, Packet::Publish(it) if it.payload.starts_with(b"in/lame number 9"))
    };
    broker.packet("the last message", is_last).await?;
    host.stop().await?;
    let lines: Vec<_> = broker
        .published("out/lame")
        .iter()
        .skip(before)
        .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
        .filter(|line| line.starts_with("in/"))
        .map(|line| line.trim_end_matches(" redelivered").to_owned())
        .collect();
    assert_eq!(lines, (1..=LAST).map(|id| format!("in/lame {}", text(id))).collect::<Vec<_>>());
    Ok(())
}

/// The earlier message has expired at the broker meanwhile.
async fn another_message_under_an_old_packet_id_is_delivered(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, move |event| {
        let mut actions = resuming(event);
        if matches!(event.step, Step::Packet(Packet::Connect(_))) && event.connection == 1 {
            actions.push(Do::deliver("in/lame", "other", 7, true));
        }
        actions
    })
    .await?;
    let plugin = recorder("lame", "").replace("60000", "2000");
    let config = broker.config(&bed, &plugin).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/lame")).await?;
    broker.act(Do::deliver("in/lame", "slow", 7, false))?;
    host.log(&["received slow"]).await?;
    broker.act(Do::Reset)?;
    broker.connect(2).await?;
    let other = |packet: &Packet| matches!(packet, Packet::Publish(it) if it.payload.starts_with(b"in/lame other"));
    broker.packet("the other message", other).await?;
    host.stop().await
}

/// A broker that has sent much more than was read, and reads only when all of it is gone.
async fn a_connection_that_is_given_up_is_closed_so_that_acknowledgements_arrive(protocol: &str) -> Result<()> {
    const COUNT: u16 = 300;
    let version = protocol.to_owned();
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, move |event| match &event.step {
        Step::Packet(Packet::Subscribe { .. }) if event.connection == 0 => {
            let mut actions = kind(event);
            actions.push(Do::Raw(burst(&version, 0..COUNT.into())));
            actions
        }
        // A packet that no broker sends, when some are acknowledged, and much behind it.
        Step::Packet(Packet::Puback { packet_id: 100, .. }) if event.connection == 0 => {
            vec![Do::Raw(vec![0xc0, 0]), Do::Raw(burst(&version, COUNT.into()..40_000))]
        }
        _ => kind(event),
    })
    .await?;
    let plugin = recorder("lame", "").replace("in/lame", "in").replace("\"60000\"", "\"0\"");
    let config = broker.config(&bed, &plugin).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    host.log(&["connection lost", "PINGREQ, which a broker never sends"]).await?;
    let end = broker.gone(0).await?;
    // By the script, when it has read the DISCONNECT; or where there is none, in good order, too.
    let is_orderly = matches!(&end.step, Step::Gone(why) if why.is_empty() || why == "closed by the client");
    ensure!(is_orderly, "{:?}", end.step);
    if protocol == "5" {
        broker.packet("a DISCONNECT", |packet| matches!(packet, Packet::Disconnect { reason: 0x82, .. })).await?;
    }
    host.stop().await
}

/// A broker that keeps a session that this host knows nothing of.
#[tokio::test]
async fn a_session_that_is_none_of_ours_is_ended() -> Result<()> {
    for protocol in ["5", "3.1.1"] {
        let bed = Bed::start().await?;
        let mut is_clean = false;
        let broker = Scripted::start(&bed, move |event| match &event.step {
            Step::Packet(Packet::Connect(hello)) => {
                is_clean |= hello.clean;
                vec![Do::welcome(!is_clean)]
            }
            _ => kind(event),
        })
        .await?;
        let plugin = recorder("one", "");
        let mut host = Program::run(&broker.config(&bed, &plugin).link(&format!("protocol = {protocol:?}")))?;
        broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/one")).await?;
        let clean: Vec<_> = broker
            .packets(|packet| match packet {
                Packet::Connect(hello) => Some(hello.clean),
                _ => None,
            })
            .into_iter()
            .map(|(_, clean)| clean)
            .collect();
        assert_eq!(clean, [false, true, false], "{protocol}");
        let subscribed = broker.packets(|packet| subscribes(packet, "in/one").then_some(()));
        assert_eq!(subscribed.iter().map(|(connection, ())| *connection).collect::<Vec<_>>(), [2], "{protocol}");
        host.stop().await?;
    }
    Ok(())
}

/// A host that is killed as soon as the broker has its first SUBSCRIBE: what the broker keeps for it
/// from then on is for the next run.
#[tokio::test]
async fn a_session_is_known_again_however_soon_the_host_is_killed() -> Result<()> {
    for commit in ["call", "1m"] {
        let bed = Bed::start().await?;
        let broker = Scripted::start(&bed, resuming).await?;
        let rest = format!("{}\n[outbox]\ncommit = {commit:?}\n", recorder("one", ""));
        let config = broker.config(&bed, &rest);
        let mut host = Program::run(&config)?;
        broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/one")).await?;
        host.kill().await?;
        let mut host = Program::run(&config)?;
        host.log(&["connect success", "session present"]).await?;
        broker.act(Do::deliver("in/one", "kept", 1, false))?;
        let kept = |packet: &Packet| matches!(packet, Packet::Publish(it) if it.payload.starts_with(b"in/one kept"));
        broker.packet("what was kept", kept).await?;
        assert_eq!(broker.connections(), 2, "commit = {commit:?}");
        assert_eq!(host.logged(&["knows nothing of"]), 0, "commit = {commit:?}");
        host.stop().await?;
    }
    Ok(())
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
