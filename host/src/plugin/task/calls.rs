//! Messages, timers and events: what the guest is called with, and what comes of it.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use tracing::{error, warn};

use super::{
    super::{
        bindings::exports::alphorn::plugin::guest::{Event, Failure, Refused, Undelivered},
        imports::Lent,
        lifecycle::retry_pause,
    },
    Task,
};
use crate::{
    link::{Delivery, LinkState, Notice, Outcome},
    store::Change,
};

impl Task {
    /// A message that may have to wait behind others of its topic.
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
        let topic = delivery.message.topic.clone();
        let result = instance.on_message(&delivery.message, attempt, redelivered).await;
        self.count_call();
        match result {
            Ok(Ok(())) => self.handled(delivery).await,
            Ok(Err(Failure::Drop(reason))) => {
                if self.may_log() {
                    warn!(%topic, "the plugin gave a message up: {reason}");
                }
                self.lent().map(Lent::undo);
                self.handled(delivery).await;
            }
            Ok(Err(Failure::Retry(reason))) => {
                self.lent().map(Lent::undo);
                self.try_again(delivery, attempt, &reason);
            }
            Err(fault) if self.probation.is_some() => Box::pin(self.fault(&fault, Some(delivery))).await,
            Err(fault) => {
                self.try_again(delivery, attempt, &fault.to_string());
                Box::pin(self.fault(&fault, None)).await;
            }
        }
        if self.retries.holds(&topic) {
            self.retries.done(&topic, Instant::now());
        }
    }

    async fn handled(&mut self, delivery: Delivery) {
        self.counters.handled.fetch_add(1, Relaxed);
        let (is_kept, behind) = self.keep(&delivery);
        self.call_ended(Outcome { handled: Some(delivery), is_kept, behind, ..Outcome::default() }).await;
        if self.probation.as_ref().is_some_and(|probation| probation.is_over(Instant::now())) {
            self.pass();
        }
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
    fn try_again(&mut self, mut delivery: Delivery, attempt: u32, reason: &str) {
        let topic = delivery.message.topic.clone();
        let may_log = self.may_log();
        if attempt < self.config.limits.retry_max {
            let pause = retry_pause(self.config.limits.retry_min, attempt + 1);
            if may_log {
                warn!(%topic, attempt, "a message is tried again in {}: {reason}", humantime::format_duration(pause));
            }
            delivery.set_aside();
            return self.retries.hold(topic, delivery, attempt + 1, Instant::now() + pause);
        }
        self.counters.dead.fetch_add(1, Relaxed);
        let (is_kept, changes) = self.keep(&delivery);
        match self.lent() {
            Some(lent) => {
                lent.client.bury(delivery, attempt, reason, is_kept);
                lent.client.write(changes);
            }
            None => delivery.handled(),
        }
        // Who reads this finds it among the dead letters.
        if may_log {
            error!(%topic, attempt, "a message was given up after its last attempt, and is a dead letter: {reason}");
        }
    }

    pub(super) async fn fire_timers(&mut self) {
        let Some(instance) = &mut self.instance else { return };
        let Some(fired) = instance.timers().fire(Instant::now()) else { return };
        let result = instance.on_timer(fired.id, fired.missed).await;
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
        let Some(instance) = &mut self.instance else { return };
        match instance.on_event(event).await {
            Ok(()) => self.call_ended(Outcome::default()).await,
            Err(fault) => self.fault(&fault, None).await,
        }
    }

    /// A call has ended well.
    pub(super) async fn call_ended(&mut self, outcome: Outcome) {
        let Some(instance) = &mut self.instance else { return };
        self.counters.memory.store(instance.memory(), Relaxed);
        if let Some(lent) = instance.lent() {
            lent.call_ended(outcome).await;
        }
    }

    /// What a guest causes in the log counts as its own lines.
    fn may_log(&mut self) -> bool {
        self.instance.as_mut().is_none_or(|instance| instance.may_log())
    }

    fn count_call(&self) {
        let Some(instance) = &self.instance else { return };
        let nanoseconds = u64::try_from(instance.began().elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.calls.fetch_add(1, Relaxed);
        self.counters.busy.fetch_add(nanoseconds, Relaxed);
    }
}
