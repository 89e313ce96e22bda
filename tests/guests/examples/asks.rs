//! A component of wasi:messaging that wants answers, which the host does not lend.

#![expect(unsafe_code, reason = "generated code")]

wit_bindgen::generate!({ path: "../../host/wit/messaging", world: "messaging-request-reply" });

use exports::wasi::messaging::incoming_handler::Guest;
use wasi::messaging::{
    request_reply,
    types::{Error, Message},
};

struct Asks;

export!(Asks);

impl Guest for Asks {
    fn handle(message: Message) -> Result<(), Error> {
        request_reply::reply(&message, Message::new(b"an answer"))
    }
}
