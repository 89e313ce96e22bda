//! Arrivals that an earlier run holds on disk, by packet id. Pure.
//!
//! A process that was killed does not know which of them it has acknowledged. Of those it has not,
//! the broker sends each again, under its packet id and with DUP. One it has acknowledged may have
//! given its packet id to another message since, which was on its way when the process was killed;
//! that one is told apart by its content, unless that is the same as well. So a broker that is seen to give
//! packet ids again soon is not believed: then a message may be handled twice, but none is lost.

use rustc_hash::FxHashMap;

use super::{Holders, Kept, Token};

#[derive(Debug, Default)]
pub(super) struct Remembered(FxHashMap<u16, Entry>);

#[derive(Debug)]
struct Entry {
    token: Token,
    digest: u64,
    holders: Holders,
}

/// A broker that gives a packet id again after fewer messages than this may do so any time.
const SOON: u64 = 1000;

impl Remembered {
    /// In the order of tokens.
    pub(super) fn new(kept: impl IntoIterator<Item = Kept>) -> Self {
        let mut entries: FxHashMap<u16, Entry> = FxHashMap::default();
        for Kept { token, packet_id, digest, holder } in kept {
            let holders = Holders::from_iter([holder]);
            match entries.get_mut(&packet_id) {
                Some(entry) if entry.token == token => entry.holders.push(holder),
                Some(entry) if token.abs_diff(entry.token) < SOON => return Self::default(),
                _ => drop(entries.insert(packet_id, Entry { token, digest, holders })),
            }
        }
        Self(entries)
    }

    /// Who holds the message that arrives under this packet id, if it is the one that is remembered.
    pub(super) fn take(&mut self, packet_id: u16, is: impl FnOnce(u64) -> bool) -> Holders {
        if self.0.is_empty() {
            return Holders::new();
        }
        self.0.remove(&packet_id).filter(|entry| is(entry.digest)).map(|entry| entry.holders).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
