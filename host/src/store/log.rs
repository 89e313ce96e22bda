//! The log: what was told since the database was written last.
//!
//! ```text
//! magic 4 │ length 4 │ CRC-32 4 │ number 8 │ changes (`entry`)
//! ```
//!
//! Groups of changes lie one behind the other, each from the begin of a block, so that a write
//! that fails in the middle costs none before it. A group is one write and one sync at a place
//! that has been written before, the cheapest there is; the database takes some twenty pages
//! here and there. When the log is full, or on occasion, the database is written with what
//! is left of all that, and says up to which number it has the groups; the log begins again at its
//! beginning. What of it the database has not is made up for when the store is opened.

use std::io;

use redb::StorageBackend;

use super::{Change, entry, salvage};
use crate::clock::Stamp;

/// The file and what was written into it.
#[derive(Debug)]
pub(super) struct Log {
    file: Box<dyn StorageBackend>,
    /// Where the next group goes.
    end: u64,
    /// How long the file is.
    length: u64,
    /// The number of the last group; never given again, even if it could not be written.
    last: u64,
    /// The group that is being made.
    group: Vec<u8>,
}

/// What a log has.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Changes of whole groups, in order.
    pub(super) changes: Vec<Change>,
    /// Messages in what is no group, or no more.
    pub(super) rest: Vec<Change>,
}

const MAGIC: [u8; 4] = *b"\xa7lpG";

const HEADER: usize = 20;

/// What disks write at once, or more.
const BLOCK: usize = 4096;

/// The log is not longer than that: as much may have to be kept in memory, and to be made up for.
const LIMIT: u64 = 2 * 1024 * 1024;

/// The file grows by that, with zeroes: to write where it was written before costs half as much.
const GROWTH: usize = 256 * 1024;

/// What of the memory for groups is kept for the next.
const KEPT: usize = 256 * 1024;

impl Log {
    /// Reads what the file has behind the group that the database has.
    pub(super) fn open(file: Box<dyn StorageBackend>, applied: u64) -> io::Result<(Self, Found)> {
        let length = file.len()?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read(0, &mut bytes)?;
        let (mut found, mut last, mut at, mut damaged) = (Found::default(), applied, 0, 0);
        while at < bytes.len() {
            let Some((number, changes)) = group(bytes.get(at..).unwrap_or_default()) else {
                at += BLOCK;
                continue;
            };
            messages(bytes.get(damaged..at).unwrap_or_default(), &mut found.rest)?;
            // Others are of before the last time it began again, or the database has them.
            if number > last {
                entry::read(changes, &mut found.changes);
                last = number;
            }
            at += (HEADER + changes.len()).next_multiple_of(BLOCK);
            damaged = at;
        }
        messages(bytes.get(damaged..).unwrap_or_default(), &mut found.rest)?;
        Ok((Self { file, end: 0, length, last, group: Vec::new() }, found))
    }

    /// Writes a group, durable when this returns. False: there is no room for it.
    pub(super) fn append<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>, now: Stamp) -> io::Result<bool> {
        self.group.clear();
        self.group.shrink_to(KEPT);
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
        let numbers = [(4, &short.to_le_bytes()[..]), (12, &self.last.to_le_bytes()[..])];
        for (at, bytes) in numbers {
            self.group.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        }
        let checksum = crc32fast::hash(self.group.get(12..length).unwrap_or_default()).to_le_bytes();
        self.group.iter_mut().skip(8).zip(checksum).for_each(|(to, from)| *to = from);
        if end > self.length {
            self.group.resize(self.group.len().next_multiple_of(GROWTH), 0);
            let length = LIMIT.min(self.end + self.group.len() as u64);
            self.group.truncate(usize::try_from(length - self.end).map_err(io::Error::other)?);
            self.file.set_len(length)?;
        }
        self.file.write(self.end, &self.group)?;
        self.file.sync_data()?;
        // Another try begins with the same, should it have failed.
        self.length = self.length.max(self.end + self.group.len() as u64);
        self.end = end;
        Ok(true)
    }

    /// The number of the last group.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The database has it all.
    pub(super) fn begin_again(&mut self) {
        self.end = 0;
    }
}

/// The group at the beginning of the bytes: its number and its changes.
fn group(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let group = bytes.get(..number(4)? as usize).filter(|bytes| bytes.starts_with(&MAGIC))?;
    if crc32fast::hash(group.get(12..)?) != number(8)? {
        return None;
    }
    Some((u64::from_le_bytes(group.get(12..HEADER)?.try_into().ok()?), group.get(HEADER..)?))
}

fn messages(bytes: &[u8], found: &mut Vec<Change>) -> io::Result<()> {
    salvage::scan(bytes, |body| found.extend(salvage::change(&body, &Stamp::now(Some(&body.written)))))
}
