//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// `[link] backoff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffSettings {
    /// The first pause, at most.
    pub min: Duration,
    /// No pause is longer.
    pub max: Duration,
    /// A connection that stood this long lets the next pause be a first one again.
    pub stable_after: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self { min: Duration::from_secs(1), max: Duration::from_secs(120), stable_after: Duration::from_secs(20) }
    }
}

/// Counts failures in a row. Each pause lies between half and all of
/// `min · 2^failures`, capped: it always grows, and devices that lost the same
/// broker do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    settings: BackoffSettings,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub(super) fn new(settings: BackoffSettings) -> Self {
        Self { settings, failures: 0 }
    }

    /// An attempt failed, or a connection that stood for `stood` is gone: how long
    /// to wait now. A connection alone proves nothing; a broker may accept and drop.
    pub(super) fn pause(&mut self, stood: Option<Duration>) -> Duration {
        if stood.is_some_and(|stood| stood >= self.settings.stable_after) {
            self.failures = 0;
        }
        let factor = 2u32.checked_pow(self.failures).unwrap_or(u32::MAX);
        let longest = self.settings.min.saturating_mul(factor).min(self.settings.max);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// The connection has ended over what this side has sent: the broker is well, and the next pause
    /// is a first one again.
    pub(super) fn is_explained(&mut self) {
        self.failures = 0;
    }

    /// Failures since the link was last stable.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_with_jitter_up_to_the_cap() {
        let mut backoff = Backoff::new(BackoffSettings::default());
        for exponent in 0..40 {
            let longest = (SECOND * 2u32.pow(exponent.min(7))).min(Duration::from_secs(120));
            let pause = backoff.pause(None);
            assert!(longest / 2 <= pause && pause <= longest, "{exponent}: {pause:?}");
        }
    }

    #[test]
    fn jitter_differs_from_device_to_device() {
        let pauses: std::collections::HashSet<_> =
            (0..100).map(|_| Backoff::new(BackoffSettings::default()).pause(None)).collect();
        assert!(pauses.len() > 90);
    }

    #[test]
    fn only_a_connection_that_stood_resets_it() {
        let mut backoff = Backoff::new(BackoffSettings::default());
        for _ in 0..5 {
            backoff.pause(None);
        }
        assert!(backoff.pause(Some(SECOND)) >= 16 * SECOND);
        assert!(backoff.pause(Some(20 * SECOND)) <= SECOND);
    }
}
