//! From the broker to plugins.

use std::time::Duration;

use anyhow::bail;

use crate::harness::{Answer, Bed, Do, Packet, Program, Result, Scripted, Step, in_both_versions, kind, subscribes};

in_both_versions! {
    what_was_handled_does_not_come_again
    what_a_plugin_still_works_on_does_not_come_again
    what_comes_while_the_host_is_stopped_waits_at_the_broker
    many_messages_arrive_each_once_and_in_order
    a_late_subscriber_gets_what_is_retained
    what_is_retained_reaches_the_plugin_that_asked_last
    what_is_retained_reaches_both_who_ask_at_once
}

/// A plugin of this name that tells a topic of its name what it receives.
fn recorder(name: &str, filters: &str) -> String {
    format!(
        r##"
        [plugins.{name}]
        component = "recorder.wasm"
        publish = [{name:?}]
        subscribe = ["#"]
        limits = {{ publish_rate = "unlimited", deadline = "10s" }}
        config = {{ to = {name:?}, filters = {filters:?}, slow = "1500" }}
        "##
    )
}

/// The message with which a recorder tells this.
fn record(name: &str, line: &str) -> impl Fn(&Packet) -> bool {
    move |packet| matches!(packet, Packet::Publish(message) if message.topic == name && message.payload == line.as_bytes())
}

async fn what_was_handled_does_not_come_again(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let mut host = bed.connected(protocol, &recorder("out", "in")).await?;
    watcher.ready("out").await?;
    client.publish("in", b"once").await?;
    // The record of this one leaves behind the acknowledgement of the first.
    client.send("in", b"fence", None, false).await?;
    watcher.payload("in fence").await?;
    bed.cut().await?;
    host.connects(2, "present").await?;
    client.publish("in", b"after").await?;
    watcher.payload("in after").await?;
    host.stop().await?;
    assert_eq!(received(&host), ["once", "fence", "after"]);
    Ok(())
}

async fn what_comes_while_the_host_is_stopped_waits_at_the_broker(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    // The same host both times: a session that it had no trace of would be ended.
    let config = bed.config(&recorder("out", "in")).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    host.stop().await?;
    client.publish("in", b"meanwhile").await?;
    let mut host = Program::run(&config)?;
    host.connects(1, "present").await?;
    watcher.payload("in meanwhile").await?;
    host.stop().await
}

async fn what_a_plugin_still_works_on_does_not_come_again(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let mut host = bed.connected(protocol, &recorder("out", "in")).await?;
    watcher.ready("out").await?;
    client.publish("in", b"slow").await?;
    host.log(&["received slow"]).await?;
    bed.cut().await?;
    host.connects(2, "present").await?;
    // On a machine that took longer to get here, it was handled before and may come again.
    let still_works_on_it = watcher.records("out").is_empty();
    // The broker sends it again, and behind it this one.
    client.publish("in", b"after").await?;
    watcher.payload("in after").await?;
    // It was acknowledged on the second connection, so it does not come on a third either.
    client.send("in", b"fence", None, false).await?;
    watcher.payload("in fence").await?;
    bed.cut().await?;
    host.connects(3, "present").await?;
    client.publish("in", b"end").await?;
    watcher.payload("in end").await?;
    host.stop().await?;
    if still_works_on_it {
        assert_eq!(received(&host), ["slow", "after", "fence", "end"]);
    }
    Ok(())
}

/// What plugins were given, by their own words. What they published may have arrived twice.
fn received(host: &Program) -> Vec<String> {
    let log = host.stderr();
    log.lines().filter_map(|line| Some(line.split_once("received ")?.1.to_owned())).collect()
}

async fn many_messages_arrive_each_once_and_in_order(protocol: &str) -> Result<()> {
    const COUNT: usize = 500;
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let mut host = bed.connected(protocol, &recorder("out", "in")).await?;
    watcher.ready("out").await?;
    for number in 0..COUNT {
        client.publish("in", number.to_string().as_bytes()).await?;
    }
    let expected: Vec<_> = (0..COUNT).map(|number| format!("in {number}")).collect();
    assert_eq!(watcher.records_to("out", COUNT).await?, expected);
    host.stop().await
}

async fn a_late_subscriber_gets_what_is_retained(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    client.send("state", b"on", Some(9), true).await?;
    client.puback().await?;
    let mut host = bed.connected(protocol, &recorder("out", "state")).await?;
    watcher.payload("state on retained").await?;
    client.publish("state", b"off").await?;
    assert_eq!(watcher.records_to("out", 2).await?, ["state on retained", "state off"]);
    host.stop().await
}

