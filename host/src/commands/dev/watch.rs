//! Which plugin's sources were saved.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::Notify, time::timeout};
use tracing::warn;

use super::sources::Sources;

/// Watches what the plugins of `dev` are made from.
pub(super) struct Watch {
    sources: Vec<Sources>,
    saved: Arc<Saved>,
    /// Watching ends when it is dropped.
    watcher: RecommendedWatcher,
}

/// Plugins, by their place, with new sources that were not built since.
#[derive(Default)]
struct Saved {
    places: Mutex<BTreeSet<usize>>,
    more: Notify,
}

/// An editor writes a file in several steps; a save is what has been quiet for this long.
const QUIET: Duration = Duration::from_millis(200);

impl Watch {
    pub(super) fn start(sources: Vec<Sources>) -> anyhow::Result<Self> {
        let saved = Arc::new(Saved::default());
        let (watched, to) = (sources.clone(), saved.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            // Cargo opens and reads the sources too.
            let changed = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_));
            let is_of = |sources: &Sources| changed && event.paths.iter().any(|path| sources.contain(path));
            for (place, _) in watched.iter().enumerate().filter(|(_, sources)| is_of(sources)) {
                to.places.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
                to.more.notify_one();
            }
        })
        .context("folders can't be watched")?;
        let mut watch = Self { sources, saved, watcher };
        for place in 0..watch.sources.len() {
            watch.watch(place)?;
        }
        Ok(watch)
    }

    /// The places of plugins with new sources, once nothing more comes.
    pub(super) async fn saved(&mut self) -> BTreeSet<usize> {
        self.saved.more.notified().await;
        while timeout(QUIET, self.saved.more.notified()).await.is_ok() {}
        let places = std::mem::take(&mut *self.saved.places.lock().unwrap_or_else(PoisonError::into_inner));
        for place in &places {
            // Before they are built: what comes into a new folder from here on is another save.
            if let Err(error) = self.watch(*place) {
                warn!("{error:#}; what is saved there is not noticed");
            }
        }
        places
    }

    /// Each folder by itself. One that is watched already stays so.
    fn watch(&mut self, place: usize) -> anyhow::Result<()> {
        for folder in self.sources.get(place).map(Sources::folders).unwrap_or_default() {
            match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                // It was there a moment ago.
                Err(_) if !folder.exists() => {}
                watched => watched.with_context(|| format!("{} can't be watched", folder.display()))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_a_build_writes_is_no_save_and_a_new_folder_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        for folder in [&one, &two] {
            fs::create_dir_all(folder.join("src")).unwrap();
        }
        let mut watch = Watch::start(vec![Sources::Folder(one.clone()), Sources::Folder(two.clone())]).unwrap();
        let mut saved = async || timeout(Duration::from_secs(20), watch.saved()).await.unwrap();
        fs::create_dir_all(one.join("target/debug/incremental")).unwrap();
        fs::create_dir(two.join("src/parts")).unwrap();
        assert_eq!(saved().await, [1].into(), "only the second");
        fs::write(two.join("src/parts/mod.rs"), "").unwrap();
        assert_eq!(saved().await, [1].into(), "in the new folder");
        fs::remove_dir_all(two.join("src/parts")).unwrap();
        assert_eq!(saved().await, [1].into());
        fs::create_dir(two.join("src/parts")).unwrap();
        assert_eq!(saved().await, [1].into());
        fs::write(two.join("src/parts/mod.rs"), "").unwrap();
        assert_eq!(saved().await, [1].into(), "in one of the same name as before");
        fs::write(one.join("src/lib.rs"), "").unwrap();
        assert_eq!(saved().await, [0].into());
    }
}
