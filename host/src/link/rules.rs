//! What a message has to keep to before it is taken: the profile's limits, the
//! configuration's, and what the broker of this connection announced.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::{
    codec::{ConnAck, publish_length},
    profile::{Breach, Profile},
};
use crate::{
    message::{Message, Qos},
    topic::TopicFilter,
};

/// Shared by the link, which learns what the broker takes, and all clients.
#[derive(Debug)]
pub(super) struct Rules {
    profile: Profile,
    /// The largest payload, in bytes.
    max_payload: u32,
    /// The largest packet the broker takes, in bytes.
    max_packet: AtomicU32,
    takes_qos1: AtomicBool,
    takes_retained: AtomicBool,
    takes_wildcards: AtomicBool,
    takes_shared: AtomicBool,
}

impl Rules {
    /// Before a broker has said anything.
    pub(super) fn new(profile: Profile, max_payload: u32) -> Self {
        Self {
            profile,
            max_payload,
            max_packet: AtomicU32::new(u32::MAX),
            takes_qos1: AtomicBool::new(true),
            takes_retained: AtomicBool::new(true),
            takes_wildcards: AtomicBool::new(true),
            takes_shared: AtomicBool::new(true),
        }
    }

    /// A broker has accepted the connection and said what it takes.
    pub(super) fn announced(&self, connack: &ConnAck) {
        self.max_packet.store(connack.max_packet.unwrap_or(u32::MAX), Relaxed);
        self.takes_qos1.store(connack.max_qos != Qos::AtMostOnce, Relaxed);
        self.takes_retained.store(connack.retain, Relaxed);
        self.takes_wildcards.store(connack.wildcards, Relaxed);
        self.takes_shared.store(connack.shared, Relaxed);
    }

    /// Whether the broker would take the message.
    pub(super) fn check(&self, message: &Message) -> Result<(), Breach> {
        if message.payload.len() > self.max_payload as usize {
            return Err(Breach::TooLarge(self.max_payload));
        }
        self.profile.check(message)?;
        let max_packet = self.max_packet.load(Relaxed);
        let length = publish_length(message);
        if length > max_packet as usize {
            let beside = length - message.payload.len();
            return Err(match (max_packet as usize).checked_sub(beside) {
                Some(room) => Breach::TooLarge(u32::try_from(room).unwrap_or(u32::MAX)),
                None => Breach::Unsupported(format!(
                    "topic and properties have {beside} bytes, and the broker takes packets of at most {max_packet}"
                )),
            });
        }
        if message.retain && !self.takes_retained.load(Relaxed) {
            return Err(Breach::Unsupported("the broker keeps no messages (`retain`)".to_owned()));
        }
        if message.qos == Qos::AtLeastOnce && !self.takes_qos1.load(Relaxed) {
            return Err(Breach::Unsupported("the broker takes QoS 0 only".to_owned()));
        }
        Ok(())
    }

    /// Whether the broker would take the subscription.
    pub(super) fn check_filter(&self, filter: &TopicFilter) -> Result<(), Breach> {
        self.profile.check_filter(filter)?;
        if filter.is_shared() && !self.takes_shared.load(Relaxed) {
            return Err(Breach::Unsupported("the broker has no shared subscriptions".to_owned()));
        }
        if filter.has_wildcards() && !self.takes_wildcards.load(Relaxed) {
            return Err(Breach::Unsupported("the broker takes no wildcards".to_owned()));
        }
        Ok(())
    }
}
