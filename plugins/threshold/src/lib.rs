//! Raises an alarm when a sensor's value is over a limit, and when none comes any more.

mod alarm;
mod settings;

use alarm::Alarm;
use alphorn_guest::{
    Delivery, Failure, Message, Plugin, Qos, Result, Start, StopReason, Timer, info, plugin, state, subscribe, timers,
};
use serde::Deserialize;
use settings::Settings;

/// Where the alarm is kept, in the plugin's durable state.
const KEY: &str = "alarm";

struct Threshold {
    settings: Settings,
    alarm: Alarm,
    /// Fires when nothing has come for too long.
    missing: Option<Timer>,
}

/// What a sensor sends; more may be in it.
#[derive(Deserialize)]
struct Reading {
    value: f64,
}

#[plugin]
impl Plugin for Threshold {
    fn start(start: Start) -> Result<Self> {
        let settings = Settings::from_config(alphorn_guest::config)?;
        // The version before, in whatever language, says how things are; else the store does.
        let (alarm, source): (Alarm, _) = match (start.handed_over, state::get(KEY)?) {
            (Some(handed_over), _) => (serde_json::from_slice(&handed_over)?, "the version before"),
            (None, Some(kept)) => (serde_json::from_slice(&kept)?, "the store"),
            (None, None) => (Alarm::default(), "nobody"),
        };
        info!("{} as {source} says", alarm.name());
        subscribe(&settings.topic, Qos::AtLeastOnce)?;
        let mut plugin = Self { settings, alarm, missing: None };
        plugin.wait_for_next()?;
        Ok(plugin)
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let reading: Reading = serde_json::from_slice(&delivery.message.payload)
            .map_err(|error| Failure::drop(format_args!("not a reading: {error}")))?;
        let next = self.alarm.after(reading.value, self.settings.limit, self.settings.hysteresis);
        self.change_to(next)?;
        self.wait_for_next()?;
        Ok(())
    }

    fn on_timer(&mut self, _: Timer, _missed: u32) -> Result {
        self.change_to(Alarm { missing: true, ..self.alarm })
    }

    fn stop(&mut self, _: StopReason) -> Result<Option<Vec<u8>>> {
        Ok(Some(serde_json::to_vec(&self.alarm)?))
    }
}

impl Threshold {
    /// Keeps it, and tells of it if it is called something else now.
    fn change_to(&mut self, next: Alarm) -> Result {
        state::set(KEY, serde_json::to_vec(&next)?)?;
        if next.name() != self.alarm.name() {
            Message::new(&self.settings.alarm, next.report()?).content_type("application/json").publish()?;
        }
        // Not before: a call that fails has changed nothing.
        self.alarm = next;
        Ok(())
    }

    fn wait_for_next(&mut self) -> Result {
        if let Some(timer) = self.missing.take() {
            timer.cancel();
        }
        self.missing = self.settings.missing_after.map(timers::after).transpose()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alphorn_guest::{PublishError, testing::Host};

    use super::*;

    fn host() -> Host {
        Host::new()
            .with_config("topic", "sensor/temperature")
            .with_config("alarm", "alarm/temperature")
            .with_config("limit", "30")
            .with_config("hysteresis", "2")
            .with_config("missing_after", "60")
    }

    #[test]
    fn an_alarm_is_published_when_it_changes_and_no_reading_is_given_up() -> Result {
        let host = host();
        let mut plugin = host.start::<Threshold>()?;
        for value in ["29", "31", "32", "29", "28"] {
            plugin.deliver("sensor/temperature", format!("{{\"value\":{value}}}")).unwrap();
        }
        let wanted = [("high", "31.0"), ("normal", "28.0")];
        assert_eq!(host.published(), wanted.map(|(name, value)| report(name, value)));
        assert!(matches!(plugin.deliver("sensor/temperature", "warm"), Err(Failure::Drop(_))));
        Ok(())
    }

    #[test]
    fn silence_is_an_alarm_once_and_ends_with_the_next_value() -> Result {
        let host = host();
        let mut plugin = host.start::<Threshold>()?;
        plugin.deliver("sensor/temperature", "{\"value\":20}").unwrap();
        plugin.advance(Duration::from_secs(59))?;
        plugin.deliver("sensor/temperature", "{\"value\":21}").unwrap();
        plugin.advance(Duration::from_secs(59))?;
        assert_eq!(host.published(), [""; 0]);
        plugin.advance(Duration::from_secs(600))?;
        plugin.deliver("sensor/temperature", "{\"value\":22}").unwrap();
        assert_eq!(host.published(), [report("missing", "21.0"), report("normal", "22.0")]);
        Ok(())
    }

    #[test]
    fn the_alarm_outlives_instances_and_versions() -> Result {
        let host = host();
        let mut plugin = host.start::<Threshold>()?;
        plugin.deliver("sensor/temperature", "{\"value\":31}").unwrap();
        // Another instance finds it in the store, another version in the hand-over.
        assert!(host.start::<Threshold>()?.plugin.alarm.high);
        let host = Host::new().with_config("topic", "a").with_config("alarm", "b").with_config("limit", "30");
        let next = host.start_with::<Threshold>(Start {
            reason: alphorn_guest::StartReason::Swap,
            previous_version: None,
            handed_over: plugin.stop(StopReason::Swap)?,
        })?;
        assert!(next.plugin.alarm.high);
        Ok(())
    }

    #[test]
    fn an_alarm_that_is_not_taken_is_tried_again() -> Result {
        let host = host();
        let mut plugin = host.start::<Threshold>()?;
        host.refuse_publishing(Some(PublishError::OutboxFull));
        assert!(matches!(plugin.deliver("sensor/temperature", "{\"value\":31}"), Err(Failure::Retry(_))));
        assert_eq!(host.state(KEY), None);
        host.refuse_publishing(None);
        plugin.deliver("sensor/temperature", "{\"value\":31}").unwrap();
        assert_eq!(host.published(), [report("high", "31.0")]);
        Ok(())
    }

    fn report(name: &str, value: &str) -> String {
        format!("alarm/temperature {{\"alarm\":\"{name}\",\"value\":{value}}}")
    }
}
