//! How long a message takes to a plugin and back, beside how long it takes to a plain client
//! and back. In turn, in one run, each in a process of its own.
//!
//!     cargo bench -p alphorn-benches --bench echo
//!
//! A driver publishes at a steady rate and takes the time until the echo is there. It and the
//! broker cost the same for everybody: it is plain TCP without delay on loopback, and mosquitto,
//! or where that is not installed the embedded broker. Who echoes is connected by TLS.
//!
//! At QoS 1 a median like that of Nagle's algorithm and a delayed acknowledgement of TCP
//! together, 8 ms where only one of both ends avoids it, fails.

mod support;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use alphorn::builder;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use support::{
    echoers::{Echoer, Echoing},
    is_quick, is_wanted,
    process::{self, Worker},
    report::Report,
    servers::{BothWays, Certificates},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

const SIZE: usize = 256;
/// Echoes a second.
const RATES: [u32; 2] = [200, 1_000];
const ROUNDS: usize = 5;
/// How long one round takes, without the start.
const TIME: Duration = Duration::from_secs(3);
/// Echoes before those that count.
const WARM: u32 = 50;
/// A median at QoS 1 that only comes of waiting for TCP.
const DELAYED: f64 = 4_000.0;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    if let Some(job) = process::job::<Echoing>()? {
        return job.run();
    }
    if !is_wanted() {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let guest = builder::build(&root.join("plugins/echo")).await?.component;
    let certificates = Certificates::new()?;
    let broker = match BothWays::mosquitto(&certificates).await? {
        Some(mosquitto) => mosquitto,
        None => BothWays::embedded(&certificates).await?,
    };
    let rounds = if is_quick() { 1 } else { ROUNDS };
    let mut report = Report::new("echo");
    report.setting("broker", broker.name);
    report.setting("echoes", format!("{SIZE} bytes, for {TIME:?} a round, {rounds} rounds; the driver on plain TCP"));
    for qos in [0, 1] {
        for rate in RATES {
            let mut runs = Echoer::ALL.map(|who| (who, Vec::new()));
            for _ in 0..rounds {
                for (who, runs) in &mut runs {
                    let place = certificates.place(broker.tls);
                    let worker = Worker::start(&Echoing { who: *who, place, guest: guest.clone() })?;
                    let run = drive(broker.plain, qos, rate).await;
                    runs.push(run.with_context(|| format!("{} at QoS {qos}, {rate}/s", who.name()))?);
                    worker.end().await?;
                }
            }
            tell(&mut report, qos, rate, &runs)?;
        }
    }
    report.write()
}

/// Median and 99th percentile of one round, in microseconds.
type Run = [f64; 2];

fn tell(report: &mut Report, qos: u8, rate: u32, runs: &[(Echoer, Vec<Run>)]) -> Result<()> {
    let plugin = runs.iter().find(|(who, _)| *who == Echoer::Plugin).map_or(&[][..], |(_, runs)| runs);
    for (who, runs) in runs {
        let of: [(&str, &dyn ToString); 3] = [("qos", &qos), ("rate", &rate), ("who", &who.name())];
        let median = report.figure("p50", "us", &of, runs.iter().map(|[p50, _]| *p50).collect());
        report.figure("p99", "us", &of, runs.iter().map(|[_, p99]| *p99).collect());
        ensure!(qos == 0 || median < DELAYED, "{} waits for TCP: {median} us", who.name());
    }
    for (who, runs) in runs.iter().filter(|(who, _)| *who != Echoer::Plugin) {
        let of: [(&str, &dyn ToString); 4] =
            [("qos", &qos), ("rate", &rate), ("who", &Echoer::Plugin.name()), ("beside", &who.name())];
        let ratios = plugin.iter().zip(runs).map(|([plugin, _], [other, _])| plugin / other).collect();
        report.figure("p50 ratio", "", &of, ratios);
    }
    Ok(())
}

/// One round, on a thread of its own that does nothing else.
async fn drive(port: u16, qos: u8, rate: u32) -> Result<Run> {
    let driving = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut taken = runtime.block_on(echoes(port, qos, rate))?;
        taken.sort_unstable();
        let at = |part: usize| taken.get(taken.len() * part / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6);
        anyhow::Ok([at(50), at(99)])
    };
    let (done, result) = tokio::sync::oneshot::channel();
    thread::Builder::new().name("driver".into()).spawn(move || drop(done.send(driving())))?;
    result.await?
}

async fn echoes(port: u16, qos: u8, rate: u32) -> Result<Vec<Duration>> {
    let qos = if qos == 1 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let (client, mut events) = AsyncClient::new(MqttOptions::new("driver", "127.0.0.1", port), 1_000);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    client.subscribe("test/ping/echo", qos).await?;
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(echo)) = event {
                let number = echo.payload.first_chunk().map(|number| u32::from_be_bytes(*number));
                // Whoever listened may have ended.
                let _ = sender.send((number.unwrap_or(u32::MAX), Instant::now()));
            }
        }
    });
    let publish = async |number: u32| {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(SIZE, b'x');
        client.publish_bytes("test/ping", qos, false, Bytes::from(payload)).await
    };
    // Until the echoer is in place.
    let ready = async {
        while timeout(Duration::from_millis(50), arrivals.recv()).await.is_err() {
            publish(u32::MAX).await?;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, ready).await.context("nobody echoes")??;
    sleep(Duration::from_millis(100)).await;

    let count = WARM + rate * u32::try_from(TIME.as_secs())?;
    let mut sent = Vec::new();
    let mut pace = interval(Duration::from_secs(1) / rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let publishing = async {
        for number in 0..count {
            pace.tick().await;
            sent.push(Instant::now());
            publish(number).await?;
        }
        anyhow::Ok(())
    };
    let mut came = Vec::new();
    let listening = async {
        while came.len() < count as usize {
            let (number, arrival) = arrivals.recv().await.context("the driver's connection was lost")?;
            if number != u32::MAX {
                came.push((number, arrival));
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, async { tokio::try_join!(publishing, listening) }).await.context("echoes are missing")??;
    let times = came.iter().filter(|(number, _)| *number >= WARM);
    Ok(times.filter_map(|(number, arrival)| Some(*arrival - *sent.get(*number as usize)?)).collect())
}
