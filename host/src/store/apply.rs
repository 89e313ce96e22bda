//! Changes into tables, within one transaction.

use std::{collections::HashMap, iter::Peekable, ops::Bound, sync::Arc};

use redb::{CursorError, ReadableTable, Table, WriteTransaction};

use super::{
    AT_BROKER, Change, DEAD, INBOX, INSTALLED, Inbox, Last, META, OUTBOX, PROBATION, QUARANTINE, Record, SESSION,
    SNAPSHOT, STATE, SUBSCRIPTIONS, Written, cost,
    log::Mark,
    record::{self, Kind, Label},
};
use crate::{
    clock::{Age, Stamp},
    message::{Message, Qos},
};

type Messages<'t> = Table<'t, (&'static str, u64), &'static [u8]>;
type Values<'t> = Table<'t, (&'static str, &'static str), &'static [u8]>;

/// The open tables, and what is counted beside them.
struct Tables<'t> {
    outbox: Messages<'t>,
    inbox: Messages<'t>,
    quarantine: Messages<'t>,
    probation: Messages<'t>,
    dead: Messages<'t>,
    state: Values<'t>,
    snapshot: Values<'t>,
    inboxes: &'t mut HashMap<Arc<str>, Inbox>,
    bytes: &'t mut u64,
    written: Written,
    last: &'t mut Last,
    now: Stamp,
    /// A record that is being made.
    record: Vec<u8>,
}

/// Settled messages that have no more numbers than that between them are taken out in one go.
const NEAR: u64 = 32;

/// Makes all changes, in order.
pub(super) fn apply(
    transaction: &WriteTransaction,
    changes: &mut dyn Iterator<Item = &Change>,
    now: Stamp,
    inboxes: &mut HashMap<Arc<str>, Inbox>,
    bytes: &mut u64,
    last: &mut Last,
    mark: Mark,
) -> Result<Written, redb::Error> {
    let mut subscriptions = transaction.open_table(SUBSCRIPTIONS)?;
    let mut at_broker = transaction.open_table(AT_BROKER)?;
    let mut installed_table = transaction.open_table(INSTALLED)?;
    let mut tables = Tables {
        outbox: transaction.open_table(OUTBOX)?,
        inbox: transaction.open_table(INBOX)?,
        quarantine: transaction.open_table(QUARANTINE)?,
        probation: transaction.open_table(PROBATION)?,
        dead: transaction.open_table(DEAD)?,
        state: transaction.open_table(STATE)?,
        snapshot: transaction.open_table(SNAPSHOT)?,
        inboxes,
        bytes,
        written: Written::default(),
        last,
        now,
        record: Vec::new(),
    };
    let (mut changes, mut settled, mut session) = (changes.peekable(), Vec::new(), None);
    while let Some(change) = changes.next() {
        match change {
            Change::Taken { owner, .. } => tables.put_into_outbox(owner, change, &mut changes)?,
            // Nothing comes back to a place that was settled, so that can wait for the others.
            Change::Settled { owner, seq } => settled.push((&**owner, *seq)),
            Change::Subscribed(wanted) => {
                let value = (wanted.qos == Qos::AtLeastOnce, wanted.identifier);
                subscriptions.insert((&*wanted.plugin, wanted.filter.as_str()), value)?;
            }
            Change::Unsubscribed { plugin, filter } => {
                subscriptions.remove((&**plugin, filter.as_str()))?;
            }
            Change::AtBroker(subscription) => {
                let value = (subscription.qos == Qos::AtLeastOnce, subscription.identifier);
                at_broker.insert(subscription.filter.as_str(), value)?;
            }
            Change::NotAtBroker(filter) => {
                at_broker.remove(filter.as_str())?;
            }
            Change::NothingAtBroker => {
                drop(at_broker);
                transaction.delete_table(AT_BROKER)?;
                at_broker = transaction.open_table(AT_BROKER)?;
                session = Some(tables.last.number);
            }
            Change::Installed { plugin, installed } => {
                if let Ok(value) = postcard::to_allocvec(installed) {
                    installed_table.insert(&**plugin, value.as_slice())?;
                }
            }
            change => tables.apply(change)?,
        }
    }
    settled.sort_unstable();
    tables.settle(&settled)?;
    let Tables { written, last, .. } = tables;
    let mut meta = transaction.open_table(META)?;
    let numbers = [
        ("last seq", last.seq),
        ("last number", last.number),
        ("log", last.group),
        ("write", last.write),
        ("log reach", mark.reach),
    ];
    let generation = mark.generation.map(|generation| ("log generation", generation));
    // What arrived up to there did so in an earlier session.
    let session = session.map(|number| (SESSION, number));
    for (key, number) in numbers.into_iter().chain(generation).chain(session) {
        meta.insert(key, number.to_le_bytes().as_slice())?;
    }
    note(&mut meta, &now)?;
    Ok(written)
}

