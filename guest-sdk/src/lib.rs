//! Write Alphorn plugins in Rust.
//!
//! A plugin is a component that the host on the device runs in a sandbox and
//! lends the device's one MQTT connection to. This one says hello whenever it
//! starts:
//!
//! ```
#![doc = include_str!("../examples/smallest.rs")]
//! ```
//!
//! Its `Cargo.toml` asks for `crate-type = ["cdylib"]`, and `alphorn dev .` (or
//! `cargo build --target wasm32-wasip2`) makes the component.
//!
//! # What there is
//!
//! * [`Plugin`] and [`#[plugin]`](macro@plugin): what the host calls.
//! * [`publish`], [`subscribe`] and [`Message`]: messages out and in. A message
//!   is sent at least once ([`Qos::AtLeastOnce`]) unless it says otherwise.
//! * [`timers`]: calls at a time.
//! * [`state`]: values that outlive restarts, new versions and power cuts.
//! * [`config`], [`identity`] and [`link`]: what the plugin may know about
//!   itself and its surroundings.
//! * [`info!`] and its siblings: the host's log. `println!` reaches it too, as
//!   does the message of a panic.
//! * [`testing`]: a fake host, so that `cargo test` runs a plugin's logic where it is
//!   written, without a device.
//!
//! A plugin may do only what its configuration grants. A refusal is an error
//! with words that name what was asked for, so `?` and the log are enough to
//! find out.

#![warn(missing_docs)]

// Public for what `#[plugin]` expands to; not an interface.
#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod export;

mod error;
mod host;
mod log;
mod message;
mod mqtt;
mod plugin;
pub mod state;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod timers;

/// What the host offers: in a sandbox the host itself, else a fake one, for tests.
#[cfg(target_family = "wasm")]
use bindings::alphorn::plugin as offered;
#[cfg(not(target_family = "wasm"))]
use testing::calls as offered;

/// Makes the type a plugin: put it above the `impl` of [`Plugin`](trait@Plugin).
///
/// The `impl` stays as it is. Beside it the macro declares the component's
/// exports and a place for the one instance. A component has one plugin, so the
/// attribute can be used once in a crate.
///
/// ```
/// use alphorn_guest::{Delivery, Failure, Plugin, Qos, Result, Start, plugin, subscribe};
///
/// struct Counter {
///     seen: u32,
/// }
///
/// #[plugin]
/// impl Plugin for Counter {
///     fn start(_: Start) -> Result<Self> {
///         subscribe("sensor/+", Qos::AtLeastOnce)?;
///         Ok(Self { seen: 0 })
///     }
///
///     fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
///         self.seen += 1;
///         println!("{}: message {}", delivery.message.topic, self.seen);
///         Ok(())
///     }
/// }
/// ```
#[doc(inline)]
pub use alphorn_guest_macros::plugin;

pub use bindings::alphorn::plugin::host::{About, Level};
pub use bindings::alphorn::plugin::types::{Message, Properties, Qos, UserProperty};
pub use bindings::exports::alphorn::plugin::guest::{Delivery, Event, Refused, StartReason, StopReason, Undelivered};
pub use error::{Error, Failure, Result};
pub use host::{config, config_keys, identity, now};
pub use log::log;
pub use mqtt::{Link, PublishError, SubscribeError, link, publish, subscribe, unsubscribe};
pub use plugin::{Plugin, Start};
pub use timers::Timer;
