//! What is kept, and what changes it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Age,
    message::{Message, Qos},
    router::Subscription,
    topic::TopicFilter,
};

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Restored {
    /// The highest number of a message in the outbox.
    pub last_seq: u64,
    /// The highest number of a message in an inbox.
    pub last_number: u64,
    /// What waits for the broker, by plugin.
    pub outbox: Vec<Waiting>,
    /// What waits for plugins.
    pub inbox: Vec<Waiting>,
    /// Who wants what.
    pub subscriptions: Vec<Wanted>,
    /// What the broker has acknowledged.
    pub at_broker: Vec<Subscription>,
    /// What of the inboxes and the dead letters the broker may send again, in order.
    pub repeatable: Vec<Repeatable>,
    /// The broker has a session of ours, as far as is known.
    pub has_session: bool,
    /// What the broker does not bear.
    pub quarantined: Vec<Quarantined>,
    /// Plugins of which more is kept.
    pub plugins: Vec<Arc<str>>,
    /// What happened to a damaged file.
    pub damage: Option<String>,
    /// The last time of day at which the clock could be trusted, in whichever run that was.
    pub trusted: Option<SystemTime>,
}

/// Messages of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The plugin's name.
    pub name: Arc<str>,
    /// How many.
    pub messages: u64,
    /// Their cost.
    pub bytes: usize,
}

/// A plugin's subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// What for.
    pub filter: TopicFilter,
    /// The QoS it wants.
    pub qos: Qos,
    /// The number of the filter.
    pub identifier: u32,
}

/// A message in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Who published it.
    pub owner: Arc<str>,
    /// Its number.
    pub seq: u64,
    /// Where to.
    pub topic: String,
    /// Why it is there.
    pub reason: String,
}

/// An outbound message as it is kept.
#[derive(Debug, Clone)]
pub struct Record {
    /// The message.
    pub message: Message,
    /// The number `publish` gave it.
    pub number: u32,
    /// How long it has been waiting.
    pub age: Age,
}

/// An outbound message as it is read.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its place in the order.
    pub seq: u64,
    /// What it was counted with, as long as it is not settled.
    pub cost: usize,
    /// The rest.
    pub record: Record,
}

/// An inbound message as it is read.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Its place in the order.
    pub number: u64,
    /// The message.
    pub message: Message,
    /// It may have been handled before.
    pub redelivered: bool,
}

/// An inbound message of this session that is kept, and that the broker may send again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeatable {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Its place in the order.
    pub number: u64,
    /// Under which it arrived.
    pub packet_id: u16,
    /// Of what the broker would send.
    pub digest: u64,
}

/// A part of a queue.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// There is more behind them.
    pub more: bool,
}

