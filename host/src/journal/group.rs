//! Changes that wait to be written together. Pure.

use std::{collections::HashMap, sync::Arc};

use bytestring::ByteString;

use crate::store::Change;

/// Some changes, in order, without those that cancel each other out.
#[derive(Debug, Default)]
pub(super) struct Group {
    changes: Vec<Option<Change>>,
    /// Where a message that is not written yet is put in, by plugin and number.
    outbox: HashMap<u64, usize>,
    inbox: HashMap<(Arc<str>, u64), usize>,
    /// Where a key of a plugin's state was written last.
    state: HashMap<(Arc<str>, ByteString), usize>,
    /// Changes that put something in, or say something that must not be forgotten.
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
                if let Some(at) = self.outbox.remove(seq) {
                    return self.cancel(at);
                }
            }
            Change::Handled { plugin, number } => {
                if let Some(at) = self.inbox.remove(&(plugin.clone(), *number)) {
                    return self.cancel(at);
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
        self.changes.push(Some(change));
    }

    fn cancel(&mut self, at: usize) {
        if self.changes.get_mut(at).and_then(Option::take).is_some() {
            self.urgent -= 1;
        }
    }

    /// Something in it has to be durable when somebody asks.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent > 0
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> + Clone {
        self.changes.iter().flatten()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
