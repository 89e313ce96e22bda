//! What has to last: the outbox, the inboxes, the subscriptions, the quarantine, and what
//! belongs to each plugin: state, version, dead letters.
//!
//! It is in a redb database, which is consistent after a loss of power without our
//! help, and, of what came since that was written last, in a log beside it (`log`), which costs
//! less to write; why both is told in `docs/decisions/0002-store.md`. What is damaged otherwise is
//! found when it is opened, set aside, and read record by record into a new one (`salvage`).
//! Only the journal's thread writes; see [`crate::journal`].

mod apply;
mod change;
mod entry;
mod log;
mod record;
mod salvage;
mod saved;

use std::{
    collections::{BTreeSet, HashMap},
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redb::{
    Database, DatabaseError, Range, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::FileBackend,
};

pub use self::change::{
    Arrived, Became, Change, DeadLetter, Entries, Installed, OnProbation, Page, Past, Quarantined, Record, Repeatable,
    Restored, Saved, Taken, Waiting, Wanted, Written,
};
use self::log::Log;
use crate::{
    clock::{Age, Stamp},
    message::{Message, Qos},
    router::Subscription,
    topic::TopicFilter,
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
    /// None between an error and the next attempt.
    database: Option<Database>,
    opener: Opener,
    /// None: not read yet.
    log: Option<Log>,
    settings: StoreSettings,
    last: Option<Stamp>,
    numbers: Last,
    inboxes: HashMap<Arc<str>, Inbox>,
    /// Cost of all messages.
    bytes: u64,
}

/// How the database is opened; tests have disks of their own.
type Opener = Box<dyn Fn(&redb::Builder) -> Result<Database, DatabaseError> + Send>;

/// How the log is opened.
type LogOpener = Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>>>;

/// The highest numbers that were ever written.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// Of a message in the outbox.
    seq: u64,
    /// Of one in an inbox.
    number: u64,
    /// Of a group in the log that the database has.
    group: u64,
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
    /// redb says so.
    #[error("the store can't be written or read: {0}")]
    Database(#[from] redb::Error),
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

/// Is there while the file is in use, and after an end that was none.
const OPEN: &str = "alphorn.redb.in-use";

/// redb's cache. Its own default is a gigabyte.
const CACHE: usize = 2 * 1024 * 1024;

/// A file that is larger than this and mostly empty is made smaller when it is opened.
const LARGE: u64 = 8 * 1024 * 1024;

impl Store {
    /// Opens the file, or makes one. A damaged one is set aside, and what can be read of it kept.
    pub fn open(settings: &StoreSettings) -> Result<(Self, Restored), StoreError> {
        let folder = &settings.folder;
        let place = |path: &Path| {
            let path = path.to_owned();
            move |cause| StoreError::Place { path, cause }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(place(folder))?;
        let path = folder.join(FILE);
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(place(&path))?;
        let log_path = folder.join(LOG);
        let open = || {
            let (path, log_path) = (path.clone(), log_path.clone());
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let log = move || Ok(Box::new(FileBackend::new(options.open(&log_path)?).map_err(io::Error::other)?) as _);
            Self::open_with(settings.clone(), Box::new(move |builder| builder.create(&path)), Box::new(log))
        };
        let mark = folder.join(OPEN);
        let ended_well = !mark.try_exists().map_err(place(&mark))?;
        fs::write(&mark, b"").map_err(place(&mark))?;
        // Before redb writes into the file: it goes back to the last write that is whole, and takes
        // the place of the one after it for free.
        let newest = if ended_well { Vec::new() } else { salvage::newest(&path)? };
        match open() {
            Ok((mut store, mut restored, rest)) => {
                let (last_seq, last_number) = (restored.last_seq, restored.last_number);
                let mut lost: Vec<_> =
                    newest.into_iter().filter(|change| change.is_after(last_seq, last_number)).collect();
                lost.extend(rest);
                if !lost.is_empty() {
                    // At worst they are sent twice.
                    store.write(&lost)?;
                    drop(store);
                    (store, restored, _) = open()?;
                    restored.damage = Some(format!(
                        "a write to {} before the host ended is not whole: {} messages of it could be read and are \
                         kept",
                        folder.display(),
                        lost.len()
                    ));
                }
                Ok((store, restored))
            }
            Err(StoreError::Database(cause)) => {
                let aside = salvage::set_aside(&path).map_err(place(&path))?;
                options.open(&path).map_err(place(&path))?;
                let (mut store, _, rest) = open()?;
                store.write(&rest)?;
                salvage::read(&aside, &mut store)?;
                drop(store);
                let (mut store, mut restored, _) = open()?;
                let kept = restored.messages() + store.dead_letters(None)?.len();
                restored.damage = Some(format!(
                    "{} was damaged ({cause}): {kept} messages could be read and are kept, some may be sent or \
                     handled once more; the damaged file is {}",
                    path.display(),
                    aside.display()
                ));
                Ok((store, restored))
            }
            Err(error) => Err(error),
        }
    }

    /// The store with what is in the log as well, and messages of the log that are in no whole group.
    fn open_with(
        settings: StoreSettings,
        opener: Opener,
        log: LogOpener,
    ) -> Result<(Self, Restored, Vec<Change>), StoreError> {
        let mut store = Self {
            database: None,
            opener,
            log: None,
            settings,
            last: None,
            numbers: Last::default(),
            inboxes: HashMap::new(),
            bytes: 0,
        };
        // Every page is checked before it is trusted; should redb still stumble, the file is damaged.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| {
            store.connect()?;
            let restored = store.restore()?;
            Ok::<_, StoreError>((store, restored))
        }));
        let (mut store, mut restored) =
            opened.unwrap_or_else(|_| Err(redb::Error::Corrupted("it makes no sense".to_owned()).into()))?;
        // Others may only have it since the database is open.
        let log_path = store.settings.folder.join(LOG);
        let place = |cause| StoreError::Place { path: log_path.clone(), cause };
        let (log, log::Found { changes, mut rest }) =
            log().and_then(|file| Log::open(file, store.numbers.group)).map_err(place)?;
        store.log = Some(log);
        let Last { seq, number, .. } = store.numbers;
        if !changes.is_empty() {
            // That it is to be left alone has been looked at when it went into the log.
            store.try_write(&changes).map_err(|error| match error {
                // A full or failing disk is no damage: the log keeps what it has until there is room.
                StoreError::Database(redb::Error::Io(cause)) => place(cause),
                error => error,
            })?;
            restored = store.restore()?;
        }
        rest.retain(|change| change.is_after(seq, number));
        Ok((store, restored, rest))
    }

    /// Opens the database, if it is not open.
    fn connect(&mut self) -> Result<&mut Database, StoreError> {
        if self.database.is_none() {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
            let mut database = (self.opener)(&builder).map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(self.settings.folder.clone()),
                error => redb::Error::from(error).into(),
            })?;
            let transaction = database.begin_write().map_err(redb::Error::from)?;
            for table in [OUTBOX, INBOX, QUARANTINE, PROBATION, DEAD] {
                transaction.open_table(table).map_err(redb::Error::from)?;
            }
            for table in [STATE, SNAPSHOT] {
                transaction.open_table(table).map_err(redb::Error::from)?;
            }
            transaction.open_table(INSTALLED).map_err(redb::Error::from)?;
            transaction.open_table(SUBSCRIPTIONS).map_err(redb::Error::from)?;
            transaction.open_table(AT_BROKER).map_err(redb::Error::from)?;
            transaction.open_table(META).map_err(redb::Error::from)?;
            transaction.commit().map_err(redb::Error::from)?;
            if self.file_length() > LARGE && self.bytes * 4 < self.file_length() {
                database.compact().map_err(redb::Error::from)?;
            }
            self.database = Some(database);
        }
        self.database.as_mut().ok_or_else(|| redb::Error::DatabaseClosed.into())
    }

    fn restore(&mut self) -> Result<Restored, StoreError> {
        let mut restored = Restored::default();
        let read = self.connect()?.begin_read().map_err(redb::Error::from)?;
        let meta = read.open_table(META).map_err(redb::Error::from)?;
        let number = |key: &str| -> Result<u64, redb::Error> {
            let value = meta.get(key)?;
            Ok(value.and_then(|value| Some(u64::from_le_bytes(value.value().try_into().ok()?))).unwrap_or_default())
        };
        (restored.last_seq, restored.last_number) = (number("last seq")?, number("last number")?);
        let last = stamp(&meta, "stamp")?;
        // Before there was a stamp for that, the last one was all that was known.
        restored.trusted = stamp(&meta, "trusted")?.or(last).and_then(|stamp| stamp.wall());
        let (outbox, last_seq) = count(&read.open_table(OUTBOX).map_err(redb::Error::from)?)?;
        let (inbox, last_number) = count(&read.open_table(INBOX).map_err(redb::Error::from)?)?;
        restored.last_seq = restored.last_seq.max(last_seq);
        restored.last_number = restored.last_number.max(last_number);
        let mut plugins = BTreeSet::new();
        self.inboxes.clear();
        for waiting in &inbox {
            self.inboxes.entry(waiting.name.clone()).or_insert_with(|| Inbox::empty(usize::MAX)).bytes = waiting.bytes;
        }
        for (table, is_dead) in [(PROBATION, false), (DEAD, true)] {
            let (waiting, last) = count(&read.open_table(table).map_err(redb::Error::from)?)?;
            restored.last_number = restored.last_number.max(last);
            for Waiting { name, bytes, .. } in waiting {
                if is_dead {
                    self.inboxes.entry(name.clone()).or_insert_with(|| Inbox::empty(usize::MAX)).dead = bytes;
                }
                plugins.insert(name);
            }
        }
        for row in read.open_table(INSTALLED).map_err(redb::Error::from)?.iter().map_err(redb::Error::from)? {
            plugins.insert(row.map_err(redb::Error::from)?.0.value().into());
        }
        restored.plugins = plugins.into_iter().collect();
        for row in read.open_table(SUBSCRIPTIONS).map_err(redb::Error::from)?.iter().map_err(redb::Error::from)? {
            let (key, value) = row.map_err(redb::Error::from)?;
            let ((plugin, filter), (at_least_once, identifier)) = (key.value(), value.value());
            if let Ok(filter) = TopicFilter::parse(filter.to_owned()) {
                restored.subscriptions.push(Wanted {
                    plugin: plugin.into(),
                    filter,
                    qos: qos(at_least_once),
                    identifier,
                });
            }
        }
        for row in read.open_table(AT_BROKER).map_err(redb::Error::from)?.iter().map_err(redb::Error::from)? {
            let (key, value) = row.map_err(redb::Error::from)?;
            let (at_least_once, identifier) = value.value();
            if let Ok(filter) = TopicFilter::parse(key.value().to_owned()) {
                restored.at_broker.push(Subscription { filter, qos: qos(at_least_once), identifier });
            }
        }
        for row in read.open_table(QUARANTINE).map_err(redb::Error::from)?.iter().map_err(redb::Error::from)? {
            let (_, value) = row.map_err(redb::Error::from)?;
            let Ok((body, _)) = record::decode(value.value()) else { continue };
            let Some(message) = body.message() else { continue };
            restored.quarantined.push(Quarantined {
                owner: body.name.into(),
                seq: body.place,
                topic: message.topic.to_string(),
                reason: body.reason.to_owned(),
            });
        }
        let session = number(SESSION)?;
        for table in [INBOX, DEAD] {
            let table = read.open_table(table).map_err(redb::Error::from)?;
            for row in table.iter().map_err(redb::Error::from)? {
                let (key, value) = row.map_err(redb::Error::from)?;
                let ((plugin, number), value) = (key.value(), value.value());
                let body = Some(value).filter(|_| number > session).and_then(|value| record::decode(value).ok());
                if let Some((body, _)) = body.filter(|(body, _)| body.packet_id != 0) {
                    let (plugin, packet_id, digest) = (plugin.into(), body.packet_id, body.digest());
                    restored.repeatable.push(Repeatable { plugin, number, packet_id, digest });
                }
            }
        }
        restored.repeatable.sort_by_key(|repeatable| repeatable.number);
        let needless = restored.repeatable.len().saturating_sub(u16::MAX.into());
        restored.repeatable.drain(..needless);
        restored.has_session = meta.get(SESSION).map_err(redb::Error::from)?.is_some()
            || !(restored.at_broker.is_empty() && restored.subscriptions.is_empty())
            || restored.messages() > 0;
        let group = number("log")?;
        drop((meta, read));
        self.numbers = Last { seq: restored.last_seq, number: restored.last_number, group };
        self.last = last;
        self.bytes = outbox.iter().chain(&inbox).map(|waiting| waiting.bytes as u64).sum();
        (restored.outbox, restored.inbox) = (outbox, inbox);
        Ok(restored)
    }

    /// What an inbox may hold, in bytes.
    pub fn limit_inbox(&mut self, plugin: Arc<str>, bytes: usize) {
        self.inboxes.entry(plugin).or_insert_with(|| Inbox::empty(bytes)).limit = bytes;
    }

    /// Some message is kept.
    pub fn has_messages(&self) -> bool {
        self.bytes > 0
    }

    /// Makes all changes in one transaction, durable when this returns.
    pub fn write<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change> + Clone) -> Result<Written, StoreError> {
        self.leave_room(changes.clone())?;
        let before = (self.last, self.bytes, self.sizes());
        let written = self.try_write(changes);
        if let Err(error) = &written {
            // redb wants to be opened anew after an error of the disk.
            tracing::debug!("{error}");
            self.database = None;
            (self.last, self.bytes) = (before.0, before.1);
            for (plugin, bytes, dead) in before.2 {
                if let Some(inbox) = self.inboxes.get_mut(&plugin) {
                    (inbox.bytes, inbox.dead) = (bytes, dead);
                }
            }
        }
        written
    }

    /// Puts changes into the log, durable when this returns. They are not seen here before they are
    /// written together with all others since the last [`Store::write`]. False: the log is full.
    pub fn log<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change> + Clone) -> Result<bool, StoreError> {
        self.leave_room(changes.clone())?;
        let Some(log) = &mut self.log else { return Ok(false) };
        let now = Stamp::now(self.last.as_ref());
        let appended = log.append(changes.clone(), now);
        let has_room = appended.map_err(|cause| StoreError::Place { path: self.settings.folder.join(LOG), cause })?;
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

    fn try_write<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>) -> Result<Written, StoreError> {
        let now = Stamp::now(self.last.as_ref());
        self.connect()?;
        let Self { database, log, inboxes, bytes, numbers, .. } = self;
        let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = database.begin_write().map_err(redb::Error::from)?;
        numbers.group = log.as_ref().map_or(numbers.group, Log::last);
        let written = apply::apply(&transaction, changes, now, inboxes, bytes, numbers)?;
        transaction.commit().map_err(redb::Error::from)?;
        self.last = Some(now);
        log.as_mut().map(Log::begin_again);
        Ok(written)
    }

    /// Refuses what would make the file grow into what is to be left of the file system.
    fn leave_room<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Result<(), StoreError> {
        const SLACK: u64 = 1024 * 1024;
        let settings = &self.settings;
        let adds = |change: &Change| {
            matches!(
                change,
                Change::Taken { .. }
                    | Change::Arrived { .. }
                    | Change::Quarantined { .. }
                    | Change::State { value: Some(_), .. }
                    | Change::OnProbation { .. }
                    | Change::Dead { .. }
            )
        };
        if settings.min_free == 0 || !changes.into_iter().any(adds) {
            return Ok(());
        }
        let cause = |cause: rustix::io::Errno| StoreError::Place { path: settings.folder.clone(), cause: cause.into() };
        let disk = rustix::fs::statvfs(&settings.folder).map_err(cause)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // What was freed within the file is used again before it grows.
        let has_room_within = self.bytes * 2 + SLACK < self.file_length();
        if free < settings.min_free && !has_room_within {
            return Err(StoreError::Low { free, min_free: settings.min_free });
        }
        Ok(())
    }

    fn file_length(&self) -> u64 {
        fs::metadata(self.settings.folder.join(FILE)).map_or(0, |file| file.len())
    }

    /// Messages of a plugin that wait for the broker, behind `after`: as many as have
    /// `max_bytes` together, one at least.
    pub fn outbox(&mut self, owner: &str, after: u64, max_bytes: usize) -> Result<Page<Taken>, StoreError> {
        let (now, max) = (Stamp::now(self.last.as_ref()), max_bytes);
        let read = self.connect()?.begin_read().map_err(redb::Error::from)?;
        let table = read.open_table(OUTBOX).map_err(redb::Error::from)?;
        let range = table.range((owner, after.saturating_add(1))..=(owner, u64::MAX)).map_err(redb::Error::from)?;
        page(range, max, |body, message, cost| {
            let age = Age::of(Duration::from_millis(body.age) + now.since(&body.written));
            Taken { seq: body.place, cost, record: Record { message, number: body.number, age } }
        })
    }

    /// Messages of a plugin's inbox, behind `after`.
    pub fn inbox(&mut self, plugin: &str, after: u64, max_bytes: usize) -> Result<Page<Arrived>, StoreError> {
        let read = self.connect()?.begin_read().map_err(redb::Error::from)?;
        let table = read.open_table(INBOX).map_err(redb::Error::from)?;
        let range = table.range((plugin, after.saturating_add(1))..=(plugin, u64::MAX)).map_err(redb::Error::from)?;
        page(range, max_bytes, |body, message, _| Arrived {
            number: body.place,
            message,
            redelivered: body.redelivered,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The database ends first, so that the mark outlasts it where that fails.
        if let Some(database) = self.database.take() {
            drop(database);
            let _ = fs::remove_file(self.settings.folder.join(OPEN));
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
) -> Result<Page<T>, StoreError> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    for row in range {
        let (_, value) = row.map_err(redb::Error::from)?;
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

/// What each plugin has in a table, and the highest number.
fn count(table: &impl ReadableTable<(&'static str, u64), &'static [u8]>) -> Result<(Vec<Waiting>, u64), redb::Error> {
    let (mut counted, mut last): (Vec<Waiting>, u64) = (Vec::new(), 0);
    for row in table.iter()? {
        let (key, value) = row?;
        let ((name, number), cost) = (key.value(), cost(value.value()));
        last = last.max(number);
        match counted.last_mut().filter(|waiting| *waiting.name == *name) {
            Some(waiting) => {
                waiting.messages += 1;
                waiting.bytes += cost;
            }
            None => counted.push(Waiting { name: name.into(), messages: 1, bytes: cost }),
        }
    }
    Ok((counted, last))
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
