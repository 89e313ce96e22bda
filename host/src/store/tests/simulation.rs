//! A disk that forgets, when the power fails, what was not synced, or any part of it; that fills,
//! and that goes bad.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

use super::super::{
    Restored, Store, StoreError, StoreSettings,
    folder::{Folder, How},
    medium::Medium,
};

/// Which seeds a test takes: the usual number, as many as `ALPHORN_ROUNDS` says, or the one of
/// `ALPHORN_SEED`.
pub(super) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    match number("ALPHORN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ALPHORN_ROUNDS").unwrap_or(usual),
    }
}

/// A folder on such a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    /// What became of the names since they were synced.
    unsynced_names: Vec<BTreeMap<String, u64>>,
    open: BTreeSet<u64>,
    next: u64,
    /// Writes and syncs that still work; then the power fails.
    pub(super) steps_left: Option<usize>,
    pub(super) steps: usize,
    /// Blocks there are in all.
    pub(super) blocks: Option<usize>,
    pub(super) is_read_only: bool,
    /// Syncs work, and say that they have not.
    pub(super) lies: bool,
    /// How often anything was asked of the disk.
    pub(super) calls: usize,
    /// Which of those calls are refused, and with which error number.
    pub(super) refuses: Option<(std::ops::Range<usize>, i32)>,
}

/// What a file has.
#[derive(Debug, Default, Clone)]
struct Content {
    synced: Vec<u8>,
    /// As a reader sees it.
    current: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<Unsynced>,
    /// Blocks that take up room.
    blocks: BTreeSet<usize>,
    /// Blocks that can't be read.
    bad: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Unsynced {
    Write(u64, Vec<u8>),
    Length(u64),
}

const SECTOR: usize = 512;

const BLOCK: usize = 4096;

impl Disk {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power has failed.
    pub(super) fn is_dead(&self) -> bool {
        self.state().steps_left == Some(0)
    }

    /// The disk after the power came back: what was synced, and some of the sectors that were not.
    pub(super) fn after_power_loss(&self, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let state = self.state();
        let files = state.files.iter().map(|(id, content)| (*id, content.after_power_loss(&mut random))).collect();
        let survived = random.usize(0..=state.unsynced_names.len());
        let names = match survived {
            0 => state.synced_names.clone(),
            survived => state.unsynced_names[survived - 1].clone(),
        };
        Self::with(State { files, synced_names: names.clone(), names, next: state.next, ..State::like(&state) })
    }

    /// The disk after the process was killed: all that was written is there.
    pub(super) fn after_kill(&self) -> Self {
        let state = self.state();
        Self::with(State {
            files: state.files.clone(),
            names: state.names.clone(),
            synced_names: state.synced_names.clone(),
            unsynced_names: state.unsynced_names.clone(),
            next: state.next,
            ..State::like(&state)
        })
    }

    fn with(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn open(&self) -> Result<(Store, Restored), StoreError> {
        Store::open_in(Box::new(self.clone()), StoreSettings { folder: PathBuf::from("/disk"), min_free: 0 })
    }

    /// Does something to the bytes of a file, without the file system.
    pub(super) fn bend<R>(&self, name: &str, bend: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut state = self.state();
        let id = state.names[name];
        let content = state.files.get_mut(&id).unwrap();
        let result = bend(&mut content.current);
        content.synced.clone_from(&content.current);
        content.unsynced.clear();
        result
    }

    pub(super) fn make_bad(&self, name: &str, block: usize) {
        let mut state = self.state();
        let id = state.names[name];
        state.files.get_mut(&id).unwrap().bad.insert(block);
    }

    /// Somebody else takes all the room there is, or gives it back.
    pub(super) fn set_full(&self, is_full: bool) {
        let mut state = self.state();
        state.blocks = is_full.then(|| state.used());
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }
}

impl State {
    fn like(other: &Self) -> Self {
        Self { blocks: other.blocks, is_read_only: other.is_read_only, ..Self::default() }
    }

    fn step(&mut self) -> io::Result<()> {
        self.alive()?;
        if self.is_read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        self.steps += 1;
        if let Some(left) = &mut self.steps_left {
            *left -= 1;
            if *left == 0 {
                return Err(io::Error::other("the power failed"));
            }
        }
        Ok(())
    }

    fn alive(&mut self) -> io::Result<()> {
        self.calls += 1;
        if let Some((calls, error)) = &self.refuses
            && calls.contains(&self.calls)
        {
            return Err(io::Error::from_raw_os_error(*error));
        }
        if self.steps_left == Some(0) { Err(io::Error::other("the power has failed")) } else { Ok(()) }
    }

    fn used(&self) -> usize {
        // A file without a name takes up room for as long as it is open; nearly.
        self.names.values().map(|id| self.files[id].blocks.len()).sum()
    }

    fn free(&self) -> usize {
        let used = self.used();
        match self.blocks {
            Some(blocks) => blocks.saturating_sub(used),
            None => 1 << 30,
        }
    }

