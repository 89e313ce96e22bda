//! Components of wasi:messaging, by way of the adapter.

use alphorn::control::protocol::Request;

use crate::harness::{Bed, Host, Program, Result, Watcher, version};

/// The component, with these limits and lines.
fn handler(limits: &str, more: &str) -> String {
    format!(
        "[plugins.handler]\ncomponent = \"messaging.wasm\"\npublish = [\"out\", \"in\"]\nsubscribe = [\"in\"]\n\
         limits = {{ {limits} }}\n{more}\n"
    )
}

struct Running {
    bed: Bed,
    host: Program,
    socket: Host,
    watcher: Watcher,
}

impl Running {
    async fn start(limits: &str, more: &str) -> Result<Self> {
        let bed = Bed::start().await?;
        let config = bed.config(&handler(limits, more));
        let watcher = bed.watch("out").await?;
        // What was sent before would be lost, and nobody else tells when that is.
        let run = ["run".into(), "--config".into(), config.write()?.into_os_string()];
        let host = Program::start_with(&run, &[("RUST_LOG", "info,alphorn::link=debug")])?;
        host.log(&["subscribed", "filter=in"]).await?;
        let socket = Host::of(&config).await?;
        Ok(Self { bed, host, socket, watcher })
    }

    async fn tell(&self, text: &str) -> Result<()> {
        self.bed.client().await?.publish("in", text.as_bytes()).await
    }
}

#[tokio::test]
async fn a_message_is_handled_and_what_is_sent_is_published() -> Result<()> {
    let mut running = Running::start("", "").await?;
    running.tell("a").await?;
    running.watcher.payload("in a None []").await?;
    // Both ways: what it sends to itself comes back as it was sent.
    running.tell("tag").await?;
    running.watcher.payload("in tagged Some(\"text/plain\") [(\"a\", \"3\"), (\"c\", \"4\")]").await?;
    let row = running.socket.until("handler", |row| row.handled == 3).await?;
    assert_eq!((row.state.as_str(), row.faults, row.calls), ("running", 0, 3));
    running.host.stop().await
}

#[tokio::test]
async fn what_is_not_granted_is_an_error_it_can_name() -> Result<()> {
    let mut running = Running::start("publish_rate = \"10/m\"", "").await?;
    running.tell("secret").await?;
    let denied = running.watcher.payload_like("Err(").await?;
    assert!(denied.contains("PermissionDenied") && denied.contains("`secret` is not within"), "{denied}");
    running.host.log(&["WARN", "plugin{name=handler}", "not granted"]).await?;
    // So is a rate that is used up.
    running.tell("flood").await?;
    running.host.log(&["plugin{name=handler}", "is tried again", "limits.publish_rate"]).await?;
    running.host.stop().await
}

#[tokio::test]
async fn an_error_is_another_attempt_and_in_the_end_a_dead_letter() -> Result<()> {
    let mut running = Running::start("retry = { max = 3, min = \"10ms\" }", "").await?;
    running.tell("fail").await?;
    running.host.log(&["ERROR", "plugin{name=handler}", "dead letter", "failed as told"]).await?;
    running.watcher.count(3).await?;
    let letters = running.socket.dead_letters().await?;
    assert_eq!(letters.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [3]);
    assert_eq!(running.socket.plugin("handler").await?.faults, 0, "an error is no fault");
    running.host.stop().await
}

#[tokio::test]
async fn a_trap_and_messages_that_are_hoarded_are_faults() -> Result<()> {
    let mut running = Running::start("memory = \"4MiB\", retry = { max = 1 }, inbox_bytes = \"16MiB\"", "").await?;
    running.tell("trap").await?;
    running.host.log(&["ERROR", "plugin{name=handler}", "it trapped"]).await?;
    running.tell("hoard").await?;
    running.host.log(&["ERROR", "plugin{name=handler}", "bytes of memory", "limits.memory"]).await?;
    running.tell("a").await?;
    running.watcher.payload("in a None []").await?;
    // What was held for calls that ended well is held no longer. The inbox has room for all of
    // it: so much at once finds the plugin too slow.
    for number in 0..100 {
        running.tell(&format!("{number} {}", "x".repeat(100_000))).await?;
    }
    let all = |messages: &[_]| (messages.len() == 101).then_some(());
    running.watcher.wait_for("all of them", all).await?;
    assert_eq!(running.socket.plugin("handler").await?.faults, 2);
    running.host.stop().await
}

