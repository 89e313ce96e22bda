//! Instructions of a message do not grow unnoticed.
//!
//!     cargo bench -p alphorn-benches --bench instructions
//!     cargo bench -p alphorn-benches --bench instructions -- profile    # where they go
//!
//! It runs itself under valgrind (the tool cachegrind, without its caches), which counts the
//! instructions of the whole process: guest, host, link and peer. Two runs differ in nothing but
//! the number of messages, so what is divided by the difference is the cost of a message. Counts do
//! not depend on how busy a machine is, and hardly on how fast: only the epoch's ticks come with
//! the clock, and more of them fall into the same work. They depend on the processor's
//! architecture and somewhat on the compiler, hence the margin. The component is
//! compiled before, under valgrind too, since that shows another processor than the
//! machine has.
//!
//! The profile takes callgrind instead, and strace to count the calls of the kernel. It is of a
//! connection with TLS, which a front before the peer ends; the counts that are held are without.

#[path = "instructions/profile.rs"]
mod profile;
mod rig;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use alphorn::{
    message::Qos,
    plugin::compile::{self, Compiler},
};
use anyhow::{Context, Result, ensure};
use rig::{MeterPlugin, Rig, Wire};
use support::{report::Report, say};

/// Instructions of a message, at x86-64. Who makes do with fewer lowers these numbers.
const EXPECTED: [(Way, f64); 2] = [(Way::Publish, 5_400.0), (Way::Deliver, 11_700.0)];

/// What they may differ by; less than that below is welcome and asks for new numbers.
const MARGIN: f64 = 0.10;

/// Messages of 256 bytes of a round at QoS 0, and rounds of the two runs.
const COUNT: usize = 5_000;
const FEW: usize = 1;
const MANY: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Publish,
    Deliver,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Deliver => "deliver",
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // What the compiler of the rig is told.
        [compile::COMMAND, input, output, memory, seconds] => {
            compile::compile_file(Path::new(input), Path::new(output), memory.parse()?, seconds.parse()?)
        }
        ["rounds", way, wire, rounds, component, data_dir] => {
            let way = if *way == "publish" { Way::Publish } else { Way::Deliver };
            let wire = if *wire == "tls" { Wire::Tls } else { Wire::Plain };
            rounds_of(way, wire, rounds.parse()?, Path::new(component), Path::new(data_dir))
        }
        arguments if arguments.contains(&"--bench") => measure(arguments.contains(&"profile")),
        _ => Ok(()),
    }
}

fn measure(is_profile: bool) -> Result<()> {
    let component = rig::meter()?;
    let data_dir = tempfile::tempdir()?;
    // Compiles, for the processor that valgrind shows.
    let mut compiling = valgrind("none");
    run(compiling.arg("--trace-children=yes"), Way::Publish, Wire::Plain, 0, &component, data_dir.path())?;
    if is_profile {
        return profiles(&component, data_dir.path());
    }
    let mut report = Report::new("instructions");
    let mut wrong = Vec::new();
    for (way, expected) in EXPECTED {
        let count = |rounds| instructions(way, rounds, &component, data_dir.path());
        let (few, many) = (count(FEW)?, count(MANY)?);
        let each = (many - few) / ((MANY - FEW) * COUNT) as f64;
        report.figure("instructions", "/message", &[("way", &way.name())], vec![each]);
        let ratio = each / expected;
        if ratio > 1.0 + MARGIN {
            wrong.push(format!("{}: {each:.0} instructions, expected are {expected:.0}", way.name()));
        } else if ratio < 1.0 - MARGIN {
            say(&format!("{}: fewer than the {expected:.0} expected; write the new number down", way.name()));
        }
    }
    report.write()?;
    if cfg!(target_arch = "x86_64") {
        ensure!(wrong.is_empty(), "a message takes more instructions than it did:\n{}", wrong.join("\n"));
    } else {
        say("expected numbers are those of x86-64 and not compared here");
    }
    Ok(())
}

