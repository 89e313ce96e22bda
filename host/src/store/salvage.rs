//! What can still be read of a damaged file.

use std::{
    collections::BTreeMap,
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

/// A write has no more messages than this, nearly always.
const NEWEST: usize = 1000;

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

/// Writes every whole message in the file into the store. What was removed before may be found
/// again: sent once more, not lost.
pub(super) fn read(file: &Path, store: &mut Store) -> Result<(), StoreError> {
    let mut group = Vec::new();
    scan_file(file, |change| {
        group.push(change);
        if group.len() < GROUP {
            return Ok(());
        }
        let written = store.write(&group).map(drop);
        group.clear();
        written
    })?;
    store.write(&group)?;
    Ok(())
}

/// The newest messages in the file: at least those of the last write, if all is well.
pub(super) fn newest(file: &Path) -> Result<Vec<Change>, StoreError> {
    let (mut outbox, mut inbox) = (BTreeMap::new(), BTreeMap::new());
    scan_file(file, |change| {
        match &change {
            Change::Taken { seq, .. } => outbox.insert((*seq, None), change),
            Change::Arrived { plugin, number, .. } => inbox.insert((*number, Some(plugin.clone())), change),
            _ => None,
        };
        for newest in [&mut outbox, &mut inbox] {
            if newest.len() > NEWEST {
                newest.pop_first();
            }
        }
        Ok(())
    })?;
    Ok(outbox.into_values().chain(inbox.into_values()).collect())
}

fn scan_file(file: &Path, mut found: impl FnMut(Change) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let failed = |cause| StoreError::Place { path: file.to_owned(), cause };
    let mut result = Ok(());
    let input = File::open(file).map_err(failed)?;
    let scanned = scan(input, |body| {
        if result.is_ok() {
            result = change(&body, &Stamp::now(Some(&body.written))).map_or(Ok(()), &mut found);
        }
    });
    scanned.map_err(failed)?;
    result
}

/// Looks for whole records at any place.
pub(super) fn scan(mut input: impl Read, mut found: impl FnMut(record::Body<'_>)) -> io::Result<()> {
    let (mut buffer, mut wanted) = (Vec::new(), CHUNK);
    loop {
        let had = buffer.len();
        let more = wanted.saturating_sub(had).max(CHUNK) as u64;
        Read::by_ref(&mut input).take(more).read_to_end(&mut buffer)?;
        let is_end = buffer.len() == had;
        let (mut at, mut short) = (0, None);
        while let Some(offset) = find(buffer.get(at..).unwrap_or_default()) {
            at += offset;
            match record::decode(buffer.get(at..).unwrap_or_default()) {
                Ok((body, length)) => {
                    found(body);
                    at += length;
                }
                Err(Unreadable::Short(length)) if !is_end => {
                    short = Some(length);
                    break;
                }
                Err(_) => at += 1,
            }
        }
        if is_end {
            return Ok(());
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
        at += bytes.get(at..)?.iter().position(|byte| MAGIC.first() == Some(byte))?;
        let rest = bytes.get(at..)?;
        if rest.starts_with(&MAGIC) || MAGIC.starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
}

/// What a record says was to be changed.
pub(super) fn change(body: &record::Body<'_>, now: &Stamp) -> Option<Change> {
    let (name, message): (Arc<str>, _) = (body.name.into(), body.message()?);
    let age = Age::of(Duration::from_millis(body.age) + now.since(&body.written));
    let record = Record { message: message.clone(), number: body.number, age };
    Some(match body.kind {
        Kind::Outbox => Change::Taken { owner: name, seq: body.place, record },
        Kind::Quarantine => {
            Change::Quarantined { owner: name, seq: body.place, record, reason: body.reason.to_owned() }
        }
        Kind::Dead => Change::Dead {
            plugin: name,
            number: body.place,
            packet_id: 0,
            message,
            attempts: body.number,
            reason: body.reason.to_owned(),
        },
        // Whether that version stood is not known any more; twice is better than not at all.
        // Nor is the session in which it arrived, so its packet id means nothing.
        Kind::Inbox | Kind::Probation => {
            Change::Arrived { plugin: name, number: body.place, packet_id: 0, message, redelivered: body.redelivered }
        }
    })
}
