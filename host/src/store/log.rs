//! The log: what was told since the database was written last.
//!
//! ```text
//! magic 4 │ length 4 │ CRC-32 4 │ number 8 │ previous 8 │ generation 8 │ reach 8 │ changes (`entry`)
//! ```
//!
//! Groups of changes lie one behind the other, each from the begin of a block, so that a write
//! that fails in the middle costs none before it. A group is one write and one sync at a place
//! that has been written before, the cheapest there is; the database takes some twenty pages
//! here and there. When the log is full, or on occasion, the database is written with what
//! is left of all that, and says up to which number it has the groups; the log begins again at its
//! beginning. What of it the database has not is made up for when the store is opened.
//!
//! Each group names the one before it, whose log it is (the database has the same generation),
//! and how far the file had ever been written, so that what is missing is noticed.

use std::io;

use super::{Change, entry, medium::Medium, salvage};
use crate::clock::Stamp;

/// The file and what was written into it.
#[derive(Debug)]
pub(super) struct Log {
    file: Medium,
    /// Where the next group goes.
    end: u64,
    /// How long the file is.
    length: u64,
    /// The number of the last group; never given again, even if it could not be written.
    last: u64,
    /// The number of the last group that is durable, or that the database has.
    durable: u64,
    mark: Mark,
    /// The group that is being made.
    group: Vec<u8>,
}

/// What the database knows of its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Whose it is. None: of a database that is new, or as old as logs without.
    pub(super) generation: Option<u64>,
    /// How far the file has ever been written.
    pub(super) reach: u64,
}

/// What a log has.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Changes of whole groups, in order.
    pub(super) changes: Vec<Change>,
    /// Messages in what is no group, or no more.
    pub(super) rest: Vec<Change>,
    /// Messages of a log that is another database's.
    pub(super) foreign: Vec<Change>,
    /// Groups that are not there and were.
    pub(super) missing: u64,
    /// What else is wrong with it, in words.
    pub(super) wrong: Option<String>,
}

const MAGIC: [u8; 4] = *b"\xa7lpJ";

/// Of groups that end with their number.
const OLD_MAGIC: [u8; 4] = *b"\xa7lpG";

const HEADER: usize = 44;

const OLD_HEADER: usize = 20;

/// What disks write at once, or more.
const BLOCK: usize = 4096;

/// The log is not longer than that: as much may have to be kept in memory, and to be made up for.
const LIMIT: u64 = 2 * 1024 * 1024;

/// The file grows by that, with zeroes: to write where it was written before costs half as much.
const GROWTH: u64 = 256 * 1024;

/// What of the memory for groups is kept for the next.
const KEPT: usize = 256 * 1024;

impl Log {
    /// Reads what the file has behind the group that the database has. `was_cut`: the last end was
    /// none, so that there may have been something.
    pub(super) fn open(file: Medium, applied: u64, known: Mark, was_cut: bool) -> io::Result<(Self, Found)> {
        let length = file.len()?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        salvage::read_all(&*file, &mut bytes)?;
        let (mut found, mut last, mut at, mut damaged) = (Found::default(), applied, 0, 0);
        let (mut mark, mut others, mut end) = (known, Vec::new(), 0);
        while at < bytes.len() {
            let Some(group) = Group::read(bytes.get(at..).unwrap_or_default()) else {
                at += BLOCK;
                continue;
            };
            messages(bytes.get(damaged..at).unwrap_or_default(), &mut found.rest)?;
            at += group.length.next_multiple_of(BLOCK);
            damaged = at;
            if group.generation.is_some() && mark.generation.is_some() && group.generation != mark.generation {
                entry::read(group.changes, &mut others);
                continue;
            }
            mark.generation = mark.generation.or(group.generation);
            mark.reach = mark.reach.max(group.reach);
            // Others are of before the last time it began again, or the database has them.
            if group.number > last {
                found.missing += group.previous.saturating_sub(last);
                entry::read(group.changes, &mut found.changes);
                last = group.number;
                end = at;
            }
        }
        messages(bytes.get(damaged..).unwrap_or_default(), &mut found.rest)?;
        found.foreign = waiting(others);
        // Logs of before had no generation, and were of any length.
        if was_cut && mark.generation.is_some() {
            found.wrong = wrong(&bytes, end, mark.reach);
        }
        mark.reach = mark.reach.min(length);
        mark.generation.get_or_insert_with(|| fastrand::u64(..));
        Ok((Self { file, end: 0, length, last, durable: last, mark, group: Vec::new() }, found))
    }

