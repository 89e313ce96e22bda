//! What the plugin is told about itself and its surroundings.

use std::time::{Duration, SystemTime};

use crate::About;
use crate::offered::host;

/// Who and where the plugin is.
pub fn identity() -> About {
    host::identity()
}

/// A value of the plugin's `[config]` table, as text.
pub fn config(key: &str) -> Option<String> {
    host::config(key)
}

/// The keys of that table, ascending.
pub fn config_keys() -> Vec<String> {
    host::config_keys()
}

/// The time by the device's clock: what [`SystemTime::now`] says, for plugins
/// built without WASI too.
pub fn now() -> SystemTime {
    let since_epoch = Duration::try_from_secs_f64(host::now() / 1_000.0).unwrap_or_default();
    SystemTime::UNIX_EPOCH + since_epoch
}
