//! How long an echo takes while another plugin misbehaves, beside how long it takes in quiet; and
//! how long a lone message takes to its acknowledgement while a plugin publishes all it can.
//!
//! What the host logs goes to a file by the program's own way, as with `alphorn run 2> FILE`.
//!
//!     cargo bench -p alphorn-benches --bench neighbours
//!     cargo bench -p alphorn-benches --bench neighbours -- loop chatter    # only these deeds

mod support;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use alphorn::{
    builder,
    host::Host,
    link::{Client, Item, Link, Mailbox, Notice},
    log::{self, Log, Stderr},
    message::{Message, Qos},
    plugin::compile::Compiler,
    recent::Recent,
    topic::{TopicFilter, TopicName},
};
use alphorn_dev_broker::{DevBroker, Sink};
use anyhow::{Context, Result, bail, ensure};
use support::{config, config_for, observer::unlimited, say, servers::Certificates};
use tokio::time::{interval, sleep, timeout};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Echoes of one measurement, and how many a second.
const ECHOES: u32 = 600;
const RATE: u32 = 200;

/// What the hostile plugin is told, how often a second, how many of it there are, and what else it may.
const DEEDS: [(&str, u32, usize, &str); 7] = [
    ("loop", 1, 1, ""),
    ("loop", 1, 2, ""),
    ("eat", 5, 1, ""),
    ("flood", 1, 1, ""),
    ("chatter", 5, 1, ""),
    // No plugin has that by default: all of it goes the whole way.
    ("chatter", 5, 1, "log_rate = \"unlimited\""),
    ("recurse", 5, 1, ""),
];

/// The measurement of lone messages, to choose it by.
const LONE: &str = "lone";

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("log");
    log_to(&file)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&file))
}

/// The log as `alphorn run` has it, into a file.
fn log_to(file: &Path) -> Result<()> {
    let log = Log::new(Recent::new(), Stderr::to(File::create(file)?)?, false);
    let filter = Targets::new().with_default(LevelFilter::INFO).with_targets([
        ("mqtt5", LevelFilter::WARN),
        ("alphorn_dev_broker", LevelFilter::WARN),
        (log::SPANS, LevelFilter::ERROR),
    ]);
    tracing_subscriber::registry().with(filter).with(log).try_init().context("there is a log already")
}

async fn run(log: &Path) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let echo = builder::build(&root.join("plugins/echo")).await?.component;
    let hostile = hostile(root, &echo)?;
    say(&format!("an echo through a plugin, {RATE}/s, {ECHOES} of them: p50, p99 and the worst, in microseconds"));
    let quiet = measure(&echo, &hostile, "", 0, 1, "").await?;
    say(&format!("quiet            {quiet:?}"));
    let chosen: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (deed, times, count, limits) in DEEDS {
        if !chosen.is_empty() && !chosen.iter().any(|name| name == deed) {
            continue;
        }
        let before = fs::metadata(log)?.len();
        let beside = measure(&echo, &hostile, deed, times, count, limits).await?;
        let (ratio, logged) = (f64::from(beside[1]) / f64::from(quiet[1].max(1)), fs::metadata(log)?.len() - before);
        say(&format!("{count} x {deed:<12} {limits} {beside:?}  p99 beside quiet {ratio:.2}, {logged} bytes of log"));
    }
    let again = measure(&echo, &hostile, "", 0, 1, "").await?;
    say(&format!("quiet once more  {again:?}"));
    if !chosen.is_empty() && !chosen.iter().any(|name| name == LONE) {
        return Ok(());
    }
    say("a lone message of QoS 1 to its PUBACK by a peer that only acknowledges, no limit to the publish rate");
    let guest = builder::build(&root.join("benches/guest")).await?.component;
    let quiet = lone(&guest, None).await?;
    say(&format!("quiet            {quiet:?}"));
    for qos in [0, 1] {
        let beside = lone(&guest, Some(qos)).await?;
        let ratio = f64::from(beside[1]) / f64::from(quiet[1].max(1));
        say(&format!("flood of QoS {qos}   {beside:?}  p99 beside quiet {ratio:.2}"));
    }
    let again = lone(&guest, None).await?;
    say(&format!("quiet once more  {again:?}"));
    Ok(())
}

/// A user of the host's link publishes at the same rate, beside a plugin that floods it.
async fn lone(guest: &Path, flood: Option<u8>) -> Result<[u32; 3]> {
    let certificates = Certificates::new()?;
    let sink = Sink::start(&certificates.front())?;
    let mut rest = "[outbox]\nstorage = \"memory\"\n".to_owned();
    if let Some(qos) = flood {
        // Two timers: while one of them is due, calls follow each other without a pause.
        rest += &format!(
            "[plugins.flood]\ncomponent = {guest:?}\npublish = [\"bench/+\"]\nlimits = {{ publish_rate = \"unlimited\" }}\n\
             config = {{ count = \"{}\", size = \"256\", qos = \"{qos}\", call = \"100\", timers = \"2\" }}\n",
            u32::MAX
        );
    }
    let place = certificates.place(sink.addr().port());
    let host = Host::start(config_for(&place, "host", &rest)?, Compiler::InProcess)?;
    host.open().await;
    let (client, mut mailbox) = host.link().client(&unlimited());
    let mut taken = Vec::new();
    let mut pace = interval(Duration::from_secs(1) / RATE);
    // The first ones wait for the connection.
    for number in 0..ECHOES + 20 {
        pace.tick().await;
        let begin = Instant::now();
        let id = publish(&client, "lone", "ping", Qos::AtLeastOnce)?;
        let published = async {
            while !matches!(mailbox.recv().await, Some(Item::Notice(Notice::Published(published))) if published == id) {
            }
        };
        timeout(Duration::from_secs(10), published).await.context("no PUBACK")?;
        if number >= 20 {
            taken.push(u32::try_from(begin.elapsed().as_micros())?);
        }
    }
    if flood.is_some() {
        let taken = sink.tally().messages;
        ensure!(taken > u64::from(ECHOES) * 10, "that was no flood: {taken} messages");
    }
    host.shutdown().await;
    Ok(percentiles(taken))
}

