//! Publishes as fast as it is let: `bench/start`, then `count` messages of `size` bytes
//! to `bench/data` at `qos`, then `bench/done`.

use std::time::Duration;

use alphorn_guest::{Event, Message, Plugin, PublishError, Qos, Result, Start, Timer, config, plugin, timers};

struct Flood {
    count: u32,
    sent: u32,
    message: Message,
}

#[plugin]
impl Plugin for Flood {
    fn start(_: Start) -> Result<Self> {
        let number = |key| config(key).unwrap_or_default().parse::<u32>();
        let qos = if config("qos").as_deref() == Some("1") { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let message = Message::new("bench/data", vec![b'x'; number("size")? as usize]).qos(qos);
        Ok(Self { count: number("count")?, sent: 0, message })
    }

    fn on_event(&mut self, event: Event) {
        if matches!(event, Event::LinkUp(_)) && Message::new("bench/start", "").publish().is_ok() {
            self.flood();
        }
    }

    fn on_timer(&mut self, _: Timer, _: u32) -> Result {
        self.flood();
        Ok(())
    }
}

impl Flood {
    /// Until the outbox is full, and again when that may have changed.
    fn flood(&mut self) {
        const CALL: u32 = 5_000;
        for _ in 0..CALL {
            if self.sent == self.count {
                if Message::new("bench/done", "").publish().is_ok() {
                    return;
                }
                break;
            }
            match self.message.publish() {
                Ok(_) => self.sent += 1,
                Err(PublishError::OutboxFull) => break,
                Err(error) => return alphorn_guest::error!("{error}"),
            }
        }
        if let Err(error) = timers::after(Duration::from_millis(1)) {
            alphorn_guest::error!("{error}");
        }
    }
}