#[tokio::test]
async fn another_version_takes_over_between_two_messages() -> Result<()> {
    let mut running = Running::start("", "").await?;
    let file = running.bed.file("version.wasm", version("messaging", 1)?)?;
    running.tell("a").await?;
    running.socket.swap("handler", &file).await?.map_err(anyhow::Error::msg)?;
    running.tell("b").await?;
    running.watcher.payload("in b None []").await?;
    assert_eq!(running.socket.plugin("handler").await?.state, "probation");
    let back = Request::Rollback { name: "handler".to_owned(), to: None, dry_run: false };
    running.socket.does(back).await?.map_err(anyhow::Error::msg)?;
    running.tell("c").await?;
    running.watcher.payload("in c None []").await?;
    running.host.stop().await
}

#[tokio::test]
async fn its_subscriptions_and_qos_are_configured() -> Result<()> {
    let table = "[plugins.handler.messaging]\nsubscribe = [\"in\"]\nqos = 0";
    let mut running = Running::start("", table).await?;
    running.tell("a").await?;
    let message = running.watcher.payload("in a None []").await?;
    assert_eq!(message.qos, 0);
    running.host.stop().await?;
    let bed = Bed::start().await?;
    for (table, words) in [
        ("subscribe = [\"#\"]", ["messaging.subscribe", "wider than `in`"]),
        ("qos = 2", ["messaging.qos", "0, or 1"]),
        ("subscribed = []", ["unknown field `subscribed`", "did you mean `subscribe`?"]),
    ] {
        let config = bed.config(&handler("", &format!("[plugins.handler.messaging]\n{table}")));
        Program::run(&config)?.fails(78, &words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn request_reply_is_refused_by_name_where_it_is_loaded_and_by_check() -> Result<()> {
    let bed = Bed::start().await?;
    let words =
        ["asks.wasm imports wasi:messaging/request-reply@0.2.0-draft", "does not lend", "subscribe to the topic"];
    let mut host = bed.connected("5", "[plugins.asks]\ncomponent = \"asks.wasm\"").await?;
    host.log(&[&["ERROR", "plugin{name=asks}"], &words[..]].concat()).await?;
    host.stop().await?;
    let check = |file: &str| Program::start(&["check".as_ref(), bed.folder().join(file).as_os_str()]);
    check("asks.wasm")?.fails(65, &words).await?;
    let mut good = check("messaging.wasm")?;
    good.prints(&["kind", "a component of wasi:messaging (0.2.0-draft)"]).await?;
    good.prints(&["refused: wasi:messaging/request-reply", "QoS"]).await?;
    good.fails(0, &[]).await
}

#[tokio::test]
async fn a_table_for_another_kind_is_named() -> Result<()> {
    let bed = Bed::start().await?;
    let plugins = "[plugins.recorder]\ncomponent = \"recorder.wasm\"\nmessaging = {}\n\
        [plugins.handler]\ncomponent = \"messaging.wasm\"\nconfig = { a = \"b\" }\n";
    let mut host = bed.connected("5", plugins).await?;
    host.log(&["ERROR", "plugin{name=recorder}", "is for components of wasi:messaging only"]).await?;
    host.log(&["ERROR", "plugin{name=handler}", "[plugins.NAME.config]"]).await?;
    host.stop().await
}

#[tokio::test]
async fn another_draft_is_named_with_its_version() -> Result<()> {
    let bed = Bed::start().await?;
    let component = r#"(component (instance $i) (export "wasi:messaging/incoming-handler@0.3.0" (instance $i)))"#;
    let file = bed.file("later.wasm", wat::parse_str(component)?)?;
    let words = ["later.wasm was built for wasi:messaging 0.3.0", "this host has 0.2.0-draft"];
    Program::start(&["check".as_ref(), file.as_os_str()])?.fails(65, &words).await
}
