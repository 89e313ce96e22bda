//! A plugin's task: the one owner of its Store, its mailbox and its timers.
//!
//! It calls the guest for one thing at a time: requests of the host first, then the
//! state of the link, then timers and messages in turn. Another version takes over
//! between two calls (`swap`).

mod swap;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

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
    component::Loaded,
    handle::{Request, Surroundings},
    imports::{About, Lent},
    instance::{Fault, Instance},
    lifecycle::{After, Life, retry_pause},
    probation::Probation,
    report::{Counters, Standing},
    retries::Retries,
};
use crate::{
    config::PluginConfig,
    link::{ClientOptions, Delivery, Item, LinkState, LinkStatus, Mailbox, Notice, Outcome},
    store::{Change, Installed, OnProbation, Saved},
};

pub(super) struct Task {
    name: Arc<str>,
    about: Arc<About>,
    config: PluginConfig,
    surroundings: Surroundings,
    status: watch::Receiver<LinkStatus>,
    /// The link's last state the guest was told: the number of the connection, if there was one.
    seen: Option<Option<u32>>,
    requests: mpsc::Receiver<Request>,
    standing: watch::Sender<Standing>,
    counters: Arc<Counters>,
    life: Life,
    /// The version in force.
    version: Option<Loaded>,
    /// The one before, and its settings.
    previous: Option<(Loaded, PluginConfig)>,
    /// What is on disk about them.
    installed: Installed,
    probation: Option<Probation>,
    running: Option<Running>,
    /// What belongs to the plugin while no instance runs.
    spare: Option<(Lent, Mailbox)>,
    restart_at: Option<Instant>,
    last_error: Option<String>,
    /// Messages that a version on probation had handled: they come before all others.
    again: VecDeque<Delivery>,
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
    Passed,
    Again,
    Retry,
    Restart,
    Item(Option<Item>),
}

