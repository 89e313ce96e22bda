//! Durable state, dead letters, and what a `kill -9` leaves of them.

use std::time::{Duration, Instant};

use alphorn::control::protocol::Request;

use crate::harness::{Bed, Host, Program, Result, ensure, seed, version};

fn keeper(limits: &str) -> String {
    format!(
        r#"
        [plugins.keeper]
        component = "keeper.wasm"
        publish = ["out"]
        subscribe = ["in"]
        config = {{ to = "out", filters = "in" }}
        limits = {{ publish_rate = "unlimited", {limits} }}
        "#
    )
}

#[tokio::test]
async fn state_outlasts_the_process_and_a_failed_call_leaves_nothing_in_it() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let config = bed.config(&keeper("retry = { max = 1 }"));
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    client.publish("in", b"a").await?;
    watcher.payload("a 1 first").await?;
    // It writes to its state and then fails; only its memory knows.
    client.publish("in", b"fail").await?;
    host.log(&["dead letter"]).await?;
    host.kill().await?;
    let mut host = Program::run(&config)?;
    watcher.payload("* start: first at 1, stored 1, spoiled false").await?;
    host.stop().await
}

#[tokio::test]
async fn a_dead_letter_is_kept_shown_tried_again_and_dropped() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let config = bed.config(&keeper("retry = { max = 2, min = \"10ms\" }"));
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    client.publish("in", b"fail").await?;
    host.log(&["given up after its last attempt", "as told"]).await?;
    // What can be listed is on disk.
    assert_eq!(Host::of(&config).await?.dead_letters().await?.len(), 1);
    host.kill().await?;
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    let mut socket = Host::of(&config).await?;
    let letters = socket.dead_letters().await?;
    let [letter] = &letters[..] else { anyhow::bail!("{letters:?}") };
    assert_eq!((letter.topic.as_str(), letter.attempts, letter.bytes), ("in", 2, 4));
    assert_eq!(letter.reason, "as told");
    let mut listed = Program::start(&["dead-letters".as_ref(), "--socket".as_ref(), config.socket().as_os_str()])?;
    listed.prints(&["keeper", "in", "as told"]).await?;
    listed.exit().await?;
    // It fails again, and is there again.
    let settle = |again| Request::SettleLetters { name: "keeper".to_owned(), number: None, again };
    assert_eq!(socket.does(settle(true)).await?, Ok(1));
    host.log(&["given up after its last attempt"]).await?;
    let again = socket.dead_letters().await?;
    assert!(again.len() == 1 && again[0].number > letter.number, "{again:?}");
    assert_eq!(socket.does(settle(false)).await?, Ok(1));
    assert_eq!(socket.dead_letters().await?, []);
    let none = socket.does(settle(false)).await?.unwrap_err();
    assert!(none.contains("no such dead letter"), "{none}");
    host.stop().await
}

/// Whenever the process ends, the next finds a version with a state that belongs to it, and
/// what could not be handled among the dead letters.
#[tokio::test]
async fn a_kill_at_any_moment_of_a_swap_leaves_a_consistent_plugin() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let config = bed.config(&keeper("retry = { max = 1 }, probation = { time = \"200ms\", messages = 3 }"));
    let files = [bed.file("one.wasm", version("keeper", 1)?)?, bed.file("two.wasm", version("keeper", 2)?)?];
    let mut random = fastrand::Rng::with_seed(seed());
    let mut sent = 0;
    for round in 0..30 {
        let mut host = Program::run(&config)?;
        host.log(&["connect success"]).await?;
        if round == 0 {
            // From now on the broker keeps the subscription.
            watcher.ready("out").await?;
        }
        let mut socket = Host::of(&config).await?;
        let end = Instant::now() + Duration::from_micros(random.u64(0..400_000));
        let work = async {
            for file in files.iter().cycle() {
                for _ in 0..random.u32(0..6) {
                    let word = if sent % 7 == 3 { "lost-" } else { "" };
                    client.publish("in", format!("{word}{sent:05}").as_bytes()).await?;
                    sent += 1;
                }
                socket.swap("keeper", file).await?.map_err(anyhow::Error::msg)?;
            }
            anyhow::Ok(())
        };
        if let Ok(Err(error)) = tokio::time::timeout_at(end.into(), work).await {
            return Err(error.context(format!("round {round}")));
        }
        host.kill().await?;
        ensure!(host.logged(&["can't be"]) == 0 && host.logged(&["damaged"]) == 0, "round {round}");
    }
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    client.publish("in", b"the end").await?;
    let end = watcher.payload_like("the end ").await?;
    // What it counts is in its state, so each number is there once, and each message once or more.
    let mut lines: Vec<_> = watcher.payloads().into_iter().filter(|line| !line.starts_with('*')).collect();
    let count = |line: &String| line.rsplit(' ').find_map(|word| word.parse::<u64>().ok()).unwrap_or_default();
    lines.sort_by_key(count);
    let last = count(&end);
    for number in 1..=last {
        ensure!(lines.iter().any(|line| count(line) == number), "number {number} of {last} is missing: {lines:?}");
    }
    let letters = Host::of(&config).await?.dead_letters().await?;
    let lost = (0..sent).filter(|number| number % 7 == 3).count();
    ensure!(letters.len() >= lost && letters.iter().all(|letter| letter.bytes == 10), "{lost} lost: {letters:?}");
    for number in (0..sent).filter(|number| number % 7 != 3) {
        let payload = format!("{number:05} ");
        ensure!(lines.iter().any(|line| line.starts_with(&payload)), "message {number} of {sent} is missing");
    }
    host.stop().await
}
