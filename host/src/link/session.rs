//! MQTT's session state: packet ids, what is in flight, which acknowledgements are due.
//!
//! Pure: the link task tells it what happened and does what it says. It outlives
//! connections, as the session at the broker does.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{outbox::Place, router::Subscription, topic::TopicFilter};

/// What waits for the broker's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A QoS 1 message of the outbox.
    Publish(Place),
    /// A SUBSCRIBE.
    Subscribe(Subscription),
    /// An UNSUBSCRIBE.
    Unsubscribe(TopicFilter),
}

/// Names an arrival that has to be acknowledged; counts up over all connections.
pub(super) type Token = u64;

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    /// What is in flight, by packet id.
    requests: HashMap<u16, Request>,
    last_packet_id: u16,
    /// Messages in flight that this connection has to send again, in order.
    again: VecDeque<(u16, Place)>,
    /// QoS 1 messages sent on this connection and not answered, and how many may be.
    publishes: u16,
    window: u16,
    /// Arrivals of this connection not yet acknowledged, in order, tokens ascending.
    arrivals: VecDeque<Arrived>,
    /// Arrivals of earlier connections that a broker that kept the session will send again.
    carried: HashMap<u16, Arrived>,
    last_token: Token,
}

#[derive(Debug)]
struct Arrived {
    token: Token,
    packet_id: u16,
    /// How many plugins have not handled it yet.
    waiting: usize,
}

/// The most QoS 1 messages this side leaves unacknowledged. AWS IoT Core allows 100.
const WINDOW: u16 = 100;

/// The most requests in flight beside messages.
const REQUESTS: usize = 32;

impl Session {
    /// Nothing is in flight.
    pub(super) fn new() -> Self {
        Self {
            requests: HashMap::new(),
            last_packet_id: 0,
            again: VecDeque::new(),
            publishes: 0,
            window: WINDOW,
            arrivals: VecDeque::new(),
            carried: HashMap::new(),
            last_token: 0,
        }
    }

    /// A connection stands and the broker still knows the session: messages in flight
    /// are to be sent again, and the requests that come out were not answered.
    pub(super) fn resume(&mut self, receive_maximum: u16) -> Vec<Request> {
        self.window = receive_maximum.min(WINDOW);
        self.publishes = 0;
        let mut again = Vec::new();
        let mut unanswered = Vec::new();
        self.requests.retain(|packet_id, request| match request {
            Request::Publish(place) => {
                again.push((*packet_id, *place));
                true
            }
            Request::Subscribe(_) | Request::Unsubscribe(_) => {
                unanswered.push((*packet_id, request.clone()));
                false
            }
        });
        again.sort_unstable_by_key(|(_, place)| *place);
        self.again = again.into();
        let unacknowledged = self.arrivals.drain(..).map(|arrived| (arrived.packet_id, arrived));
        self.carried.extend(unacknowledged);
        unanswered.sort_unstable_by_key(|(packet_id, _)| *packet_id);
        unanswered.into_iter().map(|(_, request)| request).collect()
    }

    /// A connection stands and the broker knows nothing: all is to be sent as new.
    pub(super) fn restart(&mut self, receive_maximum: u16) {
        *self = Self { last_token: self.last_token, last_packet_id: self.last_packet_id, ..Self::new() };
        self.window = receive_maximum.min(WINDOW);
    }

    /// Another QoS 1 message may be sent.
    pub(super) fn window_is_open(&self) -> bool {
        self.publishes < self.window
    }

    /// The next message to send again, if the window is open. These go before all others.
    pub(super) fn next_again(&mut self) -> Option<(u16, Place)> {
        if !self.window_is_open() {
            return None;
        }
        let next = self.again.pop_front()?;
        self.publishes += 1;
        Some(next)
    }

    /// Messages wait to be sent again; new ones have to wait.
    pub(super) fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Another SUBSCRIBE or UNSUBSCRIBE may be sent.
    pub(super) fn takes_requests(&self) -> bool {
        self.requests.len() < usize::from(self.publishes) + self.again.len() + REQUESTS
    }

