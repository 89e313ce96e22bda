//! The WIT package, which this program brings along: a plugin's folder needs no copy of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use wit_parser::{Resolve, SourceMap, WorldId};

/// The world that a plugin is.
pub const WORLD: &str = "plugin";

/// Its files, as `wit/` of Alphorn's sources has them.
pub const FILES: [(&str, &str); 7] = [
    ("guest.wit", include_str!("../../../wit/guest.wit")),
    ("host.wit", include_str!("../../../wit/host.wit")),
    ("mqtt.wit", include_str!("../../../wit/mqtt.wit")),
    ("state.wit", include_str!("../../../wit/state.wit")),
    ("timers.wit", include_str!("../../../wit/timers.wit")),
    ("types.wit", include_str!("../../../wit/types.wit")),
    ("world.wit", include_str!("../../../wit/world.wit")),
];

/// Writes it for a toolchain that reads it; the folder.
pub(super) fn write(support: &Path) -> anyhow::Result<PathBuf> {
    let folder = support.join("wit");
    for (name, text) in FILES {
        super::write(&folder.join(name), text)?;
    }
    Ok(folder)
}

/// The package in memory.
pub fn resolve() -> anyhow::Result<(Resolve, WorldId)> {
    let mut sources = SourceMap::new();
    for (name, text) in FILES {
        sources.push_str(name, text);
    }
    let parsed = sources.parse().map_err(|(_, error)| anyhow!("{error}")).context("the WIT package")?;
    let mut resolve = Resolve::default();
    let package = resolve.push_group(parsed)?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    Ok((resolve, world))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_the_package_are_here() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let names: Vec<_> = super::super::names(&folder).unwrap();
        assert_eq!(names, FILES.map(|(name, _)| name));
        let (resolve, world) = resolve().unwrap();
        assert_eq!(resolve.worlds[world].name, WORLD);
    }
}
