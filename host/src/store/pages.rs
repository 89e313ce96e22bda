//! How redb lays out its file, as far as it takes to see whether a file is what was written, and
//! to read what is left of one that is not. Every page is named by its place and a checksum; the
//! checksums of the roots are in the header, which has its own. Pure.

use twox_hash::XxHash3_128;

/// The size of a page of order 0.
pub(super) const PAGE: usize = 4096;

/// What is before the first page.
pub(super) const HEADER: usize = 320;

const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// The format's version that a slot names.
const VERSION: u8 = 3;

const SLOT: usize = 128;

/// Where each slot is.
const SLOTS: [usize; 2] = [64, 192];

const PRIMARY: u8 = 1;
const RECOVERY: u8 = 2;
const TWO_PHASE: u8 = 4;

/// Pages of a region that is full: the most that a page's number can tell apart.
const REGION: u64 = 1 << 20;

/// Orders of pages go so far.
const ORDERS: u8 = 20;

/// The beginning of the file: page size, pages of a region's header, pages of a region. redb
/// writes nothing else.
const GEOMETRY: [(usize, u32); 3] = [(12, PAGE as u32), (16, 0), (20, REGION as u32)];

/// A page, and what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    number: u64,
    pub(super) checksum: u128,
}

/// Which widths are fixed, of a table's keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Widths {
    key: Option<usize>,
    value: Option<usize>,
}

/// What a commit is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) transaction: u64,
    /// The tree of tables, and that of redb's own.
    pub(super) roots: [Option<Pointer>; 2],
}

/// The beginning of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// The commit that counts, and the one before; None: its checksum is wrong.
    pub(super) slots: [Option<Slot>; 2],
    /// The last end was none.
    pub(super) is_unclean: bool,
    /// The first slot is good whatever else is there.
    pub(super) is_sure: bool,
    /// Where it says which slot is the first, and what it would say of the second.
    pub(super) other: (usize, u8),
}

/// What a table is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) root: Option<Pointer>,
    pub(super) rows: u64,
    pub(super) widths: Widths,
}

/// What a page holds.
#[derive(Debug)]
pub(super) enum Node<'a> {
    /// Keys and values.
    Leaf(Vec<(&'a [u8], &'a [u8])>),
    /// Pages, and, but for the last, a key that none behind it is below.
    Branch(Vec<(Pointer, Option<&'a [u8]>)>),
}

impl Pointer {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self { number: u64_at(bytes, 0)?, checksum: u128_at(bytes, 8)? })
    }

    /// Where the page is in the file, and how long it is. None: nowhere.
    pub(super) fn place(&self) -> Option<(u64, usize)> {
        let order = u8::try_from(self.number >> 59).ok().filter(|order| *order <= ORDERS)?;
        let (index, region) = (self.number & ((REGION - 1) >> order), (self.number >> 20) & (REGION - 1));
        let length = (PAGE as u64) << order;
        Some((PAGE as u64 * (1 + region * REGION) + index * length, usize::try_from(length).ok()?))
    }
}

impl Header {
    /// Reads the beginning of a file. None: it is none of redb's.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let is_ours = bytes.starts_with(MAGIC) && GEOMETRY.iter().all(|(at, is)| u32_at(bytes, *at) == Some(*is));
        let flags = *bytes.get(MAGIC.len())?;
        if !is_ours {
            return None;
        }
        let mut slots = SLOTS.map(|at| Slot::read(bytes.get(at..at + SLOT)?));
        if flags & PRIMARY != 0 {
            slots.swap(0, 1);
        }
        let is_sure = flags & TWO_PHASE != 0;
        let transaction = |slot: &Option<Slot>| slot.map(|slot| slot.transaction);
        // Where a write ended in the middle, the newer one may have come through.
        let [first, second] = &slots;
        if !is_sure && transaction(second) > transaction(first) {
            slots.swap(0, 1);
        }
        Some(Self { slots, is_unclean: flags & RECOVERY != 0, is_sure, other: (MAGIC.len(), flags ^ PRIMARY) })
    }

    /// What the beginning of any file is, where it differs: what is to be put right.
    pub(super) fn amend(bytes: &[u8]) -> Vec<(usize, u8)> {
        let magic = MAGIC.iter().copied().enumerate();
        let geometry = GEOMETRY
            .iter()
            .flat_map(|(at, is)| is.to_le_bytes().into_iter().enumerate().map(move |(byte, is)| (at + byte, is)));
        magic.chain(geometry).filter(|(at, is)| bytes.get(*at) != Some(is)).collect()
    }
}

