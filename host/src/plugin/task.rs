//! A plugin's task: the one owner of its Store, its mailbox and its timers.
//!
//! It calls the guest for one thing at a time: requests of the host first, then the
//! state of the link, then timers and messages in turn.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tokio::{
    select,
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{error, info, warn};

use super::{
    bindings::exports::alphorn::plugin::guest::{
        Event, Failure, Refused, StartInfo, StartReason, StopReason, Undelivered,
    },
    component::{self, ComponentError, Loaded},
    engine::Engine,
    handle::{LinkFacts, Request, SwapError},
    imports::{About, Lent},
    instance::{Fault, Instance},
    lifecycle::{After, Faults, State, retry_pause},
    retries::Retries,
};
use crate::{
    config::PluginConfig,
    link::{ClientOptions, Delivery, Item, Link, LinkState, LinkStatus, Mailbox, Notice, WhenFull},
    rate::Bucket,
};

pub(super) struct Task {
    about: Arc<About>,
    config: PluginConfig,
    engine: Engine,
    link: Arc<Link>,
    max_payload: u32,
    when_full: WhenFull,
    status: watch::Receiver<LinkStatus>,
    /// The link's last state the guest was told: the number of the connection, if there was one.
    seen: Option<Option<u32>>,
    requests: mpsc::Receiver<Request>,
    state: watch::Sender<State>,
    /// The version in force.
    version: Option<Loaded>,
    running: Option<Running>,
    /// What belongs to the plugin while no instance runs.
    spare: Option<(Lent, Mailbox)>,
    restart_at: Option<Instant>,
    faults: Faults,
    /// Messages that have to be tried again, and those behind them.
    retries: Retries<Delivery>,
}

struct Running {
    instance: Instance,
    mailbox: Mailbox,
}

/// What the task does next.
enum Next {
    Request(Option<Request>),
    Link,
    Timer,
    Retry,
    Restart,
    Item(Option<Item>),
}

impl Task {
    pub(super) fn new(
        name: &str,
        config: PluginConfig,
        engine: Engine,
        link: Arc<Link>,
        facts: LinkFacts,
        requests: mpsc::Receiver<Request>,
        state: watch::Sender<State>,
    ) -> Self {
        let about = About {
            name: name.to_owned(),
            client_id: facts.client_id,
            grants: config.grants.clone(),
            config: config.config.clone(),
        };
        Self {
            about: Arc::new(about),
            faults: Faults::new(config.limits.restart_max, config.limits.restart_within),
            config,
            engine,
            status: link.status(),
            link,
            max_payload: facts.max_payload,
            when_full: facts.when_full,
            seen: None,
            requests,
            state,
            version: None,
            running: None,
            spare: None,
            restart_at: None,
            retries: Retries::new(),
        }
    }

    /// Until stopped.
    pub(super) async fn run(mut self) {
        self.load().await;
        loop {
            match self.next().await {
                Next::Request(Some(Request::Swap(loaded, reply))) => {
                    let swapped = self.swap(*loaded).await;
                    // Who asked may be gone.
                    let _ = reply.send(swapped);
                }
                Next::Request(Some(Request::Stop(reason, reply))) => {
                    self.stop(reason).await;
                    let _ = reply.send(());
                    return;
                }
                Next::Request(None) | Next::Item(None) => return,
                Next::Link => self.tell_link().await,
                Next::Timer => self.fire_timers().await,
                Next::Retry => {
                    if let Some((delivery, attempt)) = self.retries.take(Instant::now()) {
                        self.handle(delivery, attempt).await;
                    }
                }
                Next::Restart => self.restart().await,
                Next::Item(Some(Item::Message(delivery))) => {
                    let topic = delivery.message.topic.clone();
                    if let Some(delivery) = self.retries.behind(&topic, delivery) {
                        self.handle(delivery, 1).await;
                    }
                }
                Next::Item(Some(Item::Notice(notice))) => self.tell(notice).await,
            }
        }
    }

