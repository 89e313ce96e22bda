//! Plugins that are none, plugins with faults, and their neighbours, who never notice.

use std::path::PathBuf;

use alphorn::control::protocol::Request;

use crate::harness::{Bed, Host, Mqtt, Program, Result, guest, handmade::World};

/// A good neighbour.
const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in"]
    config = { to = "out", filters = "in" }
"#;

/// A plugin that does what it is told on `deeds`; lines that follow add to it.
const MISBEHAVES: &str = r#"
    [plugins.misbehaves]
    component = "misbehaves.wasm"
    publish = ["said"]
    subscribe = ["deeds"]
    config = { to = "said", filters = "deeds" }
"#;

/// What can't be a plugin, and the words for it. The file is made in the bed's folder.
const BAD: [(&str, &[&str]); 9] = [
    ("missing.wasm", &["can't read the component", "missing.wasm"]),
    ("text.wasm", &["text.wasm is not WebAssembly", "#!/bin/s"]),
    ("empty.wasm", &["empty.wasm is not WebAssembly", "the file is empty"]),
    ("module.wasm", &["module.wasm is a core WebAssembly module", "wasm32-wasip2"]),
    ("truncated.wasm", &["truncated.wasm is not a valid component"]),
    ("world.wasm", &["world.wasm does not export alphorn:plugin/guest", "wasi:cli/run", "it exports other"]),
    ("foreign_import.wasm", &["foreign_import.wasm imports test:hardware/pins@1.0.0", "does not lend"]),
    ("later.wasm", &["later.wasm was built for alphorn:plugin 0.2.0", "this host has 0.1.0", "update the host"]),
    ("other_types.wasm", &["other_types.wasm was built against another version of the interface"]),
];

