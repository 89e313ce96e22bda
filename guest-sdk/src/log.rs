//! The host's log.

use std::fmt;

use crate::Level;
use crate::offered::host;

/// Writes a line to the host's log under the plugin's name. [`info!`](crate::info)
/// and its siblings call it.
pub fn log(level: Level, text: fmt::Arguments<'_>) {
    match text.as_str() {
        Some(text) => host::log(level, text),
        None => host::log(level, &text.to_string()),
    }
}

/// Logs every step. Takes what [`format!`] takes.
#[macro_export]
macro_rules! trace {
    ($($text:tt)+) => { $crate::log($crate::Level::Trace, ::std::format_args!($($text)+)) };
}

/// Logs for who looks for a fault. Takes what [`format!`] takes.
#[macro_export]
macro_rules! debug {
    ($($text:tt)+) => { $crate::log($crate::Level::Debug, ::std::format_args!($($text)+)) };
}

/// Logs for who watches. Takes what [`format!`] takes.
///
/// ```no_run
/// let topic = "test/date";
/// alphorn_guest::info!("publishing to {topic}");
/// ```
#[macro_export]
macro_rules! info {
    ($($text:tt)+) => { $crate::log($crate::Level::Info, ::std::format_args!($($text)+)) };
}

/// Logs that something is not as it should be. Takes what [`format!`] takes.
#[macro_export]
macro_rules! warn {
    ($($text:tt)+) => { $crate::log($crate::Level::Warn, ::std::format_args!($($text)+)) };
}

/// Logs that something failed. Takes what [`format!`] takes.
#[macro_export]
macro_rules! error {
    ($($text:tt)+) => { $crate::log($crate::Level::Error, ::std::format_args!($($text)+)) };
}
