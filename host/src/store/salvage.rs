//! What can still be read of a damaged file goes into a new one: of each table all that its tree
//! still has; where a page of it is gone, what the commit before had there; and whole messages
//! that lie anywhere in the file and belong there. What is missing then is said.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use redb::{Database, StorageBackend, Table, TableDefinition, WriteTransaction};

use super::{
    AT_BROKER, Change, DEAD, INBOX, INSTALLED, Installed, META, OUTBOX, PROBATION, QUARANTINE, Record, SNAPSHOT, STATE,
    SUBSCRIPTIONS,
    pages::{self, Widths},
    record::{self, Kind, MAGIC, Unreadable},
    tree::{self, Met, Reader, is_bad_sector},
};
use crate::{clock::Age, clock::Stamp};

/// Read at once.
const CHUNK: usize = 256 * 1024;

/// What a disk reads at once; if it can't, the rest is read without it.
const BLOCK: usize = 4096;

/// A write has no more messages than this, nearly always.
const NEWEST: usize = 1000;

/// What was found, and what was not.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// Messages of all kinds.
    pub(super) messages: u64,
    /// In words, what is missing.
    pub(super) lost: Vec<String>,
}

/// Why it can't be done: the damaged file can't be looked at, or the new one not be written.
#[derive(Debug)]
pub(super) enum Trouble {
    Reading(io::Error),
    Writing(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Writing(error.into())
    }
}

/// How a table's rows are made.
#[derive(Clone, Copy)]
enum Shape {
    Messages(TableDefinition<'static, (&'static str, u64), &'static [u8]>, Kind),
    Values(TableDefinition<'static, (&'static str, &'static str), &'static [u8]>),
    Installed,
    Subscriptions,
    AtBroker,
    Meta,
}

const AT_BROKER_ROWS: &str = "notes of what the broker has acknowledged, which is asked for again";

/// All tables, by what is lost with a row.
const TABLES: [(&str, Shape, &str); 11] = [
    ("meta", Shape::Meta, "numbers of the store"),
    ("installed", Shape::Installed, "notes of which version is in force"),
    ("state", Shape::Values(STATE), "values of the state"),
    ("snapshot", Shape::Values(SNAPSHOT), "values of the state before a probation"),
    ("subscriptions", Shape::Subscriptions, "subscriptions"),
    ("at-broker", Shape::AtBroker, AT_BROKER_ROWS),
    ("quarantine", Shape::Messages(QUARANTINE, Kind::Quarantine), "messages in quarantine"),
    ("dead letters", Shape::Messages(DEAD, Kind::Dead), "dead letters"),
    ("probation", Shape::Messages(PROBATION, Kind::Probation), "messages of a probation"),
    ("inbox", Shape::Messages(INBOX, Kind::Inbox), "messages of the inbox"),
    ("outbox", Shape::Messages(OUTBOX, Kind::Outbox), "messages of the outbox"),
];

/// What became of a table.
#[derive(Debug, Default)]
struct Tally {
    /// Rows it had; None: nobody knows.
    had: Option<u64>,
    found: u64,
    /// As of the commit before.
    older: u64,
    /// Between which keys something is missing.
    gaps: Vec<Gap>,
    /// Whose it was.
    owners: BTreeSet<String>,
}

/// Keys that are above the first and not above the second; None: no end.
#[derive(Debug, Clone, Default)]
struct Gap {
    above: Option<Vec<u8>>,
    up_to: Option<Vec<u8>>,
}

impl Gap {
    fn has(&self, key: &[u8], shape: Shape) -> bool {
        let above = self.above.as_deref().is_none_or(|above| shape.compare(key, above).is_none_or(Ordering::is_gt));
        let within = self.up_to.as_deref().is_none_or(|up_to| shape.compare(key, up_to).is_none_or(Ordering::is_le));
        above && within
    }
}

