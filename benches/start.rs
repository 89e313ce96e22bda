//! How long a start takes, and how long a plugin stands still while another version takes over.
//!
//!     cargo bench -p alphorn-benches --bench start
//!     BENCH_DEVICE=1 cargo bench -p alphorn-benches --bench start
//!
//! Start: the time from the start of the process `alphorn run` until its peer, behind a front with
//! mutual TLS and ALPN, acknowledges the first message a plugin published, at QoS 1, with the
//! outbox on disk. The first start compiles the component, the second finds it compiled; the aim
//! for that is 30 ms. The build for devices (see `memory`) is given it compiled and signed: the first
//! start puts it in place.
//!
//! Swap: two versions of a plugin take turns. The pause is what the host logs: from before the
//! old version's `stop` until after the new one's `start`, with nothing handed over. The aim is
//! 1 ms. How long all of a swap takes, with loading and instantiating beside the running
//! version, is shown too.

mod rig;
mod support;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alphorn::{host::Host, message::Qos, plugin::compile::Compiler};
use anyhow::{Context, Result, ensure};
use rig::{
    MeterPlugin,
    peer::Peer,
    program::{Bed, Build, Compiled, Program},
};
use support::report::Report;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context as LayerContext, prelude::*};

const FIRST: usize = 5;
const SECOND: usize = 25;
const SWAPS: usize = 100;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let program = Build::Full.program()?;
    let component = rig::meter()?;
    let mut report = Report::new("start");
    for build in Build::wanted() {
        start(build, &component, &mut report)?;
    }
    swap(&program, &component, &mut report)?;
    report.write()
}

fn start(build: Build, component: &Path, report: &mut Report) -> Result<()> {
    let (program, bed) = (build.program()?, Bed::make()?);
    let compiled = (build == Build::Device).then(|| Compiled::make(component)).transpose()?;
    let component = compiled.as_ref().map_or(component, |compiled| &compiled.path);
    let key = compiled.as_ref().map(|compiled| compiled.key.as_str());
    let plugin = format!(
        "[plugins.meter]\ncomponent = {component:?}\npublish = [\"hello\"]\nconfig = {{ hello = \"hello\" }}\n"
    );
    let mut first = Vec::new();
    let mut second = Vec::new();
    for _ in 0..FIRST {
        let data_dir = tempfile::tempdir()?;
        first.push(to_first_acknowledgement(&program, &bed, data_dir.path(), key, &plugin)?);
    }
    let data_dir = tempfile::tempdir()?;
    to_first_acknowledgement(&program, &bed, data_dir.path(), key, &plugin)?;
    for _ in 0..SECOND {
        second.push(to_first_acknowledgement(&program, &bed, data_dir.path(), key, &plugin)?);
    }
    let name = build.name();
    for (kind, figures) in [("first start", first), ("second start", second)] {
        report.figure("start to first PUBACK", "ms", &[("build", &name), ("kind", &kind)], figures);
    }
    Ok(())
}

fn to_first_acknowledgement(
    program: &Path,
    bed: &Bed,
    data_dir: &Path,
    key: Option<&str>,
    plugin: &str,
) -> Result<f64> {
    let config = bed.configure(data_dir, key, plugin)?;
    // One of a run before does not count.
    bed.peer.first_acknowledged();
    let mut running = Program::run(program, &config)?;
    let acknowledged = running.until("the first acknowledgement", || bed.peer.first_acknowledged())?;
    let taken = acknowledged.duration_since(running.started);
    running.end()?;
    Ok(milliseconds(taken))
}

fn swap(program: &Path, component: &Path, report: &mut Report) -> Result<()> {
    let pauses = Pauses::default();
    tracing_subscriber::registry().with(pauses.clone()).init();
    let folder = tempfile::tempdir()?;
    let versions = [marked(component, folder.path(), 0)?, marked(component, folder.path(), 1)?];
    let peer = Peer::start()?;
    let plugin = MeterPlugin::new("meter", 16, Qos::AtMostOnce, 0);
    let [first, _] = &versions;
    let head = format!("[host]\ndata_dir = {:?}\n", folder.path().join("data"));
    let config = rig::configuration(&peer, &head, &plugin.configuration(first))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let whole = runtime.block_on(async {
        let host = Host::start(config, Compiler::Child(program.to_owned()))?;
        host.open().await;
        let plugin = host.plugin("meter").await.context("no plugin")?;
        let mut whole = Vec::new();
        // The first two compile.
        for version in versions.iter().rev().cycle().take(SWAPS + 2) {
            let begin = Instant::now();
            plugin.swap(version.clone()).await?;
            whole.push(milliseconds(begin.elapsed()));
        }
        host.shutdown().await;
        anyhow::Ok(whole.into_iter().skip(2).collect::<Vec<_>>())
    })?;
    let pauses: Vec<_> = pauses.take().into_iter().skip(2).map(milliseconds).collect();
    ensure!(pauses.len() == SWAPS, "{} pauses were logged", pauses.len());
    let mut sorted = pauses.clone();
    sorted.sort_by(f64::total_cmp);
    let p99 = sorted.get(SWAPS * 99 / 100).copied().unwrap_or(f64::NAN);
    report.setting("swaps", SWAPS);
    report.figure("pause", "ms", &[("kind", &"swap")], pauses);
    report.figure("pause, p99", "ms", &[("kind", &"swap")], vec![p99]);
    report.figure("all of it", "ms", &[("kind", &"swap")], whole);
    Ok(())
}

/// The component with a custom section behind it: the same code, another version.
fn marked(component: &Path, folder: &Path, mark: u8) -> Result<PathBuf> {
    let mut bytes = fs::read(component)?;
    // Section 0, four bytes: a name of two, and one of content.
    bytes.extend([0, 4, 2, b'n', b'o', mark]);
    let path = folder.join(format!("version{mark}.wasm"));
    fs::write(&path, bytes)?;
    Ok(path)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Takes the field `pause` out of the log.
#[derive(Debug, Clone, Default)]
struct Pauses(Arc<Mutex<Vec<Duration>>>);

impl Pauses {
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Pauses {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let mut found = Found(None);
        event.record(&mut found);
        if let Some(pause) = found.0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pause);
        }
    }
}

struct Found(Option<Duration>);

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "pause" {
            self.0 = duration(&format!("{value:?}"));
        }
    }
}

/// A time as Rust's `{:?}` shows it: `745.3µs`.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_alphabetic() || c == 'µ')?;
    let (number, unit) = text.split_at_checked(unit)?;
    let scale = match unit {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * scale))
}