fn bad_files(bed: &Bed) -> Result<Vec<(PathBuf, &'static [&'static str])>> {
    bed.file("text.wasm", "#!/bin/sh\n")?;
    bed.file("empty.wasm", "")?;
    bed.file("world.wasm", wat::parse_str(r#"(component (instance $i) (export "other" (instance $i)))"#)?)?;
    bed.file("module.wasm", b"\0asm\x01\0\0\0")?;
    bed.file("later.wasm", World::of_version("0.2.0")?.component(&[], "", "", "")?)?;
    let whole = std::fs::read(guest("recorder")?)?;
    bed.file("truncated.wasm", whole.split_at(whole.len() / 2).0)?;
    Ok(BAD.iter().map(|(name, words)| (bed.folder().join(name), *words)).collect())
}

#[tokio::test]
async fn what_is_no_plugin_is_named_with_its_cause_and_the_others_run() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut config = RECORDER.to_owned();
    for (number, (file, _)) in bad_files(&bed)?.iter().enumerate() {
        config += &format!("[plugins.bad{number}]\ncomponent = {file:?}\n");
    }
    let mut host = bed.connected("5", &config).await?;
    for (number, (_, words)) in BAD.iter().enumerate() {
        host.log(&[&["ERROR", &format!("plugin{{name=bad{number}}}")], *words].concat()).await?;
    }
    watcher.ready("out").await?;
    bed.client().await?.publish("in", b"still here").await?;
    watcher.payload("in still here").await?;
    host.stop().await
}

#[tokio::test]
async fn check_says_the_same_of_what_is_no_plugin() -> Result<()> {
    let bed = Bed::start().await?;
    for (file, words) in bad_files(&bed)? {
        Program::start(&["check".as_ref(), file.as_os_str()])?.fails(65, words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_trap_does_not_touch_the_other_plugin() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let mut client = bed.client().await?;
    let config = format!("{RECORDER}{MISBEHAVES}limits = {{ retry = {{ max = 1 }} }}");
    let mut host = bed.connected("5", &config).await?;
    watcher.payload("started: first").await?;
    watcher.ready("out").await?;
    for round in 1..=2 {
        tell(&mut client, "trap").await?;
        // The guest's own words reach the log as well.
        host.log_times(round, &["plugin{name=misbehaves}", "trapped as told"]).await?;
        host.log_times(round, &["ERROR", "plugin{name=misbehaves}", "it trapped", "it starts again in"]).await?;
        client.publish("in", format!("round {round}").as_bytes()).await?;
        watcher.payload(&format!("in round {round}")).await?;
        let restarted =
            |messages: &[_]| (messages.iter().filter(|m| is(m, "started: restart")).count() == round).then_some(());
        watcher.wait_for("another start", restarted).await?;
    }
    tell(&mut client, "better").await?;
    watcher.payload("better, attempt 1").await?;
    assert_eq!(host.logged(&["plugin{name=recorder}", "it trapped"]), 0);
    assert_eq!((bed.connections(), host.logged(&["connection lost"])), (1, 0));
    host.stop().await
}

#[tokio::test]
async fn a_message_that_traps_each_time_is_given_up() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("said").await?;
    let mut client = bed.client().await?;
    let config = format!("{MISBEHAVES}limits = {{ retry = {{ max = 2, min = \"10ms\" }} }}");
    let mut host = bed.connected("5", &config).await?;
    watcher.payload("started: first").await?;
    tell(&mut client, "trap").await?;
    host.log(&["about to trap, attempt 2"]).await?;
    host.log(&["plugin{name=misbehaves}", "given up after its last attempt"]).await?;
    tell(&mut client, "something else").await?;
    watcher.payload("something else, attempt 1").await?;
    // It was acknowledged: a new connection of the same session does not bring it back.
    bed.cut().await?;
    host.connects(2, "present").await?;
    tell(&mut client, "the end").await?;
    watcher.payload("the end, attempt 1").await?;
    assert_eq!(host.logged(&["about to trap"]), 2);
    host.stop().await
}

#[tokio::test]
async fn too_many_faults_quarantine_a_plugin() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let mut client = bed.client().await?;
    let limits = "limits = { retry = { max = 1 }, restart = { max = 1, within = \"1m\" } }";
    let mut host = bed.connected("5", &format!("{RECORDER}{MISBEHAVES}{limits}")).await?;
    watcher.payload("started: first").await?;
    watcher.ready("out").await?;
    tell(&mut client, "trap").await?;
    watcher.payload("started: restart").await?;
    tell(&mut client, "trap").await?;
    host.log(&["ERROR", "plugin{name=misbehaves}", "too often", "quarantined"]).await?;
    client.publish("in", b"still here").await?;
    watcher.payload("in still here").await?;
    assert_eq!(watcher.payloads().iter().filter(|payload| payload.starts_with("started")).count(), 2);
    host.stop().await
}

#[tokio::test]
async fn a_plugin_that_traps_in_start_does_not_keep_the_host_from_connecting() -> Result<()> {
    starts_badly("trap", "restart = { max = 0 }", &["it trapped", "quarantined"]).await
}

#[tokio::test]
async fn a_plugin_that_hangs_in_start_does_not_keep_the_host_from_connecting() -> Result<()> {
    starts_badly(
        "loop",
        "start_deadline = \"300ms\", restart = { max = 0 }",
        &["its start took longer than 300ms (`limits.start_deadline`)"],
    )
    .await
}

async fn starts_badly(deed: &str, limits: &str, words: &[&str]) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = format!(
        "{RECORDER}{}\nlimits = {{ {limits} }}\n",
        MISBEHAVES.replace("filters", &format!("on_start = {deed:?}, filters"))
    );
    let mut host = bed.connected("5", &config).await?;
    host.log(&[&["ERROR", "plugin{name=misbehaves}"], words].concat()).await?;
    watcher.ready("out").await?;
    bed.client().await?.publish("in", b"still here").await?;
    watcher.payload("in still here").await?;
    host.stop().await
}

#[tokio::test]
async fn a_busy_loop_ends_at_its_deadline_and_its_neighbour_goes_on_meanwhile() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let mut client = bed.client().await?;
    let limits = "limits = { deadline = \"2s\", retry = { max = 1 } }";
    let mut host = bed.connected("5", &format!("{RECORDER}{MISBEHAVES}{limits}")).await?;
    watcher.payload("started: first").await?;
    watcher.ready("out").await?;
    tell(&mut client, "loop").await?;
    host.log(&["about to loop"]).await?;
    for number in 0..10 {
        client.publish("in", number.to_string().as_bytes()).await?;
        watcher.payload(&format!("in {number}")).await?;
    }
    assert_eq!(host.logged(&["it took longer"]), 0, "the neighbour had to wait for the loop's end");
    host.log(&["ERROR", "plugin{name=misbehaves}", "it took longer than 2s (`limits.deadline`)"]).await?;
    watcher.payload("started: restart").await?;
    host.stop().await
}

