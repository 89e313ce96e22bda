//! A plugin's task: the one owner of its Store, its mailbox and its timers.
//!
//! It does one thing at a time: requests of the host first, then the state of the link, then
//! timers and messages in turn (`calls`). A program that runs by itself goes on meanwhile
//! (`program`). Another version is made ready beside, and takes over
//! between two calls (`swap`).

mod calls;
mod program;
mod swap;

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use tokio::{
    select,
    sync::{Notify, mpsc, watch},
    time::sleep_until,
};
use tracing::{Span, error, info, warn};

use self::{
    program::InHand,
    swap::{Preparing, Ready},
};
use super::{
    bindings::exports::alphorn::plugin::guest::{StartInfo, StartReason, StopReason},
    component::Loaded,
    guest::Guest,
    handle::{Request, Surroundings, SwapError},
    history::History,
    instance::Fault,
    lent::{About, Lent},
    lifecycle::{After, Life},
    probation::Probation,
    program::Happening,
    report::{Counters, Standing},
    retries::Retries,
};
use crate::{
    allowance::Allowance,
    config::PluginConfig,
    link::{ClientOptions, Delivery, Item, LinkStatus, Mailbox, Outcome},
    message::Qos,
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
    /// A request to end is on its way.
    unwanted: Arc<Notify>,
    standing: watch::Sender<Standing>,
    counters: Arc<Counters>,
    life: Life,
    /// The version in force.
    version: Option<Loaded>,
    /// The one that comes back in its place, and its settings.
    previous: Option<(Loaded, PluginConfig)>,
    /// The digest of the configured file, as of what is in force.
    configured: String,
    /// What became of other versions.
    history: History,
    /// What is on disk about versions.
    installed: Installed,
    probation: Option<Probation>,
    /// What runs, if anything.
    instance: Option<Guest>,
    /// What a program was given and is not done with.
    in_hand: Option<InHand>,
    /// What belongs to the plugin, while no instance has it. None: it has no part in the link.
    lent: Option<Lent>,
    mailbox: Option<Mailbox>,
    /// What is to take over, and what is to follow that.
    preparing: Option<Preparing>,
    later: VecDeque<Request>,
    restart_at: Option<Instant>,
    last_error: Option<String>,
    /// What the host may say about it.
    words: Allowance,
    /// Messages that a version on probation had handled: they come before all others.
    again: VecDeque<Delivery>,
    /// Messages that have to be tried again, and those behind them.
    retries: Retries<Delivery>,
}

