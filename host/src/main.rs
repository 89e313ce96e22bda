//! The program: arguments, log, command, exit code.

mod cli;
mod commands;
mod exit;
mod signals;

use std::{process::ExitCode, str::FromStr, time::Duration};

use alphorn::{
    log::{self, Log, Stderr},
    recent::Recent,
};
use clap::Parser;
use cli::{Cli, Command};
use exit::Failure;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

fn main() -> ExitCode {
    end_with_a_panic();
    return_large_memory();
    let code = run();
    Stderr::of_process().flush(LAST_LINES);
    code
}

/// How long the last lines may take to whoever reads them.
const LAST_LINES: Duration = Duration::from_secs(2);

fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // As small a process as can be: it runs under limits.
    #[cfg(feature = "compiler")]
    if let Command::CompileComponent(args) = &cli.command {
        return commands::compile_component::compile(args);
    }
    let recent = Recent::new();
    log_to_stderr(&cli, recent.clone());
    // Two at least: a plugin that computes for long leaves one to the others.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).max(2);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return Failure::new(exit::OS, anyhow::Error::new(cause).context("no threads")).report(),
    };
    let result = runtime.block_on(async {
        match cli.command {
            #[cfg(feature = "tooling")]
            Command::Dev(args) => commands::dev::dev(args, recent).await,
            Command::Run(args) => commands::run::run(args, recent).await,
            Command::Doctor(args) => commands::doctor::doctor(args).await,
            Command::Sub(args) => commands::sub::sub(args).await,
            Command::Pub(args) => commands::publish::publish(args).await,
            #[cfg(feature = "tooling")]
            Command::Build(args) => commands::build::build(args).await,
            #[cfg(feature = "tooling")]
            Command::New(args) => commands::new::new(&args),
            #[cfg(feature = "compiler")]
            Command::Keygen(args) => commands::keygen::keygen(&args),
            Command::Ps(args) => commands::ps::ps(args).await,
            Command::Top(args) => commands::ps::top(args).await,
            Command::Logs(args) => commands::logs::logs(args).await,
            Command::Swap(args) => commands::act::swap(args).await,
            Command::Rollback(args) => commands::act::rollback(args).await,
            Command::Stop(args) => commands::act::stop(args).await,
            Command::Start(args) => commands::act::start(args).await,
            Command::Explain(args) => commands::explain::explain(args).await,
            Command::DeadLetters(args) => commands::dead_letters::dead_letters(args).await,
            Command::Quarantine(args) => commands::quarantine::quarantine(args).await,
            Command::Check(args) => commands::check::check(&args).await,
            #[cfg(feature = "compiler")]
            Command::CompileComponent(_) => Ok(()),
        }
    });
    // A thread that is stuck in a system call must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A panic is a fault of this program. It ends the process in every build, as in a device's, which has
/// nothing to unwind with: whoever started it starts it again, and what is on disk is as after any other
/// end. Nothing may rely on one thread or task ending by itself, with the rest going on without it.
fn end_with_a_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What was said before comes before it.
        Stderr::of_process().flush(LAST_LINES);
        say(panic);
        std::process::abort();
    }));
}

/// Whole files in memory, components mostly, are pieces of their own that the system gets back as soon
/// as they are freed. Else they would stay with the thread that read them, each of which has its own
/// memory to allocate from: megabytes for nothing where there are many plugins.
#[allow(unsafe_code, reason = "a setting of the C library; see below")]
fn return_large_memory() {
    // Larger than any usual payload, so that messages do not pay for it.
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` sets a number, and nothing else runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
    }
}

fn log_to_stderr(cli: &Cli, recent: Recent) {
    let level = match i16::from(cli.verbose) - i16::from(cli.quiet) {
        ..=-2 => "error",
        -1 => "warn",
        0 => "info,mqtt5=warn,alphorn_dev_broker=warn,notify=warn",
        1 => "debug,mqtt5=info",
        2.. => "trace",
    };
    let default = Targets::from_str(level).unwrap_or_default();
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).map(|text| Targets::from_str(&text));
    let (filter, wrong) = match asked {
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (default, Some(error)),
        None => (default, None),
    };
    // These would write out each frame, the one with the password included.
    let quiet = ["tungstenite", "tokio_tungstenite"].map(|target| (target, LevelFilter::INFO));
    // Whose a line is, it says at each level.
    let filter = filter.with_targets(quiet).with_target(log::SPANS, LevelFilter::ERROR);
    let colour = commands::colour(&std::io::stderr());
    let log = Log::new(recent, Stderr::of_process(), colour);
    tracing_subscriber::registry().with(filter).with(log).init();
    if let Some(error) = wrong {
        tracing::warn!(
            "RUST_LOG is not understood ({error}): it is a level, or levels like `info,alphorn::link=debug`"
        );
    }
}
