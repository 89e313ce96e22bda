//! What an earlier run left.

use std::{collections::BTreeSet, sync::Arc};

use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value};

use super::{
    AT_BROKER, DEAD, INBOX, INSTALLED, Inbox, Last, META, OUTBOX, PROBATION, QUARANTINE, Quarantined, Repeatable,
    Restored, SESSION, SUBSCRIPTIONS, Store, StoreError, Waiting, Wanted, cost, log::Mark, qos, record, stamp,
};
use crate::{router::Subscription, topic::TopicFilter};

type Meta = ReadOnlyTable<&'static str, &'static [u8]>;
type Messages = TableDefinition<'static, (&'static str, u64), &'static [u8]>;

impl Store {
    /// Reads all that is needed to begin, and counts.
    pub(super) fn restore(&mut self) -> Result<Restored, StoreError> {
        let numbers = self.numbers_on_disk()?;
        let (restored, dead, last) = self.read(|database| {
            let read = database.begin_read()?;
            let mut restored = Restored { last_seq: numbers.seq, last_number: numbers.number, ..Restored::default() };
            let meta = read.open_table(META)?;
            let stamped = stamp(&meta, "stamp")?;
            // Before there was a stamp for that, the last one was all that was known.
            restored.trusted = stamp(&meta, "trusted")?.or(stamped).and_then(|stamp| stamp.wall());
            let (outbox, last_seq) = count(&read, OUTBOX)?;
            let (inbox, last_number) = count(&read, INBOX)?;
            restored.last_seq = restored.last_seq.max(last_seq);
            restored.last_number = restored.last_number.max(last_number);
            (restored.outbox, restored.inbox) = (outbox, inbox);
            let (kept, last_kept) = count(&read, PROBATION)?;
            let (dead, last_dead) = count(&read, DEAD)?;
            restored.last_number = restored.last_number.max(last_kept).max(last_dead);
            let mut plugins = BTreeSet::<Arc<str>>::new();
            plugins.extend(kept.iter().chain(&dead).map(|waiting| waiting.name.clone()));
            each(&read, INSTALLED, &mut |plugin, _| plugins.extend([plugin.into()]))?;
            restored.plugins = plugins.into_iter().collect();
            each(&read, SUBSCRIPTIONS, &mut |(plugin, filter), (at_least_once, identifier)| {
                if let Ok(filter) = TopicFilter::parse(filter.to_owned()) {
                    let (plugin, qos) = (plugin.into(), qos(at_least_once));
                    restored.subscriptions.push(Wanted { plugin, filter, qos, identifier });
                }
            })?;
            each(&read, AT_BROKER, &mut |filter, (at_least_once, identifier)| {
                if let Ok(filter) = TopicFilter::parse(filter.to_owned()) {
                    restored.at_broker.push(Subscription { filter, qos: qos(at_least_once), identifier });
                }
            })?;
            each(&read, QUARANTINE, &mut |_, value| {
                let Ok((body, _)) = record::decode(value) else { return };
                let Some(message) = body.message() else { return };
                restored.quarantined.push(Quarantined {
                    owner: body.name.into(),
                    seq: body.place,
                    topic: message.topic.to_string(),
                    reason: body.reason.to_owned(),
                });
                restored.last_seq = restored.last_seq.max(body.place);
            })?;
            let session = number(&meta, SESSION)?;
            for table in [INBOX, DEAD] {
                each(&read, table, &mut |(plugin, number), value| {
                    let is_of_now = number > session.unwrap_or_default();
                    let body = Some(value).filter(|_| is_of_now).and_then(|value| record::decode(value).ok());
                    if let Some((body, _)) = body.filter(|(body, _)| body.packet_id != 0) {
                        let (plugin, packet_id, digest) = (plugin.into(), body.packet_id, body.digest());
                        restored.repeatable.push(Repeatable { plugin, number, packet_id, digest });
                    }
                })?;
            }
            restored.repeatable.sort_unstable_by_key(|repeatable| repeatable.number);
            let needless = restored.repeatable.len().saturating_sub(u16::MAX.into());
            restored.repeatable.drain(..needless);
            restored.has_session = session.is_some()
                || !(restored.at_broker.is_empty() && restored.subscriptions.is_empty())
                || !(restored.outbox.is_empty() && restored.inbox.is_empty() && restored.quarantined.is_empty());
            Ok((restored, dead, stamped))
        })?;
        self.count(&restored, dead);
        let write = numbers.write.max(self.numbers.write);
        self.numbers = Last { seq: restored.last_seq, number: restored.last_number, group: numbers.group, write };
        self.last = last;
        Ok(restored)
    }

    fn count(&mut self, restored: &Restored, dead: Vec<Waiting>) {
        for inbox in self.inboxes.values_mut() {
            (inbox.bytes, inbox.dead) = (0, 0);
        }
        for Waiting { name, bytes, .. } in &restored.inbox {
            self.inboxes.entry(name.clone()).or_insert_with(|| Inbox::empty(usize::MAX)).bytes = *bytes;
        }
        for Waiting { name, bytes, .. } in dead {
            self.inboxes.entry(name).or_insert_with(|| Inbox::empty(usize::MAX)).dead = bytes;
        }
        self.bytes = restored.outbox.iter().chain(&restored.inbox).map(|waiting| waiting.bytes as u64).sum();
    }

    /// The highest numbers that the database knows of.
    pub(super) fn numbers_on_disk(&mut self) -> Result<Last, StoreError> {
        self.read(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            let number = |key: &str| Ok::<_, redb::Error>(number(&meta, key)?.unwrap_or_default());
            Ok(Last {
                seq: number("last seq")?,
                number: number("last number")?,
                group: number("log")?,
                write: number("write")?,
            })
        })
    }

    /// What the database knows of its log.
    pub(super) fn mark_on_disk(&mut self) -> Result<Mark, StoreError> {
        self.read(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            let reach = number(&meta, "log reach")?.unwrap_or_default();
            Ok(Mark { generation: number(&meta, "log generation")?, reach })
        })
    }
}

fn number(meta: &Meta, key: &str) -> Result<Option<u64>, redb::Error> {
    let value = meta.get(key)?;
    Ok(value.and_then(|value| Some(u64::from_le_bytes(value.value().try_into().ok()?))))
}

/// Shows each row of a table, in order.
pub(super) fn each<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    show: &mut dyn for<'a> FnMut(K::SelfType<'a>, V::SelfType<'a>),
) -> Result<(), redb::Error> {
    for row in read.open_table(table)?.iter()? {
        let (key, value) = row?;
        show(key.value(), value.value());
    }
    Ok(())
}

/// What each plugin has in a table, and the highest number.
fn count(read: &ReadTransaction, table: Messages) -> Result<(Vec<Waiting>, u64), redb::Error> {
    let (mut counted, mut last): (Vec<Waiting>, u64) = (Vec::new(), 0);
    each(read, table, &mut |(name, number), value| {
        let cost = cost(value);
        last = last.max(number);
        match counted.last_mut().filter(|waiting| *waiting.name == *name) {
            Some(waiting) => {
                waiting.messages += 1;
                waiting.bytes += cost;
            }
            None => counted.push(Waiting { name: name.into(), messages: 1, bytes: cost }),
        }
    })?;
    Ok((counted, last))
}
