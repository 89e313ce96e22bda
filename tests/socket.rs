//! The running host's socket and the commands that use it.

use std::{ffi::OsStr, io::ErrorKind, os::unix::fs::PermissionsExt};

use alphorn::control::protocol::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::harness::{Bed, Config, Context as _, Host, Program, Result, soon};

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in"]
    config = { to = "out", filters = "in" }
"#;

fn command(config: &Config, words: &[&str]) -> Result<Program> {
    let socket = config.socket();
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([OsStr::new("--socket"), socket.as_os_str()]).collect();
    Program::start(&words)
}

#[tokio::test]
async fn the_host_can_be_looked_at_and_acted_on() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(RECORDER);
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    assert_eq!(std::fs::metadata(config.socket())?.permissions().mode() & 0o777, 0o600);
    let mut ps = command(&config, &["ps"])?;
    ps.prints(&["alphorn", "device", "link up"]).await?;
    ps.prints(&["recorder", "running"]).await?;
    ps.fails(0, &[]).await?;
    let json = command(&config, &["ps", "--json"])?;
    json.prints(&["\"name\":\"recorder\"", "\"state\":\"running\""]).await?;
    let mut top = command(&config, &["top", "--count", "2", "--every", "10ms"])?;
    top.prints(&["recorder", "running", "%"]).await?;
    top.fails(0, &[]).await?;
    bed.client().await?.publish("in", b"hello").await?;
    watcher.payload("in hello").await?;
    let mut logs = command(&config, &["logs", "recorder"])?;
    logs.prints(&["plugin{name=recorder}", "received hello"]).await?;
    logs.fails(0, &[]).await?;
    assert!(!logs.stdout().iter().any(|line| line.contains("connect success")), "another's line");
    let follow = command(&config, &["logs", "-f", "-n", "0", "recorder"])?;

    command(&config, &["explain", "recorder", "publish", "out"])?.fails(0, &[]).await?;
    let mut no = command(&config, &["explain", "recorder", "subscribe", "#"])?;
    no.prints(&["no:", "wider than `in`"]).await?;
    no.fails(77, &[]).await?;
    command(&config, &["stop", "nobody"])?.fails(64, &["no plugin is called `nobody`", "recorder"]).await?;

    // Messages of a stopped plugin wait for it.
    command(&config, &["stop", "recorder"])?.fails(0, &[]).await?;
    watcher.payload("* stop: removed").await?;
    bed.client().await?.publish("in", b"meanwhile").await?;
    command(&config, &["ps"])?.prints(&["recorder", "stopped"]).await?;
    command(&config, &["start", "recorder"])?.fails(0, &[]).await?;
    watcher.payload("in meanwhile").await?;
    follow.prints(&["received meanwhile"]).await?;
    assert_eq!(bed.connections(), 1);
    host.stop().await?;
    assert!(!config.socket().exists());
    command(&config, &["ps"])?.fails(69, &["no host answers", ".sock"]).await
}

#[tokio::test]
async fn a_second_host_is_refused_and_a_stale_socket_is_not() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("");
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    Program::run(&config)?.fails(78, &["another host's socket"]).await?;
    host.kill().await?;
    assert!(config.socket().exists());
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    Host::of(&config).await?.status().await?;
    host.stop().await
}

