//! The shape of `alphorn.toml`: keys, types, defaults.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    mistake::{explain, key_of},
    values::{Bytes, Limit as BytesLimit, RateValue, SecretText, Span},
};

pub(super) use super::values::{Limit, MaxAge};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "tables, like [link]")]
pub(super) struct File {
    pub(super) host: Host,
    pub(super) link: Link,
    pub(super) outbox: Outbox,
    pub(super) plugins: BTreeMap<String, Plugin>,
    /// How `alphorn build` makes the component. A plugin's folder has one file for both.
    build: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [host]")]
pub(super) struct Host {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) shutdown_grace: Span,
    pub(super) trusted_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [link]")]
pub(super) struct Link {
    pub(super) url: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) alpn: Option<Vec<String>>,
    pub(super) protocol: Protocol,
    pub(super) keep_alive: Span,
    pub(super) connect_timeout: Span,
    pub(super) operation_timeout: Span,
    pub(super) session_expiry: Span,
    pub(super) max_packet: Bytes,
    pub(super) backoff: Backoff,
    pub(super) proxy: Option<SecretText>,
    pub(super) headers: BTreeMap<String, SecretText>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) profile: Option<Profile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Protocol {
    #[serde(rename = "5")]
    V5,
    #[serde(rename = "3.1.1")]
    V311,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Profile {
    AwsIot,
    Generic,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, like { min = \"1s\", max = \"2m\" }")]
pub(super) struct Backoff {
    pub(super) min: Span,
    pub(super) max: Span,
    pub(super) stable_after: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [outbox]")]
pub(super) struct Outbox {
    pub(super) storage: Storage,
    pub(super) max_bytes: BytesLimit,
    pub(super) min_free: Bytes,
    pub(super) max_age: MaxAge,
    pub(super) when_full: WhenFull,
    pub(super) drain_rate: RateValue,
    pub(super) qos0_offline: Qos0Offline,
    pub(super) commit: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Storage {
    Disk,
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WhenFull {
    DropNewest,
    DropOldest,
    Block,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Qos0Offline {
    Drop,
    Store,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [plugins.NAME]")]
pub(super) struct Plugin {
    pub(super) component: Option<PathBuf>,
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
    pub(super) reserved: bool,
    pub(super) config: BTreeMap<String, String>,
    pub(super) limits: Limits,
    pub(super) wasi: Wasi,
    pub(super) command: Option<Command>,
    pub(super) messaging: Option<Messaging>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [plugins.NAME.command]")]
pub(super) struct Command {
    pub(super) topic: Option<String>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) subscribe: Option<Vec<String>>,
    pub(super) input: Lines,
    pub(super) output: Lines,
    pub(super) args: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [plugins.NAME.messaging]")]
pub(super) struct Messaging {
    pub(super) subscribe: Option<Vec<String>>,
    pub(super) qos: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Lines {
    Raw,
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [plugins.NAME.limits]")]
pub(super) struct Limits {
    pub(super) memory: BytesLimit,
    pub(super) deadline: Span,
    pub(super) start_deadline: Span,
    pub(super) hostcall_bytes: BytesLimit,
    pub(super) publish_rate: RateValue,
    pub(super) log_rate: RateValue,
    pub(super) outbox_bytes: BytesLimit,
    pub(super) mailbox: MailboxLimits,
    pub(super) inbox_bytes: BytesLimit,
    pub(super) state_bytes: BytesLimit,
    pub(super) retry: Retry,
    pub(super) restart: Restart,
    pub(super) compile: Compile,
    pub(super) probation: Probation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, like { messages = 256, bytes = \"1MiB\" }")]
pub(super) struct MailboxLimits {
    pub(super) messages: usize,
    pub(super) bytes: BytesLimit,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, like { max = 3, min = \"1s\" }")]
pub(super) struct Retry {
    pub(super) max: u32,
    pub(super) min: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, like { max = 5, within = \"1m\" }")]
pub(super) struct Restart {
    pub(super) max: u32,
    pub(super) within: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, like { time = \"2m\", memory = \"1GiB\" }")]
pub(super) struct Compile {
    pub(super) time: Span,
    pub(super) memory: BytesLimit,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, like { time = \"30s\", messages = 100 }")]
pub(super) struct Probation {
    pub(super) time: Span,
    pub(super) messages: u32,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table: [plugins.NAME.wasi]")]
pub(super) struct Wasi {
    pub(super) env: BTreeMap<String, String>,
    pub(super) dirs: Vec<String>,
    pub(super) network: Vec<String>,
}

impl File {
    /// Reads the text, with what the environment puts in place of it.
    pub(super) fn parse(text: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        // Once alone, so that mistakes in the file are reported with their line.
        let file: Self = toml::from_str(text).map_err(|error| explain(&error, text, true))?;
        let overrides: Vec<_> = environment.filter(|(name, _)| is_key(name)).collect();
        if overrides.is_empty() {
            return Ok(file);
        }
        let mut table: toml::Table = toml::from_str(text).map_err(|error| explain(&error, text, true))?;
        for (name, value) in &overrides {
            put(&mut table, name, value)?;
        }
        let names: Vec<_> = overrides.into_iter().map(|(name, _)| name).collect();
        // The one that is to blame, where that can be told.
        let blamed = |key: Option<String>| {
            let variable = key.map(|key| format!("{PREFIX}{}", key.replace('.', "__").to_uppercase()));
            let named = variable.filter(|variable| names.contains(variable));
            named.unwrap_or_else(|| names.join(", "))
        };
        // By way of a text: to read tables too would take as much code once more.
        let text = toml::to_string(&table).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| {
            let blamed = blamed(key_of(&error, &text));
            format!("{} (with {blamed} of the environment)", explain(&error, &text, false))
        })
    }

    /// What is asked for and not done in this version, a line each.
    pub(super) fn not_yet(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |asked: bool, what: &str| {
            if asked {
                lines.push(what.to_owned());
            }
        };
        let outbox = &self.outbox;
        say(
            outbox.storage == Storage::Memory && outbox.max_bytes == BytesLimit::Unlimited,
            "outbox.max_bytes = \"unlimited\": in memory that is 256 MiB",
        );
        lines
    }
}

const PREFIX: &str = "ALPHORN_";

/// Variables of our own that say nothing about a host: tests and builds have them.
const OTHERS: [&str; 9] = [
    "ALPHORN_BENCH_QUICK",
    "ALPHORN_FUZZ",
    "ALPHORN_LANGUAGES",
    "ALPHORN_ROUNDS",
    "ALPHORN_SEED",
    "ALPHORN_SNAPSHOTS",
    "ALPHORN_TEST_BROKER",
    "ALPHORN_WIT",
    "ALPHORN_WRITE_BINDINGS",
];

/// Only with two underscores a variable names a key: the others may be anybody's.
fn is_key(name: &str) -> bool {
    name.starts_with(PREFIX) && name.contains("__")
}

/// A variable that looks as if it were meant for a host, and is not.
pub(super) fn is_no_key(name: &str) -> bool {
    name.starts_with(PREFIX) && !is_key(name) && !OTHERS.contains(&name)
}

/// `ALPHORN_LINK__URL` is `link.url`. A value that reads as TOML is that, else it is text.
fn put(table: &mut toml::Table, name: &str, value: &str) -> Result<(), String> {
    let path = name.trim_start_matches(PREFIX).to_lowercase();
    let mut levels: Vec<_> = path.split("__").collect();
    let Some(last) = levels.pop() else { return Ok(()) };
    let is_header = levels == ["link", "headers"];
    let is_text = matches!(levels.as_slice(), ["plugins", _, "config"]) || is_header || last == "username";
    // The name of a variable has no hyphen, and hardly a header is without.
    let last = if is_header { &last.replace('_', "-") } else { last };
    let mut at = table;
    for level in levels {
        at = at
            .entry(level)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("{name}: `{level}` has a value, it is no table"))?;
    }
    let array = value.starts_with('[') || matches!(value, "true" | "false");
    let number = at.get(last).is_some_and(toml::Value::is_integer) || matches!(last, "messages" | "max" | "qos");
    let parsed = (!is_text && (array || number))
        .then(|| toml::from_str::<toml::Table>(&format!("value = {value}")).ok()?.remove("value"))
        .flatten();
    at.insert(last.to_owned(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
    Ok(())
}

impl Default for Host {
    fn default() -> Self {
        Self { data_dir: None, socket: None, shutdown_grace: Span::seconds(10), trusted_keys: Vec::new() }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self {
            url: None,
            client_id: None,
            ca: None,
            cert: None,
            key: None,
            alpn: None,
            protocol: Protocol::V5,
            keep_alive: Span::seconds(60),
            connect_timeout: Span::seconds(10),
            operation_timeout: Span::seconds(5),
            session_expiry: Span::seconds(3600),
            max_packet: Bytes::kib(128),
            backoff: Backoff::default(),
            proxy: None,
            headers: BTreeMap::new(),
            username: None,
            password_file: None,
            profile: None,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Span::seconds(1), max: Span::seconds(120), stable_after: Span::seconds(20) }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            storage: Storage::Disk,
            max_bytes: BytesLimit::Bytes(Bytes::kib(64 * 1024)),
            min_free: Bytes::kib(32 * 1024),
            max_age: MaxAge::Unlimited,
            when_full: WhenFull::DropNewest,
            drain_rate: RateValue::UNLIMITED,
            qos0_offline: Qos0Offline::Drop,
            commit: "call".into(),
        }
    }
}

impl Default for Command {
    fn default() -> Self {
        Self {
            topic: None,
            qos: 1,
            retain: false,
            subscribe: None,
            input: Lines::Raw,
            output: Lines::Raw,
            args: Vec::new(),
        }
    }
}

impl Default for Messaging {
    fn default() -> Self {
        Self { subscribe: None, qos: 1 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: BytesLimit::Bytes(Bytes::kib(16 * 1024)),
            deadline: Span::seconds(1),
            start_deadline: Span::seconds(10),
            hostcall_bytes: BytesLimit::Bytes(Bytes::kib(1024)),
            publish_rate: RateValue::per_second(100),
            log_rate: RateValue::per_second(100),
            outbox_bytes: BytesLimit::Bytes(Bytes::kib(8 * 1024)),
            mailbox: MailboxLimits::default(),
            inbox_bytes: BytesLimit::Bytes(Bytes::kib(8 * 1024)),
            state_bytes: BytesLimit::Bytes(Bytes::kib(1024)),
            retry: Retry::default(),
            restart: Restart::default(),
            compile: Compile::default(),
            probation: Probation::default(),
        }
    }
}

impl Default for MailboxLimits {
    fn default() -> Self {
        Self { messages: 256, bytes: BytesLimit::Bytes(Bytes::kib(1024)) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { max: 3, min: Span::seconds(1) }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self { max: 5, within: Span::seconds(60) }
    }
}

impl Default for Compile {
    fn default() -> Self {
        Self { time: Span::seconds(120), memory: BytesLimit::Bytes(Bytes::kib(1024 * 1024)) }
    }
}

impl Default for Probation {
    fn default() -> Self {
        Self { time: Span::seconds(30), messages: 100 }
    }
}
