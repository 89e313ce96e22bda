//! One plugin's part of the outbox: a queue with its head in memory and, when it grows
//! long, its tail on disk only.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::{Entry, Seq};
use crate::{message::Qos, topic::TopicName};

/// The queue of one plugin.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The head of the backlog. Without pacing it takes all there is.
    backlog: VecDeque<(Seq, Entry)>,
    /// Overtakes the backlog: what came while a paced backlog drains and has nothing before
    /// it under its topic, and what can't be on disk while the tail is there.
    live: VecDeque<(Seq, Entry)>,
    /// The backlog goes on there.
    tail: Option<Tail>,
    /// Topics of the backlog; only where it is paced.
    topics: Option<Topics>,
    /// Cost of what is in memory.
    bytes: usize,
    /// Bytes that have to be given up, oldest first.
    debt: usize,
    live_next: bool,
}

/// The part of a backlog that is only on disk.
#[derive(Debug, Default)]
struct Tail {
    /// All up to here has been read.
    read_to: Seq,
    is_loading: bool,
    /// Something was put behind what is being loaded.
    grew: bool,
    /// Beyond `read_to` and in memory, sent or done with: not to be read again.
    ahead: BTreeSet<Seq>,
}

/// Which queue of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    Backlog,
    Live,
}

/// How a message is put into a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Put {
    /// There is a connection.
    pub online: bool,
    /// The backlog is paced.
    pub paced: bool,
    /// The message is on disk as well, or will be.
    pub durable: bool,
    /// Memory is short.
    pub spill: bool,
}

impl Lane {
    /// A lane of which an earlier run left everything on disk.
    pub(super) fn on_disk(paced: bool) -> Self {
        let topics = paced.then(Topics::unknown);
        Self { tail: Some(Tail::default()), topics, ..Self::default() }
    }

    /// Puts a message at the end.
    pub(super) fn put(&mut self, seq: Seq, entry: Entry, how: Put) {
        let is_first = self.backlog.is_empty() && self.tail.is_none();
        let overtakes = how.paced
            && how.online
            && (is_first || self.topics.as_ref().is_none_or(|topics| !topics.may_contain(&entry.message.topic)));
        if overtakes || (self.tail.is_some() && !how.durable) {
            if let Some(tail) = self.tail.as_mut().filter(|_| how.durable) {
                tail.ahead.insert(seq);
            }
            self.bytes += entry.cost();
            self.live.push_back((seq, entry));
            return;
        }
        if how.paced {
            self.topics.get_or_insert_default().add(&entry.message.topic);
        }
        if let Some(tail) = &mut self.tail {
            tail.grew = true;
            entry.reservation.keep();
        } else if how.spill && how.durable {
            self.tail = Some(Tail { read_to: seq - 1, ..Tail::default() });
            entry.reservation.keep();
        } else {
            self.bytes += entry.cost();
            self.backlog.push_back((seq, entry));
        }
    }

    /// The queue whose head is next, if the head is as wanted.
    pub(super) fn next(&self, backlog: bool, mut wanted: impl FnMut(&Entry, Seq) -> bool) -> Option<Queue> {
        let order = if self.live_next { [Queue::Live, Queue::Backlog] } else { [Queue::Backlog, Queue::Live] };
        order.into_iter().find(|queue| {
            let head = self.head(*queue);
            (backlog || *queue == Queue::Live) && head.is_some_and(|(seq, entry)| wanted(entry, *seq))
        })
    }

    pub(super) fn head(&self, queue: Queue) -> Option<&(Seq, Entry)> {
        match queue {
            Queue::Backlog => self.backlog.front(),
            Queue::Live => self.live.front(),
        }
    }

    /// Takes the head of a queue out.
    pub(super) fn take(&mut self, queue: Queue) -> Option<(Seq, Entry)> {
        self.live_next = queue == Queue::Backlog;
        let (seq, entry) = match queue {
            Queue::Backlog => self.backlog.pop_front()?,
            Queue::Live => self.live.pop_front()?,
        };
        self.bytes -= entry.cost();
        if queue == Queue::Backlog {
            self.left_backlog(&entry);
        }
        Some((seq, entry))
    }

    /// Puts back what was sent and has to be sent again: in front, where it came from.
    pub(super) fn put_back(&mut self, seq: Seq, entry: Entry, paced: bool) {
        if paced {
            self.topics.get_or_insert_default().add(&entry.message.topic);
        }
        if let Some(tail) = &mut self.tail
            && seq > tail.read_to
            && tail.ahead.remove(&seq)
        {
            tail.grew = true;
            entry.reservation.keep();
            return;
        }
        self.bytes += entry.cost();
        let at = self.backlog.partition_point(|(other, _)| *other < seq);
        self.backlog.insert(at, (seq, entry));
    }

    /// The connection is gone: what overtook the backlog joins it.
    pub(super) fn went_down(&mut self, paced: bool) {
        for (seq, entry) in std::mem::take(&mut self.live) {
            self.bytes -= entry.cost();
            self.put_back(seq, entry, paced);
        }
    }

