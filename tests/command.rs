//! Plain WASI programs: lines that are published, messages that are lines.

use std::time::{Duration, Instant};

use alphorn::control::protocol::Request;
use alphorn_dev_broker::Direction;

use crate::harness::{Bed, Config, Host, Message, Program, Result, Watcher, ensure, seed, version};

/// A host with a program that has started.
struct Running {
    bed: Bed,
    config: Config,
    host: Program,
    socket: Host,
    watcher: Watcher,
}

/// The program, with these lines in `[plugins.program.command]` and these limits.
fn program(command: &str, limits: &str) -> String {
    format!(
        "[plugins.program]\ncomponent = \"program.wasm\"\npublish = [\"out\", \"other\"]\nsubscribe = [\"in\"]\n\
         limits = {{ {limits} }}\n[plugins.program.command]\ntopic = \"out\"\n{command}\n"
    )
}

/// A good neighbour.
const RECORDER: &str = "[plugins.recorder]\ncomponent = \"recorder.wasm\"\npublish = [\"heard\"]\n\
    subscribe = [\"near\"]\nconfig = { to = \"heard\", filters = \"near\" }\n";

impl Running {
    async fn start(command: &str, limits: &str) -> Result<Self> {
        Self::with(&program(command, limits), Bed::start().await?).await
    }

    async fn with(plugins: &str, bed: Bed) -> Result<Self> {
        let config = bed.config(plugins);
        let watcher = bed.watch("#").await?;
        let host = subscribed(&config).await?;
        let socket = Host::of(&config).await?;
        Ok(Self { bed, config, host, socket, watcher })
    }

    /// As it is told in a message.
    async fn tell(&self, line: &str) -> Result<()> {
        self.bed.client().await?.publish("in", line.as_bytes()).await
    }

    async fn does(&mut self, request: Request) -> Result<()> {
        self.socket.does(request).await?.map(drop).map_err(anyhow::Error::msg)
    }

    async fn swap(&mut self) -> Result<()> {
        let file = self.bed.file("version.wasm", version("program", 1)?)?;
        self.socket.swap("program", &file).await?.map(drop).map_err(anyhow::Error::msg)
    }

    /// What the program has published so far.
    fn said(&self) -> Vec<String> {
        let lines = self.watcher.lines();
        lines.iter().filter_map(|line| line.strip_prefix("out ").map(str::to_owned)).collect()
    }

    /// Waits until it has published this line so many times.
    async fn said_times(&self, line: &str, count: usize) -> Result<()> {
        let is = |message: &&Message| message.topic == "out" && message.payload == line.as_bytes();
        let what = format!("{line} {count} times");
        self.watcher.wait_for(&what, |all| (all.iter().filter(is).count() >= count).then_some(())).await
    }
}

/// Runs the host until the broker has its subscription: what was sent before would be lost, and
/// nobody else tells when that is.
async fn subscribed(config: &Config) -> Result<Program> {
    let run = ["run".into(), "--config".into(), config.write()?.into_os_string()];
    let host = Program::start_with(&run, &[("RUST_LOG", "info,alphorn::link=debug")])?;
    host.log(&["subscribed", "filter=in"]).await?;
    Ok(host)
}

fn start() -> Request {
    Request::Start { name: "program".to_owned() }
}

fn stop() -> Request {
    Request::Stop { name: "program".to_owned() }
}

#[tokio::test]
async fn lines_are_published_and_messages_are_lines() -> Result<()> {
    let mut running = Running::start("args = [\"one\", \"two\"]", "retry = { max = 1 }").await?;
    running.watcher.payload("started one two").await?;
    let mut client = running.bed.client().await?;
    for payload in [&b"a"[..], b"with its end\n", b"", b"\xff", b"print ", b"two\nlines", b"last"] {
        client.publish("in", payload).await?;
    }
    running.watcher.payload("got last").await?;
    let is_raw = |messages: &[Message]| messages.iter().any(|message| message.payload == b"got \xff").then_some(());
    running.watcher.wait_for("bytes that are no text", is_raw).await?;
    let said: Vec<_> = running.said().into_iter().filter(|line| !line.contains('\u{fffd}')).collect();
    assert_eq!(said, ["started one two", "got a", "got with its end", "got ", "got last"], "nothing for a blank line");
    // What would have been two lines is kept.
    let letters = running.socket.dead_letters().await?;
    assert_eq!(letters.len(), 1);
    running.host.log(&["ERROR", "plugin{name=program}", "several lines", "command.input = \"json\""]).await?;
    let row = running.socket.until("program", |row| row.handled == 6).await?;
    assert_eq!((row.state.as_str(), row.dead, row.faults), ("running", 1, 0));
    assert!(row.memory > 0, "{row:?}");
    running.host.stop().await?;
    // A shutdown is the end of its input, too; what it prints then still leaves.
    running.watcher.payload("without an end").await.map(drop)
}

