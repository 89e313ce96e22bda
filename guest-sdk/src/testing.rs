//! A fake host, for a plugin's tests where it is written: `cargo test`, no device, no broker.
//!
//! It keeps what the plugin published, logged and stored, and has a clock that only moves
//! when told, so a test of an hour takes no time.
//!
//! ```
//! use std::time::Duration;
//!
//! use alphorn_guest::{Plugin, Result, Start, Timer, config, publish, testing::Host, timers};
//!
//! struct Beat(String);
//!
//! impl Plugin for Beat {
//!     fn start(_: Start) -> Result<Self> {
//!         timers::every(Duration::from_secs(60))?;
//!         Ok(Self(config("topic").unwrap_or_default()))
//!     }
//!
//!     fn on_timer(&mut self, _: Timer, _missed: u32) -> Result {
//!         publish(&self.0, "beat")?;
//!         Ok(())
//!     }
//! }
//!
//! let host = Host::new().with_config("topic", "test/beat");
//! let mut plugin = host.start::<Beat>()?;
//! plugin.advance(Duration::from_secs(150))?;
//! assert_eq!(host.published(), ["test/beat beat", "test/beat beat"]);
//! # Ok::<(), alphorn_guest::Error>(())
//! ```

pub(crate) mod calls;

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::{
    Delivery, Event, Failure, Level, Message, Plugin, PublishError, Qos, Result, Start, StartReason, StopReason, Timer,
};

/// The host of this thread, from when it is made until the next one is. Copies are the same.
#[derive(Clone, Debug)]
pub struct Host(Rc<RefCell<World>>);

/// All that a plugin can see or change.
#[derive(Debug, Default)]
struct World {
    config: BTreeMap<String, String>,
    state: BTreeMap<String, Vec<u8>>,
    subscriptions: BTreeMap<String, Qos>,
    published: Vec<Message>,
    logged: Vec<(Level, String)>,
    /// What `publish` answers instead of taking the message.
    refusal: Option<PublishError>,
    timers: BTreeMap<u32, Running>,
    next_timer: u32,
    /// Since the host was made.
    elapsed: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    due: Duration,
    /// None: once.
    period: Option<Duration>,
}

thread_local! {
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// One in which nothing has happened. Its clock begins on 2026-01-01 at midnight UTC.
    #[must_use]
    pub fn new() -> Self {
        let host = Self(Rc::default());
        CURRENT.set(Some(host.clone()));
        host
    }

    /// A value of the plugin's `[config]` table.
    #[must_use]
    pub fn with_config(self, key: &str, value: &str) -> Self {
        self.change().config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A value in the plugin's durable state.
    #[must_use]
    pub fn with_state(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.change().state.insert(key.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Starts the plugin for the first time.
    pub fn start<P: Plugin>(&self) -> Result<Started<P>> {
        self.start_with(Start { reason: StartReason::First, previous_version: None, handed_over: None })
    }

    /// Starts it as told; timers of an instance before have ended.
    pub fn start_with<P: Plugin>(&self, start: Start) -> Result<Started<P>> {
        self.change().timers.clear();
        let plugin = self.call(|| P::start(start))?;
        Ok(Started { host: self.clone(), plugin })
    }

    /// From here on `publish` refuses with this, or takes messages again.
    pub fn refuse_publishing(&self, refusal: Option<PublishError>) {
        self.change().refusal = refusal;
    }

    /// What was published so far, as `topic payload`.
    #[must_use]
    pub fn published(&self) -> Vec<String> {
        let line = |message: &Message| format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload));
        self.look().published.iter().map(line).collect()
    }

    /// The same, whole.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.look().published.clone()
    }

    /// What was logged so far.
    #[must_use]
    pub fn logged(&self) -> Vec<(Level, String)> {
        self.look().logged.clone()
    }

    /// A value of the durable state.
    #[must_use]
    pub fn state(&self, key: &str) -> Option<Vec<u8>> {
        self.look().state.get(key).cloned()
    }

    /// The filters that are subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.look().subscriptions.keys().cloned().collect()
    }

    /// A call is a transaction: what a failed one wrote is undone.
    fn call<R, E>(&self, call: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let before = self.look().state.clone();
        let result = call();
        if result.is_err() {
            self.change().state = before;
        }
        result
    }

    fn current() -> Self {
        match CURRENT.with_borrow(Clone::clone) {
            Some(host) => host,
            None => panic!("there is no host here: make one first, `testing::Host::new()`, in the same thread"),
        }
    }

    fn look(&self) -> Ref<'_, World> {
        self.0.borrow()
    }

    fn change(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }
}

/// A plugin that has started, and what a host does with it.
#[derive(Debug)]
pub struct Started<P> {
    host: Host,
    /// The plugin itself.
    pub plugin: P,
}