/// Says where the instructions go.
fn profiles(component: &Path, data_dir: &Path) -> Result<()> {
    let mut report = Report::new("profile");
    for (way, _) in EXPECTED {
        let messages = ((MANY - FEW) * COUNT) as f64;
        let profile = |rounds| -> Result<profile::Profile> {
            let folder = tempfile::tempdir()?;
            let mut counting = valgrind("callgrind");
            counting.arg("--separate-threads=yes");
            counting.arg(format!("--callgrind-out-file={}", folder.path().join("callgrind.out").display()));
            run(&mut counting, way, Wire::Tls, rounds, component, data_dir)?;
            profile::read(folder.path())
        };
        let (few, many) = (profile(FEW)?, profile(MANY)?);
        for ((thread, purpose), count) in many {
            let each = (count - few.get(&(thread, purpose)).copied().unwrap_or_default()) / messages;
            if each >= 1.0 {
                let of: [(_, &dyn ToString); 3] = [("way", &way.name()), ("thread", &thread), ("what for", &purpose)];
                report.figure("instructions", "/message", &of, vec![each]);
            }
        }
        // Apart, because what is compiled for valgrind's processor is not for this one.
        let apart = tempfile::tempdir()?;
        let calls = |rounds| system_calls(way, rounds, component, apart.path());
        let each = (calls(MANY)? - calls(FEW)?) / messages;
        report.figure("calls of the kernel", "/message", &[("way", &way.name())], vec![each]);
    }
    report.write()
}

/// All calls of the kernel by a process that does so many rounds.
fn system_calls(way: Way, rounds: usize, component: &Path, data_dir: &Path) -> Result<f64> {
    let counts = data_dir.join("calls");
    let mut strace = Command::new("strace");
    strace.args(["--follow-forks", "--summary-only", "--output"]).arg(&counts);
    run(&mut strace, way, Wire::Tls, rounds, component, data_dir)?;
    let counts = fs::read_to_string(counts)?;
    // % time, seconds, microseconds a call, calls, errors if there were any, "total".
    let total = counts.lines().find(|line| line.trim_end().ends_with("total")).context("no total")?;
    Ok(total.split_whitespace().nth(3).context("a total without calls")?.parse()?)
}

/// The work whose instructions are counted.
fn rounds_of(way: Way, wire: Wire, rounds: usize, component: &Path, data_dir: &Path) -> Result<()> {
    let head = format!("[host]\ndata_dir = {data_dir:?}\n");
    let plugin = MeterPlugin::new("meter", 256, Qos::AtMostOnce, COUNT);
    let compiler = Compiler::Child(std::env::current_exe()?);
    let rig = Rig::start_with(component, &[plugin], &head, compiler, wire)?;
    let meter = rig.plugin("meter")?;
    for _ in 0..rounds {
        let received = rig.peer.received();
        if way == Way::Publish {
            rig.gather(&meter, "meter", "go", 0, Qos::AtMostOnce, 1)?;
            rig.handle(&meter, 1)?;
            rig.drained(received + COUNT as u64)?;
        } else {
            rig.gather(&meter, "meter", "in", 256, Qos::AtMostOnce, COUNT)?;
            rig.handle(&meter, COUNT as u64)?;
        }
    }
    drop(meter);
    rig.stop();
    Ok(())
}

/// All instructions of a process that does so many rounds.
fn instructions(way: Way, rounds: usize, component: &Path, data_dir: &Path) -> Result<f64> {
    let counts: PathBuf = data_dir.join("counts");
    let mut counting = valgrind("cachegrind");
    counting.arg("--cache-sim=no").arg(format!("--cachegrind-out-file={}", counts.display()));
    run(&mut counting, way, Wire::Plain, rounds, component, data_dir)?;
    let counts = fs::read_to_string(counts)?;
    let summary = counts.lines().find_map(|line| line.strip_prefix("summary:")).context("no summary")?;
    Ok(summary.split_whitespace().next().context("an empty summary")?.parse()?)
}

fn valgrind(tool: &str) -> Command {
    let mut command = Command::new("valgrind");
    command.arg(format!("--tool={tool}")).arg("--fair-sched=try");
    command
}

/// This program under such a tool, with so many rounds.
fn run(tool: &mut Command, way: Way, wire: Wire, rounds: usize, component: &Path, data_dir: &Path) -> Result<()> {
    tool.arg(std::env::current_exe()?).args(["rounds", way.name(), wire.name(), &rounds.to_string()]);
    let output = tool.arg(component).arg(data_dir).output();
    let program = tool.get_program().to_string_lossy().into_owned();
    let output = output.with_context(|| format!("{program} is missing: apt-get install {program}"))?;
    ensure!(
        output.status.success(),
        "under {program} it fails: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
