//! Calls at a time.
//!
//! Timers run on the device's monotonic clock, end with the instance, and call
//! [`Plugin::on_timer`](crate::Plugin::on_timer). Times are rounded up to whole
//! milliseconds; the longest is `u32::MAX` of them, which is over 49 days.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use alphorn_guest::timers;
//! let beat = timers::every(Duration::from_secs(1))?;
//! let once = timers::after(Duration::from_millis(250))?;
//! once.cancel();
//! # Ok::<(), timers::TimerError>(())
//! ```

use std::fmt;
use std::time::Duration;

use crate::offered::timers;

/// A running timer. Copies name the same one; compare with what
/// [`Plugin::on_timer`](crate::Plugin::on_timer) is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timer(u32);

impl Timer {
    pub(crate) fn from_id(id: u32) -> Self {
        Self(id)
    }

    /// Ends the timer. One that has ended already is ignored.
    pub fn cancel(self) {
        timers::cancel(self.0);
    }
}

/// Starts a timer that fires each `period`, for the first time after one period.
///
/// It does not drift: a period missed because the plugin was busy is not made up
/// for but counted, and `on_timer` is called once with the count.
pub fn every(period: Duration) -> Result<Timer, TimerError> {
    start(timers::every, period)
}

/// Starts a timer that fires once, after `delay`.
pub fn after(delay: Duration) -> Result<Timer, TimerError> {
    start(timers::after, delay)
}

/// Why there is no timer, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerError(String);

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the timer was not started: {}", self.0)
    }
}

impl std::error::Error for TimerError {}

fn start(host: impl FnOnce(u32) -> Result<u32, String>, time: Duration) -> Result<Timer, TimerError> {
    let millis = whole_millis(time).ok_or_else(|| TimerError(format!("{time:?} is longer than {} ms", u32::MAX)))?;
    host(millis).map(Timer).map_err(TimerError)
}

/// Rounded up, so that a timer never fires early and a short period is not none.
fn whole_millis(time: Duration) -> Option<u32> {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_milliseconds() {
        assert_eq!(whole_millis(Duration::ZERO), Some(0));
        assert_eq!(whole_millis(Duration::from_micros(1)), Some(1));
        assert_eq!(whole_millis(Duration::from_secs(1)), Some(1_000));
    }

    #[test]
    fn a_time_over_the_longest_is_refused_without_asking_the_host() {
        let host = |_| unreachable!();
        let words = "5000000s is longer than 4294967295 ms".to_owned();
        assert_eq!(start(host, Duration::from_secs(5_000_000)), Err(TimerError(words)));
    }
}
