//! Which folder was saved.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::timeout};

use super::project::is_source;

/// Watches the folders of `dev`.
pub(super) struct Watch {
    saved: mpsc::Receiver<PathBuf>,
    /// Watching ends when it is dropped.
    _watcher: RecommendedWatcher,
}

/// An editor writes a file in several steps; a save is what has been quiet for this long.
const QUIET: Duration = Duration::from_millis(200);

impl Watch {
    pub(super) fn start(folders: Vec<PathBuf>) -> anyhow::Result<Self> {
        // What does not fit while a build runs says nothing that the waiting ones do not say.
        let (sender, saved) = mpsc::channel(64);
        let watched = folders.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            // Cargo opens and reads the sources too.
            let changed = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_));
            let saved = |folder: &&PathBuf| changed && event.paths.iter().any(|path| is_source(folder, path));
            for folder in folders.iter().filter(saved) {
                let _ = sender.try_send(folder.clone());
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
    pub(super) async fn saved(&mut self) -> Vec<PathBuf> {
        let Some(first) = self.saved.recv().await else { return std::future::pending().await };
        let mut folders = vec![first];
        while let Ok(Some(folder)) = timeout(QUIET, self.saved.recv()).await {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }
}
