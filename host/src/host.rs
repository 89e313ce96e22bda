//! Puts it together: plugins first, then the link; and takes it apart in the other order.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::RwLock, task::JoinSet, time::timeout};
use tracing::{error, info, warn};

use crate::{
    clock,
    config::{Config, DiskConfig, PluginConfig, SocketConfig},
    exposure,
    journal::JournalSettings,
    link::{self, Disk, Link, LinkSettings, WhenFull},
    plugin::{PluginHandle, Surroundings, Versions, compile::Compiler, engine::Engine},
    signature::TrustedKeys,
    store::{Store, StoreError, StoreSettings},
};

/// A running host.
#[derive(Debug)]
pub struct Host {
    link: Arc<Link>,
    /// Written to by a reload only.
    plugins: RwLock<BTreeMap<String, Plugin>>,
    surroundings: Surroundings,
    /// What takes a restart to change.
    fixed: Fixed,
    grace: Duration,
}

#[derive(Debug)]
struct Plugin {
    handle: Arc<PluginHandle>,
    /// The configured file.
    component: PathBuf,
    /// How long the link waits for it to start.
    patience: Duration,
}

/// Settings that are in force until the process ends, for comparing.
#[derive(Debug, PartialEq)]
struct Fixed {
    link: LinkSettings,
    when_full: WhenFull,
    disk: Option<DiskConfig>,
    socket: SocketConfig,
    shutdown_grace: Duration,
    trusted_keys: TrustedKeys,
}

impl Host {
    /// Lets all plugins start. The link does not connect before [`Host::open`]; in a runtime of tokio.
    pub fn start(mut config: Config, compiler: Compiler) -> Result<Self, StartError> {
        warn_about(&config);
        let fixed = Fixed::of(&config);
        let data_dir = config.disk.as_ref().map(|disk| disk.folder.clone());
        let disk = config.disk.map(open).transpose()?;
        if let Some(Err(error)) = data_dir.as_deref().map(exposure::check_way) {
            warn!("host.data_dir: what is kept there is not safe from others on this device: {error}");
        }
        let trusted = disk.as_ref().and_then(|disk| disk.restored.trusted);
        config.link.tls.not_before = Some(clock::not_before(trusted));
        let (client_id, max_payload) = (config.link.client_id.as_str().into(), config.link.max_payload);
        let link = Arc::new(Link::start(config.link, disk).context("the link's thread does not start")?);
        link.forget_others(&config.plugins.keys().map(String::as_str).collect::<Vec<_>>());
        let surroundings = Surroundings {
            engine: Engine::new(compiler, data_dir.as_deref(), config.when_full)
                .context("the WebAssembly engine does not start")?
                .trusting(config.trusted_keys),
            link: link.clone(),
            versions: Versions::within(data_dir.as_deref()),
            client_id,
            max_payload,
            when_full: config.when_full,
        };
        let spawn = |(name, config): (String, _)| {
            let plugin = Plugin::spawn(&name, config, &surroundings);
            (name, plugin)
        };
        let plugins = RwLock::new(config.plugins.into_iter().map(spawn).collect());
        Ok(Self { link, plugins, surroundings, fixed, grace: config.shutdown_grace })
    }

    /// Waits until the plugins have started, then lets the link connect: a session that the
    /// broker has kept finds its readers in place.
    pub async fn open(&self) {
        let mut starting = JoinSet::new();
        for Plugin { handle, patience, .. } in self.plugins.read().await.values() {
            // Compiling has a deadline of its own; it does not hold up the others.
            starting.spawn(timeout(*patience, handle.started()));
        }
        starting.join_all().await;
        self.link.open();
        self.drop_old_versions().await;
    }

    /// The device's name at the broker.
    pub fn client_id(&self) -> &str {
        &self.surroundings.client_id
    }

    /// The running link.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// A plugin by its name.
    pub async fn plugin(&self, name: &str) -> Option<Arc<PluginHandle>> {
        self.plugins.read().await.get(name).map(|plugin| plugin.handle.clone())
    }

