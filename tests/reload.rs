//! SIGHUP, and component files that are replaced.

use crate::harness::{Bed, Host, Program, Result, Signal, version};

fn keeper(name: &str, more: &str) -> String {
    format!(
        r#"
        [plugins.{name}]
        component = "{name}.wasm"
        publish = ["out/{name}"]
        subscribe = ["in/{name}"]
        config = {{ to = "out/{name}", filters = "in/{name}" {more} }}
        "#
    )
}

fn files(bed: &Bed) -> Result<()> {
    for (number, name) in (10..).zip(["same", "changed", "gone", "new"]) {
        bed.file(&format!("{name}.wasm"), version("keeper", number)?)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_password_takes_a_restart_and_that_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let password = bed.file("password", "one")?;
    let config = bed.config("").link("username = \"u\"").link("password_file = \"password\"");
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    host.signal(Signal::Hup)?;
    host.log(&["reloaded"]).await?;
    assert_eq!(host.logged(&["that takes a restart"]), 0);
    std::fs::write(password, "two")?;
    host.signal(Signal::Hup)?;
    host.log_times(2, &["reloaded"]).await?;
    assert_eq!(host.logged(&["WARN", "[link]", "that takes a restart"]), 1);
    host.stop().await
}

#[tokio::test]
async fn a_reload_swaps_what_changed_and_leaves_the_rest_alone() -> Result<()> {
    let bed = Bed::start().await?;
    files(&bed)?;
    let watcher = bed.watch("out/#").await?;
    let mut client = bed.client().await?;
    let plugins = [keeper("same", ""), keeper("changed", ""), keeper("gone", "")].concat();
    let config = bed.config(&plugins);
    let path = config.write()?;
    let mut host = Program::start(&["run".as_ref(), "--config".as_ref(), path.as_os_str()])?;
    for name in ["same", "changed", "gone"] {
        watcher.ready(&format!("out/{name}")).await?;
        client.publish(&format!("in/{name}"), name.as_bytes()).await?;
        watcher.payload(&format!("{name} 1 first")).await?;
    }
    let plugins = [keeper("same", ""), keeper("changed", ", more = \"yes\""), keeper("new", "")].concat();
    bed.config(&plugins).in_place_of(&config).write_to(&path)?;
    host.signal(Signal::Hup)?;
    host.log(&["reloaded"]).await?;
    watcher.ready("out/new").await?;
    for (name, line) in [("same", "x 2 first"), ("changed", "x 2 swap"), ("new", "x 1 first")] {
        client.publish(&format!("in/{name}"), b"x").await?;
        watcher
            .wait_for(line, |messages| {
                let topic = format!("out/{name}");
                messages
                    .iter()
                    .any(|message| message.topic == topic && message.payload == line.as_bytes())
                    .then_some(())
            })
            .await?;
    }
    let names: Vec<_> = Host::of(&config).await?.status().await?.plugins.into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["changed", "new", "same"]);
    assert_eq!((bed.connections(), host.logged(&["connection lost"])), (1, 0));
    // A file with a mistake changes nothing.
    std::fs::write(&path, "[link")?;
    host.signal(Signal::Hup)?;
    host.log(&["ERROR", "what is in force goes on"]).await?;
    client.publish("in/same", b"y").await?;
    watcher.payload("y 3 first").await?;
    host.stop().await
}

#[tokio::test]
async fn a_file_that_is_replaced_takes_over_and_a_bad_one_does_not() -> Result<()> {
    let bed = Bed::start().await?;
    files(&bed)?;
    let watcher = bed.watch("out/#").await?;
    let mut client = bed.client().await?;
    let config = bed.config(&keeper("same", ""));
    let mut host = Program::run(&config)?;
    watcher.ready("out/same").await?;
    client.publish("in/same", b"a").await?;
    watcher.payload("a 1 first").await?;
    let next = bed.file("next", version("keeper", 20)?)?;
    std::fs::rename(next, bed.folder().join("same.wasm"))?;
    host.log(&["a new version took over"]).await?;
    client.publish("in/same", b"b").await?;
    watcher.payload("b 2 swap").await?;
    bed.file("same.wasm", "rubbish")?;
    host.log(&["ERROR", "is not WebAssembly", "the running version goes on"]).await?;
    client.publish("in/same", b"c").await?;
    watcher.payload("c 3 swap").await?;
    host.stop().await
}

/// `subscribe` and more of the configuration of a keeper.
fn other_keeper(subscribe: &str, more: &str) -> String {
    format!(
        "[plugins.keeper]\ncomponent = \"keeper.wasm\"\npublish = [\"out\"]\nsubscribe = [{subscribe}]\n\
         config = {{ to = \"out\", filters = \"in other\" {more} }}\n"
    )
}

#[tokio::test]
async fn a_reload_that_is_refused_is_tried_again_by_the_next() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(&other_keeper("\"#\"", ", refuse = \"yes\""));
    let path = config.write()?;
    let mut host = Program::start(&["run".as_ref(), "--config".as_ref(), path.as_os_str()])?;
    watcher.ready("out").await?;
    bed.config(&other_keeper("\"in\"", "")).in_place_of(&config).write_to(&path)?;
    for time in 1..=2 {
        host.signal(Signal::Hup)?;
        host.log_times(time, &["ERROR", "refused to hand over: not now"]).await?;
        host.log_times(time, &["reloaded"]).await?;
    }
    // What is in force, not what was asked for.
    let socket = config.socket();
    let explain = ["explain".as_ref(), "keeper".as_ref(), "subscribe".as_ref(), "other".as_ref(), "--socket".as_ref()];
    Program::start(&[&explain[..], &[socket.as_os_str()]].concat())?.fails(0, &[]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_roll_back_brings_back_what_narrower_grants_had_taken() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(&other_keeper("\"in\", \"other\"", ""));
    let path = config.write()?;
    let mut host = Program::start(&["run".as_ref(), "--config".as_ref(), path.as_os_str()])?;
    watcher.ready("out").await?;
    // The narrower one does not start: its filters are not all granted.
    bed.config(&other_keeper("\"in\"", "")).in_place_of(&config).write_to(&path)?;
    host.signal(Signal::Hup)?;
    host.log(&["ERROR", "on probation failed"]).await?;
    watcher.payload("* start: rollback at 0, stored 0, spoiled false").await?;
    host.log(&["reloaded"]).await?;
    let mut client = bed.client().await?;
    client.publish("other", b"a").await?;
    watcher.payload("a 1 rollback").await?;
    host.stop().await
}

#[tokio::test]
async fn a_subscription_that_is_granted_no_longer_ends_at_the_next_start() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let recorder = |filters: &str, subscribe: &str| {
        format!(
            "[plugins.recorder]\ncomponent = \"recorder.wasm\"\npublish = [\"out\"]\nsubscribe = [{subscribe}]\n\
             config = {{ to = \"out\", filters = \"{filters}\" }}\n"
        )
    };
    let config = bed.config(&recorder("in other", "\"in\", \"other\""));
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    host.stop().await?;
    let mut host = Program::run(&bed.config(&recorder("in", "\"in\"")).in_place_of(&config))?;
    host.log(&["connect success"]).await?;
    let mut client = bed.client().await?;
    client.publish("in", b"first").await?;
    watcher.payload("in first").await?;
    client.publish("other", b"not for it").await?;
    client.publish("in", b"last").await?;
    watcher.payload("in last").await?;
    assert_eq!(watcher.records("out"), ["in first", "in last"]);
    host.stop().await
}