#[tokio::test]
async fn a_plugin_that_eats_memory_is_stopped_at_its_limit() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let mut client = bed.client().await?;
    let limits = "limits = { memory = \"4MiB\", retry = { max = 1 } }";
    let mut host = bed.connected("5", &format!("{RECORDER}{MISBEHAVES}{limits}")).await?;
    watcher.payload("started: first").await?;
    watcher.ready("out").await?;
    tell(&mut client, "eat").await?;
    host.log(&["ERROR", "plugin{name=misbehaves}", "memory", "limits.memory"]).await?;
    watcher.payload("started: restart").await?;
    client.publish("in", b"still here").await?;
    watcher.payload("in still here").await?;
    host.stop().await
}

#[tokio::test]
async fn a_plugin_that_asks_for_another_attempt_gets_it() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("said").await?;
    let mut client = bed.client().await?;
    let config = format!("{MISBEHAVES}limits = {{ retry = {{ max = 2, min = \"10ms\" }} }}");
    let mut host = bed.connected("5", &config).await?;
    watcher.payload("started: first").await?;
    tell(&mut client, "retry").await?;
    watcher.payload("retry, attempt 2").await?;
    tell(&mut client, "retry-always").await?;
    host.log(&["plugin{name=misbehaves}", "given up after its last attempt", "not ever"]).await?;
    tell(&mut client, "drop").await?;
    host.log(&["plugin{name=misbehaves}", "gave a message up", "not wanted"]).await?;
    tell(&mut client, "the end").await?;
    watcher.payload("the end, attempt 1").await?;
    host.stop().await
}

#[tokio::test]
async fn a_topic_that_fails_does_not_hold_up_the_plugins_other_topics() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("said").await?;
    let mut client = bed.client().await?;
    let config = MISBEHAVES.replace("\"deeds\"", "\"deeds/#\"")
        + "limits = { retry = { max = 2, min = \"1m\" }, mailbox = { messages = 4, bytes = \"1MiB\" } }";
    let mut host = bed.connected("5", &config.replace("filters = \"deeds\"", "filters = \"deeds/#\"")).await?;
    watcher.payload("started: first").await?;
    for deed in ["retry-always", "1", "2", "3", "4"] {
        client.publish("deeds/a", deed.as_bytes()).await?;
    }
    host.log(&["plugin{name=misbehaves}", "is tried again in 1m"]).await?;
    client.publish("deeds/b", b"other").await?;
    watcher.payload("other, attempt 1").await?;
    assert_eq!(watcher.payloads(), ["started: first", "other, attempt 1"]);
    host.stop().await
}

#[tokio::test]
async fn a_plugin_whose_file_was_missing_can_be_started_when_it_is_there() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(&RECORDER.replace("recorder.wasm", "late.wasm"));
    let mut host = Program::run(&config)?;
    host.log(&["ERROR", "late.wasm"]).await?;
    host.log(&["connect success"]).await?;
    let mut socket = Host::of(&config).await?;
    let start = || Request::Start { name: "recorder".to_owned() };
    let still = socket.does(start()).await?.unwrap_err();
    assert!(still.contains("late.wasm"), "{still}");
    bed.file("late.wasm", std::fs::read(guest("recorder")?)?)?;
    socket.does(start()).await?.map_err(anyhow::Error::msg)?;
    watcher.ready("out").await?;
    bed.client().await?.publish("in", b"at last").await?;
    watcher.payload("in at last").await?;
    host.stop().await
}

#[tokio::test]
async fn what_a_plugin_says_is_logged_under_its_name() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected("5", "[plugins.talker]\ncomponent = \"talker.wasm\"").await?;
    for (level, words) in [
        ("INFO", "said by println"),
        ("ERROR", "said by eprintln"),
        ("INFO", "first of two lines"),
        ("INFO", "second of two lines"),
        ("INFO", "said by info"),
        ("WARN", "said by warn"),
        ("ERROR", "said by error"),
    ] {
        host.log(&[level, "plugin{name=talker}", words]).await?;
    }
    // Only with -v.
    assert_eq!((host.logged(&["said by debug"]), host.logged(&["said by trace"])), (0, 0));
    host.stop().await?;
    host.log(&["plugin{name=talker}", "said without an end of line"]).await?;
    Ok(())
}

async fn tell(client: &mut Mqtt<tokio::net::TcpStream>, deed: &str) -> Result<()> {
    client.publish("deeds", deed.as_bytes()).await
}

fn is(message: &crate::harness::Message, payload: &str) -> bool {
    message.payload == payload.as_bytes()
}