    async fn next(&mut self) -> Next {
        let link_changed = self.running.is_some() && self.seen != Some(self.status.borrow().connection());
        let timer = self.running.as_mut().and_then(|running| running.instance.timers().next());
        let retry = self.retries.next().filter(|_| self.running.is_some());
        let at = |instant: Option<Instant>| sleep_until(instant.unwrap_or_else(Instant::now).into());
        select! {
            biased;
            request = self.requests.recv() => Next::Request(request),
            () = std::future::ready(()), if link_changed => Next::Link,
            Ok(()) = self.status.changed(), if self.running.is_some() => Next::Link,
            () = at(self.restart_at), if self.restart_at.is_some() => Next::Restart,
            next = async {
                select! {
                    () = at(timer), if timer.is_some() => Next::Timer,
                    () = at(retry), if retry.is_some() => Next::Retry,
                    item = receive(self.running.as_mut()), if self.running.is_some() => Next::Item(item),
                    else => std::future::pending().await,
                }
            } => next,
        }
    }

    /// Loads the component and starts the plugin for the first time.
    async fn load(&mut self) {
        match load(self.engine.clone(), self.config.component.clone()).await {
            Ok(loaded) => {
                info!(
                    version = loaded.about.version(),
                    bytes = loaded.about.size,
                    "loaded {}",
                    loaded.about.path.display()
                );
                self.version = Some(loaded.clone());
                match self.begin(&loaded, StartReason::First, None, None).await {
                    Ok(()) => self.enter(State::Running),
                    Err(fault) => self.fault(&fault),
                }
            }
            Err(error) => {
                error!("{error}");
                self.enter(State::Failed(error.to_string()));
            }
        }
    }

    /// Instantiates a version and runs its `start`.
    async fn begin(
        &mut self,
        loaded: &Loaded,
        reason: StartReason,
        previous: Option<&str>,
        handed_over: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let instance = Instance::new(&self.engine, loaded, self.config.limits, self.max_payload).await?;
        self.start(instance, reason, previous, handed_over).await
    }

    async fn start(
        &mut self,
        mut instance: Instance,
        reason: StartReason,
        previous_version: Option<&str>,
        handed_over: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let (lent, mailbox) = self.spare.take().unwrap_or_else(|| self.register());
        lent.client.set_away(false);
        instance.lend(lent);
        let started = instance.start(StartInfo { reason, previous_version, handed_over }).await;
        if started.is_ok() {
            instance.call_ended(None).await;
        }
        self.running = Some(Running { instance, mailbox });
        // Whatever the link's state is, this instance has not been told.
        self.seen = None;
        if started.is_err() {
            self.discard();
        }
        started
    }

    /// Makes the plugin a client of the link.
    fn register(&mut self) -> (Lent, Mailbox) {
        let limits = &self.config.limits;
        let (client, mailbox) = self.link.client(&ClientOptions {
            name: Some(self.about.name.as_str().into()),
            outbox_bytes: limits.outbox_bytes,
            when_full: self.when_full,
            mailbox_messages: limits.mailbox_messages,
            mailbox_bytes: limits.mailbox_bytes,
            inbox_bytes: limits.inbox_bytes,
            tracked: false,
        });
        (Lent::new(client, self.about.clone(), Bucket::new(limits.publish_rate, Instant::now())), mailbox)
    }

    /// Throws the instance away and keeps what belongs to the plugin.
    fn discard(&mut self) {
        if let Some(Running { mut instance, mailbox }) = self.running.take() {
            self.spare = instance.take_back().map(|lent| (lent, mailbox));
        }
    }

    /// The instance is of no use any more: what now.
    fn fault(&mut self, fault: &Fault) {
        self.discard();
        match self.faults.count(Instant::now()) {
            After::Restart(pause) => {
                error!("the plugin failed, {fault}; it starts again in {}", humantime::format_duration(pause));
                self.restart_at = Some(Instant::now() + pause);
                self.enter(State::Waiting);
            }
            After::Quarantine => {
                error!("the plugin failed, {fault}; that is too often (`limits.restart`), so it is quarantined");
                self.give_up(format!("quarantined: {fault}"));
            }
        }
    }

