//! The plugins of `plugins/`, as their configurations there say.

use std::process::Command;

use crate::harness::{Bed, Context as _, Result, in_both_versions};

in_both_versions! {
    timestamp_publishes_the_time_each_second
    echo_sends_back_what_comes
    hello_says_hello_once
    average_smooths_what_it_reads
}

async fn timestamp_publishes_the_time_each_second(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let config = r#"
        [plugins.timestamp]
        component = "timestamp.wasm"
        publish = ["test/date"]
        [plugins.tokyo]
        component = "timestamp.wasm"
        publish = ["tokyo"]
        config = { topic = "tokyo", qos = "1", utc_offset = "+09:00" }
    "#;
    let before = date("now")?;
    let in_tokyo = date("9 hours")?;
    let mut host = bed.connected(protocol, config).await?;
    watcher.count(5).await?;
    for (topic, before, after) in [("test/date", before, date("now")?), ("tokyo", in_tokyo, date("9 hours")?)] {
        let lines = watcher.lines();
        let times: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix(topic)?.strip_prefix(' ')).collect();
        assert!(times.len() >= 2, "{lines:?}");
        // Written so, times compare as texts; the first of a second and the last of it may be the same.
        assert!(times.is_sorted() && times.iter().all(|time| is_like(time, "0000-00-00T00:00:00")), "{times:?}");
        assert!(
            times.iter().all(|time| (before.as_str()..=after.as_str()).contains(time)),
            "{times:?} {before} {after}"
        );
    }
    host.log(&["plugin{name=timestamp}", "try to publish: 20"]).await?;
    host.stop().await
}

/// The time in UTC, so far from now, by another program's reckoning.
fn date(when: &str) -> Result<String> {
    let output = Command::new("date").args(["-u", "-d", when, "+%Y-%m-%dT%H:%M:%S"]).output().context("date")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A digit for each digit, and all else the same.
fn is_like(text: &str, pattern: &str) -> bool {
    let alike = |(c, wanted): (char, char)| if wanted == '0' { c.is_ascii_digit() } else { c == wanted };
    text.len() == pattern.len() && text.chars().zip(pattern.chars()).all(alike)
}

async fn echo_sends_back_what_comes(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("test/#").await?;
    let config = r#"
        [plugins.echo]
        component = "echo.wasm"
        publish = ["test/+/echo"]
        subscribe = ["test/+"]
        config = { filter = "test/+" }
        [plugins.ready]
        component = "recorder.wasm"
        publish = ["test/ready"]
        config = { to = "test/ready" }
    "#;
    let mut host = bed.connected(protocol, config).await?;
    watcher.ready("test/ready").await?;
    let mut client = bed.client().await?;
    client.publish("test/a", b"payload").await?;
    client.send("test/b", &[0, 255], None, false).await?;
    for (topic, payload, qos) in [("test/a/echo", &b"payload"[..], 1), ("test/b/echo", &[0, 255], 0)] {
        let echo =
            |messages: &[crate::harness::Message]| messages.iter().find(|message| message.topic == topic).cloned();
        let message = watcher.wait_for(topic, echo).await?;
        assert_eq!((message.payload.as_slice(), message.qos), (payload, qos));
    }
    host.stop().await
}

async fn hello_says_hello_once(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let config = r#"
        [outbox]
        storage = "memory"
        max_bytes = -1
        qos0_offline = "store"
        drain_rate = "2/s"
        [plugins.hello]
        component = "hello.wasm"
        publish = ["alpn/devicesdk"]
    "#;
    let mut host = bed.connected(protocol, config).await?;
    let hello = watcher.payload("Hello over MQTT on port 443").await?;
    assert_eq!((hello.topic.as_str(), hello.qos), ("alpn/devicesdk", 0));
    bed.cut().await?;
    host.log_times(2, &["connect success"]).await?;
    host.stop().await?;
    assert_eq!(watcher.lines(), ["alpn/devicesdk Hello over MQTT on port 443"]);
    Ok(())
}

async fn average_smooths_what_it_reads(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let config = r#"
        [plugins.ready]
        component = "recorder.wasm"
        publish = ["ready"]
        config = { to = "ready" }
        [plugins.average]
        component = "average.wasm"
        publish = ["smooth"]
        subscribe = ["raw"]
        [plugins.average.command]
        topic = "smooth"
        args = ["3"]
    "#;
    let mut host = bed.connected(protocol, config).await?;
    watcher.ready("ready").await?;
    let mut client = bed.client().await?;
    for payload in ["3", "6", "warm", " 9\n", "30"] {
        client.publish("raw", payload.as_bytes()).await?;
    }
    watcher.payload("15.00").await?;
    let lines = watcher.lines();
    let smooth: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("smooth ")).collect();
    assert_eq!(smooth, ["3.00", "4.50", "6.00", "15.00"]);
    host.log(&["ERROR", "plugin{name=average}", "\"warm\" is no number"]).await?;
    host.stop().await
}
