//! Plugins: sandboxed components, each with one task that owns it.
//!
//! The life of a plugin, driven by its task alone:
//!
//! ```text
//!              load fails                 stop
//!   (new) ───────────────► Failed ◄─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┐
//!     │ start(first)          │ swap: starts the new version        ╎ (any) ──► Stopped
//!     ▼                       ▼                                     ╎
//!   Running ◄──────────── start ok ◄── start(restart) ── Waiting ───┘
//!     │  ▲                                                  ▲
//!     │  └── swap: new instance beside, stop(swap) of the   │ pause, doubling
//!     │      old, start(swap) of the new; if the new one    │
//!     │      fails, start(rollback) of the old version      │
//!     │ fault: trap, deadline, memory ──────────────────────┤
//!     ▼                                                     │
//!   more than `restart.max` faults within `restart.within` ─┴─► Failed (quarantined)
//! ```

pub mod compile;
pub mod component;
pub mod engine;
mod handle;
mod imports;
mod instance;
mod lifecycle;
mod output;
mod probation;
mod report;
mod retries;
mod state;
mod task;
mod timers;
mod versions;
mod wasi;

pub use self::{
    handle::{PluginHandle, Surroundings, SwapError},
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
