//! How the store is opened, whatever state its files and its disk are in.
//!
//! A database is looked at page by page before redb gets it. One that is damaged is read into a new one
//! beside it, and stays in its place until that is complete and durable: whenever this ends in
//! between, it is done again. Where the disk takes nothing, there is a view of what it has.

use std::io::{self, ErrorKind};

use redb::{Database, ReadableDatabase, StorageBackend};

use super::{
    AT_BROKER, CACHE, Change, DEAD, FILE, INBOX, INSTALLED, LOG, META, OUTBOX, PROBATION, QUARANTINE, RESERVE,
    Restored, SNAPSHOT, STATE, SUBSCRIPTIONS, Store, StoreError, StoreSettings, apply,
    folder::{Directory, Folder, How, takes_nothing},
    log::{Found, Log},
    medium::{Direct, Fault, Medium, View},
    salvage,
    tree::{self, Condition, Whole},
};
use crate::clock::Stamp;

/// A database that is being made.
const NEW: &str = "alphorn.redb.new";

/// One that is complete and takes the place of a damaged one next.
const COMPLETE: &str = "alphorn.redb.complete";

/// How often the database was being opened when the process ended. It is there while it is in use.
const OPENING: &str = "alphorn.redb.in-use";

/// After so many ends while it was being opened, a database is not given to redb again.
const ENDS: u8 = 2;

/// A file that is larger than this and mostly empty is made smaller when it is opened.
const LARGE: u64 = 8 * 1024 * 1024;

/// A damaged database on a full disk is read into memory if it is not larger.
const IN_MEMORY: u64 = 256 * 1024 * 1024;

/// What was found when the store was opened.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is to be said, in sentences.
    said: Vec<String>,
    /// The last end was none.
    was_cut: bool,
    /// There was no database.
    is_new: bool,
    /// Messages of a write that is not whole.
    torn: Vec<Change>,
    pub(super) has_reserve: bool,
}

impl Store {
    /// Opens the file, or makes one. What can be read of a damaged one is kept.
    pub fn open(settings: &StoreSettings) -> Result<(Self, Restored), StoreError> {
        Self::open_in(Box::new(Directory(settings.folder.clone())), settings.clone())
    }

    pub(super) fn open_in(folder: Box<dyn Folder>, settings: StoreSettings) -> Result<(Self, Restored), StoreError> {
        let mut store = Self {
            folder,
            database: None,
            file: None,
            fault: Fault::default(),
            view: None,
            log: None,
            pending: Vec::new(),
            doubt: None,
            settings,
            last: None,
            numbers: super::Last::default(),
            inboxes: std::collections::HashMap::new(),
            bytes: 0,
            findings: Findings::default(),
        };
        store.connect()?;
        let before = store.restore()?;
        store.make_up_for_log(&before)?;
        store.make_smaller()?;
        if store.view.is_none() {
            store.sync_names()?;
            store.keep_reserve();
        }
        let mut restored = store.restore()?;
        let said = std::mem::take(&mut store.findings.said);
        restored.damage = (!said.is_empty()).then(|| said.join("; "));
        Ok((store, restored))
    }

