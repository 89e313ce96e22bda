//! What leaves: acknowledgements, subscriptions, messages.

use std::time::Instant;

use tracing::warn;

use super::{
    super::{client::Notice, connect::Connection, error::LinkError, session::Request},
    Clock, Task,
};
use crate::{message::Qos, outbox::Entry};

/// Bytes encoded ahead of the socket. More would only copy the outbox.
const AHEAD: usize = 64 * 1024;

impl Task {
    /// Encodes what may leave now.
    pub(super) fn fill(&mut self, connection: &mut Connection, clock: &mut Clock) -> Result<(), LinkError> {
        let unencodable = |error| LinkError::NotMqtt(format!("a packet can't be written: {error}"));
        let out = &mut connection.wire.outbound;
        while let Some(packet_id) = self.session.next_acknowledgement() {
            connection.codec.puback(packet_id, out).map_err(unencodable)?;
        }
        while self.session.takes_requests() && out.len() < AHEAD {
            let Some(request) = self.requests.pop_front() else {
                break;
            };
            let packet_id = self.session.begin(request.clone());
            match request {
                Request::Subscribe(subscription) => {
                    let identify = connection.connack.subscription_identifiers;
                    connection.codec.subscribe(packet_id, &subscription, identify, out).map_err(unencodable)?;
                    self.at_broker.insert(subscription.filter);
                }
                Request::Unsubscribe(filter) => {
                    connection.codec.unsubscribe(packet_id, &filter, out).map_err(unencodable)?;
                    self.at_broker.remove(&filter);
                }
                Request::Publish(_) => {}
            }
        }
        clock.next_drain = clock.next_drain.filter(|at| *at > Instant::now());
        while connection.wire.outbound.len() < AHEAD && self.send_next(connection, clock) {}
        Ok(())
    }

    /// Encodes the next message, if there is one that may leave.
    fn send_next(&mut self, connection: &mut Connection, clock: &mut Clock) -> bool {
        let Connection { wire, codec, .. } = connection;
        if let Some((packet_id, place)) = self.session.next_again() {
            if let Some(entry) = self.outbox.in_flight(place)
                && let Err(error) = codec.publish(&entry.message, packet_id, true, &mut wire.outbound)
            {
                self.session.end(packet_id);
                let entry = self.outbox.settle(place);
                self.undeliverable(entry, error.to_string(), None);
            }
            return true;
        }
        if self.session.has_again() {
            return false;
        }
        let Some((place, entry, backlog)) = self.outbox.peek() else {
            return false;
        };
        if entry.is_expired() {
            let entry = self.outbox.pop();
            self.undeliverable(entry, "its message expiry passed while it waited".into(), None);
            return true;
        }
        let paced = backlog && !self.settings.drain_rate.is_unlimited();
        let at_least_once = entry.message.qos == Qos::AtLeastOnce;
        if (paced && clock.next_drain.is_some()) || (at_least_once && !self.session.window_is_open()) {
            return false;
        }
        let packet_id = if at_least_once { self.session.begin(Request::Publish(place)) } else { 0 };
        let message = entry.aged();
        let written = codec.publish(message.as_ref().unwrap_or(&entry.message), packet_id, false, &mut wire.outbound);
        match written {
            Ok(()) if at_least_once => self.outbox.send(),
            Ok(()) => {
                if let Some(entry) = self.outbox.pop().filter(|entry| entry.tracked) {
                    self.notify(entry.owner, Notice::Published(entry.number));
                }
            }
            Err(error) => {
                self.session.end(packet_id);
                let entry = self.outbox.pop();
                self.undeliverable(entry, error.to_string(), None);
            }
        }
        if paced {
            clock.next_drain = Some(Instant::now() + self.settings.drain_rate.interval());
        }
        true
    }

    pub(super) fn undeliverable(&mut self, entry: Option<Entry>, reason: String, code: Option<u8>) {
        let Some(entry) = entry else { return };
        let topic = entry.message.topic.to_string();
        warn!(client = entry.owner, topic, "a message was dropped: {reason}");
        self.notify(entry.owner, Notice::Dropped { number: entry.number, topic, reason, code });
    }

    pub(super) fn drop_qos0(&mut self, entry: &Entry) {
        let Some(client) = self.clients.get_mut(&entry.owner) else {
            return;
        };
        client.dropped += 1;
        if client.dropped.is_power_of_two() {
            warn!(client = entry.owner, dropped = client.dropped, topic = %entry.message.topic, "no connection: QoS 0 messages were dropped (`qos0_offline`)");
        }
    }
}
