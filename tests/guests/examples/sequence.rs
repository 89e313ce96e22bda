//! Publishes the numbers from 0 up to `count` to `topic`: `each` of them (1 unless it says more) every
//! `interval` milliseconds, or all of them in `start` when that is 0. Each is as long as `bytes` asks for,
//! kept by the broker with `retain = "true"`, and expires after `expiry` seconds if that is given. A `{n}`
//! in the topic stands for the number, so that each has a topic of its own.

use std::time::Duration;

use alphorn_guest::{Message, Plugin, PublishError, Qos, Result, Start, Timer, config, info, plugin, timers};
use alphorn_test_guests::{optional, qos, required};

struct Sequence {
    topic: String,
    qos: Qos,
    bytes: usize,
    retain: bool,
    expiry: Option<Duration>,
    each: u32,
    next: u32,
    count: u32,
}

#[plugin]
impl Plugin for Sequence {
    fn start(_: Start) -> Result<Self> {
        let mut sequence = Self {
            topic: required("topic")?,
            qos: qos(),
            bytes: optional("bytes", 0)?,
            retain: optional("retain", false)?,
            expiry: config("expiry").map(|seconds| seconds.parse().map(Duration::from_secs)).transpose()?,
            each: optional("each", 1)?,
            next: 0,
            count: optional("count", 1)?,
        };
        match optional("interval", 0)? {
            0 => while sequence.step()? {},
            interval => drop(timers::every(Duration::from_millis(interval))?),
        }
        Ok(sequence)
    }

    fn on_timer(&mut self, timer: Timer, missed: u32) -> Result {
        for _ in 0..missed.saturating_add(1).saturating_mul(self.each) {
            if !self.step()? {
                break;
            }
        }
        if self.next == self.count {
            timer.cancel();
        }
        Ok(())
    }
}

impl Sequence {
    /// Publishes one number, if it is taken and there is one left.
    fn step(&mut self) -> Result<bool> {
        if self.next == self.count {
            return Ok(false);
        }
        let mut payload = self.next.to_string();
        payload.extend(std::iter::repeat_n(' ', self.bytes.saturating_sub(payload.len())));
        let topic = self.topic.replace("{n}", &self.next.to_string());
        let mut message = Message::new(&topic, payload).qos(self.qos);
        if let Some(expiry) = self.expiry {
            message = message.expires_after(expiry);
        }
        match (Message { retain: self.retain, ..message }).publish() {
            Ok(_) => {}
            Err(PublishError::RateLimited(_) | PublishError::OutboxFull) => return Ok(false),
            Err(refusal) => {
                info!("number {} refused: {refusal}", self.next);
                return Err(refusal.into());
            }
        }
        self.next += 1;
        if self.next == self.count {
            info!("all {} numbers are taken", self.count);
        }
        Ok(true)
    }
}