async fn what_is_retained_reaches_the_plugin_that_asked_last(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let mut client = bed.client().await?;
    client.send("state", b"on", Some(9), true).await?;
    client.puback().await?;
    let plugins = recorder("early", "state") + &recorder("late", "late/in");
    let mut host = bed.connected(protocol, &plugins).await?;
    watcher.records_to("early", 1).await?;
    watcher.ready("late").await?;
    client.publish("late/in", b"subscribe state").await?;
    watcher.records_to("late", 2).await?;
    client.publish("state", b"off").await?;
    let expected = ["late/in subscribe state", "state on retained", "state off"];
    assert_eq!(watcher.records_to("late", 3).await?, expected);
    assert_eq!(watcher.records_to("early", 2).await?, ["state on retained", "state off"]);
    host.stop().await
}

#[tokio::test]
async fn overlapping_filters_of_several_plugins_deliver_once_each() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let mut client = bed.client().await?;
    let plugins = recorder("wide", "in/#") + &recorder("narrow", "in/+") + &recorder("same", "in/+");
    let mut host = bed.connected("5", &plugins).await?;
    let names = ["wide", "narrow", "same"];
    for name in names {
        watcher.ready(name).await?;
    }
    for round in ["one", "two", "three"] {
        client.publish("in/x", round.as_bytes()).await?;
    }
    for name in names {
        watcher.records_to(name, 3).await?;
    }
    host.stop().await?;
    // Nothing came behind either.
    for name in names {
        assert_eq!(watcher.records(name), ["in/x one", "in/x two", "in/x three"], "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_filter_may_be_asked_for_at_run_time() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let mut host = bed.connected("5", &recorder("out", "in")).await?;
    watcher.ready("out").await?;
    client.publish("in", b"subscribe more/+").await?;
    // The record leaves behind the new subscription.
    watcher.records_to("out", 1).await?;
    client.publish("more/a", b"new").await?;
    assert_eq!(watcher.records_to("out", 2).await?, ["in subscribe more/+", "more/a new"]);
    host.stop().await
}

/// Where a broker can't tell copies apart, a filter within another one is not asked for.
#[tokio::test]
async fn filters_within_others_are_merged_at_3_1_1() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    let plugins = ["in/#", "in/+", "in/a"].iter().zip(["wide", "middle", "narrow"]).map(|(filter, name)| {
        format!(
            "[plugins.{name}]\ncomponent = \"recorder.wasm\"\npublish = [\"out/{name}\"]\nsubscribe = [{filter:?}]\n\
             config = {{ to = \"out/{name}\", filters = {filter:?} }}\n"
        )
    });
    let config = broker.config(&bed, &plugins.collect::<String>()).link("protocol = \"3.1.1\"");
    let mut host = Program::run(&config)?;
    let filters = |packet: &Packet| match packet {
        Packet::Subscribe { filters, .. } => Some(filters.iter().map(|filter| filter.name.clone()).collect::<Vec<_>>()),
        _ => None,
    };
    broker.packet("a SUBSCRIBE", |packet| filters(packet).is_some()).await?;
    broker.act(Do::deliver("in/a", "once", 7, false))?;
    for name in ["wide", "middle", "narrow"] {
        let topic = format!("out/{name}");
        let got = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.topic == topic && message.payload == b"in/a once");
        broker.packet(name, got).await?;
    }
    host.stop().await?;
    assert_eq!(broker.packets(filters), [(0, vec!["in/#".to_owned()])]);
    broker.keeps_the_rules()
}

/// What a filter stands for that goes is brought by the one that takes its place, without a gap.
#[tokio::test]
async fn a_narrower_filter_goes_when_the_wider_one_is_granted() -> Result<()> {
    const SLOW: Duration = Duration::from_millis(700);
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(packet) if subscribes(packet, "in/#") => {
            kind(event).into_iter().map(|it| it.after(SLOW)).collect()
        }
        _ => kind(event),
    })
    .await?;
    let plugins = recorder("narrow", "in/a") + &recorder("wide", "wide");
    let mut host = Program::run(&broker.config(&bed, &plugins).link("protocol = \"3.1.1\""))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/a")).await?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "wide")).await?;
    broker.act(Do::deliver("wide", "subscribe in/#", 7, false))?;
    let asked = broker.packet("the wider SUBSCRIBE", |packet| subscribes(packet, "in/#")).await?;
    let gone = broker.packet("an UNSUBSCRIBE", |packet| matches!(packet, Packet::Unsubscribe { .. })).await?;
    assert!(gone.at - asked.at >= SLOW, "after {:?}", gone.at - asked.at);
    host.stop().await?;
    broker.keeps_the_rules()
}

