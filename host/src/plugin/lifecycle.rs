//! When a faulty plugin starts again, and when it does not.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Where a plugin is in its life; see the drawing in [`crate::plugin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its component is being loaded, or it is in `start`.
    Starting,
    /// It handles messages.
    Running,
    /// It does, and a fault brings the version before back.
    Probation,
    /// It had a fault and starts again after a pause.
    Waiting,
    /// It had too many faults and does not run until it is replaced or started.
    Quarantined,
    /// There is nothing that could run.
    Failed,
    /// Somebody stopped it.
    Stopped,
    /// A program has ended by itself, and well.
    Finished,
}

/// Drives a plugin through its states. Pure: told what happened, it says what to do.
#[derive(Debug)]
pub(super) struct Life {
    state: State,
    faults: Faults,
}

/// What to do after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The version before has to come back.
    RollBack,
    /// Start again after this pause.
    Restart(Duration),
    /// Too many of them.
    Quarantine,
}

impl Life {
    /// `max` faults within `within` are borne.
    pub(super) fn new(max: u32, within: Duration) -> Self {
        Self { state: State::Starting, faults: Faults::new(max, within) }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Other limits from now on.
    pub(super) fn set_limits(&mut self, max: u32, within: Duration) {
        (self.faults.max, self.faults.within) = (max, within);
    }

    /// An instance has started.
    pub(super) fn started(&mut self, on_probation: bool) {
        self.state = if on_probation { State::Probation } else { State::Running };
    }

    /// Another version has another chance.
    pub(super) fn swapped(&mut self) {
        self.faults.recent.clear();
    }

    /// The probation is over.
    pub(super) fn passed(&mut self) {
        if self.state == State::Probation {
            self.state = State::Running;
        }
    }

    /// The instance is of no use any more. `can_return`: it is on probation, and the version
    /// before is there.
    pub(super) fn fault(&mut self, now: Instant, can_return: bool) -> After {
        if can_return {
            self.state = State::Starting;
            return After::RollBack;
        }
        let after = self.faults.count(now);
        self.state = if after == After::Quarantine { State::Quarantined } else { State::Waiting };
        after
    }

    /// Nothing could be loaded.
    pub(super) fn failed(&mut self) {
        self.state = State::Failed;
    }

    /// It ended by itself.
    pub(super) fn finished(&mut self) {
        self.state = State::Finished;
    }

    pub(super) fn stopped(&mut self) {
        self.state = State::Stopped;
    }

    /// Somebody starts it again.
    pub(super) fn starts(&mut self) {
        self.faults.recent.clear();
        self.state = State::Starting;
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Probation => "probation",
            Self::Waiting => "waiting",
            Self::Quarantined => "quarantined",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        })
    }
}

/// Counts faults.
#[derive(Debug)]
struct Faults {
    max: u32,
    within: Duration,
    recent: VecDeque<Instant>,
}

impl Faults {
    fn new(max: u32, within: Duration) -> Self {
        Self { max, within, recent: VecDeque::new() }
    }

    /// One more.
    fn count(&mut self, now: Instant) -> After {
        const FIRST: Duration = Duration::from_millis(500);
        const LONGEST: Duration = Duration::from_secs(30);
        while self.recent.front().is_some_and(|fault| now.saturating_duration_since(*fault) > self.within) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let count = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if count > self.max {
            return After::Quarantine;
        }
        After::Restart(FIRST.saturating_mul(2u32.saturating_pow(count - 1)).min(LONGEST))
    }
}

/// The pause before the given attempt at a message (2 is the first repetition).
pub(super) fn retry_pause(min: Duration, attempt: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(60);
    min.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(2))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_and_the_fault_too_many_quarantines() {
        let start = Instant::now();
        let mut life = Life::new(3, 60 * SECOND);
        for pause in [500, 1000, 2000] {
            assert_eq!(life.fault(start, false), After::Restart(Duration::from_millis(pause)));
            assert_eq!(*life.state(), State::Waiting);
            life.started(false);
        }
        assert_eq!(life.fault(start, false), After::Quarantine);
        assert_eq!(*life.state(), State::Quarantined);
        life.swapped();
        life.started(false);
        assert_eq!(*life.state(), State::Running);
        let again = After::Restart(Duration::from_millis(500));
        assert_eq!(life.fault(start, false), again, "another version has another chance");
    }

    #[test]
    fn a_fault_on_probation_brings_the_version_before_back() {
        let now = Instant::now();
        let mut life = Life::new(0, SECOND);
        life.started(true);
        assert_eq!(*life.state(), State::Probation);
        assert_eq!(life.fault(now, true), After::RollBack);
        life.started(false);
        assert_eq!(life.fault(now, false), After::Quarantine, "the version before has no probation");
        life.started(true);
        life.passed();
        assert_eq!(*life.state(), State::Running);
        assert_eq!(life.fault(now, false), After::Quarantine);
        life.passed();
        assert_eq!(*life.state(), State::Quarantined, "too late");
    }

    #[test]
    fn who_is_stopped_and_started_has_no_past() {
        let mut life = Life::new(1, 60 * SECOND);
        life.fault(Instant::now(), false);
        life.stopped();
        life.starts();
        life.started(false);
        assert_eq!(life.fault(Instant::now(), false), After::Restart(Duration::from_millis(500)));
    }

    #[test]
    fn old_faults_do_not_count() {
        let start = Instant::now();
        let mut faults = Faults::new(1, SECOND);
        assert!(matches!(faults.count(start), After::Restart(_)));
        assert!(matches!(faults.count(start + 2 * SECOND), After::Restart(_)));
        assert_eq!(faults.count(start + 2 * SECOND), After::Quarantine);
    }

    #[test]
    fn no_fault_is_borne_when_none_may_be() {
        assert_eq!(Faults::new(0, SECOND).count(Instant::now()), After::Quarantine);
    }

    #[test]
    fn repetitions_of_a_message_wait_longer_each_time() {
        assert_eq!(retry_pause(SECOND, 2), SECOND);
        assert_eq!(retry_pause(SECOND, 4), 4 * SECOND);
        assert_eq!(retry_pause(SECOND, u32::MAX), 60 * SECOND);
    }
}
