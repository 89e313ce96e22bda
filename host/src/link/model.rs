//! Session and outbox against a model of a broker: cuts, lost sessions, late, reordered
//! and repeated acknowledgements, in any order that proptest thinks of.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    departure::{self, Departure},
    session::{Overdue, Request, Session},
    suspects::Suspects,
};
use crate::{
    clock::Age,
    message::{Message, Qos},
    outbox::{Entry, Outbox, Room, Share},
    topic::TopicName,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const WINDOW: u16 = 5;

#[derive(Debug, Clone)]
enum Step {
    /// A plugin publishes.
    Publish(u32),
    /// The link sends so many packets, if there are that many to send.
    Send(usize),
    /// So many packets reach the broker.
    Reach(usize),
    /// The broker acknowledges one of those it has, and maybe keeps acknowledging it.
    Acknowledge { which: usize, again: bool },
    /// The connection is lost with all that is under way; the session may be, too.
    Cut { session_lost: bool },
    /// Time passes, so that answers are overdue.
    Wait,
}

struct Model {
    session: Session,
    outbox: Outbox,
    /// Nobody is suspected.
    suspects: Suspects,
    share: Arc<Share>,
    /// Numbers published by each of two plugins.
    published: [u32; 2],
    /// On its way to the broker: packet id, DUP, owner, number.
    under_way: VecDeque<(u16, bool, u32, u32)>,
    /// What the broker has and has not acknowledged on this connection.
    unacknowledged: Vec<u16>,
    /// First arrivals, by plugin.
    arrived: [Vec<u32>; 2],
    seen: [BTreeSet<u32>; 2],
    now: Instant,
}

impl Model {
    fn new() -> Self {
        let mut session = Session::new(TIMEOUT, 0);
        session.restart(WINDOW);
        let mut outbox = Outbox::new(false, 0);
        outbox.went_up();
        Self {
            session,
            outbox,
            suspects: Suspects::new(),
            share: Room::new(usize::MAX, Arc::default()).share(usize::MAX, 0, 0),
            published: [0; 2],
            under_way: VecDeque::new(),
            unacknowledged: Vec::new(),
            arrived: Default::default(),
            seen: Default::default(),
            now: Instant::now(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Publish(owner) => {
                let number = &mut self.published[*owner as usize];
                *number += 1;
                let message = Message {
                    topic: TopicName::parse("t").unwrap(),
                    payload: bytes::Bytes::new(),
                    qos: Qos::AtLeastOnce,
                    retain: false,
                    properties: None,
                };
                let reservation = self.share.reserve(message.cost()).unwrap();
                let (owner, number) = (*owner, *number);
                self.outbox.push(Entry { message, owner, number, age: Age::new(), tracked: false, reservation }, false);
            }
            Step::Send(count) => {
                for _ in 0..*count {
                    if !self.send() {
                        break;
                    }
                }
            }
            Step::Reach(count) => {
                for _ in 0..*count {
                    let Some((packet_id, _, owner, number)) = self.under_way.pop_front() else { break };
                    self.unacknowledged.push(packet_id);
                    let owner = owner as usize;
                    if self.seen[owner].insert(number) {
                        self.arrived[owner].push(number);
                    }
                }
            }
            Step::Acknowledge { which, again } => {
                if self.unacknowledged.is_empty() {
                    return;
                }
                let at = which % self.unacknowledged.len();
                let packet_id = if *again { self.unacknowledged[at] } else { self.unacknowledged.remove(at) };
                if let Some(Request::Publish(seq)) = self.session.end(packet_id) {
                    assert!(self.outbox.settle(seq).is_some());
                }
            }
            Step::Cut { session_lost } => {
                self.under_way.clear();
                self.unacknowledged.clear();
                self.outbox.went_down();
                if *session_lost {
                    self.session.restart(WINDOW);
                    self.outbox.rewind();
                } else {
                    self.session.resume(WINDOW);
                }
                self.outbox.went_up();
            }
            Step::Wait => {
                self.now += TIMEOUT;
                match self.session.overdue(self.now) {
                    Overdue::GiveUp { .. } => self.apply(&Step::Cut { session_lost: false }),
                    Overdue::Repeat(packet_ids) => {
                        for packet_id in packet_ids {
                            let Some(Request::Publish(seq)) = self.session.request(packet_id).cloned() else {
                                continue;
                            };
                            let entry = self.outbox.in_flight(seq).unwrap();
                            self.under_way.push_back((packet_id, true, entry.owner, entry.number));
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self) -> bool {
        let (packet_id, head) =
            match departure::next(&self.session, &mut self.outbox, &mut self.suspects, true, self.now) {
                None => return false,
                Some(Departure::Again(packet_id, seq)) => {
                    let entry = self.outbox.in_flight(seq).unwrap();
                    self.under_way.push_back((packet_id, true, entry.owner, entry.number));
                    self.session.sent_again(packet_id, self.now);
                    return true;
                }
                Some(Departure::New(head)) => (self.session.begin(Request::Publish(head.seq), self.now), head),
            };
        self.under_way.push_back((packet_id, false, head.entry.owner, head.entry.number));
        self.outbox.send();
        assert!(self.session.requests().count() <= usize::from(WINDOW));
        true
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u32).prop_map(Step::Publish),
        4 => (1..8usize).prop_map(Step::Send),
        3 => (1..8usize).prop_map(Step::Reach),
        4 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Step::Acknowledge { which, again }),
        1 => any::<bool>().prop_map(|session_lost| Step::Cut { session_lost }),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_message_arrives_and_each_plugins_first_arrivals_are_in_order(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut model = Model::new();
        steps.iter().for_each(|step| model.apply(step));
        // From here on all is well.
        for _ in 0..1000 {
            for step in [Step::Send(8), Step::Reach(100), Step::Acknowledge { which: 0, again: false }] {
                model.apply(&step);
            }
        }
        for owner in 0..2 {
            prop_assert_eq!(&model.arrived[owner], &(1..=model.published[owner]).collect::<Vec<_>>());
        }
        prop_assert!(model.outbox.is_empty() && !model.session.is_waiting());
        prop_assert_eq!(model.share.used(), (0, 0));
    }
}
