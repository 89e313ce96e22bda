//! Components that are bent, and components that call the host with anything: some run, most
//! don't, and neither the host nor a neighbour ever cares.
//!
//! `ALPHORN_ROUNDS=10000 cargo test --release --test integration fuzz::` takes as many instead of
//! the usual number. A failure prints its seed; the component that was last put in place is
//! left in the test's folder.

use std::fmt::Write as _;

use crate::harness::{
    Bed, Host, Program, Result, ensure, guest,
    handmade::{Function, World, core},
    rounds, seed,
};

/// What is swapped in, again and again, and a neighbour.
const PLUGINS: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in"]
    config = { to = "out", filters = "in" }
    limits = { publish_rate = "unlimited" }

    [plugins.subject]
    component = "keeper.wasm"
    publish = ["subject/#"]
    subscribe = ["subject/#"]
    config = { to = "subject/out", filters = "subject/in" }
    limits = { deadline = "200ms", start_deadline = "200ms", restart = { max = 3, within = "1m" } }
"#;

/// Puts one component after the other in place; the words of those that were refused come back.
async fn put_in_place(rounds: usize, mut next: impl FnMut() -> Result<Vec<u8>>) -> Result<Vec<String>> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut client = bed.client().await?;
    let config = bed.config(PLUGINS);
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    let mut socket = Host::of(&config).await?;
    let mut refused = Vec::new();
    for round in 0..rounds {
        let file = bed.file("subject.wasm", next()?)?;
        if let Err(words) = socket.swap("subject", &file).await? {
            refused.push(words);
        }
        client.publish("subject/in", b"hello").await?;
        client.publish("in", format!("{round:06}").as_bytes()).await?;
        watcher.payload(&format!("in {round:06}")).await?;
    }
    let records = watcher.records("out");
    let expected: Vec<_> = (0..rounds).map(|round| format!("in {round:06}")).collect();
    ensure!(records == expected, "{records:?}");
    let row = socket.plugin("recorder").await?;
    ensure!(row.faults == 0 && bed.connections() == 1, "{row:?}, {} connections", bed.connections());
    // Whatever is in its place by now: what works takes over.
    socket.swap("subject", &guest("keeper")?).await?.map_err(anyhow::Error::msg)?;
    host.stop().await?;
    Ok(refused)
}

#[tokio::test]
async fn bent_components_hurt_nobody() -> Result<()> {
    let whole = std::fs::read(guest("keeper")?)?;
    let mut random = fastrand::Rng::with_seed(seed());
    let rounds = rounds(60);
    let refused = put_in_place(rounds, || {
        let mut bent = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(8..bent.len());
            match random.u8(0..10) {
                0 => bent.truncate(at),
                1 => drop(bent.drain(at..(at + random.usize(1..64)).min(bent.len()))),
                2 => drop(bent.splice(at..at, (0..random.usize(1..64)).map(|_| 0x41).collect::<Vec<_>>())),
                _ => bent[at] = random.u8(..),
            }
            if bent.len() < 9 {
                break;
            }
        }
        Ok(bent)
    })
    .await?;
    ensure!(!refused.is_empty(), "each of {rounds} bent components took over");
    Ok(())
}

/// Bytes that are often what a host function hopes for: small numbers, and pointers to words
/// and to text.
fn memory(random: &mut fastrand::Rng) -> Vec<u8> {
    const WORDS: usize = 2048;
    let words = (0..WORDS).flat_map(|_| argument(random).to_le_bytes());
    let text = ["subject/in", "subject/#", "+/#/", "\u{0}", "a/b", "$aws/x", "alphorn/x"];
    let mut bytes: Vec<u8> = std::iter::repeat_n(0, 16).chain(words).collect();
    while bytes.len() < 60_000 {
        bytes.extend_from_slice(random.choice(text).unwrap_or_default().as_bytes());
        if random.u8(0..50) == 0 {
            bytes.push(random.u8(..));
        }
    }
    bytes
}

fn argument(random: &mut fastrand::Rng) -> i32 {
    match random.u8(0..20) {
        0..8 => random.i32(0..3),
        8..12 => random.i32(4..2048) * 4 + 16,
        12..16 => random.i32(8300..60_000),
        16..19 => random.i32(0..300),
        _ => random.i32(..),
    }
}

/// Calls of what the host lends, one after the other, with anything.
fn calls(random: &mut fastrand::Rng, lent: &[Function]) -> Result<String> {
    let mut text = String::new();
    // Short ones mostly get to their end, long ones mostly don't.
    let count = if random.bool() { random.usize(1..3) } else { random.usize(1..40) };
    for _ in 0..count {
        let Some((index, function)) = random.choice(lent.iter().enumerate()) else { break };
        for parameter in function.parameters() {
            match core(*parameter) {
                "f64" => write!(text, "f64.const {} ", random.f64())?,
                kind => write!(text, "{kind}.const {} ", argument(random))?,
            }
        }
        write!(text, "call $f{index} ")?;
        text += &"drop ".repeat(function.results());
    }
    // What a call wrote to the first bytes must not be taken for the result of this function.
    Ok(text + "(memory.fill (i32.const 0) (i32.const 0) (i32.const 16)) ")
}

#[tokio::test]
async fn calls_of_the_host_with_anything_hurt_nobody() -> Result<()> {
    let world = World::read()?;
    let lent = world.imports();
    let mut random = fastrand::Rng::with_seed(seed());
    let rounds = rounds(150);
    let refused = put_in_place(rounds, || {
        let data = memory(&mut random).iter().fold(String::new(), |text, byte| text + &format!("\\{byte:02x}"));
        let (start, on_event) = (calls(&mut random, &lent)?, calls(&mut random, &lent)?);
        world.component(&lent, &format!("(data (i32.const 0) \"{data}\")"), &start, &on_event)
    })
    .await?;
    // Else the arguments are too wild, or too tame, to get anywhere.
    let trapped = refused.iter().filter(|words| words.contains("trapped")).count();
    ensure!((1..rounds).contains(&trapped), "{trapped} of {rounds} trapped: {:?}", refused.first());
    Ok(())
}
