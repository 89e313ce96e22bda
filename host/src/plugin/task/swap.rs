//! Another version takes over, stands its probation, or does not.
//!
//! ```text
//! load, instantiate │ message boundary │ old: stop │ snapshot │ new: start │ what waits
//! ```
//!
//! Everything up to the boundary happens beside the running version, which goes on meanwhile.
//! What `stop` wrote, the snapshot, the hand-over and which version is in force are one write:
//! whenever the process ends, the next one finds either the old version with its state, or the
//! new one with what it was handed.

use std::{
    collections::VecDeque,
    mem,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use bytes::Bytes;
use tracing::{error, info, warn};

use super::{
    super::{
        bindings::exports::alphorn::plugin::guest::{StartInfo, StartReason, StopReason},
        component::{self, ComponentError, Loaded},
        guest::Guest,
        handle::{InForce, Reply, Request, RollBack, Surroundings, Swap, SwapError},
        history::{History, NotFound, names, short},
        lent::Lent,
        lifecycle::State,
        probation::Probation,
        versions::{InUse, digest},
    },
    Task, about,
};
use crate::{
    config::PluginConfig,
    link::{Delivery, Outcome},
    message::Qos,
    regular_file,
    store::{Change, Installed, Saved},
    topic::TopicFilter,
};

/// Why a version was rolled back that has not failed.
const AS_TOLD: &str = "as told";

/// What is to take over, while it is made ready.
pub(super) struct Preparing {
    ready: Pin<Box<dyn Future<Output = Result<Box<Ready>, SwapError>> + Send>>,
    /// Who waits for it.
    reply: Reply,
}

/// A version that is ready to take over.
pub(super) struct Ready {
    config: PluginConfig,
    /// The digest of the configured file, as far as it can be read.
    configured: Option<String>,
    /// None: it is what is in force.
    candidate: Option<(Loaded, Guest)>,
    /// The digest of the version these are the settings of, where that is the one that was in force.
    settings_of: Option<String>,
    /// Somebody has told to go back to it: for good, and whatever the version in force says.
    is_return: bool,
    _in_use: InUse,
}

/// Where a roll-back goes.
enum Target {
    /// To the version before, which is loaded, with the settings it had.
    Previous(Loaded, Box<PluginConfig>),
    /// To one of this digest on disk.
    Kept(String),
}

impl Target {
    fn digest(&self) -> &str {
        match self {
            Self::Previous(loaded, _) => &loaded.about.digest,
            Self::Kept(digest) => digest,
        }
    }
}

/// When it is ready, or can't be. Safe to drop: it goes on where it was.
pub(super) async fn ready(preparing: &mut Option<Preparing>) -> Result<Box<Ready>, SwapError> {
    match preparing {
        Some(preparing) => preparing.ready.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Task {
    /// The version to begin with: the one in force when the host ended, unless another file
    /// has been configured since.
    pub(super) async fn choose(&mut self, saved: Saved) -> Result<Loaded, ComponentError> {
        let file = self.config.component.clone();
        let configured = digest_of(&self.surroundings, file.clone()).await;
        let Some(installed) = saved.installed.clone() else {
            self.configured = configured.unwrap_or_default();
            return self.load_and_keep(file).await;
        };
        let is_same_file = configured.as_ref().is_none_or(|digest| *digest == installed.configured);
        let is_elsewhere = is_same_file && configured.as_ref() != Some(&installed.current);
        let kept = if is_elsewhere { self.surroundings.versions.find(&installed.current) } else { None };
        let loaded = match kept {
            Some(path) => {
                match &configured {
                    Some(_) => info!("the version in force is not the one of {}", file.display()),
                    None => warn!("{} can't be read; the copy of the version in force is used", file.display()),
                }
                self.load(path).await?
            }
            None => self.load_and_keep(file).await?,
        };
        self.history = History::new(installed.past.clone());
        if loaded.about.digest != installed.current {
            self.history.gave_way(&installed.current);
        }
        self.history.in_force(&loaded.about.digest);
        self.find_previous(&installed, &loaded).await;
        self.configured = configured.unwrap_or_else(|| installed.configured.clone());
        self.installed = installed;
        self.resume_probation(&loaded, saved);
        Ok(loaded)
    }

    /// The version before the one to begin with: the one to come back should a probation fail that
    /// goes on, else the one a roll-back would go to.
    async fn find_previous(&mut self, installed: &Installed, loaded: &Loaded) {
        let is_in_force = loaded.about.digest == installed.current;
        let before = match &installed.previous {
            Some(previous) if is_in_force && installed.probation.is_some() => Some(previous.as_str()),
            _ => self.history.target(),
        };
        let Some(path) = before.and_then(|digest| self.surroundings.versions.find(digest)) else { return };
        match self.load(path).await {
            Ok(previous) => self.previous = Some((previous, self.config.clone())),
            Err(error) => warn!("the version before can't be loaded: {error}"),
        }
    }

    /// A probation that the end of the process has interrupted begins once more.
    fn resume_probation(&mut self, loaded: &Loaded, saved: Saved) {
        let Some(on_probation) = &self.installed.probation else { return };
        if loaded.about.digest != self.installed.current || self.previous.is_none() {
            self.write(vec![Change::Passed { plugin: self.name.clone() }]);
            return;
        }
        let mut probation = self.new_probation();
        probation.handed_over.clone_from(&on_probation.handed_over);
        let parsed = |(filter, at_least_once): &(String, bool)| {
            let qos = if *at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce };
            Some((TopicFilter::parse(filter.clone()).ok()?, qos))
        };
        probation.subscriptions = on_probation.subscriptions.iter().filter_map(parsed).collect();
        probation.snapshot = saved.snapshot;
        for arrived in saved.kept {
            probation.keep(arrived.number, arrived.message);
        }
        self.probation = Some(probation);
        self.lent().map(Lent::ask_for_all);
    }

    /// Begins to make another version, or the same with other settings, ready.
    pub(super) fn prepare(&mut self, swap: Swap, reply: Reply) {
        let Swap { file, config } = swap;
        let config = config.unwrap_or_else(|| self.config.clone());
        let (is_same, is_same_path) = (config == self.config, config.component == self.config.component);
        let (version, known) = (self.version.clone(), self.configured.clone());
        let surroundings = self.surroundings.clone();
        let ready = async move {
            let in_use = surroundings.versions.hold().await;
            let configured = digest_of(&surroundings, config.component.clone()).await;
            let is_known = is_same_path && configured.as_ref().is_none_or(|digest| *digest == known);
            let in_force = version
                .filter(|version| file.is_none() && (is_known || configured.as_ref() == Some(&version.about.digest)));
            let settings_of = in_force.as_ref().map(|version| version.about.digest.clone());
            let loaded = match in_force {
                Some(_) if is_same => {
                    return Ok(Box::new(Ready {
                        config,
                        configured,
                        candidate: None,
                        settings_of,
                        is_return: false,
                        _in_use: in_use,
                    }));
                }
                // Other settings for the version in force, wherever that came from.
                Some(version) => version,
                None => {
                    let file = file.unwrap_or_else(|| config.component.clone());
                    load_and_keep(&surroundings, file, &config).await?
                }
            };
            let ready = make(&surroundings, loaded, config, configured, in_use).await?;
            Ok(Box::new(Ready { settings_of, ..*ready }))
        };
        self.preparing = Some(Preparing { ready: Box::pin(ready), reply });
    }

    /// Somebody wants a version back. It stays: it has no probation, and what was in force before is not
    /// gone back to unless it is named.
    pub(super) async fn roll_back_as_told(&mut self, roll_back: RollBack, reply: Reply) {
        let target = match self.target(roll_back.to.as_deref()) {
            Ok(target) => target,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let instead_of = self.version.as_ref().map(|version| version.about.digest.clone());
        let in_force = InForce { digest: target.digest().to_owned(), instead_of };
        if roll_back.dry_run {
            let _ = reply.send(Ok(in_force));
            return;
        }
        info!(to = short(&in_force.digest), from = in_force.instead_of.as_deref().map(short), "rolling back as told");
        if self.probation.is_none() {
            let (surroundings, config) = (self.surroundings.clone(), self.config.clone());
            let ready = async move {
                let in_use = surroundings.versions.hold().await;
                let (version, config) = match target {
                    Target::Previous(version, config) => (version, *config),
                    Target::Kept(digest) => (load_kept(&surroundings, &digest, &config).await?, config),
                };
                let ready = make(&surroundings, version, config, None, in_use).await?;
                Ok(Box::new(Ready { is_return: true, ..*ready }))
            };
            self.preparing = Some(Preparing { ready: Box::pin(ready), reply });
            return;
        }
        if let Some(instance) = &mut self.instance {
            // It has no say in this, but may close what it has open.
            let _ = instance.stop(StopReason::Removed).await;
        }
        let is_stopped = *self.life.state() == State::Stopped;
        self.discard();
        self.restart_at = None;
        let handed_over = self.return_to_previous(None, AS_TOLD);
        if is_stopped {
            self.show();
        } else {
            self.begin_again(handed_over).await;
        }
        let result = match self.instance {
            None if !is_stopped => Err(SwapError::Start(self.last_error.clone().unwrap_or_default())),
            _ => Ok(in_force),
        };
        let _ = reply.send(result);
    }

    /// The version a roll-back goes to.
    fn target(&self, named: Option<&str>) -> Result<Target, SwapError> {
        let previous = self.previous.as_ref().map(|(version, config)| (&version.about.digest, version, config));
        let is_meant = |digest: &str| named.is_none_or(|named| names(named, digest));
        if let Some((_, version, config)) = previous.filter(|(digest, ..)| is_meant(digest)) {
            return Ok(Target::Previous(version.clone(), Box::new(config.clone())));
        }
        if let Some(version) = self.version.as_ref().filter(|_| named.is_some())
            && is_meant(&version.about.digest)
        {
            return Err(SwapError::InForce(version.about.digest.clone()));
        }
        let found = match named {
            Some(named) => self.history.find(named).map_err(|NotFound(text)| SwapError::Unknown(text))?,
            None => self.history.target().ok_or_else(|| SwapError::NoneBefore(self.none_before()))?,
        };
        if self.probation.is_some() {
            return Err(SwapError::OnProbation);
        }
        Ok(Target::Kept(found.to_owned()))
    }

    /// What there is where there is nothing to go back to.
    fn none_before(&self) -> String {
        let remedy = if self.history.past().is_empty() { "" } else { "; `--to VERSION` goes there all the same" };
        format!("{}{remedy}", self.history.listed())
    }

    /// What was made ready is put in force, or why not is told; what waited for that is next.
    pub(super) async fn take_over(&mut self, ready: Result<Box<Ready>, SwapError>) {
        let Some(Preparing { reply, .. }) = self.preparing.take() else { return };
        let in_force = self.version.as_ref().map(|version| &version.about.digest);
        let result = match ready {
            Ok(ready) if ready.settings_of.is_some() && ready.settings_of.as_ref() != in_force => {
                // It was rolled back meanwhile: the settings are for the one that is there now.
                return self.prepare(Swap { file: None, config: Some(ready.config) }, reply);
            }
            Ok(ready) => self.put_in_place(*ready).await,
            Err(error) => Err(error),
        };
        if let Err(cause) = &result {
            let goes_on = if self.instance.is_some() { "; the running version goes on" } else { "" };
            self.last_error = Some(cause.to_string());
            self.show();
            error!("no new version took over: {cause}{goes_on}");
        }
        let _ = reply.send(result);
        while self.preparing.is_none() {
            match self.later.pop_front() {
                Some(Request::Swap(swap, reply)) => self.prepare(*swap, reply),
                Some(Request::RollBack(roll_back, reply)) => self.roll_back_as_told(roll_back, reply).await,
                Some(_) => {}
                None => return,
            }
        }
    }

    async fn put_in_place(&mut self, ready: Ready) -> Result<InForce, SwapError> {
        let Ready { config, configured, candidate, settings_of: _, is_return, _in_use } = ready;
        let Some((loaded, instance)) = candidate else {
            self.configured = configured.unwrap_or_else(|| mem::take(&mut self.configured));
            let changes = self.installed_now().into_iter().collect();
            self.write(changes);
            let digest = self.version.as_ref().map(|version| version.about.digest.clone()).unwrap_or_default();
            return Ok(InForce { instead_of: Some(digest.clone()), digest });
        };
        let instead_of = self.version.as_ref().map(|version| version.about.digest.clone());
        let in_force = InForce { digest: loaded.about.digest.clone(), instead_of };
        let is_stopped = *self.life.state() == State::Stopped;
        let lives = self.instance.is_some() || self.restart_at.is_some();
        let paused = Instant::now();
        let handed_over = match is_return {
            true => self.stop_for_return().await,
            false => self.stop_for_swap().await?,
        };
        self.restart_at = None;
        self.configured = configured.unwrap_or_else(|| mem::take(&mut self.configured));
        let changes = self.lent().map(Lent::writes).unwrap_or_default();
        // Also where none was under way: whatever one has left would be taken for the next one's.
        self.end_probation();
        let mut behind = vec![Change::Passed { plugin: self.name.clone() }];
        self.discard();
        let subscriptions = self.lent().map(Lent::note_subscriptions).unwrap_or_default();
        self.replace(loaded, config, is_return);
        if lives && self.previous.is_some() {
            let mut probation = self.new_probation();
            probation.handed_over.clone_from(&handed_over);
            probation.subscriptions = subscriptions;
            probation.snapshot = self.lent().map(|lent| lent.state.snapshot()).unwrap_or_default();
            self.probation = Some(probation);
            behind.push(Change::Snapshot { plugin: self.name.clone() });
        }
        behind.extend(self.installed_now());
        let outcome = Outcome { changes, behind, ..Outcome::default() };
        if let Some(durable) = self.lent.as_ref().and_then(|lent| lent.client.end_call(outcome)) {
            durable.wait().await;
        }
        if is_stopped {
            // Nobody has asked for it to run.
            self.show();
            return Ok(in_force);
        }
        let previous_version = in_force.instead_of.as_deref().map(short);
        let info = StartInfo { reason: StartReason::Swap, previous_version, handed_over: handed_over.as_deref() };
        self.life.swapped();
        if let Err(fault) = self.start(instance, info).await {
            self.fault(&fault, None).await;
            return Err(SwapError::Start(fault.to_string()));
        }
        let version = self.version.as_ref().map(|loaded| loaded.about.version());
        info!(version, previous = previous_version, pause = ?paused.elapsed(), "a new version took over");
        self.counters.swaps.fetch_add(1, Relaxed);
        self.last_error = None;
        self.show();
        match &self.probation {
            Some(probation) if probation.is_over(Instant::now()) => self.pass(),
            Some(_) => {}
            None => self.instance.as_mut().map(Guest::forget_handed_over).unwrap_or_default(),
        }
        Ok(in_force)
    }

    /// What the running instance hands over to one that somebody wants back. It can't keep that from
    /// coming, whatever it does: it may be just what is wrong with it.
    async fn stop_for_return(&mut self) -> Option<Bytes> {
        match self.instance.as_mut()?.stop(StopReason::Swap).await {
            Ok(Ok(handed_over)) => {
                self.done_with_line().await;
                return handed_over.map(Bytes::from);
            }
            Ok(Err(words)) => warn!("the version that is rolled back hands nothing over: {words}"),
            Err(fault) => warn!("the version that is rolled back hands nothing over: it failed in `stop`, {fault}"),
        }
        self.lent().map(Lent::undo);
        None
    }

    /// What the running instance hands over, if there is one. What it wrote is still to be accepted.
    async fn stop_for_swap(&mut self) -> Result<Option<Bytes>, SwapError> {
        let Some(instance) = &mut self.instance else { return Ok(None) };
        match instance.stop(StopReason::Swap).await {
            Ok(Ok(handed_over)) => {
                self.done_with_line().await;
                Ok(handed_over.map(Bytes::from))
            }
            Ok(Err(words)) => {
                self.lent().map(Lent::undo);
                Err(SwapError::Refused(words))
            }
            Err(fault) => {
                self.fault(&fault, None).await;
                Err(SwapError::Stop(fault.to_string()))
            }
        }
    }

    /// Another version and its settings are in force. Those there were become the ones before, unless
    /// somebody has wanted to be rid of them.
    fn replace(&mut self, loaded: Loaded, config: PluginConfig, is_return: bool) {
        let digest = loaded.about.digest.clone();
        let old = self.version.replace(loaded);
        let old_config = self.config.clone();
        match &old {
            Some(old) if is_return => self.history.rolled_back(&old.about.digest, AS_TOLD),
            Some(old) => self.history.gave_way(&old.about.digest),
            None => {}
        }
        self.history.in_force(&digest);
        self.previous = old.filter(|_| !is_return).map(|old| (old, old_config));
        self.configure(config);
    }

    /// The version on probation is gone: the one before is in force again, with the snapshot, and
    /// what was handled since waits for it. Its own hand-over comes out.
    pub(super) fn return_to_previous(&mut self, failing: Option<Delivery>, why: &str) -> Option<Bytes> {
        let mut probation = self.probation.take()?;
        let (old, config) = self.previous.take()?;
        self.life.passed();
        if let Some(failed) = &self.version {
            self.history.rolled_back(&failed.about.digest, why);
        }
        self.history.in_force(&old.about.digest);
        self.version = Some(old);
        self.configure(config);
        if let (Some(lent), Some(mailbox)) = (&mut self.lent, &self.mailbox) {
            lent.state.restore(mem::take(&mut probation.snapshot));
            lent.restore_subscriptions(mem::take(&mut probation.subscriptions));
            let kept = probation.take_kept().into_iter().map(|(number, message)| mailbox.again(message, number));
            let mut again: VecDeque<_> = kept.collect();
            again.extend(failing.map(Delivery::again));
            let tried = |(delivery, is_tried): (Delivery, bool)| if is_tried { delivery.again() } else { delivery };
            again.extend(self.retries.drain().map(tried));
            again.append(&mut self.again);
            self.again = again;
        }
        let mut changes = vec![Change::RolledBack { plugin: self.name.clone() }];
        changes.extend(self.installed_now());
        self.write(changes);
        probation.handed_over
    }

    /// The version that came back starts.
    pub(super) async fn begin_again(&mut self, handed_over: Option<Bytes>) {
        let Some(old) = self.version.clone() else { return };
        let version = old.about.version().to_owned();
        self.begin(&old, StartReason::Rollback, Some(&version), handed_over.as_deref()).await;
        self.instance.as_mut().map(Guest::forget_handed_over);
    }

    /// The version in force has stood its probation.
    pub(super) fn pass(&mut self) {
        if !self.end_probation() {
            return;
        }
        let mut changes = vec![Change::Passed { plugin: self.name.clone() }];
        changes.extend(self.installed_now());
        self.write(changes);
        info!(version = self.version.as_ref().map(|loaded| loaded.about.version()), "the probation is over");
        self.show();
    }

    /// What the version in force has not asked for again is given back. False: there was none.
    fn end_probation(&mut self) -> bool {
        if self.probation.take().is_none() {
            return false;
        }
        self.instance.as_mut().map(Guest::forget_handed_over);
        self.life.passed();
        self.lent().map(Lent::release_others);
        true
    }

    fn new_probation(&self) -> Probation {
        let limits = &self.config.limits;
        Probation::new(Instant::now(), limits.probation_time, limits.probation_messages, limits.inbox_bytes)
    }

    /// Puts settings in force. No instance runs.
    fn configure(&mut self, config: PluginConfig) {
        let limits = config.limits;
        self.words.set_rate(limits.log_rate);
        self.about = Arc::new(about(&self.name, &config, &self.surroundings));
        self.config = config;
        self.life.set_limits(limits.restart_max, limits.restart_within);
        if let Some(lent) = &mut self.lent {
            lent.configure(self.about.clone(), &limits);
            lent.client.set_limits(limits.outbox_bytes, limits.inbox_bytes);
        }
        if let Some(mailbox) = &self.mailbox {
            mailbox.set_limits(limits.mailbox_messages, limits.mailbox_bytes);
        }
    }

    fn write(&mut self, changes: Vec<Change>) {
        if let Some(lent) = self.lent() {
            lent.client.write(changes);
        }
    }

    async fn load(&mut self, path: PathBuf) -> Result<Loaded, ComponentError> {
        let loaded = component::load(&self.surroundings.engine, &path, (&self.config.limits).into()).await?;
        loaded.fits(&self.config)?;
        Ok(loaded)
    }

    async fn load_and_keep(&mut self, path: PathBuf) -> Result<Loaded, ComponentError> {
        load_and_keep(&self.surroundings, path, &self.config).await
    }
}

/// Makes an instance of a version, beside what runs.
async fn make(
    surroundings: &Surroundings,
    loaded: Loaded,
    config: PluginConfig,
    configured: Option<String>,
    in_use: InUse,
) -> Result<Box<Ready>, SwapError> {
    loaded.fits(&config)?;
    let instance = Guest::new(&surroundings.engine, &loaded, &config, surroundings.max_payload).await;
    let instance = instance.map_err(|fault| SwapError::Start(fault.to_string()))?;
    Ok(Box::new(Ready {
        config,
        configured,
        candidate: Some((loaded, instance)),
        settings_of: None,
        is_return: false,
        _in_use: in_use,
    }))
}

/// Loads a version that was in force before.
async fn load_kept(surroundings: &Surroundings, digest: &str, config: &PluginConfig) -> Result<Loaded, SwapError> {
    let (versions, kept) = (surroundings.versions.clone(), digest.to_owned());
    let path = tokio::task::spawn_blocking(move || versions.find(&kept)).await.ok().flatten();
    let path = path.ok_or_else(|| SwapError::NotKept(digest.to_owned()))?;
    Ok(component::load(&surroundings.engine, &path, (&config.limits).into()).await?)
}

/// Loads a file, and keeps a copy for a roll-back after the end of the process.
async fn load_and_keep(
    surroundings: &Surroundings,
    path: PathBuf,
    config: &PluginConfig,
) -> Result<Loaded, ComponentError> {
    let loaded = component::load(&surroundings.engine, &path, (&config.limits).into()).await?;
    loaded.fits(config)?;
    let (versions, digest) = (surroundings.versions.clone(), loaded.about.digest.clone());
    let seal = loaded.about.native.as_ref().and_then(|native| native.seal.clone());
    let _reads = surroundings.engine.reading().await;
    let kept = regular_file::aside(move || versions.keep(&path, &digest, seal.as_ref())).await;
    if let Err(error) = kept {
        warn!("no copy of {} can be kept for a roll-back: {error}", loaded.about.path.display());
    }
    Ok(loaded)
}

async fn digest_of(surroundings: &Surroundings, path: PathBuf) -> Option<String> {
    let _reads = surroundings.engine.reading().await;
    regular_file::aside(move || digest(&path)).await.ok()
}
