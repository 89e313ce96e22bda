//! A plugin as the host sees it: a handle to its task.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{Instrument, error_span};

use super::{
    bindings::exports::alphorn::plugin::guest::StopReason,
    component::ComponentError,
    engine::Engine,
    history::short,
    lifecycle::State,
    place,
    report::{Counters, Report, Standing},
    task::Task,
    versions::Versions,
};
use crate::{
    config::PluginConfig,
    grants::Grants,
    link::{Link, WhenFull},
    log,
};

/// A running plugin, as the host sees it.
#[derive(Debug)]
pub struct PluginHandle {
    requests: mpsc::Sender<Request>,
    /// Told before the request to end: nobody needs what is loaded.
    unwanted: Arc<Notify>,
    standing: watch::Receiver<Standing>,
    counters: Arc<Counters>,
}

/// Why a new version did not take over; the old one serves on unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The file is no plugin for this host.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The old version does not let go.
    #[error("the running version refused to hand over: {0}")]
    Refused(String),
    /// The old version is lost; it starts afresh.
    #[error("the running version failed in `stop` ({0}) and was started again")]
    Stop(String),
    /// The new version does not start.
    #[error("the new version failed: {0}")]
    Start(String),
    /// There is no version to go back to.
    #[error("there is no version before this one to go back to: {0}")]
    NoneBefore(String),
    /// Nothing is called that.
    #[error("{0}")]
    Unknown(String),
    /// What was named runs.
    #[error("version {} is the one in force", short(.0))]
    InForce(String),
    /// What was named is not on disk any more.
    #[error("version {} is not kept any more: swap in its file", short(.0))]
    NotKept(String),
    /// The version in force has to be rolled back itself first.
    #[error("the version in force is on probation: `alphorn rollback NAME` ends that, and then this one can be named")]
    OnProbation,
    /// It took over, and did not stand its probation.
    #[error("it was rolled back: {0}")]
    RolledBack(String),
    /// It took over, and another one did before its probation was over.
    #[error("another version took over before its probation was over")]
    Overtaken,
    /// It took over, and was stopped before its probation was over.
    #[error("it was stopped before its probation was over, which goes on when it is started")]
    StoppedOnProbation,
    /// The plugin's task has ended.
    #[error("the plugin was removed")]
    Removed,
}

/// What the host asks of a plugin's task.
pub(super) enum Request {
    /// Another version, or the same with other settings.
    Swap(Box<Swap>, Reply),
    /// The version before.
    RollBack(RollBack, Reply),
    /// No instance for now.
    Stop(oneshot::Sender<()>),
    /// An instance again; the fault if there is none then.
    Start(oneshot::Sender<Result<(), String>>),
    /// For good.
    End(StopReason, oneshot::Sender<()>),
}

/// To whoever has asked for another version.
pub(super) type Reply = oneshot::Sender<Result<InForce, SwapError>>;

/// Which version is in force, in place of which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// The digest of its component.
    pub digest: String,
    /// That of the one before.
    pub instead_of: Option<String>,
}

/// Which version to go back to.
pub(super) struct RollBack {
    /// How its digest begins. None: the newest that was not rolled back itself.
    pub(super) to: Option<String>,
    /// Only say which it would be.
    pub(super) dry_run: bool,
}

/// What to put in place of what runs.
pub(super) struct Swap {
    /// None: what is configured.
    pub(super) file: Option<PathBuf>,
    /// None: the settings there are.
    pub(super) config: Option<PluginConfig>,
}

/// Digests of a plugin's versions.
#[derive(Debug, Clone)]
pub struct Digests {
    /// All that are kept.
    pub kept: Vec<String>,
    /// Those among them whose native code is needed at any moment.
    pub loaded: Vec<String>,
}

/// What all plugins' tasks share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Compiles and runs.
    pub engine: Engine,
    /// The one connection.
    pub link: Arc<Link>,
    /// Keeps components.
    pub versions: Versions,
    /// The device's name at the broker.
    pub client_id: Arc<str>,
    /// The largest payload, in bytes.
    pub max_payload: u32,
    /// What becomes of a message that finds no room in the outbox.
    pub when_full: WhenFull,
}

