//! The end: in good order on the first signal, at once on the second.

use alphorn_dev_broker::Direction;

use crate::harness::{Bed, Program, Result, Signal, in_both_versions, slow_to_compile};

in_both_versions! {
    what_is_in_flight_is_acknowledged_before_the_end
}

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    config = { to = "out" }
"#;

async fn what_is_in_flight_is_acknowledged_before_the_end(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut host = bed.connected(protocol, RECORDER).await?;
    watcher.ready("out").await?;
    bed.faults().blackhole(Direction::ToClient, true);
    host.signal(Signal::Term)?;
    // The plugin's last words have reached the broker; that they have does not reach the host.
    watcher.payload("* stop: shutdown").await?;
    assert_eq!(host.logged(&["disconnected"]), 0);
    bed.faults().blackhole(Direction::ToClient, false);
    host.fails(0, &["SIGTERM", "disconnected"]).await?;
    assert_eq!(host.logged(&["not acknowledged"]), 0);
    Ok(())
}

#[tokio::test]
async fn what_is_never_acknowledged_does_not_hold_the_end_beyond_its_grace() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected("5", &format!("{RECORDER}\n[host]\nshutdown_grace = \"500ms\"")).await?;
    bed.faults().blackhole(Direction::ToClient, true);
    host.signal(Signal::Term)?;
    host.fails(0, &["what the broker has not acknowledged stays in the outbox"]).await
}

#[tokio::test]
async fn a_second_signal_ends_at_once() -> Result<()> {
    for signal in [Signal::Term, Signal::Int] {
        let bed = Bed::start().await?;
        let mut host = bed.connected("5", &format!("{RECORDER}\n[host]\nshutdown_grace = \"1h\"")).await?;
        bed.faults().blackhole(Direction::ToClient, true);
        host.signal(signal)?;
        host.log(&["stopping"]).await?;
        host.signal(signal)?;
        host.fails(130, &["at once"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_broker_that_is_away() -> Result<()> {
    let bed = Bed::start().await?;
    bed.faults().refuse(true).await?;
    let mut host = Program::run(&bed.config("[host]\nshutdown_grace = \"1h\"").without(&["backoff"]))?;
    host.log(&["connect failed (attempt 1)"]).await?;
    host.signal(Signal::Int)?;
    host.fails(0, &["SIGINT"]).await
}

#[tokio::test]
async fn an_end_while_a_plugin_is_compiled_stops_the_others_and_does_not_wait_for_it() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("huge.wasm", slow_to_compile(200_000, "")?)?;
    let patient = "[host]\nshutdown_grace = \"1h\"\n";
    let with_another = format!("{patient}{RECORDER}[plugins.huge]\ncomponent = \"huge.wasm\"\n");
    let config = bed.config(&with_another);
    let mut host = Program::run(&config)?;
    host.log(&["plugin{name=recorder}", "loaded"]).await?;
    host.stop().await?;
    host.log(&["SIGTERM"]).await?;
    assert_eq!(host.logged(&["start connect"]), 0, "everything had started");
    assert_eq!(host.logged(&["huge"]), 1, "it was waited for");

    // What was said at the end was kept.
    let watcher = bed.watch("out").await?;
    let mut host = Program::run(&bed.config(&[patient, RECORDER].concat()).in_place_of(&config))?;
    watcher.payload("* start: first").await?;
    watcher.payload("* stop: shutdown").await?;
    host.stop().await
}
