//! How fast messages may leave: what a broker allows in a second.
//!
//! A sliding window, not a bucket: a bucket that holds a second's worth lets twice as much
//! through in one second, and AWS IoT Core discards what is too much without a word.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Counts what left within the last second. Pure.
#[derive(Debug, Default)]
pub(super) struct Pace {
    limits: Option<Limits>,
    /// When what left, the oldest first.
    recent: VecDeque<(Instant, usize)>,
    /// Bytes of them.
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    messages: usize,
    bytes: usize,
}

/// A second, and some time for what the network moves closer together.
const WINDOW: Duration = Duration::from_millis(1050);

impl Pace {
    /// As fast as it goes.
    pub(super) fn unlimited() -> Self {
        Self::default()
    }

    /// So many messages and bytes in each second.
    pub(super) fn limited(messages: usize, bytes: usize) -> Self {
        Self { limits: Some(Limits { messages, bytes }), ..Self::default() }
    }

    /// A message of this size leaves now; or when to ask again. One that is larger than what
    /// may leave in a second leaves alone.
    pub(super) fn allow(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        let Some(limits) = self.limits else { return Ok(()) };
        while let Some((at, size)) = self.recent.front().filter(|(at, _)| *at + WINDOW <= now) {
            debug_assert!(*at <= now);
            self.bytes -= size;
            self.recent.pop_front();
        }
        let fits = self.recent.len() < limits.messages && self.bytes + bytes <= limits.bytes;
        match self.recent.front() {
            Some((oldest, _)) if !fits => Err(*oldest + WINDOW),
            _ => {
                self.recent.push_back((now, bytes));
                self.bytes += bytes;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_limits_everything_leaves() {
        let (mut pace, now) = (Pace::unlimited(), Instant::now());
        assert!((0..10_000).all(|_| pace.allow(now, 1_000_000).is_ok()));
        assert!(pace.recent.is_empty());
    }

    #[test]
    fn what_is_too_large_for_a_second_leaves_alone() {
        let (mut pace, now) = (Pace::limited(10, 100), Instant::now());
        assert!(pace.allow(now, 1000).is_ok());
        let later = pace.allow(now, 1).unwrap_err();
        assert!(pace.allow(later, 1).is_ok());
    }

    proptest! {
        #[test]
        fn no_second_holds_more_than_is_allowed(
            steps in proptest::collection::vec((0u64..300, 0usize..60), 1..300),
        ) {
            let (mut pace, start) = (Pace::limited(10, 100), Instant::now());
            let (mut now, mut left) = (start, Vec::new());
            for (pause, bytes) in steps {
                now += Duration::from_millis(pause);
                match pace.allow(now, bytes) {
                    Ok(()) => left.push((now, bytes)),
                    Err(later) => prop_assert!(later > now),
                }
            }
            for (from, _) in &left {
                let within = |at: &Instant| *at >= *from && *at < *from + Duration::from_secs(1);
                let second: Vec<_> = left.iter().filter(|(at, _)| within(at)).collect();
                prop_assert!(second.len() <= 10);
                prop_assert!(second.iter().map(|(_, bytes)| bytes).sum::<usize>() <= 100);
            }
        }
    }
}