    /// What the log has goes into the database, or, where that can't be written, into the view.
    fn make_up_for_log(&mut self, before: &Restored) -> Result<(), StoreError> {
        let mark = self.mark_on_disk()?;
        let found = self.open_log(mark)?;
        self.say_of_log(&found);
        let Found { changes, mut rest, foreign, .. } = found;
        let settled: std::collections::HashSet<_> = changes.iter().filter_map(Change::settles).collect();
        rest.extend(std::mem::take(&mut self.findings.torn));
        rest.retain(|change| {
            change.is_after(before.last_seq, before.last_number)
                && change.takes().is_none_or(|message| !settled.contains(&message))
        });
        // What a whole group has is not torn, even if a copy of it is.
        let whole: std::collections::HashSet<_> = changes.iter().filter_map(Change::takes).collect();
        rest.retain(|change| change.takes().is_none_or(|message| !whole.contains(&message)));
        if !rest.is_empty() {
            self.findings.said.push(format!(
                "a write to {} before the host ended is not whole: {} messages of it could be read and are kept",
                self.settings.folder.display(),
                rest.len()
            ));
        }
        drop((settled, whole));
        let is_foreign = !foreign.is_empty();
        let foreign = self.renumbered(foreign, &changes);
        // At worst they are sent twice. What is newer settles what is older.
        let changes: Vec<Change> = rest.into_iter().chain(changes).chain(foreign).collect();
        let is_noted = self.log.as_ref().is_none_or(|log| log.mark().generation == mark.generation);
        if changes.is_empty() && is_noted {
            return Ok(());
        }
        self.pending = changes;
        if self.view.is_none() {
            match self.write_or_undo(&mut std::iter::empty()) {
                Ok(_) => {
                    if is_foreign {
                        // At worst it is met again.
                        let _ = self.log.as_mut().map(Log::clear);
                    }
                    return Ok(());
                }
                Err(error) if error.is_full() => self.view = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        // A view has what is pending, which is nowhere else for now. A disk that is full can sync.
        let _ = self.log.as_ref().map(Log::sync);
        self.database = None;
        self.connect().map(drop)
    }

    fn say_of_log(&mut self, found: &Found) {
        let path = self.folder.path(LOG).display().to_string();
        let said = &mut self.findings.said;
        if let Some(wrong) = &found.wrong {
            said.push(format!(
                "{path} is not what it was: {wrong}; messages and state of the last minute before the host ended may \
                 be lost with that"
            ));
        }
        if self.findings.is_new && !(found.changes.is_empty() && found.rest.is_empty()) {
            said.push(format!(
                "{} was missing or empty beside a log that goes on from it: messages, state and subscriptions that \
                 were in it are lost, what the log has is kept",
                self.folder.path(FILE).display()
            ));
        } else if found.missing > 0 {
            said.push(format!(
                "{path} is damaged: up to {} writes of the last minute before the host ended are missing in it, with \
                 messages and state",
                found.missing
            ));
        }
        if !found.foreign.is_empty() {
            said.push(format!(
                "{path} is of another database: {} messages that wait in it are kept, and nothing else of it",
                found.foreign.len()
            ));
        }
    }

    /// Messages of another store get numbers of this one.
    fn renumbered(&self, foreign: Vec<Change>, changes: &[Change]) -> Vec<Change> {
        let last = changes.iter().filter_map(Change::takes).map(|(_, seq)| seq).max().unwrap_or_default();
        let mut next = last.max(self.numbers.seq);
        let mut renumber = |change| match change {
            Change::Taken { owner, record, .. } => {
                next += 1;
                Change::Taken { owner, seq: next, record }
            }
            change => change,
        };
        foreign.into_iter().map(&mut renumber).collect()
    }

    /// Opens the log; it is made, where it is missing and can be.
    fn open_log(&mut self, mark: super::log::Mark) -> Result<Found, StoreError> {
        let place = |cause| StoreError::Place { path: self.folder.path(LOG), cause };
        let opened = match self.folder.open(LOG, if self.view.is_none() { How::Create } else { How::Write }) {
            Err(error) if takes_nothing(&error) => self.folder.open(LOG, How::Read),
            opened => opened,
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound || takes_nothing(&error) => return Ok(Found::default()),
            Err(error) => return Err(place(error)),
        };
        let was_cut = self.findings.was_cut && !self.findings.is_new;
        let (mut log, found) = Log::open(file, self.numbers.group, mark, was_cut).map_err(&place)?;
        if self.view.is_none() {
            // Else it grows when it is written to, if that can be.
            let _ = log.prepare();
        }
        self.log = Some(log);
        Ok(found)
    }

    /// Opens the database, if it is not open; where nothing can be written, a view of it.
    pub(super) fn connect(&mut self) -> Result<&mut Database, StoreError> {
        if self.database.is_none() {
            if self.view.is_some() {
                self.connect_view()?;
            } else {
                match self.connect_file() {
                    Err(error) if error.is_full() => {
                        self.view = Some(error.to_string());
                        self.connect_view()?;
                    }
                    result => result?,
                }
            }
        }
        self.database.as_mut().ok_or_else(|| redb::Error::DatabaseClosed.into())
    }

    /// Opens what the disk has in place of the view of it, if it takes something again, or if that is
    /// known.
    pub(super) fn leave_view(&mut self, has_room: bool) -> Result<(), StoreError> {
        let Some(view) = &self.view else { return self.connect_or_view() };
        let (reserve, bytes) = RESERVE;
        if !has_room
            && !self.folder.has(reserve).unwrap_or(false)
            && let Err(cause) = self.folder.occupy(reserve, bytes)
        {
            tracing::debug!("{view}");
            return Err(StoreError::Full { path: self.folder.path(FILE), cause });
        }
        // The file may be open for reading only.
        (self.database, self.file) = (None, None);
        self.connect_or_view()?;
        self.sync_names()?;
        self.view = None;
        if let Ok(file) = self.folder.open(LOG, How::Create) {
            match &mut self.log {
                Some(log) => log.set_file(file),
                None => {
                    let mark = self.mark_on_disk()?;
                    let place = |cause| StoreError::Place { path: self.folder.path(LOG), cause };
                    self.log = Some(Log::open(file, self.numbers.group, mark, false).map_err(place)?.0);
                }
            }
        }
        Ok(())
    }

    /// A file that is there may have been made, or renamed, by a process that ended before it could see
    /// to it that the file is there after a loss of power, too.
    fn sync_names(&self) -> Result<(), StoreError> {
        self.folder.sync().map_err(self.failed())
    }

    /// Opens what the disk has; if it takes nothing, an error, and a view of it to read from.
    fn connect_or_view(&mut self) -> Result<(), StoreError> {
        if self.database.is_some() {
            return Ok(());
        }
        self.connect_file().inspect_err(|error| {
            if error.is_full() {
                self.view = Some(error.to_string());
                self.database = None;
            }
        })
    }

    fn connect_file(&mut self) -> Result<(), StoreError> {
        let place = self.failed();
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.open_file(How::Create)?,
        };
        self.file = Some(file.clone());
        if file.len().map_err(&place)? == 0 {
            // One that was complete before the end takes the place that was made for it.
            if self.folder.has(COMPLETE).map_err(&place)? {
                self.folder.rename(COMPLETE, FILE).map_err(&place)?;
                self.file = None;
                return self.connect_file();
            }
            self.findings.is_new = true;
            return self.replace(None);
        }
        let ends = self.folder.note(OPENING).and_then(|note| note.first().copied()).unwrap_or_default();
        let condition = match ends < ENDS {
            true => tree::examine(&*file).map_err(&place)?,
            false => Condition::Damaged("the host ended twice while it opened it".to_owned()),
        };
        match condition {
            Condition::Damaged(why) => self.replace(Some(&why)),
            Condition::Whole(whole) => {
                // Should a disk not take that, it does not matter here.
                let _ = self.folder.set_note(OPENING, &[ends + 1]);
                self.amend(&*file, &whole)?;
                let opened = self.open_database(file);
                let _ = self.folder.set_note(OPENING, &[0]);
                match opened {
                    Err(StoreError::Database(error)) => self.replace(Some(&error.to_string())),
                    opened => opened,
                }
            }
        }
    }

    fn open_file(&self, how: How) -> Result<Medium, StoreError> {
        self.folder.open(FILE, how).map_err(|cause| match cause.kind() {
            ErrorKind::ResourceBusy => StoreError::InUse(self.settings.folder.clone()),
            _ => self.failed()(cause),
        })
    }

    /// What an error of the database's file means.
    fn failed(&self) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.folder.path(FILE);
        move |cause| match takes_nothing(&cause) {
            true => StoreError::Full { path: path.clone(), cause },
            false => StoreError::Place { path: path.clone(), cause },
        }
    }

