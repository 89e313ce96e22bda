//! The host's local socket: whether it can be made, or is there.

use std::{
    fs, io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::Path,
};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::report::{Check, Fault};
use crate::config::SocketConfig;

/// The name of the check.
pub(super) const NAME: &str = "socket";

/// Looks, and makes nothing: it may be a running host's.
pub(super) fn check(config: &SocketConfig) -> Check {
    let path = &config.path;
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => match UnixStream::connect(path) {
            Ok(_) => Check::ok(NAME, format!("{shown}: a host answers")),
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                let cause = "it is another user's, whom alone it answers";
                Check::warn(NAME, format!("{shown}"), cause, "run this as the user that runs the host")
            }
            Err(_) => Check::ok(NAME, format!("{shown}: left by a host that has gone, and replaced by the next")),
        },
        Ok(_) => {
            unusable(config, "something else than a socket is there", "remove it, or set `host.socket` to another path")
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => match can_be_made(path) {
            Ok(()) => Check::ok(NAME, format!("{shown}, which a running host makes")),
            Err(cause) => {
                let remedy = "set `host.socket` to a path where the user that runs the host may make it";
                unusable(config, &format!("it can't be made ({cause})"), remedy)
            }
        },
        Err(cause) => unusable(config, &cause.to_string(), "set `host.socket` to another path"),
    }
}

/// A host starts without the socket, unless one is asked for.
fn unusable(config: &SocketConfig, cause: &str, remedy: &str) -> Check {
    let found = config.path.display().to_string();
    match config.is_explicit {
        true => Check::fail(NAME, Fault::Configuration, found, format!("{cause}, so no host starts"), remedy),
        false => Check::warn(NAME, found, format!("{cause}: `alphorn ps` and the like won't work"), remedy),
    }
}

/// Whether this user may make something in its folder.
fn can_be_made(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn what_is_at_its_path_decides() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, is_explicit| check(&SocketConfig { path: folder.path().join(name), is_explicit });
        let bad = Status::Fail(Fault::Configuration);
        let listener = UnixListener::bind(folder.path().join("host")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for (name, is_explicit, status, part) in [
            ("host", true, Status::Ok, "a host answers"),
            ("none", true, Status::Ok, "a running host makes"),
            ("file", true, bad, "something else than a socket"),
            ("file", false, Status::Warn, "something else than a socket"),
            ("no/where", true, bad, "can't be made"),
            ("no/where", false, Status::Warn, "`alphorn ps`"),
        ] {
            let check = at(name, is_explicit);
            assert_eq!(check.status, status, "{name} {check:?}");
            assert!(format!("{check:?}").contains(part), "{name} {check:?}");
        }
        drop(listener);
        assert!(format!("{:?}", at("host", true)).contains("replaced by the next"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing was made");
    }
}
