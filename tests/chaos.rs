//! Everything that can happen to a device at once, at random: kills, cuts, slow links, swaps,
//! bursts and a plugin that is stopped for a while. What was sent comes through, in the order of
//! its topic, whatever happens.
//!
//! `ALPHORN_ROUNDS=1000 cargo test --release --test integration chaos::` takes as many faults
//! instead of the usual number; `ALPHORN_SEED` repeats a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use alphorn::control::protocol::Request;
use alphorn_dev_broker::Direction;

use crate::harness::{
    Bed, Config, Context as _, Host, Message, Program, Result, ensure, in_both_versions, rounds, seed, version,
};

in_both_versions! {
    whatever_happens_what_was_sent_comes_through_in_order
}

/// Passes on what comes, and can't handle a payload that begins with `lost`; its mailbox is so small
/// that a burst goes to the inbox on disk.
const PLUGIN: &str = r#"
    [plugins.keeper]
    component = "one.wasm"
    publish = ["out"]
    subscribe = ["in/+"]
    config = { to = "out", filters = "in/+" }
    limits = { publish_rate = "unlimited", retry = { max = 2, min = "5ms" }, mailbox = { messages = 8, bytes = "64KiB" }, inbox_bytes = "64MiB", outbox_bytes = "64MiB", probation = { time = "100ms", messages = 3 } }
"#;

const TOPICS: [char; 3] = ['a', 'b', 'c'];

/// One message in so many can't be handled, and is a dead letter after its attempts.
const LOST: u32 = 40;

