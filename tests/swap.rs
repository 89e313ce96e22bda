//! Another version takes over: nothing is lost, nothing is repeated that was handled, and one
//! that fails on probation never happened.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use alphorn::control::protocol::Request;

use crate::harness::{
    Bed, Config, Context as _, Host, Message, Program, Result, Watcher, ensure, slow_to_compile, version,
};

/// Counts what it handles.
fn keeper(more_config: &str, limits: &str) -> String {
    format!(
        r#"
        [plugins.keeper]
        component = "keeper.wasm"
        publish = ["out"]
        subscribe = ["in", "other"]
        config = {{ to = "out", filters = "in", {more_config} }}
        limits = {{ publish_rate = "unlimited", {limits} }}
        "#
    )
}

/// A host with a keeper that has started.
struct Running {
    bed: Bed,
    config: Config,
    host: Program,
    socket: Host,
    watcher: Watcher,
}

impl Running {
    async fn start(more_config: &str, limits: &str) -> Result<Self> {
        let bed = Bed::start().await?;
        let config = bed.config(&keeper(more_config, limits));
        let watcher = bed.watch("out").await?;
        let host = Program::run(&config)?;
        watcher.ready("out").await?;
        let socket = Host::of(&config).await?;
        Ok(Self { bed, config, host, socket, watcher })
    }

    fn version(&self, number: u8) -> Result<PathBuf> {
        self.bed.file(&format!("version-{number}.wasm"), version("keeper", number)?)
    }
}

#[tokio::test]
async fn a_counter_is_handed_over_and_the_next_message_finds_the_new_version() -> Result<()> {
    let mut running = Running::start("", "").await?;
    let mut client = running.bed.client().await?;
    client.publish("in", b"a").await?;
    running.watcher.payload("a 1 first").await?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    running.watcher.payload("* start: swap at 1, stored 1, spoiled true").await?;
    client.publish("in", b"b").await?;
    running.watcher.payload("b 2 swap").await?;
    let row = running.socket.until("keeper", |row| row.handled == 2).await?;
    assert_eq!((row.state.as_str(), row.swaps), ("probation", 1));
    assert_ne!(row.version, row.previous);
    assert_eq!((running.bed.connections(), running.host.logged(&["connection lost"])), (1, 0));
    running.host.stop().await
}

#[tokio::test]
async fn a_successor_that_traps_on_its_fifth_message_is_rolled_back_and_the_old_version_handles_all_five() -> Result<()>
{
    let mut running = Running::start("trap_on = \"5\"", "").await?;
    let mut client = running.bed.client().await?;
    client.publish("in", b"0").await?;
    running.watcher.payload("0 1 first").await?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    for number in 1..=4 {
        client.publish("in", number.to_string().as_bytes()).await?;
        running.watcher.payload(&format!("{number} {} swap", number + 1)).await?;
    }
    client.publish("in", b"5").await?;
    running.host.log(&["ERROR", "on probation failed", "trapped"]).await?;
    // With its own hand-over, and the state as it was.
    running.watcher.payload("* start: rollback at 1, stored 1, spoiled false").await?;
    for number in 1..=5 {
        running.watcher.payload(&format!("{number} {} rollback redelivered", number + 1)).await?;
    }
    client.publish("in", b"6").await?;
    running.watcher.payload("6 7 rollback").await?;
    let handled: Vec<_> =
        running.watcher.payloads().into_iter().filter(|line| line.contains("rollback")).skip(1).collect();
    assert_eq!(handled.len(), 6, "{handled:?}");
    assert!(handled.is_sorted(), "{handled:?}");
    let row = running.socket.plugin("keeper").await?;
    assert!(row.state == "running" && row.last_error.is_some_and(|error| error.contains("trapped")), "{:?}", row.state);
    running.host.stop().await
}

