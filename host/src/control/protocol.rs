//! What is said over the socket: one request a line, then answers, a line each, all JSON.

use serde::{Deserialize, Serialize};

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How everything is.
    Ps,
    /// The file's component takes the place of the running one.
    Swap {
        /// The plugin.
        name: String,
        /// An absolute path.
        file: String,
        /// The answer comes when its probation is over.
        #[serde(default, skip_serializing_if = "is_false")]
        wait: bool,
    },
    /// A version that was in force comes back, for good.
    Rollback {
        /// The plugin.
        name: String,
        /// How the version's digest begins; by default it is the newest before the one in force that was
        /// not rolled back itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Only say which it would be.
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    /// No instance for now.
    Stop {
        /// The plugin.
        name: String,
    },
    /// An instance again.
    Start {
        /// The plugin.
        name: String,
    },
    /// Whether the plugin may publish or subscribe, and why.
    Explain {
        /// The plugin.
        name: String,
        /// What it wants to do.
        action: Action,
        /// The topic, or the filter.
        topic: String,
    },
    /// Messages that could not be handled.
    DeadLetters {
        /// Of this plugin only.
        name: Option<String>,
    },
    /// One of them, with its payload.
    DeadLetter {
        /// The plugin.
        name: String,
        /// Which; else the oldest.
        number: Option<u64>,
    },
    /// Tries them again, or drops them.
    SettleLetters {
        /// The plugin.
        name: String,
        /// This one only.
        number: Option<u64>,
        /// Or else they are dropped.
        again: bool,
    },
    /// Messages the broker does not bear.
    Quarantine,
    /// Sends them after all, or drops them.
    SettleQuarantine {
        /// Of this plugin only.
        name: Option<String>,
        /// Or else they are dropped.
        again: bool,
    },
    /// The last lines of the log.
    Logs {
        /// Of this plugin only.
        name: Option<String>,
        /// At most so many.
        lines: usize,
        /// And those to come.
        follow: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// What a plugin may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// To send to a topic.
    Publish,
    /// To receive what a filter matches.
    Subscribe,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// It is done. So many things were concerned.
    Done {
        /// How many.
        count: usize,
    },
    /// A version took over and has stood its probation.
    Stood {
        /// Which.
        version: String,
    },
    /// A version is back, or would be.
    RolledBack {
        /// Which.
        version: String,
        /// Which was in force.
        instead_of: Option<String>,
    },
    /// It is not done.
    Failed {
        /// What kind of failure.
        kind: Failure,
        /// In words.
        text: String,
    },
    /// How everything is.
    Status(Box<Status>),
    /// Whether, and why.
    Explained {
        /// Whether.
        allowed: bool,
        /// Why.
        why: String,
    },
    /// Dead letters.
    Letters {
        /// The oldest first.
        letters: Vec<Letter>,
    },
    /// One dead letter with its payload, which is either text or not.
    Letter {
        /// What is listed of it.
        letter: Letter,
        /// As text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<String>,
        /// In hexadecimal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload_hex: Option<String>,
    },
    /// Messages in quarantine.
    Quarantined {
        /// The oldest first.
        messages: Vec<Quarantined>,
    },
    /// A line of the log.
    Line {
        /// As it was logged.
        text: String,
    },
}

/// Kinds of failure, each with an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// No such plugin, no such thing to do.
    Usage,
    /// The component can't be used.
    Data,
    /// It can't be had now.
    Unavailable,
}

/// How the host is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The host's version.
    pub version: String,
    /// The device's name at the broker.
    pub client_id: String,
    /// `up`, or why not.
    pub link: String,
    /// For how long, in milliseconds.
    pub link_since_ms: u64,
    /// What is wrong with the disk, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Its plugins, by name.
    pub plugins: Vec<PluginRow>,
}

/// How a plugin is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginRow {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: String,
    /// For how long, in milliseconds.
    pub since_ms: u64,
    /// The version in force.
    pub version: Option<String>,
    /// SHA-256 of its component.
    pub digest: Option<String>,
    /// The version a roll-back goes to.
    pub previous: Option<String>,
    /// Messages handled.
    pub handled: u64,
    /// Messages given up.
    pub dead: u64,
    /// Messages for it that found no room.
    pub dropped: u64,
    /// Messages of it that found no room in the outbox, or that were taken and given up: refused by the
    /// broker, expired, dropped for others.
    #[serde(default)]
    pub lost: u64,
    /// How often it failed.
    pub faults: u64,
    /// How often a version took over.
    pub swaps: u64,
    /// Calls into it.
    pub calls: u64,
    /// Time in them, in microseconds.
    pub busy_us: u64,
    /// Bytes of its memories and tables.
    pub memory: usize,
    /// Messages in its mailbox.
    pub mailbox: usize,
    /// Messages of it that the broker has not acknowledged.
    pub outbox: usize,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The plugin it was for.
    pub plugin: String,
    /// Its number.
    pub number: u64,
    /// Where it was published.
    pub topic: String,
    /// Bytes of its payload.
    pub bytes: usize,
    /// How often it was tried.
    pub attempts: u32,
    /// How long ago that was, in milliseconds.
    pub age_ms: u64,
    /// Why the last attempt failed.
    pub reason: String,
}

/// A message in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Who published it.
    pub plugin: String,
    /// Its number.
    pub number: u64,
    /// Where to.
    pub topic: String,
    /// Why it is there.
    pub reason: String,
}