async fn whatever_happens_what_was_sent_comes_through_in_order(protocol: &str) -> Result<()> {
    let (seed, rounds) = (seed(), rounds(12));
    let mut random = fastrand::Rng::with_seed(seed);
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let files = [bed.file("one.wasm", version("keeper", 1)?)?, bed.file("two.wasm", version("keeper", 2)?)?];
    let config = bed
        .config(PLUGIN)
        .link(&format!("protocol = {protocol:?}"))
        .link("session_expiry = \"1h\"")
        .link("backoff = { min = \"10ms\", max = \"40ms\" }");
    let mut sender = bed.client().await?;
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    let (mut sent, mut lost) = (TOPICS.map(|topic| (topic, 0_u32)), 0);
    let mut done = Vec::new();
    for round in 0..rounds {
        for _ in 0..random.u32(0..150) {
            let (topic, number) = random.choice(sent.iter_mut()).context("no topics")?;
            if random.u32(0..LOST) == 0 {
                sender.publish(&format!("in/{topic}"), format!("lost-{lost:07}").as_bytes()).await?;
                lost += 1;
            } else {
                sender.publish(&format!("in/{topic}"), format!("{topic}-{number:07}").as_bytes()).await?;
                *number += 1;
            }
        }
        let fault = Fault::any(&mut random);
        done.push(fault);
        fault.happens(&bed, &config, &files, &mut host, &mut random).await.with_context(|| {
            let last = done.get(done.len().saturating_sub(10)..).unwrap_or_default();
            format!("seed {seed}, round {round}: {last:?}")
        })?;
    }
    bed.faults().delay(Direction::Both, Duration::ZERO);
    let all = sent.iter().map(|(_, number)| number).sum::<u32>() as usize;
    let what = format!("all {all} messages, seed {seed}, after {done:?}");
    // A backlog that was built over many rounds may take longer than one deadline: it is waited
    // for as long as there is progress.
    let mut arrived = 0;
    loop {
        let seen = watcher
            .wait_for(&what, |messages| Some(first_arrivals(messages)).filter(|seen| seen.count > arrived))
            .await?;
        arrived = seen.count;
        if arrived == all {
            for (topic, numbers) in &seen.of {
                ensure!(
                    numbers.is_sorted(),
                    "{topic} is out of order: seed {seed}, after {done:?}: {}",
                    around(numbers)
                );
            }
            break;
        }
    }
    // The last of what can't be handled may still have attempts before it.
    let mut socket = asked(&config).await?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let letters = socket.dead_letters().await?.len();
        if letters >= lost {
            break;
        }
        ensure!(Instant::now() < until, "{letters} dead letters of {lost}: seed {seed}, after {done:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(host.logged(&["quarantine"]) == 0 && host.logged(&["damaged"]) == 0, "seed {seed}");
    host.stop().await
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// `kill -9`, and a new start.
    Kill,
    /// SIGTERM, and a new start.
    Restart,
    /// The connection is reset.
    Cut,
    /// The broker ends the connection in order.
    Close,
    /// Nobody listens for a while.
    Away,
    /// The link is slow one way or both.
    Slow,
    /// Another version takes over.
    Swap,
    /// Nobody reads the messages for a while.
    Stop,
}

impl Fault {
    fn any(random: &mut fastrand::Rng) -> Self {
        let all = [Self::Kill, Self::Restart, Self::Cut, Self::Close, Self::Away, Self::Slow, Self::Swap, Self::Stop];
        random.choice(all).unwrap_or(Self::Kill)
    }

    async fn happens(
        self,
        bed: &Bed,
        config: &Config,
        files: &[std::path::PathBuf; 2],
        host: &mut Program,
        random: &mut fastrand::Rng,
    ) -> Result<()> {
        // So that it meets the traffic anywhere.
        tokio::time::sleep(Duration::from_millis(random.u64(0..80))).await;
        let a_while = Duration::from_millis(random.u64(1..120));
        match self {
            Self::Kill => {
                host.kill().await?;
                *host = Program::run(config)?;
                // Sometimes the next fault meets it while it starts.
                if random.bool() {
                    host.log(&["connect success"]).await?;
                }
            }
            Self::Restart => {
                // A process that has only just begun is ended by a signal as any other is.
                drop(asked(config).await?);
                host.stop().await?;
                *host = Program::run(config)?;
            }
            Self::Cut => bed.faults().cut(),
            Self::Close => bed.faults().close(),
            Self::Away => {
                bed.faults().refuse(true).await?;
                bed.faults().cut();
                tokio::time::sleep(a_while).await;
                bed.faults().refuse(false).await?;
            }
            Self::Slow => {
                let way = [Direction::ToBroker, Direction::ToClient, Direction::Both];
                bed.faults().delay(Direction::Both, Duration::ZERO);
                bed.faults().delay(random.choice(way).unwrap_or(Direction::Both), a_while / 4);
            }
            Self::Swap => {
                let file = random.choice(files).context("no file")?;
                let mut socket = asked(config).await?;
                // It may be refused: the host still starts, or the version is there already.
                let _ = socket.swap("keeper", file).await?;
            }
            Self::Stop => {
                let mut socket = asked(config).await?;
                let name = || "keeper".to_owned();
                let _ = socket.does(Request::Stop { name: name() }).await?;
                tokio::time::sleep(a_while).await;
                let _ = socket.does(Request::Start { name: name() }).await?;
            }
        }
        Ok(())
    }
}

/// A connection to the socket of a host that may only just have been started.
async fn asked(config: &Config) -> Result<Host> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match Host::of(config).await {
            Ok(host) => return Ok(host),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The numbers of each topic in the order in which each came for the first time.
#[derive(Default)]
struct Arrivals {
    of: BTreeMap<String, Vec<u32>>,
    count: usize,
}

/// Of lines of the keeper: `TOPIC-NUMBER`, and what it counts.
fn first_arrivals(messages: &[Message]) -> Arrivals {
    let (mut arrivals, mut seen) = (Arrivals::default(), BTreeSet::new());
    for message in messages {
        let text = String::from_utf8_lossy(&message.payload);
        let Some((topic, number)) = text.split(' ').next().and_then(|word| word.split_once('-')) else { continue };
        let Ok(number) = number.parse() else { continue };
        if seen.insert((topic.to_owned(), number)) {
            arrivals.of.entry(topic.to_owned()).or_default().push(number);
            arrivals.count += 1;
        }
    }
    arrivals
}

/// Where the order breaks first.
fn around(numbers: &[u32]) -> String {
    let at = numbers.iter().zip(numbers.iter().skip(1)).position(|(one, next)| one > next).unwrap_or_default();
    format!("{:?}", numbers.get(at.saturating_sub(5)..(at + 10).min(numbers.len())))
}
