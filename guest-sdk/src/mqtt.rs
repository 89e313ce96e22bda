//! The device's connection: what can be asked of it, and why it may refuse.

use std::fmt;
use std::time::Duration;

use crate::offered::mqtt;
use crate::{Message, Qos};

/// Publishes at least once. Short for [`Message::new`] and [`Message::publish`].
pub fn publish(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Result<u32, PublishError> {
    Message::new(topic, payload).publish()
}

/// Asks for messages that match the filter; they arrive at
/// [`Plugin::on_message`](crate::Plugin::on_message).
///
/// Ok means recorded, also while offline. If the broker refuses later, that
/// comes as [`Event::SubscriptionRefused`](crate::Event::SubscriptionRefused).
/// A filter asked for again takes the new QoS and has its retained messages sent
/// again.
pub fn subscribe(filter: &str, qos: Qos) -> Result<(), SubscribeError> {
    mqtt::subscribe(filter, qos)
}

/// Gives a filter back, spelled as it was asked for. Ok also when there was none.
pub fn unsubscribe(filter: &str) -> Result<(), SubscribeError> {
    mqtt::unsubscribe(filter)
}

/// Looks at the connection; costs no more than a call.
pub fn link() -> Link {
    let state = mqtt::link();
    Link {
        connected: state.connected,
        since: Duration::try_from_secs_f64(state.since / 1_000.0).unwrap_or_default(),
        queued_messages: state.queued_messages,
        queued_bytes: state.queued_bytes as u64,
    }
}

/// The connection as the plugin sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// There is a connection the broker has accepted.
    pub connected: bool,
    /// How long it has been so.
    pub since: Duration,
    /// Messages of this plugin that wait or are not yet acknowledged.
    pub queued_messages: u32,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// Why a message was not taken. Nothing of it has been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The plugin's configuration grants no filter that covers the topic; the
    /// text names the topic and the grants there are.
    NotGranted(String),
    /// The topic breaks a rule of MQTT or of the broker's profile; the text says which.
    InvalidTopic(String),
    /// The message is over the limit, which is given in bytes.
    TooLarge(u32),
    /// The plugin's publish rate is used up; milliseconds until it is worth another try.
    RateLimited(u32),
    /// The queue of messages not yet acknowledged, or this plugin's share of it, is full.
    OutboxFull,
    /// The topic is held back: the broker closed the connection over it. The text says since when.
    Held(String),
    /// Something asked for (retain, a property) is not to be had from this broker or
    /// in this version of the host; the text names it.
    Unsupported(String),
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted(text) => write!(f, "publishing is not granted: {text}"),
            Self::InvalidTopic(text) => write!(f, "the topic is not valid: {text}"),
            Self::TooLarge(limit) => write!(f, "the message is over the limit of {limit} bytes"),
            Self::RateLimited(wait) => {
                write!(f, "the publish rate is used up; try again in {wait} ms")
            }
            Self::OutboxFull => f.write_str("the outbox, or the plugin's share of it, is full"),
            Self::Held(text) => write!(f, "the topic is held back: {text}"),
            Self::Unsupported(text) => write!(f, "not supported here: {text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for PublishError {}

/// Why a subscription was not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeError {
    /// The filter does not lie within the plugin's subscribe grants; the text names both.
    NotGranted(String),
    /// The filter breaks a rule of MQTT; the text says which.
    InvalidFilter(String),
    /// No further subscription is allowed; the number is the limit.
    LimitReached(u32),
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted(text) => write!(f, "subscribing is not granted: {text}"),
            Self::InvalidFilter(text) => write!(f, "the filter is not valid: {text}"),
            Self::LimitReached(limit) => {
                write!(f, "no more than {limit} subscriptions are allowed")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for SubscribeError {}
