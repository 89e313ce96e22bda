//! MQTT's session state: packet ids, what is in flight, which answers are overdue. What arrives
//! is `arrivals`.
//!
//! Pure: the link task tells it what happened and does what it says. It outlives
//! connections, as the session at the broker does.

use std::{
    collections::{VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::arrivals::{Arrivals, Token};
use crate::{outbox::Seq, router::Subscription, topic::TopicFilter};

/// What waits for the broker's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A QoS 1 message of the outbox.
    Publish(Seq),
    /// A SUBSCRIBE.
    Subscribe(Vec<Subscription>),
    /// An UNSUBSCRIBE.
    Unsubscribe(Vec<TopicFilter>),
}

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    /// What is in flight, by packet id.
    requests: FxHashMap<u16, InFlight>,
    last_packet_id: u16,
    /// How long an answer may take.
    operation_timeout: Duration,
    /// When to look for requests that are overdue. None: nothing waits for an answer.
    look_at: Option<Instant>,
    /// Requests the broker has answered.
    answers: u64,
    /// Messages in flight that this connection has to send again, in order.
    again: VecDeque<(u16, Seq)>,
    /// QoS 1 messages sent on this connection and not answered, and how many may be.
    publishes: u16,
    window: u16,
    /// The half that receives.
    pub(super) arrivals: Arrivals,
}

#[derive(Debug)]
struct InFlight {
    request: Request,
    /// On this connection.
    sent: Option<Instant>,
    /// How often the answer was overdue on this connection.
    overdue: u32,
    /// Answers there had been when it was first sent on it.
    before: u64,
}

/// What is overdue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// These may be repeated, where the protocol allows it.
    Repeat(Vec<u16>),
    /// The broker does not answer this any more.
    GiveUp {
        /// Under which packet id it was sent.
        packet_id: u16,
        /// What it is.
        request: Request,
        /// It has answered others that were sent later.
        others: bool,
    },
}

/// The most QoS 1 messages this side leaves unacknowledged. AWS IoT Core allows 100.
const WINDOW: u16 = 100;

/// The most requests in flight beside messages.
const REQUESTS: usize = 32;

/// So often an answer may be overdue before the connection is given up. AWS IoT Core
/// withholds acknowledgements when it throttles.
const PATIENCE: u32 = 3;

impl Session {
    /// Nothing is in flight. `last_token`: the highest an earlier run gave.
    pub(super) fn new(operation_timeout: Duration, last_token: Token) -> Self {
        Self {
            requests: FxHashMap::default(),
            last_packet_id: 0,
            operation_timeout,
            look_at: None,
            answers: 0,
            again: VecDeque::new(),
            publishes: 0,
            window: WINDOW,
            arrivals: Arrivals::new(last_token),
        }
    }

    /// A connection stands and the broker still knows the session: messages in flight
    /// are to be sent again. Other requests are forgotten; whoever made them compares
    /// what is wanted with what is known to be in place.
    pub(super) fn resume(&mut self, receive_maximum: u16) {
        self.window = receive_maximum.min(WINDOW);
        self.publishes = 0;
        self.look_at = None;
        let mut again = Vec::new();
        self.requests.retain(|packet_id, in_flight| {
            (in_flight.sent, in_flight.overdue) = (None, 0);
            let Request::Publish(seq) = in_flight.request else { return false };
            again.push((*packet_id, seq));
            true
        });
        again.sort_unstable_by_key(|(_, seq)| *seq);
        self.again = again.into();
        self.arrivals.resume();
    }

    /// A connection stands and the broker knows nothing: all is to be sent as new.
    pub(super) fn restart(&mut self, receive_maximum: u16) {
        let (last_packet_id, mut arrivals) = (self.last_packet_id, std::mem::take(&mut self.arrivals));
        arrivals.restart();
        *self = Self { last_packet_id, arrivals, ..Self::new(self.operation_timeout, 0) };
        self.window = receive_maximum.min(WINDOW);
    }

    /// Another QoS 1 message may be sent.
    pub(super) fn window_is_open(&self) -> bool {
        self.publishes < self.window
    }

    /// Messages to send again, in order.
    pub(super) fn again(&self) -> impl Iterator<Item = (u16, Seq)> {
        self.again.iter().copied()
    }

    /// One of those is sent.
    pub(super) fn sent_again(&mut self, packet_id: u16, now: Instant) {
        if let Some(at) = self.again.iter().position(|(waiting, _)| *waiting == packet_id) {
            self.again.remove(at);
            self.publishes += 1;
            self.repeated(packet_id, now);
        }
    }

    /// Messages wait to be sent again; these go before new ones.
    pub(super) fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Another SUBSCRIBE or UNSUBSCRIBE may be sent.
    pub(super) fn takes_requests(&self) -> bool {
        self.requests.len() < usize::from(self.publishes) + self.again.len() + REQUESTS
    }

