//! A version on probation: when it has stood it, and what the one before gets back if not. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    message::{Message, Qos},
    store::Entries,
    topic::TopicFilter,
};

/// What a roll-back needs.
#[derive(Debug)]
pub(super) struct Probation {
    /// What the version before handed over.
    pub(super) handed_over: Option<Bytes>,
    /// What it had subscribed to.
    pub(super) subscriptions: BTreeMap<TopicFilter, Qos>,
    /// The state as it was when this version started.
    pub(super) snapshot: Entries,
    until: Instant,
    /// Messages it still has to handle.
    messages_left: u32,
    /// What it has handled, in order, with its numbers.
    kept: VecDeque<(u64, Message)>,
    bytes: usize,
    max_bytes: usize,
}

impl Probation {
    pub(super) fn new(now: Instant, time: Duration, messages: u32, max_bytes: usize) -> Self {
        Self {
            handed_over: None,
            subscriptions: BTreeMap::new(),
            snapshot: Entries::new(),
            until: now + time,
            messages_left: messages,
            kept: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// When it ends, if no fault comes before.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// It has its time again: it was interrupted.
    pub(super) fn restart(&mut self, now: Instant, time: Duration) {
        self.until = now + time;
    }

    /// It has stood it.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.messages_left == 0 || now >= self.until
    }

    /// A message was handled.
    pub(super) fn handled(&mut self) {
        self.messages_left = self.messages_left.saturating_sub(1);
    }

    /// A handled message is kept. The numbers of those come out that are kept no longer.
    pub(super) fn keep(&mut self, number: u64, message: Message) -> Vec<u64> {
        self.bytes += message.cost();
        self.kept.push_back((number, message.detached()));
        let mut dropped = Vec::new();
        while self.bytes > self.max_bytes {
            let Some((number, message)) = self.kept.pop_front() else { break };
            self.bytes -= message.cost();
            dropped.push(number);
        }
        dropped
    }

    /// For the version before.
    pub(super) fn take_kept(&mut self) -> VecDeque<(u64, Message)> {
        self.bytes = 0;
        std::mem::take(&mut self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn message() -> Message {
        let topic = TopicName::parse("t").unwrap();
        Message { topic, payload: vec![0; 79].into(), qos: Qos::AtLeastOnce, retain: false, properties: None }
    }

    #[test]
    fn it_ends_by_time_or_by_messages() {
        let now = Instant::now();
        let mut probation = Probation::new(now, Duration::from_secs(30), 2, 1000);
        assert!(!probation.is_over(now));
        assert!(probation.is_over(now + Duration::from_secs(30)));
        probation.handled();
        assert!(!probation.is_over(now));
        probation.handled();
        assert!(probation.is_over(now));
        assert!(Probation::new(now, Duration::ZERO, 100, 0).is_over(now), "none at all");
        let mut interrupted = Probation::new(now, Duration::from_secs(30), 2, 1000);
        interrupted.restart(now + Duration::from_secs(60), Duration::from_secs(30));
        assert!(!interrupted.is_over(now + Duration::from_secs(89)));
    }

    #[test]
    fn what_is_kept_is_bounded_and_loses_the_oldest() {
        assert_eq!(message().cost(), 400);
        let mut probation = Probation::new(Instant::now(), Duration::from_secs(30), 100, 1000);
        assert_eq!(probation.keep(1, message()), [0_u64; 0]);
        assert_eq!(probation.keep(2, message()), [0_u64; 0]);
        assert_eq!(probation.keep(3, message()), [1]);
        let numbers: Vec<_> = probation.take_kept().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(probation.bytes, 0);
    }
}
