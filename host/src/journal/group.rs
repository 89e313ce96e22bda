//! Changes that the database does not have yet. Some of them are in the log. Pure.

use std::{collections::HashMap, sync::Arc};

use bytestring::ByteString;
use rustc_hash::FxHashMap;

use crate::{
    router::Subscription,
    store::{Change, Taken, Wanted},
    topic::TopicFilter,
};

/// Beyond so many, those that are cancelled are done away with.
const MANY: usize = 4096;

/// Some changes, in order, without those that cancel each other out.
#[derive(Debug, Default)]
pub(super) struct Group {
    changes: Vec<Option<Change>>,
    /// How many of them are not cancelled.
    live: usize,
    /// So many of them are in the log.
    logged: usize,
    /// So many of them may be in the database: writing them failed.
    attempted: usize,
    /// How many of the others can't go there.
    unloggable: usize,
    /// Where a message that is not written yet is put in, by plugin and number.
    outbox: FxHashMap<u64, usize>,
    inbox: FxHashMap<(Arc<str>, u64), usize>,
    /// Where the last change of each item is. Plugins choose keys and filters, so the hash is not a cheap one.
    latest: HashMap<Item, usize>,
    /// Changes that are not in the log, and put something in or say something that must not be
    /// forgotten.
    urgent: usize,
}

/// Something of which only the last change counts. Each change of an item cancels the one before it, so a
/// group that waits for a full disk does not grow, however often an item changes.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Item {
    /// A key of a plugin's state.
    State(Arc<str>, ByteString),
    /// Whether a plugin wants a filter.
    Wanted(Arc<str>, TopicFilter),
    /// Whether the broker has a filter.
    AtBroker(TopicFilter),
    /// That the broker has no filter at all.
    NothingAtBroker,
}

impl Group {
    pub(super) fn add(&mut self, change: Change) {
        let here = self.changes.len();
        match &change {
            Change::Taken { seq, .. } => {
                self.outbox.insert(*seq, here);
            }
            Change::Arrived { plugin, number, .. } => {
                self.inbox.insert((plugin.clone(), *number), here);
            }
            Change::Settled { seq, .. } => {
                if let Some(at) = self.outbox.remove(seq)
                    && self.cancel(at)
                {
                    return;
                }
            }
            Change::Handled { plugin, number } => {
                if let Some(at) = self.inbox.remove(&(plugin.clone(), *number))
                    && self.cancel(at)
                {
                    return;
                }
            }
            Change::Quarantined { seq, .. } => {
                if let Some(at) = self.outbox.remove(seq) {
                    self.cancel(at);
                }
            }
            // What puts it elsewhere says all of it, so it need not be in the inbox before.
            Change::OnProbation { plugin, number, .. } | Change::Dead { plugin, number, .. } => {
                if let Some(at) = self.inbox.remove(&(plugin.clone(), *number)) {
                    self.cancel(at);
                }
            }
            Change::State { plugin, key, .. } => self.replace(Item::State(plugin.clone(), key.clone())),
            Change::Subscribed(Wanted { plugin, filter, .. }) | Change::Unsubscribed { plugin, filter } => {
                self.replace(Item::Wanted(plugin.clone(), filter.clone()));
            }
            Change::AtBroker(Subscription { filter, .. }) | Change::NotAtBroker(filter) => {
                self.replace(Item::AtBroker(filter.clone()));
            }
            Change::NothingAtBroker => {
                let there = self.latest.extract_if(|item, _| matches!(item, Item::AtBroker(_)));
                let there: Vec<_> = there.map(|(_, at)| at).collect();
                there.into_iter().for_each(|at| _ = self.cancel(at));
                self.replace(Item::NothingAtBroker);
            }
            // What was written before is in the snapshot, what comes after is not.
            Change::Snapshot { .. } | Change::RolledBack { .. } => self.latest.clear(),
            Change::Installed { .. }
            | Change::Passed { .. }
            | Change::Revived { .. }
            | Change::Buried { .. }
            | Change::Released { .. }
            | Change::NotKept { .. } => {}
        }
        self.urgent += usize::from(is_urgent(&change));
        self.unloggable += usize::from(!change.is_for_log());
        self.changes.push(Some(change));
        self.live += 1;
        if self.changes.len() > MANY && self.live < self.changes.len() / 2 {
            self.close_up();
        }
    }

    /// Cancels the last change of an item. The change that is added next takes its place.
    fn replace(&mut self, item: Item) {
        if let Some(at) = self.latest.insert(item, self.changes.len()) {
            self.cancel(at);
        }
    }

