//! A plugin's durable state, as its calls see it. Pure.
//!
//! All of it is in memory, where a call reads and writes; what a call wrote goes to disk
//! when it has ended well, and is undone when it has not.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use bytestring::ByteString;

use crate::store::Entries;

/// The longest key, in bytes.
const LONGEST_KEY: usize = 1024;

/// What an entry takes besides key and value, so that many small ones are bounded, too.
const BESIDE: usize = 64;

/// Keys given at a time.
const KEYS: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct State {
    entries: Entries,
    bytes: usize,
    limit: usize,
    /// What the call that is under way has changed: how it was before.
    before: BTreeMap<ByteString, Option<Bytes>>,
}

/// A write that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There is to be no state at all.
    None,
    /// Key or value is longer than this.
    TooLarge(usize),
    /// The plugin's share is used up.
    Full,
}

impl State {
    /// `limit`: bytes of keys, values and 64 for each entry.
    pub(super) fn new(entries: Entries, limit: usize) -> Self {
        let bytes = entries.iter().map(|(key, value)| cost(key, value)).sum();
        Self { entries, bytes, limit, before: BTreeMap::new() }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key).map(|value| &**value)
    }

    pub(super) fn set(&mut self, key: ByteString, value: Bytes) -> Result<(), NoRoom> {
        if self.limit == 0 {
            return Err(NoRoom::None);
        }
        if key.len() > LONGEST_KEY {
            return Err(NoRoom::TooLarge(LONGEST_KEY));
        }
        if value.len() > self.limit {
            return Err(NoRoom::TooLarge(self.limit));
        }
        let was = self.entries.get(&key).map_or(0, |old| cost(&key, old));
        let bytes = self.bytes - was + cost(&key, &value);
        // A share that was made smaller can still be written to by what makes it smaller.
        if bytes > self.limit && bytes > self.bytes {
            return Err(NoRoom::Full);
        }
        self.bytes = bytes;
        let old = self.entries.insert(key.clone(), value);
        self.note(key, old);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: ByteString) {
        let Some(old) = self.entries.remove(&key) else { return };
        self.bytes -= cost(&key, &old);
        if self.before.get(&key) == Some(&None) {
            // This call made it, and nothing is left of that: else a call that makes and removes
            // one key after the other would fill the memory.
            self.before.remove(&key);
        } else {
            self.note(key, Some(old));
        }
    }

    /// Keys that begin so, ascending, behind `after`.
    pub(super) fn keys<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a str> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = self.entries.range::<str, _>((begin, Bound::Unbounded));
        range.map(|(key, _)| &**key).take_while(move |key| key.starts_with(prefix)).take(KEYS)
    }

    /// The call has ended well: what it has written, each key once.
    pub(super) fn accept(&mut self) -> impl Iterator<Item = (ByteString, Option<Bytes>)> {
        std::iter::from_fn(|| {
            let (key, _) = self.before.pop_first()?;
            let value = self.entries.get(&key).cloned();
            Some((key, value))
        })
    }

    /// The call has failed: everything is as it was before.
    pub(super) fn undo(&mut self) {
        while let Some((key, old)) = self.before.pop_first() {
            if let Some(new) = self.entries.remove(&key) {
                self.bytes -= cost(&key, &new);
            }
            if let Some(old) = old {
                self.bytes += cost(&key, &old);
                self.entries.insert(key, old);
            }
        }
    }

    /// As it is after the last call that ended well.
    pub(super) fn snapshot(&self) -> Entries {
        self.entries.clone()
    }

    /// Puts a snapshot in its place.
    pub(super) fn restore(&mut self, entries: Entries) {
        *self = Self::new(entries, self.limit);
    }

    fn note(&mut self, key: ByteString, old: Option<Bytes>) {
        self.before.entry(key).or_insert(old);
    }
}

fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + BESIDE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(limit: usize) -> State {
        State::new(Entries::new(), limit)
    }

    fn set(state: &mut State, key: &str, value: &'static str) -> Result<(), NoRoom> {
        state.set(key.into(), Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn a_call_sees_its_own_writes_and_a_failed_one_leaves_none() {
        let mut state = state(1000);
        set(&mut state, "a", "1").unwrap();
        assert_eq!(state.accept().collect::<Vec<_>>(), [("a".into(), Some("1".into()))]);
        set(&mut state, "a", "2").unwrap();
        set(&mut state, "a", "3").unwrap();
        set(&mut state, "b", "new").unwrap();
        state.remove("a".into());
        assert_eq!((state.get("a"), state.get("b")), (None, Some(&b"new"[..])));
        state.undo();
        assert_eq!((state.get("a"), state.get("b")), (Some(&b"1"[..]), None));
        assert_eq!((state.accept().count(), state.bytes), (0, 1 + 1 + BESIDE));
    }

    #[test]
    fn it_is_bounded_and_can_be_emptied_when_it_is_full() {
        let mut state = state(2 * BESIDE + 10);
        assert_eq!(state.set("k".repeat(1025).into(), Bytes::new()), Err(NoRoom::TooLarge(LONGEST_KEY)));
        assert_eq!(state.set("k".into(), vec![0; 200].into()), Err(NoRoom::TooLarge(138)));
        set(&mut state, "a", "1234").unwrap();
        set(&mut state, "b", "1234").unwrap();
        assert_eq!(set(&mut state, "c", ""), Err(NoRoom::Full));
        assert_eq!(set(&mut state, "b", "12345"), Err(NoRoom::Full));
        state.set_limit(10);
        set(&mut state, "b", "1").unwrap();
        state.remove("a".into());
        state.set_limit(0);
        assert_eq!(set(&mut state, "b", "1"), Err(NoRoom::None));
    }

    #[test]
    fn what_comes_and_goes_within_a_call_leaves_nothing() {
        let mut state = state(1000);
        set(&mut state, "old", "1").unwrap();
        assert_eq!(state.accept().count(), 1);
        for number in 0..1000 {
            let key = format!("k{number}");
            set(&mut state, &key, "").unwrap();
            state.remove(key.into());
        }
        assert_eq!(state.before.len(), 0);
        state.remove("old".into());
        set(&mut state, "old", "2").unwrap();
        state.remove("old".into());
        assert_eq!(state.accept().collect::<Vec<_>>(), [("old".into(), None)]);
    }

    #[test]
    fn keys_come_in_order_a_thousand_at_a_time() {
        let mut state = state(usize::MAX);
        for number in 0..1500 {
            state.set(format!("k{number:04}").into(), Bytes::new()).unwrap();
        }
        state.set("other".into(), Bytes::new()).unwrap();
        let first: Vec<_> = state.keys("k", None).collect();
        assert_eq!((first.len(), first.first(), first.last()), (1000, Some(&"k0000"), Some(&"k0999")));
        let rest: Vec<_> = state.keys("k", Some("k0999")).collect();
        assert_eq!((rest.len(), rest.last()), (500, Some(&"k1499")));
        assert_eq!(state.keys("k", Some("a")).count(), 1000, "before all of them");
        assert_eq!(state.keys("x", None).count(), 0);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_a_copy_needs(
            calls in proptest::collection::vec((proptest::collection::vec(("[abc]", "[a-z]{0,3}", any::<bool>()), 0..6), any::<bool>()), 0..20)
        ) {
            let (mut state, mut copy) = (state(400), Entries::new());
            for (writes, ends_well) in calls {
                for (key, value, remove) in writes {
                    if remove {
                        state.remove(key.into());
                    } else {
                        let _ = state.set(key.into(), value.into());
                    }
                }
                if ends_well {
                    for (key, value) in state.accept().collect::<Vec<_>>() {
                        match value {
                            Some(value) => drop(copy.insert(key, value)),
                            None => drop(copy.remove(&key)),
                        }
                    }
                } else {
                    state.undo();
                }
                prop_assert_eq!(&state.entries, &copy);
                prop_assert_eq!(state.bytes, copy.iter().map(|(key, value)| cost(key, value)).sum::<usize>());
                prop_assert!(state.bytes <= 400);
            }
        }
    }
}