#[tokio::test]
async fn a_probation_that_is_stood_makes_the_new_version_permanent_and_releases_what_it_did_not_ask_for() -> Result<()>
{
    let mut running =
        Running::start("on_swap_filters = \"other\"", "probation = { time = \"1h\", messages = 3 }").await?;
    let mut client = running.bed.client().await?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    for number in 1..=3 {
        client.publish("in", number.to_string().as_bytes()).await?;
        running.watcher.payload(&format!("{number} {number} swap")).await?;
    }
    running.host.log(&["the probation is over"]).await?;
    // A restart runs it, though the configured file is the old one.
    let version = running.socket.plugin("keeper").await?.version;
    running.host.stop().await?;
    let mut again = Program::run(&running.config)?;
    again.log(&["connect success"]).await?;
    let mut socket = Host::of(&running.config).await?;
    let row = socket.plugin("keeper").await?;
    assert_eq!((row.version, row.state.as_str()), (version, "running"));
    // And the one before can still come back.
    socket.roll_back("keeper", None).await?.map_err(anyhow::Error::msg)?;
    client.publish("in", b"4").await?;
    running.watcher.payload("4 4 swap").await?;
    again.stop().await
}

#[tokio::test]
async fn a_roll_back_as_told_ends_the_probation() -> Result<()> {
    let mut running = Running::start("", "").await?;
    let mut client = running.bed.client().await?;
    let none = running.socket.roll_back("keeper", None).await?.unwrap_err();
    assert!(none.contains("no version before"), "{none}");
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    client.publish("in", b"a").await?;
    running.watcher.payload("a 1 swap").await?;
    running.socket.roll_back("keeper", None).await?.map_err(anyhow::Error::msg)?;
    running.watcher.payload("a 1 rollback redelivered").await?;
    running.host.stop().await
}

/// Probations that the first message ends.
const SHORT: &str =
    "retry = { max = 1 }, restart = { max = 5, within = \"1m\" }, probation = { time = \"1h\", messages = 1 }";

impl Running {
    /// Puts a version in place that stands its probation; what it is called.
    async fn stands(&mut self, number: u8) -> Result<String> {
        let file = self.version(number)?;
        self.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
        self.bed.client().await?.publish("in", format!("stands {number}").as_bytes()).await?;
        let row = self.socket.until("keeper", |row| row.state == "running").await?;
        row.version.context("a version")
    }

    /// Rolls back; what is in force then, and what could come after it.
    async fn rolls_back(&mut self, to: Option<&str>) -> Result<(Option<String>, Option<String>)> {
        self.socket.roll_back("keeper", to).await?.map_err(anyhow::Error::msg)?;
        let row = self.socket.plugin("keeper").await?;
        ensure!(row.state == "running", "no probation: {}", row.state);
        Ok((row.version, row.previous))
    }

