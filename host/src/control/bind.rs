//! The socket in the file system: one host's, and never in place of something else.
//!
//! A lock on a file beside it says that a host lives, however busy that is. The kernel ends the lock
//! with the process, so a socket that a killed host has left is replaced. The file stays: removing
//! it could take the lock of another away.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::sleep,
};

/// The longest path a Unix socket can have (`sun_path` in unix(7), without the NUL).
pub const LONGEST_PATH: usize = 107;

/// Connections that wait until the host takes them, which it does at once.
const WAITING: u32 = 256;

/// How long what a killed host has left may seem to live: in a child that is just being made.
const LEFT: Duration = Duration::from_secs(1);

/// The socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another host lives there.
    #[error("{} is another host's socket, and that host runs: give each its own `host.socket`", .0.display())]
    InUse(PathBuf),
    /// Something is there that is not ours to remove.
    #[error(
        "{} is {what}, not the socket of a host, and is left alone: set `host.socket` to a path where nothing is, \
         or remove it", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The system refuses it.
    #[error("can't make the socket {}: {cause}; set `host.socket` to a path this user may write to", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A path that is this host's, with its socket, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    /// Device and inode, so that nothing else is removed.
    file: (u64, u64),
    _lock: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What is at the path.
enum There {
    Nothing,
    /// A socket that nobody listens at.
    Left,
    /// A socket that somebody listens at.
    Listening,
}

/// Makes the socket. One that nobody listens at is replaced.
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, Claim), ControlError> {
    let refused = |cause| ControlError::Refused { path: path.to_owned(), cause };
    let end = Instant::now() + LEFT;
    let file = lock_file(path).map_err(refused)?;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < end => sleep(LEFT / 50).await,
            Err(TryLockError::WouldBlock) => return Err(ControlError::InUse(path.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(refused(cause)),
        }
    }
    // From here on no other host touches it, but for one of a version that knows no lock.
    loop {
        match look(path).await? {
            There::Nothing => break,
            There::Left => fs::remove_file(path).map_err(refused)?,
            There::Listening if Instant::now() < end => sleep(LEFT / 50).await,
            There::Listening => return Err(ControlError::InUse(path.to_owned())),
        }
    }
    let socket = UnixSocket::new_stream().map_err(refused)?;
    // Before it is there: it must not be so with wider rights for one moment.
    let own = fs::Permissions::from_mode(0o600);
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    socket.bind(path).map_err(refused)?;
    let there = fs::symlink_metadata(path).map_err(refused)?;
    let claim = Claim { path: path.to_owned(), file: (there.dev(), there.ino()), _lock: file };
    if there.mode() & 0o777 != 0o600 {
        fs::set_permissions(path, own).map_err(refused)?;
    }
    Ok((socket.listen(WAITING).map_err(refused)?, claim))
}

/// `PATH.lock`.
fn lock_file(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    // Never by way of a link, and not waiting for whatever a pipe's other end does.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(PathBuf::from(name))
}

async fn look(path: &Path) -> Result<There, ControlError> {
    let refused = |cause| ControlError::Refused { path: path.to_owned(), cause };
    let occupied = |what| Err(ControlError::Occupied { path: path.to_owned(), what });
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(There::Nothing),
        Err(cause) => return Err(refused(cause)),
    };
    match () {
        () if kind.is_socket() => {}
        () if kind.is_file() => return occupied("a file"),
        () if kind.is_dir() => return occupied("a folder"),
        () if kind.is_symlink() => return occupied("a symbolic link"),
        () => return occupied("a device or a pipe"),
    }
    match UnixStream::connect(path).await {
        // Who listens and is too busy to take it lives as well.
        Ok(_) => Ok(There::Listening),
        Err(cause) => match cause.kind() {
            io::ErrorKind::ConnectionRefused => Ok(There::Left),
            io::ErrorKind::WouldBlock => Ok(There::Listening),
            io::ErrorKind::NotFound => Ok(There::Nothing),
            // A socket of another kind.
            _ if cause.raw_os_error() == Some(libc::EPROTOTYPE) => occupied("another program's socket"),
            _ => Err(refused(cause)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_users_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, claim) = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // It answers nobody, and lives all the same.
        assert!(matches!(bind(&path).await, Err(ControlError::InUse(_))));
        // A host that was killed: what it had is closed, and its socket still lies there.
        let left = folder.path().join("left");
        fs::hard_link(&path, &left).unwrap();
        drop((listener, claim));
        assert!(!path.exists());
        fs::rename(&left, &path).unwrap();
        let (_listener, claim) = bind(&path).await.unwrap();
        drop(claim);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["socket.lock"]);
        let nowhere = bind(&folder.path().join("no/where")).await.unwrap_err().to_string();
        assert!(nowhere.contains("host.socket"), "{nowhere}");
    }

    #[tokio::test]
    async fn a_host_without_a_lock_lives_as_long_as_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let older = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path).await, Err(ControlError::InUse(_))));
        drop(older);
        bind(&path).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(&path, "precious").unwrap();
        let error = bind(&path).await.unwrap_err().to_string();
        assert!(error.contains("is a file") && error.contains("host.socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        for (what, make) in [
            ("a folder", (|path: &Path| fs::create_dir(path)) as fn(&Path) -> io::Result<()>),
            ("a symbolic link", |path| std::os::unix::fs::symlink("/nowhere", path)),
            ("a device or a pipe", |path| {
                let made = rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU);
                made.map_err(io::Error::from)
            }),
        ] {
            make(&path).unwrap();
            let error = bind(&path).await.unwrap_err();
            assert!(matches!(&error, ControlError::Occupied { what: said, .. } if *said == what), "{what}: {error}");
            assert!(fs::symlink_metadata(&path).is_ok());
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }

    #[tokio::test]
    async fn a_socket_of_another_kind_is_another_program_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _theirs = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let error = bind(&path).await.unwrap_err();
        assert!(matches!(error, ControlError::Occupied { what: "another program's socket", .. }), "{error}");
    }

    #[tokio::test]
    async fn two_that_come_at_once_are_not_both_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (one, other) = tokio::join!(bind(&path), bind(&path));
        assert!(one.is_ok() != other.is_ok());
    }
}
