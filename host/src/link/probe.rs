//! Asks a connection whether it carries messages, one packet at a time.
//!
//! The link sends as much as it may and a broker that objects often just hangs up. Here
//! every request is followed by a ping once it is answered, and nothing else is sent
//! before the answer: so an end of the connection has one possible reason.
//!
//! The session may be that of a host which is not running now. What it has waiting there
//! is not for us: arrivals are not acknowledged, so the broker keeps them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{timeout, timeout_at};

use super::{
    LinkSettings,
    codec::{Codec, EncodeError, Inbound, Refusal},
    connect::{self, Connection, Observer, broken},
    error::LinkError,
    wire::{Turn, Wire},
};
use crate::{
    message::{Message, Qos},
    router::Subscription,
    topic::TopicFilter,
};

/// A connection that the broker has accepted.
#[derive(Debug)]
pub(crate) struct Accepted(Connection);

/// One attempt, as the link makes them; tells each step that is done.
pub(crate) async fn connect(settings: &LinkSettings, observer: Observer<'_>) -> Result<Accepted, LinkError> {
    connect::connect(settings, observer).await.map(Accepted)
}

impl Accepted {
    /// The broker still knew the session.
    pub(crate) fn session_present(&self) -> bool {
        self.0.connack.session_present
    }
}

/// A connection under examination.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    settings: &'a LinkSettings,
    /// How long an answer may take.
    patience: Duration,
    wire: Wire,
    codec: Codec,
    last_id: u16,
    /// Told from the messages of others by its payload.
    expected: Option<Bytes>,
    arrived: Option<Instant>,
    /// There is no connection any more.
    lost: bool,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Granted, or acknowledged, after so long.
    Yes(Duration),
    /// The broker's no.
    No(Refusal),
    /// The connection ended; nothing else was unanswered.
    Lost(LinkError),
    /// Nothing came. `alive`: but a ping was answered.
    Late {
        /// The broker is there.
        alive: bool,
    },
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    SubAck(u16),
    UnsubAck(u16),
    PubAck(u16),
    Pong,
    Arrival,
}

/// A pause between pings that keeps any keep-alive.
const PING_EVERY: Duration = Duration::from_millis(500);

impl<'a> Probe<'a> {
    /// Takes a connection over.
    pub(crate) fn new(settings: &'a LinkSettings, patience: Duration, accepted: Accepted) -> Self {
        let Connection { wire, codec, .. } = accepted.0;
        Self { settings, patience, wire, codec, last_id: 0, expected: None, arrived: None, lost: false }
    }

    /// SUBSCRIBE for one filter.
    pub(crate) async fn subscribe(&mut self, filter: &TopicFilter, qos: Qos) -> Answer {
        let id = self.next_id();
        let subscription = Subscription { filter: filter.clone(), qos, identifier: 0 };
        let written = self.codec.subscribe(id, &[subscription], false, &mut self.wire.outbound);
        self.request(written, Awaited::SubAck(id)).await
    }

    /// Takes that back.
    pub(crate) async fn unsubscribe(&mut self, filter: &TopicFilter) -> Answer {
        let id = self.next_id();
        let written = self.codec.unsubscribe(id, std::slice::from_ref(filter), &mut self.wire.outbound);
        self.request(written, Awaited::UnsubAck(id)).await
    }

    /// PUBLISH of QoS 1. Its payload should be like no other.
    pub(crate) async fn publish(&mut self, message: &Message) -> Answer {
        let id = self.next_id();
        self.expected = Some(message.payload.clone());
        let written = self.codec.publish(message, id, false, &mut self.wire.outbound);
        self.request(written, Awaited::PubAck(id)).await
    }

    /// When the message that was published came back.
    pub(crate) async fn arrival(&mut self) -> Result<Option<Instant>, LinkError> {
        if self.arrived.is_none() {
            self.wait(Awaited::Arrival).await?;
        }
        Ok(self.arrived)
    }

