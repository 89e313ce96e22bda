//! How a change is written into the log: a message as its record, anything else in a few bytes
//! that begin otherwise. Pure.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Change,
    record::{self, Kind, Label, MAGIC},
    salvage,
};
use crate::clock::Stamp;

/// What is no message.
#[derive(Debug, Serialize, Deserialize)]
enum Entry<'a> {
    Settled(&'a str, u64),
    Handled(&'a str, u64),
    State(&'a str, &'a str, #[serde(with = "serde_bytes", borrow)] Option<&'a [u8]>),
}

/// Writes a change behind what is there. None: it can't be written, and a part of it is there.
pub(super) fn write(change: &Change, now: Stamp, out: &mut Vec<u8>) -> Option<()> {
    let entry = match change {
        Change::Taken { owner, seq, record } => {
            return record::write(&Label::new(Kind::Outbox, owner, *seq, record, now), &record.message, out);
        }
        Change::Settled { owner, seq } => Entry::Settled(owner, *seq),
        Change::Handled { plugin, number } => Entry::Handled(plugin, *number),
        Change::State { plugin, key, value } => Entry::State(plugin, key, value.as_deref()),
        // `Change::is_for_log` says so.
        _ => return None,
    };
    postcard::to_io(&entry, out).ok().map(drop)
}

/// All changes there are, until one can't be read.
pub(super) fn read(mut bytes: &[u8], found: &mut Vec<Change>) {
    let mut now = None;
    while !bytes.is_empty() {
        if bytes.starts_with(&MAGIC) {
            let Ok((body, length)) = record::decode(bytes) else { return };
            // All of a group were written at the same time.
            let now = now.get_or_insert_with(|| Stamp::now(Some(&body.written)));
            found.extend(salvage::change(&body, now));
            bytes = bytes.get(length..).unwrap_or_default();
        } else {
            let Ok((entry, rest)) = postcard::take_from_bytes::<Entry<'_>>(bytes) else { return };
            found.push(entry.change());
            bytes = rest;
        }
    }
}

impl Entry<'_> {
    fn change(&self) -> Change {
        let name = |name: &str| -> Arc<str> { name.into() };
        match *self {
            Self::Settled(owner, seq) => Change::Settled { owner: name(owner), seq },
            Self::Handled(plugin, number) => Change::Handled { plugin: name(plugin), number },
            Self::State(plugin, key, value) => {
                let value = value.map(Bytes::copy_from_slice);
                Change::State { plugin: name(plugin), key: key.into(), value }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Age,
        store::{Record, record::tests::message},
    };

    #[test]
    fn changes_come_back_as_they_were_and_in_order() {
        let record = Record { message: message("a/b", 100), number: 7, age: Age::new() };
        let plugin: Arc<str> = "one".into();
        let state = |value| Change::State { plugin: plugin.clone(), key: "key".into(), value };
        let changes = [
            Change::Taken { owner: plugin.clone(), seq: 9, record },
            Change::Settled { owner: plugin.clone(), seq: 8 },
            Change::Handled { plugin: plugin.clone(), number: 4 },
            state(Some(Bytes::from_static(b"\xa7lpH"))),
            state(None),
        ];
        let mut bytes = Vec::new();
        for change in &changes {
            assert!(change.is_for_log());
            write(change, Stamp::now(None), &mut bytes).unwrap();
        }
        let mut found = Vec::new();
        read(&bytes, &mut found);
        // Ages go on, which is for `record` to show.
        let plain = |changes: &[Change]| {
            let text = format!("{changes:?}");
            text.split("age: ")
                .map(|part| part.split_once(" }").map_or(part, |(_, rest)| rest).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(plain(&found), plain(&changes));
    }

    #[test]
    fn what_the_log_does_not_take_is_refused() {
        let change = Change::Passed { plugin: "one".into() };
        assert!(!change.is_for_log() && write(&change, Stamp::now(None), &mut Vec::new()).is_none());
    }
}
