//! Which timer of an instance is due.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The timers of one instance.
#[derive(Debug, Default)]
pub(super) struct Timers {
    timers: Vec<Timer>,
    /// When each is due; the first is the next.
    due: BTreeSet<(Instant, u32)>,
    last_id: u32,
}

#[derive(Debug)]
struct Timer {
    id: u32,
    due: Instant,
    /// None: it fires once.
    period: Option<Duration>,
}

/// A timer that is due, and how many periods passed without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fired {
    pub(super) id: u32,
    pub(super) missed: u32,
}

/// Timers one instance may have.
pub(super) const MOST: usize = 1000;

impl Timers {
    /// Starts a timer, unless there are [`MOST`].
    pub(super) fn start(&mut self, now: Instant, delay: Duration, periodic: bool) -> Option<u32> {
        if self.timers.len() >= MOST {
            return None;
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1).max(1);
            if !self.timers.iter().any(|timer| timer.id == self.last_id) {
                break;
            }
        }
        let timer = Timer { id: self.last_id, due: now + delay, period: periodic.then_some(delay) };
        self.due.insert((timer.due, timer.id));
        self.timers.push(timer);
        Some(self.last_id)
    }

    /// Ends a timer.
    pub(super) fn cancel(&mut self, id: u32) {
        if let Some(index) = self.timers.iter().position(|timer| timer.id == id) {
            let timer = self.timers.swap_remove(index);
            self.due.remove(&(timer.due, id));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the next one that is due. A period is counted from when it was due, not from
    /// now, so it does not drift; what has passed since is counted and not made up for.
    pub(super) fn fire(&mut self, now: Instant) -> Option<Fired> {
        let (due, id) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.pop_first();
        let index = self.timers.iter().position(|timer| timer.id == id)?;
        let timer = self.timers.get_mut(index)?;
        let Some(period) = timer.period else {
            self.timers.swap_remove(index);
            return Some(Fired { id, missed: 0 });
        };
        let missed = (now - due).as_nanos() / period.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        timer.due = due + period.saturating_mul(missed.saturating_add(1));
        self.due.insert((timer.due, id));
        Some(Fired { id, missed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_periodic_timer_does_not_drift_and_counts_what_it_missed() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let id = timers.start(start, SECOND, true).unwrap();
        assert_eq!(timers.fire(start + SECOND / 2), None);
        let late = SECOND / 3;
        assert_eq!(timers.fire(start + SECOND + late), Some(Fired { id, missed: 0 }));
        assert_eq!(timers.next(), Some(start + 2 * SECOND));
        assert_eq!(timers.fire(start + 5 * SECOND + late), Some(Fired { id, missed: 3 }));
        assert_eq!(timers.fire(start + 5 * SECOND + late), None, "delivered once");
        assert_eq!(timers.next(), Some(start + 6 * SECOND));
    }

    #[test]
    fn a_one_shot_timer_fires_once_and_a_cancelled_one_never() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let once = timers.start(start, SECOND, false).unwrap();
        let never = timers.start(start, SECOND, true).unwrap();
        timers.cancel(never);
        timers.cancel(77);
        assert_eq!(timers.fire(start + SECOND), Some(Fired { id: once, missed: 0 }));
        assert_eq!((timers.fire(start + 9 * SECOND), timers.next()), (None, None));
    }

    #[test]
    fn timers_are_bounded_and_fire_in_order() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let ids: Vec<_> = (0..MOST).map(|n| timers.start(start, SECOND * (1000 - n as u32), false).unwrap()).collect();
        assert_eq!(timers.start(start, SECOND, false), None);
        let fired: Vec<_> = std::iter::from_fn(|| timers.fire(start + 1000 * SECOND)).map(|fired| fired.id).collect();
        assert!(fired.iter().eq(ids.iter().rev()));
    }
}