    fn allocate(&mut self, id: u64, from: usize, length: usize) -> io::Result<()> {
        let wanted: BTreeSet<usize> = (from / BLOCK..(from + length).div_ceil(BLOCK)).collect();
        let missing = wanted.difference(&self.files[&id].blocks).count();
        if missing > self.free() {
            return Err(ErrorKind::StorageFull.into());
        }
        self.files.get_mut(&id).unwrap().blocks.extend(wanted);
        Ok(())
    }

    fn create(&mut self, name: &str) -> io::Result<u64> {
        self.step()?;
        if self.free() == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        self.next += 1;
        self.files.insert(self.next, Content::default());
        self.names.insert(name.to_owned(), self.next);
        self.unsynced_names.push(self.names.clone());
        Ok(self.next)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.step()?;
        self.synced_names.clone_from(&self.names);
        self.unsynced_names.clear();
        Ok(())
    }
}

impl Content {
    fn after_power_loss(&self, random: &mut fastrand::Rng) -> Self {
        let mut bytes = self.synced.clone();
        for unsynced in &self.unsynced {
            match unsynced {
                Unsynced::Write(at, data) => {
                    for (number, sector) in data.chunks(SECTOR).enumerate() {
                        let at = *at as usize + number * SECTOR;
                        if random.bool() && at + sector.len() <= bytes.len() {
                            bytes[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
                // A file may have grown or not.
                Unsynced::Length(length) => {
                    if random.bool() || *length as usize > bytes.len() {
                        bytes.resize(*length as usize, 0);
                    }
                }
            }
        }
        let Self { blocks, bad, .. } = self.clone();
        Self { synced: bytes.clone(), current: bytes, unsynced: Vec::new(), blocks, bad }
    }
}

impl Folder for Disk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/disk").join(name)
    }

    fn open(&self, name: &str, how: How) -> io::Result<Medium> {
        let id = {
            let mut state = self.state();
            state.alive()?;
            if state.is_read_only && how != How::Read {
                return Err(ErrorKind::ReadOnlyFilesystem.into());
            }
            let id = match state.names.get(name) {
                Some(id) => *id,
                None if how == How::Create => {
                    let id = state.create(name)?;
                    state.sync_names()?;
                    id
                }
                None => return Err(ErrorKind::NotFound.into()),
            };
            if !state.open.insert(id) {
                return Err(ErrorKind::ResourceBusy.into());
            }
            id
        };
        Ok(Arc::new(Handle { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let id = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        let names = state.names.clone();
        state.unsynced_names.push(names);
        state.sync_names()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        if state.names.contains_key(name) {
            state.step()?;
            state.names.remove(name);
            let names = state.names.clone();
            state.unsynced_names.push(names);
        }
        Ok(())
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        let mut state = self.state();
        state.alive()?;
        Ok(state.names.contains_key(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.state().sync_names()
    }

    fn free(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.alive()?;
        Ok((state.free() * BLOCK) as u64)
    }

    fn occupy(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let id = match state.names.get(name) {
            Some(id) => *id,
            None => state.create(name)?,
        };
        let allocated = state.allocate(id, 0, bytes as usize);
        if allocated.is_err() {
            state.names.remove(name);
        }
        allocated
    }

    fn note(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.files.get(state.names.get(name)?).map(|content| content.current.clone())
    }

    fn set_note(&self, name: &str, note: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let id = match state.names.get(name) {
            Some(id) => *id,
            None => state.create(name)?,
        };
        state.step()?;
        state.files.get_mut(&id).unwrap().current = note.to_vec();
        Ok(())
    }
}

/// An open file.
#[derive(Debug)]
struct Handle {
    disk: Disk,
    id: u64,
}

impl Handle {
    fn with<R>(&self, what: impl FnOnce(&mut Content) -> R) -> R {
        what(self.disk.state().files.get_mut(&self.id).unwrap())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.disk.state().open.remove(&self.id);
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.disk.state().alive()?;
        Ok(self.with(|content| content.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.state().alive()?;
        self.with(|content| {
            let at = offset as usize;
            if content.bad.range(at / BLOCK..(at + out.len()).div_ceil(BLOCK)).next().is_some() {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let bytes = content.current.get(at..at + out.len());
            out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state().step()?;
        self.with(|content| {
            content.current.resize(len as usize, 0);
            content.blocks = content.blocks.iter().copied().filter(|block| block * BLOCK < len as usize).collect();
            content.unsynced.push(Unsynced::Length(len));
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.state().step()?;
        self.with(|content| {
            content.synced = content.current.clone();
            content.unsynced.clear();
        });
        if self.disk.state().lies {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        {
            let mut state = self.disk.state();
            state.step()?;
            state.allocate(self.id, offset as usize, data.len())?;
        }
        self.with(|content| {
            let at = offset as usize;
            content.current[at..at + data.len()].copy_from_slice(data);
            content.bad.retain(|block| !(at / BLOCK..(at + data.len()) / BLOCK).contains(block));
            content.unsynced.push(Unsynced::Write(offset, data.to_vec()));
        });
        Ok(())
    }
}