    /// All plugins, by name.
    pub async fn plugins(&self) -> Vec<(String, Arc<PluginHandle>)> {
        self.plugins.read().await.iter().map(|(name, plugin)| (name.clone(), plugin.handle.clone())).collect()
    }

    /// The files of the configured components.
    pub async fn components(&self) -> Vec<PathBuf> {
        self.plugins.read().await.values().map(|plugin| plugin.component.clone()).collect()
    }

    /// Puts another configuration's plugins in force: new ones start, missing ones end,
    /// changed ones are swapped; the others do not notice.
    pub async fn reload(&self, config: Config) {
        warn_about(&config);
        if Fixed::of(&config) != self.fixed {
            warn!("[host], [link] or [outbox] differ from what is in force: that takes a restart");
        }
        let mut plugins = self.plugins.write().await;
        let is_wanted = |name: &String| config.plugins.contains_key(name);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut *plugins).into_iter().partition(|(name, _)| is_wanted(name));
        *plugins = kept;
        let mut work = JoinSet::new();
        for (name, plugin) in gone {
            info!(plugin = name, "no longer configured: ends");
            let link = self.link.clone();
            work.spawn(async move {
                plugin.handle.remove().await;
                link.forget(&name);
            });
        }
        for (name, config) in config.plugins {
            match plugins.get_mut(&name) {
                None => {
                    info!(plugin = name, "newly configured: starts");
                    plugins.insert(name.clone(), Plugin::spawn(&name, config, &self.surroundings));
                }
                Some(plugin) => {
                    plugin.component.clone_from(&config.component);
                    plugin.patience = config.limits.start_deadline;
                    let handle = plugin.handle.clone();
                    work.spawn(async move {
                        if handle.configure(config).await.is_err() {
                            // The plugin has said why.
                            warn!(plugin = name, "the reload left this plugin as it was; the next one tries again");
                        }
                    });
                }
            }
        }
        drop(plugins);
        work.join_all().await;
        self.drop_old_versions().await;
    }

    /// Configured files may have changed.
    pub async fn refresh(&self) {
        for (_, plugin) in self.plugins().await {
            // Where it fails, the plugin says why, and goes on.
            let _ = plugin.refresh().await;
        }
        self.drop_old_versions().await;
    }

    /// Ends in good order within the grace period: no more deliveries, plugins stop, what
    /// they published leaves, DISCONNECT.
    pub async fn shutdown(&self) {
        let end = Instant::now() + self.grace;
        self.link.quiet();
        let mut stopping = JoinSet::new();
        for (name, plugin) in std::mem::take(&mut *self.plugins.write().await) {
            stopping.spawn(async move {
                plugin.handle.shut_down().await;
                name
            });
        }
        let mut stopped = Vec::new();
        let all = async {
            while let Some(name) = stopping.join_next().await {
                stopped.extend(name);
            }
        };
        if timeout(self.grace, all).await.is_err() {
            warn!(stopped = stopped.join(", "), "not all plugins stopped within `shutdown_grace`");
        }
        self.link.close(end.saturating_duration_since(Instant::now())).await;
    }

    /// Keeps only the versions that are in force or could come back; all of them, as long as
    /// that is not known of each plugin.
    pub async fn drop_old_versions(&self) {
        let plugins = self.plugins().await;
        let (versions, engine) = (self.surroundings.versions.clone(), self.surroundings.engine.clone());
        let tidy = move || {
            let mut loaded = HashSet::new();
            let wanted = || {
                let digests: Option<Vec<_>> = plugins.iter().map(|(_, plugin)| plugin.digests()).collect();
                let digests = digests?;
                loaded.extend(digests.iter().flat_map(|digests| digests.loaded.clone()));
                Some(digests.into_iter().flat_map(|digests| digests.kept).collect())
            };
            if versions.tidy(wanted).is_some() {
                engine.keep_only(&loaded);
            }
        };
        let _ = tokio::task::spawn_blocking(tidy).await;
    }
}

