//! A database's trees, read page by page by our own hand: each page is looked at before anything
//! in it is believed, so that no file, however damaged, can lead anywhere it should not. redb
//! gets a file only when all of it is whole.

use std::{collections::BTreeMap, io};

use redb::StorageBackend;

pub(super) use super::pages::Table;
use super::pages::{self, HEADER, Header, Node, PAGE, Pointer, Slot, Widths};

/// Trees are never deeper.
const DEPTH: usize = 128;

/// A page up to this size is searched for a bit that has turned; the time grows with the square.
const SEARCHED: usize = 4 * PAGE;

/// So many pages are.
const SEARCHES: usize = 16;

/// What a file is.
#[derive(Debug)]
pub(super) enum Condition {
    /// All of it is what was written.
    Whole(Whole),
    /// It is not; why.
    Damaged(String),
}

/// About a file that is whole.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Bytes that are to be put right for that.
    pub(super) amended: Vec<(u64, u8)>,
    /// How many of those bytes were damaged. The others are what a write that was cut off had left to do.
    pub(super) turned: usize,
    /// The newest commit is not whole, and the one before it is in its place.
    pub(super) fell_back: bool,
    /// The last end was none.
    pub(super) is_unclean: bool,
}

/// What is met on the way through a tree.
pub(super) enum Met<'a> {
    /// A key and its value.
    Row(&'a [u8], &'a [u8]),
    /// A page that can't be read; all it had lies between these keys. What stands there, if anything.
    Lost { above: Option<&'a [u8]>, up_to: Option<&'a [u8]>, page: &'a [u8], widths: Widths },
}

/// Reads a file's pages.
pub(super) struct Reader<'a> {
    file: &'a dyn StorageBackend,
    length: u64,
    /// Pages that may still be read: a tree that shares pages would never end.
    budget: u64,
    searches: usize,
    /// Nobody asks for what is behind something that is lost.
    stops_when_lost: bool,
    has_lost: bool,
    amended: BTreeMap<u64, u8>,
}

impl<'a> Reader<'a> {
    /// For a file, the first of whose bytes are read.
    pub(super) fn open(file: &'a dyn StorageBackend) -> io::Result<(Self, Option<Header>)> {
        let length = file.len()?;
        let mut reader = Self {
            file,
            length,
            budget: 2 * length / PAGE as u64,
            searches: SEARCHES,
            stops_when_lost: false,
            has_lost: false,
            amended: BTreeMap::new(),
        };
        let mut header = [0; HEADER];
        if length < HEADER as u64 || !reader.read(0, &mut header)? {
            return Ok((reader, None));
        }
        let amended = Header::amend(&header);
        // Some bits have turned, or it is none of ours.
        if amended.len() <= 2 {
            for (at, is) in amended {
                header.iter_mut().skip(at).take(1).for_each(|byte| *byte = is);
                reader.amended.insert(at as u64, is);
            }
        }
        for (at, is) in pages::turn_back_slots(&mut header) {
            reader.amended.insert(at as u64, is);
        }
        let header = Header::read(&header);
        Ok((reader, header))
    }