impl<P: Plugin> Started<P> {
    /// A message comes, at QoS 1. A test that sends what nobody asked for is mistaken, and fails.
    pub fn deliver(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<(), Failure> {
        let filters = self.host.subscriptions();
        assert!(
            filters.iter().any(|filter| matches(filter, topic)),
            "the plugin has no subscription for {topic}: {filters:?}"
        );
        self.deliver_as(Delivery { message: Message::new(topic, payload), attempt: 1, redelivered: false })
    }

    /// The same with all that can be said of a message.
    pub fn deliver_as(&mut self, delivery: Delivery) -> Result<(), Failure> {
        self.host.clone().call(|| self.plugin.on_message(delivery))
    }

    /// Time passes, and timers fire when they are due. Ends with the first error.
    pub fn advance(&mut self, time: Duration) -> Result {
        let end = self.host.look().elapsed + time;
        loop {
            let first = self.host.look().timers.iter().map(|(id, timer)| (timer.due, *id)).min();
            let Some((due, id)) = first.filter(|(due, _)| *due <= end) else { break };
            {
                let mut world = self.host.change();
                world.elapsed = due;
                match world.timers.get_mut(&id) {
                    Some(Running { due, period: Some(period) }) => *due += *period,
                    _ => drop(world.timers.remove(&id)),
                }
            }
            self.host.clone().call(|| self.plugin.on_timer(Timer::from_id(id), 0))?;
        }
        self.host.change().elapsed = end;
        Ok(())
    }

    /// Something happens outside.
    pub fn event(&mut self, event: Event) {
        self.plugin.on_event(event);
    }

    /// Ends it; what it hands over.
    pub fn stop(mut self, reason: StopReason) -> Result<Option<Vec<u8>>> {
        self.host.clone().call(|| self.plugin.stop(reason))
    }

    /// Replaces it with another version, which gets the hand-over.
    pub fn swap<Next: Plugin>(self) -> Result<Started<Next>> {
        let host = self.host.clone();
        let handed_over = self.stop(StopReason::Swap)?;
        host.start_with(Start { reason: StartReason::Swap, previous_version: Some("test".to_owned()), handed_over })
    }
}

/// As MQTT has it.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{publish, state, subscribe, timers};

    struct Keeper {
        seen: u32,
    }

    impl Plugin for Keeper {
        fn start(start: Start) -> Result<Self> {
            subscribe("in/+", Qos::AtLeastOnce)?;
            timers::after(Duration::from_secs(5))?;
            let seen = start.handed_over.map(String::from_utf8).transpose()?.unwrap_or_default();
            Ok(Self { seen: seen.parse().unwrap_or(0) })
        }

        fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
            state::set("last", &delivery.message.payload)?;
            publish("out", delivery.message.payload)?;
            self.seen += 1;
            Ok(())
        }

        fn on_timer(&mut self, _: Timer, _missed: u32) -> Result {
            crate::info!("{} s", crate::now().duration_since(std::time::UNIX_EPOCH)?.as_secs());
            Ok(())
        }

        fn stop(&mut self, _: StopReason) -> Result<Option<Vec<u8>>> {
            Ok(Some(self.seen.to_string().into()))
        }
    }

    #[test]
    fn a_failed_call_has_stored_nothing() {
        let host = Host::new();
        let mut plugin = host.start::<Keeper>().unwrap();
        plugin.deliver("in/a", "1").unwrap();
        host.refuse_publishing(Some(PublishError::OutboxFull));
        assert!(matches!(plugin.deliver("in/a", "2"), Err(Failure::Retry(_))));
        assert_eq!((host.state("last").as_deref(), host.published()), (Some(&b"1"[..]), vec!["out 1".to_owned()]));
    }

    #[test]
    fn a_hand_over_reaches_the_next_version_and_a_timer_fires_once() {
        let host = Host::new();
        let mut plugin = host.start::<Keeper>().unwrap();
        plugin.deliver("in/a", "1").unwrap();
        plugin.advance(Duration::from_millis(4_999)).unwrap();
        let mut next = plugin.swap::<Keeper>().unwrap();
        assert_eq!(next.plugin.seen, 1);
        // The old one's timer has ended with it.
        next.advance(Duration::from_secs(4)).unwrap();
        assert_eq!(host.logged(), []);
        next.advance(Duration::from_secs(60)).unwrap();
        assert_eq!(host.logged(), [(Level::Info, "1767225609 s".to_owned())]);
    }

    #[test]
    #[should_panic(expected = "no subscription for elsewhere")]
    fn a_message_nobody_asked_for_is_a_mistake_of_the_test() {
        let _ = Host::new().start::<Keeper>().unwrap().deliver("elsewhere", "");
    }

    #[test]
    fn filters_match_as_mqtt_has_it() {
        for (filter, topic) in [("a/b", "a/b"), ("a/+", "a/b"), ("a/#", "a"), ("#", "a/b"), ("+/b", "a/b")] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [("a/b", "a"), ("a", "a/b"), ("a/+", "a"), ("a/+", "a/b/c")] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }
}
