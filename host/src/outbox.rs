//! What has been taken and is not yet acknowledged by the broker.
//!
//! Two halves. [`Room`] and [`Share`] are counters: whoever wants to put a message in
//! reserves room first, on its own thread, without asking the link. [`Outbox`] is the
//! queue itself; the link task owns it. A message keeps its place from the moment it is
//! taken until its PUBACK. Memory is bounded by the room and by the session's window.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    message::{Message, Qos},
    router::SubscriberId,
};

/// Bytes that may wait, all plugins together.
#[derive(Debug)]
pub struct Room {
    used: AtomicUsize,
    limit: usize,
}

/// One plugin's part of the room.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    used: AtomicUsize,
    messages: AtomicU32,
    limit: usize,
}

/// Room taken by one message; dropping it gives the room back.
#[derive(Debug)]
pub struct Reservation {
    share: Arc<Share>,
    bytes: usize,
}

/// There is no room for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A message that was taken.
#[derive(Debug)]
pub struct Entry {
    /// What is to be sent.
    pub message: Message,
    /// Who published it.
    pub owner: SubscriberId,
    /// The number `publish` gave it.
    pub number: u32,
    /// When it was taken.
    pub taken: Instant,
    /// The owner wants to know when the broker has it.
    pub tracked: bool,
    /// Its room.
    pub reservation: Reservation,
}

/// The queue, in the order in which messages were taken.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Not sent, or not sent on a session the broker still knows.
    waiting: VecDeque<(Place, Entry)>,
    /// Sent and not acknowledged: never more than the session's window.
    in_flight: BTreeMap<Place, Entry>,
    /// The place of the next message to come.
    end: Place,
    /// What waits below this place is the backlog of the time without a connection.
    backlog_end: Place,
}

/// The place of a message in the order of all messages ever taken.
pub type Place = u64;

impl Room {
    /// `limit` in bytes; `usize::MAX` is unlimited.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// A part of the room, at most `limit` bytes.
    pub fn share(self: &Arc<Self>, limit: usize) -> Arc<Share> {
        Arc::new(Share { room: self.clone(), used: AtomicUsize::new(0), messages: AtomicU32::new(0), limit })
    }
}

impl Share {
    /// Takes room for a message of this cost.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, Full> {
        take(&self.used, bytes, self.limit)?;
        if let Err(full) = take(&self.room.used, bytes, self.room.limit) {
            self.used.fetch_sub(bytes, Relaxed);
            return Err(full);
        }
        self.messages.fetch_add(1, Relaxed);
        Ok(Reservation { share: self.clone(), bytes })
    }

    /// Messages and bytes in use.
    pub fn used(&self) -> (u32, usize) {
        (self.messages.load(Relaxed), self.used.load(Relaxed))
    }
}

fn take(used: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), Full> {
    let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(Relaxed, Relaxed, within).map(drop).map_err(|_| Full)
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.share.used.fetch_sub(self.bytes, Relaxed);
        self.share.room.used.fetch_sub(self.bytes, Relaxed);
        self.share.messages.fetch_sub(1, Relaxed);
    }
}

impl Entry {
    fn expiry(&self) -> Option<Duration> {
        let seconds = self.message.properties.as_ref()?.message_expiry?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Its message expiry has passed while it waited.
    pub fn is_expired(&self) -> bool {
        self.expiry().is_some_and(|expiry| self.taken.elapsed() >= expiry)
    }

    /// The message with the expiry that is left of it (MQTT 5.0, section 3.3.2.3.3 asks
    /// that of brokers; whoever holds a message back does well to do the same).
    pub fn aged(&self) -> Option<Message> {
        let left = self.expiry()?.saturating_sub(self.taken.elapsed());
        let mut message = self.message.clone();
        message.properties.as_mut()?.message_expiry = Some(u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1));
        Some(message)
    }
}

impl Outbox {
    /// Puts a message behind all others.
    pub fn push(&mut self, entry: Entry) {
        self.waiting.push_back((self.end, entry));
        self.end += 1;
    }

    /// The next message to send, and whether it belongs to the backlog.
    pub fn peek(&self) -> Option<(Place, &Entry, bool)> {
        self.waiting.front().map(|(place, entry)| (*place, entry, *place < self.backlog_end))
    }

    /// The message `peek` showed is in flight; it stays here until it is settled.
    pub fn send(&mut self) {
        if let Some((place, entry)) = self.waiting.pop_front() {
            self.in_flight.insert(place, entry);
        }
    }

