//! What of a broker's odd packets has been said already. Pure.
//!
//! A broker that does something odd does it again and again, and each topic may be a stranger's
//! invention: so each is said once, and how many are remembered is bounded.

use std::collections::{BTreeSet, HashSet};

#[derive(Debug, Default)]
pub(super) struct Oddities {
    /// Topics of messages that could not be used.
    topics: HashSet<String>,
    /// Such messages.
    skipped: u64,
    /// Packets and reason codes they should not have.
    codes: BTreeSet<(&'static str, u8)>,
}

/// Topics that are remembered.
const TOPICS: usize = 64;

impl Oddities {
    /// A message on this topic was skipped. If that is to be said: how many were in all.
    pub(super) fn skipped(&mut self, topic: &str) -> Option<u64> {
        self.skipped += 1;
        let is_new = self.topics.len() < TOPICS && self.topics.insert(topic.to_owned());
        // Beyond that now and then, so that it can be seen that it goes on.
        let is_seldom = !self.topics.contains(topic) && self.skipped.is_power_of_two();
        (is_new || is_seldom).then_some(self.skipped)
    }

    /// A packet had a reason code it should not have. True: that is to be said.
    pub(super) fn has_code(&mut self, packet: &'static str, code: u8) -> bool {
        self.codes.insert((packet, code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_and_each_code_is_said_once() {
        let mut oddities = Oddities::default();
        assert_eq!(oddities.skipped("a"), Some(1));
        assert_eq!(oddities.skipped("a"), None);
        assert_eq!(oddities.skipped("b"), Some(3));
        assert!(oddities.has_code("PUBACK", 0x42) && !oddities.has_code("PUBACK", 0x42));
        assert!(oddities.has_code("SUBACK", 0x42) && oddities.has_code("PUBACK", 0x43));
    }

    #[test]
    fn topics_that_somebody_makes_up_fill_neither_memory_nor_the_log() {
        let mut oddities = Oddities::default();
        let said = (0..100_000).filter(|number: &u32| oddities.skipped(&number.to_string()).is_some());
        assert!(said.count() < TOPICS + 20);
        assert!(oddities.topics.len() <= TOPICS);
    }
}
