//! STUB
use crate::{
    outbox::Entry,
    router::SubscriberId,
    topic::{TopicFilter, TopicName},
};
use std::time::Instant;
#[derive(Debug)]
pub(super) struct Suspects;
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Publish { owner: SubscriberId, topic: TopicName },
    Subscribe(TopicFilter),
}
impl Item {
    pub(super) fn publish(e: &Entry) -> Self {
        Self::Publish { owner: e.owner, topic: e.message.topic.clone() }
    }
}
#[derive(Debug)]
pub(super) enum Death {
    ClosedByPeer,
    Reset,
    Blamed,
    Silent,
    Ours,
    TakenOver,
}
impl Suspects {
    pub(super) fn new() -> Self {
        Self
    }
    pub(super) fn may_send(&mut self, _: &Item, _: Instant) -> bool {
        true
    }
    pub(super) fn sent(&mut self, _: Item, _: Instant) {}
    pub(super) fn answered(&mut self, _: &Item) {}
    pub(super) fn pinged(&mut self, _: Instant) {}
    pub(super) fn ponged(&mut self, _: Instant) {}
    pub(super) fn wants_ping(&mut self) -> bool {
        false
    }
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        None
    }
    pub(super) fn connected(&mut self, _: Instant) {}
    pub(super) fn died(&mut self, _: Instant, _: Death) {}
    pub(super) fn convicted(&mut self) -> Option<Item> {
        None
    }
    pub(super) fn hint(&mut self, _: &str) -> Option<String> {
        None
    }
}
