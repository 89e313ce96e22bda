//! Messages, timers and events: what the guest is called with, and what comes of it.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use tracing::{error, warn};

use super::{
    super::{
        bindings::exports::alphorn::plugin::guest::{Event, Failure, Refused, Undelivered},
        guest::Guest,
        instance::Fault,
        lent::Lent,
        lifecycle::retry_pause,
    },
    Task,
};
use crate::{
    escape::cut,
    link::{Delivery, Durable, LinkState, Notice, Outcome},
    store::Change,
    topic::TopicName,
};

/// The most that `ps` shows of a topic, in bytes.
const SHOWN: usize = 128;

/// What became of a message.
#[must_use]
pub(super) struct Settled {
    /// The call is over when what it left to be written is on disk.
    durable: Option<Durable>,
    /// The instance is of no use any more. On probation the message goes to the version before.
    failed: Option<Box<(Fault, Option<Delivery>)>>,
}

impl Task {
    /// A message that may have to wait behind another of its topic.
    pub(super) async fn receive(&mut self, mut delivery: Delivery) {
        if self.retries.holds(&delivery.message.topic) {
            delivery.set_aside();
            self.retries.behind(delivery.message.topic.clone(), delivery);
        } else {
            self.handle(delivery, 1).await;
        }
    }

    pub(super) async fn handle(&mut self, delivery: Delivery, attempt: u32) {
        let Some(instance) = &mut self.instance else { return };
        let redelivered = delivery.redelivered || attempt > 1;
        let result = match instance {
            Guest::Plugin(plugin) => plugin.on_message(&delivery.message, attempt, redelivered).await,
            Guest::Handler(handler) => handler.instance.on_message(&delivery.message).await,
            Guest::Program(_) => return self.give(delivery, attempt).await,
        };
        self.count_call();
        let settled = self.settle(delivery, attempt, result);
        self.see_to(settled).await;
    }

    /// What comes of a message, now that it was tried. It is moved no more than need be: this is on
    /// the way of every message.
    pub(super) fn settle(
        &mut self,
        delivery: Delivery,
        attempt: u32,
        result: Result<Result<(), Failure>, Fault>,
    ) -> Settled {
        let topic = Some(&delivery.message.topic).filter(|topic| self.retries.holds(topic)).cloned();
        let mut failed = None;
        let durable = match result {
            Ok(Ok(())) => self.handled(delivery),
            Ok(Err(Failure::Drop(reason))) => {
                if self.may_log() {
                    warn!(topic = %delivery.message.topic, "the plugin gave a message up: {reason}");
                }
                self.lent().map(Lent::undo);
                self.handled(delivery)
            }
            Ok(Err(Failure::Retry(reason))) => {
                self.lent().map(Lent::undo);
                self.try_again(delivery, attempt, &reason)
            }
            Err(fault) if self.probation.is_some() => {
                failed = Some(Box::new((fault, Some(delivery))));
                None
            }
            Err(fault) => {
                let durable = self.try_again(delivery, attempt, &fault.to_string());
                failed = Some(Box::new((fault, None)));
                durable
            }
        };
        if let Some(topic) = topic {
            self.tried(&topic);
        }
        Settled { durable, failed }
    }

    pub(super) async fn see_to(&mut self, settled: Settled) {
        let Settled { durable, failed } = settled;
        if let Some(durable) = durable {
            durable.wait().await;
        }
        if let Some(failed) = failed {
            let (fault, delivery) = *failed;
            Box::pin(self.fault(&fault, delivery)).await;
        }
    }

    /// A message of this topic was tried: what waits behind it may be due.
    pub(super) fn tried(&mut self, topic: &TopicName) {
        if self.retries.holds(topic) {
            self.retries.done(topic, Instant::now());
        }
    }

    fn handled(&mut self, delivery: Delivery) -> Option<Durable> {
        self.counters.handled.fetch_add(1, Relaxed);
        let (is_kept, behind) = self.keep(&delivery);
        let durable = self.end_call(Outcome { handled: Some(delivery), is_kept, behind, ..Outcome::default() });
        if self.probation.as_ref().is_some_and(|probation| probation.is_over(Instant::now())) {
            self.pass();
        }
        durable
    }

    /// On probation a message that is done with is kept aside, for the version before. What is
    /// kept no longer for that is to be written.
    fn keep(&mut self, delivery: &Delivery) -> (bool, Vec<Change>) {
        let Some(probation) = &mut self.probation else { return (false, Vec::new()) };
        probation.handled();
        let Some(number) = delivery.number() else { return (false, Vec::new()) };
        let dropped = probation.keep(number, delivery.message.clone());
        let change = |number| Change::NotKept { plugin: self.name.clone(), number };
        (true, dropped.into_iter().map(change).collect())
    }

    /// Puts a message off, or gives it up after the last attempt.
    fn try_again(&mut self, delivery: Delivery, attempt: u32, reason: &str) -> Option<Durable> {
        if attempt >= self.config.limits.retry_max {
            return self.give_up(delivery, attempt, reason);
        }
        self.put_off(delivery, attempt, reason);
        None
    }