    /// A packet id for what is about to be sent. Ids go round through all 65,535, so an
    /// answer that comes late or twice does not meet another request under its id.
    pub(super) fn begin(&mut self, request: Request) -> u16 {
        if matches!(request, Request::Publish(_)) {
            self.publishes += 1;
        }
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            // Ends: window and REQUESTS are far below 65,535.
            if let Entry::Vacant(vacant) = self.requests.entry(self.last_packet_id) {
                vacant.insert(request);
                return self.last_packet_id;
            }
        }
    }

    /// The broker has answered; what it answered comes out, once.
    pub(super) fn end(&mut self, packet_id: u16) -> Option<Request> {
        let request = self.requests.remove(&packet_id)?;
        if matches!(request, Request::Publish(_)) {
            self.publishes = self.publishes.saturating_sub(1);
        }
        Some(request)
    }

    /// A QoS 1 message arrived. `None`: it is one that a plugin still has from an earlier
    /// connection, or has handled since; it must not be delivered again.
    pub(super) fn arrived(&mut self, packet_id: u16, duplicate: bool) -> Option<Token> {
        if let Some(arrived) = self.carried.remove(&packet_id).filter(|_| duplicate) {
            self.arrivals.push_back(arrived);
            return None;
        }
        self.last_token += 1;
        self.arrivals.push_back(Arrived { token: self.last_token, packet_id, waiting: 0 });
        Some(self.last_token)
    }

    /// The last arrival went to this many plugins.
    pub(super) fn went_to(&mut self, plugins: usize) {
        if let Some(arrived) = self.arrivals.back_mut() {
            arrived.waiting = plugins;
        }
    }

    /// One plugin has handled an arrival, of this connection or an earlier one.
    pub(super) fn handled(&mut self, token: Token) {
        let this = self.arrivals.iter_mut().find(|arrived| arrived.token == token);
        let arrived = this.or_else(|| self.carried.values_mut().find(|arrived| arrived.token == token));
        if let Some(arrived) = arrived {
            arrived.waiting = arrived.waiting.saturating_sub(1);
        }
    }

    /// The next arrival to acknowledge: in order of arrival (MQTT-4.6.0-2), so one that
    /// is not handled holds back those behind it.
    pub(super) fn next_acknowledgement(&mut self) -> Option<u16> {
        let arrived = self.arrivals.pop_front_if(|arrived| arrived.waiting == 0)?;
        Some(arrived.packet_id)
    }

    /// Arrivals of this connection that are not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.arrivals.len()
    }

    /// What waits for the broker's answer.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.requests.values()
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

    fn subscribe() -> Request {
        let filter = TopicFilter::parse("a").unwrap();
        Request::Subscribe(Subscription { filter, qos: Qos::AtLeastOnce, identifier: 1 })
    }

    fn acknowledgements(session: &mut Session) -> Vec<u16> {
        std::iter::from_fn(|| session.next_acknowledgement()).collect()
    }

    fn again(session: &mut Session) -> Vec<(u16, Place)> {
        std::iter::from_fn(|| session.next_again()).collect()
    }

    #[test]
    fn the_window_closes_and_each_answer_opens_it() {
        let mut session = Session::new();
        session.restart(2);
        let first = session.begin(Request::Publish(0));
        session.begin(Request::Publish(1));
        assert!(!session.window_is_open());
        assert!(session.takes_requests(), "a subscription needs no window");
        assert_eq!(session.end(first), Some(Request::Publish(0)));
        assert!(session.window_is_open());
        assert_eq!(session.end(first), None, "an acknowledgement may come twice");
        assert_eq!(session.end(0), None);
    }

    #[test]
    fn packet_ids_go_round_and_skip_those_in_use() {
        let mut session = Session::new();
        let first = session.begin(Request::Publish(0));
        for place in 1..65_535 {
            let id = session.begin(Request::Publish(place));
            assert_ne!(id, 0);
            session.end(id);
        }
        assert_ne!(session.begin(Request::Publish(65_535)), first);
    }

    #[test]
    fn a_kept_session_sends_unacknowledged_messages_again_in_order_under_their_ids() {
        let mut session = Session::new();
        let ids: Vec<_> = (0..5).map(|place| session.begin(Request::Publish(place))).collect();
        session.begin(subscribe());
        session.end(ids[0]);
        session.end(ids[3]);
        assert_eq!(session.resume(100), [subscribe()]);
        assert!(session.has_again());
        assert_eq!(again(&mut session), [(ids[1], 1), (ids[2], 2), (ids[4], 4)]);
        assert_eq!(session.end(ids[2]), Some(Request::Publish(2)));
        session.resume(100);
        assert_eq!(again(&mut session), [(ids[1], 1), (ids[4], 4)]);
    }

    #[test]
    fn a_smaller_window_holds_for_what_is_sent_again() {
        let mut session = Session::new();
        let ids: Vec<_> = (0..5).map(|place| session.begin(Request::Publish(place))).collect();
        session.resume(2);
        assert_eq!(again(&mut session), [(ids[0], 0), (ids[1], 1)]);
        session.end(ids[1]);
        assert_eq!(again(&mut session), [(ids[2], 2)]);
        assert!(session.has_again());
    }

    #[test]
    fn a_lost_session_forgets_all_requests() {
        let mut session = Session::new();
        session.begin(Request::Publish(0));
        session.restart(100);
        assert!(!session.is_waiting() && session.window_is_open());
        assert_eq!(session.resume(100), []);
        assert_eq!(again(&mut session), []);
    }

    #[test]
    fn acknowledgements_leave_in_order_of_arrival() {
        let mut session = Session::new();
        let tokens: Vec<_> = (1..=3)
            .map(|id| {
                let token = session.arrived(id, false).unwrap();
                session.went_to(if id == 2 { 2 } else { 1 });
                token
            })
            .collect();
        session.handled(tokens[2]);
        assert_eq!(acknowledgements(&mut session), [0; 0]);
        session.handled(tokens[0]);
        assert_eq!(acknowledgements(&mut session), [1]);
        session.handled(tokens[1]);
        assert_eq!(acknowledgements(&mut session), [0; 0], "two plugins got it, one has handled it");
        session.handled(tokens[1]);
        assert_eq!(acknowledgements(&mut session), [2, 3]);
        session.handled(tokens[1]);
    }

    #[test]
    fn acknowledgements_for_an_older_connection_are_not_sent_on_a_newer_one() {
        let mut session = Session::new();
        let old = session.arrived(7, false).unwrap();
        session.went_to(1);
        session.resume(100);
        session.handled(old);
        assert_eq!(acknowledgements(&mut session), [0; 0]);
        assert_eq!(session.arrived(7, true), None, "handled since: not delivered again");
        assert_eq!(acknowledgements(&mut session), [7], "but acknowledged, since it came again");
    }

    #[test]
    fn what_a_plugin_still_has_is_not_delivered_twice() {
        let mut session = Session::new();
        let token = session.arrived(7, false).unwrap();
        session.went_to(1);
        session.resume(100);
        session.resume(100);
        assert_eq!(session.arrived(7, true), None);
        assert_eq!(acknowledgements(&mut session), [0; 0]);
        session.handled(token);
        assert_eq!(acknowledgements(&mut session), [7]);
    }

    #[test]
    fn a_packet_id_that_names_a_new_message_is_delivered() {
        let mut session = Session::new();
        session.arrived(7, false).unwrap();
        session.went_to(1);
        session.resume(100);
        assert!(session.arrived(7, false).is_some());
        session.restart(100);
        assert!(session.arrived(7, true).is_some(), "a new session has new ids");
    }
}
