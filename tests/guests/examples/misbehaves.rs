//! Does what a message tells it: `trap`, `loop`, `eat`, `retry`, `retry-always`, `drop`.
//! Any other text it publishes to `to`, and there it also says when it starts.

use std::hint::black_box;

use alphorn_guest::{Delivery, Failure, Plugin, Qos, Result, Start, config, info, plugin, publish, subscribe};
use alphorn_test_guests::{filters, required, word};

struct Misbehaves {
    to: String,
}

#[plugin]
impl Plugin for Misbehaves {
    fn start(start: Start) -> Result<Self> {
        let to = required("to")?;
        for filter in filters("filters") {
            subscribe(&filter, Qos::AtLeastOnce)?;
        }
        publish(&to, format!("started: {}", word(start.reason)))?;
        if let Some(deed) = config("on_start") {
            commit(&deed);
        }
        Ok(Self { to })
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let deed = String::from_utf8(delivery.message.payload)?;
        let attempt = delivery.attempt;
        info!("about to {deed}, attempt {attempt}");
        match deed.as_str() {
            "retry" if attempt == 1 => return Err(Failure::retry("not at once")),
            "retry-always" => return Err(Failure::retry("not ever")),
            "drop" => return Err(Failure::drop("not wanted")),
            _ => commit(&deed),
        }
        publish(&self.to, format!("{deed}, attempt {attempt}"))?;
        Ok(())
    }
}

fn commit(deed: &str) {
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
        _ => {}
    }
}
