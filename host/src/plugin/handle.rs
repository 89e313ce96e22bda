//! A plugin as the host sees it: a handle to its task.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{Instrument, error, info_span};

use super::{
    bindings::exports::alphorn::plugin::guest::StopReason,
    component::{ComponentError, Loaded},
    engine::Engine,
    lifecycle::State,
    task::{Task, load},
};
use crate::{
    config::PluginConfig,
    link::{Link, WhenFull},
};

/// A running plugin, as the host sees it.
#[derive(Debug)]
pub struct PluginHandle {
    engine: Engine,
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
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
    /// The plugin's task has ended.
    #[error("the plugin was stopped")]
    Stopped,
}

/// What the host asks of a plugin's task.
pub(super) enum Request {
    Swap(Box<Loaded>, oneshot::Sender<Result<(), SwapError>>),
    Stop(StopReason, oneshot::Sender<()>),
}

/// Starts a plugin's task, which loads and starts the plugin.
pub fn spawn(name: &str, config: PluginConfig, engine: Engine, link: Arc<Link>, facts: LinkFacts) -> PluginHandle {
    let (requests, inbox) = mpsc::channel(8);
    let (state_sender, state) = watch::channel(State::Starting);
    let task = Task::new(name, config, engine.clone(), link, facts, inbox, state_sender);
    // The span is given here since a spawned task does not inherit one.
    let task = tokio::spawn(task.run().instrument(info_span!("plugin", %name)));
    PluginHandle { engine, requests, state, task }
}

/// What a plugin's task has to know of the link's settings.
#[derive(Debug, Clone)]
pub struct LinkFacts {
    /// The device's.
    pub client_id: String,
    /// The largest payload, in bytes.
    pub max_payload: u32,
    /// What becomes of a message that finds no room in the outbox.
    pub when_full: WhenFull,
}

impl PluginHandle {
    /// Where it is in its life, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Puts the component in the file in place of the running one.
    pub async fn swap(&self, file: PathBuf) -> Result<(), SwapError> {
        let (reply, answer) = oneshot::channel();
        // Beside the running version, which goes on meanwhile.
        let loaded = load(self.engine.clone(), file).await?;
        self.requests.send(Request::Swap(Box::new(loaded), reply)).await.map_err(|_| SwapError::Stopped)?;
        answer.await.map_err(|_| SwapError::Stopped)?
    }

    /// Lets it finish its call, stops it, and ends its task.
    pub async fn stop(self) {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Stop(StopReason::Shutdown, reply)).await.is_ok() {
            // An error says that the task is gone, which is what was wanted.
            let _ = answer.await;
        }
        if let Err(error) = self.task.await {
            error!("a plugin's task ended badly: {error}");
        }
    }
}
