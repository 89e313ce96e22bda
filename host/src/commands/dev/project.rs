//! A plugin's folder, or a finished component: what it builds to, and what its `alphorn.toml` grants.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use alphorn::{
    builder::{self, Built},
    config::{self, Config, Overrides, PluginConfig},
    regular_file::{self, SETTINGS},
};
use anyhow::{Context, anyhow, bail, ensure};
use tracing::{info, warn};

use super::sources::{CONFIG, Sources};

/// One plugin given to `dev`.
pub(super) struct Project {
    pub(super) sources: Sources,
    /// The plugin's name: that in `alphorn.toml`, else the package's or the file's.
    pub(super) name: String,
    component: PathBuf,
    /// When it was written; cargo leaves it alone when nothing changed.
    written: Option<SystemTime>,
    /// The folder's configuration; only made up when it has none.
    config: String,
}

impl Project {
    pub(super) async fn build(given: PathBuf) -> anyhow::Result<Self> {
        let path =
            fs::canonicalize(&given).with_context(|| format!("there is no folder or file {}", given.display()))?;
        let sources = if path.is_dir() { Sources::Folder(path) } else { Sources::File(path) };
        let built = build(&sources).await?;
        let config = read(sources.folder(), &built.name)?;
        let name = name(&sources, &config, built.name)?;
        let written = written(&built.component);
        Ok(Self { sources, name, component: built.component, written, config })
    }

    /// Builds it anew and reads its configuration again; whether either is other than before.
    pub(super) async fn rebuild(&mut self) -> anyhow::Result<bool> {
        let built = build(&self.sources).await?;
        let folder = self.sources.folder();
        let (written, config) = (written(&built.component), read(folder, &built.name)?);
        let name = name(&self.sources, &config, built.name)?;
        ensure!(name == self.name, "`{}` is called `{name}` now, which takes another `alphorn dev`", self.name);
        if beside_plugins(&config) != beside_plugins(&self.config) {
            let file = folder.join(CONFIG);
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
        let folder = self.sources.folder();
        let file = folder.join(CONFIG);
        Config::parse(&self.config, folder, config::environment(), overrides)
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
    match regular_file::read_to_string(&file, SETTINGS) {
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

async fn build(sources: &Sources) -> anyhow::Result<Built> {
    if let Sources::Folder(folder) = sources {
        info!("building {}", folder.display());
    }
    builder::build(sources.path()).await
}

/// What the plugin is called there: as what was built, or the only one, or for a file the one whose
/// component that is.
fn name(sources: &Sources, config: &str, built: String) -> anyhow::Result<String> {
    let file = sources.folder().join(CONFIG);
    let table: toml::Table = config.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    let plugins = table.get("plugins").and_then(toml::Value::as_table);
    let plugins: Vec<_> = plugins.into_iter().flatten().collect();
    let is_its_component = |plugin: &toml::Value| {
        let component = plugin.get("component").and_then(toml::Value::as_str).map(Path::new);
        component.and_then(Path::file_name) == sources.path().file_name()
    };
    let named = match (sources, plugins.as_slice()) {
        (Sources::Folder(_), [(only, _)]) => Some(*only),
        (Sources::Folder(_), _) => None,
        (Sources::File(_), plugins) => {
            plugins.iter().find(|(_, plugin)| is_its_component(plugin)).map(|(name, _)| *name)
        }
    };
    match named {
        Some(name) => Ok(name.clone()),
        None if plugins.iter().any(|(name, _)| **name == built) => Ok(built),
        None => bail!("{} has no [plugins.{built}]", file.display()),
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
    fn a_finished_component_is_found_in_the_configuration_beside_it() {
        let config = "[plugins.a]\ncomponent = \"out/first.wasm\"\n[plugins.b]\ncomponent = \"second.wasm\"\n";
        let name = |file: &str, config: &str| {
            let file = Path::new("/p").join(file);
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            name(&Sources::File(file), config, stem)
        };
        assert_eq!(name("second.wasm", config).unwrap(), "b");
        assert_eq!(name("first.wasm", config).unwrap(), "a");
        assert_eq!(name("a.wasm", config).unwrap(), "a", "by its own name");
        let words = name("third.wasm", config).unwrap_err().to_string();
        assert!(words.contains("/p/alphorn.toml has no [plugins.third]"), "{words}");
    }
}
