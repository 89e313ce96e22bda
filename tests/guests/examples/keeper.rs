//! Counts the messages it handles: in memory, handed over at a swap, and in its durable state.
//! Of each it tells `to`: payload, count, how this instance was started. What an instance does
//! that was started by a swap can be spoiled: `on_swap` is what its start does (`trap`, `loop`,
//! `eat`, `error`), `trap_on` a payload over which it traps. With `refuse` it does not let go.
//! Over a payload `trap` each version traps. A payload `fail` it counts and can't handle, one that begins with `lost` it can't even count.

use std::hint::black_box;

use alphorn_guest::{
    Delivery, Error, Event, Failure, Plugin, Qos, Result, Start, StartReason, StopReason, config, error, plugin,
    publish, state, subscribe,
};
use alphorn_test_guests::{filters, required, word};

struct Keeper {
    to: String,
    count: u64,
    reason: StartReason,
}

#[plugin]
impl Plugin for Keeper {
    fn start(start: Start) -> Result<Self> {
        let to = required("to")?;
        for filter in filters("filters") {
            subscribe(&filter, Qos::AtLeastOnce)?;
        }
        if start.reason == StartReason::Swap {
            state::set("spoiled", "by the new version")?;
            for filter in filters("on_swap_filters") {
                subscribe(&filter, Qos::AtLeastOnce)?;
            }
            spoil(config("on_swap").as_deref().unwrap_or_default())?;
        }
        let stored = number(state::get("count")?.as_deref());
        let count = match start.handed_over.as_deref() {
            Some(handed_over) => number(Some(handed_over)),
            None => stored,
        };
        let spoiled = state::get("spoiled")?.is_some();
        publish(&to, format!("* start: {} at {count}, stored {stored}, spoiled {spoiled}", word(start.reason)))?;
        Ok(Self { to, count, reason: start.reason })
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let payload = String::from_utf8(delivery.message.payload)?;
        if payload.starts_with("lost") {
            return Err(Failure::retry("as told"));
        }
        let is_spoiled = self.reason == StartReason::Swap && config("trap_on").as_ref() == Some(&payload);
        self.count += 1;
        state::set("count", self.count.to_string())?;
        assert!(!is_spoiled && payload != "trap", "trapped as told");
        if payload == "fail" {
            return Err(Failure::retry("as told"));
        }
        let again = if delivery.redelivered { " redelivered" } else { "" };
        publish(&self.to, format!("{payload} {} {}{again}", self.count, word(self.reason)))?;
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        if let Event::LinkUp(_) = event
            && let Err(refusal) = publish(&self.to, "* up")
        {
            error!("not published: {refusal}");
        }
    }

    fn stop(&mut self, reason: StopReason) -> Result<Option<Vec<u8>>> {
        if config("refuse").is_some() && reason == StopReason::Swap {
            return Err(Error::new("not now"));
        }
        Ok(Some(self.count.to_string().into_bytes()))
    }
}

fn number(text: Option<&[u8]>) -> u64 {
    text.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or_default()
}

fn spoil(deed: &str) -> Result<()> {
    match deed {
        "trap" => panic!("trapped as told"),
        "loop" => loop {
            black_box(());
        },
        "eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(black_box(vec![1_u8; 64 * 1024]));
            }
        }
        "error" => Err(Error::new("as told")),
        _ => Ok(()),
    }
}
