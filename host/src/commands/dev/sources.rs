//! What a plugin of `dev` is made from, and so what is watched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use alphorn::builder;

/// What a plugin may do.
pub(super) const CONFIG: &str = "alphorn.toml";

/// A plugin's folder, or a finished component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sources {
    /// All in it, but what builds write there.
    Folder(PathBuf),
    /// One file, and the configuration beside it.
    File(PathBuf),
}

impl Sources {
    /// Whether it is one of them. What cargo and git write and editors' hidden files are not, or each
    /// build would cause the next.
    pub(super) fn contain(&self, path: &Path) -> bool {
        match self {
            Self::Folder(folder) => is_source(folder, path),
            Self::File(file) => path == file || path == self.folder().join(CONFIG),
        }
    }

    /// The folders that hold them. Not those of a build's output: it makes and removes folders there
    /// by the hundred.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let Self::Folder(top) = self else { return vec![self.folder().to_owned()] };
        let (mut found, mut next) = (Vec::new(), vec![top.clone()]);
        while let Some(folder) = next.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                // A link may lead anywhere, back to here for one.
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && is_source(top, &entry.path()) {
                    next.push(entry.path());
                }
            }
            found.push(folder);
        }
        found
    }

    /// The plugin's folder, where its `alphorn.toml` is.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::File(file) => file.parent().unwrap_or(Path::new(".")),
        }
    }

    /// As it was named.
    pub(super) fn path(&self) -> &Path {
        let (Self::Folder(path) | Self::File(path)) = self;
        path
    }
}

fn is_source(folder: &Path, path: &Path) -> bool {
    let Ok(within) = path.strip_prefix(folder) else { return false };
    !builder::is_made_by_builds(within) && within != Path::new("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_what_a_build_writes() {
        let sources = Sources::Folder("/p".into());
        for path in [
            "/p/src/lib.rs",
            "/p/Cargo.toml",
            "/p/data/table.csv",
            "/p/plugin.py",
            "/p/src/build/mod.rs",
            "/p/package.json",
            "/p/alphorn.toml",
        ] {
            assert!(sources.contain(Path::new(path)), "{path}");
        }
        for path in [
            "/p/target/x/y",
            "/p/.git/index",
            "/p/src/.lib.rs.swp",
            "/p/src/lib.rs~",
            "/p/Cargo.lock",
            "/p/build/p.wasm",
            "/p/dev.log",
            "/p/node_modules/x/index.js",
            "/p/package-lock.json",
            "/p/src/__pycache__/plugin.pyc",
            "/p/.venv/bin/python3",
            "/p",
            "/q/src/a",
        ] {
            assert!(!sources.contain(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn of_a_folder_only_what_holds_sources_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        for within in ["src/deep", "target/debug/deps", ".git/objects", "node_modules/x", "build/alphorn", "data"] {
            fs::create_dir_all(folder.path().join(within)).unwrap();
        }
        let mut found = Sources::Folder(folder.path().into()).folders();
        found.sort();
        assert_eq!(found, ["", "data", "src", "src/deep"].map(|within| folder.path().join(within)));
    }

    #[test]
    fn a_finished_component_is_watched_alone() {
        let file = Sources::File("/p/out/x.wasm".into());
        assert!(file.contain(Path::new("/p/out/x.wasm")) && file.contain(Path::new("/p/out/alphorn.toml")));
        assert!(!file.contain(Path::new("/p/out/y.wasm")));
        assert_eq!(file.folders(), [Path::new("/p/out")]);
    }
}
