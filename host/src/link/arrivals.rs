//! The half of MQTT's session that receives: what arrived at QoS 1, who has it, which
//! acknowledgements are due, and what of it a broker sends again.
//!
//! Pure: the link task tells it what happened and does what it says. It outlives
//! connections, as the session at the broker does.
//!
//! A repetition has the same packet id, DUP, the same topic and the same payload. The packet
//! id alone is not enough: the earlier message may have expired at the broker, and its id may name
//! another one since.

mod carried;
mod remembered;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use self::{carried::Carried, remembered::Remembered};
use crate::{message::Message, router::SubscriberId};

/// Numbers an arrival that has to be acknowledged; counts up over all connections, and
/// over all runs where there is a disk.
pub(super) type Token = u64;

/// Plugins.
pub(super) type Holders = SmallVec<[SubscriberId; 2]>;

/// The arrivals of one session.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Those of this connection not yet acknowledged, in order.
    waiting: VecDeque<Arrived>,
    /// Their tokens ascend, too, as they do unless a broker mixes what it sends again with what is new.
    is_ascending: bool,
    /// Those of earlier connections that a broker that kept the session will send again.
    carried: Carried,
    /// Those that an earlier run holds on disk and the broker may send again.
    remembered: Remembered,
    /// A message arrived on this connection that is none of an earlier one.
    has_new: bool,
    last_token: Token,
    /// Receivers of this connection's arrivals that hold them in memory only.
    in_memory: usize,
}

#[derive(Debug)]
struct Arrived {
    token: Token,
    packet_id: u16,
    at: Instant,
    content: Content,
    duplicate: bool,
    /// Plugins that have neither handled it nor hold it on disk.
    receivers: SmallVec<[Receiver; 2]>,
}

/// What a repetition is compared with.
#[derive(Debug)]
enum Content {
    Whole(Message),
    /// Nobody needs the message any more.
    Digest(u64),
    /// It was of no use.
    Nothing,
}

#[derive(Debug)]
struct Receiver {
    id: SubscriberId,
    /// It is on its way to the plugin's inbox.
    is_storing: bool,
}

/// An arrival that has to go to the inboxes of these plugins.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) packet_id: u16,
    pub(super) message: Message,
    pub(super) duplicate: bool,
    pub(super) receivers: Holders,
}

/// An arrival of an earlier run that is on disk and that the broker may send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) token: Token,
    pub(super) packet_id: u16,
    /// Of its topic and payload.
    pub(super) digest: u64,
    pub(super) holder: SubscriberId,
}

impl Arrivals {
    /// `last_token`: the highest an earlier run gave.
    pub(super) fn new(last_token: Token) -> Self {
        Self { last_token, is_ascending: true, ..Self::default() }
    }

    /// What an earlier run holds, in the order of tokens.
    pub(super) fn remember(&mut self, kept: impl IntoIterator<Item = Kept>) {
        self.remembered = Remembered::new(kept);
    }

    /// A connection stands and the broker still knows the session: what is not acknowledged comes again.
    pub(super) fn resume(&mut self) {
        // A broker repeats first. What it has not repeated before it went on, it will not repeat: a
        // later message that looks the same is another one.
        if std::mem::take(&mut self.has_new) {
            self.carried.clear();
            self.remembered.clear();
        }
        self.carried.extend(self.waiting.drain(..));
        (self.is_ascending, self.in_memory) = (true, 0);
    }