/// Keeps this moment, and apart from it the last one at which the clock could be trusted: whenever it
/// can't be, that one stays.
fn note(meta: &mut Table<'_, &'static str, &'static [u8]>, now: &Stamp) -> Result<(), redb::Error> {
    let Ok(stamp) = postcard::to_allocvec(now) else { return Ok(()) };
    if now.wall().is_some() {
        meta.insert("trusted", stamp.as_slice())?;
    } else if meta.get("trusted")?.is_none() {
        // An earlier version kept the last moment only, which may have been one.
        let last = meta.get("stamp")?.map(|last| last.value().to_vec());
        let trusted = |last: &Vec<u8>| postcard::from_bytes(last).is_ok_and(|last: Stamp| last.wall().is_some());
        if let Some(last) = last.filter(trusted) {
            meta.insert("trusted", last.as_slice())?;
        }
    }
    meta.insert("stamp", stamp.as_slice())?;
    Ok(())
}

impl Tables<'_> {
    /// Changes of messages and of state.
    fn apply(&mut self, change: &Change) -> Result<(), redb::Error> {
        match change {
            Change::Quarantined { owner, seq, record, reason } => {
                self.take_from_outbox(owner, *seq)?;
                let label = Label { reason, ..Label::new(Kind::Quarantine, owner, *seq, record, self.now) };
                if let Some(value) = record::encode(&label, &record.message) {
                    self.quarantine.insert((&**owner, *seq), value.as_slice())?;
                }
            }
            Change::Released { owner, seq } => {
                self.quarantine.remove((&**owner, *seq))?;
            }
            Change::Arrived { plugin, number, packet_id, message, redelivered } => {
                let record = inbound(message);
                let label = Label::new(Kind::Inbox, plugin, *number, &record, self.now);
                let label = Label { redelivered: *redelivered, packet_id: *packet_id, ..label };
                if let Some(value) = record::encode(&label, message) {
                    self.put_into_inbox(plugin, *number, &value)?;
                }
            }
            Change::Handled { plugin, number } => self.take_from_inbox(plugin, *number)?,
            Change::OnProbation { plugin, number, message } => {
                self.take_from_inbox(plugin, *number)?;
                let record = inbound(message);
                let label = Label::new(Kind::Probation, plugin, *number, &record, self.now);
                if let Some(value) = record::encode(&Label { redelivered: true, ..label }, message) {
                    self.probation.insert((&**plugin, *number), value.as_slice())?;
                    self.last.number = self.last.number.max(*number);
                }
            }
            Change::NotKept { plugin, number } => {
                self.probation.remove((&**plugin, *number))?;
            }
            Change::Dead { plugin, number, packet_id, message, attempts, reason } => {
                let packet_id = match *packet_id {
                    0 => self.packet_id(plugin, *number)?,
                    known => known,
                };
                self.take_from_inbox(plugin, *number)?;
                let record = Record { number: *attempts, ..inbound(message) };
                let label = Label::new(Kind::Dead, plugin, *number, &record, self.now);
                let label = Label { reason, packet_id, ..label };
                if let Some(value) = record::encode(&label, message) {
                    self.bury(plugin, *number, &value)?;
                }
            }
            Change::Revived { plugin, number, arrival } => {
                let value = self.exhume(plugin, *number)?;
                let body = value.as_deref().and_then(|value| record::decode(value).ok());
                let Some(message) = body.and_then(|(body, _)| body.message()) else { return Ok(()) };
                let record = inbound(&message);
                let label = Label::new(Kind::Inbox, plugin, *arrival, &record, self.now);
                if let Some(value) = record::encode(&Label { redelivered: true, ..label }, &message) {
                    self.put_into_inbox(plugin, *arrival, &value)?;
                }
            }
            Change::Buried { plugin, number } => {
                self.exhume(plugin, *number)?;
            }
            Change::State { plugin, key, value: Some(value) } => {
                self.state.insert((&**plugin, &**key), &**value)?;
            }
            Change::State { plugin, key, value: None } => {
                self.state.remove((&**plugin, &**key))?;
            }
            Change::Snapshot { plugin } => copy(&self.state, &mut self.snapshot, plugin)?,
            Change::Passed { plugin } => {
                empty(&mut self.snapshot, plugin)?;
                while let Some((number, _)) = first(&self.probation, plugin)? {
                    self.probation.remove((&**plugin, number))?;
                }
            }
            Change::RolledBack { plugin } => {
                copy(&self.snapshot, &mut self.state, plugin)?;
                empty(&mut self.snapshot, plugin)?;
                while let Some((number, value)) = first(&self.probation, plugin)? {
                    self.probation.remove((&**plugin, number))?;
                    // What the other version could not handle, this one perhaps can.
                    self.exhume(plugin, number)?;
                    self.put_into_inbox(plugin, number, &value)?;
                }
            }
            // In `apply` above.
            Change::Taken { .. }
            | Change::Settled { .. }
            | Change::Subscribed(_)
            | Change::Unsubscribed { .. }
            | Change::AtBroker(_)
            | Change::NotAtBroker(_)
            | Change::NothingAtBroker
            | Change::Installed { .. } => {}
        }
        Ok(())
    }

    /// A message, and those behind it of the same owner: put in one after the other at the end,
    /// without a search for each.
    fn put_into_outbox<'a>(
        &mut self,
        owner: &str,
        first: &'a Change,
        more: &mut Peekable<impl Iterator<Item = &'a Change>>,
    ) -> Result<(), redb::Error> {
        let (bytes, value) = (&mut *self.bytes, &mut self.record);
        let mut end = self.outbox.upper_bound_mut(Bound::Included((owner, u64::MAX)))?;
        let mut next = Some(first);
        while let Some(Change::Taken { seq, record, .. }) = next {
            self.last.seq = self.last.seq.max(*seq);
            value.clear();
            let label = Label::new(Kind::Outbox, owner, *seq, record, self.now);
            if record::write(&label, &record.message, value).is_some() {
                *bytes += cost(value) as u64;
                match end.insert_before((owner, *seq), value.as_slice()) {
                    Ok(()) => {}
                    // It is older than others, or there already.
                    Err(CursorError::UnorderedKey) => {
                        end.close()?;
                        if let Some(old) = self.outbox.insert((owner, *seq), value.as_slice())? {
                            *bytes = bytes.saturating_sub(cost(old.value()) as u64);
                        }
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            next = more.next_if(|next| matches!(next, Change::Taken { owner: its, .. } if **its == *owner));
        }
        end.close()?;
        Ok(())
    }

    /// Takes messages out, in the order of owners and numbers.
    fn settle(&mut self, settled: &[(&str, u64)]) -> Result<(), redb::Error> {
        for run in settled.chunk_by(|one, next| one.0 == next.0 && next.1 - one.1 <= NEAR) {
            let (Some((owner, first)), Some((_, last))) = (run.first(), run.last()) else { continue };
            if first == last {
                self.take_from_outbox(owner, *first)?;
                continue;
            }
            let (mut seqs, bytes) = (run.iter().map(|(_, seq)| *seq).peekable(), &mut *self.bytes);
            self.outbox.retain_in((*owner, *first)..=(*owner, *last), |(_, seq), value| {
                while seqs.next_if(|settled| *settled < seq).is_some() {}
                let is_settled = seqs.peek() == Some(&seq);
                if is_settled {
                    *bytes = bytes.saturating_sub(cost(value) as u64);
                }
                !is_settled
            })?;
        }
        Ok(())
    }

    fn take_from_outbox(&mut self, owner: &str, seq: u64) -> Result<(), redb::Error> {
        if let Some(old) = self.outbox.remove((owner, seq))? {
            *self.bytes = self.bytes.saturating_sub(cost(old.value()) as u64);
        }
        Ok(())
    }

    /// What is over the limit drops the oldest.
    fn put_into_inbox(&mut self, plugin: &Arc<str>, number: u64, value: &[u8]) -> Result<(), redb::Error> {
        self.take_from_inbox(plugin, number)?;
        self.inbox.insert((&**plugin, number), value)?;
        self.last.number = self.last.number.max(number);
        let held = self.inboxes.entry(plugin.clone()).or_insert_with(|| Inbox::empty(usize::MAX));
        held.bytes += cost(value);
        *self.bytes += cost(value) as u64;
        let mut dropped = 0;
        while held.bytes > held.limit {
            let Some((oldest, value)) = first(&self.inbox, plugin)? else { break };
            self.inbox.remove((&**plugin, oldest))?;
            held.bytes = held.bytes.saturating_sub(cost(&value));
            *self.bytes = self.bytes.saturating_sub(cost(&value) as u64);
            dropped += 1;
        }
        if dropped > 0 {
            self.written.dropped.push((plugin.clone(), dropped));
        }
        Ok(())
    }

    /// Under which a message of the inbox arrived; 0: that is not known.
    fn packet_id(&self, plugin: &str, number: u64) -> Result<u16, redb::Error> {
        let value = self.inbox.get((plugin, number))?;
        Ok(value.and_then(|value| Some(record::decode(value.value()).ok()?.0.packet_id)).unwrap_or_default())
    }

    fn take_from_inbox(&mut self, plugin: &str, number: u64) -> Result<(), redb::Error> {
        if let Some(old) = self.inbox.remove((plugin, number))? {
            let size = cost(old.value());
            *self.bytes = self.bytes.saturating_sub(size as u64);
            if let Some(held) = self.inboxes.get_mut(plugin) {
                held.bytes = held.bytes.saturating_sub(size);
            }
        }
        Ok(())
    }

    /// Dead letters of a plugin have as many bytes as its inbox; what is over that drops the oldest.
    fn bury(&mut self, plugin: &Arc<str>, number: u64, value: &[u8]) -> Result<(), redb::Error> {
        self.exhume(plugin, number)?;
        self.dead.insert((&**plugin, number), value)?;
        self.last.number = self.last.number.max(number);
        let held = self.inboxes.entry(plugin.clone()).or_insert_with(|| Inbox::empty(usize::MAX));
        held.dead += cost(value);
        let mut buried = 0;
        while held.dead > held.limit {
            let Some((oldest, value)) = first(&self.dead, plugin)? else { break };
            self.dead.remove((&**plugin, oldest))?;
            held.dead = held.dead.saturating_sub(cost(&value));
            buried += 1;
        }
        if buried > 0 {
            self.written.buried.push((plugin.clone(), buried));
        }
        Ok(())
    }

    fn exhume(&mut self, plugin: &str, number: u64) -> Result<Option<Vec<u8>>, redb::Error> {
        let value = self.dead.remove((plugin, number))?.map(|value| value.value().to_vec());
        if let (Some(value), Some(held)) = (&value, self.inboxes.get_mut(plugin)) {
            held.dead = held.dead.saturating_sub(cost(value));
        }
        Ok(value)
    }
}

/// An inbound message has no number of a `publish`.
fn inbound(message: &Message) -> Record {
    Record { message: message.clone(), number: 0, age: Age::new() }
}

/// The oldest of a plugin's messages.
fn first(table: &Messages<'_>, plugin: &str) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
    let first = table.range((plugin, 0)..=(plugin, u64::MAX))?.next().transpose()?;
    Ok(first.map(|(key, value)| (key.value().1, value.value().to_vec())))
}

/// What one table has of a plugin takes the place of what the other has.
fn copy(from: &Values<'_>, to: &mut Values<'_>, plugin: &str) -> Result<(), redb::Error> {
    empty(to, plugin)?;
    for row in from.range((plugin, "")..)? {
        let (key, value) = row?;
        let (owner, key) = key.value();
        if owner != plugin {
            break;
        }
        to.insert((plugin, key), value.value())?;
    }
    Ok(())
}

fn empty(table: &mut Values<'_>, plugin: &str) -> Result<(), redb::Error> {
    loop {
        let first = table.range((plugin, "")..)?.next().transpose()?;
        let key =
            first.and_then(|(key, _)| Some(key.value()).filter(|key| key.0 == plugin).map(|key| key.1.to_owned()));
        let Some(key) = key else { return Ok(()) };
        table.remove((plugin, key.as_str()))?;
    }
}

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase, backends::InMemoryBackend};

    use super::*;

    fn trusted(database: &Database) -> Option<u64> {
        let read = database.begin_read().unwrap();
        let meta = read.open_table(META).unwrap();
        let wall = super::super::stamp(&meta, "trusted").unwrap()?.wall()?;
        Some(wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn a_boot_without_a_clock_keeps_the_last_trusted_time() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut last: Option<Stamp> = None;
        let boots =
            [(None, None), (Some(100), Some(100)), (None, Some(100)), (None, Some(100)), (Some(150), Some(150))];
        for (boot, (wall, expected)) in boots.into_iter().enumerate() {
            for write in 1..=2 {
                let now = Stamp::after(last.as_ref(), boot as u128, write * 1000, wall);
                let transaction = database.begin_write().unwrap();
                note(&mut transaction.open_table(META).unwrap(), &now).unwrap();
                transaction.commit().unwrap();
                assert_eq!(trusted(&database), expected, "boot {boot}, write {write}");
                last = Some(now);
            }
        }
        // A clock that was right in the future and is set right now is believed.
        let back = Stamp::after(last.as_ref(), 9, 1000, Some(120));
        let transaction = database.begin_write().unwrap();
        note(&mut transaction.open_table(META).unwrap(), &back).unwrap();
        transaction.commit().unwrap();
        assert_eq!(trusted(&database), Some(120));
    }

    #[test]
    fn what_an_earlier_version_knew_of_the_time_is_carried_over() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let old = Stamp::after(None, 1, 1000, Some(100));
        let transaction = database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert("stamp", postcard::to_allocvec(&old).unwrap().as_slice()).unwrap();
            note(&mut meta, &Stamp::after(Some(&old), 2, 1000, None)).unwrap();
        }
        transaction.commit().unwrap();
        assert_eq!(trusted(&database), Some(100));
    }
}
