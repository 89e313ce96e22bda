//! What has to last: the outbox, the inboxes, the subscriptions, the quarantine, and what
//! belongs to each plugin: state, version, dead letters.
//!
//! It is in a redb database, which is consistent after a loss of power without our
//! help, and, of what came since that was written last, in a log beside it (`log`), which costs
//! less to write; why both is told in `docs/decisions/0002-store.md`. What is damaged otherwise is
//! found when it is opened (`tree`), read row by row into a new one (`salvage`), and set aside.
//! While the disk takes nothing, there is a view of what it has (`medium`), so that what waits
//! can be sent. Only the journal's thread writes; see [`crate::journal`].

mod apply;
mod change;
mod entry;
mod folder;
mod log;
mod medium;
mod opening;
mod pages;
mod record;
mod restore;
mod salvage;
mod saved;
mod tree;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use redb::{Database, Range, ReadableDatabase, ReadableTable, TableDefinition};

pub use self::change::{
    Arrived, Became, Change, DeadLetter, Entries, Installed, OnProbation, Page, Past, Quarantined, Record, Repeatable,
    Restored, Saved, Taken, Waiting, Wanted, Written,
};
use self::{
    folder::{Folder, takes_nothing},
    log::Log,
    medium::{Failed, Fault, Medium},
};
use crate::{
    clock::{Age, Stamp},
    message::{Message, Qos},
};

/// Where the file is, and what to leave of the file system.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes to leave free.
    pub min_free: u64,
}

/// The open file.
pub struct Store {
    folder: Box<dyn Folder>,
    /// None between an error and the next attempt.
    database: Option<Database>,
    /// What the database lies on. It stays open, and so locked, whatever becomes of the database.
    file: Option<Medium>,
    /// What the disk said about it.
    fault: Fault,
    /// Why the database is a view of what the disk has; None: it is what the disk has.
    view: Option<String>,
    /// None: not read yet, or it could not be made.
    log: Option<Log>,
    /// What the log has and the database has not; only while that can't be written.
    pending: Vec<Change>,
    /// The number of the last write that is not known to have come through or not.
    doubt: Option<u64>,
    settings: StoreSettings,
    last: Option<Stamp>,
    numbers: Last,
    inboxes: HashMap<Arc<str>, Inbox>,
    /// Cost of all messages.
    bytes: u64,
    /// What was found when it was opened.
    findings: opening::Findings,
}

/// The highest numbers that were ever written.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// Of a message in the outbox.
    seq: u64,
    /// Of one in an inbox.
    number: u64,
    /// Of a group in the log that the database has.
    group: u64,
    /// Of a write into the database.
    write: u64,
}

/// What is counted of a plugin's inbox and its dead letters.
#[derive(Debug)]
struct Inbox {
    bytes: usize,
    dead: usize,
    /// Of each of the two.
    limit: usize,
}

impl Inbox {
    fn empty(limit: usize) -> Self {
        Self { bytes: 0, dead: 0, limit }
    }
}