    async fn restart(&mut self) -> Result<()> {
        self.host.stop().await?;
        self.host = Program::run(&self.config)?;
        self.host.log(&["connect success"]).await?;
        self.socket = Host::of(&self.config).await?;
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Result<Program> {
        let socket = self.config.socket();
        Program::start(&[arguments, &["--socket", &socket.to_string_lossy()]].concat())
    }
}

#[tokio::test]
async fn a_roll_back_as_told_is_for_good() -> Result<()> {
    let mut running = Running::start("", SHORT).await?;
    let first = running.socket.plugin("keeper").await?.version;
    let second = running.stands(1).await?;
    assert_eq!(running.rolls_back(None).await?, (first.clone(), None));
    // A fault does not bring back what somebody wanted to be rid of.
    running.bed.client().await?.publish("in", b"trap").await?;
    running.host.log(&["ERROR", "the plugin failed", "starts again"]).await?;
    let row = running.socket.until("keeper", |row| row.state == "running").await?;
    assert_eq!((row.version, row.faults), (first.clone(), 1));
    for _ in 0..2 {
        let none = running.socket.roll_back("keeper", None).await?.unwrap_err();
        let words = ["no version before", &second, "rolled back: as told", "--to"];
        ensure!(words.iter().all(|part| none.contains(part)), "{none}");
        running.restart().await?;
        assert_eq!(running.socket.plugin("keeper").await?.version, first);
    }
    // Unless it is named.
    assert_eq!(running.rolls_back(Some(&second)).await?, (Some(second), None));
    running.host.stop().await
}

#[tokio::test]
async fn a_roll_back_says_where_it_goes_and_never_to_what_was_rolled_back() -> Result<()> {
    let mut running = Running::start("", SHORT).await?;
    let first = running.socket.plugin("keeper").await?.version.context("a version")?;
    let good = running.stands(1).await?;
    let bad = running.stands(2).await?;
    let mut rollback = running.command(&["rollback", "keeper", "--dry-run"])?;
    rollback.prints(&[&format!("keeper: version {good} would run instead of {bad}")]).await?;
    rollback.fails(0, &[]).await?;
    assert_eq!(running.socket.plugin("keeper").await?.version, Some(bad.clone()));
    let mut rollback = running.command(&["rollback", "keeper"])?;
    rollback.prints(&[&format!("keeper: version {good} runs instead of {bad}")]).await?;
    rollback.fails(0, &[]).await?;
    // The bad one is newer; the next one to go to is older.
    running.restart().await?;
    let row = running.socket.plugin("keeper").await?;
    assert_eq!((row.version, row.previous), (Some(good.clone()), Some(first.clone())));
    assert_eq!(running.rolls_back(None).await?, (Some(first), None));
    let mut rollback = running.command(&["rollback", "keeper", "--to", "0123456"])?;
    rollback.fails(64, &["no version that is kept begins with `0123456`", &good, "rolled back: as told"]).await?;
    running.host.stop().await
}

#[tokio::test]
async fn a_version_that_does_not_stop_is_rolled_back_all_the_same() -> Result<()> {
    let mut running = Running::start("refuse = \"yes\"", SHORT).await?;
    let first = running.socket.plugin("keeper").await?.version;
    // While it is stopped there is nobody to refuse.
    running.socket.does(Request::Stop { name: "keeper".to_owned() }).await?.map_err(anyhow::Error::msg)?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    running.socket.does(Request::Start { name: "keeper".to_owned() }).await?.map_err(anyhow::Error::msg)?;
    let file = running.version(2)?;
    let refused = running.socket.swap("keeper", &file).await?.unwrap_err();
    ensure!(refused.contains("refused to hand over"), "{refused}");
    assert_eq!(running.rolls_back(None).await?.0, first);
    running.host.log(&["WARN", "hands nothing over"]).await?;
    running.host.stop().await
}

#[tokio::test]
async fn a_swap_that_waits_ends_as_the_probation_does() -> Result<()> {
    let mut running = Running::start("trap_on = \"bad\"", SHORT).await?;
    let file = running.version(1)?;
    for (payload, code, words) in [("bad", 65, "rolled back: it trapped"), ("good", 0, "")] {
        let mut swap = running.command(&["swap", "keeper", &file.to_string_lossy(), "--wait"])?;
        running.socket.until("keeper", |row| row.state == "probation").await?;
        assert_eq!(swap.stdout(), [""; 0], "it waits");
        running.bed.client().await?.publish("in", payload.as_bytes()).await?;
        swap.fails(code, &[words]).await?;
        if code == 0 {
            swap.prints(&["keeper: version", "stands, its probation is over"]).await?;
        }
    }
    // Somebody stops it meanwhile.
    let file = running.version(2)?;
    let mut swap = running.command(&["swap", "keeper", &file.to_string_lossy(), "--wait"])?;
    running.socket.until("keeper", |row| row.state == "probation").await?;
    running.socket.does(Request::Stop { name: "keeper".to_owned() }).await?.map_err(anyhow::Error::msg)?;
    swap.fails(69, &["it was stopped before its probation was over"]).await?;
    running.host.stop().await
}

#[tokio::test]
async fn what_a_failed_call_wrote_is_not_taken_along_by_a_swap() -> Result<()> {
    let mut running = Running::start("", "retry = { max = 1 }, restart = { max = 5, within = \"1m\" }").await?;
    let mut client = running.bed.client().await?;
    client.publish("in", b"a").await?;
    running.watcher.payload("a 1 first").await?;
    client.publish("in", b"trap").await?;
    running.socket.until("keeper", |row| row.state == "waiting").await?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    running.watcher.payload("* start: swap at 1, stored 1, spoiled true").await?;
    running.host.stop().await
}

#[tokio::test]
async fn the_running_version_handles_messages_while_another_is_compiled() -> Result<()> {
    let mut running = Running::start("", "compile = { time = \"1s\" }").await?;
    let mut client = running.bed.client().await?;
    // One function that takes longer to compile than may be.
    let file = running.bed.file("huge.wasm", slow_to_compile(500_000, "")?)?;
    let swap = ["swap".as_ref(), "keeper".as_ref(), file.as_os_str(), "--socket".as_ref()];
    let socket = running.config.socket();
    let mut swapping = Program::start(&[&swap[..], &[socket.as_os_str()]].concat())?;
    for number in 1..=3 {
        client.publish("in", number.to_string().as_bytes()).await?;
        running.watcher.payload(&format!("{number} {number} first")).await?;
    }
    assert_eq!(running.host.logged(&["limits.compile.time"]), 0, "they had to wait for the compiler");
    swapping.fails(65, &["limits.compile.time"]).await?;
    running.host.stop().await
}

#[tokio::test]
async fn a_swap_of_a_stopped_plugin_ends_the_probation_and_starts_nothing() -> Result<()> {
    let mut running = Running::start("", "").await?;
    let mut client = running.bed.client().await?;
    let (one, two) = (running.version(1)?, running.version(2)?);
    running.socket.swap("keeper", &one).await?.map_err(anyhow::Error::msg)?;
    client.publish("in", b"a").await?;
    running.watcher.payload("a 1 swap").await?;
    let stop = Request::Stop { name: "keeper".to_owned() };
    running.socket.does(stop).await?.map_err(anyhow::Error::msg)?;
    running.socket.swap("keeper", &two).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(running.socket.plugin("keeper").await?.state, "stopped");
    running.socket.does(Request::Start { name: "keeper".to_owned() }).await?.map_err(anyhow::Error::msg)?;
    let row = running.socket.plugin("keeper").await?;
    assert_eq!((row.state.as_str(), row.faults), ("running", 0));
    client.publish("in", b"b").await?;
    running.watcher.payload("b 2 first").await?;
    running.host.stop().await
}

#[tokio::test]
async fn what_a_version_on_probation_gave_up_comes_to_the_one_before() -> Result<()> {
    let mut running = Running::start("", "retry = { max = 1 }").await?;
    let mut client = running.bed.client().await?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    for payload in ["a", "lost-1", "b"] {
        client.publish("in", payload.as_bytes()).await?;
    }
    running.watcher.payload("b 2 swap").await?;
    assert_eq!(running.socket.dead_letters().await?.len(), 1);
    running.socket.roll_back("keeper", None).await?.map_err(anyhow::Error::msg)?;
    for line in ["a 1 rollback redelivered", "b 2 rollback redelivered"] {
        running.watcher.payload(line).await?;
    }
    running.host.log_times(2, &["ERROR", "dead letter", "as told"]).await?;
    assert_eq!(running.socket.dead_letters().await?.len(), 1, "once, though two versions gave it up");
    running.host.stop().await
}

#[tokio::test]
async fn subscriptions_outlast_a_kill_on_probation_and_the_roll_back() -> Result<()> {
    let mut running = Running::start("on_swap_filters = \"other\"", "").await?;
    let file = running.version(1)?;
    running.socket.swap("keeper", &file).await?.map_err(anyhow::Error::msg)?;
    running.watcher.payload("* start: swap at 0, stored 0, spoiled true").await?;
    running.host.kill().await?;
    let mut again = Program::run(&running.config)?;
    again.log(&["connect success"]).await?;
    let mut socket = Host::of(&running.config).await?;
    assert_eq!(socket.plugin("keeper").await?.state, "probation");
    socket.roll_back("keeper", None).await?.map_err(anyhow::Error::msg)?;
    let mut client = running.bed.client().await?;
    client.publish("in", b"a").await?;
    running.watcher.payload("a 1 rollback").await?;
    again.stop().await
}

/// What can't take over, or not for long: a file or else what the new version does, the exit
/// code of `swap`, and the words for it.
const BAD: [(&str, &str, &str, i32, &str); 9] = [
    ("text.wasm", "", "", 65, "is not WebAssembly"),
    ("program.wasm", "", "", 65, "add [plugins.NAME.command]"),
    ("foreign_import.wasm", "", "", 65, "does not lend"),
    ("", "on_swap = \"trap\"", "", 65, "it trapped"),
    ("", "on_swap = \"loop\"", "start_deadline = \"300ms\"", 65, "longer than 300ms"),
    ("", "on_swap = \"eat\"", "", 65, "bytes of memory"),
    ("", "on_swap = \"error\"", "", 65, "as told"),
    ("", "refuse = \"yes\"", "", 69, "refused to hand over: not now"),
    // It takes over, and shows only then what it is.
    ("", "trap_on = \"after\"", "", 0, "it trapped"),
];

#[tokio::test]
async fn a_bad_successor_leaves_the_old_version_serving() -> Result<()> {
    for (file, config, limits, code, words) in BAD {
        let mut running = Running::start(config, limits).await?;
        let mut client = running.bed.client().await?;
        client.publish("in", b"before").await?;
        running.watcher.payload("before 1 first").await?;
        running.bed.file("text.wasm", "#!/bin/sh\n")?;
        let file = if file.is_empty() { running.version(1)? } else { running.bed.folder().join(file) };
        let swap = ["swap".as_ref(), "keeper".as_ref(), file.as_os_str(), "--socket".as_ref()];
        let socket = running.config.socket();
        let said = if code == 0 { "" } else { words };
        Program::start(&[&swap[..], &[socket.as_os_str()]].concat())?.fails(code, &[said]).await?;
        client.publish("in", b"after").await?;
        let line = running.watcher.payload_like("after 2 ").await.with_context(|| words.to_owned())?;
        let is_old = ["after 2 first", "after 2 rollback", "after 2 rollback redelivered"].contains(&line.as_str());
        ensure!(is_old, "{words}: {line}");
        running.host.log(&["ERROR", words]).await?;
        let row = running.socket.plugin("keeper").await?;
        ensure!(row.state == "running", "{words}: {}", row.state);
        ensure!(row.last_error.as_ref().is_some_and(|error| error.contains(words)), "{words}: {:?}", row.last_error);
        running.host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_swaps_under_full_load_lose_nothing() -> Result<()> {
    const SWAPS: u32 = 1000;
    const ON_THE_WAY: usize = 100;
    let mut running = Running::start("", "").await?;
    let files = [running.version(1)?, running.version(2)?];
    let mut client = running.bed.client().await?;
    let done = Cell::new(false);
    let (watcher, socket) = (&running.watcher, &mut running.socket);
    // As fast as they are handled: with more on its way than that, the broker drops some.
    let flow = async {
        let (mut sent, mut looked_at, mut handled) = (0_usize, 0, BTreeSet::new());
        while !done.get() {
            client.publish("in", format!("{sent:06}").as_bytes()).await?;
            sent += 1;
            let catch_up = |messages: &[Message]| {
                for message in messages.get(looked_at..).unwrap_or_default() {
                    if !message.payload.starts_with(b"*") {
                        handled.insert(message.payload.get(..6).map(<[u8]>::to_vec));
                    }
                }
                looked_at = messages.len();
                (sent < handled.len() + ON_THE_WAY).then_some(())
            };
            watcher.wait_for("what is on its way", catch_up).await?;
        }
        anyhow::Ok(sent)
    };
    let swaps = async {
        let mut early = 0;
        for (number, file) in (0..SWAPS).zip(files.iter().cycle()) {
            socket.swap("keeper", file).await?.map_err(anyhow::Error::msg)?;
            if number == SWAPS / 10 {
                early = running.host.resident()?;
            }
            if number % 200 == 100 {
                running.bed.cut().await?;
            }
        }
        done.set(true);
        anyhow::Ok(early)
    };
    let (sent, early) = tokio::try_join!(flow, swaps)?;
    let last = format!("{:06} ", sent - 1);
    running.watcher.payload_like(&last).await?;
    let late = running.host.resident()?;
    ensure!(late < early + 16 * 1024 * 1024, "memory grew from {early} to {late} bytes");
    running.host.stop().await?;
    let swaps = running.host.logged(&["a new version took over"]);
    ensure!(swaps == SWAPS as usize, "{swaps} swaps");
    // The same line twice is the broker's copy of one message of the keeper.
    let mut lines: Vec<String> = running.watcher.payloads().into_iter().filter(|line| !line.starts_with('*')).collect();
    lines.sort_by_key(|line| line.split(' ').nth(1).and_then(|count| count.parse::<u64>().ok()));
    lines.dedup();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut newest = "";
    for (index, line) in lines.iter().enumerate() {
        let mut words = line.split(' ');
        let (payload, count) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        ensure!(count == (index + 1).to_string(), "the counter is not exact: line {index} is {line:?}");
        let times = seen.entry(payload).or_default();
        *times += 1;
        let is_again = line.contains("redelivered");
        ensure!(*times == 1 || is_again, "{payload} was handled twice without a redelivery");
        ensure!(payload > newest || is_again, "{payload} came behind {newest}");
        newest = newest.max(payload);
    }
    ensure!(seen.len() == sent, "{} of {sent} messages were handled", seen.len());
    Ok(())
}
