//! A broker for `alphorn dev` and the tests that is as strict as AWS IoT where it matters to
//! a device: mutual TLS and the ALPN protocol `x-amzn-mqtt-ca`.
//!
//! ```text
//!          TLS, client certificate, ALPN            plain TCP
//! client ──────────────────────────────▶ Front ────────────────▶ Broker
//!                                          │                     MQTT 3.1.1 and 5, in memory
//!                       what was offered ──┤
//!                       faults on demand ──┘
//! ```
//!
//! The embedded broker refuses that protocol on a TLS port of its own, and other brokers
//! ignore protocols altogether, so the [`Front`] terminates TLS. It can stand before any
//! broker; the embedded one comes with the feature `broker`, and with it `DevBroker`, which
//! puts both together. For benchmarks there is the [`Sink`], which only counts.

#![warn(missing_docs)]

pub mod certs;
pub mod front;
mod sink;

#[cfg(feature = "broker")]
mod broker;
#[cfg(feature = "broker")]
mod dev;

#[cfg(feature = "broker")]
pub use broker::Broker;
pub use certs::{Authority, Identity, Profile};
#[cfg(feature = "broker")]
pub use dev::{DevBroker, DevFiles};
pub use front::{ConnectionRecord, Direction, Faults, Front, FrontConfig, TlsVersions};
pub use sink::{Sink, Tally};

/// The ALPN protocol with which AWS IoT tells MQTT with client certificates from the rest of
/// what arrives on port 443.
pub const ALPN: &[u8] = b"x-amzn-mqtt-ca";
