//! Which component's file was replaced.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use alphorn::signature;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::timeout};
use tracing::warn;

/// Watches the folders components are in: a file that is replaced is another file.
pub(super) struct Files {
    changes: mpsc::Receiver<()>,
    /// Watching ends when it is dropped. None: nothing can be watched.
    watcher: Option<RecommendedWatcher>,
}

/// A copy takes several steps; it is done when there was none for this long.
const QUIET: Duration = Duration::from_millis(500);

impl Files {
    pub(super) fn watch(files: Vec<PathBuf>) -> Self {
        let (sender, changes) = mpsc::channel(1);
        // A signature may come after its file.
        let names = files.iter().flat_map(|file| [file.clone(), signature::beside(file)]);
        let names: BTreeSet<_> = names.filter_map(|file| file.file_name().map(ToOwned::to_owned)).collect();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            let changed = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_));
            if changed && event.paths.iter().any(|path| path.file_name().is_some_and(|name| names.contains(name))) {
                // Full: it is known already.
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            let here = |folder: PathBuf| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
            let folders: BTreeSet<_> = files.iter().filter_map(|file| Some(here(file.parent()?.to_owned()))).collect();
            for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
                watcher.watch(&folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        let watcher =
            watcher.inspect_err(|error| warn!("components can't be watched ({error}): SIGHUP looks for new ones")).ok();
        Self { changes, watcher }
    }

    /// Returns when some of them have changed, and are quiet again.
    pub(super) async fn changed(&mut self) {
        if self.watcher.is_none() || self.changes.recv().await.is_none() {
            return std::future::pending().await;
        }
        while matches!(timeout(QUIET, self.changes.recv()).await, Ok(Some(()))) {}
    }
}
