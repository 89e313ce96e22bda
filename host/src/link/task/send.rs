//! What leaves: acknowledgements, requests, messages. Everything is sent from here.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{
    super::{
        client::Notice,
        codec::EncodeError,
        connect::Connection,
        departure::{self, Departure},
        error::LinkError,
        session::Request,
        suspects::Item,
    },
    Clock, Task,
};
use crate::{
    message::Qos,
    outbox::{Entry, Seq},
    router::SubscriberId,
};

/// Bytes encoded ahead of the socket. More would only copy the outbox.
pub(super) const AHEAD: usize = 64 * 1024;

/// What became of the attempt to send one message.
enum Sent {
    /// There may be another one.
    Yes,
    /// Nothing may leave now.
    No,
}

impl Task {
    /// Encodes what may leave now.
    pub(super) fn fill(&mut self, connection: &mut Connection, clock: &mut Clock) -> Result<(), LinkError> {
        let now = Instant::now();
        // A broker that does not read gets no more of them encoded than it may take.
        while connection.wire.outbound.len() < AHEAD
            && let Some(packet_id) = self.session.arrivals.next_acknowledgement()
        {
            let written = connection.codec.puback(packet_id, &mut connection.wire.outbound);
            written.map_err(|error| LinkError::NotMqtt(format!("a packet can't be written: {error}")))?;
        }
        self.send_requests(connection, now)?;
        clock.next_drain = clock.next_drain.filter(|at| *at > now);
        clock.pause = clock.pause.filter(|at| *at > now);
        while clock.pause.is_none() && connection.wire.outbound.len() < AHEAD {
            if matches!(self.send_next(connection, clock, now), Sent::No) {
                break;
            }
        }
        if self.suspects.wants_ping() {
            self.ping(connection, clock, now)?;
        }
        Ok(())
    }

    pub(super) fn ping(
        &mut self,
        connection: &mut Connection,
        clock: &mut Clock,
        now: Instant,
    ) -> Result<(), LinkError> {
        let written = connection.codec.ping(&mut connection.wire.outbound);
        written.map_err(|error| LinkError::NotMqtt(format!("PINGREQ: {error}")))?;
        clock.keep_alive.pinged(now);
        self.suspects.pinged();
        Ok(())
    }

    /// Encodes the next message, if there is one that may leave.
    fn send_next(&mut self, connection: &mut Connection, clock: &mut Clock, now: Instant) -> Sent {
        let pace = clock.next_drain.is_none();
        let head = match departure::next(&self.session, &mut self.outbox, &mut self.suspects, pace, now) {
            None => return Sent::No,
            Some(Departure::Again(packet_id, seq)) => return self.send_again(packet_id, seq, connection, clock, now),
            Some(Departure::New(head)) => head,
        };
        let (seq, entry, is_backlog) = (head.seq, head.entry, head.is_backlog);
        if let Some(breach) = connection.connack.forbids(&entry.message) {
            if let Some((seq, entry)) = self.outbox.pop() {
                self.give_up(seq, entry, breach.into(), None);
            }
            return Sent::Yes;
        }
        if entry.is_expired() {
            if let Some((seq, entry)) = self.outbox.pop() {
                self.give_up(seq, entry, "its message expiry passed while it waited".into(), None);
            }
            return Sent::Yes;
        }
        if self.clients.get(&entry.owner).is_some_and(|client| client.held.holds(&entry.message.topic)) {
            if let Some((seq, entry)) = self.outbox.pop() {
                self.quarantine(seq, entry, "its topic is held back");
            }
            return Sent::Yes;
        }
        if let Err(until) = self.pace.allow(now, entry.message.payload.len()) {
            clock.pause = Some(until);
            return Sent::No;
        }
        let at_least_once = entry.message.qos == Qos::AtLeastOnce;
        let packet_id = if at_least_once { self.session.begin(Request::Publish(seq), now) } else { 0 };
        let message = entry.aged();
        let message = message.as_ref().unwrap_or(&entry.message);
        let Connection { wire, codec, .. } = connection;
        match codec.publish(message, packet_id, false, &mut wire.outbound) {
            Ok(()) => {
                self.suspects.published(entry.owner, &entry.message.topic, at_least_once, now);
                if at_least_once {
                    self.outbox.send();
                } else if let Some((seq, entry)) = self.outbox.pop() {
                    self.settled(seq, &entry);
                    if entry.tracked {
                        self.notify(entry.owner, Notice::Published(entry.number));
                    }
                }
            }
            Err(error) => {
                self.session.end(packet_id);
                if let Some((seq, entry)) = self.outbox.pop() {
                    self.unsendable(seq, entry, &error);
                }
            }
        }
        if is_backlog {
            clock.next_drain = Some(now + self.settings.drain_rate.interval());
        }
        Sent::Yes
    }

