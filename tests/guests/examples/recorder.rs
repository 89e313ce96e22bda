//! Tells `to` what it receives, a line each: `topic payload`, then what is out of the
//! ordinary (`retained`, `redelivered`, `attempt 2`). With a `*` before it, it also tells of
//! events and of its own start and end. A message `subscribe FILTER` has it subscribe, and
//! one that contains `slow` takes it `slow` milliseconds.

use std::{thread::sleep, time::Duration};

use alphorn_guest::{
    Delivery, Event, Failure, Message, Plugin, Qos, Result, Start, StopReason, error, info, plugin, publish, subscribe,
};
use alphorn_test_guests::{filters, optional, qos, required, word};

struct Recorder {
    to: String,
    qos: Qos,
    slow: Duration,
}

#[plugin]
impl Plugin for Recorder {
    fn start(start: Start) -> Result<Self> {
        let slow = Duration::from_millis(optional("slow", 0)?);
        let recorder = Self { to: required("to")?, qos: qos(), slow };
        for filter in filters("filters") {
            subscribe(&filter, recorder.qos)?;
        }
        recorder.event(format!("start: {}", word(start.reason)));
        Ok(recorder)
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let Delivery { message, attempt, redelivered } = delivery;
        let payload = String::from_utf8_lossy(&message.payload);
        info!("received {payload}");
        if let Some(filter) = payload.strip_prefix("subscribe ") {
            subscribe(filter, self.qos)?;
        }
        if payload.contains("slow") {
            sleep(self.slow);
        }
        let mut line = format!("{} {payload}", message.topic);
        if message.retain {
            line += " retained";
        }
        if redelivered {
            line += " redelivered";
        }
        if attempt > 1 {
            line += &format!(" attempt {attempt}");
        }
        Message::new(&self.to, line).qos(self.qos).publish()?;
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        self.event(match event {
            Event::LinkUp(session_present) => format!("up: session present {session_present}"),
            Event::LinkDown(reason) => format!("down: {reason}"),
            Event::SubscriptionRefused(refused) => format!("refused: {} {}", refused.subject, refused.reason),
            Event::PublishDropped(message) => format!("dropped: {} {}", message.topic, message.reason),
            other => format!("{other:?}"),
        });
    }

    fn stop(&mut self, reason: StopReason) -> Result<Option<Vec<u8>>> {
        self.event(format!("stop: {}", word(reason)));
        Ok(None)
    }
}

impl Recorder {
    fn event(&self, text: String) {
        if let Err(refusal) = publish(&self.to, format!("* {text}")) {
            error!("not published: {refusal}");
        }
    }
}