#[tokio::test]
async fn json_lines_carry_topics_and_any_payload() -> Result<()> {
    let mut running = Running::start("input = \"json\"\nargs = [\"quiet\"]", "").await?;
    let mut client = running.bed.client().await?;
    client.publish("in", b"one\ntwo").await?;
    client.publish("in", b"\xff").await?;
    let text = r#"got {"topic":"in","payload":"one\ntwo","qos":1,"retain":false,"attempt":1,"redelivered":false}"#;
    running.watcher.payload(text).await?;
    running.watcher.payload_like(r#"got {"topic":"in","payload_base64":"/w==""#).await?;
    running.host.stop().await
}

#[tokio::test]
async fn json_lines_say_where_they_go_and_what_is_wrong_with_one_is_logged() -> Result<()> {
    let mut running = Running::start("output = \"json\"\nargs = [\"quiet\"]", "").await?;
    running.tell(r#"print {"topic":"other","payload":"x","qos":0,"retain":true}"#).await?;
    let kept = |messages: &[Message]| messages.iter().find(|message| message.topic == "other").cloned();
    let message = running.watcher.wait_for("the other topic", kept).await?;
    assert_eq!((message.payload.as_slice(), message.qos), (&b"x"[..], 0));
    for (line, words) in [
        (r#"{"topik":"other","payload":"x"}"#, "did you mean `topic`?"),
        (r#"{"topic":"secret","payload":"x"}"#, "`secret` is not within the plugin's publish grants"),
        (r#"{"topic":"a/+","payload":"x"}"#, "wildcard"),
        ("21.5", "was not published"),
    ] {
        running.tell(&format!("print {line}")).await?;
        running.host.log(&["WARN", "plugin{name=program}", "was not published", words]).await?;
    }
    // Which costs nothing but that line.
    running.tell(r#"print {"payload_base64":"Z28gb24="}"#).await?;
    running.watcher.payload("go on").await?;
    assert_eq!(running.socket.plugin("program").await?.faults, 0);
    running.host.stop().await
}

#[tokio::test]
async fn without_a_topic_lines_go_to_the_log() -> Result<()> {
    let bed = Bed::start().await?;
    let plugins = program("", "").replace("topic = \"out\"\n", "");
    let mut running = Running::with(&plugins, bed).await?;
    running.tell("a").await?;
    running.host.log(&["INFO", "plugin{name=program}", "got a"]).await?;
    assert_eq!(running.said().len(), 0);
    running.host.stop().await
}

#[tokio::test]
async fn a_line_is_handled_when_the_next_one_is_asked_for_and_not_before() -> Result<()> {
    let mut running = Running::start("", "").await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    running.socket.until("program", |row| row.handled == 1).await?;
    running.tell("nap 3600000").await?;
    running.said_times("napping", 1).await?;
    assert_eq!(running.socket.plugin("program").await?.handled, 1, "it is still at it");
    running.tell("b").await?;
    running.host.kill().await?;
    // Only what was not handled comes again, first and in order. (What was published may repeat.)
    let mut again = Program::run(&running.config)?;
    running.said_times("napping", 2).await?;
    let row = Host::of(&running.config).await?.plugin("program").await?;
    assert_eq!((row.calls, row.handled), (1, 0), "it was given nothing before");
    assert!(!running.said().contains(&"got b".to_owned()), "it comes behind");
    again.kill().await
}

/// Whenever the process ends, each line that it was given and that the broker has no more is one
/// that it has printed, on disk.
#[tokio::test]
async fn a_kill_at_any_moment_loses_no_line_between_input_and_output() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let config = bed.config(&program("args = [\"quiet\"]", "publish_rate = \"unlimited\""));
    let mut random = fastrand::Rng::with_seed(seed());
    let mut sent = 0;
    for round in 0..30 {
        // Without its acknowledgements what it prints waits in the host, while lines go on coming.
        bed.faults().delay(Direction::ToClient, Duration::from_millis(random.u64(0..100)));
        // From the first time on the broker keeps the subscription.
        let mut host = if round == 0 { subscribed(&config).await? } else { Program::run(&config)? };
        host.log(&["connect success"]).await?;
        let end = Instant::now() + Duration::from_micros(random.u64(0..300_000));
        while Instant::now() < end {
            client.publish("in", format!("{sent:06}").as_bytes()).await?;
            sent += 1;
            // No more at once than the broker keeps for the host.
            let is_near = |messages: &[Message]| {
                let last = messages.last().and_then(|message| line_number(&String::from_utf8_lossy(&message.payload)));
                (last.unwrap_or(0) + 200 > sent).then_some(())
            };
            let _ = tokio::time::timeout_at(end.into(), watcher.wait_for("earlier lines", is_near)).await;
        }
        host.kill().await?;
        ensure!(host.logged(&["can't be"]) == 0 && host.logged(&["damaged"]) == 0, "round {round}");
    }
    bed.faults().delay(Direction::ToClient, Duration::ZERO);
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    client.publish("in", b"the end").await?;
    watcher.payload("got the end").await?;
    // What comes again was there before; all else is in order.
    let mut next = 0;
    for line in watcher.payloads() {
        let Some(number) = line_number(&line) else { continue };
        ensure!(number <= next, "line {next} of {sent} is missing: {number} came instead");
        next = next.max(number + 1);
    }
    ensure!(next == sent, "line {next} of {sent} is missing at the end");
    println!("{sent} lines, {} came out", watcher.payloads().len());
    host.stop().await
}

/// Of a line that was numbered and came out.
fn line_number(line: &str) -> Option<u32> {
    line.strip_prefix("got ")?.parse().ok()
}

#[tokio::test]
async fn exit_0_is_finished_until_somebody_starts_it_again() -> Result<()> {
    let mut running = Running::start("", "").await?;
    running.tell("exit 0").await?;
    let row = running.socket.until("program", |row| row.state == "finished").await?;
    assert_eq!((row.handled, row.faults), (1, 0), "the line that ended it is done with");
    running.host.log(&["plugin{name=program}", "has finished", "alphorn start program"]).await?;
    running.tell("later").await?;
    running.does(start()).await?;
    running.watcher.payload("got later").await?;
    running.said_times("started ", 2).await?;
    assert_eq!(running.socket.plugin("program").await?.state, "running");
    running.host.stop().await
}

#[tokio::test]
async fn another_exit_code_is_a_fault_and_so_is_a_trap() -> Result<()> {
    let mut running = Running::start("", "retry = { max = 2, min = \"10ms\" }").await?;
    running.tell("exit 3").await?;
    running.host.log_times(2, &["ERROR", "plugin{name=program}", "it ended with exit code"]).await?;
    running.said_times("started ", 3).await?;
    running.tell("trap").await?;
    running.host.log_times(2, &["ERROR", "plugin{name=program}", "it trapped"]).await?;
    running.said_times("started ", 5).await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    let row = running.socket.until("program", |row| row.handled == 1).await?;
    assert_eq!((row.dead, row.faults, row.state.as_str()), (2, 4, "running"));
    assert_eq!(running.socket.dead_letters().await?.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [2, 2]);
    running.host.stop().await
}

#[tokio::test]
async fn a_swap_is_the_end_of_its_input_behind_the_line_it_is_at() -> Result<()> {
    let mut running = Running::start("", "deadline = \"5s\"").await?;
    running.tell("nap 300").await?;
    running.said_times("napping", 1).await?;
    running.swap().await?;
    running.said_times("started ", 2).await?;
    running.tell("b").await?;
    running.watcher.payload("got b").await?;
    let said = running.said();
    let said: Vec<_> = said.iter().map(String::as_str).collect();
    let whole = ["started ", "napping", "awake", "end of input", "without an end", "started ", "got b"];
    assert_eq!(said, whole, "the old one ends in good order, and nothing is repeated");
    let row = running.socket.until("program", |row| row.handled == 2).await?;
    assert_eq!((row.state.as_str(), row.swaps), ("probation", 1));
    running.host.stop().await
}

#[tokio::test]
async fn who_does_not_end_is_ended_and_its_line_goes_to_the_new_version() -> Result<()> {
    let mut running = Running::start("", "deadline = \"300ms\"").await?;
    running.tell("nap 3600000").await?;
    running.said_times("napping", 1).await?;
    running.swap().await?;
    running.host.log(&["WARN", "plugin{name=program}", "did not end within 300ms", "limits.deadline"]).await?;
    running.said_times("napping", 2).await?;
    assert_eq!(running.socket.plugin("program").await?.handled, 0);
    running.does(stop()).await?;
    running.host.log_times(2, &["did not end within 300ms"]).await?;
    running.host.stop().await
}

#[tokio::test]
async fn a_new_version_that_fails_on_probation_is_rolled_back() -> Result<()> {
    let mut running = Running::start("", "retry = { max = 1 }").await?;
    running.swap().await?;
    running.said_times("started ", 2).await?;
    running.tell("trap").await?;
    running.host.log(&["ERROR", "plugin{name=program}", "the one before comes back"]).await?;
    // Which gets the line, too, and has no version to go back to.
    running.host.log(&["ERROR", "plugin{name=program}", "it starts again in"]).await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    assert_eq!(running.socket.dead_letters().await?.len(), 1);
    running.host.stop().await
}

#[tokio::test]
async fn who_prints_faster_than_it_may_waits_and_loses_nothing() -> Result<()> {
    let mut running = Running::start("", "publish_rate = \"50/s\"").await?;
    running.watcher.payload("started ").await?;
    let begin = Instant::now();
    running.tell("flood 125").await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    ensure!(begin.elapsed() > Duration::from_millis(1300), "in {:?}", begin.elapsed());
    let expected: Vec<_> = (0..125).map(|number| format!("flood {number}")).collect();
    let flood: Vec<_> = running.said().into_iter().filter(|line| line.starts_with("flood")).collect();
    assert_eq!(flood, expected);
    assert_eq!(running.host.logged(&["was not published"]), 0);
    running.host.stop().await
}

#[tokio::test]
async fn lines_that_still_wait_when_it_is_ended_are_counted() -> Result<()> {
    let mut running = Running::start("args = [\"quiet\"]", "publish_rate = \"5/s\", deadline = \"300ms\"").await?;
    running.tell("flood 100").await?;
    running.watcher.payload("flood 3").await?;
    running.does(stop()).await?;
    running
        .host
        .log(&["WARN", "plugin{name=program}", "lines it had printed were not published before its end"])
        .await?;
    // The line it was at comes again.
    running.does(start()).await?;
    running.said_times("flood 0", 2).await?;
    running.host.stop().await
}

#[tokio::test]
async fn who_prints_more_than_the_outbox_holds_waits_for_room() -> Result<()> {
    let mut running = Running::start("", "publish_rate = \"unlimited\", outbox_bytes = \"1KiB\"").await?;
    running.tell("flood 300").await?;
    running.watcher.payload("flood 299").await?;
    assert_eq!(running.said().iter().filter(|line| line.starts_with("flood")).count(), 300);
    // What would never fit is said, and not waited for.
    running.tell("long 2000").await?;
    running.host.log(&["WARN", "was not published", "limits.outbox_bytes"]).await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    running.host.stop().await
}

#[tokio::test]
async fn a_line_without_end_takes_no_memory_and_stops_nobody() -> Result<()> {
    let plugins = program("", "deadline = \"300ms\"") + RECORDER;
    let mut running = Running::with(&plugins, Bed::start().await?).await?;
    running.watcher.ready("heard").await?;
    running.tell("long 131072").await?;
    running.tell("long 131073").await?;
    running.host.log(&["WARN", "plugin{name=program}", "longer than a payload", "link.max_packet"]).await?;
    running.tell("endless").await?;
    running.said_times("begins", 1).await?;
    running.host.log_times(2, &["WARN", "plugin{name=program}", "longer than a payload"]).await?;
    let early = running.host.resident()?;
    for number in 0..20 {
        running.bed.client().await?.publish("near", number.to_string().as_bytes()).await?;
        running.watcher.payload(&format!("near {number}")).await?;
    }
    let late = running.host.resident()?;
    ensure!(late < early + 8 * 1024 * 1024, "memory grew from {early} to {late} bytes");
    assert_eq!(running.host.logged(&["longer than a payload"]), 2, "said once a line");
    running.does(stop()).await?;
    assert_eq!(running.socket.plugin("program").await?.state, "stopped");
    running.host.stop().await
}

#[tokio::test]
async fn an_endless_loop_is_no_fault_and_disturbs_nobody() -> Result<()> {
    let plugins = program("", "deadline = \"300ms\"") + RECORDER;
    let mut running = Running::with(&plugins, Bed::start().await?).await?;
    running.watcher.ready("heard").await?;
    running.tell("spin").await?;
    running.said_times("spinning", 1).await?;
    for number in 0..20 {
        running.bed.client().await?.publish("near", number.to_string().as_bytes()).await?;
        running.watcher.payload(&format!("near {number}")).await?;
    }
    let row = running.socket.plugin("program").await?;
    assert_eq!((row.state.as_str(), row.faults), ("running", 0));
    running.does(stop()).await?;
    running.host.stop().await
}

#[tokio::test]
async fn memory_and_its_words_in_the_log_are_limited() -> Result<()> {
    let limits = "memory = \"4MiB\", log_rate = \"10/s\", retry = { max = 1 }";
    let mut running = Running::start("", limits).await?;
    running.tell("complain 100").await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    running.tell("eat").await?;
    running.host.log(&["ERROR", "plugin{name=program}", "bytes of memory", "limits.memory"]).await?;
    running.host.log(&["lines of it were left out", "limits.log_rate"]).await?;
    assert!(running.host.logged(&["complaint"]) < 50);
    running.said_times("started ", 2).await?;
    running.host.stop().await
}

#[tokio::test]
async fn what_it_hears_is_what_is_configured_now() -> Result<()> {
    let bed = Bed::start().await?;
    let plugins = program("subscribe = [\"in\"]", "").replace("[\"in\"]\nlimits", "[\"in\", \"other\"]\nlimits");
    let mut running = Running::with(&plugins, bed).await?;
    running.tell("a").await?;
    running.watcher.payload("got a").await?;
    running.host.stop().await?;
    let other = plugins.replace("subscribe = [\"in\"]\n", "subscribe = [\"other\"]\n");
    ensure!(other != plugins);
    let config = running.bed.config(&other).in_place_of(&running.config);
    let mut again = Program::run(&config)?;
    again.log(&["connect success"]).await?;
    running.said_times("started ", 2).await?;
    running.tell("not for it").await?;
    running.bed.client().await?.publish("other", b"b").await?;
    running.watcher.payload("got b").await?;
    assert!(!running.said().contains(&"got not for it".to_owned()));
    again.stop().await
}

#[tokio::test]
async fn a_table_that_does_not_fit_its_component_is_named() -> Result<()> {
    let bed = Bed::start().await?;
    let plugins = "[plugins.bare]\ncomponent = \"program.wasm\"\n\
        [plugins.settings]\ncomponent = \"program.wasm\"\nconfig = { a = \"b\" }\ncommand = {}\n\
        [plugins.echo]\ncomponent = \"recorder.wasm\"\ncommand = {}\n";
    let mut host = bed.connected("5", plugins).await?;
    host.log(&["ERROR", "plugin{name=bare}", "program.wasm", "add [plugins.NAME.command]", "topic"]).await?;
    host.log(&["ERROR", "plugin{name=settings}", "[plugins.NAME.config]", "command.args"]).await?;
    host.log(&["ERROR", "plugin{name=echo}", "recorder.wasm", "is for plain WASI programs only"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_wrong_table_ends_the_program_before_anything_starts() -> Result<()> {
    let bed = Bed::start().await?;
    for (command, words) in [
        ("topic = \"secret\"", ["plugins.program: command.topic", "`publish` lists `out`, `other`"]),
        ("topic = \"out\"\nsubscribe = [\"#\"]", ["command.subscribe", "wider than `in`"]),
        ("topic = \"out\"\nqos = 2", ["command.qos", "0, or 1"]),
        ("topik = \"out\"", ["unknown field `topik`", "did you mean `topic`?"]),
        ("input = \"xml\"", ["unknown variant `xml`", "`raw` or `json`"]),
    ] {
        let config = bed.config(&program("", "").replace("topic = \"out\"\n", command));
        Program::run(&config)?.fails(78, &words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn check_says_what_it_is() -> Result<()> {
    let bed = Bed::start().await?;
    let file = bed.folder().join("program.wasm");
    let mut check = Program::start(&["check".as_ref(), file.as_os_str()])?;
    check.prints(&["kind", "a plain WASI program (wasi:cli/command)"]).await?;
    check.fails(0, &[]).await?;
    let json = Program::start(&["check".as_ref(), "--json".as_ref(), file.as_os_str()])?;
    json.prints(&["\"kind\":\"command\""]).await?;
    let file = bed.folder().join("recorder.wasm");
    Program::start(&["check".as_ref(), file.as_os_str()])?.prints(&["kind", "a plugin (alphorn:plugin 0.1.0)"]).await?;
    Ok(())
}
