//! Publishes the local time once a second.

mod local_time;

use std::time::Duration;

use alphorn_guest::{Error, Message, Plugin, Qos, Result, Start, Timer, config, error, info, plugin, timers};
use local_time::LocalTime;

struct Timestamp {
    topic: String,
    qos: Qos,
    clock: LocalTime,
}

#[plugin]
impl Plugin for Timestamp {
    fn start(_: Start) -> Result<Self> {
        let plugin = Self {
            topic: config("topic").unwrap_or_else(|| "test/date".to_owned()),
            qos: qos(config("qos").as_deref())?,
            clock: match config("utc_offset") {
                Some(offset) => offset.parse()?,
                None => LocalTime::UTC,
            },
        };
        timers::every(Duration::from_secs(1))?;
        Ok(plugin)
    }

    fn on_timer(&mut self, _: Timer, _missed: u32) -> Result {
        let payload = self.clock.now();
        info!("try to publish: {payload}");
        // A refusal is for the log: the next second brings a newer time.
        if let Err(refusal) = Message::new(&self.topic, payload).qos(self.qos).publish() {
            error!("not published: {refusal}");
        }
        Ok(())
    }
}

fn qos(config: Option<&str>) -> Result<Qos> {
    match config {
        None | Some("0") => Ok(Qos::AtMostOnce),
        Some("1") => Ok(Qos::AtLeastOnce),
        Some(other) => Err(Error::new(format_args!("config `qos` is {other:?}; it can be \"0\" or \"1\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qos_is_0_unless_asked_for() {
        assert_eq!(qos(None), Ok(Qos::AtMostOnce));
        assert_eq!(qos(Some("0")), Ok(Qos::AtMostOnce));
        assert_eq!(qos(Some("1")), Ok(Qos::AtLeastOnce));
    }

    #[test]
    fn a_qos_that_is_not_offered_is_named() {
        let words = r#"config `qos` is "2"; it can be "0" or "1""#;
        assert_eq!(qos(Some("2")), Err(Error::new(words)));
    }
}