/// The answer to one SUBSCRIBE is for both who wanted it before it came.
async fn what_is_retained_reaches_both_who_ask_at_once(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        // It takes its time to answer.
        Step::Packet(packet) if subscribes(packet, "state") => Vec::new(),
        _ => kind(event),
    })
    .await?;
    let plugins = recorder("one", "cmd/one") + &recorder("two", "cmd/two");
    let mut host = Program::run(&broker.config(&bed, &plugins).link(&format!("protocol = {protocol:?}")))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "cmd/one")).await?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "cmd/two")).await?;
    broker.act(Do::deliver("cmd/one", "subscribe state", 7, false))?;
    let asked = broker.packet("the SUBSCRIBE", |packet| subscribes(packet, "state")).await?;
    let Step::Packet(Packet::Subscribe { packet_id, properties, .. }) = asked.step else { bail!("{asked:?}") };
    broker.act(Do::deliver("cmd/two", "subscribe state", 8, false))?;
    // It says so behind its request.
    broker.packet("two's record", record("two", "cmd/two subscribe state")).await?;
    let Do::Say(Answer::Publish(mut message)) = Do::deliver("state", "on", 9, false) else { bail!("no message") };
    message.retain = true;
    // As long as it is small, the identifier is one byte.
    message.properties.extend(properties.number(0x0b).into_iter().flat_map(|identifier| [0x0b, identifier as u8]));
    broker.act(Do::Say(Answer::Publish(message)))?;
    broker.act(Do::Say(Answer::Suback { packet_id, codes: vec![1] }))?;
    for name in ["one", "two"] {
        broker.packet(name, record(name, "state on retained")).await?;
    }
    host.stop().await?;
    broker.keeps_the_rules()
}

/// Where copies can't be told apart, what is retained is for the one who asked last.
#[tokio::test]
async fn what_is_retained_reaches_a_late_subscriber_of_a_narrower_filter_alone_at_3_1_1() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| {
        let mut actions = kind(event);
        if matches!(&event.step, Step::Packet(packet) if subscribes(packet, "in/a")) {
            let Do::Say(Answer::Publish(mut message)) = Do::deliver("in/a", "kept", 9, false) else { return actions };
            message.retain = true;
            actions.push(Do::Say(Answer::Publish(message)));
        }
        actions
    })
    .await?;
    let plugins = recorder("early", "in/#") + &recorder("late", "late");
    let mut host = Program::run(&broker.config(&bed, &plugins).link("protocol = \"3.1.1\""))?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/#")).await?;
    // The second comes behind the answer to the first one's record, which comes behind the SUBACKs.
    for (packet_id, text) in [(5, "one"), (6, "two")] {
        broker.act(Do::deliver("late", text, packet_id, false))?;
        broker.packet(text, record("late", &format!("late {text}"))).await?;
    }
    broker.act(Do::deliver("late", "subscribe in/a", 7, false))?;
    broker.packet("late's record", record("late", "in/a kept retained")).await?;
    broker.act(Do::deliver("in/a", "live", 10, false))?;
    broker.packet("early's record", record("early", "in/a live")).await?;
    host.stop().await?;
    assert!(broker.published("early").iter().all(|message| !message.payload.ends_with(b"retained")));
    Ok(())
}

/// Two hosts share the messages of a group.
#[tokio::test]
async fn hosts_share_what_comes_for_their_group() -> Result<()> {
    const COUNT: usize = 40;
    let bed = Bed::start().await?;
    let watcher = bed.watch("out/#").await?;
    let plugin = |to: &str| {
        format!(
            "[plugins.worker]\ncomponent = \"recorder.wasm\"\npublish = [\"out/+\"]\n\
             subscribe = [\"$share/workers/jobs/+\"]\nreserved = true\n\
             config = {{ to = \"out/{to}\", filters = \"$share/workers/jobs/+\" }}\n"
        )
    };
    let mut one = Program::run(&bed.config(&plugin("one")))?;
    let mut two = Program::run(&bed.config(&plugin("two")).link("client_id = \"device-2\""))?;
    watcher.ready("out/one").await?;
    watcher.ready("out/two").await?;
    let mut client = bed.client().await?;
    for number in 0..COUNT {
        client.publish("jobs/a", number.to_string().as_bytes()).await?;
    }
    let all = || [watcher.records("out/one"), watcher.records("out/two")];
    let done = |_: &[crate::harness::Message]| (all().concat().len() >= COUNT).then_some(());
    watcher.wait_for("all jobs", done).await?;
    one.stop().await?;
    two.stop().await?;
    let [one, two] = all();
    assert!(!one.is_empty() && !two.is_empty() && one.len() + two.len() == COUNT, "{} and {}", one.len(), two.len());
    Ok(())
}

#[tokio::test]
async fn a_shared_subscription_that_the_next_version_refuses_is_said_once() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected("5", &recorder("out", "$share/group/in")).await?;
    host.log(&["WARN", "plugin{name=out}", "$share/group/in", "the next one wants a grant", "`$share/group/`"]).await?;
    host.stop().await?;
    assert_eq!(host.logged(&["the next one wants a grant"]), 1);
    let granted = recorder("out", "$share/group/in").replace("[\"#\"]", "[\"$share/group/in\"]");
    let mut host = bed.connected("5", &granted).await?;
    host.stop().await?;
    assert_eq!(host.logged(&["WARN", "grant"]), 0);
    Ok(())
}
