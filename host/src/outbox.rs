//! What has been taken and is not yet acknowledged by the broker.
//!
//! Two halves. [`Room`] and [`Share`] are counters: whoever wants to put a message in
//! reserves room first, on its own thread, without asking the link. [`Outbox`] is the
//! queue itself; the link task owns it. It has a lane for each plugin, and lanes send in
//! turn, so that one that floods does not hold up the others. A message keeps its number
//! from the moment it is taken until its PUBACK, and messages of one plugin keep its order.
//!
//! Memory is bounded: where messages are on disk as well, a lane that grows long keeps
//! only its head here and asks for more as it empties.

mod in_flight;
mod lane;
mod room;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;

pub use self::room::{Full, Reservation, Room, Share};
use self::{
    in_flight::InFlight,
    lane::{Lane, Put, Queue},
};
use crate::{clock::Age, message::Message, router::SubscriberId, topic::TopicName};

/// The number of a message in the order of all messages ever taken.
pub type Seq = u64;

/// A message that was taken.
#[derive(Debug)]
pub struct Entry {
    /// What is to be sent.
    pub message: Message,
    /// Who published it.
    pub owner: SubscriberId,
    /// The number `publish` gave it.
    pub number: u32,
    /// For how long it has been waiting.
    pub age: Age,
    /// The owner wants to know when the broker has it.
    pub tracked: bool,
    /// Its room.
    pub reservation: Reservation,
}

/// The queues of all plugins.
#[derive(Debug)]
pub struct Outbox {
    lanes: FxHashMap<SubscriberId, Lane>,
    /// Lanes that have something in memory, the next to send first.
    turns: VecDeque<SubscriberId>,
    /// Sent and not acknowledged: never more than the session's window.
    in_flight: InFlight,
    /// What `peek` showed last.
    shown: Option<(SubscriberId, Queue)>,
    /// Lanes that should read from the disk.
    hungry: Vec<SubscriberId>,
    /// Lanes that go on there.
    tails: usize,
    last: Seq,
    /// Cost of what waits in memory.
    bytes: usize,
    is_paced: bool,
    is_online: bool,
}

/// The next message to send.
#[derive(Debug)]
pub struct Head<'a> {
    /// Its number.
    pub seq: Seq,
    /// The message.
    pub entry: &'a Entry,
    /// It is paced.
    pub is_backlog: bool,
}

/// Cost of messages that wait in memory before lanes leave their tails on disk.
const IN_MEMORY: usize = 8 * 1024 * 1024;

/// What each lane may have in memory all the same.
const FOR_EACH: usize = 64 * 1024;

/// A lane with less than this in memory reads from the disk.
const LOW: usize = 32 * 1024;

/// How much is read at once, in bytes.
pub const PAGE: usize = 256 * 1024;

impl Entry {
    fn expiry(&self) -> Option<Duration> {
        let seconds = self.message.properties.as_ref()?.message_expiry?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Its message expiry has passed while it waited.
    pub fn is_expired(&self) -> bool {
        self.expiry().is_some_and(|expiry| self.age.elapsed() >= expiry)
    }

    /// The message with the expiry that is left of it (MQTT 5.0, section 3.3.2.3.3 asks
    /// that of brokers; whoever holds a message back does well to do the same).
    pub fn aged(&self) -> Option<Message> {
        let left = self.expiry()?.saturating_sub(self.age.elapsed());
        let mut message = self.message.clone();
        let properties = Arc::make_mut(message.properties.as_mut()?);
        properties.message_expiry = Some(u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1));
        Some(message)
    }

    fn cost(&self) -> usize {
        self.message.cost()
    }
}

impl Outbox {
    /// `is_paced`: backlogs leave slowly, and what is new may overtake them. `last`: the
    /// highest number ever given.
    pub fn new(is_paced: bool, last: Seq) -> Self {
        Self {
            lanes: FxHashMap::default(),
            turns: VecDeque::new(),
            in_flight: InFlight::default(),
            shown: None,
            hungry: Vec::new(),
            tails: 0,
            last,
            bytes: 0,
            is_paced,
            is_online: false,
        }
    }

    /// An earlier run left messages of this plugin on disk.
    pub fn restore(&mut self, owner: SubscriberId) {
        let is_paced = self.is_paced;
        self.with(owner, |lane| *lane = Lane::on_disk(is_paced));
    }