    /// False: the disk can't read it, or it is not there.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<bool> {
        let is_within = at.checked_add(out.len() as u64).is_some_and(|end| end <= self.length);
        if !is_within {
            return Ok(false);
        }
        match self.file.read(at, out) {
            Ok(()) => Ok(true),
            Err(error) if is_bad_sector(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The page; false: it is not what it should be.
    fn page(&mut self, pointer: Pointer, widths: Widths) -> io::Result<(Vec<u8>, bool)> {
        let Some((at, length)) = pointer.place() else { return Ok((Vec::new(), false)) };
        if at + length as u64 > self.length || self.budget == 0 {
            return Ok((Vec::new(), false));
        }
        self.budget -= 1;
        let mut page = vec![0; length];
        if !self.read(at, &mut page)? {
            return Ok((Vec::new(), false));
        }
        if pages::is_whole(&page, widths, pointer.checksum) {
            return Ok((page, true));
        }
        if length <= SEARCHED && self.searches > 0 {
            self.searches -= 1;
            if let Some((offset, is)) = pages::turn_back(&mut page, widths, pointer.checksum) {
                self.amended.insert(at + offset as u64, is);
                return Ok((page, true));
            }
        }
        Ok((page, false))
    }

    /// Goes through a tree, in order.
    pub(super) fn walk(
        &mut self,
        root: Option<Pointer>,
        widths: Widths,
        meet: &mut dyn FnMut(Met<'_>),
    ) -> io::Result<()> {
        match root {
            Some(root) => self.descend(root, widths, (None, None), 0, meet),
            None => Ok(()),
        }
    }

    fn descend(
        &mut self,
        pointer: Pointer,
        widths: Widths,
        (above, up_to): (Option<&[u8]>, Option<&[u8]>),
        depth: usize,
        meet: &mut dyn FnMut(Met<'_>),
    ) -> io::Result<()> {
        if self.has_lost && self.stops_when_lost {
            return Ok(());
        }
        let (page, is_whole) = self.page(pointer, widths)?;
        let node = pages::node(&page, widths).filter(|_| is_whole && depth < DEPTH);
        match node {
            Some(Node::Leaf(rows)) => rows.into_iter().for_each(|(key, value)| meet(Met::Row(key, value))),
            Some(Node::Branch(children)) => {
                let mut above = above;
                for (child, separator) in children {
                    self.descend(child, widths, (above, separator.or(up_to)), depth + 1, meet)?;
                    above = separator.or(above);
                }
            }
            None => {
                self.has_lost = true;
                meet(Met::Lost { above, up_to, page: &page, widths });
            }
        }
        Ok(())
    }

    /// Another tree is begun.
    pub(super) fn renew(&mut self) {
        (self.budget, self.searches, self.has_lost) = (2 * self.length / PAGE as u64, SEARCHES, false);
    }

    /// What the tables are, by name. `lost` is called where some can't be read.
    pub(super) fn tables(
        &mut self,
        root: Option<Pointer>,
        lost: &mut dyn FnMut(),
    ) -> io::Result<BTreeMap<String, Table>> {
        let mut tables = BTreeMap::new();
        self.walk(root, Widths::default(), &mut |met| {
            let table = match met {
                Met::Row(name, value) => std::str::from_utf8(name).ok().zip(Table::read(value)),
                Met::Lost { .. } => None,
            };
            match table {
                Some((name, table)) => drop(tables.insert(name.to_owned(), table)),
                None => lost(),
            }
        })?;
        Ok(tables)
    }

    /// Every list of tables that lies anywhere in the file, with those of its tables whose roots are
    /// whole: a pointer whose checksum fits was written by nobody else. Where the list that counts
    /// is gone, there are older ones.
    pub(super) fn stray_tables(&mut self, is_known: impl Fn(&str) -> bool) -> io::Result<Vec<BTreeMap<String, Table>>> {
        let (mut found, mut page) = (Vec::new(), vec![0; PAGE]);
        let searches = std::mem::take(&mut self.searches);
        for at in (PAGE as u64..self.length).step_by(PAGE) {
            if !self.read(at, &mut page)? {
                continue;
            }
            let mut tables = BTreeMap::new();
            for (name, value) in pages::rows(&page, Widths::default()) {
                let Some((name, table)) = std::str::from_utf8(name).ok().zip(Table::read(value)) else { continue };
                self.renew();
                self.searches = 0;
                if is_known(name)
                    && let Some(root) = table.root
                    && self.page(root, table.widths)?.1
                {
                    tables.insert(name.to_owned(), table);
                }
            }
            if !tables.is_empty() {
                found.push(tables);
            }
        }
        self.searches = searches;
        Ok(found)
    }

    /// All that a commit has is whole.
    fn is_whole(&mut self, slot: &Slot) -> io::Result<bool> {
        self.renew();
        for root in slot.roots {
            let mut makes_sense = true;
            let tables = self.tables(root, &mut || makes_sense = false)?;
            for table in tables.values() {
                self.walk(table.root, table.widths, &mut |_| {})?;
            }
            if self.has_lost || !makes_sense {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was turned back on the way.
    pub(super) fn amended(&self) -> Vec<(u64, u8)> {
        self.amended.iter().map(|(at, is)| (*at, *is)).collect()
    }
}

/// Looks at the whole file. Bits that have turned are found.
pub(super) fn examine(file: &dyn StorageBackend) -> io::Result<Condition> {
    let (mut reader, header) = Reader::open(file)?;
    reader.stops_when_lost = true;
    let Some(header) = header else {
        return Ok(Condition::Damaged(format!(
            "it is not a database, or its beginning is damaged; {} bytes",
            reader.length
        )));
    };
    if reader.length % PAGE as u64 != 0 || reader.length < 2 * PAGE as u64 {
        return Ok(Condition::Damaged(format!("it has been cut off: {} bytes are left", reader.length)));
    }
    let [first, second] = header.slots;
    // The bit that says which is the first has no checksum, and is written last of all. What is whole and
    // newer was written.
    if let (Some(older), Some(newer)) = (first, second)
        && header.is_sure
        && newer.transaction > older.transaction
        && reader.is_whole(&newer)?
    {
        let (at, is) = header.other;
        let mut amended = reader.amended();
        let turned = amended.len();
        amended.push((at as u64, is));
        let is_unclean = header.is_unclean;
        return Ok(Condition::Whole(Whole { amended, turned, fell_back: false, is_unclean }));
    }
    // As redb does it: where the first need not be good, all is looked at, and the commit before may
    // take its place.
    let can_fall_back = !header.is_sure;
    for (slot, is_last) in [(first, false), (second, true)] {
        if let Some(slot) = slot
            && (!is_last || can_fall_back)
            && reader.is_whole(&slot)?
        {
            let fell_back = can_fall_back && (is_last || second.is_none());
            let is_unclean = header.is_unclean || fell_back;
            let amended = reader.amended();
            return Ok(Condition::Whole(Whole { turned: amended.len(), amended, fell_back, is_unclean }));
        }
    }
    Ok(Condition::Damaged("some of its pages are not what was written".to_owned()))
}

/// The disk can't read what was written there.
pub(super) fn is_bad_sector(error: &io::Error) -> bool {
    let is_bad = |number: i32| [libc::EIO, libc::EBADMSG, libc::EILSEQ].contains(&number);
    error.raw_os_error().is_some_and(is_bad) || error.kind() == io::ErrorKind::UnexpectedEof
}