    /// Puts right what has turned in a file, and keeps what redb is about to roll back.
    fn amend(&mut self, file: &dyn StorageBackend, whole: &Whole) -> Result<(), StoreError> {
        self.findings.was_cut |= whole.is_unclean;
        if whole.fell_back {
            self.findings.torn = salvage::newest(file).map_err(self.failed())?;
        }
        if whole.amended.is_empty() {
            return Ok(());
        }
        let write = |(at, is): &(u64, u8)| file.write(*at, &[*is]);
        whole.amended.iter().try_for_each(write).and_then(|()| file.sync_data()).map_err(|cause| {
            // Whatever it says: what is there can be read.
            StoreError::Full { path: self.folder.path(FILE), cause }
        })?;
        if whole.turned > 0 {
            self.say_turned(whole);
        }
        Ok(())
    }

    fn say_turned(&mut self, whole: &Whole) {
        self.findings.said.push(format!(
            "{} had {} bytes with a bit that had turned: they are as they were written again, and nothing is lost; \
             the disk may be failing",
            self.folder.path(FILE).display(),
            whole.turned
        ));
    }

    fn open_database(&mut self, file: Medium) -> Result<(), StoreError> {
        let backend = Direct { medium: file, fault: self.fault.clone() };
        let opened = open(backend);
        self.database = Some(opened.map_err(|error| self.error(error))?);
        Ok(())
    }