    /// Does away with what is cancelled.
    fn close_up(&mut self) {
        let before = std::mem::take(self);
        let is_live = |changes: &[Option<Change>]| changes.iter().flatten().count();
        let (logged, attempted) = (
            before.changes.get(..before.logged).map_or(0, is_live),
            before.changes.get(..before.attempted).map_or(0, is_live),
        );
        before.changes.into_iter().flatten().for_each(|change| self.add(change));
        (self.logged, self.attempted, self.urgent) = (logged, attempted, before.urgent);
        let is_old = |change: &&Change| !change.is_for_log();
        self.unloggable = self.changes.iter().skip(logged).flatten().filter(is_old).count();
    }

    /// The database need not hear of the change there. True: nor need the log.
    fn cancel(&mut self, at: usize) -> bool {
        let Some(change) = self.changes.get_mut(at).and_then(Option::take) else { return false };
        self.live -= 1;
        if at < self.logged {
            return false;
        }
        self.urgent -= usize::from(is_urgent(&change));
        self.unloggable -= usize::from(!change.is_for_log());
        at >= self.attempted
    }

    /// Something in it has to be durable when somebody asks.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent > 0
    }

    /// How many there were, those that are cancelled too.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// How many came since the log was written.
    pub(super) fn len_new(&self) -> usize {
        self.changes.len() - self.logged
    }

    /// Messages of outboxes are among them.
    pub(super) fn has_taken(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// For the database.
    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> + Clone {
        self.changes.iter().flatten()
    }

    /// For the log, where it can take them.
    pub(super) fn new_changes(&self) -> Option<impl Iterator<Item = &Change> + Clone> {
        (self.unloggable == 0).then(|| self.changes.iter().skip(self.logged).flatten())
    }

    /// Messages of a plugin's outbox behind `after`, in order.
    pub(super) fn taken(&self, of: &str, after: u64) -> impl Iterator<Item = Taken> {
        self.changes.iter().flatten().filter_map(move |change| match change {
            Change::Taken { owner, seq, record } if **owner == *of && *seq > after => {
                Some(Taken { seq: *seq, cost: record.message.cost(), record: record.clone() })
            }
            _ => None,
        })
    }

    /// Messages get into a plugin's inbox by it.
    pub(super) fn fills_inbox(&self, of: &str) -> bool {
        self.changes.iter().flatten().any(|change| match change {
            Change::Arrived { plugin, .. } | Change::Revived { plugin, .. } | Change::RolledBack { plugin } => {
                **plugin == *of
            }
            _ => false,
        })
    }

    /// Writing all of it has failed, and nobody knows how far that came.
    pub(super) fn set_attempted(&mut self) {
        self.attempted = self.changes.len();
    }

    /// It came through after all.
    pub(super) fn forget_attempted(&mut self) {
        let (attempted, before) = (self.attempted, std::mem::take(self));
        before.changes.into_iter().skip(attempted).flatten().for_each(|change| self.add(change));
    }

    /// The log has them all.
    pub(super) fn set_logged(&mut self) {
        self.logged = self.changes.len();
        self.urgent = 0;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The change puts something in, or says something that must not be forgotten.
fn is_urgent(change: &Change) -> bool {
    match change {
        // If the end of a message is forgotten, it comes again, marked as redelivered or sent as DUP.
        Change::Settled { .. } | Change::Handled { .. } | Change::NotKept { .. } => false,
        // The broker is asked in any case where this is lost; that there is a session of ours is
        // waited for by itself.
        Change::AtBroker(_) | Change::NotAtBroker(_) | Change::NothingAtBroker => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Age,
        message::{Message, Qos},
        store::Record,
        topic::TopicName,
    };

    fn taken(seq: u64) -> Change {
        let topic = TopicName::parse("t").unwrap();
        let message =
            Message { topic, payload: bytes::Bytes::new(), qos: Qos::AtLeastOnce, retain: false, properties: None };
        Change::Taken { owner: "one".into(), seq, record: Record { message, number: 1, age: Age::new() } }
    }

    fn settled(seq: u64) -> Change {
        Change::Settled { owner: "one".into(), seq }
    }

    fn state(value: u8) -> Change {
        Change::State { plugin: "one".into(), key: "key".into(), value: Some(vec![value].into()) }
    }

    /// What they are, in short.
    fn text<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Taken { seq, .. } => format!("taken {seq}"),
            Change::Settled { seq, .. } => format!("settled {seq}"),
            Change::State { value, .. } => format!("state {value:?}"),
            other => format!("{other:?}"),
        };
        changes.map(text).collect()
    }

    #[test]
    fn what_was_settled_before_it_was_written_is_written_nowhere() {
        let mut group = Group::default();
        [taken(1), taken(2), settled(1), settled(2)].into_iter().for_each(|change| group.add(change));
        assert_eq!((group.is_urgent(), group.has_taken(), group.changes().count()), (false, false, 0));
        assert_eq!(group.new_changes().unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_the_log_is_settled_there_and_never_gets_into_the_database() {
        let mut group = Group::default();
        [taken(1), taken(2), state(1)].into_iter().for_each(|change| group.add(change));
        assert_eq!((group.len_new(), group.is_urgent()), (3, true));
        group.set_logged();
        assert_eq!((group.len_new(), group.is_urgent()), (0, false));
        [settled(1), state(2)].into_iter().for_each(|change| group.add(change));
        assert!(group.is_urgent() && group.has_taken());
        assert_eq!(text(group.new_changes().unwrap()), ["settled 1", "state Some(b\"\\x02\")"]);
        assert_eq!(text(group.changes()), ["taken 2", "settled 1", "state Some(b\"\\x02\")"]);
    }

    #[test]
    fn what_may_have_been_written_is_taken_out_again() {
        let mut group = Group::default();
        [taken(1), taken(2)].into_iter().for_each(|change| group.add(change));
        group.set_attempted();
        [settled(1), taken(3), taken(4), settled(4)].into_iter().for_each(|change| group.add(change));
        assert_eq!(text(group.changes()), ["taken 2", "settled 1", "taken 3"]);
        assert_eq!(group.taken("one", 2).map(|taken| taken.seq).collect::<Vec<_>>(), [3]);
        group.forget_attempted();
        assert_eq!(text(group.changes()), ["settled 1", "taken 3"]);
        assert!(group.is_urgent());
    }

    #[test]
    fn a_group_that_waits_for_a_full_disk_does_not_grow_by_what_is_replaced() {
        let mut group = Group::default();
        group.add(taken(1));
        group.set_logged();
        for value in 0..100_000u32 {
            group.add(state(value as u8));
        }
        assert!(group.len() < 2 * MANY, "{}", group.len());
        assert_eq!(text(group.changes()).len(), 2);
        assert_eq!(text(group.new_changes().unwrap()).len(), 1);
        group.add(settled(1));
        assert_eq!(text(group.new_changes().unwrap()).len(), 2);
    }

    #[test]
    fn a_group_that_waits_for_a_full_disk_does_not_grow_by_subscriptions_that_come_and_go() {
        let filter = |number: u32| TopicFilter::parse(format!("f/{}", number % 3)).unwrap();
        let mut group = Group::default();
        group.add(Change::Passed { plugin: "one".into() });
        for number in 0..100_000 {
            let (plugin, filter) = ("one".into(), filter(number));
            let at_broker = Subscription { filter: filter.clone(), qos: Qos::AtLeastOnce, identifier: 1 };
            if number % 2 == 0 {
                let wanted = Wanted { plugin, filter, qos: Qos::AtLeastOnce, identifier: 1 };
                group.add(Change::Subscribed(wanted));
                group.add(Change::AtBroker(at_broker));
            } else {
                group.add(Change::Unsubscribed { plugin, filter: filter.clone() });
                group.add(Change::NotAtBroker(filter));
            }
            if number % 1000 == 0 {
                group.add(Change::NothingAtBroker);
            }
        }
        assert!(group.len() < 2 * MANY, "{}", group.len());
        assert_eq!(group.changes().count(), 1 + 3 + 3 + 1, "{:?}", text(group.changes()));
        assert!(group.is_urgent());
        group.set_logged();
        group.add(Change::NothingAtBroker);
        assert!(!group.is_urgent(), "the broker is asked in any case");
        assert_eq!(group.changes().count(), 1 + 3 + 1, "{:?}", text(group.changes()));
    }

    #[test]
    fn one_change_that_the_log_does_not_take_keeps_the_others_from_it() {
        let mut group = Group::default();
        [taken(1), Change::Passed { plugin: "one".into() }].into_iter().for_each(|change| group.add(change));
        assert!(group.new_changes().is_none());
        group.clear();
        group.add(taken(2));
        assert!(group.new_changes().is_some());
    }
}
