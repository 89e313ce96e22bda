//! What arrives: messages, and the broker's answers.

use std::time::Instant;

use tracing::{debug, warn};

use super::{
    super::{
        Phase,
        client::{Acknowledgement, Notice},
        codec::{Arrival, Inbound, Refusal, Version},
        connect::{Connection, RECEIVE_MAXIMUM},
        error::LinkError,
        session::Request,
    },
    Clock, Task,
};
use crate::message::Qos;

/// MQTT 3.1.1 has no way to announce a window; more unacknowledged messages than this
/// no broker sends (mosquitto 20, AWS IoT Core 100).
const TOLERATED_UNACKNOWLEDGED: usize = 1000;

impl Task {
    /// Takes in all packets that are whole.
    pub(super) fn receive(&mut self, connection: &mut Connection, clock: &mut Clock) -> Result<(), LinkError> {
        while let Some(inbound) = connection.codec.decode(&mut connection.wire.inbound)? {
            clock.keep_alive.received(Instant::now());
            match inbound {
                Inbound::Publish(arrival) => self.arrived(arrival)?,
                Inbound::PubAck { packet_id, result } => self.acknowledged(packet_id, result),
                Inbound::SubAck { packet_id, results } => self.subscribed(packet_id, results),
                Inbound::UnsubAck { packet_id } => {
                    self.session.end(packet_id);
                }
                Inbound::PingResp => {}
                Inbound::Disconnect(refusal) => return Err(LinkError::Disconnected(refusal)),
                Inbound::ConnAck(_) => return Err(LinkError::NotMqtt("a second CONNACK".into())),
                Inbound::Unexpected(name) => {
                    return Err(LinkError::NotMqtt(format!("{name}, which a broker never sends")));
                }
            }
        }
        let limit = match self.settings.protocol {
            Version::V5 => RECEIVE_MAXIMUM.into(),
            Version::V311 => TOLERATED_UNACKNOWLEDGED,
        };
        if self.session.unacknowledged() > limit {
            return Err(LinkError::NotMqtt(format!(
                "more than {limit} messages without waiting for an acknowledgement"
            )));
        }
        Ok(())
    }

    fn arrived(&mut self, arrival: Arrival) -> Result<(), LinkError> {
        let Arrival { message, packet_id, duplicate, identifiers } = arrival;
        if !matches!(*self.phase.borrow(), Phase::Open) {
            return Ok(());
        }
        let token = match message.qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => match self.session.arrived(packet_id, duplicate) {
                Some(token) => Some(token),
                None => return Ok(()),
            },
        };
        self.router.find(&message.topic, &identifiers, message.retain, &mut self.found);
        let mut receivers = 0;
        for id in &self.found {
            let Some(client) = self.clients.get_mut(id) else {
                continue;
            };
            let acknowledgement = token.map(|token| Acknowledgement { token, commands: self.own_commands.upgrade() });
            if token.is_none() && !client.mailbox.has_room(message.cost()) {
                client.dropped += 1;
                if client.dropped.is_power_of_two() {
                    warn!(client = id, dropped = client.dropped, topic = %message.topic, "a mailbox is full: QoS 0 messages were dropped");
                }
            } else {
                // One that is just gone gives the message up, and says so like any other.
                client.mailbox.deliver(message.clone(), duplicate, acknowledgement);
                receivers += 1;
            }
        }
        if token.is_some() {
            self.session.went_to(receivers);
        }
        if receivers == 0 {
            debug!(topic = %message.topic, "a message arrived that nobody here takes");
        }
        Ok(())
    }

    fn acknowledged(&mut self, packet_id: u16, result: Result<(), Refusal>) {
        let Some(Request::Publish(place)) = self.session.end(packet_id) else {
            debug!(packet_id, "an acknowledgement for nothing in flight");
            return;
        };
        let entry = self.outbox.settle(place);
        match result {
            Err(refusal) => self.undeliverable(entry, refusal.to_string(), Some(refusal.code)),
            Ok(()) => {
                if let Some(entry) = entry.filter(|entry| entry.tracked) {
                    self.notify(entry.owner, Notice::Published(entry.number));
                }
            }
        }
    }

    fn subscribed(&mut self, packet_id: u16, results: Vec<Result<Qos, Refusal>>) {
        let Some(Request::Subscribe(subscription)) = self.session.end(packet_id) else {
            return;
        };
        let filter = subscription.filter;
        let subscribers: Vec<_> = self.router.subscribers(&filter).collect();
        match results.into_iter().next() {
            Some(Err(refusal)) => {
                warn!(%filter, "the broker refused a subscription: {refusal}");
                for id in subscribers {
                    self.notify(id, Notice::SubscriptionRefused { filter: filter.clone(), refusal: refusal.clone() });
                }
            }
            Some(Ok(_)) | None => {
                debug!(%filter, "subscribed");
                for id in subscribers {
                    if self.clients.get(&id).is_some_and(|client| client.tracked) {
                        self.notify(id, Notice::Subscribed(filter.clone()));
                    }
                }
            }
        }
    }
}