    /// A connection stands and the broker knows nothing: it repeats nothing.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.last_token);
    }

    /// A message arrived: its token, and who holds it on disk since an earlier run. `None`: it is
    /// one that plugins still have from an earlier connection, or have handled since; it must not be
    /// delivered again.
    pub(super) fn arrived(
        &mut self,
        message: &Message,
        packet_id: u16,
        duplicate: bool,
        at: Instant,
    ) -> Option<(Token, Holders)> {
        let carried = self.carried.take(packet_id);
        if let Some(arrived) = carried.filter(|arrived| duplicate && arrived.content.is(message)) {
            self.in_memory += arrived.in_memory();
            self.push(arrived);
            return None;
        }
        let holders = self.remembered.take(packet_id, |kept| duplicate && kept == message.digest());
        self.has_new |= !duplicate;
        self.last_token += 1;
        let (token, receivers) = (self.last_token, SmallVec::new());
        self.push(Arrived { token, packet_id, at, content: Content::Whole(message.clone()), duplicate, receivers });
        Some((token, holders))
    }

    /// A QoS 1 message arrived that goes to nobody: it is acknowledged in its turn.
    pub(super) fn skipped(&mut self, packet_id: u16, at: Instant) {
        self.carried.take(packet_id);
        self.last_token += 1;
        let (token, receivers) = (self.last_token, SmallVec::new());
        self.push(Arrived { token, packet_id, at, content: Content::Nothing, duplicate: false, receivers });
    }

    fn push(&mut self, arrived: Arrived) {
        self.is_ascending = self.waiting.back().is_none_or(|last| self.is_ascending && last.token < arrived.token);
        self.waiting.push_back(arrived);
    }

    /// The last arrival went to this plugin, or is on its way to the plugin's inbox.
    pub(super) fn went_to(&mut self, id: SubscriberId, is_storing: bool) {
        if let Some(arrived) = self.waiting.back_mut() {
            arrived.receivers.push(Receiver { id, is_storing });
            self.in_memory += usize::from(!is_storing);
        }
    }

    /// A plugin has handled an arrival, of this connection or an earlier one. True: it is
    /// in the plugin's inbox, too, or may be.
    pub(super) fn handled(&mut self, token: Token, id: SubscriberId) -> bool {
        self.settled(token, id).is_none_or(|receiver| receiver.is_storing)
    }

    /// A plugin holds an arrival on disk.
    pub(super) fn stored(&mut self, token: Token, id: SubscriberId) {
        self.settled(token, id);
    }

    fn settled(&mut self, token: Token, id: SubscriberId) -> Option<Receiver> {
        if let Some(place) = self.place(token) {
            let is_next = self.waiting.front().is_none_or(|front| front.receivers.is_empty() || front.token == token);
            let receiver = self.waiting.get_mut(place)?.settle(id, is_next)?;
            self.in_memory -= usize::from(!receiver.is_storing);
            return Some(receiver);
        }
        self.carried.get_mut(token)?.settle(id, false)
    }

    /// Where in the queue an arrival is.
    fn place(&self, token: Token) -> Option<usize> {
        if self.waiting.front()?.token == token {
            return Some(0);
        }
        if self.is_ascending {
            return self.waiting.binary_search_by_key(&token, |arrived| arrived.token).ok();
        }
        self.waiting.iter().position(|arrived| arrived.token == token)
    }

    /// An arrival is on its way to disk for this plugin, in whatever form.
    pub(super) fn stores(&mut self, token: Token, id: SubscriberId) {
        match self.place(token).and_then(|place| self.waiting.get_mut(place)) {
            Some(arrived) => self.in_memory -= arrived.store(id),
            None => drop(self.carried.get_mut(token).map(|arrived| arrived.store(id))),
        }
    }

    /// A number for an arrival that is none of the broker's.
    pub(super) fn new_token(&mut self) -> Token {
        self.last_token += 1;
        self.last_token
    }

    /// The plugin has an arrival in memory only.
    pub(super) fn is_in_memory(&self, token: Token, id: SubscriberId) -> bool {
        let mut receivers = self.known(token).into_iter().flat_map(|arrived| &arrived.receivers);
        receivers.any(|receiver| receiver.id == id && !receiver.is_storing)
    }

    /// The packet id of an arrival that is not yet acknowledged.
    pub(super) fn packet_id(&self, token: Token) -> Option<u16> {
        Some(self.known(token)?.packet_id)
    }

    /// An arrival that is not yet acknowledged and that a plugin gives back.
    pub(super) fn message(&self, token: Token) -> Option<Held> {
        let arrived = self.known(token)?;
        arrived.held(SmallVec::new())
    }

    fn known(&self, token: Token) -> Option<&Arrived> {
        self.place(token).and_then(|place| self.waiting.get(place)).or_else(|| self.carried.get(token))
    }

    /// Arrivals that plugins have held for that long. They count as being stored from now on.
    pub(super) fn held(&mut self, longer_than: Duration, now: Instant) -> Vec<Held> {
        let mut held = Vec::new();
        for arrived in &mut self.waiting {
            if now.saturating_duration_since(arrived.at) < longer_than {
                break;
            }
            let is_held = |receiver: &&mut Receiver| !receiver.is_storing;
            let receivers: Holders = arrived
                .receivers
                .iter_mut()
                .filter(is_held)
                .map(|receiver| {
                    receiver.is_storing = true;
                    receiver.id
                })
                .collect();
            self.in_memory -= receivers.len();
            held.extend(Some(receivers).filter(|receivers| !receivers.is_empty()).and_then(|to| arrived.held(to)));
        }
        held
    }

    /// All that this plugin holds in memory only, in the order of arrival, those of earlier connections
    /// too. They count as being stored from now on.
    pub(super) fn spill(&mut self, id: SubscriberId) -> Vec<Held> {
        let mut spilled = Vec::new();
        for arrived in self.carried.iter_mut() {
            let stored = arrived.store(id);
            spilled.extend(Some(arrived).filter(|_| stored > 0).and_then(|it| it.held(Holders::from_iter([id]))));
        }
        spilled.sort_unstable_by_key(|held| held.token);
        if self.in_memory > 0 {
            for arrived in &mut self.waiting {
                let stored = arrived.store(id);
                self.in_memory -= stored;
                spilled.extend(
                    Some(arrived).filter(|_| stored > 0).and_then(|arrived| arrived.held(Holders::from_iter([id]))),
                );
            }
        }
        spilled
    }

    /// Since when the oldest arrival waits that is not on its way to disk.
    pub(super) fn oldest_held(&self) -> Option<Instant> {
        if self.in_memory == 0 {
            return None;
        }
        self.waiting.iter().find(|arrived| arrived.in_memory() > 0).map(|arrived| arrived.at)
    }

    /// The next arrival to acknowledge: in order of arrival (MQTT-4.6.0-2), so one that
    /// is not handled holds back those behind it.
    pub(super) fn next_acknowledgement(&mut self) -> Option<u16> {
        let arrived = self.waiting.pop_front_if(|arrived| arrived.receivers.is_empty())?;
        Some(arrived.packet_id)
    }

    /// Arrivals of this connection that are not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.waiting.len()
    }
}

