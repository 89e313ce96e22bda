//! Plugins: sandboxed components, each with one task that owns it.
//!
//! The life of a plugin, driven by its task; the transitions are in `lifecycle.rs`:
//!
//! ```text
//!            load fails                                 start, or swap
//!   Starting ──────────► Failed                Stopped ─────────────────► Starting
//!     │ start ok                                  ▲ stop, from any state
//!     ▼            fault                          ╎
//!   Running ─────────────────► Waiting ─ pause, doubling ─► start(restart)
//!     │   ▲                      │ more than `restart.max` faults within `restart.within`
//!     │   │                      ▼
//!     │   │                  Quarantined ── start, or swap ──► Starting
//!     │   │
//!     │   └── time or messages of the probation have passed ──┐
//!     │ swap: stop(swap) of the old, start(swap) of the new   │
//!     └──────────────────────────────────────────────────► Probation
//!                                                             │ fault
//!         Running ◄── start(rollback) of the old version ◄────┘
//! ```
//!
//! A plain WASI program, which nobody calls, may end by itself: `Finished`, until somebody starts it.

#[cfg(feature = "compiler")]
pub mod ahead;
pub mod compile;
pub mod component;
pub mod engine;
#[cfg(feature = "compiler")]
mod footprint;
mod guest;
mod handle;
mod history;
mod imports;
mod instance;
mod kind;
mod lent;
mod lifecycle;
mod memory;
mod messaging;
pub mod native;
mod output;
mod payload;
mod place;
mod probation;
mod program;
mod report;
mod retries;
mod state;
#[cfg(feature = "compiler")]
mod surface;
mod task;
mod ticker;
mod timers;
mod versions;
mod wasi;

pub(crate) use self::history::short;
pub(crate) use self::instance::MOST_COPIED;
pub use self::{
    handle::{Digests, InForce, PluginHandle, Surroundings, SwapError},
    kind::Kind,
    lifecycle::State,
    report::Report,
    versions::Versions,
    wasi::{Dir, Reach, Wasi},
};

/// The bindings of `wit/`; the host's side.
pub(crate) mod bindings {
    #![allow(unsafe_code, missing_debug_implementations, missing_docs, reason = "generated code")]
    #![allow(unreachable_pub, clippy::all, reason = "generated code")]

    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        imports: {
            // It may have to wait for room.
            "alphorn:plugin/mqtt.publish": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