    /// Takes out the messages of QoS 0 in memory.
    pub(super) fn take_qos0(&mut self, out: &mut Vec<Entry>) {
        for queue in [&mut self.backlog, &mut self.live] {
            if queue.iter().all(|(_, entry)| entry.message.qos == Qos::AtLeastOnce) {
                continue;
            }
            for (seq, entry) in std::mem::take(queue) {
                if entry.message.qos == Qos::AtLeastOnce {
                    queue.push_back((seq, entry));
                } else {
                    self.bytes -= entry.cost();
                    out.push(entry);
                }
            }
        }
    }

    /// So many bytes have to go, oldest first.
    pub(super) fn owe(&mut self, bytes: usize) {
        self.debt = self.debt.max(bytes);
    }

    /// The oldest message, as long as something is owed.
    pub(super) fn pay(&mut self) -> Option<(Seq, Entry)> {
        if self.debt == 0 {
            return None;
        }
        let queue = if self.backlog.is_empty() && self.tail.is_none() { Queue::Live } else { Queue::Backlog };
        let paid = self.take(queue);
        match &paid {
            Some((_, entry)) => self.debt = self.debt.saturating_sub(entry.cost()),
            // What is on the wire can't be taken back.
            None if self.tail.is_none() => self.debt = 0,
            None => {}
        }
        paid
    }

    /// The oldest message, if it waited longer than that.
    pub(super) fn take_older(&mut self, than: Duration) -> Option<(Seq, Entry)> {
        let queue = [Queue::Backlog, Queue::Live]
            .into_iter()
            .find(|queue| self.head(*queue).is_some_and(|(_, entry)| entry.age.elapsed() > than))?;
        self.take(queue)
    }

    /// From where on the disk should be read, if it is time to.
    pub(super) fn load(&mut self, low: usize) -> Option<Seq> {
        if !self.is_hungry(low) {
            return None;
        }
        let tail = self.tail.as_mut()?;
        tail.is_loading = true;
        tail.grew = false;
        Some(tail.read_to)
    }

    /// What was read. `more`: there is more behind it.
    pub(super) fn loaded(&mut self, page: impl IntoIterator<Item = (Seq, Entry)>, more: bool) {
        let Some(tail) = &mut self.tail else { return };
        tail.is_loading = false;
        for (seq, entry) in page {
            tail.read_to = seq;
            if tail.ahead.remove(&seq) {
                // Its other self is in memory, or done with.
                entry.reservation.keep();
            } else {
                self.bytes += entry.cost();
                self.backlog.push_back((seq, entry));
            }
        }
        if !more && !tail.grew {
            self.tail = None;
            if self.backlog.is_empty() {
                self.topics = None;
            }
        }
    }

    /// Something is in memory.
    pub(super) fn has_some(&self) -> bool {
        !self.backlog.is_empty() || !self.live.is_empty()
    }

    /// The backlog goes on on disk.
    pub(super) fn has_tail(&self) -> bool {
        self.tail.is_some()
    }

    /// [`Lane::load`] has something to say.
    pub(super) fn is_hungry(&self, low: usize) -> bool {
        self.bytes < low && self.tail.as_ref().is_some_and(|tail| !tail.is_loading)
    }

    /// Messages in memory.
    pub(super) fn len(&self) -> usize {
        self.backlog.len() + self.live.len()
    }

    /// Cost of what is in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn left_backlog(&mut self, entry: &Entry) {
        if self.backlog.is_empty() && self.tail.is_none() {
            self.topics = None;
        } else if let Some(topics) = &mut self.topics {
            topics.remove(&entry.message.topic);
        }
    }
}

/// Which topics a backlog may have: counts under a hash of the topic, so that memory is
/// bounded however many there are. Topics that share a count wait for each other, no more.
#[derive(Debug)]
struct Topics {
    counts: Box<[u32]>,
    /// Of what an earlier run left nobody has read the topics yet.
    is_unknown: bool,
    hasher: RandomState,
}

impl Default for Topics {
    fn default() -> Self {
        const SLOTS: usize = 1024;
        Self { counts: vec![0; SLOTS].into(), is_unknown: false, hasher: RandomState::new() }
    }
}

impl Topics {
    fn unknown() -> Self {
        Self { is_unknown: true, ..Self::default() }
    }

    fn may_contain(&self, topic: &TopicName) -> bool {
        self.is_unknown || self.counts.get(self.slot(topic)).is_some_and(|count| *count > 0)
    }

    fn add(&mut self, topic: &TopicName) {
        let slot = self.slot(topic);
        if let Some(count) = self.counts.get_mut(slot) {
            *count = count.saturating_add(1);
        }
    }

    fn remove(&mut self, topic: &TopicName) {
        let slot = self.slot(topic);
        if let Some(count) = self.counts.get_mut(slot) {
            *count = count.saturating_sub(1);
        }
    }

    fn slot(&self, topic: &TopicName) -> usize {
        // Cut off on 32 bits, where the lower half is as good.
        self.hasher.hash_one(topic) as usize % self.counts.len()
    }
}
