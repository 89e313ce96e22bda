//! Publishes as fast as it is let: `bench/start`, then `count` messages of `size` bytes
//! to `bench/data` at `qos`, then `bench/done`. Each payload begins with the number of its
//! message, four bytes, big endian. A call publishes at most `call` messages.

use std::time::Duration;

use alphorn_guest::{Event, Message, Plugin, PublishError, Qos, Result, Start, Timer, config, plugin, timers};

struct Flood {
    count: u32,
    call: u32,
    timers: u32,
    sent: u32,
    is_done: bool,
    message: Message,
}

#[plugin]
impl Plugin for Flood {
    fn start(_: Start) -> Result<Self> {
        let number = |key| config(key).unwrap_or_default().parse::<u32>();
        let qos = if config("qos").as_deref() == Some("1") { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let message = Message::new("bench/data", vec![b'x'; number("size")? as usize]).qos(qos);
        let (count, call, timers) = (number("count")?, number("call")?, number("timers")?);
        Ok(Self { count, call, timers, sent: 0, is_done: false, message })
    }

    fn on_event(&mut self, event: Event) {
        if matches!(event, Event::LinkUp(_)) && self.sent == 0 && Message::new("bench/start", "").publish().is_ok() {
            // Several of them: while one of them is due, calls follow each other without a pause.
            for _ in 0..self.timers {
                if let Err(error) = timers::every(Duration::from_millis(1)) {
                    alphorn_guest::error!("{error}");
                }
            }
            self.flood();
        }
    }

    fn on_timer(&mut self, timer: Timer, _: u32) -> Result {
        if self.is_done {
            timer.cancel();
        } else {
            self.flood();
        }
        Ok(())
    }
}

impl Flood {
    /// Until the outbox is full or the call has published its part.
    fn flood(&mut self) {
        for _ in 0..self.call {
            if self.sent == self.count {
                self.is_done = Message::new("bench/done", "").publish().is_ok();
                return;
            }
            if let Some(number) = self.message.payload.first_chunk_mut() {
                *number = self.sent.to_be_bytes();
            }
            match self.message.publish() {
                Ok(_) => self.sent += 1,
                Err(PublishError::OutboxFull) => return,
                Err(error) => return alphorn_guest::error!("{error}"),
            }
        }
    }
}
