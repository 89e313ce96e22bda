//! The limits of a kind of broker, kept to here before the broker punishes.
//!
//! AWS IoT Core closes the connection of everybody over one packet it does not like, and
//! discards what is too much. Its limits are those of "AWS IoT Core endpoints and quotas"
//! (AWS General Reference) and of "MQTT" in its developer guide.

use std::time::Duration;

use super::pace::Pace;
use crate::{message::Message, topic::TopicFilter};

/// `[link] profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// AWS IoT Core.
    AwsIot,
    /// Any other broker: what it announces, and the specification.
    Generic,
}

/// A message or a filter that the broker would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// The payload is over the limit, in bytes.
    #[error("the payload is larger than {0} bytes")]
    TooLarge(u32),
    /// A rule for topics is broken.
    #[error("{0}")]
    InvalidTopic(String),
    /// The broker does not have that.
    #[error("{0}")]
    Unsupported(String),
    /// It says of itself what is not so, or has what a broker may take for malformed.
    #[error("{0}")]
    Malformed(String),
}

/// Quota "Maximum MQTT message size" (payload).
const PAYLOAD: u32 = 128 * 1024;
/// Quota "Topic size limit", in bytes of UTF-8.
const TOPIC: usize = 256;
/// Quota "Maximum number of slashes in topic and topic filter".
const SLASHES: usize = 7;
/// That quota does not count `$aws/rules/RULE/` of Basic Ingest.
const BASIC_INGEST: &str = "$aws/rules/";
/// Quota "Client ID size".
const CLIENT_ID: usize = 128;
/// Quota "Subscriptions per connection".
const SUBSCRIPTIONS: usize = 50;
/// Quota "Maximum subscriptions per subscribe request".
const FILTERS: usize = 8;
/// Quota "Publish requests per second per connection".
const MESSAGES: usize = 100;
/// Quota "Throughput per second per connection".
const BYTES: usize = 512 * 1024;
/// Quota "Connection inactivity (keep-alive interval)".
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1200));

impl Profile {
    /// What fits a broker of this name.
    pub fn of(host: &str) -> Self {
        let host = host.to_ascii_lowercase();
        let is_aws = [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|end| host.ends_with(end));
        if is_aws { Self::AwsIot } else { Self::Generic }
    }

    /// Whether such a broker takes the message.
    pub(super) fn check(self, message: &Message) -> Result<(), Breach> {
        if self == Self::Generic {
            return Ok(());
        }
        if message.payload.len() > PAYLOAD as usize {
            return Err(Breach::TooLarge(PAYLOAD));
        }
        if message.retain && message.topic.as_str().starts_with('$') {
            return Err(Breach::Unsupported("AWS IoT Core keeps no messages on topics that begin with $".to_owned()));
        }
        check_topic(message.topic.as_str())
    }

    /// Whether such a broker takes the subscription.
    pub(super) fn check_filter(self, filter: &TopicFilter) -> Result<(), Breach> {
        match self {
            Self::Generic => Ok(()),
            Self::AwsIot => check_topic(filter.as_str()),
        }
    }

    /// Whether such a broker takes the client id; if not, why.
    pub fn check_client_id(self, client_id: &str) -> Result<(), String> {
        match self {
            Self::AwsIot if client_id.len() > CLIENT_ID => {
                Err(format!("{} bytes; AWS IoT Core takes at most {CLIENT_ID}", client_id.len()))
            }
            _ => Ok(()),
        }
    }

    /// The keep-alive such a broker will keep to, if it is another one.
    pub fn keep_alive(self, wanted: Duration) -> Option<Duration> {
        let (least, most) = KEEP_ALIVE;
        let kept = if wanted.is_zero() { most } else { wanted.clamp(least, most) };
        (self == Self::AwsIot && kept != wanted).then_some(kept)
    }

    /// How fast it may be sent messages.
    pub(super) fn pace(self) -> Pace {
        match self {
            Self::AwsIot => Pace::limited(MESSAGES, BYTES),
            Self::Generic => Pace::unlimited(),
        }
    }

    /// How many subscriptions a connection may have.
    pub(super) fn subscriptions(self) -> Option<usize> {
        (self == Self::AwsIot).then_some(SUBSCRIPTIONS)
    }

    /// How many filters one SUBSCRIBE may have.
    pub(super) fn filters_per_subscribe(self) -> usize {
        FILTERS
    }

