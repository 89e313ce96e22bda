//! The functions of the WIT package, answered by the fake host. Their names and types are
//! those of the bindings.

use super::{Host, Running};

pub(crate) mod mqtt {
    use super::Host;
    use crate::bindings::alphorn::plugin::mqtt::LinkState;
    use crate::{Message, PublishError, Qos, SubscribeError};

    pub(crate) fn publish(message: &Message) -> Result<u32, PublishError> {
        let host = Host::current();
        let mut world = host.change();
        if let Some(refusal) = &world.refusal {
            return Err(refusal.clone());
        }
        world.published.push(message.clone());
        Ok(u32::try_from(world.published.len()).unwrap_or(u32::MAX))
    }

    pub(crate) fn subscribe(filter: &str, qos: Qos) -> Result<(), SubscribeError> {
        Host::current().change().subscriptions.insert(filter.to_owned(), qos);
        Ok(())
    }

    pub(crate) fn unsubscribe(filter: &str) -> Result<(), SubscribeError> {
        Host::current().change().subscriptions.remove(filter);
        Ok(())
    }

    /// As after a connection at the start.
    pub(crate) fn link() -> LinkState {
        let since = Host::current().look().elapsed.as_secs_f64() * 1_000.0;
        LinkState { connected: true, since, queued_messages: 0, queued_bytes: 0.0 }
    }
}

pub(crate) mod timers {
    use std::time::Duration;

    use super::{Host, Running};

    pub(crate) fn every(period: u32) -> Result<u32, String> {
        start(period, true)
    }

    pub(crate) fn after(delay: u32) -> Result<u32, String> {
        start(delay, false)
    }

    pub(crate) fn cancel(timer: u32) {
        Host::current().change().timers.remove(&timer);
    }

    fn start(milliseconds: u32, again: bool) -> Result<u32, String> {
        if milliseconds == 0 {
            return Err("it has to be 1 ms or more".to_owned());
        }
        let time = Duration::from_millis(milliseconds.into());
        let host = Host::current();
        let mut world = host.change();
        world.next_timer += 1;
        let (id, due) = (world.next_timer, world.elapsed + time);
        world.timers.insert(id, Running { due, period: again.then_some(time) });
        Ok(id)
    }
}

pub(crate) mod state {
    use super::Host;
    use crate::state::StateError;

    pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(Host::current().state(key))
    }

    pub(crate) fn set(key: &str, value: &[u8]) -> Result<(), StateError> {
        Host::current().change().state.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    pub(crate) fn remove(key: &str) -> Result<(), StateError> {
        Host::current().change().state.remove(key);
        Ok(())
    }

    pub(crate) fn keys(prefix: &str, after: Option<&str>) -> Result<Vec<String>, StateError> {
        let host = Host::current();
        let world = host.look();
        let wanted = world.state.keys().filter(|key| key.starts_with(prefix));
        Ok(wanted.filter(|key| after.is_none_or(|after| key.as_str() > after)).take(1_000).cloned().collect())
    }
}

pub(crate) mod host {
    use super::Host;
    use crate::{About, Level};

    pub(crate) fn identity() -> About {
        let text = str::to_owned;
        About { client_id: text("device"), plugin: text("plugin"), version: text("test"), host_version: text("test") }
    }

    pub(crate) fn config(key: &str) -> Option<String> {
        Host::current().look().config.get(key).cloned()
    }

    pub(crate) fn config_keys() -> Vec<String> {
        Host::current().look().config.keys().cloned().collect()
    }

    pub(crate) fn log(level: Level, text: &str) {
        Host::current().change().logged.push((level, text.to_owned()));
    }

    pub(crate) fn now() -> f64 {
        const MIDNIGHT: f64 = 1_767_225_600_000.0;
        MIDNIGHT + Host::current().look().elapsed.as_secs_f64() * 1_000.0
    }
}