/// What the task does next.
enum Next {
    Request(Option<Request>),
    Ready(Result<Box<Ready>, SwapError>),
    Link,
    Timer,
    Passed,
    Program(Happening),
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
        (standing, requests): (watch::Sender<Standing>, mpsc::Receiver<Request>),
        unwanted: Arc<Notify>,
        counters: Arc<Counters>,
        span: Span,
    ) -> Self {
        let words = Allowance::about(config.limits.log_rate, span);
        Self {
            name: name.into(),
            about: Arc::new(about(name, &config, &surroundings)),
            life: Life::new(config.limits.restart_max, config.limits.restart_within),
            config,
            status: surroundings.link.status(),
            surroundings,
            seen: None,
            requests,
            unwanted,
            standing,
            counters,
            version: None,
            previous: None,
            configured: String::new(),
            history: History::default(),
            installed: Installed::default(),
            probation: None,
            instance: None,
            in_hand: None,
            lent: None,
            mailbox: None,
            preparing: None,
            later: VecDeque::new(),
            restart_at: None,
            last_error: None,
            words,
            again: VecDeque::new(),
            retries: Retries::new(),
        }
    }

    /// Until ended. What is rarely done is boxed: as long as the plugin lives this future takes the
    /// memory of all that is not, and there is one for each plugin.
    pub(super) async fn run(mut self) {
        Box::pin(self.load_first()).await;
        loop {
            match self.next().await {
                Next::Request(Some(request)) => {
                    if Box::pin(self.obey(request)).await {
                        return;
                    }
                }
                Next::Request(None) | Next::Item(None) => return,
                Next::Ready(ready) => Box::pin(self.take_over(ready)).await,
                Next::Link => Box::pin(self.tell_link()).await,
                Next::Timer => self.fire_timers().await,
                Next::Passed => self.pass(),
                Next::Program(happening) => self.happened(happening).await,
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
                Next::Restart => Box::pin(self.restart()).await,
                Next::Item(Some(Item::Message(delivery))) => self.receive(delivery).await,
                Next::Item(Some(Item::Notice(notice))) => Box::pin(self.tell(notice)).await,
            }
        }
    }

    async fn next(&mut self) -> Next {
        let runs = self.instance.is_some();
        // It fails only when the link has ended, and with it the mailbox.
        let link_changed = runs && (self.seen.is_none() || self.status.has_changed().unwrap_or(false));
        let is_program = matches!(self.instance, Some(Guest::Program(_)));
        // A program asks for messages, the others take what comes.
        let takes = self.instance.as_ref().is_some_and(Guest::takes_messages);
        let timer = self.instance.as_mut().and_then(|instance| instance.timers()?.next());
        let retry = self.retries.next().filter(|_| takes);
        let has_again = takes && !self.again.is_empty();
        let passes = self.probation.as_ref().map(Probation::until).filter(|_| runs);
        let restart = self.restart_at;
        if let Ok(request) = self.requests.try_recv() {
            return Next::Request(Some(request));
        }
        // Most of the time there is but a message: it need not be waited for.
        let is_quiet = !link_changed && !has_again && self.preparing.is_none();
        let due = [timer, retry, passes, restart].into_iter().flatten().min();
        let has_time = || due.is_none_or(|due| due > Instant::now());
        if let (true, true, Some(mailbox)) = (takes, is_quiet, &mut self.mailbox)
            && has_time()
            && let Some(item) = mailbox.try_recv()
        {
            return Next::Item(Some(item));
        }
        let mut has_waited = false;
        let next = {
            let mut next = pin!(async {
                select! {
                    biased;
                    request = self.requests.recv() => Next::Request(request),
                    ready = swap::ready(&mut self.preparing), if self.preparing.is_some() => Next::Ready(ready),
                    () = std::future::ready(()), if link_changed => Next::Link,
                    Ok(()) = self.status.changed(), if runs => Next::Link,
                    () = at(restart), if restart.is_some() => Next::Restart,
                    () = at(passes), if passes.is_some() => Next::Passed,
                    happening = program::happening(self.instance.as_mut()), if is_program => Next::Program(happening),
                    () = std::future::ready(()), if has_again => Next::Again,
                    next = async {
                        select! {
                            () = at(timer), if timer.is_some() => Next::Timer,
                            () = at(retry), if retry.is_some() => Next::Retry,
                            item = receive(self.mailbox.as_mut()), if takes => Next::Item(item),
                            else => std::future::pending().await,
                        }
                    } => next,
                }
            });
            poll_fn(|context| {
                let polled = next.as_mut().poll(context);
                has_waited |= polled.is_pending();
                polled
            })
            .await
        };
        if let (true, Some(instance)) = (has_waited, &mut self.instance) {
            instance.rested();
        }
        next
    }

    /// True: that was the last thing to do. Who asked may be gone, so replies may fail.
    async fn obey(&mut self, request: Request) -> bool {
        match request {
            Request::Swap(swap, reply) if self.preparing.is_none() => self.prepare(*swap, reply),
            Request::RollBack(roll_back, reply) if self.preparing.is_none() => {
                self.roll_back_as_told(roll_back, reply).await;
            }
            // One after the other; each has somebody who waits for it, so they are few.
            request @ (Request::Swap(..) | Request::RollBack(..)) => self.later.push_back(request),
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

    /// Takes up what an earlier run left, loads the version in force and starts it, unless the
    /// end comes before that is compiled.
    async fn load_first(&mut self) {
        let mut saved = match self.surroundings.link.saved(&self.name).await {
            Some(Ok(saved)) => saved,
            Some(Err(error)) => {
                error!("what was kept of this plugin can't be read, so it starts without: {error}");
                Saved::default()
            }
            None => Saved::default(),
        };
        self.register(&mut saved);
        let in_use = self.surroundings.versions.hold().await;
        let unwanted = self.unwanted.clone();
        let chosen = select! {
            chosen = self.choose(saved) => chosen,
            () = unwanted.notified() => return,
        };
        let loaded = match chosen {
            Ok(loaded) => loaded,
            Err(error) => {
                self.life.failed();
                self.last_error = Some(error.to_string());
                self.set_aside();
                return error!("{error}");
            }
        };
        info!(version = loaded.about.version(), bytes = loaded.about.size, "loaded {}", loaded.about.path.display());
        self.version = Some(loaded.clone());
        self.show();
        drop(in_use);
        let on_probation = self.installed.probation.clone().filter(|_| self.probation.is_some());
        let (reason, handed_over) = match on_probation {
            Some(OnProbation { has_started: false, handed_over, .. }) => (StartReason::Swap, handed_over),
            Some(_) => (StartReason::Restart, None),
            None => (StartReason::First, None),
        };
        let previous = self.previous.as_ref().map(|(loaded, _)| loaded.about.version().to_owned());
        let previous = previous.filter(|_| reason == StartReason::Swap);
        self.begin(&loaded, reason, previous.as_deref(), handed_over.as_deref()).await;
    }

    /// Makes an instance of a version and runs its `start`; a fault is dealt with.
    async fn begin(
        &mut self,
        loaded: &Loaded,
        reason: StartReason,
        previous: Option<&str>,
        handed_over: Option<&[u8]>,
    ) {
        let Surroundings { engine, max_payload, .. } = &self.surroundings;
        let instance = Guest::new(engine, loaded, &self.config, *max_payload).await;
        let info = StartInfo { reason, previous_version: previous, handed_over };
        let started = match instance {
            Ok(instance) => self.start(instance, info).await,
            Err(fault) => Err(fault),
        };
        match started {
            Ok(()) => self.show(),
            Err(fault) => Box::pin(self.fault(&fault, None)).await,
        }
    }

    /// Runs `start` of a new instance.
    async fn start(&mut self, mut instance: Guest, info: StartInfo<'_>) -> Result<(), Fault> {
        if self.lent.is_none() {
            self.register(&mut Saved::default());
        }
        if let Some(lent) = self.lent.take() {
            lent.client.set_away(false);
            instance.lend(lent);
        }
        // Whatever the link's state is, this instance has not been told.
        self.seen = None;
        let started = instance.start(info).await;
        self.instance = Some(instance);
        if let Err(fault) = started {
            self.discard();
            return Err(fault);
        }
        self.life.started(self.probation.is_some());
        let behind = self.installed_now().into_iter().collect();
        self.call_ended(Outcome { behind, ..Outcome::default() }).await;
        Ok(())
    }

    /// What is to be written about versions, if that has changed.
    fn installed_now(&mut self) -> Option<Change> {
        let digest = |loaded: &Loaded| loaded.about.digest.clone();
        let subscription = |(filter, qos): (&_, &Qos)| (ToString::to_string(filter), *qos == Qos::AtLeastOnce);
        let now = Installed {
            configured: self.configured.clone(),
            current: self.version.as_ref().map(digest).unwrap_or_default(),
            previous: self.previous.as_ref().map(|(loaded, _)| digest(loaded)),
            probation: self.probation.as_ref().map(|probation| OnProbation {
                has_started: self.instance.is_some(),
                handed_over: probation.handed_over.clone(),
                subscriptions: probation.subscriptions.iter().map(subscription).collect(),
            }),
            past: self.history.past().to_vec(),
        };
        if now == self.installed {
            return None;
        }
        self.installed = now.clone();
        Some(Change::Installed { plugin: self.name.clone(), installed: now })
    }

    /// Makes the plugin a client of the link, in place of the one it was.
    fn register(&mut self, saved: &mut Saved) {
        // The link takes the end of the old one for the end of the new one if that came first.
        (self.lent, self.mailbox) = (None, None);
        let limits = &self.config.limits;
        let (client, mailbox) = self.surroundings.link.client(&ClientOptions {
            name: Some(self.name.clone()),
            outbox_bytes: limits.outbox_bytes,
            when_full: self.surroundings.when_full,
            mailbox_messages: limits.mailbox_messages,
            mailbox_bytes: limits.mailbox_bytes,
            inbox_bytes: limits.inbox_bytes,
            tracked: false,
            words: self.words.clone(),
        });
        self.lent = Some(Lent::new(client, self.about.clone(), limits, saved));
        self.mailbox = Some(mailbox);
    }

    /// What belongs to the plugin, wherever it is.
    fn lent(&mut self) -> Option<&mut Lent> {
        match &mut self.instance {
            Some(instance) => instance.lent(),
            None => self.lent.as_mut(),
        }
    }

    /// Throws the instance away and keeps what belongs to the plugin.
    fn discard(&mut self) {
        if let Some(mut instance) = self.instance.take() {
            self.lent = instance.take_back();
        }
        self.put_back();
    }

    /// The instance is of no use any more: what now. `failing`: the message it was called with.
    /// Who reads the log and asks finds it as the line says.
    async fn fault(&mut self, fault: &Fault, failing: Option<Delivery>) {
        self.discard();
        self.counters.faults.fetch_add(1, Relaxed);
        self.last_error = Some(fault.to_string());
        let can_return = self.probation.is_some() && self.previous.is_some();
        match self.life.fault(Instant::now(), can_return) {
            After::RollBack => {
                error!("the version on probation failed, {fault}; the one before comes back");
                let handed_over = self.return_to_previous(failing, &fault.to_string());
                return self.begin_again(handed_over).await;
            }
            After::Restart(pause) => {
                self.restart_at = Some(Instant::now() + pause);
                self.show();
                error!("the plugin failed, {fault}; it starts again in {}", humantime::format_duration(pause));
            }
            After::Quarantine => {
                self.set_aside();
                error!("the plugin failed, {fault}; that is too often (`limits.restart`), so it is quarantined");
            }
        }
    }

    /// No instance for now. Where there is a disk, messages gather in the inbox meanwhile;
    /// else the plugin has no part in the link.
    fn set_aside(&mut self) {
        self.restart_at = None;
        match &self.lent {
            Some(lent) if lent.client.is_durable() => lent.client.set_away(true),
            _ => {
                self.retries.clear();
                self.again.clear();
                (self.lent, self.mailbox) = (None, None);
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
        if self.instance.is_some() {
            return Ok(());
        }
        self.restart_at = None;
        self.life.starts();
        self.last_error = None;
        let time = self.config.limits.probation_time;
        if let Some(probation) = &mut self.probation {
            probation.restart(Instant::now(), time);
        }
        match self.version.clone() {
            Some(loaded) => self.begin(&loaded, StartReason::First, None, None).await,
            None => self.load_first().await,
        }
        if self.instance.is_some() { Ok(()) } else { Err(self.last_error.clone().unwrap_or_default()) }
    }

    /// Ends the instance in good order.
    async fn stop(&mut self, reason: StopReason) {
        if let Some(instance) = &mut self.instance {
            match instance.stop(reason).await {
                Ok(Ok(_)) => {
                    self.done_with_line().await;
                    self.call_ended(Outcome::default()).await;
                }
                Ok(Err(words)) => warn!("stop: {words}"),
                Err(fault) => error!("the plugin failed in `stop`, {fault}"),
            }
        }
        self.discard();
        self.life.stopped();
        self.show();
    }

    /// Lets everybody see how it is.
    fn show(&mut self) {
        if self.instance.is_none() {
            self.counters.memory.store(0, Relaxed);
        }
        let lent = match &mut self.instance {
            Some(instance) => instance.lent(),
            None => self.lent.as_mut(),
        };
        let gauge = lent.zip(self.mailbox.as_ref()).map(|(lent, mailbox)| mailbox.gauge(&lent.client));
        self.standing.send_modify(|standing| {
            if standing.state != *self.life.state() {
                standing.state = self.life.state().clone();
                standing.since = Instant::now();
            }
            standing.version = self.version.as_ref().map(|loaded| loaded.about.clone());
            standing.previous = self.previous.as_ref().map(|(loaded, _)| loaded.about.clone());
            standing.is_on_probation = self.probation.is_some();
            standing.past = self.history.past().to_vec();
            standing.grants.clone_from(&self.about.grants);
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

/// Looks at the clock only when it is waited for.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

async fn receive(mailbox: Option<&mut Mailbox>) -> Option<Item> {
    match mailbox {
        Some(mailbox) => mailbox.recv().await,
        None => std::future::pending().await,
    }
}