    /// A filter may stand for those it contains. On AWS IoT Core `sensor/#` does not match
    /// `sensor`, and retained messages do not reach wildcards.
    pub(super) fn merges_contained(self) -> bool {
        self == Self::Generic
    }
}

fn check_topic(topic: &str) -> Result<(), Breach> {
    if topic.len() > TOPIC {
        let why = format!("a topic of {} bytes; AWS IoT Core takes at most {TOPIC}", topic.len());
        return Err(Breach::InvalidTopic(why));
    }
    let slashes = |text: &str| text.matches('/').count();
    // A shared subscription's limit is that of the filter in it.
    let counted = topic.strip_prefix("$share/").and_then(|rest| Some(rest.split_once('/')?.1)).unwrap_or(topic);
    let free = if counted.starts_with(BASIC_INGEST) { 3 } else { 0 };
    let count = slashes(counted).saturating_sub(free);
    if count > SLASHES {
        let why = format!("`{topic}` has {count} slashes; AWS IoT Core takes at most {SLASHES}");
        return Err(Breach::InvalidTopic(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Qos, topic::TopicName};

    fn message(topic: &str, payload: usize, retain: bool) -> Message {
        Message {
            topic: TopicName::parse(topic.to_owned()).unwrap(),
            payload: bytes::Bytes::from(vec![0; payload]),
            qos: Qos::AtLeastOnce,
            retain,
            properties: None,
        }
    }

    #[test]
    fn aws_is_recognised_by_its_name() {
        for (host, expected) in [
            ("abc-ats.iot.eu-west-1.amazonaws.com", Profile::AwsIot),
            ("ABC.iot.cn-north-1.AMAZONAWS.com.cn", Profile::AwsIot),
            ("amazonaws.com.example", Profile::Generic),
            ("localhost", Profile::Generic),
        ] {
            assert_eq!(Profile::of(host), expected, "{host}");
        }
    }

    #[test]
    fn what_aws_would_punish_does_not_leave() {
        let refused =
            |topic: &str, payload, retain| Profile::AwsIot.check(&message(topic, payload, retain)).unwrap_err();
        assert_eq!(refused("a", 128 * 1024 + 1, false), Breach::TooLarge(128 * 1024));
        assert!(matches!(refused(&"a".repeat(257), 0, false), Breach::InvalidTopic(_)));
        assert!(matches!(refused("1/2/3/4/5/6/7/8/9", 0, false), Breach::InvalidTopic(_)));
        assert!(matches!(refused("$aws/x", 0, true), Breach::Unsupported(_)));
        let all = [
            message(&"a".repeat(256), 128 * 1024, true),
            message("1/2/3/4/5/6/7/8", 0, false),
            message("$aws/rules/rule/1/2/3/4/5/6/7/8", 0, false),
        ];
        for message in all {
            assert_eq!(Profile::AwsIot.check(&message), Ok(()), "{}", message.topic);
        }
        assert_eq!(Profile::Generic.check(&message(&"a/".repeat(300), 1024 * 1024, true)), Ok(()));
    }

    #[test]
    fn filters_are_counted_without_the_group() {
        let filter = |text: &str| TopicFilter::parse(text.to_owned()).unwrap();
        assert_eq!(Profile::AwsIot.check_filter(&filter("$share/g/1/2/3/4/5/6/7/#")), Ok(()));
        assert!(Profile::AwsIot.check_filter(&filter("1/2/3/4/5/6/7/8/#")).is_err());
    }

    #[test]
    fn keep_alives_are_those_aws_keeps_to() {
        let seconds = Duration::from_secs;
        for (wanted, kept) in [(0, Some(1200)), (5, Some(30)), (30, None), (1200, None), (5000, Some(1200))] {
            assert_eq!(Profile::AwsIot.keep_alive(seconds(wanted)), kept.map(seconds), "{wanted}");
            assert_eq!(Profile::Generic.keep_alive(seconds(wanted)), None);
        }
    }

    #[test]
    fn client_ids_have_a_limit() {
        assert!(Profile::AwsIot.check_client_id(&"a".repeat(129)).is_err());
        assert!(Profile::AwsIot.check_client_id(&"a".repeat(128)).is_ok());
        assert!(Profile::Generic.check_client_id(&"a".repeat(129)).is_ok());
    }
}
