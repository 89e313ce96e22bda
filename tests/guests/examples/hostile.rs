//! Does the worst a plugin can do, as a message tells it. Says on `to` what it got for it,
//! where it lives to tell.

use std::{hint::black_box, io::Write as _, thread::sleep, time::Duration};

use alphorn_guest::{
    Delivery, Error, Event, Failure, Message, Plugin, Qos, Result, Start, StopReason, Timer, config, info, plugin,
    publish, state, subscribe, timers,
};
use alphorn_test_guests::{filters, required};

struct Hostile {
    to: String,
}

#[plugin]
impl Plugin for Hostile {
    fn start(_: Start) -> Result<Self> {
        for filter in filters("filters") {
            subscribe(&filter, Qos::AtLeastOnce)?;
        }
        Ok(Self { to: required("to")? })
    }

    #[expect(clippy::print_stdout, reason = "a flood of it is the point")]
    fn on_message(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let deed = String::from_utf8(delivery.message.payload)?;
        let outcome = match deed.as_str() {
            "loop" => loop {
                black_box(());
            },
            "recurse" => recurse(0).to_string(),
            "nest" => nest([0; 1024]).to_string(),
            "eat" => {
                let mut eaten = Vec::new();
                loop {
                    eaten.push(black_box(vec![1_u8; 64 * 1024]));
                }
            }
            "flood" => loop {
                let _ = black_box(publish(&self.to, "flood"));
            },
            "chatter" => {
                for number in 0..20_000 {
                    info!("chatter {number}");
                    println!("printed {number}");
                }
                let _ = std::io::stdout().flush();
                "chattered".to_owned()
            }
            "long line" => {
                info!("{}", "x".repeat(1_000_000));
                "said".to_owned()
            }
            "subscribe" => said(subscribe("#", Qos::AtLeastOnce)),
            "subscriptions" => {
                let refused =
                    (0..200).filter(|number| subscribe(&format!("mine/{number}"), Qos::AtLeastOnce).is_err()).count();
                format!("{refused} refused")
            }
            "huge payload" => said(Message::new(&self.to, vec![7; 1024 * 1024]).publish()),
            "properties" => {
                let empty = |message: Message, _| message.user_property("", "");
                let message = (0..20_000).fold(Message::new(&self.to, "properties"), empty);
                let refused = (0..1000).find_map(|_| message.publish().err());
                refused.map_or_else(|| "taken".to_owned(), |error| format!("refused: {error}"))
            }
            "heavy" => {
                let heavy = |payload, value: usize| {
                    let message = Message::new(&self.to, vec![b'x'; payload]).response_topic("elsewhere");
                    said(message.user_property("k", "v".repeat(value)).publish())
                };
                format!("{}; {}; {}", heavy(5, 2000), heavy(700, 500), heavy(200, 500))
            }
            "poison" => {
                // What a broker may take for malformed, and then end the connection, which is everybody's.
                let message = || Message::new(&self.to, "poison");
                let poisons = [
                    Message::new(format!("{}/\u{1}", self.to), ""),
                    Message::new(format!("{}/\u{ffff}", self.to), ""),
                    message().content_type("text/\u{7f}"),
                    message().response_topic("answers/#"),
                    message().response_topic("answers/\u{fdd0}"),
                    message().user_property("\u{85}", ""),
                    message().user_property("", "\u{10fffe}"),
                    message().user_property("k", "v".repeat(70_000)),
                    message().correlation_data(vec![0; 70_000]),
                    Message::new(&self.to, vec![0xff]).utf8(),
                ];
                let is_taken = |poison: &Message| (0..100).any(|_| poison.publish().is_ok());
                let numbered = poisons.iter().enumerate();
                let taken: Vec<_> = numbered.filter(|(_, poison)| is_taken(poison)).map(|(number, _)| number).collect();
                format!("taken: {taken:?}")
            }
            "many lines" => {
                info!("{}", "\n".repeat(1_000_000));
                info!("{}", "x\n".repeat(500_000));
                "said".to_owned()
            }
            "monstrous payload" => said(Message::new(&self.to, vec![7; 100 * 1024 * 1024]).publish()),
            "large value" => said(state::set("key", vec![7; 3 * 1024 * 1024])),
            "timers" => {
                let started = (0..5000).filter(|_| timers::every(Duration::from_millis(1)).is_ok()).count();
                format!("{started} timers")
            }
            "bad timer" => said(timers::after(Duration::from_millis(1))),
            "sleep" => {
                sleep(Duration::from_secs(100_000));
                "woke".to_owned()
            }
            "failing timers" => {
                for _ in 0..5 {
                    timers::every(Duration::from_millis(1))?;
                }
                "failing".to_owned()
            }
            "state churn" => loop {
                let _ = state::set("key", "value");
                let _ = state::remove("key");
            },
            "long error" => return Err(Failure::drop("x".repeat(1_000_000))),
            "state" => {
                let mut number = 0;
                while state::set(&format!("key {number}"), vec![0; 10_000]).is_ok() {
                    number += 1;
                }
                format!("{number} kept")
            }
            other => other.to_owned(),
        };
        publish(&self.to, outcome)?;
        Ok(())
    }

    fn on_timer(&mut self, _: Timer, _: u32) -> Result {
        if config("bad_timer").is_some() {
            panic!("in on_timer");
        }
        if config("failing_timers").is_some() {
            return Err(Error::new("no\nERROR not a line of the host"));
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        if let Event::LinkUp(_) = event {
            let _ = publish(&self.to, "* up");
        }
    }

    fn stop(&mut self, _: StopReason) -> Result<Option<Vec<u8>>> {
        let bytes = config("hands_over").map_or(Ok(4 * 1024 * 1024), |bytes| bytes.parse())?;
        Ok(Some(vec![7; bytes]))
    }
}

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "taken".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

/// A stack of calls that each hold much: the stack in the guest's own memory ends first.
fn nest(held: [u64; 1024]) -> u64 {
    let [first, ..] = black_box(held);
    if first == u64::MAX { first } else { nest([first + 1; 1024]) + black_box(held).iter().sum::<u64>() }
}

#[expect(unconditional_recursion, reason = "the point")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1)) + depth)
}
