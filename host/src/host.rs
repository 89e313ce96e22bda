//! Puts it together: plugins first, then the link; and takes it apart in the other order.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::RwLock, task::JoinSet, time::timeout};
use tracing::{error, info, warn};

use crate::{
    clock,
    config::{Config, DiskConfig, PluginConfig},
    journal::JournalSettings,
    link::{self, Disk, Link},
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
    link: String,
    disk: Option<DiskConfig>,
    trusted_keys: TrustedKeys,
}

impl Host {
    /// Lets all plugins start. The link does not connect before [`Host::open`]; in a runtime of tokio.
    pub fn start(mut config: Config, compiler: Compiler) -> Result<Self, StartError> {
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let fixed = Fixed::of(&config);
        let data_dir = config.disk.as_ref().map(|disk| disk.folder.clone());
        let disk = config.disk.map(open).transpose()?;
        let last = disk.as_ref().and_then(|disk| disk.restored.last);
        config.link.tls.not_before = Some(clock::not_before(last.as_ref()));
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
        for warning in &config.warnings {
            warn!("{warning}");
        }
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
            let wanted = || {
                let digests: Option<Vec<_>> = plugins.iter().map(|(_, plugin)| plugin.digests()).collect();
                Some(digests?.into_iter().flatten().collect())
            };
            if let Some(digests) = versions.tidy(wanted) {
                engine.keep_only(&digests);
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
            link: format!("{:?} {:?}", config.link, config.when_full),
            disk: config.disk.clone(),
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

/// Looks at the files of the TLS configuration, so that a missing one is found at the start.
pub fn check_files(config: &Config) -> Result<(), link::TlsError> {
    if config.link.url.is_tls() {
        link::client_config(&config.link.tls)?;
    }
    Ok(())
}
