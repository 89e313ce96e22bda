//! What the guests share: reading their `[config]`.

use std::str::FromStr;

use alphorn_guest::{Error, Qos, Result, config};

/// A value that has to be there.
pub fn required(key: &str) -> Result<String> {
    config(key).ok_or_else(|| Error::new(format_args!("config `{key}` is missing")))
}

/// A value that can be left out.
pub fn optional<T: FromStr<Err: std::error::Error>>(key: &str, default: T) -> Result<T> {
    match config(key) {
        Some(text) => Ok(text.parse()?),
        None => Ok(default),
    }
}

/// `qos`, 1 unless it says 0.
pub fn qos() -> Qos {
    match config("qos").as_deref() {
        Some("0") => Qos::AtMostOnce,
        _ => Qos::AtLeastOnce,
    }
}

/// The name of an enum's value alone, in lower case.
pub fn word(value: impl std::fmt::Debug) -> String {
    let debug = format!("{value:?}");
    debug.rsplit("::").next().unwrap_or_default().to_lowercase()
}

/// The filters in a value, separated by spaces.
pub fn filters(key: &str) -> Vec<String> {
    let list = config(key).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}
