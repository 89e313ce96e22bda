//! What the measurements share.

#![allow(dead_code, reason = "each measurement uses its own part")]

pub(crate) mod echoers;
pub(crate) mod observer;
pub(crate) mod process;
pub(crate) mod publishers;
pub(crate) mod report;
pub(crate) mod servers;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use alphorn::{
    config::{Config, Overrides},
    link::TlsSettings,
};
use alphorn_dev_broker::DevBroker;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Where to connect to, and with which certificates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// A connection to the broker, and more of a configuration.
pub(crate) fn config(broker: &DevBroker, client_id: &str, rest: &str) -> Result<Config> {
    let files = broker.files().clone();
    let (ca, cert, key) = (files.ca, files.device_cert, files.device_key);
    let place = Place { host: broker.host().to_owned(), port: broker.port(), ca, cert, key };
    config_for(&place, client_id, rest)
}

/// A connection to there, and more of a configuration.
pub(crate) fn config_for(place: &Place, client_id: &str, rest: &str) -> Result<Config> {
    let url = format!("mqtts://{}:{}", place.host, place.port);
    let text = format!(
        "[link]\nurl = \"{url}\"\nclient_id = \"{client_id}\"\nprotocol = \"3.1.1\"\nsession_expiry = \"0s\"\n{rest}"
    );
    let environment = BTreeMap::<String, String>::new().into_iter();
    let mut config =
        Config::parse(&text, Path::new("/"), environment, &Overrides::default()).map_err(anyhow::Error::msg)?;
    config.link.tls = TlsSettings {
        ca: Some(place.ca.clone()),
        identity: Some((place.cert.clone(), place.key.clone())),
        alpn: vec!["x-amzn-mqtt-ca".to_owned()],
        not_before: None,
    };
    Ok(config)
}

/// Median, least and most.
pub(crate) fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    format!("{:.digits$} [{:.digits$} .. {:.digits$}]", at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

/// `cargo bench` measures; `cargo test --benches` only asks whether this builds and runs.
pub(crate) fn is_wanted() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// With `ALPHORN_BENCH_QUICK` set, figures come soon and are worth little: for work on the
/// measurements themselves.
pub(crate) fn is_quick() -> bool {
    std::env::var_os("ALPHORN_BENCH_QUICK").is_some()
}

#[expect(clippy::print_stdout, reason = "the result")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
