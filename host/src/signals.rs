//! SIGINT and SIGTERM: the first ends in good order, the second at once.

use std::time::Duration;

use alphorn::log::Stderr;
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal that asks to read the configuration again.
pub(crate) fn hangup() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("can't take over signals")
}

/// The signals that end the program.
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// Takes the signals over.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("can't take over signals");
        Ok(Self { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    /// Until one comes; its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Does the work of ending, unless a second signal says to leave it.
    pub(crate) async fn unless_again(&mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            signal = self.next() => {
                tracing::warn!("{signal} again: ending at once");
                Stderr::of_process().flush(Duration::from_secs(1));
                std::process::exit(130);
            }
        }
    }
}
