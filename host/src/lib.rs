//! Alphorn: a host for WebAssembly plugins that owns a device's one MQTT connection.
//!
//! The program is a thin layer over this library; `ARCHITECTURE.md` shows how the parts
//! fit together.

pub mod allowance;
#[cfg(feature = "tooling")]
pub mod builder;
pub mod clock;
pub mod config;
pub mod control;
pub mod doctor;
pub mod escape;
mod exposure;
pub mod grants;
pub mod host;
pub mod journal;
pub mod link;
pub mod log;
pub mod message;
mod nearest;
pub mod outbox;
pub mod plugin;
pub mod rate;
pub mod recent;
pub mod regular_file;
pub mod router;
pub mod signature;
pub mod store;
pub mod text;
pub mod topic;
