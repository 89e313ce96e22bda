//! What the program says: nobody else can put words into its mouth, and its words lead to the cause.

use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

use alphorn::escape::is_hidden;
use serde_json::Value;

use crate::harness::{
    Answer, Bed, Config, Do, Host, Message, Packet, Program, Result, Scripted, Step, ensure, in_both_versions, kind,
    subscribes,
};

/// A topic, or any text, that would like to be more: a line of the host's own, a colour, the other
/// direction, another line of some viewers.
const EVIL: &str = "a\nERROR plugin{name=innocent}: forged\r\u{1b}[31m\u{202e}\u{2028}\u{85}\u{7f}z";

fn plugins(limits: &str) -> String {
    format!(
        r##"
        [plugins.villain]
        component = "misbehaves.wasm"
        publish = ["out"]
        subscribe = ["#"]
        config = {{ to = "out", filters = "#" }}
        limits = {{ retry = {{ max = 1 }}, restart = {{ max = 100, within = "1m" }}, {limits} }}
        [plugins.innocent]
        component = "recorder.wasm"
        publish = ["out"]
        subscribe = ["nothing"]
        config = {{ to = "out", filters = "nothing" }}
        "##
    )
}

/// A command for the host of this configuration; what it prints.
async fn asked(config: &Config, words: &[&str]) -> Result<String> {
    let socket = config.socket();
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([OsStr::new("--socket"), socket.as_os_str()]).collect();
    let mut command = Program::start(&words)?;
    command.fails(0, &[]).await?;
    Ok(command.stdout().join("\n"))
}

fn is_harmless(text: &str) -> bool {
    !text.contains(|character| character != '\n' && is_hidden(character))
}

in_both_versions! {
    nobody_from_outside_writes_a_line_or_steers_a_terminal
    a_refused_message_shows_in_ps
}

async fn nobody_from_outside_writes_a_line_or_steers_a_terminal(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    let config = broker.config(&bed, &plugins("log_rate = \"unlimited\"")).link(&format!("protocol = {protocol:?}"));
    // Quiet: whose a line is it says all the same.
    let mut host = Program::start(&["run".as_ref(), "-q".as_ref(), "--config".as_ref(), config.write()?.as_os_str()])?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "#")).await?;
    for (id, payload) in [(1, "drop"), (2, "retry-always"), (3, "trap"), (4, EVIL)] {
        broker.act(Do::deliver(EVIL, payload, id, false))?;
    }
    let is_last =
        |packet: &Packet| matches!(packet, Packet::Publish(message) if message.payload.starts_with(b"a\nERROR"));
    broker.packet("the last one", is_last).await?;
    host.log(&["WARN", "plugin{name=villain}", "gave a message up", r"topic=a\nERROR plugin"]).await?;
    let listed = asked(&config, &["dead-letters"]).await?;
    ensure!(listed.contains("not ever") && listed.contains(r"\u{1b}[31m\u{202e}\u{2028}"), "{listed}");
    let shown = asked(&config, &["dead-letters", "show", "villain", "--json"]).await?;
    let shown: Value = serde_json::from_str(&shown)?;
    let text = |key: &str| shown.get(key).and_then(Value::as_str);
    assert_eq!((text("topic"), text("payload")), (Some(EVIL), Some("retry-always")));
    let mut output = listed;
    for words in [
        &["ps"][..],
        &["ps", "--json"],
        &["top", "--count", "1"],
        &["dead-letters", "--json"],
        &["dead-letters", "show", "villain"],
        &["quarantine"],
        &["logs"],
    ] {
        output += &asked(&config, words).await?;
    }
    ensure!(is_harmless(&output), "{output:?}");
    let of_villain = asked(&config, &["logs", "villain"]).await?;
    ensure!(of_villain.contains("gave a message up"), "{of_villain}");
    assert_eq!(asked(&config, &["logs", "innocent"]).await?, "", "nothing was logged of it");
    host.stop().await?;
    let stderr = host.stderr();
    ensure!(is_harmless(&stderr), "{stderr:?}");
    ensure!(stderr.lines().all(|line| line.starts_with("20")), "each line is a record: {stderr}");
    Ok(())
}

#[tokio::test]
async fn sub_prints_no_line_that_a_topic_makes_up() -> Result<()> {
    let broker = Scripted::plain(kind).await?;
    let folder = tempfile::tempdir()?;
    let config = Config::new(folder.path(), &format!("mqtt://{}", broker.addr()), "").write()?;
    let config = config.to_string_lossy();
    for json in [&[][..], &["--json"]] {
        let seen = broker.packets(|packet| subscribes(packet, "#").then_some(())).len();
        let mut sub = Program::start(&[&["sub", "#", "--count", "1", "--config", &config], json].concat())?;
        broker.packet_times(seen + 1, "a SUBSCRIBE", |packet| subscribes(packet, "#")).await?;
        broker.act(Do::deliver(EVIL, "payload", 1, false))?;
        sub.fails(0, &[]).await?;
        let stdout = sub.stdout().join("\n");
        ensure!(is_harmless(&stdout) && sub.stdout().len() == 1, "{stdout:?}");
    }
    Ok(())
}