    /// Takes out the message `peek` showed: it is done with.
    pub fn pop(&mut self) -> Option<Entry> {
        self.waiting.pop_front().map(|(_, entry)| entry)
    }

    /// The broker has acknowledged the message, or it is given up.
    pub fn settle(&mut self, place: Place) -> Option<Entry> {
        self.in_flight.remove(&place)
    }

    /// A message in flight.
    pub fn in_flight(&self, place: Place) -> Option<&Entry> {
        self.in_flight.get(&place)
    }

    /// The session is lost: what was in flight waits again, in its old order.
    pub fn rewind(&mut self) {
        while let Some(last) = self.in_flight.pop_last() {
            self.waiting.push_front(last);
        }
    }

    /// A connection stands: what waits now is its backlog.
    pub fn mark_backlog(&mut self) {
        self.backlog_end = self.end;
    }

    /// Takes out the messages of QoS 0 that wait: they were for a connection that is gone.
    pub fn take_qos0(&mut self) -> Vec<Entry> {
        let (qos0, kept) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(_, entry)| entry.message.qos == Qos::AtMostOnce);
        self.waiting = kept;
        qos0.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Messages waiting or in flight.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Nothing is waiting or in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn entry(share: &Arc<Share>, number: u32, qos: Qos) -> Entry {
        let message = Message {
            topic: TopicName::parse("t").unwrap(),
            payload: bytes::Bytes::new(),
            qos,
            retain: false,
            properties: None,
        };
        let reservation = share.reserve(message.cost()).unwrap();
        Entry { message, owner: 1, number, taken: Instant::now(), tracked: false, reservation }
    }

    fn filled(qos: Qos) -> (Arc<Share>, Outbox) {
        let share = Room::new(10_000).share(10_000);
        let mut outbox = Outbox::default();
        for number in 1..=3 {
            outbox.push(entry(&share, number, qos));
        }
        (share, outbox)
    }

    fn waiting(outbox: &Outbox) -> Vec<u32> {
        outbox.waiting.iter().map(|(_, entry)| entry.number).collect()
    }

    #[test]
    fn room_is_bounded_in_all_and_for_each_and_comes_back() {
        let room = Room::new(100);
        let (one, two) = (room.share(60), room.share(usize::MAX));
        let first = one.reserve(60).unwrap();
        assert_eq!(one.reserve(1).unwrap_err(), Full);
        assert_eq!(two.reserve(41).unwrap_err(), Full);
        let second = two.reserve(40).unwrap();
        assert_eq!((one.used(), two.used()), ((1, 60), (1, 40)));
        drop((first, second));
        assert_eq!((one.used(), two.used()), ((0, 0), (0, 0)));
        assert!(two.reserve(100).is_ok());
    }

    #[test]
    fn acknowledgements_come_in_any_order_and_twice() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        for _ in 0..3 {
            outbox.send();
        }
        assert_eq!(outbox.settle(1).unwrap().number, 2);
        assert!(outbox.settle(1).is_none());
        assert_eq!(outbox.settle(0).unwrap().number, 1);
        assert_eq!(outbox.settle(2).unwrap().number, 3);
        assert!(outbox.is_empty() && outbox.settle(9).is_none());
        assert_eq!(share.used(), (0, 0));
    }

    #[test]
    fn after_a_lost_session_unacknowledged_messages_wait_again_in_order() {
        let (_share, mut outbox) = filled(Qos::AtLeastOnce);
        outbox.send();
        outbox.send();
        outbox.rewind();
        assert_eq!(waiting(&outbox), [1, 2, 3]);
        outbox.send();
        outbox.settle(0);
        outbox.send();
        outbox.rewind();
        assert_eq!(waiting(&outbox), [2, 3]);
    }

    #[test]
    fn messages_of_qos_0_can_be_told_apart_and_given_up() {
        let (share, mut outbox) = filled(Qos::AtMostOnce);
        outbox.push(entry(&share, 4, Qos::AtLeastOnce));
        assert_eq!(outbox.take_qos0().len(), 3);
        assert_eq!((share.used().0, waiting(&outbox)), (1, vec![4]));
    }

    #[test]
    fn the_backlog_is_what_waited_when_the_connection_came() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        outbox.mark_backlog();
        outbox.push(entry(&share, 4, Qos::AtLeastOnce));
        for backlog in [true, true, true, false] {
            assert_eq!(outbox.peek().unwrap().2, backlog);
            outbox.pop();
        }
    }
}
