//! Plugins that poison again and again: their messages are held back as a whole. Pure.
//!
//! ```text
//!  free ── the `MOST`th conviction `WITHIN` a time ──► held: nothing of it leaves, nothing is taken
//!   ▲                                                    │ after `FIRST`, each time twice as long
//!   │                                                    ▼
//!   └──── `PROOF` messages that the broker takes ──── on probation: each of its messages is tried alone
//!                                                        │ a conviction: held again
//! ```
//!
//! One topic is found out in a few connections. A plugin that poisons with a new one each second
//! would keep the search, and with it everybody, busy for ever.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use crate::router::SubscriberId;

#[derive(Debug, Default)]
pub(super) struct Parole {
    records: FxHashMap<SubscriberId, Record>,
}

#[derive(Debug)]
struct Record {
    /// The last convictions.
    convictions: VecDeque<Instant>,
    standing: Standing,
    /// How often in a row it was held.
    holds: u32,
}

/// Whether a plugin's messages may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// As any other's; it may have been convicted.
    Free,
    /// Not before that.
    Held(Instant),
    /// One at a time, alone; so many of them have been taken.
    OnProbation(u32),
}

/// So many convictions within that time are too many.
const MOST: usize = 3;
const WITHIN: Duration = Duration::from_secs(600);

/// How long it is held the first time, and at most.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

/// So many messages in a row that the broker takes prove that it has changed its ways.
const PROOF: u32 = 3;

impl Parole {
    /// Nobody was ever convicted.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// A topic of the plugin was convicted. How long it is held for that, if it is.
    pub(super) fn convicted(&mut self, plugin: SubscriberId, now: Instant) -> Option<Duration> {
        let record = self.records.entry(plugin).or_insert_with(|| Record {
            convictions: VecDeque::new(),
            standing: Standing::Free,
            holds: 0,
        });
        record.convictions.push_back(now);
        record.convictions.retain(|at| now.saturating_duration_since(*at) < WITHIN);
        if record.convictions.len() < MOST && record.standing == Standing::Free {
            return None;
        }
        let pause = FIRST.saturating_mul(2u32.saturating_pow(record.holds)).min(LONGEST);
        record.holds += 1;
        record.convictions.clear();
        record.standing = Standing::Held(now + pause);
        Some(pause)
    }

    pub(super) fn standing(&self, plugin: SubscriberId) -> Standing {
        self.records.get(&plugin).map_or(Standing::Free, |record| record.standing)
    }

    /// It was convicted a short while ago.
    pub(super) fn is_known(&self, plugin: SubscriberId, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WITHIN;
        self.records.get(&plugin).is_some_and(|record| record.convictions.iter().any(is_recent))
    }

    /// The broker has taken a message of the plugin.
    pub(super) fn proved(&mut self, plugin: SubscriberId) {
        let Some(record) = self.records.get_mut(&plugin) else { return };
        if let Standing::OnProbation(taken) = record.standing {
            let is_enough = taken + 1 >= PROOF;
            record.standing = if is_enough { Standing::Free } else { Standing::OnProbation(taken + 1) };
        }
    }

    /// When the next one that is held may be tried.
    pub(super) fn next_release(&self) -> Option<Instant> {
        let until = |record: &Record| match record.standing {
            Standing::Held(until) => Some(until),
            Standing::Free | Standing::OnProbation(_) => None,
        };
        self.records.values().filter_map(until).min()
    }

    /// One whose time is over: it is on probation from now on.
    pub(super) fn release(&mut self, now: Instant) -> Option<SubscriberId> {
        let is_over = |record: &Record| matches!(record.standing, Standing::Held(until) if until <= now);
        let (plugin, record) = self.records.iter_mut().find(|(_, record)| is_over(record))?;
        record.standing = Standing::OnProbation(0);
        Some(*plugin)
    }

    /// Somebody answers for it: it is on probation at once.
    pub(super) fn pardon(&mut self, plugin: SubscriberId, now: Instant) {
        if let Some(record) = self.records.get_mut(&plugin)
            && matches!(record.standing, Standing::Held(_))
        {
            record.standing = Standing::Held(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_third_conviction_holds_and_each_time_longer() {
        let (mut parole, start) = (Parole::default(), Instant::now());
        assert_eq!(parole.convicted(1, start), None);
        assert!(parole.is_known(1, start) && !parole.is_known(2, start));
        assert_eq!(parole.convicted(1, start + seconds(5)), None);
        assert_eq!(parole.convicted(2, start + seconds(5)), None, "another's count is its own");
        assert_eq!(parole.convicted(1, start + seconds(9)), Some(FIRST));
        assert_eq!(parole.next_release(), Some(start + seconds(9) + FIRST));
        assert_eq!(parole.release(start + seconds(10)), None);
        let released = start + seconds(9) + FIRST;
        assert_eq!((parole.release(released), parole.release(released)), (Some(1), None));
        assert_eq!(parole.standing(1), Standing::OnProbation(0));
        assert_eq!(parole.convicted(1, released), Some(FIRST * 2), "one is enough now");
        for _ in 0..20 {
            assert!(parole.convicted(1, released).is_some_and(|pause| pause <= LONGEST));
        }
    }

    #[test]
    fn few_convictions_in_a_long_time_are_borne() {
        let (mut parole, start) = (Parole::default(), Instant::now());
        for number in 0..20 {
            assert_eq!(parole.convicted(1, start + WITHIN / 2 * number), None);
        }
        assert!(parole.records[&1].convictions.len() < MOST);
    }

    #[test]
    fn who_has_proved_itself_is_free() {
        let (mut parole, start) = (Parole::default(), Instant::now());
        for _ in 0..MOST {
            parole.convicted(1, start);
        }
        parole.proved(1);
        assert!(matches!(parole.standing(1), Standing::Held(_)), "what was under way proves nothing");
        assert_eq!(parole.release(start + FIRST), Some(1));
        for taken in 0..PROOF {
            assert_eq!(parole.standing(1), Standing::OnProbation(taken));
            parole.proved(1);
        }
        assert_eq!(parole.standing(1), Standing::Free);
        assert_eq!(parole.convicted(1, start + FIRST), None, "counted anew");
    }
}
