//! Which folder was saved.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::Notify, time::timeout};

use super::project::is_source;

/// Watches the folders of `dev`.
pub(super) struct Watch {
    saved: Arc<Saved>,
    /// Watching ends when it is dropped.
    _watcher: RecommendedWatcher,
}

/// Folders with new sources that were not built since.
#[derive(Default)]
struct Saved {
    folders: Mutex<BTreeSet<PathBuf>>,
    more: Notify,
}

/// An editor writes a file in several steps; a save is what has been quiet for this long.
const QUIET: Duration = Duration::from_millis(200);

impl Watch {
    pub(super) fn start(folders: Vec<PathBuf>) -> anyhow::Result<Self> {
        let saved = Arc::new(Saved::default());
        let (watched, to) = (folders.clone(), saved.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            // Cargo opens and reads the sources too.
            let changed = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_));
            let saved = |folder: &&PathBuf| changed && event.paths.iter().any(|path| is_source(folder, path));
            for folder in folders.iter().filter(saved) {
                to.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone());
                to.more.notify_one();
            }
        })
        .context("folders can't be watched")?;
        for folder in &watched {
            let started = watcher.watch(folder, RecursiveMode::Recursive);
            started.with_context(|| format!("{} can't be watched", folder.display()))?;
        }
        Ok(Self { saved, _watcher: watcher })
    }

    /// Folders with new sources, once nothing more comes.
    pub(super) async fn saved(&self) -> BTreeSet<PathBuf> {
        self.saved.more.notified().await;
        while timeout(QUIET, self.saved.more.notified()).await.is_ok() {}
        std::mem::take(&mut self.saved.folders.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
