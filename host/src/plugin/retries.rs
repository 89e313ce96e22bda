//! Messages that wait: for their next attempt, or behind one of their topic that does.
//!
//! Pure, but for the deliveries it holds, of which it may have as many as the mailbox beside
//! those in there; what is more counts in the mailbox, too, and that bounds all of them.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::topic::TopicName;

/// What waits, by topic: a retry holds back only what comes behind it on its own topic.
#[derive(Debug)]
pub(super) struct Retries<D> {
    topics: HashMap<TopicName, Waiting<D>>,
}

#[derive(Debug)]
struct Waiting<D> {
    /// The next attempt, and which one it is. None: it is under way.
    next: Option<(Instant, u32)>,
    /// In order; the first is the one that is tried again.
    queue: VecDeque<D>,
}

impl<D> Retries<D> {
    pub(super) fn new() -> Self {
        Self { topics: HashMap::new() }
    }

    /// A message of this topic has to wait behind another one.
    pub(super) fn holds(&self, topic: &TopicName) -> bool {
        !self.topics.is_empty() && self.topics.contains_key(topic)
    }

    /// Puts a message behind others of its topic.
    pub(super) fn behind(&mut self, topic: TopicName, delivery: D) {
        if let Some(waiting) = self.topics.get_mut(&topic) {
            waiting.queue.push_back(delivery);
        } else {
            self.hold(topic, delivery, 1, Instant::now());
        }
    }

    /// A message has to be tried again, then and for that time.
    pub(super) fn hold(&mut self, topic: TopicName, delivery: D, attempt: u32, at: Instant) {
        let waiting = self.topics.entry(topic).or_insert_with(|| Waiting { next: None, queue: VecDeque::new() });
        waiting.next = Some((at, attempt));
        waiting.queue.push_front(delivery);
    }

    /// When the next message is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.topics.values().filter_map(|waiting| Some(waiting.next?.0)).min()
    }

    /// A message that is due, and which attempt at it this is. Its topic stays held back
    /// until [`Retries::done`], or [`Retries::hold`] once more.
    pub(super) fn take(&mut self, now: Instant) -> Option<(D, u32)> {
        let waiting = self.topics.values_mut().find(|waiting| waiting.next.is_some_and(|(at, _)| at <= now))?;
        let (_, attempt) = waiting.next.take()?;
        Some((waiting.queue.pop_front()?, attempt))
    }

    /// The message of this topic that was tried is done with: what waited behind it is due.
    pub(super) fn done(&mut self, topic: &TopicName, now: Instant) {
        let Some(waiting) = self.topics.get_mut(topic) else { return };
        if waiting.queue.is_empty() {
            self.topics.remove(topic);
        } else if waiting.next.is_none() {
            waiting.next = Some((now, 1));
        }
    }

    /// Takes everything out, each topic in order. True: it was tried before.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (D, bool)> {
        std::mem::take(&mut self.topics).into_values().flat_map(|waiting| {
            let is_tried = waiting.next.is_some_and(|(_, attempt)| attempt > 1);
            waiting.queue.into_iter().enumerate().map(move |(place, delivery)| (delivery, is_tried && place == 0))
        })
    }

    /// Gives everything up.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn topic(text: &str) -> TopicName {
        TopicName::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn a_retry_holds_back_its_own_topic_only() {
        let now = Instant::now();
        let mut retries = Retries::new();
        assert!(!retries.holds(&topic("a")));
        retries.hold(topic("a"), 1, 2, now + Duration::from_secs(1));
        assert_eq!((retries.holds(&topic("a")), retries.holds(&topic("b"))), (true, false));
        retries.behind(topic("a"), 2);
        assert_eq!(retries.take(now), None);
        assert_eq!(retries.next(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn what_waited_behind_comes_in_order() {
        let now = Instant::now();
        let mut retries = Retries::new();
        retries.hold(topic("a"), 1, 2, now);
        retries.behind(topic("a"), 2);
        assert_eq!(retries.take(now), Some((1, 2)));
        assert!(retries.holds(&topic("a")), "while it is tried");
        retries.behind(topic("a"), 3);
        assert_eq!(retries.take(now), None);
        retries.done(&topic("a"), now);
        assert_eq!(retries.take(now), Some((2, 1)));
        retries.hold(topic("a"), 2, 2, now);
        assert_eq!(retries.take(now), Some((2, 2)));
        retries.done(&topic("a"), now);
        assert_eq!(retries.take(now), Some((3, 1)));
        retries.done(&topic("a"), now);
        assert!(!retries.holds(&topic("a")));
    }

    #[test]
    fn what_is_taken_out_says_whether_it_was_tried() {
        let now = Instant::now();
        let mut retries = Retries::new();
        retries.hold(topic("a"), 1, 2, now);
        retries.behind(topic("a"), 2);
        assert_eq!(retries.drain().collect::<Vec<_>>(), [(1, true), (2, false)]);
        assert_eq!(retries.next(), None);
    }
}
