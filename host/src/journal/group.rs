//! Changes that the database does not have yet. Some of them are in the log. Pure.

use std::{collections::HashMap, sync::Arc};

use bytestring::ByteString;
use rustc_hash::FxHashMap;

use crate::store::Change;

/// Some changes, in order, without those that cancel each other out.
#[derive(Debug, Default)]
pub(super) struct Group {
    changes: Vec<Option<Change>>,
    /// So many of them are in the log.
    logged: usize,
    /// How many of the others can't go there.
    unloggable: usize,
    /// Where a message that is not written yet is put in, by plugin and number.
    outbox: FxHashMap<u64, usize>,
    inbox: FxHashMap<(Arc<str>, u64), usize>,
    /// Where a key of a plugin's state was written last; plugins choose keys, so that hashing is not cheap.
    state: HashMap<(Arc<str>, ByteString), usize>,
    /// Changes that are not in the log, and put something in or say something that must not be
    /// forgotten.
    urgent: usize,
}

impl Group {
    pub(super) fn add(&mut self, change: Change) {
        let here = self.changes.len();
        match &change {
            Change::Taken { seq, .. } => {
                self.outbox.insert(*seq, here);
                self.urgent += 1;
            }
            Change::Arrived { plugin, number, .. } => {
                self.inbox.insert((plugin.clone(), *number), here);
                self.urgent += 1;
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
                self.urgent += 1;
            }
            // What puts it elsewhere says all of it, so it need not be in the inbox before.
            Change::OnProbation { plugin, number, .. } | Change::Dead { plugin, number, .. } => {
                if let Some(at) = self.inbox.remove(&(plugin.clone(), *number)) {
                    self.cancel(at);
                }
                self.urgent += 1;
            }
            Change::State { plugin, key, .. } => {
                if let Some(at) = self.state.insert((plugin.clone(), key.clone()), here) {
                    self.cancel(at);
                }
                self.urgent += 1;
            }
            Change::Snapshot { .. } | Change::RolledBack { .. } => {
                // What was written before is in the snapshot, what comes after is not.
                self.state.clear();
                self.urgent += 1;
            }
            Change::Subscribed(_)
            | Change::Unsubscribed { .. }
            | Change::Installed { .. }
            | Change::Passed { .. }
            | Change::Revived { .. }
            | Change::Buried { .. }
            | Change::Released { .. } => self.urgent += 1,
            Change::NotKept { .. } => {}
            // The broker is asked in any case where this is lost.
            Change::AtBroker(_) | Change::NotAtBroker(_) | Change::NothingAtBroker => {}
        }
        self.unloggable += usize::from(!change.is_for_log());
        self.changes.push(Some(change));
    }

    /// The database need not hear of the change there. True: nor need the log.
    fn cancel(&mut self, at: usize) -> bool {
        let Some(change) = self.changes.get_mut(at).and_then(Option::take) else { return false };
        if at < self.logged {
            return false;
        }
        self.urgent -= 1;
        self.unloggable -= usize::from(!change.is_for_log());
        true
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

    /// The log has them all.
    pub(super) fn set_logged(&mut self) {
        self.logged = self.changes.len();
        self.urgent = 0;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
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
    fn one_change_that_the_log_does_not_take_keeps_the_others_from_it() {
        let mut group = Group::default();
        [taken(1), Change::Passed { plugin: "one".into() }].into_iter().for_each(|change| group.add(change));
        assert!(group.new_changes().is_none());
        group.clear();
        group.add(taken(2));
        assert!(group.new_changes().is_some());
    }
}
