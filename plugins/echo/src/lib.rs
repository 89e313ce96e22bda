//! Sends each message back on its topic with `/echo` behind it.

use alphorn_guest::{Delivery, Error, Failure, Message, Plugin, Qos, Result, Start, config, plugin, subscribe};

const SUFFIX: &str = "/echo";

struct Echo;

#[plugin]
impl Plugin for Echo {
    fn start(_: Start) -> Result<Self> {
        let filter = config("filter")
            .ok_or_else(|| Error::new("config `filter` is missing; it says what to echo, like \"test/#\""))?;
        subscribe(&filter, Qos::AtLeastOnce)?;
        Ok(Self)
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let message = delivery.message;
        // The filter may cover the echoes as well: an echo of one would never end.
        if message.topic.ends_with(SUFFIX) {
            return Ok(());
        }
        let echo = Message { topic: message.topic + SUFFIX, retain: false, ..message };
        echo.publish()?;
        Ok(())
    }
}
