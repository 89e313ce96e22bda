//! Puts it together: plugins first, then the link; and takes it apart in the other order.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{task::JoinSet, time::timeout};
use tracing::{error, warn};

use crate::{
    clock,
    config::{Config, DiskConfig},
    journal::JournalSettings,
    link::{self, Disk, Link},
    plugin::{self, LinkFacts, PluginHandle, State, engine::Engine},
    store::{Store, StoreError, StoreSettings},
};

/// A running host.
#[derive(Debug)]
pub struct Host {
    link: Arc<Link>,
    plugins: BTreeMap<String, PluginHandle>,
    grace: Duration,
}

impl Host {
    /// Starts all plugins, then lets the link connect: a session that the broker has kept
    /// finds its readers in place.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let facts = LinkFacts {
            client_id: config.link.client_id.clone(),
            max_payload: config.link.max_payload,
            when_full: config.when_full,
        };
        let disk = config.disk.map(open).transpose()?;
        let last = disk.as_ref().and_then(|disk| disk.restored.last);
        config.link.tls.not_before = Some(clock::not_before(last.as_ref()));
        let engine = Engine::new().context("the WebAssembly engine does not start")?;
        let link = Arc::new(Link::start(config.link, disk).context("the link's thread does not start")?);
        link.forget_others(&config.plugins.keys().map(String::as_str).collect::<Vec<_>>());
        let mut plugins = BTreeMap::new();
        let mut starting = JoinSet::new();
        for (name, plugin) in config.plugins {
            let patience = plugin.limits.start_deadline;
            let handle = plugin::spawn(&name, plugin, engine.clone(), link.clone(), facts.clone());
            let mut state = handle.state();
            starting.spawn(async move {
                // Compiling has no deadline of its own in this version; it does not hold up the others.
                let _ = timeout(patience, state.wait_for(|state| *state != State::Starting)).await;
            });
            plugins.insert(name, handle);
        }
        starting.join_all().await;
        link.open();
        Ok(Self { link, plugins, grace: config.shutdown_grace })
    }

    /// The running link.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// A plugin by its name.
    pub fn plugin(&self, name: &str) -> Option<&PluginHandle> {
        self.plugins.get(name)
    }

    /// Ends in good order within the grace period: no more deliveries, plugins stop, what
    /// they published leaves, DISCONNECT.
    pub async fn shutdown(self) {
        let end = Instant::now() + self.grace;
        self.link.quiet();
        let mut stopping = JoinSet::new();
        for (name, plugin) in self.plugins {
            stopping.spawn(async move {
                plugin.stop().await;
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
