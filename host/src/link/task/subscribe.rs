//! Subscriptions: what plugins want, what the broker has, and the requests between.

use std::{collections::BTreeMap, time::Instant};

use tracing::{debug, warn};

use super::{
    super::{client::Notice, codec::Refusal, connect::Connection, error::LinkError, session::Request},
    Task,
};
use crate::{
    message::Qos,
    router::{Plan, SubscriberId, Subscription, UnderWay},
    store::{Change, Wanted},
    topic::TopicFilter,
};

impl Task {
    pub(super) fn subscribe(&mut self, id: SubscriberId, filter: TopicFilter, qos: Qos) {
        let under_way = self.being_asked(&filter);
        let subscription = self.router.subscribe(id, filter.clone(), qos, under_way);
        let (filter_of, identifier) = (filter.clone(), subscription.identifier);
        self.change_of(id, |plugin| Change::Subscribed(Wanted { plugin, filter: filter_of, qos, identifier }));
        if self.banned.contains(&filter) {
            let reason = "the broker closes the connection when it is asked for it".to_owned();
            self.notify(id, Notice::SubscriptionRefused { filter, refusal: Refusal { code: 0x80, reason } });
            return;
        }
        self.refused.remove(&filter);
        self.asked.insert(filter);
        self.needs_plan = true;
    }

    /// Whether the broker is being asked for a filter, or may still send what it keeps for one. A
    /// broker does one thing after the other: when it has answered what was sent behind a
    /// SUBSCRIBE, what it keeps is on its way.
    fn being_asked(&mut self, filter: &TopicFilter) -> UnderWay {
        let answers = self.session.answers();
        self.settling.retain(|(_, at)| answers <= *at);
        // What waits to be sent is among those asked for, or was asked for before this connection.
        let settling = self.settling.iter().map(|(filter, _)| filter);
        let mut under_way = UnderWay::Nothing;
        for other in self.asked.iter().chain(settling).chain(self.asking().map(|to| &to.filter)) {
            if other == filter {
                return UnderWay::This;
            }
            under_way = UnderWay::Others;
        }
        under_way
    }

    pub(super) fn unsubscribe(&mut self, id: SubscriberId, filter: &TopicFilter) {
        self.router.unsubscribe(id, filter);
        self.change_of(id, |plugin| Change::Unsubscribed { plugin, filter: filter.clone() });
        self.needs_plan = true;
    }

    /// The broker knows nothing of us.
    pub(super) fn forget_broker(&mut self) {
        self.at_broker.clear();
        self.change_at_broker(|| Change::NothingAtBroker);
        // It gets the whole table, so what it keeps is for everybody.
        self.router.ask_for_all();
        self.asked.clear();
    }

    /// Compares what is wanted with what the broker has, and makes requests of the difference.
    pub(super) fn plan(&mut self, connection: &Connection) {
        if !std::mem::take(&mut self.needs_plan) {
            return;
        }
        let identify = connection.connack.subscription_identifiers;
        let profile = self.settings.profile;
        // A filter that was refused covers nothing: then each is asked for by itself.
        let merged = profile.merges_contained() && !identify && self.refused.is_empty();
        let mut wanted = self.router.wanted(merged);
        wanted.retain(|subscription| !self.refused.contains(&subscription.filter));
        let there = self.under_way();
        let mut plan = Plan::between(&there, &wanted);
        // Asked for once more for what the broker keeps; one that is covered by a wider
        // filter is given back when it has been answered.
        self.asked.retain(|filter| self.router.subscription(filter).is_some());
        for filter in &self.asked {
            let is_new = !plan.subscribe.iter().any(|subscription| subscription.filter == *filter);
            if is_new && !self.is_asking(filter) && !self.refused.contains(filter) {
                plan.subscribe.extend(self.router.subscription(filter));
            }
        }
        plan.unsubscribe.retain(|filter| !self.asked.contains(filter));
        let subscribe = self.permitted(plan.subscribe, there.len());
        // What a filter stands for that goes, the one that takes its place has to bring: it goes when
        // the broker has said yes to that one.
        let asking: Vec<_> = self.asking().chain(&subscribe).map(|subscription| &subscription.filter).collect();
        plan.unsubscribe.retain(|filter| !asking.iter().any(|other| other.contains(filter) || filter.contains(other)));
        let at_once = if identify { 1 } else { profile.filters_per_subscribe() };
        self.requests.clear();
        self.requests.extend(subscribe.chunks(at_once).map(|chunk| Request::Subscribe(chunk.to_vec())));
        self.requests.extend(plan.unsubscribe.chunks(at_once).map(|chunk| Request::Unsubscribe(chunk.to_vec())));
    }

    /// What the broker will have when it has answered all that was sent.
    fn under_way(&self) -> BTreeMap<TopicFilter, Subscription> {
        let mut there = self.at_broker.clone();
        for request in self.session.requests() {
            match request {
                Request::Subscribe(subscriptions) => {
                    there.extend(subscriptions.iter().map(|to| (to.filter.clone(), to.clone())));
                }
                Request::Unsubscribe(filters) => filters.iter().for_each(|filter| drop(there.remove(filter))),
                Request::Publish(_) => {}
            }
        }
        there
    }