    /// Makes a new database, with what can be read of a damaged one.
    fn replace(&mut self, damage: Option<&str>) -> Result<(), StoreError> {
        let old = self.file.take();
        let result = self.make_new(old.as_deref(), damage);
        if result.is_err() && self.file.is_none() {
            self.file = old;
        }
        result
    }

    fn make_new(&mut self, old: Option<&dyn StorageBackend>, damage: Option<&str>) -> Result<(), StoreError> {
        let place = self.failed();
        self.folder.remove(COMPLETE).and_then(|()| self.folder.remove(NEW)).map_err(&place)?;
        let new = self.folder.open(NEW, How::Create).map_err(&place)?;
        let database =
            open(Direct { medium: new.clone(), fault: self.fault.clone() }).map_err(|error| self.error(error))?;
        let salvaged = match (old, damage) {
            (Some(old), Some(_)) => Some(self.salvage(old, &database)?),
            _ => None,
        };
        // What is in a file is durable when it is closed in good order.
        drop(database);
        if let Some(error) = self.fault.take() {
            tracing::debug!("{error:?}");
            return Err(self.full("it could not be closed"));
        }
        if let (Some(damage), Some(salvaged)) = (damage, salvaged) {
            self.folder.rename(NEW, COMPLETE).map_err(&place)?;
            let aside = self.aside().map_err(&place)?;
            self.folder.rename(FILE, &aside).map_err(&place)?;
            self.folder.rename(COMPLETE, FILE).map_err(&place)?;
            let aside = format!("the damaged file is {}", self.folder.path(&aside).display());
            self.say_salvaged(damage, &salvaged, &aside);
            self.findings.was_cut = true;
        } else {
            self.folder.rename(NEW, FILE).map_err(&place)?;
        }
        let _ = self.folder.set_note(OPENING, &[0]);
        self.file = Some(new.clone());
        self.open_database(new)
    }

    fn full(&self, cause: &str) -> StoreError {
        StoreError::Full { path: self.folder.path(FILE), cause: io::Error::other(cause.to_owned()) }
    }

    fn salvage(&self, old: &dyn StorageBackend, database: &Database) -> Result<salvage::Salvaged, StoreError> {
        salvage::into_new(old, database).map_err(|trouble| match trouble {
            salvage::Trouble::Reading(cause) => self.failed()(cause),
            salvage::Trouble::Writing(error) => self.error(error),
        })
    }

    fn say_salvaged(&mut self, damage: &str, salvaged: &salvage::Salvaged, aside: &str) {
        let lost = match salvaged.lost.is_empty() {
            true => "nothing is lost".to_owned(),
            false => format!("lost: {}", salvaged.lost.join("; ")),
        };
        self.findings.said.push(format!(
            "{} was damaged ({damage}): {} messages could be read and are kept, with all else that could be, some may \
             be sent or handled once more; {lost}; {aside}",
            self.folder.path(FILE).display(),
            salvaged.messages
        ));
    }

    /// A name for the damaged file.
    fn aside(&self) -> io::Result<String> {
        let mut number = 1;
        loop {
            let name = format!("{FILE}.damaged-{number}");
            if !self.folder.has(&name)? {
                return Ok(name);
            }
            number += 1;
        }
    }