    /// No instance any more, until another version comes. Where there is a disk, messages
    /// gather in the inbox meanwhile; else it has no part in the link.
    fn give_up(&mut self, reason: String) {
        self.restart_at = None;
        match &self.spare {
            Some((lent, _)) if lent.client.is_durable() => lent.client.set_away(true),
            _ => {
                self.retries.clear();
                self.spare = None;
            }
        }
        self.enter(State::Failed(reason));
    }

    async fn restart(&mut self) {
        self.restart_at = None;
        let Some(loaded) = self.version.clone() else { return };
        match self.begin(&loaded, StartReason::Restart, None, None).await {
            Ok(()) => {
                info!("started again");
                self.enter(State::Running);
            }
            Err(fault) => self.fault(&fault),
        }
    }

    async fn swap(&mut self, loaded: Loaded) -> Result<(), SwapError> {
        let instance = Instance::new(&self.engine, &loaded, self.config.limits, self.max_payload).await;
        let instance = instance.map_err(|fault| SwapError::Start(fault.to_string()))?;
        let old = self.version.clone();
        let previous = old.as_ref().map(|old| old.about.version().to_owned());
        let lives = self.running.is_some() || self.restart_at.is_some();
        let handed_over = self.stop_for_swap().await?;
        self.discard();
        self.restart_at = None;
        let paused = Instant::now();
        match self.start(instance, StartReason::Swap, previous.as_deref(), handed_over.as_deref()).await {
            Ok(()) => {
                info!(version = loaded.about.version(), previous, pause = ?paused.elapsed(), "a new version took over");
                self.version = Some(loaded);
                self.faults.forget();
                self.enter(State::Running);
                Ok(())
            }
            Err(fault) => {
                let Some(old) = old.filter(|_| lives) else {
                    self.give_up(fault.to_string());
                    return Err(SwapError::Start(fault.to_string()));
                };
                warn!("the new version failed, {fault}; the old one goes on");
                let back = self.begin(&old, StartReason::Rollback, previous.as_deref(), handed_over.as_deref()).await;
                match back {
                    Ok(()) => self.enter(State::Running),
                    Err(fault) => self.fault(&fault),
                }
                Err(SwapError::Start(fault.to_string()))
            }
        }
    }

    /// What the running instance hands over, if there is one.
    async fn stop_for_swap(&mut self) -> Result<Option<Vec<u8>>, SwapError> {
        let Some(running) = &mut self.running else { return Ok(None) };
        match running.instance.stop(StopReason::Swap).await {
            Ok(result) => {
                running.instance.call_ended(None).await;
                result.map_err(SwapError::Refused)
            }
            Err(fault) => {
                self.fault(&fault);
                Err(SwapError::Stop(fault.to_string()))
            }
        }
    }

    async fn stop(&mut self, reason: StopReason) {
        if let Some(running) = &mut self.running {
            match running.instance.stop(reason).await {
                Ok(result) => {
                    if let Err(error) = result {
                        warn!("stop: {error}");
                    }
                    running.instance.call_ended(None).await;
                }
                Err(fault) => error!("the plugin failed in `stop`, {fault}"),
            }
        }
        self.enter(State::Stopped);
    }

