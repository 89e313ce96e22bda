//! MQTT's session state: packet ids, what is in flight, which acknowledgements are due.
//!
//! Pure: the link task tells it what happened and does what it says. It outlives
//! connections, as the session at the broker does.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::{
    message::Message,
    outbox::Seq,
    router::{SubscriberId, Subscription},
    topic::TopicFilter,
};

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

/// Numbers an arrival that has to be acknowledged; counts up over all connections, and
/// over all runs where there is a disk.
pub(super) type Token = u64;

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
    /// Arrivals of this connection not yet acknowledged, in order.
    arrivals: VecDeque<Arrived>,
    /// Arrivals of earlier connections that a broker that kept the session will send again.
    carried: HashMap<u16, Arrived>,
    last_token: Token,
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

#[derive(Debug)]
struct Arrived {
    token: Token,
    packet_id: u16,
    at: Instant,
    /// Empty until it is known where it goes.
    message: Option<Message>,
    duplicate: bool,
    /// Plugins that have neither handled it nor hold it on disk.
    receivers: SmallVec<[Receiver; 2]>,
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
    pub(super) message: Message,
    pub(super) duplicate: bool,
    pub(super) receivers: Vec<SubscriberId>,
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
            arrivals: VecDeque::new(),
            carried: HashMap::new(),
            last_token,
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
        let unacknowledged = self.arrivals.drain(..).map(|arrived| (arrived.packet_id, arrived));
        self.carried.extend(unacknowledged);
    }

    /// A connection stands and the broker knows nothing: all is to be sent as new.
    pub(super) fn restart(&mut self, receive_maximum: u16) {
        let last_packet_id = self.last_packet_id;
        *self = Self { last_packet_id, ..Self::new(self.operation_timeout, self.last_token) };
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

    /// A QoS 1 message arrived. `None`: it is one that a plugin still has from an earlier
    /// connection, or has handled since; it must not be delivered again.
    pub(super) fn arrived(&mut self, packet_id: u16, duplicate: bool, at: Instant) -> Option<Token> {
        if let Some(arrived) = self.carried.remove(&packet_id).filter(|_| duplicate) {
            self.arrivals.push_back(arrived);
            return None;
        }
        self.last_token += 1;
        let (token, receivers) = (self.last_token, SmallVec::new());
        self.arrivals.push_back(Arrived { token, packet_id, at, message: None, duplicate, receivers });
        Some(token)
    }

    /// A QoS 1 message arrived that goes to nobody: it is acknowledged in its turn.
    pub(super) fn skipped(&mut self, packet_id: u16, at: Instant) {
        self.arrived(packet_id, false, at);
    }

    /// The last arrival went to this plugin, or is on its way to the plugin's inbox.
    pub(super) fn went_to(&mut self, id: SubscriberId, message: &Message, is_storing: bool) {
        if let Some(arrived) = self.arrivals.back_mut() {
            arrived.message.get_or_insert_with(|| message.clone());
            arrived.receivers.push(Receiver { id, is_storing });
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
        let this = self.arrivals.iter_mut().find(|arrived| arrived.token == token);
        let arrived = this.or_else(|| self.carried.values_mut().find(|arrived| arrived.token == token))?;
        let at = arrived.receivers.iter().position(|receiver| receiver.id == id)?;
        Some(arrived.receivers.remove(at))
    }

    /// An arrival is on its way to disk for this plugin, in whatever form.
    pub(super) fn stores(&mut self, token: Token, id: SubscriberId) {
        let this = self.arrivals.iter_mut().find(|arrived| arrived.token == token);
        let arrived = this.or_else(|| self.carried.values_mut().find(|arrived| arrived.token == token));
        let receivers = arrived.into_iter().flat_map(|arrived| &mut arrived.receivers);
        receivers.filter(|receiver| receiver.id == id).for_each(|receiver| receiver.is_storing = true);
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

    /// The message of an arrival that is not yet acknowledged, and whether it may be a repetition.
    pub(super) fn message(&self, token: Token) -> Option<(Message, bool)> {
        let arrived = self.known(token)?;
        Some((arrived.message.clone()?, arrived.duplicate))
    }

    fn known(&self, token: Token) -> Option<&Arrived> {
        let this = self.arrivals.iter().find(|arrived| arrived.token == token);
        this.or_else(|| self.carried.values().find(|arrived| arrived.token == token))
    }

    /// Arrivals that plugins have held for that long. They count as being stored from now on.
    pub(super) fn held(&mut self, longer_than: Duration, now: Instant) -> Vec<Held> {
        let mut held = Vec::new();
        for arrived in &mut self.arrivals {
            if now.saturating_duration_since(arrived.at) < longer_than {
                continue;
            }
            let waiting = arrived.receivers.iter_mut().filter(|receiver| !receiver.is_storing);
            let receivers: Vec<_> = waiting
                .map(|receiver| {
                    receiver.is_storing = true;
                    receiver.id
                })
                .collect();
            let Some(message) = arrived.message.clone().filter(|_| !receivers.is_empty()) else { continue };
            held.push(Held { token: arrived.token, message, duplicate: arrived.duplicate, receivers });
        }
        held
    }

    /// Since when the oldest arrival waits that is not on its way to disk.
    pub(super) fn oldest_held(&self) -> Option<Instant> {
        let is_held = |arrived: &&Arrived| arrived.receivers.iter().any(|receiver| !receiver.is_storing);
        self.arrivals.iter().find(is_held).map(|arrived| arrived.at)
    }

    /// The next arrival to acknowledge: in order of arrival (MQTT-4.6.0-2), so one that
    /// is not handled holds back those behind it.
    pub(super) fn next_acknowledgement(&mut self) -> Option<u16> {
        let arrived = self.arrivals.pop_front_if(|arrived| arrived.receivers.is_empty())?;
        Some(arrived.packet_id)
    }

    /// Arrivals of this connection that are not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.arrivals.len()
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
    use crate::{message::Qos, topic::TopicName};

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

    fn message() -> Message {
        Message {
            topic: TopicName::parse("t").unwrap(),
            payload: bytes::Bytes::new(),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: None,
        }
    }

    /// A message arrives for these plugins.
    fn arrive(session: &mut Session, packet_id: u16, duplicate: bool, plugins: &[SubscriberId]) -> Option<Token> {
        let token = session.arrived(packet_id, duplicate, Instant::now())?;
        plugins.iter().for_each(|id| session.went_to(*id, &message(), false));
        Some(token)
    }

    fn acknowledgements(session: &mut Session) -> Vec<u16> {
        std::iter::from_fn(|| session.next_acknowledgement()).collect()
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

    #[test]
    fn acknowledgements_leave_in_order_of_arrival() {
        let mut session = session();
        let tokens: Vec<_> =
            (1..=3).map(|id| arrive(&mut session, id, false, if id == 2 { &[8, 9] } else { &[9] }).unwrap()).collect();
        session.handled(tokens[2], 9);
        assert_eq!(acknowledgements(&mut session), [0; 0]);
        session.handled(tokens[0], 9);
        assert_eq!(acknowledgements(&mut session), [1]);
        session.handled(tokens[1], 9);
        assert_eq!(acknowledgements(&mut session), [0; 0], "two plugins got it, one has handled it");
        session.handled(tokens[1], 8);
        assert_eq!(acknowledgements(&mut session), [2, 3]);
        session.handled(tokens[1], 8);
    }

    #[test]
    fn a_message_that_nobody_takes_is_acknowledged() {
        let mut session = session();
        arrive(&mut session, 1, false, &[]);
        assert_eq!(acknowledgements(&mut session), [1]);
    }

    #[test]
    fn what_is_held_for_too_long_is_acknowledged_when_it_is_stored() {
        let mut session = session();
        let token = arrive(&mut session, 1, false, &[8, 9]).unwrap();
        let later = Instant::now() + SECOND;
        assert!(session.held(SECOND * 2, later).is_empty());
        assert!(session.oldest_held().is_some() && session.is_in_memory(token, 8));
        assert!(!session.handled(token, 8), "it never was on disk");
        let held = session.held(SECOND, later);
        assert_eq!((held[0].token, &held[0].receivers[..]), (token, &[9][..]));
        assert!(session.oldest_held().is_none() && !session.is_in_memory(token, 9));
        assert!(session.held(SECOND, later).is_empty(), "once");
        assert_eq!(acknowledgements(&mut session), [0; 0], "not before it is durable");
        session.stored(token, 9);
        assert_eq!(acknowledgements(&mut session), [1]);
        assert!(session.handled(token, 9), "it is to be taken off the disk");
    }

    #[test]
    fn acknowledgements_for_an_older_connection_are_not_sent_on_a_newer_one() {
        let mut session = session();
        let old = arrive(&mut session, 7, false, &[9]).unwrap();
        session.resume(100);
        session.handled(old, 9);
        assert_eq!(acknowledgements(&mut session), [0; 0]);
        assert_eq!(arrive(&mut session, 7, true, &[9]), None, "handled since: not delivered again");
        assert_eq!(acknowledgements(&mut session), [7], "but acknowledged, since it came again");
    }

    #[test]
    fn what_a_plugin_still_has_is_not_delivered_twice() {
        let mut session = session();
        let token = arrive(&mut session, 7, false, &[9]).unwrap();
        session.resume(100);
        session.resume(100);
        assert_eq!(arrive(&mut session, 7, true, &[9]), None);
        assert_eq!(acknowledgements(&mut session), [0; 0]);
        session.handled(token, 9);
        assert_eq!(acknowledgements(&mut session), [7]);
    }

    #[test]
    fn a_packet_id_that_names_a_new_message_is_delivered() {
        let mut session = session();
        arrive(&mut session, 7, false, &[9]).unwrap();
        session.resume(100);
        assert!(arrive(&mut session, 7, false, &[9]).is_some());
        session.restart(100);
        assert!(arrive(&mut session, 7, true, &[9]).is_some(), "a new session has new ids");
    }
}
