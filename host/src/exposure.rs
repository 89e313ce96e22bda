//! Who else on this device could read a secret file, or put something else in a folder's place.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What is wrong with a file that holds a secret, and the remedy; None: nothing, or it can't be looked at.
pub(crate) fn readable(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    is_for_everybody(metadata.mode()).then(|| {
        let path = path.display();
        format!("everybody on this device can read {path}, which holds a secret: chmod 600 {path}")
    })
}

/// Everybody may read it.
pub(crate) fn is_for_everybody(mode: u32) -> bool {
    mode & 0o004 != 0
}

/// A folder on a way through which another user could put something of his own at its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
struct Replaceable {
    path: PathBuf,
    why: &'static str,
}

impl From<Replaceable> for io::Error {
    fn from(replaceable: Replaceable) -> Self {
        Self::other(replaceable.to_string())
    }
}

/// Looks at a folder and at all above it, links followed: whoever may write to one of them could
/// exchange what is below. Another user may not be its owner either, since he could change that.
pub(crate) fn check_way(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    let own = rustix::process::geteuid().as_raw();
    for path in folder.ancestors() {
        let metadata = fs::symlink_metadata(path)?;
        if let Some(why) = weakness(metadata.mode(), metadata.uid(), metadata.gid(), own) {
            return Err(Replaceable { path: path.to_owned(), why }.into());
        }
    }
    Ok(())
}

/// Why another user could exchange what is in a folder.
fn weakness(mode: u32, owner: u32, group: u32, own: u32) -> Option<&'static str> {
    const STICKY: u32 = 0o1000;
    if owner != 0 && owner != own {
        return Some("it belongs to another user, who could exchange what is in it");
    }
    // Where that is set, only the owner of what is in it may exchange that.
    if mode & STICKY != 0 {
        return None;
    }
    if mode & 0o002 != 0 {
        return Some("everybody may exchange what is in it: chmod o-w");
    }
    // Many systems give each user a group of his own, with the same number, and let it write.
    let is_own_group = owner == own && owner != 0 && group == owner;
    (mode & 0o020 != 0 && !is_own_group).then_some("its group may exchange what is in it: chmod g-w")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_may_write_to_a_folder_could_exchange_what_is_in_it() {
        const ME: u32 = 1000;
        for (mode, owner, group) in [(0o755, 0, 0), (0o700, ME, ME), (0o1777, 0, 0), (0o1777, ME, 100), (0o775, ME, ME)]
        {
            assert_eq!(weakness(mode, owner, group, ME), None, "{mode:o} {owner} {group}");
        }
        for (mode, owner, group, words) in [
            (0o777, 0, 0, "o-w"),
            (0o757, ME, ME, "o-w"),
            (0o775, 0, 0, "g-w"),
            (0o775, ME, 100, "g-w"),
            (0o700, 1001, 1001, "another user"),
            (0o1777, 1001, 1001, "another user"),
        ] {
            let why = weakness(mode, owner, group, ME);
            assert!(why.is_some_and(|why| why.contains(words)), "{mode:o} {owner} {group}: {why:?}");
        }
    }

    #[test]
    fn the_whole_way_counts_and_links_lead_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let (lax, below) = (folder.path().join("lax"), folder.path().join("lax/below"));
        fs::create_dir_all(&below).unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&lax, fs::Permissions::from_mode(0o755)).unwrap();
        check_way(&below).unwrap();
        fs::set_permissions(&lax, fs::Permissions::from_mode(0o777)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&below, &link).unwrap();
        for way in [&below, &link] {
            let error = check_way(way).unwrap_err().to_string();
            assert!(error.contains("/lax: ") && error.contains("o-w"), "{error}");
        }
        assert!(check_way(&folder.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.key");
        assert_eq!(readable(&path), None);
        fs::write(&path, "").unwrap();
        for (mode, is_readable) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(readable(&path).is_some_and(|text| text.contains("chmod 600")), is_readable, "{mode:o}");
        }
    }
}
