//! Uses all of the contract: each function the host offers, each way to answer it. It tells `to`
//! what came of that.
//!
//! `tests/fixtures/contract-0.1.0.wasm` is what it was compiled to on the day the contract was
//! frozen. Later hosts have to run that file; this one may change.

use std::time::{Duration, UNIX_EPOCH};

use alphorn_guest::{
    Delivery, Event, Failure, Level, Message, Plugin, Qos, Result, Start, StopReason, Timer, config, config_keys,
    identity, link, log, now, plugin, publish, state, subscribe, timers, unsubscribe,
};
use alphorn_test_guests::{required, word};

struct Contract {
    to: String,
    every: Timer,
    after: Timer,
    fired: u32,
}

#[plugin]
impl Plugin for Contract {
    fn start(start: Start) -> Result<Self> {
        let to = required("to")?;
        let about = identity();
        for level in [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error] {
            log(level, format_args!("a line of {}", word(level)));
        }
        let is_late = now() > UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let handed_over = start.handed_over.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        publish(
            &to,
            format!(
                "start {} from {} with {}: {} of {}, config {}, {} {}, time {is_late}",
                word(start.reason),
                start.previous_version.is_some(),
                handed_over.unwrap_or_default(),
                about.plugin,
                about.client_id,
                config_keys().join(" "),
                config("none").is_some(),
                !about.version.is_empty() && !about.host_version.is_empty(),
            ),
        )?;

        subscribe("in/#", Qos::AtLeastOnce)?;
        subscribe("in/more", Qos::AtMostOnce)?;
        unsubscribe("in/more")?;
        let refused = [subscribe("foreign", Qos::AtMostOnce), subscribe("a#", Qos::AtMostOnce)];
        publish(&to, format!("subscribe {}", refused.map(|refused| kind(&refused)).join(" ")))?;
        let refused = [publish("foreign", ""), publish("a/+", ""), publish(&to, vec![0; 200_000])];
        publish(&to, format!("publish {}", refused.map(|refused| kind(&refused)).join(" ")))?;

        state::set("b", "2")?;
        state::set("a", "1")?;
        state::set("c", "3")?;
        state::remove("b")?;
        let [a, b] = ["a", "b"].map(state::get);
        let too_large = kind(&state::set(&"k".repeat(2000), ""));
        publish(&to, format!("state {:?} {:?} {} {too_large}", a?, b?, state::keys("")?.join(" ")))?;

        timers::after(Duration::from_mins(1))?.cancel();
        let none = kind(&timers::every(Duration::ZERO));
        publish(&to, format!("timers {none}"))?;
        let every = timers::every(Duration::from_millis(20))?;
        Ok(Self { to, every, after: timers::after(Duration::from_millis(1))?, fired: 0 })
    }

    fn on_message(&mut self, Delivery { message, attempt, redelivered }: Delivery) -> Result<(), Failure> {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        match (payload.as_str(), attempt) {
            ("retry", 1) => return Err(Failure::retry("as told")),
            ("drop", _) => return Err(Failure::drop("as told")),
            ("link", _) => {
                let link = link();
                publish(&self.to, format!("link {} {}", link.connected, link.queued_messages))?;
            }
            ("properties", _) => {
                Message::new(&self.to, "with properties")
                    .qos(Qos::AtMostOnce)
                    .content_type("text/plain")
                    .response_topic("answers")
                    .correlation_data("1")
                    .expires_after(Duration::from_mins(1))
                    .utf8()
                    .user_property("name", "value")
                    .publish()?;
            }
            ("retain", _) => {
                Message::new(&self.to, "kept").retain().publish()?;
            }
            _ => {
                let properties = message.properties.map(|properties| properties.user_properties.len());
                let Message { topic, qos, retain, .. } = message;
                let qos = word(qos);
                let line = format!("{payload} on {topic} {qos} {retain} {attempt} {redelivered} {properties:?}");
                publish(&self.to, line)?;
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, _missed: u32) -> Result<()> {
        if timer == self.after {
            publish(&self.to, "after")?;
        } else if timer == self.every && self.fired < 2 {
            self.fired += 1;
            publish(&self.to, format!("every {}", self.fired))?;
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        if let Event::LinkUp(session_present) = event {
            // Without an answer there is nobody to tell.
            let _ = publish(&self.to, format!("up {session_present}"));
        }
    }

    fn stop(&mut self, reason: StopReason) -> Result<Option<Vec<u8>>> {
        publish(&self.to, format!("stop {}", word(reason)))?;
        Ok(Some(b"what it knew".to_vec()))
    }
}

/// The name of a refusal alone.
fn kind<T, E: std::fmt::Debug>(result: &std::result::Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => word(error).split(['(', ' ']).next().unwrap_or_default().to_owned(),
    }
}
