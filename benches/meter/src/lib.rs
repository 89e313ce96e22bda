//! Does as little as a plugin can, so that what remains is the host's cost: takes a message and
//! is done with it, or, when its topic ends with `/go`, publishes `count` messages of `size`
//! bytes on `topic` at `qos`. With `hello` it publishes one message there as soon as it starts.

use alphorn_guest::{Delivery, Error, Failure, Message, Plugin, Qos, Result, Start, config, plugin, subscribe};

struct Meter {
    count: u32,
    message: Message,
}

#[plugin]
impl Plugin for Meter {
    fn start(_: Start) -> Result<Self> {
        let number = |key: &str| config(key).map_or(Ok(0), |text| text.parse::<u32>());
        let qos = if number("qos")? == 1 { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        if let Some(filter) = config("filter") {
            subscribe(&filter, Qos::AtLeastOnce)?;
        }
        if let Some(topic) = config("hello") {
            Message::new(topic, "hello").qos(Qos::AtLeastOnce).publish()?;
        }
        let topic = config("topic").unwrap_or_default();
        let size = usize::try_from(number("size")?).map_err(Error::new)?;
        Ok(Self { count: number("count")?, message: Message::new(topic, vec![b'x'; size]).qos(qos) })
    }

    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        if delivery.message.topic.ends_with("/go") {
            for _ in 0..self.count {
                self.message.publish()?;
            }
        }
        Ok(())
    }
}
