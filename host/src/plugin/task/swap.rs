//! Another version takes over, stands its probation, or does not.
//!
//! ```text
//! load, instantiate │ message boundary │ old: stop │ snapshot │ new: start │ what waits
//! ```
//!
//! Everything up to the boundary happens beside the running version. What `stop` wrote, the
//! snapshot, the hand-over and which version is in force are one write: whenever the process
//! ends, the next one finds either the old version with its state, or the new one with what
//! it was handed.

use std::{
    collections::VecDeque,
    mem,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use tracing::{info, warn};

use super::{
    super::{
        bindings::exports::alphorn::plugin::guest::{StartInfo, StartReason, StopReason},
        component::{self, ComponentError, Loaded},
        handle::{Swap, SwapError},
        imports::Lent,
        lifecycle::State,
        probation::Probation,
        versions::digest,
    },
    Task, about,
};
use crate::{
    config::PluginConfig,
    link::{Delivery, Outcome},
    store::{Change, Installed, Saved},
};

impl Task {
    /// The version to begin with: the one in force when the host ended, unless another file
    /// has been configured since.
    pub(super) async fn choose(&mut self, saved: Saved) -> Result<Loaded, ComponentError> {
        let configured = digest_of(self.config.component.clone()).await;
        let Some(installed) = saved.installed.clone() else {
            self.installed.configured = configured.unwrap_or_default();
            return self.load_and_keep(self.config.component.clone()).await;
        };
        let is_same_file = configured.as_ref().is_none_or(|digest| *digest == installed.configured);
        let is_elsewhere = is_same_file && configured.as_ref() != Some(&installed.current);
        let kept = if is_elsewhere { self.surroundings.versions.find(&installed.current) } else { None };
        let loaded = match kept {
            Some(path) => {
                let file = self.config.component.display();
                match &configured {
                    Some(_) => info!("the version in force is not the one of {file}"),
                    None => warn!("{file} can't be read; the copy of the version in force is used"),
                }
                self.load(path).await?
            }
            None => self.load_and_keep(self.config.component.clone()).await?,
        };
        self.find_previous(&installed, &loaded).await;
        self.resume_probation(&installed, &loaded, saved);
        self.installed = installed;
        if let Some(configured) = configured {
            self.installed.configured = configured;
        }
        Ok(loaded)
    }

    /// The version before the one to begin with.
    async fn find_previous(&mut self, installed: &Installed, loaded: &Loaded) {
        let is_in_force = loaded.about.digest == installed.current;
        let before = if is_in_force { installed.previous.as_ref() } else { Some(&installed.current) };
        let Some(path) = before.and_then(|digest| self.surroundings.versions.find(digest)) else { return };
        match self.load(path).await {
            Ok(previous) => self.previous = Some((previous, self.config.clone())),
            Err(error) => warn!("the version before can't be loaded: {error}"),
        }
    }

    /// A probation that the end of the process has interrupted begins once more.
    fn resume_probation(&mut self, installed: &Installed, loaded: &Loaded, saved: Saved) {
        let Some(on_probation) = &installed.probation else { return };
        if loaded.about.digest != installed.current || self.previous.is_none() {
            self.write(vec![Change::Passed { plugin: self.name.clone() }]);
            return;
        }
        let mut probation = self.new_probation();
        probation.handed_over.clone_from(&on_probation.handed_over);
        probation.snapshot = saved.snapshot;
        for arrived in saved.kept {
            probation.keep(arrived.number, arrived.message);
        }
        self.probation = Some(probation);
    }

    /// Puts another version, or other settings, in place of what there is.
    pub(super) async fn swap(&mut self, swap: Swap) -> Result<(), SwapError> {
        let Swap { file, config, only_if_other } = swap;
        let config = config.unwrap_or_else(|| self.config.clone());
        let configured = digest_of(config.component.clone()).await;
        let loaded = match (file, self.version.clone()) {
            (Some(file), _) => self.load_and_keep(file).await?,
            (None, Some(version)) => {
                let is_known = configured.is_none() || configured.as_ref() == Some(&self.installed.configured);
                let is_known = is_known && config.component == self.config.component;
                let is_in_force = configured.as_ref() == Some(&version.about.digest);
                match (is_known || is_in_force, only_if_other) {
                    (true, true) => {
                        self.configured(configured);
                        return Ok(());
                    }
                    // Other settings for the version in force, wherever that came from.
                    (true, false) => version,
                    (false, _) => self.load_and_keep(config.component.clone()).await?,
                }
            }
            (None, None) => self.load_and_keep(config.component.clone()).await?,
        };
        self.configured(configured);
        self.put_in_place(loaded, config).await
    }

    /// The digest of the configured file, as far as it can be read.
    fn configured(&mut self, digest: Option<String>) {
        if let Some(digest) = digest {
            self.installed.configured = digest;
        }
    }

    async fn put_in_place(&mut self, loaded: Loaded, config: PluginConfig) -> Result<(), SwapError> {
        let instance = self.instantiate_with(&loaded, &config).await;
        let instance = instance.map_err(|fault| SwapError::Start(fault.to_string()))?;
        if *self.life.state() == State::Stopped {
            // Nobody has asked for it to run.
            self.replace(loaded, config);
            let changes = self.installed_now().into_iter().collect();
            self.write(changes);
            self.show();
            return Ok(());
        }
        let lives = self.running.is_some() || self.restart_at.is_some();
        let paused = Instant::now();
        let handed_over = self.stop_for_swap().await?;
        self.restart_at = None;
        let mut outcome = Outcome {
            changes: self.with_lent(Lent::writes).unwrap_or_default(),
            behind: self.end_probation().into_iter().collect(),
            ..Outcome::default()
        };
        self.discard();
        self.replace(loaded, config);
        if lives && self.previous.is_some() {
            let mut probation = self.new_probation();
            probation.handed_over.clone_from(&handed_over);
            probation.snapshot = self.with_lent(|lent| lent.state.snapshot()).unwrap_or_default();
            self.probation = Some(probation);
            outcome.behind.push(Change::Snapshot { plugin: self.name.clone() });
        }
        outcome.behind.extend(self.installed_now());
        if let Some((lent, _)) = &mut self.spare {
            lent.note_subscriptions();
            lent.client.end_call(outcome).await;
        }
        let previous_version = self.previous.as_ref().map(|(old, _)| old.about.version().to_owned());
        let previous_version = previous_version.as_deref();
        let info = StartInfo { reason: StartReason::Swap, previous_version, handed_over: handed_over.as_deref() };
        let started = self.start(instance, info).await;
        self.life.swapped(self.probation.is_some());
        if let Err(fault) = started {
            self.fault(&fault, None).await;
            return Err(SwapError::Start(fault.to_string()));
        }
        let version = self.version.as_ref().map(|loaded| loaded.about.version());
        info!(version, previous = previous_version, pause = ?paused.elapsed(), "a new version took over");
        self.counters.swaps.fetch_add(1, Relaxed);
        self.last_error = None;
        self.show();
        if self.probation.as_ref().is_some_and(|probation| probation.is_over(Instant::now())) {
            self.pass();
        }
        Ok(())
    }

    /// What the running instance hands over, if there is one. What it wrote is still to be accepted.
    async fn stop_for_swap(&mut self) -> Result<Option<Vec<u8>>, SwapError> {
        let Some(running) = &mut self.running else { return Ok(None) };
        match running.instance.stop(StopReason::Swap).await {
            Ok(result) => result.map_err(SwapError::Refused),
            Err(fault) => {
                self.fault(&fault, None).await;
                Err(SwapError::Stop(fault.to_string()))
            }
        }
    }

    /// Another version and its settings are in force; those there were become the ones before.
    fn replace(&mut self, loaded: Loaded, config: PluginConfig) {
        let old = self.version.replace(loaded);
        let old_config = self.config.clone();
        self.previous = old.map(|old| (old, old_config));
        self.configure(config);
    }

    /// The version on probation is gone: the one before comes back, with its own hand-over,
    /// the snapshot, and what was handled since.
    pub(super) async fn roll_back(&mut self, failing: Option<Delivery>) {
        let Some(mut probation) = self.probation.take() else { return };
        let Some((old, config)) = self.previous.take() else { return };
        self.life.passed();
        self.version = Some(old.clone());
        self.configure(config);
        if let Some((lent, mailbox)) = &mut self.spare {
            lent.state.restore(mem::take(&mut probation.snapshot));
            lent.release_new();
            let kept = probation.take_kept().into_iter().map(|(number, message)| mailbox.again(message, number));
            let mut again: VecDeque<_> = kept.collect();
            again.extend(failing.map(Delivery::again));
            again.extend(self.retries.drain());
            again.append(&mut self.again);
            self.again = again;
        }
        let mut changes = vec![Change::RolledBack { plugin: self.name.clone() }];
        changes.extend(self.installed_now());
        self.write(changes);
        let handed_over = probation.handed_over;
        let version = old.about.version().to_owned();
        self.begin(&old, StartReason::Rollback, Some(&version), handed_over.as_deref()).await;
    }

    /// Somebody wants the version before back.
    pub(super) async fn roll_back_as_told(&mut self) -> Result<(), SwapError> {
        let Some((old, config)) = self.previous.clone() else { return Err(SwapError::NoneBefore) };
        if self.probation.is_none() {
            return self.put_in_place(old, config).await;
        }
        info!("the version on probation is rolled back as told");
        if let Some(running) = &mut self.running {
            // It has no say in this, but may close what it has open.
            let _ = running.instance.stop(StopReason::Removed).await;
        }
        self.discard();
        self.restart_at = None;
        self.roll_back(None).await;
        match self.running {
            Some(_) => Ok(()),
            None => Err(SwapError::Start(self.last_error.clone().unwrap_or_default())),
        }
    }

    /// The version in force has stood its probation.
    pub(super) fn pass(&mut self) {
        let Some(passed) = self.end_probation() else { return };
        let mut changes = vec![passed];
        changes.extend(self.installed_now());
        self.write(changes);
        info!(version = self.version.as_ref().map(|loaded| loaded.about.version()), "the probation is over");
        self.show();
    }

    /// What it has not asked for again is given back.
    fn end_probation(&mut self) -> Option<Change> {
        self.probation.take()?;
        self.life.passed();
        self.with_lent(Lent::release_others);
        Some(Change::Passed { plugin: self.name.clone() })
    }

    fn new_probation(&self) -> Probation {
        let limits = &self.config.limits;
        Probation::new(Instant::now(), limits.probation_time, limits.probation_messages, limits.inbox_bytes)
    }

    /// Puts settings in force. No instance runs.
    fn configure(&mut self, config: PluginConfig) {
        let limits = config.limits;
        self.about = Arc::new(about(&self.name, &config, &self.surroundings));
        self.config = config;
        self.life.set_limits(limits.restart_max, limits.restart_within);
        if let Some((lent, mailbox)) = &mut self.spare {
            lent.configure(self.about.clone(), &limits);
            lent.client.set_limits(limits.outbox_bytes, limits.inbox_bytes);
            mailbox.set_limits(limits.mailbox_messages, limits.mailbox_bytes);
        }
    }

    fn with_lent<R>(&mut self, what: impl FnOnce(&mut Lent) -> R) -> Option<R> {
        match (&mut self.running, &mut self.spare) {
            (Some(running), _) => running.instance.lent_mut().map(what),
            (None, Some((lent, _))) => Some(what(lent)),
            (None, None) => None,
        }
    }

    fn write(&mut self, changes: Vec<Change>) {
        self.with_lent(|lent| lent.client.write(changes));
    }

    async fn load(&mut self, path: PathBuf) -> Result<Loaded, ComponentError> {
        let (engine, limits) = (self.surroundings.engine.clone(), self.config.limits.compile);
        component::load(&engine, &path, limits).await
    }

    /// Loads a file, and keeps a copy for a roll-back after the end of the process.
    async fn load_and_keep(&mut self, path: PathBuf) -> Result<Loaded, ComponentError> {
        let loaded = self.load(path.clone()).await?;
        let (versions, digest) = (self.surroundings.versions.clone(), loaded.about.digest.clone());
        let kept = tokio::task::spawn_blocking(move || versions.keep(&path, &digest)).await;
        if let Ok(Err(error)) = kept {
            warn!("no copy of {} can be kept for a roll-back: {error}", loaded.about.path.display());
        }
        Ok(loaded)
    }
}

async fn digest_of(path: PathBuf) -> Option<String> {
    tokio::task::spawn_blocking(move || digest(&path).ok()).await.ok().flatten()
}