    /// Opens a view of what the disk has, with what is pending.
    fn connect_view(&mut self) -> Result<(), StoreError> {
        let base = match &self.file {
            Some(file) => Some(file.clone()),
            None => self.file_to_read()?,
        };
        self.file.clone_from(&base);
        let place = self.failed();
        let base = match base {
            Some(base) if base.len().map_err(&place)? > 0 => Some(base),
            _ => None,
        };
        // What is seen of it is durable, if the disk can do that much.
        let _ = base.as_ref().map(|base| base.sync_data());
        let condition = base.as_deref().map(tree::examine).transpose().map_err(&place)?;
        let database = match (condition, base) {
            (Some(Condition::Damaged(why)), Some(base)) => {
                if base.len().map_err(&place)? > IN_MEMORY {
                    return Err(self.full("it is damaged, and there is no room for what can be read of it"));
                }
                let database = open(View::new(None, &[]).map_err(&place)?).map_err(|error| self.error(error))?;
                let salvaged = self.salvage(&*base, &database)?;
                self.say_salvaged(&why, &salvaged, "the damaged file stays until there is room");
                database
            }
            (Some(Condition::Whole(whole)), base) => {
                self.findings.was_cut |= whole.is_unclean;
                if whole.fell_back
                    && let Some(base) = &base
                {
                    self.findings.torn = salvage::newest(&**base).map_err(&place)?;
                }
                open(View::new(base, &whole.amended).map_err(&place)?).map_err(|error| self.error(error))?
            }
            _ => open(View::new(None, &[]).map_err(&place)?).map_err(|error| self.error(error))?,
        };
        self.database = Some(database);
        let write = self.numbers_on_disk()?.write;
        self.show_pending(write).map_err(|error| self.error(error))
    }

    /// The database as it is on a disk that takes nothing.
    fn file_to_read(&self) -> Result<Option<Medium>, StoreError> {
        for name in [FILE, COMPLETE] {
            match self.folder.open(name, How::Read) {
                Ok(file) if file.len().is_ok_and(|length| length > 0) => return Ok(Some(file)),
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    return Err(StoreError::InUse(self.settings.folder.clone()));
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.failed()(error)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Writes what the log has into the view. That does not count as a write: the last one on the
    /// disk is this.
    fn show_pending(&mut self, on_disk: u64) -> Result<(), redb::Error> {
        let (pending, now) = (std::mem::take(&mut self.pending), Stamp::now(self.last.as_ref()));
        let write = std::mem::replace(&mut self.numbers.write, on_disk);
        let Self { database, inboxes, bytes, numbers, log, .. } = self;
        let result = match database {
            Some(database) if !pending.is_empty() => {
                let mark = log.as_ref().map(Log::mark).unwrap_or_default();
                let transaction = database.begin_write()?;
                let shown = apply::apply(&transaction, &mut pending.iter(), now, inboxes, bytes, numbers, mark);
                shown.and_then(|_| Ok(transaction.commit()?))
            }
            _ => Ok(()),
        };
        self.numbers.write = self.numbers.write.max(write);
        self.pending = pending;
        result
    }

    fn make_smaller(&mut self) -> Result<(), StoreError> {
        let length = self.file_length();
        if self.view.is_none() && length > LARGE && self.bytes * 4 < length {
            let compacted = self.connect()?.compact();
            if let Err(error) = compacted {
                // It is as good as it was.
                tracing::debug!("{error}");
                self.fault.take();
                self.database = None;
                self.connect()?;
            }
        }
        Ok(())
    }

    /// It ended in good order.
    pub(super) fn clear_notes(&self) {
        let _ = self.folder.remove(OPENING);
    }
}

/// Opens a database that is whole; its tables are made where they are not there.
fn open(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend)?;
    {
        let read = database.begin_read()?;
        let has_all = read.list_tables()?.count() >= 11;
        if has_all {
            drop(read);
            return Ok(database);
        }
    }
    let transaction = database.begin_write()?;
    for table in [OUTBOX, INBOX, QUARANTINE, PROBATION, DEAD] {
        transaction.open_table(table)?;
    }
    for table in [STATE, SNAPSHOT] {
        transaction.open_table(table)?;
    }
    transaction.open_table(INSTALLED)?;
    transaction.open_table(SUBSCRIPTIONS)?;
    transaction.open_table(AT_BROKER)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    Ok(database)
}
