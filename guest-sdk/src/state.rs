//! A small store that outlives the instance: restarts, new versions and power cuts.
//!
//! A call's writes take effect together when the call succeeds, or not at all.
//!
//! ```no_run
//! # use alphorn_guest::{Result, state};
//! # fn count() -> Result {
//! let seen = match state::get("seen")? {
//!     Some(value) => String::from_utf8(value)?.parse()?,
//!     None => 0_u64,
//! };
//! state::set("seen", (seen + 1).to_string())?;
//! # Ok(())
//! # }
//! ```

use std::fmt;

use crate::offered::state;

/// The value under the key, if there is one. A call sees its own writes.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
    state::get(key)
}

/// Puts a value under the key, in place of what was there.
pub fn set(key: &str, value: impl AsRef<[u8]>) -> Result<(), StateError> {
    state::set(key, value.as_ref())
}

/// Takes the key away. Ok also when it was not there.
pub fn remove(key: &str) -> Result<(), StateError> {
    state::remove(key)
}

/// All keys that begin with `prefix`, ascending by bytes.
pub fn keys(prefix: &str) -> Result<Vec<String>, StateError> {
    // The host answers in pages; an empty one is the end.
    let mut keys = Vec::new();
    loop {
        let page = state::keys(prefix, keys.last().map(String::as_str))?;
        if page.is_empty() {
            return Ok(keys);
        }
        keys.extend(page);
    }
}

/// Why the store did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The plugin's configuration gives it no state (`state_bytes = 0`).
    NotGranted,
    /// Key or value is over the limit, which is given in bytes.
    TooLarge(u32),
    /// The plugin's share is used up.
    Full,
    /// Anything else, in words; a host without a store says so here.
    Other(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted => f.write_str("state is not granted (`state_bytes = 0`)"),
            Self::TooLarge(limit) => {
                write!(f, "the key or value is over the limit of {limit} bytes")
            }
            Self::Full => f.write_str("the plugin's share of the store is used up"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StateError {}
