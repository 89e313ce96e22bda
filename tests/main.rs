//! Drives the built program against real brokers. `cargo test -p alphorn --test integration`.
//!
//! A test starts a `harness::Bed` (a broker behind the front that demands what AWS IoT
//! demands), runs `alphorn` with a configuration as a user would write it, and looks at what
//! the program says and at what reaches the broker. The plugins are in `tests/guests`.

mod harness;

mod acknowledgements;
mod alpn;
mod aot;
mod architecture;
mod authorizer;
mod broker_away;
mod chaos;
mod command;
mod commands;
mod compile;
mod config;
mod connect;
mod dev;
mod device_advisor;
mod doctor;
mod examples;
mod frozen;
mod fuzz;
mod hostile;
mod inbox;
mod languages;
mod lenient;
mod messaging;
mod mosquitto;
mod nonsense;
mod outbox;
mod peer;
mod plugins;
mod proxy;
mod publish;
mod quarantine;
mod refusals;
mod reload;
mod shutdown;
mod socket;
mod state;
mod subscribe;
mod swap;
mod tls;
mod wasi;
mod websocket;
mod words;