/// Something that changes what is kept.
#[derive(Debug, Clone)]
pub enum Change {
    /// A message was taken from a plugin.
    Taken {
        /// The plugin's name.
        owner: Arc<str>,
        /// The message's number.
        seq: u64,
        /// The message.
        record: Record,
    },
    /// A taken message is done with.
    Settled {
        /// The plugin's name.
        owner: Arc<str>,
        /// The message's number.
        seq: u64,
    },
    /// A taken message is kept aside.
    Quarantined {
        /// The plugin's name.
        owner: Arc<str>,
        /// The message's number.
        seq: u64,
        /// The message.
        record: Record,
        /// Why.
        reason: String,
    },
    /// A message goes into a plugin's inbox.
    Arrived {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The arrival's number.
        number: u64,
        /// Under which it arrived; 0: not known any more.
        packet_id: u16,
        /// The message.
        message: Message,
        /// It may have been handled before.
        redelivered: bool,
    },
    /// A plugin has handled a message of its inbox.
    Handled {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The arrival's number.
        number: u64,
    },
    /// A plugin wants messages.
    Subscribed(Wanted),
    /// It does not any more.
    Unsubscribed {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What for.
        filter: TopicFilter,
    },
    /// The broker has acknowledged a subscription.
    AtBroker(Subscription),
    /// The broker does not have it any more.
    NotAtBroker(TopicFilter),
    /// The broker has lost the session.
    NothingAtBroker,
    /// A plugin has written a key of its state, or taken it away.
    State {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Under which name.
        key: ByteString,
        /// None: taken away.
        value: Option<Bytes>,
    },
    /// Another version of a plugin is in force.
    Installed {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Which.
        installed: Installed,
    },
    /// A plugin's state is to be kept as it is now, besides what becomes of it.
    Snapshot {
        /// The plugin's name.
        plugin: Arc<str>,
    },
    /// A version on probation has handled a message, which is kept for the one before.
    OnProbation {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The arrival's number.
        number: u64,
        /// The message.
        message: Message,
    },
    /// One of those is kept no longer.
    NotKept {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The arrival's number.
        number: u64,
    },
    /// The version stands: snapshot and kept messages go.
    Passed {
        /// The plugin's name.
        plugin: Arc<str>,
    },
    /// It does not: the snapshot is the state again, the kept messages are in the inbox again.
    RolledBack {
        /// The plugin's name.
        plugin: Arc<str>,
    },
    /// A plugin could not handle a message.
    Dead {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The arrival's number.
        number: u64,
        /// The message.
        message: Message,
        /// Under which it arrived; 0: what the inbox knows of it, if anything.
        packet_id: u16,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        reason: String,
    },
    /// A dead letter goes into the inbox again, as a new arrival.
    Revived {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Its number.
        number: u64,
        /// Its new number.
        arrival: u64,
    },
    /// A dead letter goes.
    Buried {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Its number.
        number: u64,
    },
    /// A message in quarantine goes.
    Released {
        /// Who published it.
        owner: Arc<str>,
        /// Its number.
        seq: u64,
    },
}

/// Which version of a plugin is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The digest of the configured file when this was decided.
    pub configured: String,
    /// The digest of the version in force.
    pub current: String,
    /// The digest of the one before.
    pub previous: Option<String>,
    /// The version in force is on probation.
    pub probation: Option<OnProbation>,
    /// Other versions that are kept, the newest last. Earlier hosts wrote no such thing, and stop
    /// reading before it.
    pub past: Vec<Past>,
}

/// A version that is kept and not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The digest of its component.
    pub digest: String,
    /// Why it is not in force.
    pub became: Became,
}

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Became {
    /// It gave way to another.
    Replaced,
    /// It was taken back.
    RolledBack {
        /// A fault on probation, or somebody's word.
        why: String,
    },
}

/// What a probation needs to go on after the end of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnProbation {
    /// Its `start` has returned.
    pub has_started: bool,
    /// What the version before handed over.
    #[serde(with = "handed_over")]
    pub handed_over: Option<Bytes>,
    /// What the version before had subscribed to; true: at least once.
    pub subscriptions: Vec<(String, bool)>,
}

/// As bytes that have one owner are written.
mod handed_over {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(&bytes.as_deref(), serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        let bytes: Option<Vec<u8>> = serde_bytes::deserialize(deserializer)?;
        Ok(bytes.map(Bytes::from))
    }
}

/// What is kept of one plugin besides its messages.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// Which version is in force, if that was ever decided.
    pub installed: Option<Installed>,
    /// Its durable state.
    pub state: Entries,
    /// The state at the begin of the probation.
    pub snapshot: Entries,
    /// What the version on probation has handled, in order.
    pub kept: Vec<Arrived>,
    /// What it has subscribed to.
    pub subscriptions: Vec<(TopicFilter, Qos)>,
}

/// Keys and values of a plugin's state.
pub type Entries = BTreeMap<ByteString, Bytes>;

/// A message that a plugin could not handle.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Its number.
    pub number: u64,
    /// The message.
    pub message: Message,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub reason: String,
    /// How long ago.
    pub age: Duration,
}

