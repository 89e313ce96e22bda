//! How a plugin is, for `ps` and `top`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    component::About,
    handle::SwapError,
    history::{short, target},
    lifecycle::State,
};
use crate::{
    grants::Grants,
    link::Gauge,
    store::{Became, Past},
};

/// What changes with a plugin's state.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) state: State,
    pub(super) since: Instant,
    /// The version in force.
    pub(super) version: Option<Arc<About>>,
    /// The version a fault on probation brings back, and a roll-back: it is loaded.
    pub(super) previous: Option<Arc<About>>,
    /// The version in force is on probation, whether it runs at the moment or not.
    pub(super) is_on_probation: bool,
    /// Other versions that are kept, the newest last.
    pub(super) past: Vec<Past>,
    /// What it may do.
    pub(super) grants: Grants,
    /// What went wrong last.
    pub(super) last_error: Option<String>,
    pub(super) gauge: Option<Gauge>,
}

/// What counts up, or changes with each call.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) handled: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) faults: AtomicU64,
    pub(super) swaps: AtomicU64,
    pub(super) calls: AtomicU64,
    /// Time in calls, in nanoseconds.
    pub(super) busy: AtomicU64,
    /// Of its memories and tables, in bytes.
    pub(super) memory: AtomicUsize,
}

/// How a plugin is at a moment.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where it is in its life.
    pub state: State,
    /// For how long.
    pub since: Duration,
    /// The version in force: the first digits of its digest.
    pub version: Option<String>,
    /// Its digest.
    pub digest: Option<String>,
    /// The file it was loaded from.
    pub file: Option<PathBuf>,
    /// The version a roll-back goes to.
    pub previous: Option<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Messages it has handled.
    pub handled: u64,
    /// Messages it could not handle.
    pub dead: u64,
    /// Messages for it that found no room.
    pub dropped: u64,
    /// Messages of it that found no room in the outbox, or were given up.
    pub lost: u64,
    /// How often it failed.
    pub faults: u64,
    /// How often a version took over.
    pub swaps: u64,
    /// Calls into it.
    pub calls: u64,
    /// Time in them.
    pub busy: Duration,
    /// Bytes of its memories and tables.
    pub memory: usize,
    /// Messages and bytes in its mailbox.
    pub mailbox: (usize, usize),
    /// Messages and bytes of it in the outbox.
    pub outbox: (usize, usize),
}

impl Standing {
    pub(super) fn new(grants: Grants) -> Self {
        Self {
            state: State::Starting,
            since: Instant::now(),
            version: None,
            previous: None,
            is_on_probation: false,
            past: Vec::new(),
            grants,
            last_error: None,
            gauge: None,
        }
    }

    /// How the probation of a version that has taken over has ended; None: not yet.
    pub(super) fn outcome(&self, digest: &str) -> Option<Result<(), SwapError>> {
        if self.version.as_ref().is_some_and(|version| version.digest == digest) {
            return match self.state {
                _ if !self.is_on_probation => Some(Ok(())),
                State::Stopped => Some(Err(SwapError::StoppedOnProbation)),
                _ => None,
            };
        }
        Some(Err(match self.past.iter().find(|past| past.digest == digest).map(|past| &past.became) {
            Some(Became::RolledBack { why }) => SwapError::RolledBack(why.clone()),
            _ => SwapError::Overtaken,
        }))
    }
}

impl Report {
    pub(super) fn new(standing: &Standing, counters: &Counters, now: Instant) -> Self {
        let version = |about: &Arc<About>| about.version().to_owned();
        let gauge = standing.gauge.as_ref();
        Self {
            state: standing.state.clone(),
            since: now.saturating_duration_since(standing.since),
            version: standing.version.as_ref().map(version),
            digest: standing.version.as_ref().map(|about| about.digest.clone()),
            file: standing.version.as_ref().map(|about| about.path.clone()),
            previous: standing
                .previous
                .as_ref()
                .map(version)
                .or_else(|| target(&standing.past).map(short).map(str::to_owned)),
            last_error: standing.last_error.clone(),
            handled: counters.handled.load(Relaxed),
            dead: counters.dead.load(Relaxed),
            faults: counters.faults.load(Relaxed),
            swaps: counters.swaps.load(Relaxed),
            calls: counters.calls.load(Relaxed),
            busy: Duration::from_nanos(counters.busy.load(Relaxed)),
            memory: counters.memory.load(Relaxed),
            dropped: gauge.map_or(0, Gauge::dropped),
            lost: gauge.map_or(0, Gauge::lost),
            mailbox: gauge.map(Gauge::mailbox).unwrap_or_default(),
            outbox: gauge.map(Gauge::outbox).unwrap_or_default(),
        }
    }
}