/// What a guest says when it panics is in the log, in `ps` and with its dead letter.
#[tokio::test]
async fn the_last_words_of_a_guest_are_kept_with_its_fault() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, kind).await?;
    let config = broker.config(&bed, &plugins(""));
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "#")).await?;
    broker.act(Do::deliver("in", "trap", 1, false))?;
    host.log(&["ERROR", "plugin{name=villain}", "it trapped", "its last words", "trapped as told"]).await?;
    let mut socket = Host::of(&config).await?;
    let has_words = |text: &str| text.contains("panicked at") && text.contains("trapped as told");
    let row = socket.until("villain", |row| row.last_error.is_some()).await?;
    ensure!(row.last_error.as_deref().is_some_and(has_words), "{row:?}");
    let letters = socket.dead_letters().await?;
    ensure!(letters.iter().any(|letter| has_words(&letter.reason)), "{letters:?}");
    let shown = asked(&config, &["dead-letters", "show", "villain"]).await?;
    ensure!(has_words(&shown) && shown.ends_with("\ntrap"), "{shown}");
    host.stop().await
}

async fn a_refused_message_shows_in_ps(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    // At 3.1.1 a broker has no way to refuse: there it is too old when the connection stands.
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(Message { packet_id: Some(id), .. })) => {
            vec![Do::Say(Answer::Puback { packet_id: *id, reason: 0x87 })]
        }
        _ => kind(event),
    })
    .await?;
    let older = if protocol == "5" { "" } else { "[outbox]\nmax_age = \"1ms\"\n" };
    let config = broker.config(&bed, &format!("{older}{}", plugins(""))).link(&format!("protocol = {protocol:?}"));
    let config = if protocol == "5" { config } else { config.link("url = \"mqtts://localhost:1\"") };
    let mut host = Program::run(&config)?;
    host.log(&["WARN", "a message was dropped", "plugin=\"villain\""]).await?;
    let row = Host::of(&config).await?.until("villain", |row| row.lost > 0 && row.last_error.is_some()).await?;
    ensure!(row.last_error.as_deref().is_some_and(|error| error.contains("`out` was dropped")), "{row:?}");
    let table = asked(&config, &["ps"]).await?;
    ensure!(table.lines().any(|line| line.contains("villain") && line.contains("0 in, 1 out")), "{table}");
    host.stop().await
}

#[tokio::test]
async fn a_full_disk_shows_in_ps() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config(&format!("[outbox]\nmin_free = \"1000PiB\"\n{}", plugins("")));
    let mut host = Program::run(&config)?;
    host.log(&["ERROR", "can't be stored"]).await?;
    let table = asked(&config, &["ps"]).await?;
    ensure!(table.lines().any(|line| line.starts_with("disk: ") && line.contains("can't be stored")), "{table}");
    host.stop().await
}

/// What the link says for a plugin is bounded as the plugin's own lines are, and names it also
/// where nothing is kept on disk.
#[tokio::test]
async fn the_link_says_no_more_of_a_plugin_than_its_rate() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Publish(Message { packet_id: Some(id), .. })) => {
            vec![Do::Say(Answer::Puback { packet_id: *id, reason: 0x87 })]
        }
        _ => kind(event),
    })
    .await?;
    let sequence = r#"
        [outbox]
        storage = "memory"
        [plugins.flood]
        component = "sequence.wasm"
        publish = ["seq"]
        config = { topic = "seq", count = "3000", interval = "20" }
        limits = { log_rate = "2/s", publish_rate = "unlimited" }
        "#;
    let mut host = Program::run(&broker.config(&bed, sequence))?;
    host.log_times(4, &["WARN", "a message was dropped", "plugin=\"flood\"", "topic=\"seq\""]).await?;
    host.log(&["WARN", "plugin{name=flood}", "lines about it were left out (`limits.log_rate`)"]).await?;
    let refused = broker.published("seq").len();
    let said = host.logged(&["a message was dropped"]);
    ensure!(refused >= 20 && said * 4 < refused, "{said} lines of {refused} messages");
    tokio::time::timeout(Duration::from_secs(10), host.stop()).await?
}

/// Each of many thousand messages a second is dropped, since it expires at once, and each could be a line.
#[tokio::test]
async fn messages_that_expire_at_once_fill_no_log() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config(
        r#"
        [outbox]
        storage = "memory"
        [plugins.flood]
        component = "sequence.wasm"
        publish = ["seq"]
        config = { topic = "seq", count = "4000000000", interval = "1", each = "1000", expiry = "0" }
        limits = { log_rate = "1/s", publish_rate = "unlimited" }
        "#,
    );
    let begin = Instant::now();
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    Host::of(&config).await?.until("flood", |row| row.lost > 50_000).await?;
    host.stop().await?;
    ensure!(host.logged(&["plugin=\"flood\"", "a message was dropped"]) > 0, "nothing is said of it");
    // One a second that it writes and one about it, each with one that says how many were left out, and
    // a burst of one; and what the host says of itself.
    let most = 30 + 4 * (begin.elapsed().as_secs() as usize + 2);
    ensure!(host.logged(&[]) < most, "{} lines, and {most} would be many", host.logged(&[]));
    Ok(())
}