impl Shape {
    /// None: one of them is no key. What separates keys may be shortened.
    fn compare(self, one: &[u8], other: &[u8]) -> Option<Ordering> {
        match self {
            Self::Messages(..) => {
                let ((one, first), (other, second)) = (pages::text_and_rest(one)?, pages::text_and_rest(other)?);
                let number = |rest: &[u8]| rest.try_into().ok().map(u64::from_le_bytes);
                Some(one.cmp(other).then(number(first)?.cmp(&number(second)?)))
            }
            Self::Values(_) | Self::Subscriptions => {
                Some(pages::text_and_rest(one)?.cmp(&pages::text_and_rest(other)?))
            }
            Self::Installed | Self::AtBroker | Self::Meta => Some(one.cmp(other)),
        }
    }

    /// Whose row that is.
    fn owner(self, key: &[u8]) -> Option<&str> {
        let name = match self {
            Self::Messages(..) | Self::Values(_) | Self::Subscriptions => pages::text_and_rest(key)?.0,
            Self::Installed => std::str::from_utf8(key).ok()?,
            Self::AtBroker | Self::Meta => return None,
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        Some(name).filter(|name| (1..=64).contains(&name.len()) && name.bytes().all(is_name))
    }
}

/// Reads what there is of the file into the new database, in one transaction.
pub(super) fn into_new(file: &dyn StorageBackend, database: &Database) -> Result<Salvaged, Trouble> {
    let (mut reader, header) = Reader::open(file).map_err(Trouble::Reading)?;
    let transaction = database.begin_write()?;
    let mut tallies: Vec<Tally> = TABLES.iter().map(|_| Tally::default()).collect();
    let commits = header.iter().flat_map(|header| header.slots).flatten();
    let (mut is_first, mut names) = (true, BTreeSet::new());
    for commit in commits {
        let (root, mut is_complete) = (commit.roots.first().copied().flatten(), true);
        reader.renew();
        let found = reader.tables(root, &mut || is_complete = false).map_err(Trouble::Reading)?;
        read_commit(&mut reader, (&found, is_complete), is_first, &transaction, &mut tallies, &mut names)?;
        is_first = false;
    }
    if is_first {
        // Nothing says what there was.
        tallies.iter_mut().for_each(|tally| tally.gaps.push(Gap::default()));
    }
    if tallies.iter().any(|tally| !tally.gaps.is_empty() && tally.had.is_none_or(|had| had > tally.found)) {
        let is_known = |name: &str| TABLES.iter().any(|(known, ..)| *known == name);
        let mut stray = reader.stray_tables(is_known).map_err(Trouble::Reading)?;
        // The newest first, as far as they say.
        stray.sort_by_cached_key(|tables| std::cmp::Reverse(writes(&mut reader, tables)));
        for found in &stray {
            read_commit(&mut reader, (found, true), false, &transaction, &mut tallies, &mut names)?;
        }
    }
    read_loose(file, &transaction, &mut tallies)?;
    transaction.commit()?;
    let mut salvaged = Salvaged::default();
    for ((_, shape, what), tally) in TABLES.iter().zip(tallies) {
        if matches!(shape, Shape::Messages(..)) {
            salvaged.messages += tally.found;
        }
        // Whatever the page said, it was of one of those between.
        let owners: BTreeSet<&String> = names.iter().chain(&tally.owners).filter(|name| tally.concerns(name)).collect();
        salvaged.lost.extend(tally.words(what, &owners));
    }
    Ok(salvaged)
}

/// Goes through the tables of a commit: of the newest all, of those before what the newest lacks.
fn read_commit(
    reader: &mut Reader<'_>,
    (found, is_complete): (&BTreeMap<String, tree::Table>, bool),
    is_first: bool,
    transaction: &WriteTransaction,
    tallies: &mut [Tally],
    names: &mut BTreeSet<String>,
) -> Result<(), Trouble> {
    reader.renew();
    for ((name, shape, _), tally) in TABLES.iter().zip(tallies) {
        let Some(table) = found.get(*name) else {
            if is_first && !is_complete {
                tally.gaps.push(Gap::default());
            }
            continue;
        };
        if is_first {
            tally.had = Some(table.rows);
        } else if tally.gaps.is_empty() {
            continue;
        }
        let mut rows = Rows::open(transaction, *shape)?;
        let (gaps, mut result) = (tally.gaps.clone(), Ok(()));
        reader
            .walk(table.root, table.widths, &mut |met| match met {
                Met::Row(key, value) if result.is_ok() => {
                    if let Some(owner) = shape.owner(key)
                        && !names.contains(owner)
                    {
                        names.insert(owner.to_owned());
                    }
                    if is_first {
                        result = rows.put(key, value, false).map(|is_new| tally.found += u64::from(is_new));
                    } else if gaps.iter().any(|gap| gap.has(key, *shape)) {
                        result = rows.put(key, value, true).map(|is_new| {
                            tally.found += u64::from(is_new);
                            tally.older += u64::from(is_new);
                        });
                    }
                }
                Met::Row(..) => {}
                Met::Lost { above, up_to, page, widths } if is_first => {
                    let gap = Gap { above: above.map(<[u8]>::to_vec), up_to: up_to.map(<[u8]>::to_vec) };
                    tally.owners.extend(owners(*shape, &gap, page, widths));
                    tally.gaps.push(gap);
                }
                Met::Lost { .. } => {}
            })
            .map_err(Trouble::Reading)?;
        result?;
    }
    Ok(())
}

/// The number of the write that these tables are of.
fn writes(reader: &mut Reader<'_>, tables: &BTreeMap<String, tree::Table>) -> u64 {
    let Some(meta) = tables.get("meta") else { return 0 };
    let mut number = 0;
    reader.renew();
    let walked = reader.walk(meta.root, meta.widths, &mut |met| {
        if let Met::Row(b"write", value) = met {
            number = value.try_into().map_or(0, u64::from_le_bytes);
        }
    });
    walked.map_or(0, |()| number)
}

/// Who had something on a page, as far as what stands there still makes sense.
fn owners(shape: Shape, gap: &Gap, page: &[u8], widths: Widths) -> Vec<String> {
    let ends = [&gap.above, &gap.up_to].into_iter().flatten().filter_map(|key| shape.owner(key));
    let keys: Vec<&[u8]> = match pages::node(page, widths) {
        Some(pages::Node::Leaf(rows)) => rows.into_iter().map(|(key, _)| key).collect(),
        Some(pages::Node::Branch(children)) => children.into_iter().filter_map(|(_, key)| key).collect(),
        None => Vec::new(),
    };
    let within = keys.into_iter().filter(|key| gap.has(key, shape)).filter_map(|key| shape.owner(key));
    ends.chain(within).map(str::to_owned).collect()
}

/// Whole messages anywhere in the file that belong where something is missing. What was removed
/// before may be among them: sent or handled once more, not lost.
fn read_loose(file: &dyn StorageBackend, transaction: &WriteTransaction, tallies: &mut [Tally]) -> Result<(), Trouble> {
    let mut wanted = Vec::new();
    for ((_, shape, _), tally) in TABLES.iter().zip(tallies) {
        if let Shape::Messages(_, kind) = shape
            && !tally.gaps.is_empty()
        {
            wanted.push((*kind, *shape, tally, Rows::open(transaction, *shape)?));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut result = Ok(());
    let scanned = scan(Bytes { file, at: 0, length: file.len().map_err(Trouble::Reading)? }, |body, record| {
        let Some((_, shape, tally, rows)) = wanted.iter_mut().find(|(kind, ..)| *kind == body.kind) else { return };
        let key = key(body.name, body.place);
        if result.is_ok() && tally.gaps.iter().any(|gap| gap.has(&key, *shape)) {
            result = rows.put(&key, record, true).map(|is_new| tally.found += u64::from(is_new));
        }
    });
    scanned.map_err(Trouble::Reading)?;
    result
}

/// As redb writes it.
fn key(name: &str, place: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 13);
    match (u8::try_from(name.len()), u16::try_from(name.len())) {
        (Ok(length @ ..254), _) => key.push(length),
        (_, Ok(length)) => {
            key.push(254);
            key.extend(length.to_le_bytes());
        }
        _ => {
            key.push(255);
            key.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    key.extend_from_slice(name.as_bytes());
    key.extend(place.to_le_bytes());
    key
}

impl Tally {
    /// Something that may be of this plugin is missing.
    fn concerns(&self, plugin: &str) -> bool {
        let is_beyond = |key: &Option<Vec<u8>>, beyond: fn(&str, &str) -> bool| {
            key.as_deref().and_then(pages::text_and_rest).is_some_and(|(name, _)| beyond(plugin, name))
        };
        self.gaps.iter().any(|gap| {
            !is_beyond(&gap.above, |plugin, name| plugin < name) && !is_beyond(&gap.up_to, |plugin, name| plugin > name)
        })
    }

    fn words(&self, what: &str, owners: &BTreeSet<&String>) -> Option<String> {
        if self.gaps.is_empty() {
            return None;
        }
        let missing = self.had.map(|had| had.saturating_sub(self.found));
        let mut words = match missing {
            Some(0) if self.older == 0 => return None,
            Some(0) => String::new(),
            Some(missing) => format!("{missing} {what}"),
            None => format!("perhaps some {what}"),
        };
        if self.older > 0 {
            let behind = if words.is_empty() { "" } else { ", and " };
            let _ = write!(words, "{behind}{} {what} are as of an earlier write", self.older);
        }
        if !owners.is_empty() && what != AT_BROKER_ROWS {
            let owners: Vec<_> = owners.iter().map(|owner| format!("`{owner}`")).collect();
            let _ = write!(words, " (of {}, as far as is known)", owners.join(", "));
        }
        Some(words)
    }
}

/// A table of the new database.
enum Rows<'t> {
    Messages(Table<'t, (&'static str, u64), &'static [u8]>, Kind),
    Values(Table<'t, (&'static str, &'static str), &'static [u8]>),
    Named(Table<'t, &'static str, &'static [u8]>, bool),
    Subscriptions(Table<'t, (&'static str, &'static str), (bool, u32)>),
    AtBroker(Table<'t, &'static str, (bool, u32)>),
}

impl<'t> Rows<'t> {
    fn open(transaction: &'t WriteTransaction, shape: Shape) -> Result<Self, Trouble> {
        Ok(match shape {
            Shape::Messages(table, kind) => Self::Messages(transaction.open_table(table)?, kind),
            Shape::Values(table) => Self::Values(transaction.open_table(table)?),
            Shape::Installed => Self::Named(transaction.open_table(INSTALLED)?, true),
            Shape::Meta => Self::Named(transaction.open_table(META)?, false),
            Shape::Subscriptions => Self::Subscriptions(transaction.open_table(SUBSCRIPTIONS)?),
            Shape::AtBroker => Self::AtBroker(transaction.open_table(AT_BROKER)?),
        })
    }

    /// Puts a row in, if it makes sense. True: it was not there.
    fn put(&mut self, key: &[u8], value: &[u8], only_new: bool) -> Result<bool, Trouble> {
        use redb::ReadableTable as _;
        macro_rules! insert {
            ($table:expr, $key:expr, $value:expr) => {{
                let key = $key;
                if only_new && $table.get(key)?.is_some() {
                    return Ok(false);
                }
                let old = $table.insert(key, $value)?;
                return Ok(old.is_none());
            }};
        }
        let pair = |bytes: &[u8]| {
            let (flag, number) = bytes.split_first()?;
            Some((*flag != 0, u32::from_le_bytes(number.try_into().ok()?)))
        };
        match self {
            Self::Messages(table, kind) => {
                let Some((name, rest)) = pages::text_and_rest(key) else { return Ok(false) };
                let Ok(place) = rest.try_into().map(u64::from_le_bytes) else { return Ok(false) };
                match record::decode(value) {
                    Ok((body, _)) if body.kind == *kind && body.name == name && body.place == place => {
                        insert!(table, (name, place), value)
                    }
                    _ => Ok(false),
                }
            }
            Self::Values(table) => {
                let Some((plugin, key)) = pages::text_and_rest(key) else { return Ok(false) };
                let Ok(key) = std::str::from_utf8(key) else { return Ok(false) };
                insert!(table, (plugin, key), value)
            }
            Self::Named(table, is_installed) => {
                let Ok(name) = std::str::from_utf8(key) else { return Ok(false) };
                if *is_installed && Installed::decode(value).is_none() {
                    return Ok(false);
                }
                insert!(table, name, value)
            }
            Self::Subscriptions(table) => {
                let (Some((plugin, filter)), Some(value)) = (pages::text_and_rest(key), pair(value)) else {
                    return Ok(false);
                };
                let Ok(filter) = std::str::from_utf8(filter) else { return Ok(false) };
                insert!(table, (plugin, filter), value)
            }
            Self::AtBroker(table) => {
                let (Ok(filter), Some(value)) = (std::str::from_utf8(key), pair(value)) else { return Ok(false) };
                insert!(table, filter, value)
            }
        }
    }
}

/// The newest messages in the file: at least those of the last write, if all is well.
pub(super) fn newest(file: &dyn StorageBackend) -> io::Result<Vec<Change>> {
    let (mut outbox, mut inbox) = (BTreeMap::new(), BTreeMap::new());
    scan(Bytes { file, at: 0, length: file.len()? }, |body, _| {
        let Some(change) = change(&body, &Stamp::now(Some(&body.written))) else { return };
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
    })?;
    Ok(outbox.into_values().chain(inbox.into_values()).collect())
}

/// A file from its beginning to its end; where the disk can't read it, there are zeroes.
struct Bytes<'a> {
    file: &'a dyn StorageBackend,
    at: u64,
    length: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length - self.at).unwrap_or(usize::MAX);
        let wanted = left.min(out.len());
        let Some(out) = out.get_mut(..wanted) else { return Ok(0) };
        let result = self.file.read(self.at, out);
        if result.as_ref().is_err_and(is_bad_sector) {
            for (number, block) in out.chunks_mut(BLOCK).enumerate() {
                let at = self.at + (number * BLOCK) as u64;
                match self.file.read(at, block) {
                    Err(error) if is_bad_sector(&error) => block.fill(0),
                    result => result?,
                }
            }
        } else {
            result?;
        }
        self.at += wanted as u64;
        Ok(wanted)
    }
}

/// All of a file, with zeroes where the disk can't read it.
pub(super) fn read_all(file: &dyn StorageBackend, out: &mut [u8]) -> io::Result<()> {
    Bytes { file, at: 0, length: out.len() as u64 }.read_exact(out)
}

/// Looks for whole records at any place.
pub(super) fn scan(mut input: impl Read, mut found: impl FnMut(record::Body<'_>, &[u8])) -> io::Result<()> {
    let (mut buffer, mut wanted) = (Vec::new(), CHUNK);
    loop {
        let had = buffer.len();
        let more = wanted.saturating_sub(had).max(CHUNK) as u64;
        Read::by_ref(&mut input).take(more).read_to_end(&mut buffer)?;
        let is_end = buffer.len() == had;
        let (mut at, mut short) = (0, None);
        while let Some(offset) = find(buffer.get(at..).unwrap_or_default()) {
            at += offset;
            let rest = buffer.get(at..).unwrap_or_default();
            match record::decode(rest) {
                Ok((body, length)) => {
                    found(body, rest.get(..length).unwrap_or_default());
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
