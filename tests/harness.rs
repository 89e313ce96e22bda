//! What the tests stand on: the real program, a broker behind the front that demands what
//! AWS IoT demands, and watchers that see what reaches that broker.
//!
//! ```text
//! Program ── TLS ──▶ Front (faults, records) ──▶ Broker ◀── plain TCP ── Watcher, client
//! ```
//!
//! Every wait is for something that can be seen, and has a deadline. What a program said is
//! printed when it is dropped, so a test that fails shows it.

mod bed;
mod broker;
mod config;
mod guests;
pub(crate) mod handmade;
mod host;
mod program;
mod proxy;
mod scripted;
mod seen;
mod watcher;
mod web;

#[path = "../host/dev-broker/tests/support/mod.rs"]
mod support;

pub(crate) use anyhow::{Context, Result, ensure};

pub(crate) use self::{
    bed::Bed,
    broker::{Broker, Mosquitto, Ready, free_ports, needs},
    config::Config,
    guests::{guest, plugin, slow_to_compile, target_dir, version},
    host::Host,
    program::{Program, Signal},
    proxy::{Mood, Proxy},
    scripted::{
        Answer, Do, Event, Packet, Scripted, Step, Tls, frame, kind, length, publishes, resuming, string, subscribes,
    },
    support::{
        Client as TlsClient,
        mqtt::{Connect, Message, Mqtt, Version},
        soon,
    },
    watcher::{Watcher, client},
    web::{Service, Web},
};

/// Turns tests that take a version of MQTT into one test for each version.
macro_rules! in_both_versions {
    ($($name:ident)*) => {
        mod mqtt_5 {
            $(#[tokio::test] async fn $name() -> $crate::harness::Result<()> { super::$name("5").await })*
        }
        mod mqtt_3_1_1 {
            $(#[tokio::test] async fn $name() -> $crate::harness::Result<()> { super::$name("3.1.1").await })*
        }
    };
}
pub(crate) use in_both_versions;

/// How often a test does what it does at random: the usual number, or what `ALPHORN_ROUNDS` asks for.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("ALPHORN_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// A seed for what a test does at random, printed so that a failure can be repeated: by `ALPHORN_SEED`.
#[expect(clippy::print_stdout, reason = "the test's own output, shown when it fails")]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("ALPHORN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    seed
}
