//! What is kept of one plugin, and letters it could not handle.

use std::time::Duration;

use bytes::Bytes;
use redb::{ReadableDatabase, TableDefinition};

use super::{
    DEAD, DeadLetter, Entries, INSTALLED, Installed, PROBATION, QUARANTINE, Quarantined, Record, SNAPSHOT, STATE,
    SUBSCRIPTIONS, Saved, Store, StoreError, Taken, page, qos, record, restore::each,
};
use crate::{clock::Age, clock::Stamp, store::Arrived, topic::TopicFilter};

impl Store {
    /// What is kept of a plugin besides its messages.
    pub fn saved(&mut self, plugin: &str) -> Result<Saved, StoreError> {
        self.read(|database| {
            let read = database.begin_read()?;
            let values = |table: TableDefinition<'_, (&'static str, &'static str), &'static [u8]>| {
                let mut entries = Entries::new();
                for row in read.open_table(table)?.range((plugin, "")..)? {
                    let (key, value) = row?;
                    if key.value().0 != plugin {
                        break;
                    }
                    entries.insert(key.value().1.into(), Bytes::copy_from_slice(value.value()));
                }
                Ok::<_, redb::Error>(entries)
            };
            let (state, snapshot) = (values(STATE)?, values(SNAPSHOT)?);
            let mut subscriptions = Vec::new();
            let table = read.open_table(SUBSCRIPTIONS)?;
            for row in table.range((plugin, "")..)? {
                let (key, value) = row?;
                let ((owner, filter), (at_least_once, _)) = (key.value(), value.value());
                if owner != plugin {
                    break;
                }
                let filter = TopicFilter::parse(filter.to_owned()).ok();
                subscriptions.extend(filter.map(|filter| (filter, qos(at_least_once))));
            }
            let installed = read.open_table(INSTALLED)?;
            let installed = installed.get(plugin)?;
            let installed = installed.and_then(|value| Installed::decode(value.value()));
            let probation = read.open_table(PROBATION)?;
            let kept = probation.range((plugin, 0)..=(plugin, u64::MAX))?;
            let kept =
                page(kept, usize::MAX, |body, message, _| Arrived { number: body.place, message, redelivered: true })?;
            Ok(Saved { installed, state, snapshot, kept: kept.items, subscriptions })
        })
    }

    /// Dead letters: of one plugin, or of all; the oldest first.
    pub fn dead_letters(&mut self, plugin: Option<&str>) -> Result<Vec<DeadLetter>, StoreError> {
        let now = Stamp::now(self.last.as_ref());
        self.read(|database| {
            let mut letters = Vec::new();
            each(&database.begin_read()?, DEAD, &mut |(owner, _), value| {
                if plugin.is_some_and(|plugin| plugin != owner) {
                    return;
                }
                let Ok((body, _)) = record::decode(value) else { return };
                let Some(message) = body.message() else { return };
                letters.push(DeadLetter {
                    plugin: body.name.into(),
                    number: body.place,
                    message,
                    attempts: body.number,
                    reason: body.reason.to_owned(),
                    age: now.since(&body.written),
                });
            })?;
            Ok(letters)
        })
    }

    /// Messages in quarantine, with what they were.
    pub fn quarantined(&mut self) -> Result<Vec<(Quarantined, Taken)>, StoreError> {
        let now = Stamp::now(self.last.as_ref());
        self.read(|database| {
            let mut quarantined = Vec::new();
            each(&database.begin_read()?, QUARANTINE, &mut |_, value| {
                let Ok((body, _)) = record::decode(value) else { return };
                let Some(message) = body.message() else { return };
                let age = Age::of(Duration::from_millis(body.age) + now.since(&body.written));
                let about = Quarantined {
                    owner: body.name.into(),
                    seq: body.place,
                    topic: message.topic.to_string(),
                    reason: body.reason.to_owned(),
                };
                let (cost, record) = (message.cost(), Record { message, number: body.number, age });
                quarantined.push((about, Taken { seq: body.place, cost, record }));
            })?;
            Ok(quarantined)
        })
    }
}
