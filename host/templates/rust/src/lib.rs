//! Counts the seconds, and greets whoever sends a name.

use std::time::Duration;

use alphorn_guest::{Delivery, Failure, Plugin, Qos, Result, Start, Timer, config, plugin, publish, subscribe, timers};

struct {{type}} {
    greeting: String,
    seconds: u64,
}

#[plugin]
impl Plugin for {{type}} {
    fn start(_: Start) -> Result<Self> {
        subscribe("{{name}}/in", Qos::AtLeastOnce)?;
        timers::every(Duration::from_secs(1))?;
        let greeting = config("greeting").unwrap_or_else(|| "Hello".to_owned());
        Ok(Self { greeting, seconds: 0 })
    }

    fn on_timer(&mut self, _: Timer, _missed: u32) -> Result {
        self.seconds += 1;
        publish("{{name}}/count", self.seconds.to_string())?;
        Ok(())
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        // Another attempt would find no better text.
        let name = String::from_utf8(delivery.message.payload).map_err(Failure::drop)?;
        publish("{{name}}/out", format!("{}, {name}!", self.greeting))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alphorn_guest::testing::Host;

    use super::*;

    #[test]
    fn whoever_sends_a_name_is_greeted() {
        let host = Host::new().with_config("greeting", "Grüezi");
        let mut plugin = host.start::<{{type}}>().unwrap();
        plugin.deliver("{{name}}/in", "Heidi").unwrap();
        assert_eq!(host.published(), ["{{name}}/out Grüezi, Heidi!"]);
    }
}
