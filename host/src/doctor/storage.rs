//! Where the host keeps what has to last: whether it can.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::report::{Check, Fault};
use crate::{config::DiskConfig, exposure};

/// The name of the check.
pub(super) const NAME: &str = "storage";

/// Writes a file and removes it, which a running host does not notice.
pub(super) fn check(disk: Option<&DiskConfig>) -> Check {
    let Some(disk) = disk else {
        return Check::ok(NAME, "in memory (`outbox.storage`): what waits is gone when the host ends");
    };
    let folder = &disk.folder;
    let shown = folder.display();
    let (place, found) = match fs::metadata(folder) {
        Ok(_) => (folder.clone(), format!("{shown}")),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            (nearest(folder), format!("{shown}, which the host makes at its first start"))
        }
        Err(cause) => return unusable(folder, &cause),
    };
    if let Err(cause) = tempfile::tempfile_in(&place).and_then(|mut file| io::Write::write_all(&mut file, &[0; 4096])) {
        return unusable(&place, &cause);
    }
    match rustix::fs::statvfs(&place) {
        Ok(system) => {
            let free = system.f_bavail.saturating_mul(system.f_frsize);
            let check = Check::ok(NAME, format!("{found}, {} free", bytesize::ByteSize::b(free).display().iec()));
            judge(check, &Seen { free, min_free: disk.min_free, rights: rights(folder) })
        }
        Err(cause) => unusable(&place, &cause.into()),
    }
}

/// What there is beside the folder itself.
#[derive(Debug, Default)]
struct Seen {
    free: u64,
    min_free: u64,
    /// Why others may get at what is there, and what to do about it.
    rights: Option<(String, String)>,
}

fn judge(check: Check, seen: &Seen) -> Check {
    let mut doubts = Vec::new();
    if seen.free < seen.min_free {
        doubts.push((
            format!(
                "less is free than is to be left ({}, `outbox.min_free`), so the host takes no new messages",
                bytesize::ByteSize::b(seen.min_free).display().iec()
            ),
            "make room, or lower `outbox.min_free`".to_owned(),
        ));
    }
    doubts.extend(seen.rights.clone());
    if doubts.is_empty() {
        return check;
    }
    let (causes, remedies): (Vec<_>, Vec<_>) = doubts.into_iter().unzip();
    check.spoilt(super::report::Status::Warn, causes.join("; "), remedies.join("; "))
}

fn unusable(path: &Path, cause: &io::Error) -> Check {
    let remedy = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on this file system",
        io::ErrorKind::ReadOnlyFilesystem => "mount it for writing, or set `host.data_dir` to another file system",
        io::ErrorKind::NotADirectory => "remove the file, or set `host.data_dir` to a folder",
        _ => {
            "let the user that runs the host write there, or set `host.data_dir` to a folder of its own; run doctor as \
             that user"
        }
    };
    let found = path.display().to_string();
    Check::fail(NAME, Fault::Configuration, found, format!("nothing can be written there ({cause})"), remedy)
}

/// The folder that is there and in which the missing ones would be made.
fn nearest(folder: &Path) -> PathBuf {
    let there = folder.ancestors().skip(1).find(|folder| folder.exists());
    match there {
        Some(there) if !there.as_os_str().is_empty() => there.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// What else is wrong with the rights of a folder that is there.
fn rights(folder: &Path) -> Option<(String, String)> {
    let metadata = fs::metadata(folder).ok()?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Some((
            format!("it belongs to another user (uid {}) than the one who asks (uid {own})", metadata.uid()),
            "run doctor as the user that runs the host; the folder has to be that one's".to_owned(),
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        return Some((
            "others on this device can read messages and state there, or change them".to_owned(),
            format!("chmod 700 {}", folder.display()),
        ));
    }
    let error = exposure::check_way(folder).err()?;
    let remedy = "let only root or this user write to each folder on the way to it";
    Some((format!("others on this device could put another folder in its place: {error}"), remedy.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{doctor::report::Status, journal::Commit};

    fn disk(folder: &Path, min_free: u64) -> DiskConfig {
        DiskConfig { folder: folder.to_owned(), min_free, commit: Commit::Call, keeps_outbox: true }
    }

    #[track_caller]
    fn says(check: &Check, status: Status, part: &str) {
        let text = format!("{check:?}");
        assert_eq!(check.status, status, "{text}");
        assert!(text.contains(part), "no {part:?} in {text}");
    }

    #[test]
    fn a_folder_that_can_be_used_or_made_is_fine_and_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        says(&check(Some(&disk(root.path(), 0))), Status::Ok, "free");
        says(&check(Some(&disk(&root.path().join("a/b"), 0))), Status::Ok, "makes at its first start");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        says(&check(None), Status::Ok, "in memory");
    }

    #[test]
    fn what_can_not_hold_anything_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        says(&check(Some(&disk(&file, 0))), Status::Fail(Fault::Configuration), "nothing can be written there");
        says(&check(Some(&disk(&file.join("data"), 0))), Status::Fail(Fault::Configuration), "host.data_dir");
    }

    #[test]
    fn little_room_and_wide_rights_are_worth_a_look() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        says(&check(Some(&disk(root.path(), 0))), Status::Warn, "chmod 700");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        says(&check(Some(&disk(root.path(), u64::MAX))), Status::Warn, "outbox.min_free");
    }
}
