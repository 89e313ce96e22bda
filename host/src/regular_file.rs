//! Files that users name: regular ones of a bounded size, or they are not read.
//!
//! A pipe would keep whoever reads it waiting, a device would never end, and a huge file would take
//! all memory. Each becomes an error that says so instead.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use tokio::{io::AsyncReadExt, task::spawn_blocking, time::timeout};

/// The largest component, compiled or not.
pub const COMPONENT: u64 = 256 * 1024 * 1024;

/// The largest configuration, and the largest manifest of a project.
pub const SETTINGS: u64 = 4 * 1024 * 1024;

/// The largest file of certificates.
pub const CERTIFICATES: u64 = 4 * 1024 * 1024;

/// The largest key, password or signature.
pub const SECRET: u64 = 64 * 1024;

/// The longest a file is waited for while others could go on: it may be on a network.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a file of at most so many bytes.
pub fn open(path: &Path, most: u64) -> io::Result<File> {
    // Before it is opened, which a device may take for more than a look.
    check(&fs::metadata(path)?, most)?;
    // Another file by now must not keep us waiting either.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    check(&file.metadata()?, most)?;
    Ok(file)
}

/// All of a file.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path, most)?;
    let mut bytes = with_room_for(&file)?;
    // It may grow, and some say nothing of their size.
    file.take(most + 1).read_to_end(&mut bytes)?;
    within(bytes, most)
}

/// All of a file that is text.
pub fn read_to_string(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// All of a file, piece by piece: who stops waiting for it stops the reading.
pub async fn read_aside(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = async move {
        let file = spawn_blocking(move || open(&path, most)).await.map_err(io::Error::other)??;
        let mut bytes = with_room_for(&file)?;
        tokio::fs::File::from_std(file).take(most + 1).read_to_end(&mut bytes).await?;
        within(bytes, most)
    };
    soon(read).await
}

/// The result of work on a file, unless the file keeps it waiting for too long.
pub async fn aside<R: Send + 'static>(work: impl FnOnce() -> io::Result<R> + Send + 'static) -> io::Result<R> {
    soon(async { spawn_blocking(work).await.map_err(io::Error::other)? }).await
}

async fn soon<R>(read: impl Future<Output = io::Result<R>>) -> io::Result<R> {
    let slow = |_| {
        let text = format!("it could not be read within {}", humantime::format_duration(PATIENCE));
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    timeout(PATIENCE, read).await.map_err(slow)?
}

fn check(metadata: &fs::Metadata, most: u64) -> io::Result<()> {
    let kind = metadata.file_type();
    if !kind.is_file() {
        let text = format!("it is {}, and only a regular file is read", name(kind));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if metadata.len() > most { Err(too_large(most)) } else { Ok(()) }
}

fn name(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

fn with_room_for(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Its size has been looked at.
    bytes.try_reserve_exact(usize::try_from(file.metadata()?.len()).unwrap_or(0))?;
    Ok(bytes)
}

fn within(bytes: Vec<u8>, most: u64) -> io::Result<Vec<u8>> {
    if bytes.len() as u64 > most { Err(too_large(most)) } else { Ok(bytes) }
}

fn too_large(most: u64) -> io::Error {
    let text = format!("it is larger than {}, the most that is read of such a file", bytesize::ByteSize::b(most));
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_regular_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_aside(&path, 10).await.unwrap(), b"0123456789");
        assert_eq!(read_to_string(&path, 10).unwrap(), "0123456789");
        for error in [read(&path, 9).unwrap_err(), read_aside(&path, 9).await.unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
        }
        // Says that it is empty, and is not.
        let maps = Path::new("/proc/self/maps");
        assert!(read(maps, COMPONENT).unwrap().len() > 10);
        assert_eq!(read(maps, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&folder.path().join("none"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_is_none_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let sparse = folder.path().join("sparse");
        File::create(&sparse).unwrap().set_len(3 << 30).unwrap();
        let cases = [
            (Path::new("/dev/zero"), "a device"),
            (&pipe, "a pipe"),
            (folder.path(), "a folder"),
            (&sparse, "larger than 256.0 MiB"),
        ];
        for (path, what) in cases {
            for error in [read(path, COMPONENT).unwrap_err(), read_aside(path, COMPONENT).await.unwrap_err()] {
                assert!(error.to_string().contains(what), "{}: {error}", path.display());
            }
        }
    }
}
