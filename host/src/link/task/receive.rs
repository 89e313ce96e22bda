//! What arrives: the broker's packets, told apart.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{
    super::{
        client::Notice,
        codec::{Inbound, Refusal, Unusable},
        connect::Connection,
        error::LinkError,
        session::Request,
    },
    Clock, Phase, Task,
};
use crate::outbox::Seq;

/// MQTT has no more packet ids: who has more unacknowledged messages uses some twice.
const MOST_UNACKNOWLEDGED: usize = u16::MAX as usize;

impl Task {
    /// Takes in all packets that are whole; what of it goes to inboxes is one group.
    pub(super) fn receive(&mut self, connection: &mut Connection, clock: &mut Clock) -> Result<(), LinkError> {
        let received = self.take_in(connection, clock);
        self.commit_stored();
        received
    }

    fn take_in(&mut self, connection: &mut Connection, clock: &mut Clock) -> Result<(), LinkError> {
        let now = Instant::now();
        while let Some(inbound) = connection.codec.decode(&mut connection.wire.inbound)? {
            clock.keep_alive.received(now);
            match inbound {
                Inbound::Publish(arrival) => self.arrived(arrival, now),
                Inbound::Unusable(unusable) => self.skip(&unusable, now),
                Inbound::PubAck { packet_id, result, undefined } => {
                    self.wonder("PUBACK", undefined);
                    match self.session.end(packet_id) {
                        Some(Request::Publish(seq)) => self.acknowledged(seq, result, clock, now),
                        _ => debug!(packet_id, "an acknowledgement for nothing in flight"),
                    }
                }
                Inbound::SubAck { packet_id, results, undefined } => {
                    self.wonder("SUBACK", undefined);
                    match self.session.end(packet_id) {
                        Some(Request::Subscribe(subscriptions)) => self.subscribed(subscriptions, results),
                        _ => debug!(packet_id, "a SUBACK for nothing in flight"),
                    }
                }
                Inbound::UnsubAck { packet_id, undefined } => {
                    self.wonder("UNSUBACK", undefined);
                    match self.session.end(packet_id) {
                        Some(Request::Unsubscribe(filters)) => self.unsubscribed(filters),
                        _ => debug!(packet_id, "an UNSUBACK for nothing in flight"),
                    }
                }
                Inbound::PingResp => self.suspects.ponged(now),
                Inbound::Disconnect(refusal) => return Err(LinkError::Disconnected(refusal)),
                Inbound::ConnAck(_) => return Err(LinkError::NotMqtt("a second CONNACK".into())),
                Inbound::Unexpected(name) => {
                    return Err(LinkError::NotMqtt(format!("{name}, which a broker never sends")));
                }
            }
        }
        if self.session.arrivals.unacknowledged() > MOST_UNACKNOWLEDGED {
            return Err(LinkError::Flooded);
        }
        Ok(())
    }

    /// A message that can't be used is acknowledged all the same: else the broker would send it
    /// again and again, and nothing behind it.
    fn skip(&mut self, unusable: &Unusable, now: Instant) {
        let Unusable { topic, packet_id, reason } = unusable;
        if !matches!(*self.phase.borrow(), Phase::Open) {
            return;
        }
        if *packet_id != 0 {
            self.session.arrivals.skipped(*packet_id, now);
        }
        if let Some(skipped) = self.oddities.skipped(topic) {
            warn!(?topic, skipped, "the broker has sent a message that breaks MQTT's rules; it is skipped: {reason}");
        }
    }

    /// The broker uses a reason code that MQTT does not give to this packet.
    fn wonder(&mut self, packet: &'static str, undefined: Option<u8>) {
        if let Some(code) = undefined
            && self.oddities.has_code(packet, code)
        {
            let meaning = if code < 0x80 { "a yes" } else { "a no" };
            warn!(
                "the broker answers with a {packet} of reason code 0x{code:02x}, which MQTT does not define there: it is taken for {meaning}"
            );
        }
    }

    fn acknowledged(&mut self, seq: Seq, result: Result<(), Refusal>, clock: &mut Clock, now: Instant) {
        if let Some(entry) = self.outbox.in_flight(seq) {
            self.suspects.acknowledged(entry.owner, &entry.message.topic);
        }
        match result {
            Err(refusal) if refusal.is_transient() => {
                let pause = pause(clock.pauses);
                clock.pauses = clock.pauses.saturating_add(1);
                clock.pause = Some(now + pause);
                warn!(
                    "the broker asks for a pause: {refusal}; sending goes on in {}",
                    humantime::format_duration(pause)
                );
                self.outbox.put_back(seq);
            }
            Err(refusal) => {
                if let Some(entry) = self.outbox.settle(seq) {
                    self.give_up(seq, entry, refusal.to_string(), Some(refusal.code));
                }
            }
            Ok(()) => {
                clock.pauses = 0;
                let Some(entry) = self.outbox.settle(seq) else { return };
                self.settled(seq, &entry);
                if entry.tracked {
                    self.notify(entry.owner, Notice::Published(entry.number));
                }
            }
        }
    }
}

/// How long not to send, after so many pauses in a row.
fn pause(pauses: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);
    FIRST.saturating_mul(2u32.saturating_pow(pauses)).min(LONGEST)
}
