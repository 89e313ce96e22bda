//! A component of wasi:messaging: answers each message, and does what some say.

#![expect(unsafe_code, reason = "generated code")]

wit_bindgen::generate!({ path: "../../host/wit/messaging", world: "messaging-core" });

use exports::wasi::messaging::incoming_handler::Guest;
use wasi::messaging::{
    producer,
    types::{Client, Error, Message},
};

struct Handler;

export!(Handler);

impl Guest for Handler {
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn handle(message: Message) -> Result<(), Error> {
        let client = Client::connect("any name")?;
        let topic = message.topic().unwrap_or_default();
        let text = String::from_utf8_lossy(&message.data()).into_owned();
        let say = |words: String| producer::send(&client, "out", Message::new(words.as_bytes()));
        match text.as_str() {
            "trap" => panic!("trapped as told"),
            "fail" => {
                say("failing".to_owned())?;
                Err(Error::Other("failed as told".to_owned()))
            }
            "secret" => say(format!("{:?}", producer::send(&client, "secret", Message::new(b"x")))),
            "flood" => {
                for number in 0..1000 {
                    say(number.to_string())?;
                }
                Ok(())
            }
            "tag" => {
                let tagged = Message::new(b"replaced");
                tagged.set_data(b"tagged");
                tagged.set_content_type("text/plain");
                tagged.set_metadata(&[("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
                tagged.add_metadata("a", "3");
                tagged.add_metadata("c", "4");
                tagged.remove_metadata("b");
                producer::send(&client, "in", tagged)
            }
            "hoard" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(Message::new(&[0; 100_000]));
                }
            }
            _ => {
                // Some brokers add to what was sent.
                let mut metadata = message.metadata().unwrap_or_default();
                metadata.retain(|(name, _)| !name.starts_with("x-mqtt-"));
                say(format!("{topic} {text} {:?} {metadata:?}", message.content_type()))?;
                client.disconnect()
            }
        }
    }
}