impl Task {
    pub(super) fn new(
        name: &str,
        config: PluginConfig,
        surroundings: Surroundings,
        requests: mpsc::Receiver<Request>,
        standing: watch::Sender<Standing>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            name: name.into(),
            about: Arc::new(about(name, &config, &surroundings)),
            life: Life::new(config.limits.restart_max, config.limits.restart_within),
            config,
            status: surroundings.link.status(),
            surroundings,
            seen: None,
            requests,
            standing,
            counters,
            version: None,
            previous: None,
            installed: Installed::default(),
            probation: None,
            running: None,
            spare: None,
            restart_at: None,
            last_error: None,
            again: VecDeque::new(),
            retries: Retries::new(),
        }
    }

    /// Until ended.
    pub(super) async fn run(mut self) {
        self.load_first().await;
        loop {
            match self.next().await {
                Next::Request(Some(request)) => {
                    if self.obey(request).await {
                        return;
                    }
                }
                Next::Request(None) | Next::Item(None) => return,
                Next::Link => self.tell_link().await,
                Next::Timer => self.fire_timers().await,
                Next::Passed => self.pass(),
                Next::Again => {
                    if let Some(delivery) = self.again.pop_front() {
                        self.receive(delivery).await;
                    }
                }
                Next::Retry => {
                    if let Some((delivery, attempt)) = self.retries.take(Instant::now()) {
                        self.handle(delivery, attempt).await;
                    }
                }
                Next::Restart => self.restart().await,
                Next::Item(Some(Item::Message(delivery))) => self.receive(delivery).await,
                Next::Item(Some(Item::Notice(notice))) => self.tell(notice).await,
            }
        }
    }

    /// True: that was the last thing to do. Who asked may be gone, so replies may fail.
    async fn obey(&mut self, request: Request) -> bool {
        match request {
            Request::Swap(swap, reply) => {
                let swapped = self.swap(*swap).await;
                if let Err(error) = &swapped {
                    self.note_error(error.to_string());
                }
                let _ = reply.send(swapped);
            }
            Request::RollBack(reply) => {
                let rolled_back = self.roll_back_as_told().await;
                let _ = reply.send(rolled_back);
            }
            Request::Stop(reply) => {
                self.stop(StopReason::Removed).await;
                self.set_aside();
                let _ = reply.send(());
            }
            Request::Start(reply) => {
                let started = self.start_again().await;
                let _ = reply.send(started);
            }
            Request::End(reason, reply) => {
                self.stop(reason).await;
                let _ = reply.send(());
                return true;
            }
        }
        false
    }

    async fn next(&mut self) -> Next {
        let link_changed = self.running.is_some() && self.seen != Some(self.status.borrow().connection());
        let timer = self.running.as_mut().and_then(|running| running.instance.timers().next());
        let retry = self.retries.next().filter(|_| self.running.is_some());
        let has_again = self.running.is_some() && !self.again.is_empty();
        let passes = self.probation.as_ref().map(Probation::until).filter(|_| self.running.is_some());
        let at = |instant: Option<Instant>| sleep_until(instant.unwrap_or_else(Instant::now).into());
        select! {
            biased;
            request = self.requests.recv() => Next::Request(request),
            () = std::future::ready(()), if link_changed => Next::Link,
            Ok(()) = self.status.changed(), if self.running.is_some() => Next::Link,
            () = at(self.restart_at), if self.restart_at.is_some() => Next::Restart,
            () = at(passes), if passes.is_some() => Next::Passed,
            () = std::future::ready(()), if has_again => Next::Again,
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

    /// Takes up what an earlier run left, loads the version in force and starts it.
    async fn load_first(&mut self) {
        let mut saved = match self.surroundings.link.saved(&self.name).await {
            Some(Ok(saved)) => saved,
            Some(Err(error)) => {
                error!("what was kept of this plugin can't be read, so it starts without: {error}");
                Saved::default()
            }
            None => Saved::default(),
        };
        self.spare = Some(self.register(&mut saved));
        let loaded = match self.choose(saved).await {
            Ok(loaded) => loaded,
            Err(error) => {
                error!("{error}");
                self.life.failed();
                self.note_error(error.to_string());
                self.set_aside();
                return;
            }
        };
        info!(version = loaded.about.version(), bytes = loaded.about.size, "loaded {}", loaded.about.path.display());
        self.version = Some(loaded.clone());
        let on_probation = self.installed.probation.clone();
        let (reason, handed_over) = match on_probation {
            Some(OnProbation { has_started: false, handed_over }) => (StartReason::Swap, handed_over),
            Some(_) => (StartReason::Restart, None),
            None => (StartReason::First, None),
        };
        let previous = self.previous.as_ref().map(|(loaded, _)| loaded.about.version().to_owned());
        if self.probation.is_some() {
            self.life.swapped(true);
        }
        let previous = previous.filter(|_| reason == StartReason::Swap);
        self.begin(&loaded, reason, previous.as_deref(), handed_over.as_deref()).await;
    }

    /// Instantiates a version and runs its `start`; a fault is dealt with.
    async fn begin(
        &mut self,
        loaded: &Loaded,
        reason: StartReason,
        previous: Option<&str>,
        handed_over: Option<&[u8]>,
    ) {
        let instance = self.instantiate(loaded).await;
        let started = match instance {
            Ok(instance) => self.start(instance, StartInfo { reason, previous_version: previous, handed_over }).await,
            Err(fault) => Err(fault),
        };
        match started {
            Ok(()) if self.probation.is_some() => self.life.swapped(true),
            Ok(()) => self.life.started(),
            Err(fault) => return Box::pin(self.fault(&fault, None)).await,
        }
        self.show();
    }

    async fn instantiate(&mut self, loaded: &Loaded) -> Result<Instance, Fault> {
        let config = self.config.clone();
        self.instantiate_with(loaded, &config).await
    }

    async fn instantiate_with(&mut self, loaded: &Loaded, config: &PluginConfig) -> Result<Instance, Fault> {
        Instance::new(&self.surroundings.engine, loaded, config, self.surroundings.max_payload).await
    }

    async fn start(&mut self, mut instance: Instance, info: StartInfo<'_>) -> Result<(), Fault> {
        let (lent, mailbox) = match self.spare.take() {
            Some(spare) => spare,
            None => self.register(&mut Saved::default()),
        };
        lent.client.set_away(false);
        instance.lend(lent);
        let started = instance.start(info).await;
        self.running = Some(Running { instance, mailbox });
        // Whatever the link's state is, this instance has not been told.
        self.seen = None;
        if let Err(fault) = started {
            self.discard();
            return Err(fault);
        }
        let behind = self.installed_now().into_iter().collect();
        self.call_ended(Outcome { behind, ..Outcome::default() }).await;
        Ok(())
    }

    /// What is to be written about versions, if that has changed.
    fn installed_now(&mut self) -> Option<Change> {
        let digest = |loaded: &Loaded| loaded.about.digest.clone();
        let now = Installed {
            configured: self.installed.configured.clone(),
            current: self.version.as_ref().map(digest).unwrap_or_default(),
            previous: self.previous.as_ref().map(|(loaded, _)| digest(loaded)),
            probation: self.probation.as_ref().map(|probation| OnProbation {
                has_started: self.running.is_some(),
                handed_over: probation.handed_over.clone(),
            }),
        };
        if now == self.installed {
            return None;
        }
        self.installed = now.clone();
        Some(Change::Installed { plugin: self.name.clone(), installed: now })
    }

    /// Makes the plugin a client of the link.
    fn register(&self, saved: &mut Saved) -> (Lent, Mailbox) {
        let limits = &self.config.limits;
        let (client, mailbox) = self.surroundings.link.client(&ClientOptions {
            name: Some(self.name.clone()),
            outbox_bytes: limits.outbox_bytes,
            when_full: self.surroundings.when_full,
            mailbox_messages: limits.mailbox_messages,
            mailbox_bytes: limits.mailbox_bytes,
            inbox_bytes: limits.inbox_bytes,
            tracked: false,
        });
        (Lent::new(client, self.about.clone(), limits, saved), mailbox)
    }

    /// A call has ended well.
    async fn call_ended(&mut self, outcome: Outcome) {
        let Some(running) = &mut self.running else { return };
        self.counters.memory.store(running.instance.memory(), Relaxed);
        running.instance.call_ended(outcome).await;
    }

    /// Throws the instance away and keeps what belongs to the plugin.
    fn discard(&mut self) {
        if let Some(Running { mut instance, mailbox }) = self.running.take() {
            self.spare = instance.take_back().map(|lent| (lent, mailbox));
        }
    }

    /// The instance is of no use any more: what now. `failing`: the message it was called with.
    async fn fault(&mut self, fault: &Fault, failing: Option<Delivery>) {
        self.discard();
        self.counters.faults.fetch_add(1, Relaxed);
        self.last_error = Some(fault.to_string());
        match self.life.fault(Instant::now()) {
            After::RollBack => {
                error!("the version on probation failed, {fault}; the one before comes back");
                return self.roll_back(failing).await;
            }
            After::Restart(pause) => {
                error!("the plugin failed, {fault}; it starts again in {}", humantime::format_duration(pause));
                self.restart_at = Some(Instant::now() + pause);
            }
            After::Quarantine => {
                error!("the plugin failed, {fault}; that is too often (`limits.restart`), so it is quarantined");
                self.set_aside();
            }
        }
        self.show();
    }

    /// No instance for now. Where there is a disk, messages gather in the inbox meanwhile;
    /// else the plugin has no part in the link.
    fn set_aside(&mut self) {
        self.restart_at = None;
        match &self.spare {
            Some((lent, _)) if lent.client.is_durable() => lent.client.set_away(true),
            _ => {
                self.retries.clear();
                self.again.clear();
                self.spare = None;
            }
        }
        self.show();
    }

    async fn restart(&mut self) {
        self.restart_at = None;
        let Some(loaded) = self.version.clone() else { return };
        info!("starting again");
        self.begin(&loaded, StartReason::Restart, None, None).await;
    }

    /// Somebody wants it to run.
    async fn start_again(&mut self) -> Result<(), String> {
        if self.running.is_some() {
            return Ok(());
        }
        self.restart_at = None;
        self.life.starts();
        self.last_error = None;
        match self.version.clone() {
            Some(loaded) => self.begin(&loaded, StartReason::First, None, None).await,
            None => self.load_first().await,
        }
        if self.running.is_some() { Ok(()) } else { Err(self.last_error.clone().unwrap_or_default()) }
    }

    /// Ends the instance in good order.
    async fn stop(&mut self, reason: StopReason) {
        if let Some(running) = &mut self.running {
            match running.instance.stop(reason).await {
                Ok(result) => {
                    if let Err(error) = result {
                        warn!("stop: {error}");
                    }
                    self.call_ended(Outcome::default()).await;
                }
                Err(fault) => error!("the plugin failed in `stop`, {fault}"),
            }
        }
        self.discard();
        self.life.stopped();
        self.show();
    }

    /// A message that may have to wait behind others of its topic.
    async fn receive(&mut self, delivery: Delivery) {
        let topic = delivery.message.topic.clone();
        if let Some(delivery) = self.retries.behind(&topic, delivery) {
            self.handle(delivery, 1).await;
        }
    }

    async fn handle(&mut self, delivery: Delivery, attempt: u32) {
        let Some(running) = &mut self.running else { return };
        let begin = Instant::now();
        let redelivered = delivery.redelivered || attempt > 1;
        let topic = delivery.message.topic.clone();
        let result = running.instance.on_message(&delivery.message, attempt, redelivered).await;
        self.count_call(begin);
        match result {
            Ok(Ok(())) => self.handled(delivery).await,
            Ok(Err(Failure::Drop(reason))) => {
                warn!(%topic, "the plugin gave a message up: {reason}");
                self.handled(delivery).await;
            }
            Ok(Err(Failure::Retry(reason))) => self.try_again(delivery, attempt, &reason),
            Err(fault) if self.probation.is_some() => self.fault(&fault, Some(delivery)).await,
            Err(fault) => {
                self.try_again(delivery, attempt, &fault.to_string());
                self.fault(&fault, None).await;
            }
        }
        self.retries.done(&topic, Instant::now());
    }

    async fn handled(&mut self, delivery: Delivery) {
        self.counters.handled.fetch_add(1, Relaxed);
        let mut outcome = Outcome::default();
        if let Some(probation) = &mut self.probation {
            probation.handled();
            if let Some(number) = delivery.number() {
                outcome.is_kept = true;
                let dropped = probation.keep(number, delivery.message.clone());
                let change = |number| Change::NotKept { plugin: self.name.clone(), number };
                outcome.behind = dropped.into_iter().map(change).collect();
            }
        }
        outcome.handled = Some(delivery);
        self.call_ended(outcome).await;
        if self.probation.as_ref().is_some_and(|probation| probation.is_over(Instant::now())) {
            self.pass();
        }
    }

    /// Puts a message off, or gives it up after the last attempt.
    fn try_again(&mut self, delivery: Delivery, attempt: u32, reason: &str) {
        let topic = delivery.message.topic.clone();
        if attempt >= self.config.limits.retry_max {
            error!(%topic, attempt, "a message was given up after its last attempt, and is a dead letter: {reason}");
            self.counters.dead.fetch_add(1, Relaxed);
            let lent = match (&mut self.running, &self.spare) {
                (Some(running), _) => running.instance.lent(),
                (None, Some((lent, _))) => Some(lent),
                (None, None) => None,
            };
            match lent {
                Some(lent) => lent.client.bury(delivery, attempt, reason),
                None => delivery.handled(),
            }
            return;
        }
        let pause = retry_pause(self.config.limits.retry_min, attempt + 1);
        warn!(%topic, attempt, "a message is tried again in {}: {reason}", humantime::format_duration(pause));
        self.retries.hold(topic, delivery, attempt + 1, Instant::now() + pause);
    }

    async fn fire_timers(&mut self) {
        let Some(running) = &mut self.running else { return };
        let begin = Instant::now();
        let Some(fired) = running.instance.timers().fire(begin) else { return };
        let result = running.instance.on_timer(fired.id, fired.missed).await;
        self.count_call(begin);
        match result {
            Ok(Ok(())) => self.call_ended(Outcome::default()).await,
            Ok(Err(error)) => warn!(timer = fired.id, "on-timer: {error}"),
            Err(fault) => self.fault(&fault, None).await,
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
            Ok(()) => self.call_ended(Outcome::default()).await,
            Err(fault) => self.fault(&fault, None).await,
        }
    }

    fn count_call(&self, begin: Instant) {
        let nanoseconds = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.calls.fetch_add(1, Relaxed);
        self.counters.busy.fetch_add(nanoseconds, Relaxed);
    }

    fn note_error(&mut self, error: String) {
        self.last_error = Some(error);
        self.show();
    }

    /// Lets everybody see how it is.
    fn show(&mut self) {
        let gauge = match (&mut self.running, &self.spare) {
            (Some(Running { instance, mailbox }), _) => instance.lent().map(|lent| mailbox.gauge(&lent.client)),
            (None, Some((lent, mailbox))) => Some(mailbox.gauge(&lent.client)),
            (None, None) => None,
        };
        if self.running.is_none() {
            self.counters.memory.store(0, Relaxed);
        }
        self.standing.send_modify(|standing| {
            if standing.state != *self.life.state() {
                standing.state = self.life.state().clone();
                standing.since = Instant::now();
            }
            standing.version = self.version.as_ref().map(|loaded| loaded.about.clone());
            standing.previous = self.previous.as_ref().map(|(loaded, _)| loaded.about.clone());
            standing.last_error.clone_from(&self.last_error);
            standing.gauge = gauge;
        });
    }
}

/// What the plugin is told about itself, and may do.
fn about(name: &str, config: &PluginConfig, surroundings: &Surroundings) -> About {
    About {
        name: name.to_owned(),
        client_id: surroundings.client_id.to_string(),
        grants: config.grants.clone(),
        config: config.config.clone(),
    }
}

async fn receive(running: Option<&mut Running>) -> Option<Item> {
    match running {
        Some(running) => running.mailbox.recv().await,
        None => std::future::pending().await,
    }
}
