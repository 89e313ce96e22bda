//! What the measurements share.

#[allow(dead_code, reason = "not every measurement uses all of it")]
pub(crate) mod report;

use std::{collections::BTreeMap, path::Path};

use alphorn::{
    config::{Config, Overrides},
    link::TlsSettings,
};
use alphorn_dev_broker::DevBroker;
use anyhow::Result;

/// A connection to the broker, and more of a configuration.
#[allow(dead_code, reason = "not every measurement needs the embedded broker")]
pub(crate) fn config(broker: &DevBroker, client_id: &str, rest: &str) -> Result<Config> {
    let files = broker.files();
    let url = format!("mqtts://{}:{}", broker.host(), broker.port());
    let text = format!(
        "[link]\nurl = \"{url}\"\nclient_id = \"{client_id}\"\nprotocol = \"3.1.1\"\nsession_expiry = \"0s\"\n{rest}"
    );
    let environment = BTreeMap::<String, String>::new().into_iter();
    let mut config =
        Config::parse(&text, Path::new("/"), environment, &Overrides::default()).map_err(anyhow::Error::msg)?;
    config.link.tls = TlsSettings {
        ca: Some(files.ca.clone()),
        identity: Some((files.device_cert.clone(), files.device_key.clone())),
        alpn: vec!["x-amzn-mqtt-ca".to_owned()],
        not_before: None,
    };
    Ok(config)
}

/// Median, least and most.
#[allow(dead_code, reason = "not every measurement has rounds")]
pub(crate) fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    format!("{:.digits$} [{:.digits$} .. {:.digits$}]", at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

#[expect(clippy::print_stdout, reason = "the result")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
