//! A plugin's folder: what it builds to, and what its `alphorn.toml` grants.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use alphorn::{
    builder,
    config::{self, Config, Overrides, PluginConfig},
};
use anyhow::{Context, anyhow, bail, ensure};
use tracing::{info, warn};

/// One folder given to `dev`.
pub(super) struct Project {
    pub(super) folder: PathBuf,
    /// The plugin's name: that in `alphorn.toml`, else the package's.
    pub(super) name: String,
    component: PathBuf,
    /// When it was written; cargo leaves it alone when nothing changed.
    written: Option<SystemTime>,
    /// The folder's configuration; only made up when it has none.
    config: String,
}

const CONFIG: &str = "alphorn.toml";

impl Project {
    pub(super) async fn build(folder: PathBuf) -> anyhow::Result<Self> {
        let folder = fs::canonicalize(&folder).with_context(|| format!("there is no folder {}", folder.display()))?;
        info!("building {}", folder.display());
        let built = builder::build(&folder).await?;
        let config = read(&folder, &built.name)?;
        let name = name(&folder, &config, built.name)?;
        let written = written(&built.component);
        Ok(Self { folder, name, component: built.component, written, config })
    }

    /// Builds it anew and reads its configuration again; whether either is other than before.
    pub(super) async fn rebuild(&mut self) -> anyhow::Result<bool> {
        let built = builder::build(&self.folder).await?;
        let (written, config) = (written(&built.component), read(&self.folder, &built.name)?);
        let name = name(&self.folder, &config, built.name)?;
        ensure!(name == self.name, "`{}` is called `{name}` now, which takes another `alphorn dev`", self.name);
        if beside_plugins(&config) != beside_plugins(&self.config) {
            let file = self.folder.join(CONFIG);
            warn!(
                "{}: what stands outside of [plugins] is read once, from the first folder: start `alphorn dev` again",
                file.display()
            );
        }
        let is_same = config == self.config && written.is_some() && written == self.written;
        (self.written, self.config, self.component) = (written, config, built.component);
        Ok(!is_same)
    }

    /// The folder's whole configuration; for a connection elsewhere than it says.
    pub(super) fn configuration(&self, overrides: &Overrides) -> anyhow::Result<Config> {
        let file = self.folder.join(CONFIG);
        Config::parse(&self.config, &self.folder, config::environment(), overrides)
            .map_err(|message| anyhow!("{}: {message}", file.display()))
    }

    /// What the plugin may do, and the component that was built.
    pub(super) fn plugin(&self, client_id: &str) -> anyhow::Result<PluginConfig> {
        let overrides = Overrides {
            url: Some("mqtt://localhost".to_owned()),
            client_id: Some(client_id.to_owned()),
            ..Overrides::default()
        };
        let mut config = self.configuration(&overrides)?;
        let plugin = config.plugins.remove(&self.name).with_context(|| format!("no [plugins.{}]", self.name))?;
        Ok(PluginConfig { component: self.component.clone(), ..plugin })
    }
}

/// The folder's `alphorn.toml`.
fn read(folder: &Path, built: &str) -> anyhow::Result<String> {
    let file = folder.join(CONFIG);
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            warn!(
                "{} is missing, so `{built}` may not publish or subscribe: list what it may do there",
                file.display()
            );
            Ok(format!("[plugins.{built}]\ncomponent = \"-\""))
        }
        Err(cause) => Err(anyhow!(cause).context(format!("can't read {}", file.display()))),
    }
}

/// What the plugin is called there, if it is that of the package.
fn name(folder: &Path, config: &str, built: String) -> anyhow::Result<String> {
    let file = folder.join(CONFIG);
    let table: toml::Table = config.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    let plugins = table.get("plugins").and_then(toml::Value::as_table);
    let names: Vec<_> = plugins.into_iter().flat_map(toml::Table::keys).collect();
    match names.as_slice() {
        [only] => Ok((*only).clone()),
        names if names.contains(&&built) => Ok(built),
        _ => bail!("{} has no [plugins.{built}]", file.display()),
    }
}

/// What a configuration says of all but plugins.
fn beside_plugins(config: &str) -> Option<toml::Table> {
    let mut table: toml::Table = config.parse().ok()?;
    table.remove("plugins");
    Some(table)
}

fn written(component: &Path) -> Option<SystemTime> {
    fs::metadata(component).and_then(|metadata| metadata.modified()).ok()
}

/// A path whose change says that the plugin has to be built again. What builds write and
/// hidden files do not, or each build would cause the next.
pub(super) fn is_source(folder: &Path, path: &Path) -> bool {
    let Ok(within) = path.strip_prefix(folder) else { return false };
    !builder::is_made_by_builds(within) && within != Path::new("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_may_do_is_told_from_the_rest() {
        let config = |topic: &str, url: &str| format!("[plugins.p]\npublish = [{topic:?}]\n[link]\nurl = {url:?}\n");
        let before = beside_plugins(&config("a", "mqtt://a"));
        assert_eq!(beside_plugins(&config("b", "mqtt://a")), before);
        assert_ne!(beside_plugins(&config("a", "mqtt://b")), before);
    }

    #[test]
    fn sources_are_told_from_what_a_build_writes() {
        let folder = Path::new("/p");
        for path in [
            "/p/src/lib.rs",
            "/p/Cargo.toml",
            "/p/data/table.csv",
            "/p/plugin.py",
            "/p/src/build/mod.rs",
            "/p/package.json",
            "/p/alphorn.toml",
        ] {
            assert!(is_source(folder, Path::new(path)), "{path}");
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
            assert!(!is_source(folder, Path::new(path)), "{path}");
        }
    }
}
