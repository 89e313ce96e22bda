//! An `alphorn.toml`: settings of the link that fit the bed, and what the test adds.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Context as _, Result};

/// A configuration before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    folder: PathBuf,
    /// `[link]`: a line for each key.
    link: BTreeMap<String, String>,
    /// Where the host keeps what has to last; of each configuration its own.
    data_dir: String,
    is_on_disk: bool,
    rest: String,
}

impl Config {
    /// Nothing but where the broker is and what the device is called.
    pub(crate) fn new(folder: &Path, url: &str, rest: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let data_dir = format!("data-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let config = Self {
            folder: folder.to_owned(),
            link: BTreeMap::new(),
            data_dir,
            is_on_disk: true,
            rest: rest.to_owned(),
        };
        config
            .link(&format!("url = {url:?}"))
            .link("client_id = \"device\"")
            // Quick, so that tests are; the defaults have a test of their own.
            .link("backoff = { min = \"50ms\", max = \"200ms\" }")
    }

    /// A line of `[link]`, in place of one with the same key.
    #[must_use]
    pub(crate) fn link(mut self, line: &str) -> Self {
        let key = line.split(['=', ' ']).next().unwrap_or_default();
        self.link.insert(key.to_owned(), line.to_owned());
        self
    }

    /// The same host as that, with another configuration.
    #[must_use]
    pub(crate) fn in_place_of(mut self, other: &Self) -> Self {
        self.link.clone_from(&other.link);
        self.data_dir.clone_from(&other.data_dir);
        self
    }

    /// Keeps nothing: neither an outbox nor inboxes are on disk.
    #[must_use]
    pub(crate) fn in_memory(mut self) -> Self {
        self.is_on_disk = false;
        self
    }

    /// Keeps what has to last there.
    #[must_use]
    pub(crate) fn keeping(mut self, folder: &Path) -> Self {
        self.data_dir = folder.to_string_lossy().into_owned();
        self
    }

    /// Where the host keeps what has to last.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join(&self.data_dir)
    }

    /// Where the host can be asked.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}.sock", self.data_dir))
    }

    /// `[link]` without these keys.
    #[must_use]
    pub(crate) fn without(mut self, keys: &[&str]) -> Self {
        self.link.retain(|key, _| !keys.contains(&key.as_str()));
        self
    }

    /// Writes it to a file of its own and returns the path.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("alphorn-{}.toml", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.folder.join(name);
        self.write_to(&path)?;
        Ok(path)
    }

    /// Writes it to this file.
    pub(crate) fn write_to(&self, path: &Path) -> Result<()> {
        let link: Vec<_> = self.link.values().map(String::as_str).collect();
        // Where the test has a section [host], the folder goes into it.
        let socket = self.socket();
        let data_dir = match self.is_on_disk {
            true => format!("[host]\ndata_dir = {:?}\nsocket = {socket:?}\n", self.data_dir),
            false => format!("[host]\nsocket = {socket:?}\n[outbox]\nstorage = \"memory\"\n"),
        };
        let rest = match self.rest.split_once("[host]\n") {
            Some((before, host)) => format!("{before}{data_dir}{host}"),
            None => format!("{data_dir}{}", self.rest),
        };
        let text = format!("[link]\n{}\n{rest}", link.join("\n"));
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        // It may hold logins.
        Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
    }
}