/// Percentile 50, 99, and the greatest.
fn percentiles(mut taken: Vec<u32>) -> [u32; 3] {
    taken.sort_unstable();
    let at = |part: f64| taken.get((taken.len() as f64 * part) as usize).copied().unwrap_or_default();
    [at(0.5), at(0.99), taken.last().copied().unwrap_or_default()]
}

/// The guest of the tests that does the worst a plugin can do.
fn hostile(root: &Path, echo: &Path) -> Result<PathBuf> {
    let arguments =
        ["build", "--release", "--target", "wasm32-wasip2", "-p", "alphorn-test-guests", "--example", "hostile"];
    ensure!(
        Command::new(env!("CARGO")).current_dir(root).args(arguments).status()?.success(),
        "the guest does not build"
    );
    let target = echo.ancestors().nth(2).context("no target folder")?;
    Ok(target.join("release/examples/hostile.wasm"))
}

async fn measure(echo: &Path, hostile: &Path, deed: &str, times: u32, count: usize, limits: &str) -> Result<[u32; 3]> {
    let folder = tempfile::tempdir()?;
    let broker = DevBroker::start(folder.path()).await?;
    let mut plugins = format!(
        "[outbox]\nstorage = \"memory\"\n[plugins.echo]\ncomponent = {echo:?}\npublish = [\"test/+/echo\"]\n\
         subscribe = [\"test/+\"]\nconfig = {{ filter = \"test/+\" }}\nlimits = {{ publish_rate = \"unlimited\" }}\n"
    );
    let more = if limits.is_empty() { String::new() } else { format!(", {limits}") };
    for number in 0..count {
        plugins += &format!(
            "[plugins.hostile{number}]\ncomponent = {hostile:?}\npublish = [\"said\"]\nsubscribe = [\"deeds\"]\n\
             config = {{ to = \"said\", filters = \"deeds\" }}\n\
             limits = {{ deadline = \"5s\", retry = {{ max = 1 }}, restart = {{ max = 1000, within = \"1m\" }}{more} }}\n"
        );
    }
    let host = Host::start(config(&broker, "host", &plugins)?, Compiler::InProcess)?;
    host.open().await;
    let files = broker.files();
    let mut settings = config(&broker, "observer", "")?.link;
    settings.tls.identity = Some((files.monitor_cert.clone(), files.monitor_key.clone()));
    let link = Link::start(settings, None)?;
    let (client, mut mailbox) = link.client(&unlimited());
    client.subscribe(TopicFilter::parse("test/+/echo")?, Qos::AtMostOnce);
    link.open();
    while !matches!(mailbox.recv().await.context("the link ended")?, Item::Notice(Notice::Subscribed(_))) {}
    // Until the echo is in place.
    while timeout(Duration::from_millis(100), one(&client, &mut mailbox, 0)).await.is_err() {}
    let client = std::sync::Arc::new(client);
    let teller = client.clone();
    let deed = deed.to_owned();
    let telling = tokio::spawn(async move {
        if times == 0 {
            return;
        }
        loop {
            let _ = publish(&teller, "deeds", &deed, Qos::AtMostOnce);
            sleep(Duration::from_secs(1) / times).await;
        }
    });
    sleep(Duration::from_millis(300)).await;
    let mut taken = Vec::new();
    let mut pace = interval(Duration::from_secs(1) / RATE);
    for number in 1..=ECHOES {
        pace.tick().await;
        let time = timeout(Duration::from_secs(10), one(&client, &mut mailbox, number)).await??;
        taken.push(u32::try_from(time.as_micros())?);
    }
    telling.abort();
    for (name, plugin) in host.plugins().await {
        let report = plugin.report();
        let was_told = report.mailbox.0 > 0 || report.calls > 1;
        ensure!(times == 0 || was_told, "{name} was not told: {report:?}");
    }
    link.close(Duration::from_secs(1)).await;
    host.shutdown().await;
    broker.shutdown().await?;
    Ok(percentiles(taken))
}

/// The time of one echo.
async fn one(client: &Client, mailbox: &mut Mailbox, number: u32) -> Result<Duration> {
    let begin = Instant::now();
    publish(client, &format!("test/{number}"), "ping", Qos::AtMostOnce)?;
    let topic = format!("test/{number}/echo");
    loop {
        match mailbox.recv().await {
            Some(Item::Message(delivery)) if delivery.message.topic.as_str() == topic => return Ok(begin.elapsed()),
            Some(_) => {}
            None => bail!("the link ended"),
        }
    }
}

fn publish(client: &Client, topic: &str, payload: &str, qos: Qos) -> Result<u32> {
    let message = Message {
        topic: TopicName::parse(topic.to_owned())?,
        payload: payload.to_owned().into(),
        qos,
        retain: false,
        properties: None,
    };
    Ok(client.publish_at_once(message, Instant::now())?)
}
