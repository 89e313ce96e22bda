//! How fast messages leave, and what that costs: through a plugin, by Alphorn's link without
//! one, and by plain client libraries. In turn, in one run, each in a process of its own.
//!
//!     cargo bench -p alphorn-benches --bench publish
//!
//! A sink takes the messages: it ends TLS, acknowledges, counts each number once, and does
//! nothing else, so that it is the publishers that are measured. Its rate is the time from the
//! first to the last number. mosquitto, where it is installed, shows what is left of the
//! difference before a real broker; an observer takes the time between the first and the last
//! message. All of what is published must arrive, at QoS 0 too, or this fails.
//!
//! CPU is user and system time of the publisher alone, from connecting on. Figures of one machine say little; ratios of what was measured in turn say more.

mod support;

use std::{path::Path, time::Duration};

use alphorn::builder;
use alphorn_dev_broker::Sink;
use anyhow::{Context, Result};
use support::{
    Place, is_quick, is_wanted,
    observer::Observer,
    process::{self, Usage, Worker},
    publishers::{Job, Who},
    report::Report,
    say,
    servers::{BothWays, Certificates},
};
use tokio::time::timeout;

/// Bytes of a payload, rounds, messages of a round to the sink, and to mosquitto at QoS 0 and 1.
const SIZES: [(usize, usize, u32, [u32; 2]); 3] =
    [(256, 9, 400_000, [100_000, 20_000]), (16, 5, 400_000, [100_000, 20_000]), (4096, 5, 100_000, [20_000, 10_000])];

/// How long one publisher may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is compared: the first beside the second.
const PAIRS: [(Who, Who); 4] =
    [(Who::Plugin, Who::Rumqttc), (Who::Plugin, Who::Next), (Who::Plugin, Who::Link), (Who::Link, Who::Rumqttc)];

fn main() -> Result<()> {
    if let Some(job) = process::job::<Job>()? {
        return job.run();
    }
    if !is_wanted() {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let guest = builder::build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("guest")).await?.component;
    let certificates = Certificates::new()?;
    let mut report = Report::new("publish");
    report.setting("protocol", "MQTT 3.1.1, TLS with a client certificate, loopback");
    report.setting("processors", std::thread::available_parallelism().map_or(0, usize::from));
    for who in Who::ALL {
        report.setting(who.name(), who.settings());
    }
    let sink = Sink::start(&certificates.front())?;
    let place = certificates.place(sink.addr().port());
    compare(&mut report, &mut Receiver::Sink(sink), &place, &guest).await?;
    match BothWays::mosquitto(&certificates).await? {
        None => report.setting("mosquitto", "SKIPPED: it is not installed"),
        Some(mosquitto) => {
            let place = certificates.place(mosquitto.tls);
            let observer = Observer::start(&place).await?;
            compare(&mut report, &mut Receiver::Broker(mosquitto, Box::new(observer)), &place, &guest).await?;
        }
    }
    report.write()
}

async fn compare(report: &mut Report, receiver: &mut Receiver, place: &Place, guest: &Path) -> Result<()> {
    for (size, rounds, to_sink, to_broker) in SIZES {
        let rounds = if is_quick() { 1 } else { rounds };
        for (qos, to_broker) in [0, 1].into_iter().zip(to_broker) {
            let count = if receiver.is_sink() { to_sink } else { to_broker } / if is_quick() { 4 } else { 1 };
            say(&format!("{}, QoS {qos}, {size} bytes: {count} messages, {rounds} rounds", receiver.name()));
            let mut runs = Who::ALL.map(|who| (who, Vec::new()));
            for _ in 0..rounds {
                for (who, runs) in &mut runs {
                    let job = Job {
                        who: *who,
                        qos,
                        size,
                        count,
                        place: place.clone(),
                        guest: guest.to_owned(),
                        call: 5_000,
                        timers: 1,
                        host: "[outbox]\nstorage = \"memory\"".to_owned(),
                    };
                    let run = measure(receiver, &job);
                    runs.push(run.await.with_context(|| format!("{} at QoS {qos}, {size} bytes", who.name()))?);
                }
            }
            tell(report, &[("broker", &receiver.name()), ("qos", &qos), ("bytes", &size)], &runs);
        }
    }
    Ok(())
}

/// Messages a second, microseconds of CPU for each, and what else the publisher has used.
struct Run {
    speed: f64,
    cpu: f64,
    usage: Usage,
}

async fn measure(receiver: &mut Receiver, job: &Job) -> Result<Run> {
    let (speed, worker) = match receiver {
        Receiver::Sink(sink) => {
            sink.reset();
            let worker = Worker::start(job)?;
            let all = timeout(PATIENCE, sink.wait_for(job.count)).await;
            let tally = all.with_context(|| format!("of {} messages there came {:?}", job.count, sink.tally()))?;
            let (first, last) = tally.first.zip(tally.last).context("nothing came")?;
            (f64::from(tally.numbers) / (last - first).as_secs_f64(), worker)
        }
        Receiver::Broker(_, observer) => {
            let worker = Worker::start(job)?;
            let time = timeout(PATIENCE, observer.time()).await.context("bench/done did not come")??;
            (f64::from(job.count) / time.as_secs_f64(), worker)
        }
    };
    let usage = worker.end().await?;
    Ok(Run { speed, cpu: usage.cpu_seconds * 1e6 / f64::from(usage.messages), usage })
}

fn tell(report: &mut Report, of: &[(&'static str, &dyn ToString)], runs: &[(Who, Vec<Run>)]) {
    for (who, runs) in runs {
        let who = who.name();
        let of = [of, &[("who", &who as &dyn ToString)]].concat();
        report.figure("speed", "messages/s", &of, runs.iter().map(|run| run.speed).collect());
        report.figure("cpu", "us/message", &of, runs.iter().map(|run| run.cpu).collect());
        report.figure("memory", "KiB", &of, runs.iter().map(|run| run.usage.memory_kib as f64).collect());
    }
    let of_whom = |who| runs.iter().find(|(other, _)| *other == who).map_or(&[][..], |(_, runs)| runs);
    for (who, beside) in PAIRS {
        let pairs = || of_whom(who).iter().zip(of_whom(beside));
        let (who, beside) = (who.name(), beside.name());
        let of = [of, &[("who", &who as &dyn ToString), ("beside", &beside)]].concat();
        report.figure("speed ratio", "", &of, pairs().map(|(one, other)| one.speed / other.speed).collect());
        report.figure("cpu ratio", "", &of, pairs().map(|(one, other)| one.cpu / other.cpu).collect());
    }
}

/// What the messages are for.
enum Receiver {
    Sink(Sink),
    Broker(BothWays, Box<Observer>),
}

impl Receiver {
    fn name(&self) -> &'static str {
        match self {
            Self::Sink(_) => "sink",
            Self::Broker(broker, _) => broker.name,
        }
    }

    fn is_sink(&self) -> bool {
        matches!(self, Self::Sink(_))
    }
}
