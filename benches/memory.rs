//! What `alphorn run` takes of memory with idle plugins, and how large the program is.
//!
//!     cargo bench -p alphorn-benches --bench memory
//!     BENCH_DEVICE=1 cargo bench -p alphorn-benches --bench memory
//!
//! The second measures the build for devices as well (`--profile device --no-default-features`),
//! which takes minutes to compile, or is that file if it names one. It has no compiler and is given
//! the component compiled and signed. The plugin is `plugins/echo`; its component is compiled before,
//! all its instances are subscribed, and nothing has happened for two seconds.
//!
//! The aims: the build for devices below 14 MB with one plugin and below 60 kB for each further
//! one, the full build below 30 MB; stripped programs below 6 MB and 25 MB.

mod rig;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use alphorn::builder;
use anyhow::{Result, ensure};
use rig::{
    processor::{self, Resident},
    program::{Bed, Build, Compiled, Program},
};
use support::report::Report;

const PLUGINS: [usize; 4] = [1, 10, 100, 500];
const IDLE: Duration = Duration::from_secs(2);
const RUNS: usize = 3;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/echo");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let component = runtime.block_on(builder::build(&root))?.component;
    let mut report = Report::new("memory");
    for build in Build::wanted() {
        measure(build, &component, &mut report)?;
    }
    report.write()
}

fn measure(build: Build, component: &Path, report: &mut Report) -> Result<()> {
    let (program, name) = (build.program()?, build.name());
    let compiled = (build == Build::Device).then(|| Compiled::make(component)).transpose()?;
    let component = compiled.as_ref().map_or(component, |compiled| &compiled.path);
    let key = compiled.as_ref().map(|compiled| compiled.key.as_str());
    report.figure("program, stripped", "MB", &[("build", &name)], vec![stripped(&program)? as f64 / 1e6]);
    let data_dir = tempfile::tempdir()?;
    let mut before: Option<(usize, f64)> = None;
    for count in PLUGINS {
        let mut all = Vec::new();
        let mut anonymous = Vec::new();
        for _ in 0..RUNS {
            let resident = idle(&program, component, key, data_dir.path(), count)?;
            all.push(resident.all / 1000.0 * 1.024);
            anonymous.push(resident.anonymous / 1000.0 * 1.024);
        }
        let of: [(&'static str, &dyn ToString); 2] = [("build", &name), ("plugins", &count)];
        let now = report.figure("RSS", "MB", &of, all);
        report.figure("RSS, not of files", "MB", &of, anonymous);
        if let Some((fewer, less)) = before {
            let each = (now - less) * 1000.0 / (count - fewer) as f64;
            report.figure("each further plugin", "kB", &of, vec![each]);
        }
        before = Some((count, now));
    }
    Ok(())
}

/// A host with so many idle plugins.
fn idle(program: &Path, component: &Path, key: Option<&str>, data_dir: &Path, count: usize) -> Result<Resident> {
    let plugin = |number: usize| {
        format!(
            "[plugins.idle{number}]\ncomponent = {component:?}\nsubscribe = [\"idle/{number}\"]\n\
             config = {{ filter = \"idle/{number}\" }}\n"
        )
    };
    let plugins: String = (0..count).map(plugin).collect();
    // The first run compiles, and its memory may show that.
    for _ in 0..2 {
        let bed = Bed::make()?;
        let config = bed.configure(data_dir, key, &plugins)?;
        let is_compiled = fs::read_dir(data_dir.join("compiled")).is_ok_and(|mut files| files.next().is_some());
        let mut running = Program::run(program, &config)?;
        running.until("the subscriptions", || (bed.peer.subscriptions() >= count).then_some(()))?;
        if is_compiled {
            thread::sleep(IDLE);
            let resident = processor::resident(&running.id().to_string())?;
            running.end()?;
            return Ok(resident);
        }
        running.end()?;
    }
    anyhow::bail!("what was compiled is not kept")
}

/// The size of the program without symbols.
fn stripped(program: &Path) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let copy: PathBuf = folder.path().join("alphorn");
    let status = Command::new("strip").arg("-o").arg(&copy).arg(program).status()?;
    ensure!(status.success(), "`strip` (binutils) fails");
    Ok(fs::metadata(copy)?.len())
}
