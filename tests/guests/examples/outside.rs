//! Asks `times` times for what it was not granted, and tells `to` what came of it.

use alphorn_guest::{Plugin, Qos, Result, Start, plugin, publish, subscribe};
use alphorn_test_guests::{optional, required};

struct Outside;

#[plugin]
impl Plugin for Outside {
    fn start(_: Start) -> Result<Self> {
        let (topic, to) = (required("topic")?, required("to")?);
        for _ in 0..optional("times", 1)? {
            report(&to, "publish", publish(&topic, "forbidden").map(drop))?;
            report(&to, "subscribe", subscribe(&topic, Qos::AtLeastOnce))?;
        }
        Ok(Self)
    }
}

fn report(to: &str, what: &str, outcome: Result<(), impl std::fmt::Display>) -> Result {
    let text = match outcome {
        Ok(()) => format!("{what}: taken"),
        Err(error) => format!("{what}: {error}"),
    };
    publish(to, text)?;
    Ok(())
}
