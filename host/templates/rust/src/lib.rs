//! Counts the seconds, and greets whoever sends a name.

use std::time::Duration;

use alphorn_guest::{Delivery, Failure, Plugin, Qos, Result, Start, Timer};
use alphorn_guest::{config, plugin, publish, subscribe, timers};

const NAMES: &str = "{{name}}/in";
const GREETINGS: &str = "{{name}}/out";
const COUNT: &str = "{{name}}/count";

struct {{type}} {
    greeting: String,
    seconds: u64,
}

#[plugin]
impl Plugin for {{type}} {
    fn start(_: Start) -> Result<Self> {
        subscribe(NAMES, Qos::AtLeastOnce)?;
        timers::every(Duration::from_secs(1))?;
        let greeting = config("greeting").unwrap_or_else(|| "Hello".to_owned());
        let seconds = 0;
        Ok(Self { greeting, seconds })
    }

    fn on_timer(&mut self, _: Timer, _missed: u32) -> Result {
        self.seconds += 1;
        publish(COUNT, self.seconds.to_string())?;
        Ok(())
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let payload = delivery.message.payload;
        // Another attempt would find no better text.
        let name = String::from_utf8(payload).map_err(Failure::drop)?;
        publish(GREETINGS, format!("{}, {name}!", self.greeting))?;
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
        plugin.deliver(NAMES, "Heidi").unwrap();
        let greeting = format!("{GREETINGS} Grüezi, Heidi!");
        assert_eq!(host.published(), [greeting]);
    }
}
