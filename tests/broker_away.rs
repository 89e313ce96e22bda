//! The broker is away, at the start or later: the host keeps trying, ever less often, and
//! all is as it was when the broker is back.

use std::time::Duration;

use crate::harness::{Bed, Broker, Context as _, Program, Result, Watcher, in_both_versions};

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in/#"]
    config = { to = "out", filters = "in/+ in/b/#" }
"#;

in_both_versions! {
    subscriptions_are_in_place_after_a_start_without_broker
    subscriptions_are_in_place_again_when_the_session_is_kept
    subscriptions_are_made_again_when_the_session_is_lost
}

async fn subscriptions_are_in_place_after_a_start_without_broker(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    bed.faults().refuse(true).await?;
    let mut host = Program::run(&bed.config(RECORDER).link(&format!("protocol = {protocol:?}")))?;
    let port = bed.addr().port();
    host.log(&["connect failed (attempt 3)", &format!("no TCP connection to localhost:{port}"), "refused"]).await?;
    bed.faults().refuse(false).await?;
    host.log(&["connect success"]).await?;
    watcher.payload("* up: session present false").await?;
    answers(&bed, &watcher, "first").await?;
    host.stop().await
}

async fn subscriptions_are_in_place_again_when_the_session_is_kept(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut host = bed.connected(protocol, RECORDER).await?;
    watcher.ready("out").await?;
    answers(&bed, &watcher, "before").await?;
    bed.cut().await?;
    host.connects(2, "present").await?;
    watcher.payload("* up: session present true").await?;
    assert!(watcher.payloads().iter().any(|payload| payload.starts_with("* down: ")));
    answers(&bed, &watcher, "after").await?;
    host.stop().await
}

async fn subscriptions_are_made_again_when_the_session_is_lost(protocol: &str) -> Result<()> {
    let mut bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut host = bed.connected(protocol, RECORDER).await?;
    watcher.ready("out").await?;
    answers(&bed, &watcher, "before").await?;

    let _old = bed.redirect(Broker::start().await?);
    let watcher = bed.watch("out").await?;
    bed.cut().await?;
    host.connects(2, "new").await?;
    watcher.ready("out").await?;
    answers(&bed, &watcher, "after").await?;
    host.stop().await
}

/// The plugin tells of what is sent to either of its filters.
async fn answers(bed: &Bed, watcher: &Watcher, text: &str) -> Result<()> {
    let mut client = bed.client().await?;
    for topic in ["in/a", "in/b/c"] {
        client.publish(topic, text.as_bytes()).await?;
        watcher.payload(&format!("{topic} {text}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn pauses_double_up_to_the_cap() -> Result<()> {
    let bed = Bed::start().await?;
    bed.faults().refuse(true).await?;
    let mut host = Program::run(&bed.config("").link("backoff = { min = \"20ms\", max = \"320ms\" }"))?;
    for (attempt, longest) in (1..).zip([20, 40, 80, 160, 320, 320]) {
        let pause = pause(&host.log(&[&format!("connect failed (attempt {attempt})")]).await?)?;
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "attempt {attempt}: {pause:?} of {longest} ms");
    }
    host.stop().await
}

#[tokio::test]
async fn the_first_pause_is_up_to_a_second_by_default() -> Result<()> {
    let bed = Bed::start().await?;
    bed.faults().refuse(true).await?;
    let mut host = Program::run(&bed.config("").without(&["backoff"]))?;
    let pause = pause(&host.log(&["connect failed (attempt 1)"]).await?)?;
    assert!((500..=1000).contains(&pause.as_millis()), "{pause:?}");
    host.stop().await
}

/// A broker may accept and drop: that a connection came up proves nothing.
#[tokio::test]
async fn pauses_grow_while_no_connection_lasts() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host =
        Program::run(&bed.config("").link("backoff = { min = \"20ms\", max = \"10s\", stable_after = \"1h\" }"))?;
    for (count, longest) in (1..).zip([20, 40, 80, 160]) {
        host.log_times(count, &["connect success"]).await?;
        bed.cut().await?;
        let pause = pause(&host.log_times(count, &["connection lost"]).await?)?;
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "loss {count}: {pause:?} of {longest} ms");
    }
    host.stop().await
}

#[tokio::test]
async fn a_connection_that_lasted_makes_the_next_pause_a_first_one() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host =
        Program::run(&bed.config("").link("backoff = { min = \"50ms\", max = \"10s\", stable_after = \"0s\" }"))?;
    for count in 1..=4 {
        host.log_times(count, &["connect success"]).await?;
        bed.cut().await?;
        let pause = pause(&host.log_times(count, &["connection lost"]).await?)?;
        assert!((25..=50).contains(&pause.as_millis()), "loss {count}: {pause:?}");
    }
    host.stop().await
}

/// What a line says about the next attempt.
fn pause(line: &str) -> Result<Duration> {
    let (_, pause) = line.rsplit_once("next attempt in ").context("no pause in the line")?;
    Ok(humantime::parse_duration(pause)?)
}