impl PluginHandle {
    /// Starts a plugin's task, which loads and starts the plugin.
    pub fn spawn(name: &str, config: PluginConfig, surroundings: Surroundings) -> Self {
        let (requests, inbox) = mpsc::channel(8);
        let (sender, standing) = watch::channel(Standing::new(config.grants.clone()));
        let (counters, unwanted) = (Arc::<Counters>::default(), Arc::<Notify>::default());
        let beside = surroundings.link.runtime().clone();
        let span = error_span!(target: log::SPANS, "plugin", %name);
        let (ends, told) = ((sender, inbox), unwanted.clone());
        let task = Task::new(name, config, surroundings, ends, told, counters.clone(), span.clone());
        // A spawned task does not inherit a span.
        tokio::spawn(place::run(task.run(), beside).instrument(span));
        Self { requests, unwanted, standing, counters }
    }

    /// Returns when it is no longer starting.
    pub fn started(&self) -> impl Future<Output = ()> + use<> {
        let mut standing = self.standing.clone();
        async move {
            // An error says that the task has ended.
            let _ = standing.wait_for(|standing| standing.state != State::Starting).await;
        }
    }

    /// How it is.
    pub fn report(&self) -> Report {
        Report::new(&self.standing.borrow(), &self.counters, Instant::now())
    }

    /// What it may do.
    pub fn grants(&self) -> Grants {
        self.standing.borrow().grants.clone()
    }

    /// Puts the component in the file in place of the running one.
    pub async fn swap(&self, file: PathBuf) -> Result<InForce, SwapError> {
        self.request_swap(Swap { file: Some(file), config: None }).await
    }

    /// The same with other settings.
    pub async fn swap_with(&self, file: PathBuf, config: PluginConfig) -> Result<InForce, SwapError> {
        self.request_swap(Swap { file: Some(file), config: Some(config) }).await
    }

    /// The configured file may have changed: if so, puts it in place of what runs.
    pub async fn refresh(&self) -> Result<InForce, SwapError> {
        self.request_swap(Swap { file: None, config: None }).await
    }

    /// Puts settings in force, and the configured file if it has changed. Where neither is
    /// other than what is in force, nothing happens.
    pub async fn configure(&self, config: PluginConfig) -> Result<InForce, SwapError> {
        self.request_swap(Swap { file: None, config: Some(config) }).await
    }

    /// Brings a version back, for good: the one whose digest begins so, or the newest before this one
    /// that was not rolled back itself. `dry_run`: only says which that would be.
    pub async fn roll_back(&self, to: Option<String>, dry_run: bool) -> Result<InForce, SwapError> {
        let roll_back = RollBack { to, dry_run };
        self.ask(|reply| Request::RollBack(roll_back, reply)).await.unwrap_or(Err(SwapError::Removed))
    }

    /// Waits for the end of a version's probation. Ok: it has stood it, or had none.
    pub async fn stood(&self, digest: &str) -> Result<(), SwapError> {
        let mut standing = self.standing.clone();
        loop {
            if let Some(outcome) = standing.borrow_and_update().outcome(digest) {
                return outcome;
            }
            if standing.changed().await.is_err() {
                return Err(SwapError::Removed);
            }
        }
    }

    /// Lets it finish its call and stops it; its messages wait.
    pub async fn stop(&self) {
        self.ask(Request::Stop).await;
    }

    /// Starts it again.
    pub async fn start(&self) -> Result<(), String> {
        self.ask(Request::Start).await.unwrap_or_else(|| Err(SwapError::Removed.to_string()))
    }

    /// Ends it because the host ends.
    pub async fn shut_down(&self) {
        self.end(StopReason::Shutdown).await;
    }

    /// Ends it because it is not wanted any more.
    pub async fn remove(&self) {
        self.end(StopReason::Removed).await;
    }

    /// The versions that run or could come back. None: that is not known yet, or what is configured
    /// can't be loaded.
    pub fn digests(&self) -> Option<Digests> {
        let standing = self.standing.borrow();
        let version = standing.version.as_ref()?;
        let loaded: Vec<_> = [Some(version), standing.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|about| about.digest.clone())
            .collect();
        let past = standing.past.iter().map(|past| past.digest.clone());
        Some(Digests { kept: loaded.iter().cloned().chain(past).collect(), loaded })
    }

    async fn end(&self, reason: StopReason) {
        self.unwanted.notify_one();
        self.ask(|reply| Request::End(reason, reply)).await;
    }

    async fn request_swap(&self, swap: Swap) -> Result<InForce, SwapError> {
        self.ask(|reply| Request::Swap(Box::new(swap), reply)).await.unwrap_or(Err(SwapError::Removed))
    }

    /// None: the task is gone.
    async fn ask<R>(&self, request: impl FnOnce(oneshot::Sender<R>) -> Request) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}