    /// Asks for nothing for a while but whether the broker is there.
    pub(crate) async fn rest(&mut self, until: Instant) -> Result<(), LinkError> {
        while Instant::now() < until {
            self.codec.ping(&mut self.wire.outbound).map_err(unsent)?;
            let next = until.min(Instant::now() + PING_EVERY);
            // Nothing ends it but the time: what comes is taken and needs no answer.
            match timeout_at(next.into(), self.receive(|_| None::<()>)).await {
                Err(_) => {}
                Ok(ended) => ended?,
            }
        }
        Ok(())
    }

    /// DISCONNECT. It is over either way.
    pub(crate) async fn close(mut self) {
        let _ = self.codec.disconnect(&mut self.wire.outbound);
        let _ = timeout(self.patience, self.wire.close()).await;
    }

    /// The connection has ended: no more can be asked.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    async fn request(&mut self, written: Result<(), EncodeError>, awaited: Awaited) -> Answer {
        let start = Instant::now();
        let answer = match written {
            Ok(()) => self.wait(awaited).await,
            Err(error) => Err(unsent(error)),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Answer::Lost(error),
        };
        let took = start.elapsed();
        // A broker that objects may answer first and hang up then.
        match (answer, self.ping().await) {
            (Some(Err(refusal)), _) => Answer::No(refusal),
            (_, Err(error)) => Answer::Lost(error),
            (Some(Ok(())), Ok(_)) => Answer::Yes(took),
            (None, Ok(alive)) => Answer::Late { alive },
        }
    }

    /// Whether it is answered.
    async fn ping(&mut self) -> Result<bool, LinkError> {
        self.codec.ping(&mut self.wire.outbound).map_err(unsent)?;
        self.wait(Awaited::Pong).await.map(|answer| answer.is_some())
    }

    /// `None`: it did not come in time.
    async fn wait(&mut self, awaited: Awaited) -> Result<Option<Result<(), Refusal>>, LinkError> {
        let answer = timeout(self.patience, self.receive(|inbound| answers(awaited, inbound)));
        answer.await.ok().transpose()
    }

    /// Reads until a packet is what is looked for.
    async fn receive<T>(&mut self, look: impl FnMut(&Inbound) -> Option<T>) -> Result<T, LinkError> {
        self.read(look).await.inspect_err(|_| self.lost = true)
    }

    async fn read<T>(&mut self, mut look: impl FnMut(&Inbound) -> Option<T>) -> Result<T, LinkError> {
        loop {
            while let Some(mut inbound) = self.codec.decode(&mut self.wire.inbound)? {
                if let Inbound::Disconnect(refusal) = inbound {
                    return Err(LinkError::Disconnected(refusal));
                }
                if let Inbound::Publish(arrival) = &mut inbound {
                    if self.expected.as_ref() != Some(&arrival.message.payload) {
                        continue;
                    }
                    self.arrived.get_or_insert_with(Instant::now);
                }
                if let Some(found) = look(&inbound) {
                    return Ok(found);
                }
            }
            match self.wire.turn(true).await.map_err(|cause| broken(self.settings, cause))? {
                Turn::Read(_) | Turn::Written => {}
                Turn::Closed => return Err(LinkError::Closed),
            }
        }
    }
}

fn answers(awaited: Awaited, inbound: &Inbound) -> Option<Result<(), Refusal>> {
    match (awaited, inbound) {
        (Awaited::SubAck(id), Inbound::SubAck { packet_id, results, .. }) if id == *packet_id => {
            match results.first() {
                Some(Err(refusal)) => Some(Err(refusal.clone())),
                _ => Some(Ok(())),
            }
        }
        (Awaited::PubAck(id), Inbound::PubAck { packet_id, result, .. }) if id == *packet_id => Some(result.clone()),
        (Awaited::UnsubAck(id), Inbound::UnsubAck { packet_id, .. }) if id == *packet_id => Some(Ok(())),
        (Awaited::Pong, Inbound::PingResp) | (Awaited::Arrival, Inbound::Publish(_)) => Some(Ok(())),
        _ => None,
    }
}

fn unsent(error: EncodeError) -> LinkError {
    LinkError::NotMqtt(format!("the broker takes packets of a size that nothing fits in: {error}"))
}