/// The store does not open, or not write.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file can't be used.
    #[error("can't use {} ({cause}): make the folder and let this user write to it, or set `host.data_dir`, or keep the outbox in memory (`outbox.storage`)", path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Another host has it.
    #[error("{} is in use by another host: one `host.data_dir` is for one host", .0.display())]
    InUse(PathBuf),
    /// The file system has less room than is to be left.
    #[error("the disk has {free} bytes free, and {min_free} are to be left (`outbox.min_free`): make room")]
    Low {
        /// Bytes there are.
        free: u64,
        /// Bytes to leave.
        min_free: u64,
    },
    /// Nothing can be written, for now or for good.
    #[error("{} can't be written ({cause}): make room on that disk, or, where it is read-only or fails, mount it anew or replace it", path.display())]
    Full {
        /// Which.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// redb says so.
    #[error("the store can't be written or read: {0}")]
    Database(#[from] redb::Error),
}

impl StoreError {
    /// What is there can be read all the same.
    fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

const OUTBOX: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("outbox");
const INBOX: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("inbox");
const QUARANTINE: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("quarantine");
/// Handled by a version on probation.
const PROBATION: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("probation");
const DEAD: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("dead letters");
/// Plugin, key → value.
const STATE: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("state");
const SNAPSHOT: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("snapshot");
/// Plugin → which version.
const INSTALLED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("installed");
/// Plugin, filter → at least once, number.
const SUBSCRIPTIONS: TableDefinition<'_, (&str, &str), (bool, u32)> = TableDefinition::new("subscriptions");
/// Filter → at least once, number.
const AT_BROKER: TableDefinition<'_, &str, (bool, u32)> = TableDefinition::new("at-broker");
/// The highest numbers, and the last moment.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// In it: up to which number messages arrived in an earlier session.
const SESSION: &str = "session";

const FILE: &str = "alphorn.redb";

const LOG: &str = "alphorn.log";

/// redb's cache. Its own default is a gigabyte.
const CACHE: usize = 2 * 1024 * 1024;

/// Room that is kept so that what was settled can be taken out of a database on a full disk.
const RESERVE: (&str, u64) = ("alphorn.reserve", 512 * 1024);

/// It is not for what is new.
const LITTLE: usize = 64 * 1024;

impl Store {
    /// What an inbox may hold, in bytes.
    pub fn limit_inbox(&mut self, plugin: Arc<str>, bytes: usize) {
        self.inboxes.entry(plugin).or_insert_with(|| Inbox::empty(bytes)).limit = bytes;
    }

    /// Some message is kept.
    pub fn has_messages(&self) -> bool {
        self.bytes > 0
    }

    /// Why nothing can be written at present, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.view.as_deref()
    }

    /// Makes all changes in one transaction, durable when this returns.
    pub fn write<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change> + Clone) -> Result<Written, StoreError> {
        self.leave_room(changes.clone())?;
        let mut written = self.leave_view(false).and_then(|()| self.write_or_undo(&mut changes.clone().into_iter()));
        let is_full = written.as_ref().is_err_and(StoreError::is_full);
        if is_full && frees(changes.clone()) && self.folder.has(RESERVE.0).unwrap_or(false) {
            // That is what it is for. It is made again when there is room again.
            let _ = self.folder.remove(RESERVE.0);
            written = self.leave_view(true).and_then(|()| self.write_or_undo(&mut changes.into_iter()));
        }
        if written.is_ok() {
            self.keep_reserve();
        }
        written
    }

    /// Not for each kind of iterator anew: redb's part of that is large.
    fn write_or_undo(&mut self, changes: &mut dyn Iterator<Item = &Change>) -> Result<Written, StoreError> {
        let before = (self.last, self.bytes, self.sizes(), self.numbers);
        let written = self.try_write(changes);
        if let Err(error) = &written {
            // redb wants to be opened anew after an error of the disk.
            tracing::debug!("{error}");
            self.database = None;
            if !self.pending.is_empty() && error.is_full() {
                // What the log has is to be read, too.
                self.view = Some(error.to_string());
            }
            // A number is never given again, lest one write be taken for another.
            let write = self.numbers.write;
            (self.last, self.bytes, self.numbers) = (before.0, before.1, Last { write, ..before.3 });
            for (plugin, bytes, dead) in before.2 {
                if let Some(inbox) = self.inboxes.get_mut(&plugin) {
                    (inbox.bytes, inbox.dead) = (bytes, dead);
                }
            }
        }
        written
    }

    /// Whether the last write that failed came through after all: the disk may have said so too late.
    /// What it had must not be done twice.
    pub fn was_written(&mut self) -> Result<bool, StoreError> {
        let Some(doubt) = self.doubt else { return Ok(false) };
        self.connect()?;
        let numbers = self.numbers_on_disk()?;
        self.doubt = None;
        if numbers.write != doubt {
            return Ok(false);
        }
        self.restore()?;
        self.pending.clear();
        // What has come into the log since then stays there.
        self.log.as_mut().filter(|log| log.last() == numbers.group).map(Log::begin_again);
        Ok(true)
    }

    /// Puts changes into the log, durable when this returns. They are not seen here before they are
    /// written together with all others since the last [`Store::write`]. False: the log is full.
    pub fn log<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change> + Clone) -> Result<bool, StoreError> {
        self.leave_room(changes.clone())?;
        let is_behind = self.view.is_some() || !self.pending.is_empty();
        let Some(log) = self.log.as_mut().filter(|_| !is_behind) else { return Ok(false) };
        let now = Stamp::now(self.last.as_ref());
        let appended = log.append(changes.clone(), now);
        let has_room = appended.map_err(|cause| StoreError::Full { path: self.folder.path(LOG), cause })?;
        if has_room {
            self.last = Some(now);
            for change in changes {
                match change {
                    Change::Taken { seq, .. } => self.numbers.seq = self.numbers.seq.max(*seq),
                    Change::Arrived { number, .. } => self.numbers.number = self.numbers.number.max(*number),
                    _ => {}
                }
            }
        }
        Ok(has_room)
    }

    fn sizes(&self) -> Vec<(Arc<str>, usize, usize)> {
        self.inboxes.iter().map(|(plugin, inbox)| (plugin.clone(), inbox.bytes, inbox.dead)).collect()
    }

    fn try_write(&mut self, changes: &mut dyn Iterator<Item = &Change>) -> Result<Written, StoreError> {
        let now = Stamp::now(self.last.as_ref());
        self.connect()?;
        let pending = std::mem::take(&mut self.pending);
        let written = if pending.is_empty() {
            self.transact(changes, now)
        } else {
            let all: Vec<&Change> = pending.iter().chain(changes.map(|change: &Change| change)).collect();
            // What was settled meanwhile need not be put in before, where there is little room.
            let settled: HashSet<_> = all.iter().filter_map(|change| change.settles()).collect();
            let is_needed = |change: &&Change| change.takes().is_none_or(|message| !settled.contains(&message));
            self.transact(&mut all.iter().copied().filter(is_needed), now)
        };
        match &written {
            Ok(_) => {
                self.last = Some(now);
                self.doubt = None;
                self.log.as_mut().map(Log::begin_again);
            }
            Err(_) => self.pending = pending,
        }
        written
    }

    fn transact(&mut self, changes: &mut dyn Iterator<Item = &Change>, now: Stamp) -> Result<Written, StoreError> {
        let Self { database, log, inboxes, bytes, numbers, .. } = self;
        let mut written = || {
            let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            let mut transaction = database.begin_write()?;
            // After a kill all of a write is there, or nothing. Half of one would break the order of its
            // messages: the other half comes again, behind it.
            transaction.set_two_phase_commit(true);
            numbers.group = log.as_ref().map_or(numbers.group, Log::last);
            numbers.write += 1;
            let mark = log.as_ref().map(Log::mark).unwrap_or_default();
            let written = apply::apply(&transaction, changes, now, inboxes, bytes, numbers, mark)?;
            transaction.commit()?;
            Ok::<_, redb::Error>(written)
        };
        written().map_err(|error| {
            self.doubt = Some(self.numbers.write);
            self.error(error)
        })
    }

    /// What redb says, or what the disk said before that.
    fn error(&self, error: redb::Error) -> StoreError {
        let path = || self.folder.path(FILE);
        match self.fault.take() {
            Some(Failed::Writing(cause)) => StoreError::Full { path: path(), cause },
            Some(Failed::Reading(cause)) if takes_nothing(&cause) => StoreError::Full { path: path(), cause },
            Some(Failed::Reading(cause)) if tree::is_bad_sector(&cause) => {
                StoreError::Database(redb::Error::Corrupted(format!("it can't be read: {cause}")))
            }
            Some(Failed::Reading(cause)) => StoreError::Place { path: path(), cause },
            None => StoreError::Database(error),
        }
    }

    /// Refuses what would make the file grow into what is to be left of the file system.
    fn leave_room<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Result<(), StoreError> {
        const SLACK: u64 = 1024 * 1024;
        let min_free = self.settings.min_free;
        if min_free == 0 || adds(changes) == 0 || self.view.is_some() {
            return Ok(());
        }
        let free = self.folder.free();
        let free = free.map_err(|cause| StoreError::Place { path: self.settings.folder.clone(), cause })?;
        // What was freed within the file is used again before it grows.
        let has_room_within = self.bytes * 2 + SLACK < self.file_length();
        if free < min_free && !has_room_within {
            return Err(StoreError::Low { free, min_free });
        }
        Ok(())
    }

    /// The reserve is there, unless that took what is to be left alone.
    fn keep_reserve(&mut self) {
        let (name, bytes) = RESERVE;
        if self.findings.has_reserve && self.folder.has(name).unwrap_or(true) {
            return;
        }
        let leaves = self.settings.min_free.max(bytes) + bytes;
        let has_room = self.folder.free().is_ok_and(|free| free >= leaves);
        self.findings.has_reserve = has_room && self.folder.occupy(name, bytes).is_ok();
    }

    fn file_length(&self) -> u64 {
        self.file.as_ref().and_then(|file| file.len().ok()).unwrap_or_default()
    }

    /// Messages of a plugin that wait for the broker, behind `after`: as many as have
    /// `max_bytes` together, one at least.
    pub fn outbox(&mut self, owner: &str, after: u64, max_bytes: usize) -> Result<Page<Taken>, StoreError> {
        let (now, max) = (Stamp::now(self.last.as_ref()), max_bytes);
        self.read(|database| {
            let table = database.begin_read()?.open_table(OUTBOX)?;
            page(table.range((owner, after.saturating_add(1))..=(owner, u64::MAX))?, max, |body, message, cost| {
                let age = Age::of(Duration::from_millis(body.age) + now.since(&body.written));
                Taken { seq: body.place, cost, record: Record { message, number: body.number, age } }
            })
        })
    }

    /// Messages of a plugin's inbox, behind `after`.
    pub fn inbox(&mut self, plugin: &str, after: u64, max_bytes: usize) -> Result<Page<Arrived>, StoreError> {
        self.read(|database| {
            let table = database.begin_read()?.open_table(INBOX)?;
            page(table.range((plugin, after.saturating_add(1))..=(plugin, u64::MAX))?, max_bytes, |body, message, _| {
                Arrived { number: body.place, message, redelivered: body.redelivered }
            })
        })
    }

    /// Reads from the database, or from a view of it.
    fn read<T>(&mut self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let result = read(self.connect()?);
        result.map_err(|error| {
            self.database = None;
            self.error(error)
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The database ends first, so that the lock outlasts it.
        if self.database.take().is_some() {
            self.clear_notes();
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// `read` is given what the record was counted with. Older versions counted less than a message
/// takes in memory, so what it costs there is looked at as well.
fn page<T>(
    range: Range<'_, (&'static str, u64), &'static [u8]>,
    max_bytes: usize,
    read: impl Fn(&record::Body<'_>, Message, usize) -> T,
) -> Result<Page<T>, redb::Error> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    for row in range {
        let (_, value) = row?;
        let counted = cost(value.value());
        // One that cannot be read says nothing that could be sent.
        let Ok((body, _)) = record::decode(value.value()) else { continue };
        let Some(message) = body.message() else { continue };
        bytes += counted.max(message.cost());
        if bytes > max_bytes && !items.is_empty() {
            return Ok(Page { items, more: true });
        }
        items.push(read(&body, message, counted));
    }
    Ok(Page { items, more: false })
}

/// The changes take out more than they put in.
fn frees<'a>(changes: impl IntoIterator<Item = &'a Change> + Clone) -> bool {
    let added = changes.clone().into_iter().filter(|change| change.added() > 0).count();
    let removed = changes.clone().into_iter().filter(|change| change.removes()).count();
    removed > added && adds(changes) <= LITTLE
}

/// Bytes of what the changes put in.
fn adds<'a>(changes: impl IntoIterator<Item = &'a Change>) -> usize {
    changes.into_iter().map(Change::added).sum()
}

/// A moment that is kept, if there is one.
fn stamp(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<Stamp>, redb::Error> {
    Ok(meta.get(key)?.and_then(|stamp| postcard::from_bytes(stamp.value()).ok()))
}

fn cost(record: &[u8]) -> usize {
    record::header(record).map_or(0, |(_, cost)| cost)
}

fn qos(at_least_once: bool) -> Qos {
    if at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce }
}

#[cfg(test)]
mod tests;
