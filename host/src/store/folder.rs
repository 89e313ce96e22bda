//! The folder the store is in, and what a disk can say.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::StorageBackend;

use super::medium::Medium;

/// What the store asks of a file system; tests have disks of their own.
pub(super) trait Folder: fmt::Debug + Send {
    /// Where it is, for people.
    fn path(&self, name: &str) -> PathBuf;

    /// Opens a file. Nobody else can open it so before it is closed; [`ErrorKind::ResourceBusy`]
    /// says that somebody has.
    fn open(&self, name: &str, how: How) -> io::Result<Medium>;

    /// Gives a file another name, in place of what has it, durable when this returns.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file away, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Whether there is such a file.
    fn has(&self, name: &str) -> io::Result<bool>;

    /// What was created is there after a loss of power.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that can still be written.
    fn free(&self) -> io::Result<u64>;

    /// Makes a file that takes up so much room, if it is not there.
    fn occupy(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// The few bytes of a file that says something; None: there is none.
    fn note(&self, name: &str) -> Option<Vec<u8>>;

    /// Writes such a file, not durably.
    fn set_note(&self, name: &str, note: &[u8]) -> io::Result<()>;
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// To read it only.
    Read,
    /// To write into what is there.
    Write,
    /// The same, and it is made where it is not there.
    Create,
}

/// A folder of the file system.
#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    fn locked(file: fs::File) -> io::Result<fs::File> {
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(ErrorKind::ResourceBusy.into()),
            // Some network file systems have no locks.
            Err(fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Folder for Directory {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self, name: &str, how: How) -> io::Result<Medium> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(how != How::Read).mode(0o600);
        let path = self.path(name);
        // Where it was there, the folder is synced once for all its files, see `Store::open`.
        let file = match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && how == How::Create => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
                let file = options.create(true).truncate(false).open(&path)?;
                self.sync()?;
                file
            }
            opened => opened?,
        };
        let file = Self::locked(file)?;
        // Another may have taken its place meanwhile; then it is that one that counts.
        let (open, there) = (file.metadata()?, fs::metadata(&path)?);
        if (open.dev(), open.ino()) != (there.dev(), there.ino()) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        Ok(Arc::new(OpenFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        self.path(name).try_exists()
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.0)
    }

    fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.0)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn occupy(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let path = self.path(name);
        let file = options.open(&path)?;
        let occupied = match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // A file system that can't reserve takes what is written.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeroes = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
                file.write_all_at(&zeroes, 0)
            }
            result => result.map_err(io::Error::from),
        };
        occupied.inspect_err(|_| drop(fs::remove_file(&path)))
    }

    fn note(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.path(name)).ok()
    }

    fn set_note(&self, name: &str, note: &[u8]) -> io::Result<()> {
        fs::write(self.path(name), note)
    }
}

/// What was created or renamed in a folder is so after a loss of power.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match fs::File::open(folder)?.sync_all() {
        // Some file systems can't, and say so.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// A file, locked for as long as it is open.
#[derive(Debug)]
struct OpenFile(fs::File);

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// The disk takes nothing, for now or for good; what is there can be read.
pub(super) fn takes_nothing(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | FileTooLarge)
}