impl Installed {
    /// Out of what this host or an earlier one has written.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Earlier {
            configured: String,
            current: String,
            previous: Option<String>,
            probation: Option<OnProbation>,
        }
        postcard::from_bytes(bytes).ok().or_else(|| {
            let Earlier { configured, current, previous, probation } = postcard::from_bytes(bytes).ok()?;
            let past = previous.iter().map(|digest| Past { digest: digest.clone(), became: Became::Replaced });
            Some(Self { past: past.collect(), configured, current, previous, probation })
        })
    }
}

impl Change {
    /// Bytes of what it writes to a plugin's state.
    pub fn size(&self) -> usize {
        match self {
            Self::State { key, value, .. } => key.len() + value.as_ref().map_or(0, Bytes::len),
            _ => 0,
        }
    }

    /// It is one of those that come with every message: the log takes them. With the others,
    /// which are few, the database is written. Of these are arrivals: only what nobody could take is
    /// put into an inbox, and whether that is full is known by the database alone.
    pub(crate) fn is_for_log(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::Settled { .. } | Self::Handled { .. } | Self::State { .. })
    }

    /// Bytes of what it puts in; 0: nothing.
    pub(super) fn added(&self) -> usize {
        match self {
            Self::Taken { record, .. } | Self::Quarantined { record, .. } => record.message.cost(),
            Self::Arrived { message, .. } | Self::OnProbation { message, .. } | Self::Dead { message, .. } => {
                message.cost()
            }
            Self::State { key, value: Some(value), .. } => 1 + key.len() + value.len(),
            _ => 0,
        }
    }

    /// It takes a message out.
    pub(super) fn removes(&self) -> bool {
        matches!(
            self,
            Self::Settled { .. }
                | Self::Handled { .. }
                | Self::NotKept { .. }
                | Self::Passed { .. }
                | Self::Buried { .. }
                | Self::Released { .. }
        )
    }

    /// The message of the outbox that it takes out.
    pub(super) fn settles(&self) -> Option<(&str, u64)> {
        match self {
            Self::Settled { owner, seq } => Some((owner, *seq)),
            _ => None,
        }
    }

    /// The message of the outbox that it puts in.
    pub(super) fn takes(&self) -> Option<(&str, u64)> {
        match self {
            Self::Taken { owner, seq, .. } => Some((owner, *seq)),
            _ => None,
        }
    }

    /// It puts a message in that is newer than these.
    pub(super) fn is_after(&self, last_seq: u64, last_number: u64) -> bool {
        match self {
            Self::Taken { seq, .. } => *seq > last_seq,
            Self::Arrived { number, .. } => *number > last_number,
            _ => false,
        }
    }
}

/// What a write did beside what it was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Oldest messages of inboxes that had to go, by plugin.
    pub dropped: Vec<(Arc<str>, u64)>,
    /// Oldest dead letters that had to go.
    pub buried: Vec<(Arc<str>, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_earlier_hosts_wrote_down_are_read_and_theirs_read_ours() {
        let probation = Some(OnProbation { has_started: true, ..OnProbation::default() });
        let earlier = ("configured", "current", Some("before"), &probation);
        let read = Installed::decode(&postcard::to_allocvec(&earlier).unwrap()).unwrap();
        assert_eq!(read.past, [Past { digest: "before".to_owned(), became: Became::Replaced }]);
        assert_eq!((&*read.current, &read.probation), ("current", &probation));
        let past = vec![Past { digest: "bad".to_owned(), became: Became::RolledBack { why: "it trapped".to_owned() } }];
        let now = Installed { past, ..read };
        let bytes = postcard::to_allocvec(&now).unwrap();
        assert_eq!(Installed::decode(&bytes), Some(now));
        let theirs: (String, String, Option<String>, Option<OnProbation>) = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((&*theirs.1, theirs.3), ("current", probation));
        assert_eq!(Installed::decode(b"\xff"), None);
    }
}