    async fn handle(&mut self, delivery: Delivery, attempt: u32) {
        let Some(running) = &mut self.running else { return };
        let redelivered = delivery.redelivered || attempt > 1;
        let topic = delivery.message.topic.clone();
        match running.instance.on_message(&delivery.message, attempt, redelivered).await {
            Ok(Ok(())) => running.instance.call_ended(Some(delivery)).await,
            Ok(Err(Failure::Drop(reason))) => {
                warn!(%topic, "the plugin gave a message up: {reason}");
                running.instance.call_ended(Some(delivery)).await;
            }
            Ok(Err(Failure::Retry(reason))) => {
                running.instance.call_ended(None).await;
                self.try_again(delivery, attempt, &reason);
            }
            Err(fault) => {
                self.try_again(delivery, attempt, &fault.to_string());
                self.fault(&fault);
            }
        }
        self.retries.done(&topic, Instant::now());
    }

    /// Puts a message off, or gives it up after the last attempt.
    fn try_again(&mut self, delivery: Delivery, attempt: u32, reason: &str) {
        let topic = delivery.message.topic.clone();
        if attempt >= self.config.limits.retry_max {
            error!(%topic, attempt, "a message was given up after its last attempt: {reason}");
            delivery.handled();
            return;
        }
        let pause = retry_pause(self.config.limits.retry_min, attempt + 1);
        warn!(%topic, attempt, "a message is tried again in {}: {reason}", humantime::format_duration(pause));
        self.retries.hold(topic, delivery, attempt + 1, Instant::now() + pause);
    }

    async fn fire_timers(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(fired) = running.instance.timers().fire(Instant::now()) else { return };
        match running.instance.on_timer(fired.id, fired.missed).await {
            Ok(result) => {
                if let Err(error) = result {
                    warn!(timer = fired.id, "on-timer: {error}");
                }
                running.instance.call_ended(None).await;
            }
            Err(fault) => self.fault(&fault),
        }
    }

    /// Tells the guest what became of the connection since it was told last.
    async fn tell_link(&mut self) {
        let (connection, state) = {
            let status = self.status.borrow_and_update();
            (status.connection(), status.state.clone())
        };
        let seen = self.seen.replace(connection);
        if seen == Some(connection) {
            return;
        }
        match state {
            LinkState::Starting => {}
            LinkState::Down { reason } => self.event(Event::LinkDown(&reason)).await,
            LinkState::Up { session_present, .. } => {
                // It was down in between, for less time than the guest took to look.
                if matches!(seen, Some(Some(_))) {
                    self.event(Event::LinkDown("the connection was lost and is back")).await;
                }
                self.event(Event::LinkUp(session_present)).await;
            }
        }
    }

    async fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Dropped { number, topic, reason, .. } => {
                let undelivered = Undelivered { id: number, topic: &topic, reason: &reason };
                self.event(Event::PublishDropped(undelivered)).await;
            }
            Notice::Quarantined { number, topic, reason } => {
                let undelivered = Undelivered { id: number, topic: &topic, reason: &reason };
                self.event(Event::PublishQuarantined(undelivered)).await;
            }
            Notice::SubscriptionRefused { filter, refusal } => {
                let reason = refusal.to_string();
                self.event(Event::SubscriptionRefused(Refused { subject: filter.as_str(), reason: &reason })).await;
            }
            // For clients that track what goes well; plugins do not.
            Notice::Published(_) | Notice::Subscribed(_) => {}
        }
    }

    async fn event(&mut self, event: Event<'_>) {
        let Some(running) = &mut self.running else { return };
        match running.instance.on_event(event).await {
            Ok(()) => running.instance.call_ended(None).await,
            Err(fault) => self.fault(&fault),
        }
    }

    fn enter(&self, state: State) {
        self.state.send_replace(state);
    }
}

/// Reads and compiles off the async threads.
pub(super) async fn load(engine: Engine, path: PathBuf) -> Result<Loaded, ComponentError> {
    let file = path.clone();
    let loaded = tokio::task::spawn_blocking(move || component::load(&engine, &file)).await;
    loaded.unwrap_or_else(|panic| Err(ComponentError::Invalid { path, cause: panic.to_string() }))
}

async fn receive(running: Option<&mut Running>) -> Option<Item> {
    match running {
        Some(running) => running.mailbox.recv().await,
        None => std::future::pending().await,
    }
}
