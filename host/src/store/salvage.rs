//! What can still be read of a damaged file.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Change, Record, Store, StoreError,
    record::{self, Kind, MAGIC, Unreadable},
};
use crate::{clock::Age, clock::Stamp};

/// Read at once.
const CHUNK: usize = 256 * 1024;

/// Records written at once.
const GROUP: usize = 256;

/// Renames the file, so that a new one can take its place.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        let aside = PathBuf::from(name);
        if !aside.try_exists()? {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}

/// Looks for whole records at any place of the file, and writes them into the store. How
/// many there were. What was removed before may be found again: sent once more, not lost.
pub(super) fn read(file: &Path, store: &mut Store) -> Result<usize, StoreError> {
    let failed = |cause| StoreError::Place { path: file.to_owned(), cause };
    let mut input = File::open(file).map_err(failed)?;
    let (mut buffer, mut wanted, mut group, mut kept) = (Vec::new(), CHUNK, Vec::new(), 0);
    loop {
        let had = buffer.len();
        let more = wanted.saturating_sub(had).max(CHUNK) as u64;
        Read::by_ref(&mut input).take(more).read_to_end(&mut buffer).map_err(failed)?;
        let is_end = buffer.len() == had;
        let (mut at, mut short) = (0, None);
        while let Some(offset) = find(buffer.get(at..).unwrap_or_default()) {
            at += offset;
            match record::decode(buffer.get(at..).unwrap_or_default()) {
                Ok((body, length)) => {
                    group.extend(change(&body));
                    at += length;
                }
                Err(Unreadable::Short(length)) if !is_end => {
                    short = Some(length);
                    break;
                }
                Err(_) => at += 1,
            }
            if group.len() >= GROUP {
                kept += group.len();
                store.write(&group)?;
                group.clear();
            }
        }
        if is_end {
            kept += group.len();
            store.write(&group)?;
            return Ok(kept);
        }
        // What may be the beginning of a record stays.
        let rest = if short.is_some() { at } else { buffer.len().saturating_sub(MAGIC.len()) };
        buffer.drain(..rest);
        wanted = short.unwrap_or(CHUNK);
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == MAGIC[0])?;
        if bytes.get(at..)?.starts_with(&MAGIC[..MAGIC.len().min(bytes.len() - at)]) {
            return Some(at);
        }
        at += 1;
    }
}

fn change(body: &record::Body<'_>) -> Option<Change> {
    let (name, message): (Arc<str>, _) = (body.name.into(), body.message()?);
    let age = Age::of(Duration::from_millis(body.age) + Stamp::now(Some(&body.written)).since(&body.written));
    let record = Record { message: message.clone(), number: body.number, age };
    Some(match body.kind {
        Kind::Outbox => Change::Taken { owner: name, seq: body.place, record },
        Kind::Quarantine => {
            Change::Quarantined { owner: name, seq: body.place, record, reason: body.reason.to_owned() }
        }
        Kind::Inbox => Change::Arrived { plugin: name, number: body.place, message, redelivered: body.redelivered },
    })
}