impl Arrived {
    /// A plugin is done with it. Where it is not acknowledged right away, nobody needs all of it any more.
    fn settle(&mut self, id: SubscriberId, is_next: bool) -> Option<Receiver> {
        let at = self.receivers.iter().position(|receiver| receiver.id == id)?;
        let receiver = self.receivers.remove(at);
        if self.receivers.is_empty()
            && !is_next
            && let Content::Whole(message) = &self.content
        {
            self.content = Content::Digest(message.digest());
        }
        Some(receiver)
    }

    /// It is on its way to disk for this plugin; how many receivers had it in memory only.
    fn store(&mut self, id: SubscriberId) -> usize {
        let receivers = self.receivers.iter_mut().filter(|receiver| receiver.id == id && !receiver.is_storing);
        receivers.map(|receiver| receiver.is_storing = true).count()
    }

    fn in_memory(&self) -> usize {
        self.receivers.iter().filter(|receiver| !receiver.is_storing).count()
    }

    fn held(&self, receivers: Holders) -> Option<Held> {
        let Content::Whole(message) = &self.content else { return None };
        let Self { token, packet_id, duplicate, .. } = *self;
        Some(Held { token, packet_id, message: message.clone(), duplicate, receivers })
    }
}

impl Content {
    fn is(&self, message: &Message) -> bool {
        match self {
            Self::Whole(earlier) => earlier.topic == message.topic && earlier.payload == message.payload,
            Self::Digest(earlier) => *earlier == message.digest(),
            Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests;