    /// A packet id for what is about to be sent. Ids go round through all 65,535, so an
    /// answer that comes late or twice does not meet another request under its id.
    pub(super) fn begin(&mut self, request: Request, now: Instant) -> u16 {
        if matches!(request, Request::Publish(_)) {
            self.publishes += 1;
        }
        self.look_at.get_or_insert(now + self.operation_timeout);
        let in_flight = InFlight { request, sent: Some(now), overdue: 0, before: self.answers };
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            // Ends: window and REQUESTS are far below 65,535.
            if let Entry::Vacant(vacant) = self.requests.entry(self.last_packet_id) {
                vacant.insert(in_flight);
                return self.last_packet_id;
            }
        }
    }

    /// The broker has answered; what it answered comes out, once.
    pub(super) fn end(&mut self, packet_id: u16) -> Option<Request> {
        let in_flight = self.requests.remove(&packet_id)?;
        self.answers += 1;
        if matches!(in_flight.request, Request::Publish(_)) && in_flight.sent.is_some() {
            self.publishes = self.publishes.saturating_sub(1);
        } else if in_flight.sent.is_none() {
            // Answered on this connection before it was sent on it: late, but an answer.
            self.again.retain(|(waiting, _)| *waiting != packet_id);
        }
        Some(in_flight.request)
    }

    /// How many requests the broker has answered.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// What is in flight under this id.
    pub(super) fn request(&self, packet_id: u16) -> Option<&Request> {
        Some(&self.requests.get(&packet_id)?.request)
    }

    /// A message in flight is given up.
    pub(super) fn forget(&mut self, seq: Seq) {
        let id =
            self.requests.iter().find(|(_, in_flight)| in_flight.request == Request::Publish(seq)).map(|(id, _)| *id);
        id.and_then(|id| self.end(id));
    }

    /// When to ask for what is overdue, if ever.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// What the broker should have answered by now.
    pub(super) fn overdue(&mut self, now: Instant) -> Overdue {
        self.look_at = None;
        let mut overdue = Vec::new();
        // Of those that were overdue too often, the one that saw the most others answered.
        let mut given_up: Option<(u64, u16)> = None;
        for (packet_id, in_flight) in &mut self.requests {
            let Some(sent) = in_flight.sent else { continue };
            let due = sent + self.operation_timeout;
            if due > now {
                self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
                continue;
            }
            in_flight.overdue += 1;
            if in_flight.overdue >= PATIENCE {
                let this = (in_flight.before, *packet_id);
                given_up = Some(given_up.map_or(this, |other| other.min(this)));
            }
            overdue.push(*packet_id);
        }
        if let Some((before, packet_id)) = given_up
            && let Some(request) = self.request(packet_id).cloned()
        {
            return Overdue::GiveUp { packet_id, request, others: self.answers > before };
        }
        // In the order in which they were sent first.
        overdue.sort_unstable_by_key(|id| match self.request(*id) {
            Some(Request::Publish(seq)) => (1, *seq),
            _ => (0, u64::from(*id)),
        });
        overdue.iter().for_each(|packet_id| self.repeated(*packet_id, now));
        Overdue::Repeat(overdue)
    }

    /// Nothing was read for that long, by our own choice: nobody has been slow to answer meanwhile.
    pub(super) fn stood_still(&mut self, time: Duration, now: Instant) {
        for sent in self.requests.values_mut().filter_map(|in_flight| in_flight.sent.as_mut()) {
            *sent = (*sent + time).min(now);
        }
        self.look_at = self.look_at.map(|at| at + time);
    }

    fn repeated(&mut self, packet_id: u16, now: Instant) {
        if let Some(in_flight) = self.requests.get_mut(&packet_id) {
            if in_flight.sent.is_none() {
                in_flight.before = self.answers;
            }
            in_flight.sent = Some(now);
            let due = now + self.operation_timeout;
            self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
        }
    }

    /// What waits for the broker's answer.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.requests.values().map(|in_flight| &in_flight.request)
    }

    /// Anything but arrivals is in flight.
    pub(super) fn is_waiting(&self) -> bool {
        !self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Qos;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn session() -> Session {
        Session::new(TIMEOUT, 0)
    }

    fn subscribe() -> Request {
        let filter = TopicFilter::parse("a").unwrap();
        Request::Subscribe(vec![Subscription { filter, qos: Qos::AtLeastOnce, identifier: 1 }])
    }

    fn begin(session: &mut Session, seq: Seq) -> u16 {
        session.begin(Request::Publish(seq), Instant::now())
    }

    fn again(session: &mut Session) -> Vec<(u16, Seq)> {
        let next = || {
            let next = session.again().next().filter(|_| session.window_is_open())?;
            session.sent_again(next.0, Instant::now());
            Some(next)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn the_window_closes_and_each_answer_opens_it() {
        let mut session = session();
        session.restart(2);
        let first = begin(&mut session, 0);
        begin(&mut session, 1);
        assert!(!session.window_is_open());
        assert!(session.takes_requests(), "a subscription needs no window");
        assert_eq!(session.end(first), Some(Request::Publish(0)));
        assert!(session.window_is_open());
        assert_eq!(session.end(first), None, "an acknowledgement may come twice");
        assert_eq!(session.end(0), None);
    }

    #[test]
    fn packet_ids_go_round_and_skip_those_in_use() {
        let mut session = session();
        let first = begin(&mut session, 0);
        for seq in 1..65_535 {
            let id = begin(&mut session, seq);
            assert_ne!(id, 0);
            session.end(id);
        }
        assert_ne!(begin(&mut session, 65_535), first);
    }

    #[test]
    fn a_kept_session_sends_unacknowledged_messages_again_in_order_under_their_ids() {
        let mut session = session();
        let ids: Vec<_> = (0..5).map(|seq| begin(&mut session, seq)).collect();
        session.begin(subscribe(), Instant::now());
        session.end(ids[0]);
        session.end(ids[3]);
        session.resume(100);
        assert!(session.has_again());
        assert_eq!(session.requests().filter(|request| **request == subscribe()).count(), 0);
        assert_eq!(again(&mut session), [(ids[1], 1), (ids[2], 2), (ids[4], 4)]);
        assert_eq!(session.end(ids[2]), Some(Request::Publish(2)));
        session.resume(100);
        assert_eq!(again(&mut session), [(ids[1], 1), (ids[4], 4)]);
    }

    #[test]
    fn a_smaller_window_holds_for_what_is_sent_again() {
        let mut session = session();
        let ids: Vec<_> = (0..5).map(|seq| begin(&mut session, seq)).collect();
        session.resume(2);
        assert_eq!(again(&mut session), [(ids[0], 0), (ids[1], 1)]);
        session.end(ids[1]);
        assert_eq!(again(&mut session), [(ids[2], 2)]);
        assert!(session.has_again());
    }

    #[test]
    fn an_answer_that_comes_before_the_repetition_makes_it_needless() {
        let mut session = session();
        let ids: Vec<_> = (0..3).map(|seq| begin(&mut session, seq)).collect();
        session.resume(100);
        assert_eq!(session.end(ids[1]), Some(Request::Publish(1)));
        assert_eq!(again(&mut session), [(ids[0], 0), (ids[2], 2)]);
        ids.into_iter().for_each(|id| drop(session.end(id)));
        assert!(!session.is_waiting());
        for seq in 0..100 {
            assert!(session.window_is_open(), "{seq}");
            begin(&mut session, seq);
        }
    }

    #[test]
    fn a_lost_session_forgets_all_requests() {
        let mut session = session();
        begin(&mut session, 0);
        session.restart(100);
        assert!(!session.is_waiting() && session.window_is_open());
        session.resume(100);
        assert_eq!(again(&mut session), []);
    }

    #[test]
    fn a_request_without_an_answer_is_overdue_twice_and_then_given_up() {
        let mut session = session();
        let start = Instant::now();
        assert_eq!(session.look_at(), None);
        let publish = session.begin(Request::Publish(7), start);
        let request = session.begin(subscribe(), start + SECOND);
        assert_eq!(session.look_at(), Some(start + TIMEOUT));
        assert_eq!(session.overdue(start + TIMEOUT), Overdue::Repeat(vec![publish]));
        assert_eq!(session.look_at(), Some(start + SECOND + TIMEOUT));
        assert_eq!(session.overdue(start + 2 * TIMEOUT), Overdue::Repeat(vec![request, publish]));
        let give_up = |others| Overdue::GiveUp { packet_id: publish, request: Request::Publish(7), others };
        assert_eq!(session.overdue(start + 3 * TIMEOUT), give_up(false));
        session.end(request);
        assert_eq!(session.overdue(start + 4 * TIMEOUT), give_up(true), "what was sent later was answered");
    }

    #[test]
    fn what_was_answered_is_not_overdue() {
        let mut session = session();
        let start = Instant::now();
        let first = session.begin(Request::Publish(1), start);
        session.end(first);
        assert_eq!(session.overdue(start + TIMEOUT), Overdue::Repeat(Vec::new()));
        assert_eq!(session.look_at(), None);
        let second = session.begin(Request::Publish(2), start + TIMEOUT);
        assert_eq!(session.look_at(), Some(start + 2 * TIMEOUT));
        session.resume(100);
        assert_eq!(session.look_at(), None, "not sent on this connection yet");
        session.sent_again(second, start + 3 * TIMEOUT);
        assert_eq!(session.look_at(), Some(start + 4 * TIMEOUT));
    }
}
