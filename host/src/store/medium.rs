//! What redb writes on: a file, or a view of one that keeps what is written in memory, for as
//! long as the disk takes nothing.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use redb::StorageBackend;

use super::pages::PAGE;

/// A file of the store, in as many hands as need it.
pub(super) type Medium = Arc<dyn StorageBackend>;

/// What the disk said when it failed first. redb wraps that in many ways, and says of all that
/// comes after it only that something was before.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Option<Failed>>>);

/// What failed.
#[derive(Debug)]
pub(super) enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Fault {
    /// What it was, once.
    pub(super) fn take(&self) -> Option<Failed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note<T>(&self, result: io::Result<T>, failed: fn(io::Error) -> Failed) -> io::Result<T> {
        result.map_err(|error| {
            let said = copy(&error);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed(error));
            said
        })
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// The file itself.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) medium: Medium,
    pub(super) fault: Fault,
}

impl StorageBackend for Direct {
    fn len(&self) -> io::Result<u64> {
        self.fault.note(self.medium.len(), Failed::Reading)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.fault.note(self.medium.read(offset, out), Failed::Reading)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fault.note(self.medium.set_len(len), Failed::Writing)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fault.note(self.medium.sync_data(), Failed::Writing)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fault.note(self.medium.write(offset, data), Failed::Writing)
    }
}

/// A file as it would be if it had been written to.
#[derive(Debug)]
pub(super) struct View {
    /// None: an empty one.
    base: Option<Medium>,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// So much of the base is still to be seen.
    seen: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl View {
    /// `amended` is what is to be read in place of what is there.
    pub(super) fn new(base: Option<Medium>, amended: &[(u64, u8)]) -> io::Result<Self> {
        let length = base.as_ref().map_or(Ok(0), |base| base.len())?;
        let written = Written { length, seen: length, pages: BTreeMap::new() };
        let view = Self { base, written: Mutex::new(written) };
        for (at, is) in amended {
            view.write(*at, &[*is])?;
        }
        Ok(view)
    }

    /// Each part of a range that lies within one page: which, from where, how much.
    fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
        let end = offset + length as u64;
        let mut at = offset;
        std::iter::from_fn(move || {
            let (page, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let part = usize::try_from(end - at).unwrap_or(PAGE).min(PAGE - within);
            at += part as u64;
            (part > 0).then_some((page, within, part))
        })
    }

    fn read_base(&self, seen: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(seen.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (there, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        match &self.base {
            Some(base) if !there.is_empty() => base.read(offset, there),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().unwrap_or_else(PoisonError::into_inner).length)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if offset + out.len() as u64 > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, part) in Self::parts(offset, out.len()) {
            let (now, rest) = std::mem::take(&mut out).split_at_mut(part);
            out = rest;
            match written.pages.get(&page).and_then(|page| page.get(within..within + part)) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => self.read_base(written.seen, page * PAGE as u64 + within as u64, now)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // What is cut off is zeroes when it comes back.
        written.seen = written.seen.min(len);
        written.length = len;
        let (last, within) = (len / PAGE as u64, (len % PAGE as u64) as usize);
        written.pages.retain(|page, _| *page < last || (*page == last && within > 0));
        if let Some(page) = written.pages.get_mut(&last) {
            page.iter_mut().skip(within).for_each(|byte| *byte = 0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, within, part) in Self::parts(offset, data.len()) {
            let (now, rest) = data.split_at(part);
            data = rest;
            let seen = written.seen;
            let bytes = match written.pages.entry(page) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    let mut bytes = Box::new([0; PAGE]);
                    if part < PAGE {
                        self.read_base(seen, page * PAGE as u64, &mut *bytes)?;
                    }
                    place.insert(bytes)
                }
            };
            bytes.iter_mut().skip(within).zip(now).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn a_view_is_as_the_file_would_be_and_leaves_it_alone() {
        let mut random = fastrand::Rng::with_seed(11);
        let base: Medium = Arc::new(InMemoryBackend::new());
        base.set_len(5 * PAGE as u64).unwrap();
        let mut model: Vec<u8> = (0..5 * PAGE).map(|_| random.u8(..)).collect();
        base.write(0, &model).unwrap();
        let before = model.clone();
        let view = View::new(Some(base.clone()), &[(7, 9)]).unwrap();
        model[7] = 9;
        for _ in 0..2000 {
            let at = random.usize(0..model.len());
            let length = random.usize(0..(model.len() - at).min(3 * PAGE) + 1);
            match random.u8(0..8) {
                0 => {
                    let length = random.usize(1..9 * PAGE);
                    model.resize(length, 0);
                    view.set_len(length as u64).unwrap();
                }
                1..4 => {
                    let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                    model[at..at + length].copy_from_slice(&bytes);
                    view.write(at as u64, &bytes).unwrap();
                }
                _ => {
                    let mut bytes = vec![1; length];
                    view.read(at as u64, &mut bytes).unwrap();
                    assert_eq!(bytes, &model[at..at + length]);
                }
            }
            assert_eq!(view.len().unwrap(), model.len() as u64);
        }
        let mut after = vec![0; before.len()];
        base.read(0, &mut after).unwrap();
        assert!(after == before);
    }
}