    fn put_off(&mut self, mut delivery: Delivery, attempt: u32, reason: &str) {
        let topic = delivery.message.topic.clone();
        let pause = retry_pause(self.config.limits.retry_min, attempt + 1);
        if self.may_log() {
            warn!(%topic, attempt, "a message is tried again in {}: {reason}", humantime::format_duration(pause));
        }
        delivery.set_aside();
        self.retries.hold(topic, delivery, attempt + 1, Instant::now() + pause);
    }

    /// Makes a dead letter of a message, since no further attempt at it would do any good. While the disk
    /// takes nothing and much waits for it already, the message is put off instead: dead letters that can't
    /// be written would fill the memory.
    #[must_use]
    pub(super) fn give_up(&mut self, delivery: Delivery, attempt: u32, reason: &str) -> Option<Durable> {
        if self.lent().is_some_and(|lent| lent.client.is_stuck()) {
            self.put_off(delivery, attempt, reason);
            return None;
        }
        let topic = delivery.message.topic.clone();
        self.counters.dead.fetch_add(1, Relaxed);
        let (is_kept, changes) = self.keep(&delivery);
        let durable = match self.lent() {
            Some(lent) => {
                let durable = lent.client.bury(delivery, attempt, reason, is_kept);
                lent.client.write(changes);
                durable
            }
            None => {
                delivery.handled();
                None
            }
        };
        // Who reads this finds it among the dead letters.
        if self.may_log() {
            error!(%topic, attempt, "a message was given up after its last attempt, and is a dead letter: {reason}");
        }
        durable
    }

    pub(super) async fn fire_timers(&mut self) {
        let Some(Guest::Plugin(plugin)) = &mut self.instance else { return };
        let Some(fired) = plugin.timers().fire(Instant::now()) else { return };
        let result = plugin.on_timer(fired.id, fired.missed).await;
        self.count_call();
        match result {
            Ok(Ok(())) => self.call_ended(Outcome::default()).await,
            Ok(Err(words)) => {
                if self.may_log() {
                    warn!(timer = fired.id, "on-timer: {words}");
                }
            }
            Err(fault) => Box::pin(self.fault(&fault, None)).await,
        }
    }

    /// Tells the guest what became of the connection since it was told last.
    pub(super) async fn tell_link(&mut self) {
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

    pub(super) async fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Dropped { number, topic, reason, .. } => {
                self.note(format!("a message on `{}` was dropped: {reason}", cut(&topic, SHOWN)));
                let undelivered = Undelivered { id: number, topic: &topic, reason: &reason };
                self.event(Event::PublishDropped(undelivered)).await;
            }
            Notice::Quarantined { number, topic, reason } => {
                self.note(format!("a message on `{}` went to quarantine: {reason}", cut(&topic, SHOWN)));
                let undelivered = Undelivered { id: number, topic: &topic, reason: &reason };
                self.event(Event::PublishQuarantined(undelivered)).await;
            }
            Notice::SubscriptionRefused { filter, refusal } => {
                let reason = refusal.to_string();
                self.note(format!("the subscription `{}` was refused: {reason}", cut(filter.as_str(), SHOWN)));
                self.event(Event::SubscriptionRefused(Refused { subject: filter.as_str(), reason: &reason })).await;
            }
            // For clients that track what goes well; plugins do not.
            Notice::Published(_) | Notice::Subscribed(_) => {}
        }
    }

    /// Something went wrong that is no fault of the instance: `ps` shows it.
    fn note(&mut self, what: String) {
        if self.last_error.as_ref() != Some(&what) {
            self.last_error = Some(what);
            self.show();
        }
    }

    async fn event(&mut self, event: Event<'_>) {
        // The others have no way to be told.
        let Some(Guest::Plugin(plugin)) = &mut self.instance else { return };
        match plugin.on_event(event).await {
            Ok(()) => self.call_ended(Outcome::default()).await,
            Err(fault) => self.fault(&fault, None).await,
        }
    }

    pub(super) async fn call_ended(&mut self, outcome: Outcome) {
        if let Some(durable) = self.end_call(outcome) {
            durable.wait().await;
        }
    }

    /// A call has ended well. What comes out is to be waited for before the next one.
    fn end_call(&mut self, outcome: Outcome) -> Option<Durable> {
        let instance = self.instance.as_mut()?;
        self.counters.memory.store(instance.memory(), Relaxed);
        instance.lent()?.call_ended(outcome)
    }

    /// What a guest causes in the log is bounded as its own lines are.
    fn may_log(&self) -> bool {
        self.words.take()
    }

    fn count_call(&self) {
        let Some(began) = self.instance.as_ref().and_then(Guest::began) else { return };
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.calls.fetch_add(1, Relaxed);
        self.counters.busy.fetch_add(nanoseconds, Relaxed);
    }
}
