//! A program that runs by itself: what it is given, and what it comes to.
//!
//! A call is over when it returns; a program is done with a message when it asks for the next one.
//! Until then the message is in its hand, and the task does whatever else there is to do.

use std::{future::pending, sync::atomic::Ordering::Relaxed};

use tracing::info;

use super::{
    super::{guest::Guest, program::Happening},
    Task,
};
use crate::link::{Delivery, Outcome};

/// A message a program was given, and which attempt at it this is.
pub(super) struct InHand {
    delivery: Delivery,
    attempt: u32,
}

/// What a program comes to next, where it is one that runs. Safe to drop.
pub(super) async fn happening(guest: Option<&mut Guest>) -> Happening {
    match guest {
        Some(Guest::Program(program)) => program.next().await,
        _ => pending().await,
    }
}

impl Task {
    /// A message for a program that has asked for one.
    pub(super) async fn give(&mut self, delivery: Delivery, attempt: u32) {
        let Some(Guest::Program(program)) = &mut self.instance else { return };
        let redelivered = delivery.redelivered || attempt > 1;
        match program.give(&delivery.message, attempt, redelivered) {
            Ok(()) => {
                self.counters.calls.fetch_add(1, Relaxed);
                self.in_hand = Some(InHand { delivery, attempt });
            }
            Err(why) => {
                let topic = delivery.message.topic.clone();
                let durable = self.give_up(delivery, attempt, why);
                self.tried(&topic);
                if let Some(durable) = durable {
                    durable.wait().await;
                }
            }
        }
    }

    pub(super) async fn happened(&mut self, happening: Happening) {
        if let Some(Guest::Program(program)) = &mut self.instance {
            let nanoseconds = u64::try_from(program.take_busy().as_nanos()).unwrap_or(u64::MAX);
            self.counters.busy.fetch_add(nanoseconds, Relaxed);
        }
        match happening {
            Happening::Published => self.call_ended(Outcome::default()).await,
            Happening::Asks => self.done_with_line().await,
            Happening::Ended(Ok(())) => self.finished().await,
            Happening::Ended(Err(fault)) => match self.in_hand.take() {
                Some(InHand { delivery, attempt }) => {
                    let settled = self.settle(delivery, attempt, Err(fault));
                    self.see_to(settled).await;
                }
                None => self.fault(&fault, None).await,
            },
        }
    }

    /// The program has no use for the message in its hand any more, if it has not.
    pub(super) async fn done_with_line(&mut self) {
        let is_at_it = matches!(&self.instance, Some(Guest::Program(program)) if program.has_line());
        if is_at_it {
            return;
        }
        if let Some(InHand { delivery, attempt }) = self.in_hand.take() {
            let settled = self.settle(delivery, attempt, Ok(Ok(())));
            self.see_to(settled).await;
        }
    }

    /// Its guest is gone: what that had in hand comes before all others to the next one.
    pub(super) fn put_back(&mut self) {
        if let Some(InHand { delivery, .. }) = self.in_hand.take() {
            self.again.push_front(delivery.again());
        }
    }

    /// It has ended by itself, and well.
    async fn finished(&mut self) {
        self.done_with_line().await;
        self.call_ended(Outcome::default()).await;
        info!("the program has finished; `alphorn start {}` runs it again", self.name);
        self.pass();
        self.discard();
        self.life.finished();
        self.set_aside();
    }
}