    /// The file has the length that it has at least, so that one that is gone is noticed.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        if self.length == 0 {
            self.file.set_len(GROWTH)?;
            self.file.write(0, &vec![0; usize::try_from(GROWTH).map_err(io::Error::other)?])?;
            self.file.sync_data()?;
            self.length = GROWTH;
        }
        Ok(())
    }

    /// What was read is durable, too: an end without a sync may have left it to the system's memory.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// What the file has is another's, and is done with.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        self.prepare()
    }

    /// The same file, opened anew.
    pub(super) fn set_file(&mut self, file: Medium) {
        self.file = file;
    }

    /// Writes a group, durable when this returns. False: there is no room for it.
    pub(super) fn append<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>, now: Stamp) -> io::Result<bool> {
        let appended = self.put(changes, now);
        // A large one is kept in memory no longer than it takes.
        self.group.clear();
        self.group.shrink_to(KEPT);
        appended
    }

    fn put<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>, now: Stamp) -> io::Result<bool> {
        self.group.clear();
        self.group.extend_from_slice(&MAGIC);
        self.group.resize(HEADER, 0);
        for change in changes {
            let whole = self.group.len();
            if entry::write(change, now, &mut self.group).is_none() {
                self.group.truncate(whole);
            }
        }
        let length = self.group.len();
        self.group.resize(length.next_multiple_of(BLOCK), 0);
        let end = self.end + self.group.len() as u64;
        let Some(short) = u32::try_from(length).ok().filter(|_| end <= LIMIT) else { return Ok(false) };
        self.last += 1;
        let reach = self.mark.reach.max(end);
        let numbers = [self.last, self.durable, self.mark.generation.unwrap_or_default(), reach].map(u64::to_le_bytes);
        self.group.iter_mut().skip(4).zip(short.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.group.iter_mut().skip(12).zip(numbers.iter().flatten()).for_each(|(to, from)| *to = *from);
        let checksum = crc32fast::hash(self.group.get(12..length).unwrap_or_default()).to_le_bytes();
        self.group.iter_mut().skip(8).zip(checksum).for_each(|(to, from)| *to = from);
        let mut length = self.length;
        if end > length || !length.is_multiple_of(GROWTH) {
            // Logs of before were of any length.
            length = length.max(end).next_multiple_of(GROWTH);
            self.file.set_len(length)?;
        }
        if end > self.length {
            self.group.resize(usize::try_from(length - self.end).map_err(io::Error::other)?, 0);
        }
        self.file.write(self.end, &self.group)?;
        self.file.sync_data()?;
        // Another try begins with the same, should it have failed.
        self.length = length;
        (self.end, self.durable, self.mark.reach) = (end, self.last, reach);
        Ok(true)
    }

    /// The number of the last group.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// What the database is to know of it: nothing before it is there.
    pub(super) fn mark(&self) -> Mark {
        if self.length < GROWTH { Mark::default() } else { self.mark }
    }

    /// The database has it all.
    pub(super) fn begin_again(&mut self) {
        (self.end, self.durable) = (0, self.last);
    }
}

/// A group as it was read.
struct Group<'a> {
    number: u64,
    previous: u64,
    generation: Option<u64>,
    reach: u64,
    length: usize,
    changes: &'a [u8],
}

impl<'a> Group<'a> {
    /// The group at the beginning of the bytes.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let short = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let length = short(4)? as usize;
        let group = bytes.get(..length)?;
        let header = match group.get(..4)? {
            magic if *magic == MAGIC => HEADER,
            magic if *magic == OLD_MAGIC => OLD_HEADER,
            _ => return None,
        };
        if crc32fast::hash(group.get(12..)?) != short(8)? {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(group.get(at..at + 8)?.try_into().ok()?));
        let changes = group.get(header..)?;
        let is_new = header == HEADER;
        Some(Self {
            number: number(12)?,
            previous: if is_new { number(20)? } else { 0 },
            generation: if is_new { number(28) } else { None },
            reach: if is_new { number(36)? } else { 0 },
            length,
            changes,
        })
    }
}

/// What a file of this length says of itself that can't be, after the end of the last group.
fn wrong(bytes: &[u8], end: usize, reach: u64) -> Option<String> {
    let (length, reach) = (bytes.len() as u64, usize::try_from(reach).unwrap_or(usize::MAX));
    if length < GROWTH || !length.is_multiple_of(GROWTH) || bytes.len() < reach {
        return Some(format!("it was cut off, {length} bytes are left"));
    }
    // The old groups that were behind it.
    let behind = bytes.get(end..reach).unwrap_or_default();
    (!behind.is_empty() && behind.iter().all(|byte| *byte == 0))
        .then(|| format!("{} bytes of it have become zeroes", behind.len()))
}

/// Messages that were not settled.
fn waiting(changes: Vec<Change>) -> Vec<Change> {
    let settled: std::collections::HashSet<u64> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Settled { seq, .. } => Some(*seq),
            _ => None,
        })
        .collect();
    let waits = |change: &Change| matches!(change, Change::Taken { seq, .. } if !settled.contains(seq));
    changes.into_iter().filter(waits).collect()
}

fn messages(bytes: &[u8], found: &mut Vec<Change>) -> io::Result<()> {
    salvage::scan(bytes, |body, _| found.extend(salvage::change(&body, &Stamp::now(Some(&body.written)))))
}