    /// Puts a message behind all others of its owner. `durable`: it goes to the disk as well.
    pub fn push(&mut self, entry: Entry, durable: bool) -> Seq {
        self.last += 1;
        let (seq, owner) = (self.last, entry.owner);
        let spill = self.bytes > IN_MEMORY;
        let put = |lane: &mut Lane, is_paced, online| {
            let spill = spill && lane.bytes() > FOR_EACH;
            lane.put(seq, entry, Put { online, paced: is_paced, durable, spill });
        };
        let (is_paced, online) = (self.is_paced, self.is_online);
        self.with(owner, |lane| put(lane, is_paced, online));
        seq
    }

    /// The next message to send, lanes in turn. `backlog`: the pace lets one of those leave.
    /// `wanted` says which messages may leave; one that may not holds back what its owner
    /// put behind it.
    pub fn peek(&mut self, backlog: bool, mut wanted: impl FnMut(&Entry, Seq) -> bool) -> Option<Head<'_>> {
        let backlog = backlog || !self.is_paced;
        self.shown = None;
        for _ in 0..self.turns.len() {
            let owner = *self.turns.front()?;
            if let Some(queue) = self.lanes.get(&owner).and_then(|lane| lane.next(backlog, &mut wanted)) {
                self.shown = Some((owner, queue));
                break;
            }
            self.turns.rotate_left(1);
        }
        let (owner, queue) = self.shown?;
        let (seq, entry) = self.lanes.get(&owner)?.head(queue)?;
        Some(Head { seq: *seq, entry, is_backlog: self.is_paced && queue == Queue::Backlog })
    }

    /// The message `peek` showed is in flight; it stays here until it is settled.
    pub fn send(&mut self) {
        if let Some((seq, entry)) = self.pop() {
            self.in_flight.insert(seq, entry);
        }
    }

    /// Takes out the message `peek` showed: it is done with.
    pub fn pop(&mut self) -> Option<(Seq, Entry)> {
        let (owner, queue) = self.shown.take()?;
        // Its turn is over.
        self.turns.rotate_left(1);
        self.with(owner, |lane| lane.take(queue))
    }

    /// The broker has acknowledged the message, or it is given up.
    pub fn settle(&mut self, seq: Seq) -> Option<Entry> {
        self.in_flight.remove(seq)
    }

    /// A message in flight.
    pub fn in_flight(&self, seq: Seq) -> Option<&Entry> {
        self.in_flight.get(seq)
    }

    /// The owner's messages in flight on a topic.
    pub fn in_flight_on(&self, owner: SubscriberId, topic: &TopicName) -> Vec<Seq> {
        let is_on = |entry: &Entry| entry.owner == owner && entry.message.topic == *topic;
        self.in_flight.iter().filter(|(_, entry)| is_on(entry)).map(|(seq, _)| seq).collect()
    }

    /// A message in flight has to be sent again, as if it had not been.
    pub fn put_back(&mut self, seq: Seq) {
        let Some(entry) = self.in_flight.remove(seq) else { return };
        let is_paced = self.is_paced;
        self.with(entry.owner, |lane| lane.put_back(seq, entry, is_paced));
    }

    /// The session is lost: what was in flight waits again, in its old order.
    pub fn rewind(&mut self) {
        while let Some(seq) = self.in_flight.last() {
            self.put_back(seq);
        }
    }

    /// A connection stands: what waits now is its backlog.
    pub fn went_up(&mut self) {
        self.is_online = true;
    }

    /// The connection is gone.
    pub fn went_down(&mut self) {
        self.is_online = false;
        let is_paced = self.is_paced;
        for owner in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.with(owner, |lane| lane.went_down(is_paced));
        }
    }

    /// Takes out the messages of QoS 0 that wait: they were for a connection that is gone.
    pub fn take_qos0(&mut self) -> Vec<Entry> {
        let mut taken = Vec::new();
        for owner in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.with(owner, |lane| lane.take_qos0(&mut taken));
        }
        taken
    }

    /// The owner's oldest messages have to make room for this many bytes; [`Outbox::pay`]
    /// gives them.
    pub fn owe(&mut self, owner: SubscriberId, bytes: usize) {
        self.with(owner, |lane| lane.owe(bytes));
    }

    /// The owner's oldest message, as long as room is owed.
    pub fn pay(&mut self, owner: SubscriberId) -> Option<(Seq, Entry)> {
        self.with(owner, Lane::pay)
    }

    /// A message that has waited longer than that, if there is one at the head of a lane.
    pub fn take_older(&mut self, than: Duration) -> Option<(Seq, Entry)> {
        let owners: Vec<_> = self.turns.iter().copied().collect();
        owners.into_iter().find_map(|owner| self.with(owner, |lane| lane.take_older(than)))
    }

    /// The next lane that should be read from the disk, and from where on.
    pub fn load(&mut self) -> Option<(SubscriberId, Seq)> {
        while let Some(owner) = self.hungry.pop() {
            if let Some(after) = self.lanes.get_mut(&owner).and_then(|lane| lane.load(LOW)) {
                return Some((owner, after));
            }
        }
        None
    }

    /// What was read. `more`: there is more behind it.
    pub fn loaded(&mut self, owner: SubscriberId, page: impl IntoIterator<Item = (Seq, Entry)>, more: bool) {
        self.with(owner, |lane| lane.loaded(page, more));
    }

    /// Messages waiting in memory, or in flight.
    pub fn len(&self) -> usize {
        self.lanes.values().map(Lane::len).sum::<usize>() + self.in_flight.len()
    }

    /// Nothing is waiting or in flight.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.turns.is_empty() && self.tails == 0
    }

    /// Changes a lane and keeps the books: its bytes, its turn, its hunger.
    fn with<R>(&mut self, owner: SubscriberId, change: impl FnOnce(&mut Lane) -> R) -> R {
        let lane = self.lanes.entry(owner).or_default();
        let (had_some, had_tail, bytes) = (lane.has_some(), lane.has_tail(), lane.bytes());
        let result = change(lane);
        self.bytes = self.bytes + lane.bytes() - bytes;
        self.tails = self.tails + usize::from(lane.has_tail()) - usize::from(had_tail);
        if lane.has_tail() && lane.is_hungry(LOW) && !self.hungry.contains(&owner) {
            self.hungry.push(owner);
        }
        match (had_some, lane.has_some()) {
            (false, true) => self.turns.push_back(owner),
            (true, false) => self.turns.retain(|other| *other != owner),
            _ => {}
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::message::Qos;

    fn entry(share: &Arc<Share>, owner: SubscriberId, number: u32, topic: &str, qos: Qos) -> Entry {
        let message = Message {
            topic: TopicName::parse(topic.to_owned()).unwrap(),
            payload: bytes::Bytes::new(),
            qos,
            retain: false,
            properties: None,
        };
        let reservation = share.reserve(message.cost()).unwrap();
        Entry { message, owner, number, age: Age::new(), tracked: false, reservation }
    }

    fn share() -> Arc<Share> {
        Room::new(usize::MAX, Arc::default()).share(usize::MAX, 0, 0)
    }

    fn filled(qos: Qos) -> (Arc<Share>, Outbox) {
        let share = share();
        let mut outbox = Outbox::new(false, 0);
        for number in 1..=3 {
            outbox.push(entry(&share, 1, number, "t", qos), false);
        }
        (share, outbox)
    }

    /// Sends all that may leave; the numbers in their order.
    fn send(outbox: &mut Outbox, backlog: bool) -> Vec<u32> {
        let mut sent = Vec::new();
        while let Some(head) = outbox.peek(backlog, |_, _| true) {
            sent.push(head.entry.number);
            outbox.send();
        }
        sent
    }

    #[test]
    fn acknowledgements_come_in_any_order_and_twice() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        assert_eq!(send(&mut outbox, true), [1, 2, 3]);
        assert_eq!(outbox.settle(2).unwrap().number, 2);
        assert!(outbox.settle(2).is_none());
        assert_eq!(outbox.settle(1).unwrap().number, 1);
        assert_eq!(outbox.settle(3).unwrap().number, 3);
        assert!(outbox.is_empty() && outbox.settle(9).is_none());
        assert_eq!(share.used(), (0, 0));
    }

    #[test]
    fn after_a_lost_session_unacknowledged_messages_wait_again_in_order() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        send(&mut outbox, true);
        outbox.push(entry(&share, 1, 4, "t", Qos::AtLeastOnce), false);
        outbox.settle(2);
        outbox.rewind();
        assert_eq!(send(&mut outbox, true), [1, 3, 4]);
    }

    #[test]
    fn lanes_send_in_turn_and_each_in_its_order() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        outbox.push(entry(&share, 2, 11, "t", Qos::AtLeastOnce), false);
        outbox.push(entry(&share, 2, 12, "t", Qos::AtLeastOnce), false);
        assert_eq!(send(&mut outbox, true), [1, 11, 2, 12, 3]);
    }

    #[test]
    fn a_message_that_may_not_leave_holds_back_its_own_lane_only() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        outbox.push(entry(&share, 2, 11, "t", Qos::AtLeastOnce), false);
        let head = outbox.peek(true, |entry, _| entry.owner == 2).unwrap();
        assert_eq!(head.entry.number, 11);
        outbox.send();
        assert!(outbox.peek(true, |entry, _| entry.owner == 2).is_none());
    }

    #[test]
    fn messages_of_qos_0_can_be_told_apart_and_given_up() {
        let (share, mut outbox) = filled(Qos::AtMostOnce);
        outbox.push(entry(&share, 1, 4, "t", Qos::AtLeastOnce), false);
        assert_eq!(outbox.take_qos0().len(), 3);
        assert_eq!(share.used().0, 1);
        assert_eq!(send(&mut outbox, true), [4]);
    }

    #[test]
    fn what_is_new_overtakes_a_paced_backlog_unless_its_topic_is_in_it() {
        let share = share();
        let mut outbox = Outbox::new(true, 0);
        for (number, topic) in [(1, "old"), (2, "old"), (3, "older")] {
            outbox.push(entry(&share, 1, number, topic, Qos::AtLeastOnce), false);
        }
        outbox.went_up();
        for (number, topic) in [(4, "new"), (5, "old"), (6, "new"), (7, "older")] {
            outbox.push(entry(&share, 1, number, topic, Qos::AtLeastOnce), false);
        }
        assert_eq!(send(&mut outbox, false), [4, 6]);
        let head = outbox.peek(true, |_, _| true).unwrap();
        assert!(head.is_backlog);
        assert_eq!(send(&mut outbox, true), [1, 2, 3, 5, 7]);
        outbox.push(entry(&share, 1, 8, "old", Qos::AtLeastOnce), false);
        assert_eq!(send(&mut outbox, false), [8], "the backlog is gone");
    }

    #[test]
    fn what_overtook_goes_back_into_its_place_when_the_connection_is_lost() {
        let share = share();
        let mut outbox = Outbox::new(true, 0);
        outbox.push(entry(&share, 1, 1, "a", Qos::AtLeastOnce), false);
        outbox.went_up();
        outbox.push(entry(&share, 1, 2, "b", Qos::AtLeastOnce), false);
        outbox.push(entry(&share, 1, 3, "a", Qos::AtLeastOnce), false);
        outbox.went_down();
        outbox.went_up();
        assert_eq!(send(&mut outbox, false), [0; 0]);
        assert_eq!(send(&mut outbox, true), [1, 2, 3]);
    }

    #[test]
    fn the_oldest_make_room() {
        let (share, mut outbox) = filled(Qos::AtLeastOnce);
        assert!(outbox.pay(1).is_none() && outbox.pay(7).is_none());
        let cost = share.used().1 / 3;
        outbox.owe(1, cost + 1);
        let paid: Vec<_> = std::iter::from_fn(|| outbox.pay(1)).map(|(seq, entry)| (seq, entry.number)).collect();
        assert_eq!(paid, [(1, 1), (2, 2)]);
        assert_eq!(share.used(), (1, cost));
        outbox.owe(1, 10 * cost);
        assert_eq!(std::iter::from_fn(|| outbox.pay(1)).count(), 1);
        outbox.push(entry(&share, 1, 9, "t", Qos::AtLeastOnce), false);
        assert!(outbox.pay(1).is_none(), "what could not be paid is not owed for ever");
    }

    #[test]
    fn messages_are_dropped_by_age_from_the_head() {
        let (_share, mut outbox) = filled(Qos::AtLeastOnce);
        assert!(outbox.take_older(Duration::from_secs(60)).is_none());
        assert_eq!(outbox.take_older(Duration::ZERO).unwrap().0, 1);
    }

    /// Stands for the disk: entries by their numbers.
    struct Disk(BTreeMap<Seq, (u32, String)>);

    impl Disk {
        fn push(&mut self, outbox: &mut Outbox, share: &Arc<Share>, number: u32, topic: &str) {
            let seq = outbox.push(entry(share, 1, number, topic, Qos::AtLeastOnce), true);
            self.0.insert(seq, (number, topic.to_owned()));
        }

        /// Reads `count` at a time, until nobody is hungry.
        fn feed(&self, outbox: &mut Outbox, share: &Arc<Share>, count: usize) {
            while let Some((owner, after)) = outbox.load() {
                let rest: Vec<_> = self.0.range(after + 1..).collect();
                let page = rest.iter().take(count).map(|(seq, (number, topic))| {
                    let mut entry = entry(share, owner, *number, topic, Qos::AtLeastOnce);
                    // It is counted already.
                    let counted = std::mem::replace(&mut entry.reservation, share.adopt(entry.message.cost()));
                    drop(counted);
                    (**seq, entry)
                });
                let page: Vec<_> = page.collect();
                outbox.loaded(owner, page, rest.len() > count);
            }
        }

        fn send_all(&mut self, outbox: &mut Outbox, share: &Arc<Share>) -> Vec<u32> {
            let mut sent = Vec::new();
            loop {
                self.feed(outbox, share, 7);
                let Some(head) = outbox.peek(true, |_, _| true) else { return sent };
                let (seq, number) = (head.seq, head.entry.number);
                outbox.send();
                outbox.settle(seq);
                self.0.remove(&seq);
                sent.push(number);
            }
        }
    }

    const TEXT: &str = "a topic that is long enough to fill the memory of this test before long";

    #[test]
    fn a_long_lane_keeps_its_tail_on_disk_and_its_order() {
        let share = share();
        let (mut outbox, mut disk) = (Outbox::new(false, 0), Disk(BTreeMap::new()));
        let count = (IN_MEMORY / (TEXT.len() + 128)) as u32 + 2000;
        for number in 0..count {
            disk.push(&mut outbox, &share, number, TEXT);
        }
        assert!(outbox.bytes <= IN_MEMORY + 1024 && outbox.len() < count as usize);
        assert_eq!(share.used().0, count, "what is on disk counts");
        outbox.went_up();
        assert_eq!(disk.send_all(&mut outbox, &share), (0..count).collect::<Vec<_>>());
        assert!(outbox.is_empty());
        assert_eq!(share.used(), (0, 0));
        disk.push(&mut outbox, &share, count, TEXT);
        assert_eq!(send(&mut outbox, true), [count]);
    }

    #[test]
    fn what_an_earlier_run_left_is_read_and_what_is_new_comes_behind_it() {
        let share = share();
        let mut disk = Disk((1..=100).map(|seq| (seq, (seq as u32, "t".to_owned()))).collect());
        let mut outbox = Outbox::new(false, 100);
        outbox.restore(1);
        let used = entry(&share, 1, 0, "t", Qos::AtLeastOnce).message.cost();
        (0..100).for_each(|_| share.reserve(used).unwrap().keep());
        assert!(!outbox.is_empty());
        disk.push(&mut outbox, &share, 101, "t");
        assert_eq!(disk.send_all(&mut outbox, &share), (1..=101).collect::<Vec<_>>());
        assert!(outbox.is_empty());
        assert_eq!(share.used(), (0, 0));
    }

    #[test]
    fn a_paced_tail_is_overtaken_and_nothing_is_lost_or_sent_twice() {
        let share = share();
        let mut disk = Disk(BTreeMap::new());
        let mut outbox = Outbox::new(true, 0);
        let count = (IN_MEMORY / (TEXT.len() + 128)) as u32 + 2000;
        for number in 0..count {
            disk.push(&mut outbox, &share, number, TEXT);
        }
        outbox.went_up();
        disk.push(&mut outbox, &share, count, "new");
        disk.push(&mut outbox, &share, count + 1, "new");
        assert_eq!(outbox.peek(false, |_, _| true).unwrap().entry.number, count);
        outbox.send();
        outbox.went_down();
        outbox.rewind();
        outbox.went_up();
        let sent = disk.send_all(&mut outbox, &share);
        assert_eq!(sent, (0..count + 2).collect::<Vec<_>>());
        assert_eq!(share.used(), (0, 0));
    }
}