impl Slot {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (checked, checksum) = (bytes.get(..SLOT - 16)?, u128_at(bytes, SLOT - 16)?);
        if XxHash3_128::oneshot(checked) != checksum || bytes.first() != Some(&VERSION) {
            return None;
        }
        let root = |flag: usize, at: usize| {
            (bytes.get(flag) != Some(&0)).then(|| Pointer::read(bytes.get(at..).unwrap_or_default())).flatten()
        };
        Some(Self { transaction: u64_at(bytes, 104)?, roots: [root(1, 8), root(2, 40)] })
    }
}

impl Table {
    /// Reads what the tree of tables says of one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        // One value for a key: anything else is not ours.
        if bytes.first() != Some(&3) {
            return None;
        }
        let width = |at: usize| match bytes.get(at)? {
            0 => Some(None),
            _ => Some(Some(u32_at(bytes, at + 1)? as usize)),
        };
        let root = match bytes.get(9)? {
            0 => None,
            _ => Some(Pointer::read(bytes.get(10..)?)?),
        };
        Some(Self { root, rows: u64_at(bytes, 1)?, widths: Widths { key: width(42)?, value: width(47)? } })
    }
}

/// The page is what it was when it was written.
pub(super) fn is_whole(page: &[u8], widths: Widths, checksum: u128) -> bool {
    end(page, widths).and_then(|end| page.get(..end)).is_some_and(|checked| XxHash3_128::oneshot(checked) == checksum)
}

/// Finds the one bit that makes the page whole, and turns it. False: it is not one.
pub(super) fn turn_back(page: &mut [u8], widths: Widths, checksum: u128) -> Option<(usize, u8)> {
    for at in 0..page.len() {
        for bit in 0..8 {
            *page.get_mut(at)? ^= 1 << bit;
            if is_whole(page, widths, checksum) {
                return Some((at, *page.get(at)?));
            }
            *page.get_mut(at)? ^= 1 << bit;
        }
    }
    None
}

/// The same for the header's slots: which bytes are to be put right.
pub(super) fn turn_back_slots(bytes: &mut [u8]) -> Vec<(usize, u8)> {
    let mut turned = Vec::new();
    for begin in SLOTS {
        let Some(slot) = bytes.get_mut(begin..begin + SLOT).filter(|slot| Slot::read(slot).is_none()) else { continue };
        let bits = (0..SLOT).flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)));
        for (at, bit) in bits {
            let Some(byte) = slot.get_mut(at) else { break };
            *byte ^= bit;
            let is = *byte;
            if Slot::read(slot).is_some() {
                turned.push((begin + at, is));
                break;
            }
            if let Some(byte) = slot.get_mut(at) {
                *byte ^= bit;
            }
        }
    }
    turned
}

/// Where what a page holds ends.
fn end(page: &[u8], widths: Widths) -> Option<usize> {
    let count = u16_at(page, 2)? as usize;
    let last = count.checked_sub(1)?;
    match page.first()? {
        1 => leaf_end(page, widths, count, last),
        2 => branch_end(page, widths, count, last),
        _ => None,
    }
}