    fn is_asking(&self, filter: &TopicFilter) -> bool {
        self.asking().any(|to| to.filter == *filter)
    }

    /// What the broker has been asked for and has not answered.
    fn asking(&self) -> impl Iterator<Item = &Subscription> {
        self.session.requests().flat_map(|request| match request {
            Request::Subscribe(subscriptions) => subscriptions.as_slice(),
            Request::Unsubscribe(_) | Request::Publish(_) => &[],
        })
    }

    /// Leaves out what the broker would not take, and tells who asked.
    fn permitted(&mut self, subscribe: Vec<Subscription>, there: usize) -> Vec<Subscription> {
        let mut count = there;
        let limit = self.settings.profile.subscriptions().unwrap_or(usize::MAX);
        let (mut permitted, mut refused) = (Vec::new(), Vec::new());
        for subscription in subscribe {
            let is_new = !self.at_broker.contains_key(&subscription.filter);
            match self.rules.check_filter(&subscription.filter) {
                Err(breach) => refused.push((subscription.filter, breach.to_string())),
                Ok(()) if is_new && count >= limit => {
                    let reason = format!("a connection to AWS IoT Core has at most {limit} subscriptions");
                    refused.push((subscription.filter, reason));
                }
                Ok(()) => {
                    count += usize::from(is_new);
                    permitted.push(subscription);
                }
            }
        }
        for (filter, reason) in refused {
            self.subscription_refused(&filter, &Refusal { code: 0x80, reason });
        }
        permitted
    }

    /// Encodes requests, as far as they may leave now.
    pub(super) fn send_requests(&mut self, connection: &mut Connection, now: Instant) -> Result<(), LinkError> {
        self.plan(connection);
        while self.session.takes_requests() && connection.wire.outbound.len() < super::send::AHEAD {
            let Some(request) = self.requests.front() else { break };
            if let Request::Subscribe(subscriptions) = request
                && !subscriptions.iter().all(|to| self.suspects.may_subscribe(&to.filter, now))
            {
                break;
            }
            let Some(request) = self.requests.pop_front() else { break };
            let packet_id = self.session.begin(request.clone(), now);
            if let Request::Subscribe(subscriptions) = &request {
                for to in subscriptions {
                    self.suspects.subscribed(&to.filter, now);
                }
            }
            self.write_request(&request, packet_id, connection)?;
        }
        Ok(())
    }

    pub(super) fn write_request(
        &self,
        request: &Request,
        packet_id: u16,
        connection: &mut Connection,
    ) -> Result<(), LinkError> {
        let Connection { wire, codec, connack, .. } = connection;
        let written = match request {
            Request::Subscribe(subscriptions) => {
                codec.subscribe(packet_id, subscriptions, connack.subscription_identifiers, &mut wire.outbound)
            }
            Request::Unsubscribe(filters) => codec.unsubscribe(packet_id, filters, &mut wire.outbound),
            Request::Publish(_) => Ok(()),
        };
        written.map_err(|error| LinkError::NotMqtt(format!("a packet can't be written: {error}")))
    }

    /// SUBACK.
    pub(super) fn subscribed(&mut self, subscriptions: Vec<Subscription>, results: Vec<Result<Qos, Refusal>>) {
        self.needs_plan = true;
        let mut results = results.into_iter();
        for subscription in subscriptions {
            let filter = subscription.filter.clone();
            self.suspects.granted(&filter);
            self.asked.remove(&filter);
            match results.next() {
                Some(Err(refusal)) => self.subscription_refused(&filter, &refusal),
                None => {
                    let reason = "the broker's SUBACK has no reason code for it".to_owned();
                    self.subscription_refused(&filter, &Refusal { code: 0x80, reason });
                }
                Some(Ok(_)) => {
                    debug!(%filter, "subscribed");
                    for id in self.router.subscribers(&filter).collect::<Vec<_>>() {
                        if self.clients.get(&id).is_some_and(|client| client.tracked) {
                            self.notify(id, Notice::Subscribed(filter.clone()));
                        }
                    }
                    self.settling.push((filter.clone(), self.session.answers()));
                    self.change_at_broker(|| Change::AtBroker(subscription.clone()));
                    self.at_broker.insert(filter, subscription);
                }
            }
        }
    }

    pub(super) fn subscription_refused(&mut self, filter: &TopicFilter, refusal: &Refusal) {
        let subscribers: Vec<_> = self.router.subscribers(filter).collect();
        // Who asks for it again and again is told each time, the log is not.
        if subscribers.first().is_none_or(|id| self.says(*id).is_some()) {
            warn!(%filter, "a subscription was refused: {refusal}");
        }
        self.refused.insert(filter.clone());
        self.asked.remove(filter);
        if self.at_broker.remove(filter).is_some() {
            self.change_at_broker(|| Change::NotAtBroker(filter.clone()));
        }
        for id in subscribers {
            self.notify(id, Notice::SubscriptionRefused { filter: filter.clone(), refusal: refusal.clone() });
        }
    }

    /// UNSUBACK.
    pub(super) fn unsubscribed(&mut self, filters: Vec<TopicFilter>) {
        self.needs_plan = true;
        for filter in filters {
            self.at_broker.remove(&filter);
            self.change_at_broker(|| Change::NotAtBroker(filter));
        }
    }
}