    /// What an earlier connection has sent and the broker has not acknowledged.
    fn send_again(
        &mut self,
        packet_id: u16,
        seq: Seq,
        connection: &mut Connection,
        clock: &mut Clock,
        now: Instant,
    ) -> Sent {
        let Some(entry) = self.outbox.in_flight(seq) else {
            self.session.end(packet_id);
            return Sent::Yes;
        };
        if let Some(breach) = connection.connack.forbids(&entry.message) {
            self.session.end(packet_id);
            if let Some(entry) = self.outbox.settle(seq) {
                self.give_up(seq, entry, breach.into(), None);
            }
            return Sent::Yes;
        }
        let max_age = self.settings.max_age;
        if entry.is_expired() || max_age.is_some_and(|max_age| entry.age.elapsed() > max_age) {
            let reason = match entry.is_expired() {
                true => "its message expiry passed before the broker acknowledged it".to_owned(),
                false => too_old(max_age),
            };
            self.session.end(packet_id);
            if let Some(entry) = self.outbox.settle(seq) {
                self.give_up(seq, entry, reason, None);
            }
            return Sent::Yes;
        }
        if let Err(until) = self.pace.allow(now, entry.message.payload.len()) {
            clock.pause = Some(until);
            return Sent::No;
        }
        let message = entry.aged();
        let message = message.as_ref().unwrap_or(&entry.message);
        match connection.codec.publish(message, packet_id, true, &mut connection.wire.outbound) {
            Ok(()) => {
                self.session.sent_again(packet_id, now);
                self.suspects.published(entry.owner, &entry.message.topic, true, now);
            }
            Err(error) => {
                self.session.end(packet_id);
                if let Some(entry) = self.outbox.settle(seq) {
                    self.unsendable(seq, entry, &error);
                }
            }
        }
        Sent::Yes
    }

    /// Sends requests again that the broker has not answered in time.
    pub(super) fn repeat(&mut self, packet_ids: &[u16], connection: &mut Connection) -> Result<(), LinkError> {
        for packet_id in packet_ids {
            let Some(request) = self.session.request(*packet_id).cloned() else { continue };
            warn!("the broker has not answered {} in time; it is sent again", name(&request));
            match request {
                Request::Publish(seq) => {
                    let Some(entry) = self.outbox.in_flight(seq) else { continue };
                    // It could be written once, so it can be written again.
                    let _ = connection.codec.publish(&entry.message, *packet_id, true, &mut connection.wire.outbound);
                }
                request => self.write_request(&request, *packet_id, connection)?,
            }
        }
        Ok(())
    }

    /// The broker has not answered a request for as long as is borne. `others`: it has answered what
    /// was sent later. What comes out ends the connection.
    pub(super) fn unanswered(
        &mut self,
        packet_id: u16,
        request: Request,
        others: bool,
        now: Instant,
    ) -> Result<(), LinkError> {
        let what = name(&request);
        match request {
            Request::Publish(seq) => {
                if let Some(entry) = self.outbox.in_flight(seq) {
                    let item = Item::Publish { owner: entry.owner, topic: entry.message.topic.clone() };
                    self.suspects.was_unanswered(&item, others, now);
                }
            }
            Request::Subscribe(subscriptions) => {
                for to in subscriptions {
                    self.suspects.was_unanswered(&Item::Subscribe(to.filter), others, now);
                }
            }
            // Whatever the broker does about it: what it still sends for these finds nobody.
            Request::Unsubscribe(filters) => {
                warn!("the broker does not answer {what}; it counts as answered");
                self.session.end(packet_id);
                self.unsubscribed(filters);
                return Ok(());
            }
        }
        Err(LinkError::Unanswered { what, times: 3, timeout: self.settings.operation_timeout })
    }

    fn unsendable(&mut self, seq: Seq, entry: Entry, error: &EncodeError) {
        self.give_up(seq, entry, error.to_string(), None);
    }

    /// A message that was taken will not reach the broker.
    pub(super) fn give_up(&mut self, seq: Seq, entry: Entry, reason: String, code: Option<u8>) {
        self.settled(seq, &entry);
        let topic = entry.message.topic.to_string();
        if let Some(client) = self.clients.get(&entry.owner) {
            client.share.lost(1);
        }
        if let Some(plugin) = self.says(entry.owner) {
            warn!(plugin = plugin.as_deref(), topic, "a message was dropped: {reason}");
        }
        self.notify(entry.owner, Notice::Dropped { number: entry.number, topic, reason, code });
    }

    /// The oldest messages of a client go, as long as it owes room.
    pub(super) fn pay(&mut self, id: SubscriberId) {
        while let Some((seq, entry)) = self.outbox.pay(id) {
            self.give_up(seq, entry, "the outbox is full (`outbox.when_full = \"drop-oldest\"`)".into(), None);
        }
    }

    pub(super) fn drop_qos0(&mut self, entry: &Entry) {
        let Some(client) = self.clients.get_mut(&entry.owner) else {
            return;
        };
        client.dropped += 1;
        client.share.lost(1);
        if client.dropped.is_power_of_two() {
            warn!(plugin = client.label.as_deref(), dropped = client.dropped, topic = %entry.message.topic, "no connection: QoS 0 messages were dropped (`qos0_offline`)");
        }
    }
}

pub(super) fn too_old(max_age: Option<Duration>) -> String {
    let age = humantime::format_duration(super::rounded(max_age.unwrap_or_default()));
    format!("it waited longer than {age} (`outbox.max_age`)")
}

/// The packet of a request, for people.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Publish(_) => "a PUBLISH",
        Request::Subscribe(_) => "a SUBSCRIBE",
        Request::Unsubscribe(_) => "an UNSUBSCRIBE",
    }
}