/// What a page holds, as far as it makes sense.
pub(super) fn node(page: &[u8], widths: Widths) -> Option<Node<'_>> {
    let count = u16_at(page, 2)? as usize;
    match page.first()? {
        1 => {
            let keys = 4 + 4 * count * (usize::from(widths.key.is_none()) + usize::from(widths.value.is_none()));
            let (mut key, mut value) = (keys, key_end(page, widths, count.checked_sub(1)?)?);
            let mut rows = Vec::new();
            for row in 0..count {
                let ends = (key_end(page, widths, row)?, leaf_end(page, widths, count, row)?);
                rows.push((page.get(key..ends.0)?, page.get(value..ends.1)?));
                (key, value) = ends;
            }
            Some(Node::Leaf(rows))
        }
        2 => {
            let children = count + 1;
            let mut key = 8 + 24 * children + if widths.key.is_none() { 4 * count } else { 0 };
            let mut pages = Vec::new();
            for child in 0..children {
                let number = u64_at(page, 8 + 16 * children + 8 * child)?;
                let pointer = Pointer { number, checksum: u128_at(page, 8 + 16 * child)? };
                let separator = match child < count {
                    true => {
                        let end = branch_end(page, widths, count, child)?;
                        let separator = page.get(key..end)?;
                        key = end;
                        Some(separator)
                    }
                    false => None,
                };
                pages.push((pointer, separator));
            }
            Some(Node::Branch(pages))
        }
        _ => None,
    }
}

/// The rows of a leaf that make sense, of a page that need not be whole.
pub(super) fn rows(page: &[u8], widths: Widths) -> Vec<(&[u8], &[u8])> {
    let Some(count) = u16_at(page, 2).map(usize::from).filter(|_| page.first() == Some(&1)) else { return Vec::new() };
    let begin = 4 + 4 * count * (usize::from(widths.key.is_none()) + usize::from(widths.value.is_none()));
    let row = |row: usize| {
        let (mut key, mut value) = (begin, key_end(page, widths, count.checked_sub(1)?)?);
        if let Some(before) = row.checked_sub(1) {
            (key, value) = (key_end(page, widths, before)?, leaf_end(page, widths, count, before)?);
        }
        let key = page.get(key..key_end(page, widths, row)?)?;
        Some((key, page.get(value..leaf_end(page, widths, count, row)?)?))
    };
    (0..count).filter_map(row).collect()
}

/// Where a leaf's key ends.
fn key_end(page: &[u8], widths: Widths, row: usize) -> Option<usize> {
    let count = u16_at(page, 2)? as usize;
    let keys = 4 + 4 * count * (usize::from(widths.key.is_none()) + usize::from(widths.value.is_none()));
    match widths.key {
        Some(width) => keys.checked_add(width.checked_mul(row + 1)?),
        None => Some(u32_at(page, 4 + 4 * row)? as usize),
    }
}

/// Where a leaf's value ends.
fn leaf_end(page: &[u8], widths: Widths, count: usize, row: usize) -> Option<usize> {
    match widths.value {
        Some(width) => key_end(page, widths, count.checked_sub(1)?)?.checked_add(width.checked_mul(row + 1)?),
        None => {
            let keys = if widths.key.is_none() { 4 * count } else { 0 };
            Some(u32_at(page, 4 + keys + 4 * row)? as usize)
        }
    }
}

/// Where a branch's key ends.
fn branch_end(page: &[u8], widths: Widths, count: usize, key: usize) -> Option<usize> {
    let keys = 8 + 24 * (count + 1);
    match widths.key {
        Some(width) => keys.checked_add(width.checked_mul(key + 1)?),
        None => Some(u32_at(page, keys + 4 * key)? as usize),
    }
}

/// A key of two parts, of which the first is text: that, and the rest.
pub(super) fn text_and_rest(key: &[u8]) -> Option<(&str, &[u8])> {
    let (length, at): (usize, usize) = match *key.first()? {
        254 => (u16_at(key, 1)? as usize, 3),
        255 => (u32_at(key, 1)? as usize, 5),
        length => (length as usize, 1),
    };
    let text = std::str::from_utf8(key.get(at..at.checked_add(length)?)?).ok()?;
    Some((text, key.get(at + length..)?))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    bytes_at(bytes, at).map(u128::from_le_bytes)
}