/// Clients that connect and say nothing.
async fn silent(config: &Config, count: usize) -> Result<Vec<UnixStream>> {
    let mut clients = Vec::new();
    while clients.len() < count {
        match UnixStream::connect(config.socket()).await {
            Ok(client) => clients.push(client),
            // More than the host has taken yet.
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(clients)
}

#[tokio::test]
async fn silent_clients_lock_nobody_out_and_do_not_end_who_listens() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(RECORDER);
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    let follow = command(&config, &["logs", "-f", "recorder"])?;
    follow.prints(&["plugin{name=recorder}"]).await?;
    let mut silent_ones = silent(&config, 16).await?;
    silent_ones[0].write_all(b"{\"do\":").await?;
    command(&config, &["ps"])?.prints(&["recorder", "running"]).await?;
    silent_ones.extend(silent(&config, 284).await?);
    command(&config, &["ps"])?.prints(&["recorder", "running"]).await?;
    // The oldest had to make room, and was told so; the youngest may still ask.
    let mut answer = String::new();
    soon("the end of the oldest", silent_ones[0].read_to_string(&mut answer)).await??;
    assert!(answer.contains("cut off"), "{answer}");
    let youngest = silent_ones.last_mut().context("some")?;
    youngest.write_all(b"{\"do\":\"ps\"}\n").await?;
    assert_eq!(soon("an answer", youngest.read_u8()).await??, b'{');
    bed.client().await?.publish("in", b"hello").await?;
    follow.prints(&["received hello"]).await?;
    // Nor does whoever listens to the log, however many.
    let mut listeners = Vec::new();
    for _ in 0..20 {
        let mut listener = UnixStream::connect(config.socket()).await?;
        listener.write_all(b"{\"do\":\"logs\",\"lines\":1,\"follow\":true}\n").await?;
        soon("a line, or a refusal", listener.read_u8()).await??;
        listeners.push(listener);
    }
    command(&config, &["logs", "-f"])?.fails(69, &["busy with 16 requests"]).await?;
    command(&config, &["ps"])?.prints(&["recorder", "running"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_busy_host_keeps_its_socket() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("");
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    let silent_ones = silent(&config, 40).await?;
    Program::run(&config)?.fails(78, &["another host's socket"]).await?;
    Host::of(&config).await?.status().await?;
    drop(silent_ones);
    host.stop().await
}

#[tokio::test]
async fn a_file_where_the_socket_should_be_is_left_alone() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("");
    std::fs::write(config.socket(), "precious")?;
    Program::run(&config)?.fails(78, &["is a file", "host.socket"]).await?;
    assert_eq!(std::fs::read(config.socket())?, b"precious");
    Ok(())
}

#[tokio::test]
async fn nonsense_and_silence_at_the_socket_hurt_nobody() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config(RECORDER);
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    let _silent = UnixStream::connect(config.socket()).await?;
    let long = "x".repeat(200_000);
    for nonsense in ["\n", "{}\n", "{\"do\":\"fly\"}\n", "\u{0}\n", "[[[[\n", long.as_str()] {
        let mut stream = UnixStream::connect(config.socket()).await?;
        // It may have been cut off already.
        let _ = stream.write_all(nonsense.as_bytes()).await;
        let mut answer = String::new();
        let read = soon("an answer", stream.read_to_string(&mut answer)).await?;
        assert!(read.is_err() || answer.contains("not a request"), "{answer}");
    }
    let mut socket = Host::of(&config).await?;
    assert_eq!(socket.plugin("recorder").await?.state, "running");
    let unknown = socket.does(Request::Start { name: "x".to_owned() }).await?.unwrap_err();
    assert!(unknown.contains("no plugin is called `x`"), "{unknown}");
    host.stop().await
}

#[tokio::test]
async fn two_hundred_plugins_start_serve_and_are_listed() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out/#").await?;
    let plugin = |number| {
        format!(
            "[plugins.p{number}]\ncomponent = \"recorder.wasm\"\npublish = [\"out/#\"]\nsubscribe = [\"in/#\"]\n\
             config = {{ to = \"out/{number}\", filters = \"in/{number}\" }}\n"
        )
    };
    let config = bed.config(&(0..200).map(plugin).collect::<String>());
    let mut host = Program::run(&config)?;
    let mut client = bed.client().await?;
    for number in 0..200 {
        watcher.ready(&format!("out/{number}")).await?;
        client.publish(&format!("in/{number}"), b"hello").await?;
        watcher.payload(&format!("in/{number} hello")).await?;
    }
    let mut socket = Host::of(&config).await?;
    for number in 0..200 {
        socket.until(&format!("p{number}"), |row| row.handled == 1).await?;
    }
    let status = socket.status().await?;
    assert_eq!(status.plugins.iter().filter(|row| row.state == "running" && row.handled == 1).count(), 200);
    let mut ps = command(&config, &["ps"])?;
    ps.prints(&["p199", "running"]).await?;
    ps.exit().await?;
    assert!(ps.stdout().len() == 202 && ps.stdout().iter().all(|line| line.len() < 120), "{:?}", ps.stdout().first());
    host.stop().await
}
