//! When a faulty plugin starts again, and when it does not.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Where a plugin is in its life; see the drawing in [`crate::plugin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its component is being loaded, or it is in `start`.
    Starting,
    /// It handles messages.
    Running,
    /// It had a fault and starts again after a pause.
    Waiting,
    /// It does not run, for this reason, until it is replaced.
    Failed(String),
    /// It was stopped.
    Stopped,
}

/// Counts faults.
#[derive(Debug)]
pub(super) struct Faults {
    max: u32,
    within: Duration,
    recent: VecDeque<Instant>,
}

/// What to do after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Start again after this pause.
    Restart(Duration),
    /// Too many of them.
    Quarantine,
}

impl Faults {
    /// `max` within `within` are borne.
    pub(super) fn new(max: u32, within: Duration) -> Self {
        Self { max, within, recent: VecDeque::new() }
    }

    /// One more.
    pub(super) fn count(&mut self, now: Instant) -> After {
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

    /// Another version has another chance.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
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
        let mut faults = Faults::new(3, 60 * SECOND);
        for pause in [500, 1000, 2000] {
            assert_eq!(faults.count(start), After::Restart(Duration::from_millis(pause)));
        }
        assert_eq!(faults.count(start), After::Quarantine);
        faults.forget();
        assert_eq!(faults.count(start), After::Restart(Duration::from_millis(500)));
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
