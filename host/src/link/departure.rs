//! Which message leaves next. Pure.
//!
//! What the last connection has sent and the broker has not acknowledged goes first, in its order;
//! then what waits in the outbox, lanes in turn. What is held back, because it is suspected, holds
//! back what its plugin has behind it, and nobody else.

use std::time::Instant;

use smallvec::SmallVec;

use super::{session::Session, suspects::Suspects};
use crate::{
    message::Qos,
    outbox::{Head, Outbox, Seq},
    router::SubscriberId,
};

/// The next message.
#[derive(Debug)]
pub(super) enum Departure<'a> {
    /// Once more, under its old packet id.
    Again(u16, Seq),
    /// For the first time in this session.
    New(Head<'a>),
}

/// The next message that may leave now. `backlog`: the pace lets one of those leave.
pub(super) fn next<'a>(
    session: &Session,
    outbox: &'a mut Outbox,
    suspects: &mut Suspects,
    backlog: bool,
    now: Instant,
) -> Option<Departure<'a>> {
    let window = session.window_is_open();
    // Owners of messages that have to be sent again and may not yet.
    let mut waiting: SmallVec<[SubscriberId; 4]> = SmallVec::new();
    if session.has_again() {
        if !window {
            return None;
        }
        let mut may_leave = |seq: Seq| {
            // One that has been given up is to be found.
            let Some(entry) = outbox.in_flight(seq) else { return true };
            if waiting.contains(&entry.owner) {
                return false;
            }
            let may = suspects.may_publish(entry.owner, &entry.message.topic, now);
            if !may {
                waiting.push(entry.owner);
            }
            may
        };
        if let Some((packet_id, seq)) = session.again().find(|(_, seq)| may_leave(*seq)) {
            return Some(Departure::Again(packet_id, seq));
        }
    }
    let head = outbox.peek(backlog, |entry, _| {
        (window || entry.message.qos == Qos::AtMostOnce)
            && !waiting.contains(&entry.owner)
            && suspects.may_publish(entry.owner, &entry.message.topic, now)
    });
    head.map(Departure::New)
}