impl Plugin {
    fn spawn(name: &str, config: PluginConfig, surroundings: &Surroundings) -> Self {
        let (component, patience) = (config.component.clone(), config.limits.start_deadline);
        Self { handle: Arc::new(PluginHandle::spawn(name, config, surroundings.clone())), component, patience }
    }
}

impl Fixed {
    fn of(config: &Config) -> Self {
        Self {
            link: config.link.clone(),
            when_full: config.when_full,
            disk: config.disk.clone(),
            socket: config.socket.clone(),
            shutdown_grace: config.shutdown_grace,
            trusted_keys: config.trusted_keys.clone(),
        }
    }
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is to last can't be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that should always work.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Opens what is kept on disk.
fn open(config: DiskConfig) -> Result<Disk, StoreError> {
    let DiskConfig { folder, min_free, commit, keeps_outbox } = config;
    let (store, restored) = Store::open(&StoreSettings { folder, min_free })?;
    if let Some(damage) = &restored.damage {
        error!("{damage}");
    }
    Ok(Disk { store, restored, settings: JournalSettings { commit }, keeps_outbox })
}

/// What is as it should not be, and works all the same.
fn warn_about(config: &Config) {
    let key = config.link.tls.identity.as_ref().and_then(|(_, key)| exposure::readable(key));
    for warning in config.warnings.iter().cloned().chain(key.map(|why| format!("link.key: {why}"))) {
        warn!("{warning}");
    }
}

/// Looks at the files of the TLS configuration, so that a missing one is found at the start.
pub fn check_files(config: &Config) -> Result<(), link::TlsError> {
    if config.link.url.is_tls() {
        link::client_config(&config.link.tls)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::Overrides;

    /// What takes a restart of a configuration with this in it.
    fn fixed(folder: &Path, host: &str, link: &str, proxy: &str) -> Fixed {
        let text = format!(
            "[host]\ndata_dir = \"data\"\n{host}\n[link]\nurl = \"wss://broker/mqtt\"\nclient_id = \"gateway-7\"\n\
             username = \"me\"\n{link}\n"
        );
        let environment = [("HTTPS_PROXY".to_owned(), proxy.to_owned())];
        let environment = environment.into_iter().filter(|(_, proxy)| !proxy.is_empty());
        Fixed::of(&Config::parse(&text, folder, environment, &Overrides::default()).unwrap())
    }

    #[test]
    fn a_changed_setting_is_seen_also_where_it_is_secret() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let of = |host: &str, link: &str| fixed(folder, host, link, "");
        let password = "password_file = \"password\"";
        fs::write(folder.join("password"), "one").unwrap();
        let before = of("", password);
        assert!(before == of("", password));
        fs::write(folder.join("password"), "two").unwrap();
        assert!(before != of("", password), "the password");
        let header = |value| of("", &format!("headers = {{ Authorization = \"{value}\" }}"));
        assert!(header("one") == header("one") && header("one") != header("two"), "a header");
        let proxy = |login| of("", &format!("proxy = \"http://{login}@proxy:3128\""));
        assert!(proxy("me:one") == proxy("me:one") && proxy("me:one") != proxy("me:two"), "the proxy's login");
        let from_outside = |login| fixed(folder, "", "", &format!("http://{login}@proxy:3128"));
        assert!(from_outside("me:one") != from_outside("me:two"), "the same from the environment");
        for (host, link) in [
            ("socket = \"other\"", ""),
            ("shutdown_grace = \"1s\"", ""),
            ("", "keep_alive = \"30s\""),
            ("", "[outbox]\nwhen_full = \"block\""),
            ("", "[outbox]\nmax_bytes = \"1MiB\""),
            ("", "[outbox]\ncommit = \"50ms\""),
        ] {
            assert!(of("", "") != of(host, link), "{host}{link}");
        }
    }
}
