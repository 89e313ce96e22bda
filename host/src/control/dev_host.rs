//! Where the host of `alphorn dev` can be asked: a note in a folder of this user's, for commands in
//! other terminals.
//!
//! There is one note, that of the session started last. It counts as long as somebody answers at
//! its socket, so one that a session has left behind misleads nobody.

use std::{
    env, fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What commands need to know of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevHost {
    /// Its host's socket.
    pub socket: PathBuf,
    /// A configuration with its broker.
    pub config: PathBuf,
    /// Another broker than that one's.
    pub url: Option<String>,
    /// The folders of its plugins.
    pub folders: Vec<PathBuf>,
}

/// A note, which is there while this lives.
#[derive(Debug)]
pub struct Notice {
    path: PathBuf,
    text: String,
}

/// The note's name.
const FILE: &str = "dev.toml";

impl DevHost {
    /// Leaves a note, in place of an earlier session's.
    pub fn leave_word(&self) -> io::Result<Notice> {
        self.leave_word_in(&folder())
    }

    /// The session that is running, if one is.
    pub fn running() -> Option<Self> {
        Self::running_by(&folder())
    }

    fn leave_word_in(&self, folder: &Path) -> io::Result<Notice> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if !is_ours(folder) {
            return Err(io::Error::other(format!(
                "{} belongs to somebody else, or others may write there",
                folder.display()
            )));
        }
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        fs::write(file.path(), &text)?;
        let path = folder.join(FILE);
        file.persist(&path)?;
        Ok(Notice { path, text })
    }

    fn running_by(folder: &Path) -> Option<Self> {
        if !is_ours(folder) {
            return None;
        }
        let noted: Self = toml::from_str(&fs::read_to_string(folder.join(FILE)).ok()?).ok()?;
        UnixStream::connect(&noted.socket).is_ok().then_some(noted)
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // Not that of a session that was started since.
        if fs::read_to_string(&self.path).is_ok_and(|there| there == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Of this user's own, and gone with the login where the system sees to that.
fn folder() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => Path::new(&folder).join("alphorn"),
        None => env::temp_dir().join(format!("alphorn-{}", rustix::process::geteuid().as_raw())),
    }
}

/// Nobody else could have written what is there.
fn is_ours(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(folder)
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};

    use super::*;

    fn session(folder: &Path, name: &str) -> (DevHost, UnixListener) {
        let socket = folder.join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let config = folder.join("alphorn.toml");
        (DevHost { socket, config, url: Some("mqtt://a".to_owned()), folders: vec![folder.to_owned()] }, listener)
    }

    #[test]
    fn the_session_started_last_is_found_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes");
        assert_eq!(DevHost::running_by(&notes), None);
        let (first, one) = session(folder.path(), "one");
        let word = first.leave_word_in(&notes).unwrap();
        assert_eq!(DevHost::running_by(&notes).as_ref(), Some(&first));
        let (second, two) = session(folder.path(), "two");
        let other_word = second.leave_word_in(&notes).unwrap();
        drop((word, one));
        assert_eq!(DevHost::running_by(&notes).as_ref(), Some(&second), "the first takes only its own note away");
        drop(two);
        assert_eq!(DevHost::running_by(&notes), None, "killed: nobody answers");
        drop(other_word);
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
    }

    #[test]
    fn a_note_that_others_could_have_written_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes");
        let (session, _listening) = session(folder.path(), "one");
        let _word = session.leave_word_in(&notes).unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(DevHost::running_by(&notes), None);
        assert!(session.leave_word_in(&notes).is_err());
    }
}
