//! Drives the built program against real brokers. `cargo test -p alphorn --test integration`.
//!
//! A test starts a `harness::Bed` (a broker behind the front that demands what AWS IoT
//! demands), runs `alphorn` with a configuration as a user would write it, and looks at what
//! the program says and at what reaches the broker. The plugins are in `tests/guests`.

mod harness;

mod alpn;
mod authorizer;
mod broker_away;
mod commands;
mod config;
mod connect;
mod dev;
mod doctor;
mod examples;
mod mosquitto;
mod plugins;
mod proxy;
mod publish;
mod refusals;
mod shutdown;
mod subscribe;
mod tls;
mod websocket;
