//! The trait a plugin implements.

use crate::{Delivery, Event, Failure, Result, StartReason, StopReason, Timer};

/// What the host calls.
///
/// Only [`start`](Plugin::start) has to be written. The host makes one call at a
/// time and never enters a plugin again while a call runs, so `&mut self` is all
/// the synchronisation there is. A panic ends the instance, as does a call over
/// its deadline; the host then starts a fresh one.
///
/// A call is a transaction: its writes to [`state`](crate::state) and its QoS 1
/// messages become durable together when it succeeds. An error undoes its
/// writes; messages may have left already.
///
/// Put [`#[plugin]`](macro@crate::plugin) above the `impl`.
#[expect(
    unused_variables,
    reason = "the defaults do nothing, yet their arguments should read well in the documentation"
)]
pub trait Plugin: Sized {
    /// Called once, before anything else. An error means that the instance
    /// cannot work: the host treats it as a fault and logs its words.
    ///
    /// Subscriptions and timers are asked for here. There may be no connection
    /// yet; nothing has to wait for one.
    fn start(start: Start) -> Result<Self>;

    /// Called for each message that a subscription brings. Ok means handled: a
    /// QoS 1 message is then acknowledged to the broker.
    ///
    /// `?` turns an error into [`Failure::Retry`]. After the configured number
    /// of attempts the message is a dead letter.
    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        Ok(())
    }

    /// Called when a timer is due. `missed` counts the periods that passed since
    /// the last call without one. An error is logged.
    fn on_timer(&mut self, timer: Timer, missed: u32) -> Result {
        Ok(())
    }

    /// Called when something happened outside. End a `match` on the event with
    /// `_ => {}`.
    fn on_event(&mut self, event: Event) {}

    /// Called last. What it returns reaches the next version's
    /// [`Start::handed_over`] when the reason is [`StopReason::Swap`], and is
    /// dropped otherwise. An error refuses a swap: this instance goes on.
    fn stop(&mut self, reason: StopReason) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// What a starting instance is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Why it starts.
    pub reason: StartReason,
    /// The version whose [`stop`](Plugin::stop) made the hand-over.
    pub previous_version: Option<String>,
    /// What that `stop` handed over.
    pub handed_over: Option<Vec<u8>>,
}
