//! Any other language: a command of the plugin's own, in `[build]` of its `alphorn.toml`.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Deserialize;
use tokio::process::Command;

use crate::regular_file::{self, SETTINGS};

use super::{Built, CONFIG, finish, support, tools, wit};

/// How to build.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// For `sh`, in the plugin's folder; `ALPHORN_WIT` names the folder of the WIT package.
    command: String,
    /// What it makes, a component or a core module.
    component: PathBuf,
}

impl Recipe {
    /// The folder's, if it has one.
    pub(super) fn of(folder: &Path) -> anyhow::Result<Option<Self>> {
        let file = folder.join(CONFIG);
        let text = match regular_file::read_to_string(&file, SETTINGS) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause).with_context(|| format!("can't read {}", file.display())),
        };
        let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
        let Some(build) = table.get("build") else { return Ok(None) };
        let recipe = build.clone().try_into();
        recipe.map(Some).with_context(|| {
            format!("[build] in {} needs `command`, and `component`, the file it makes", file.display())
        })
    }

    pub(super) async fn build(&self, folder: &Path) -> anyhow::Result<Built> {
        let wit = wit::write(&support(folder)?)?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&self.command).current_dir(folder).env("ALPHORN_WIT", wit);
        tools::run(shell, &format!("`{}`", self.command)).await?;
        let name = self.component.file_stem().context("`component` of [build] names no file")?;
        finish(folder, &name.to_string_lossy(), &folder.join(&self.component))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> anyhow::Result<Option<Recipe>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), text).unwrap();
        Recipe::of(folder.path())
    }

    #[test]
    fn a_folder_without_one_has_none() {
        assert!(recipe("[plugins.x]\ncomponent = \"x.wasm\"").unwrap().is_none());
        assert!(Recipe::of(Path::new("/no/where")).unwrap().is_none());
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let found = recipe("[build]\ncommand = \"make\"\ncomponent = \"x.wasm\"").unwrap().unwrap();
        assert_eq!((found.command.as_str(), found.component.as_path()), ("make", Path::new("x.wasm")));
        for text in ["[build]\ncommand = \"make\"", "[build]\ncommand = \"make\"\ncomponent = \"x\"\nshell = \"sh\""] {
            let words = format!("{:#}", recipe(text).unwrap_err());
            assert!(words.contains("[build]") && words.contains("alphorn.toml"), "{words}");
        }
    }
}
