//! Publishes one message when the connection is up.

use alphorn_guest::{Event, Message, Plugin, Qos, Result, Start, error, plugin};

struct Hello {
    said: bool,
}

#[plugin]
impl Plugin for Hello {
    fn start(_: Start) -> Result<Self> {
        Ok(Self { said: false })
    }

    fn on_event(&mut self, event: Event) {
        let Event::LinkUp(_) = event else { return };
        if self.said {
            return;
        }
        self.said = true;
        let hello = Message::new("alpn/devicesdk", "Hello over MQTT on port 443");
        if let Err(refusal) = hello.qos(Qos::AtMostOnce).publish() {
            error!("not published: {refusal}");
        }
    }
}
