//! Who gets which message: the table of subscriptions.
//!
//! Pure data. The link task owns the one [`Router`]; what the broker has to be told
//! after a change comes back as a value. Identical filters of several subscribers
//! are one subscription at the broker.
//!
//! Each filter has a number, its MQTT 5 subscription identifier. A broker that
//! supports those says with each copy of a message which filters it is for, so
//! filters that overlap do not multiply messages. Without them (3.1.1, AWS IoT Core)
//! the topic is matched here, and a broker that sends one copy per overlapping
//! filter makes each of their subscribers see the message that often.

use std::collections::{BTreeMap, HashSet};

use rustc_hash::FxHashMap;

use crate::{
    grants::HOST_PREFIX,
    message::Qos,
    topic::{TopicFilter, TopicName},
};

/// Names a subscriber: a plugin, or a command.
pub type SubscriberId = u32;

/// What the broker is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What for.
    pub filter: TopicFilter,
    /// The highest QoS a subscriber wants.
    pub qos: Qos,
    /// The number of the filter: 1 to 268,435,455 (MQTT 5.0, section 3.8.2.1.2).
    pub identifier: u32,
}

/// Filters, subscribers, and the way from a topic to them.
#[derive(Debug, Default)]
pub struct Router {
    entries: FxHashMap<u32, Entry>,
    /// Ascending, so that subscribing again after a lost session is repeatable.
    identifiers: BTreeMap<TopicFilter, u32>,
    trie: Node,
    last_identifier: u32,
    /// Counts the times that the broker was asked while nothing else was being asked for.
    round: u64,
}

/// What the broker is being asked for when a subscriber asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderWay {
    /// Nothing: what it sends of the messages it keeps is for the one who asks.
    Nothing,
    /// Other filters.
    Others,
    /// The same filter, so what it sends is for more than one.
    This,
}

#[derive(Debug)]
struct Entry {
    filter: TopicFilter,
    subscribers: Vec<(SubscriberId, Qos)>,
    /// Who asked last: the broker sends kept messages again at each SUBSCRIBE, and
    /// they are for the one who asked. None: for all of them.
    asked_last: Option<SubscriberId>,
    /// In which round that was.
    round: u64,
}

/// One level of the topic tree.
#[derive(Debug, Default)]
struct Node {
    /// The hash is a cheap one: what is put in are the few filters plugins may have, not what peers send.
    levels: FxHashMap<String, Node>,
    plus: Option<Box<Node>>,
    /// Filters that end here with `#`.
    hash: Vec<u32>,
    /// Filters that end here.
    end: Vec<u32>,
}

impl Router {
    /// Records the subscription. The broker has to be asked each time: it then sends
    /// the messages it keeps.
    pub fn subscribe(
        &mut self,
        subscriber: SubscriberId,
        filter: TopicFilter,
        qos: Qos,
        under_way: UnderWay,
    ) -> Subscription {
        if under_way == UnderWay::Nothing {
            self.round += 1;
        }
        let identifier = match self.identifiers.get(&filter) {
            Some(identifier) => *identifier,
            None => self.insert(filter.clone()),
        };
        let entry = self.entries.entry(identifier).or_insert_with(|| Entry {
            filter,
            subscribers: Vec::new(),
            asked_last: None,
            round: 0,
        });
        match entry.subscribers.iter_mut().find(|(known, _)| *known == subscriber) {
            Some((_, wanted)) => *wanted = qos,
            None => entry.subscribers.push((subscriber, qos)),
        }
        let alone = under_way != UnderWay::This || entry.asked_last == Some(subscriber);
        entry.asked_last = alone.then_some(subscriber);
        entry.round = self.round;
        entry.subscription(identifier)
    }

    /// Takes the subscription back; a filter comes out that nobody wants any more.
    pub fn unsubscribe(&mut self, subscriber: SubscriberId, filter: &TopicFilter) -> Option<TopicFilter> {
        let identifier = *self.identifiers.get(filter)?;
        let entry = self.entries.get_mut(&identifier)?;
        entry.subscribers.retain(|(known, _)| *known != subscriber);
        if !entry.subscribers.is_empty() {
            return None;
        }
        let entry = self.entries.remove(&identifier)?;
        self.identifiers.remove(filter);
        self.trie.remove(&mut entry.filter.levels(), identifier);
        Some(entry.filter)
    }

    /// Takes back all of a subscriber's; they come out.
    pub fn remove(&mut self, subscriber: SubscriberId) -> Vec<TopicFilter> {
        let is_its = |identifier: &u32| {
            let entry = self.entries.get(identifier);
            entry.is_some_and(|entry| entry.subscribers.iter().any(|(known, _)| *known == subscriber))
        };
        let its = self.identifiers.iter().filter(|(_, identifier)| is_its(identifier));
        let filters: Vec<_> = its.map(|(filter, _)| filter.clone()).collect();
        for filter in &filters {
            self.unsubscribe(subscriber, filter);
        }
        filters
    }

    /// Takes up a subscription of an earlier run, with its number.
    pub fn restore(&mut self, subscriber: SubscriberId, filter: TopicFilter, qos: Qos, identifier: u32) {
        if !self.identifiers.contains_key(&filter) && !self.entries.contains_key(&identifier) {
            self.last_identifier = identifier.saturating_sub(1);
        }
        self.subscribe(subscriber, filter, qos, UnderWay::This);
    }

    /// A broker that has lost the session is sent the whole table: what it keeps is for all.
    pub fn ask_for_all(&mut self) {
        self.entries.values_mut().for_each(|entry| (entry.asked_last, entry.round) = (None, self.round));
    }

    /// What the broker is asked for under this filter.
    pub fn subscription(&self, filter: &TopicFilter) -> Option<Subscription> {
        let identifier = self.identifiers.get(filter)?;
        Some(self.entries.get(identifier)?.subscription(*identifier))
    }

    /// What the broker should have, in a fixed order. `merged`: filters that lie within
    /// another one are left out, for a broker that would send a copy for each; the wider
    /// filter gets the highest QoS of those it stands for.
    pub fn wanted(&self, merged: bool) -> Vec<Subscription> {
        let mut wanted = BTreeMap::new();
        let mut covered = Vec::new();
        for (filter, identifier) in &self.identifiers {
            let Some(entry) = self.entries.get(identifier) else { continue };
            let widest = if merged && !filter.is_shared() { self.widest(filter) } else { None };
            match widest {
                Some(widest) => covered.push((widest, entry.qos())),
                None => drop(wanted.insert(*identifier, entry.subscription(*identifier))),
            }
        }
        for (widest, qos) in covered {
            if let Some(subscription) = wanted.get_mut(&widest) {
                subscription.qos = subscription.qos.max(qos);
            }
        }
        let mut wanted: Vec<_> = wanted.into_values().collect();
        wanted.sort_unstable_by(|one, other| one.filter.cmp(&other.filter));
        wanted
    }

    /// A filter that contains this one and lies within no other.
    fn widest(&self, filter: &TopicFilter) -> Option<u32> {
        let mut widest: Option<(u32, &TopicFilter)> = None;
        let dollar = filter.levels().next().is_some_and(|level| level.starts_with('$'));
        let levels: Vec<_> = filter.levels().collect();
        self.trie.containing(&levels, dollar, &mut |identifier| {
            let Some(entry) = self.entries.get(&identifier) else { return };
            let is_wider = entry.filter != *filter
                && !entry.filter.is_shared()
                && widest.is_none_or(|(_, other)| entry.filter.contains(other));
            if is_wider {
                widest = Some((identifier, &entry.filter));
            }
        });
        let (identifier, wider) = widest?;
        // Two that contain it may not contain each other; what contains the one found goes on.
        self.widest(wider).or(Some(identifier))
    }

    /// Who subscribed to the filter.
    pub fn subscribers(&self, filter: &TopicFilter) -> impl Iterator<Item = SubscriberId> {
        let entry = self.identifiers.get(filter).and_then(|identifier| self.entries.get(identifier));
        entry.into_iter().flat_map(|entry| entry.subscribers.iter().map(|(subscriber, _)| *subscriber))
    }

    /// Puts the subscribers of a message into `found`, each once. `identifiers` are
    /// those the broker sent with it; `kept` says that it is a retained message.
    pub fn find(&self, topic: &TopicName, identifiers: &[u32], kept: bool, found: &mut Vec<SubscriberId>) {
        found.clear();
        let mut filters = 0;
        let mut add = |identifier: u32| {
            let Some(entry) = self.entries.get(&identifier) else {
                return;
            };
            if entry.filter.begins_with_wildcard() && topic.levels().next() == Some(HOST_PREFIX) {
                return;
            }
            filters += 1;
            let meant = |subscriber: &SubscriberId| !kept || entry.asked_last.is_none_or(|asked| asked == *subscriber);
            found.extend(entry.subscribers.iter().map(|(subscriber, _)| *subscriber).filter(meant));
        };
        // The broker may still send numbers that an earlier run of the host gave.
        let ours = |identifier: &&u32| self.entries.get(identifier).is_some_and(|entry| entry.filter.matches(topic));
        let mut named = identifiers.iter().filter(ours).peekable();
        let dollar = topic.as_str().starts_with('$');
        if named.peek().is_some() {
            named.for_each(|identifier| add(*identifier));
        } else if kept {
            // It is for whoever asked last, by whichever of these filters.
            let mut matching = Vec::new();
            self.trie.find(&mut topic.levels(), dollar, &mut |identifier| matching.push(identifier));
            let round = |identifier: &u32| self.entries.get(identifier).map(|entry| entry.round);
            let last = matching.iter().map(round).max();
            matching.into_iter().filter(|identifier| Some(round(identifier)) == last).for_each(add);
        } else {
            self.trie.find(&mut topic.levels(), dollar, &mut add);
        }
        // A filter has each of its subscribers once.
        if filters > 1 {
            found.sort_unstable();
            found.dedup();
        }
    }

    fn insert(&mut self, filter: TopicFilter) -> u32 {
        const HIGHEST: u32 = 268_435_455;
        loop {
            self.last_identifier = self.last_identifier % HIGHEST + 1;
            if !self.entries.contains_key(&self.last_identifier) {
                break;
            }
        }
        self.trie.insert(&mut filter.levels(), self.last_identifier);
        self.identifiers.insert(filter, self.last_identifier);
        self.last_identifier
    }
}

/// What the broker has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// First these, so that a wider filter is in place before a narrower one goes.
    pub subscribe: Vec<Subscription>,
    /// Then these.
    pub unsubscribe: Vec<TopicFilter>,
}

impl Plan {
    /// From what the broker has to what is wanted.
    pub fn between(at_broker: &BTreeMap<TopicFilter, Subscription>, wanted: &[Subscription]) -> Self {
        let is_new = |subscription: &&Subscription| at_broker.get(&subscription.filter) != Some(*subscription);
        let kept: HashSet<_> = wanted.iter().map(|subscription| &subscription.filter).collect();
        Self {
            subscribe: wanted.iter().filter(is_new).cloned().collect(),
            unsubscribe: at_broker.keys().filter(|filter| !kept.contains(filter)).cloned().collect(),
        }
    }
}

impl Entry {
    fn qos(&self) -> Qos {
        self.subscribers.iter().map(|(_, qos)| *qos).max().unwrap_or(Qos::AtMostOnce)
    }

    fn subscription(&self, identifier: u32) -> Subscription {
        Subscription { filter: self.filter.clone(), qos: self.qos(), identifier }
    }
}

impl Node {
    fn insert(&mut self, levels: &mut dyn Iterator<Item = &str>, identifier: u32) {
        match levels.next() {
            None => self.end.push(identifier),
            Some("#") => self.hash.push(identifier),
            Some("+") => self.plus.get_or_insert_default().insert(levels, identifier),
            Some(level) => self.levels.entry(level.to_owned()).or_default().insert(levels, identifier),
        }
    }

    fn remove(&mut self, levels: &mut dyn Iterator<Item = &str>, identifier: u32) {
        match levels.next() {
            None => self.end.retain(|known| *known != identifier),
            Some("#") => self.hash.retain(|known| *known != identifier),
            Some("+") => {
                if let Some(plus) = &mut self.plus {
                    plus.remove(levels, identifier);
                    if plus.is_empty() {
                        self.plus = None;
                    }
                }
            }
            Some(level) => {
                if let Some(node) = self.levels.get_mut(level) {
                    node.remove(levels, identifier);
                    if node.is_empty() {
                        self.levels.remove(level);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.plus.is_none() && self.hash.is_empty() && self.end.is_empty()
    }

    /// Filters that contain the one with these levels, itself included.
    fn containing(&self, levels: &[&str], dollar: bool, add: &mut impl FnMut(u32)) {
        if !dollar {
            self.hash.iter().for_each(|identifier| add(*identifier));
        }
        match levels.split_first() {
            None => self.end.iter().for_each(|identifier| add(*identifier)),
            Some((&"#", _)) => {}
            Some((level, rest)) => {
                if let Some(plus) = self.plus.as_deref().filter(|_| !dollar) {
                    plus.containing(rest, false, add);
                }
                if let Some(node) = self.levels.get(*level) {
                    node.containing(rest, false, add);
                }
            }
        }
    }

    /// `dollar`: the topic begins with `$`, so wildcards in this first level don't match it.
    fn find<'a, I>(&self, levels: &mut I, dollar: bool, add: &mut impl FnMut(u32))
    where
        I: Iterator<Item = &'a str> + Clone,
    {
        if !dollar {
            self.hash.iter().for_each(|identifier| add(*identifier));
        }
        let Some(level) = levels.next() else {
            self.end.iter().for_each(|identifier| add(*identifier));
            return;
        };
        if let Some(plus) = self.plus.as_deref().filter(|_| !dollar) {
            plus.find(&mut levels.clone(), false, add);
        }
        if let Some(node) = self.levels.get(level) {
            node.find(levels, false, add);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text.to_owned()).unwrap()
    }

    fn find(router: &Router, topic: &str) -> Vec<SubscriberId> {
        find_with(router, topic, &[], false)
    }

    fn find_with(router: &Router, topic: &str, identifiers: &[u32], kept: bool) -> Vec<SubscriberId> {
        let mut found = Vec::new();
        router.find(&TopicName::parse(topic.to_owned()).unwrap(), identifiers, kept, &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn identical_filters_are_one_subscription_at_the_highest_qos() {
        let mut router = Router::default();
        let first = router.subscribe(1, filter("a/+"), Qos::AtMostOnce, UnderWay::Nothing);
        let second = router.subscribe(2, filter("a/+"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(first.identifier, second.identifier);
        assert_eq!(second.qos, Qos::AtLeastOnce);
        assert_eq!(router.wanted(false), vec![second]);
        assert_eq!(router.unsubscribe(1, &filter("a/+")), None);
        assert_eq!(router.unsubscribe(2, &filter("a/+")), Some(filter("a/+")));
        assert!(router.trie.is_empty() && router.entries.is_empty());
    }

    #[test]
    fn a_subscriber_with_overlapping_filters_gets_one_copy_of_one_arrival() {
        let mut router = Router::default();
        router.subscribe(1, filter("a/#"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(1, filter("a/b"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("+/b"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(find(&router, "a/b"), [1, 2]);
        assert_eq!(find(&router, "a"), [1]);
        assert_eq!(find(&router, "c"), [0; 0]);
    }

    #[test]
    fn identifiers_tell_copies_apart() {
        let mut router = Router::default();
        let wide = router.subscribe(1, filter("a/#"), Qos::AtLeastOnce, UnderWay::Nothing).identifier;
        let narrow = router.subscribe(2, filter("a/b"), Qos::AtLeastOnce, UnderWay::Nothing).identifier;
        assert_eq!(find_with(&router, "a/b", &[wide], false), [1]);
        assert_eq!(find_with(&router, "a/b", &[narrow], false), [2]);
        assert_eq!(find_with(&router, "a/b", &[wide, narrow], false), [1, 2]);
        assert_eq!(find_with(&router, "a/c", &[narrow], false), [1], "a number of an earlier run");
        assert_eq!(find_with(&router, "a/b", &[77], false), [1, 2]);
    }

    #[test]
    fn kept_messages_go_to_the_one_who_asked_last() {
        let mut router = Router::default();
        router.subscribe(1, filter("a"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("a"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(find_with(&router, "a", &[], true), [2]);
        assert_eq!(find_with(&router, "a", &[], false), [1, 2]);
        router.ask_for_all();
        assert_eq!(find_with(&router, "a", &[], true), [1, 2]);
    }

    #[test]
    fn kept_messages_go_to_all_who_asked_at_the_same_time() {
        let mut router = Router::default();
        router.subscribe(1, filter("a"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("a"), Qos::AtLeastOnce, UnderWay::This);
        assert_eq!(find_with(&router, "a", &[], true), [1, 2]);
    }

    /// Where copies can't be told apart, what a late subscriber's narrower filter brings is its alone.
    #[test]
    fn kept_messages_go_to_the_filter_that_was_asked_for_last() {
        let mut router = Router::default();
        router.subscribe(1, filter("a/#"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("a/b"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(find_with(&router, "a/b", &[], true), [2]);
        assert_eq!(find_with(&router, "a/c", &[], true), [1], "late, but nobody else's");
        assert_eq!(find_with(&router, "a/b", &[], false), [1, 2]);
        router.subscribe(3, filter("+/b"), Qos::AtLeastOnce, UnderWay::Others);
        assert_eq!(find_with(&router, "a/b", &[], true), [2, 3], "asked for at the same time");
        router.subscribe(1, filter("a/#"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(find_with(&router, "a/b", &[], true), [1]);
        router.ask_for_all();
        assert_eq!(find_with(&router, "a/b", &[], true), [1, 2, 3]);
    }

    fn wanted(router: &Router, merged: bool) -> Vec<(String, Qos)> {
        router.wanted(merged).into_iter().map(|wanted| (wanted.filter.to_string(), wanted.qos)).collect()
    }

    #[test]
    fn filters_within_others_are_left_out_where_copies_cannot_be_told_apart() {
        use Qos::{AtLeastOnce as One, AtMostOnce as Zero};
        let mut router = Router::default();
        for (text, qos) in [
            ("a/#", Zero),
            ("a/+/c", Zero),
            ("a/b/c", One),
            ("a", Zero),
            ("b/+", Zero),
            ("$share/g/a/b", Zero),
            ("$SYS/x", Zero),
            ("+/b", Zero),
        ] {
            router.subscribe(1, filter(text), qos, UnderWay::Nothing);
        }
        assert_eq!(wanted(&router, false).len(), 8);
        let expected = [("$SYS/x", Zero), ("$share/g/a/b", Zero), ("+/b", Zero), ("a/#", One), ("b/+", Zero)];
        assert_eq!(wanted(&router, true), expected.map(|(text, qos)| (text.to_owned(), qos)));
        router.subscribe(2, filter("#"), Zero, UnderWay::Nothing);
        let expected = [("#", One), ("$SYS/x", Zero), ("$share/g/a/b", Zero)];
        assert_eq!(wanted(&router, true), expected.map(|(text, qos)| (text.to_owned(), qos)));
        router.unsubscribe(2, &filter("#"));
        router.unsubscribe(1, &filter("a/#"));
        assert!(wanted(&router, true).contains(&("a/+/c".to_owned(), One)), "{:?}", wanted(&router, true));
    }

    #[test]
    fn a_plan_leaves_alone_what_is_in_place() {
        let mut router = Router::default();
        let kept = router.subscribe(1, filter("kept"), Qos::AtLeastOnce, UnderWay::Nothing);
        let raised = router.subscribe(1, filter("raised"), Qos::AtMostOnce, UnderWay::Nothing);
        let gone = router.subscribe(1, filter("gone"), Qos::AtMostOnce, UnderWay::Nothing);
        let there = [kept, raised, gone].map(|subscription| (subscription.filter.clone(), subscription));
        router.subscribe(2, filter("raised"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("new"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.unsubscribe(1, &filter("gone"));
        let plan = Plan::between(&there.into(), &router.wanted(false));
        let asked: Vec<_> = plan.subscribe.iter().map(|subscription| subscription.filter.as_str()).collect();
        assert_eq!((asked, plan.unsubscribe), (vec!["new", "raised"], vec![filter("gone")]));
    }

    #[test]
    fn numbers_of_an_earlier_run_are_kept_and_not_given_again() {
        let mut router = Router::default();
        router.restore(1, filter("b"), Qos::AtLeastOnce, 7);
        router.restore(2, filter("b"), Qos::AtLeastOnce, 7);
        router.restore(1, filter("a"), Qos::AtMostOnce, 3);
        assert_eq!(router.subscription(&filter("b")).unwrap().identifier, 7);
        assert_eq!(router.subscription(&filter("a")).unwrap().identifier, 3);
        let identifiers: std::collections::HashSet<_> = (0..10)
            .map(|number| {
                router.subscribe(1, filter(&format!("n/{number}")), Qos::AtMostOnce, UnderWay::Nothing).identifier
            })
            .collect();
        assert!(identifiers.len() == 10 && !identifiers.contains(&7) && !identifiers.contains(&3));
        assert_eq!(find(&router, "b"), [1, 2]);
    }

    #[test]
    fn shared_subscriptions_match_by_the_filter_within() {
        let mut router = Router::default();
        let shared = router.subscribe(1, filter("$share/group/jobs/+"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("jobs/#"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(find(&router, "jobs/1"), [1, 2]);
        assert_eq!(find_with(&router, "jobs/1", &[shared.identifier], false), [1]);
    }

    #[test]
    fn wildcards_do_not_reach_the_brokers_and_the_hosts_topics() {
        let mut router = Router::default();
        router.subscribe(1, filter("#"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("alphorn/+/status"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(3, filter("$SYS/#"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(find(&router, "alphorn/x/status"), [2]);
        assert_eq!(find(&router, "$SYS/a"), [3]);
    }

    #[test]
    fn removing_a_subscriber_leaves_what_others_want() {
        let mut router = Router::default();
        router.subscribe(1, filter("a"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(1, filter("b"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("b"), Qos::AtLeastOnce, UnderWay::Nothing);
        router.subscribe(2, filter("c"), Qos::AtLeastOnce, UnderWay::Nothing);
        assert_eq!(router.remove(1), [filter("a"), filter("b")]);
        assert_eq!((find(&router, "a"), find(&router, "b")), (vec![], vec![2]));
    }

    proptest! {
        #[test]
        fn merged_filters_match_what_all_matched(
            filters in proptest::collection::vec("\\$?([ab+]/){0,3}([ab+#])", 1..20), topic in "\\$?([ab]/){0,3}[ab]",
        ) {
            let mut router = Router::default();
            for text in filters {
                if let Ok(filter) = TopicFilter::parse(text) {
                    router.subscribe(1, filter, Qos::AtLeastOnce, UnderWay::Nothing);
                }
            }
            let name = TopicName::parse(topic).unwrap();
            let merged = router.wanted(true);
            let matching = |wanted: &[Subscription]| wanted.iter().any(|wanted| wanted.filter.matches(&name));
            prop_assert_eq!(matching(&merged), matching(&router.wanted(false)));
            for one in &merged {
                prop_assert!(merged.iter().all(|other| one == other || !other.filter.contains(&one.filter)));
            }
        }

        #[test]
        fn the_tree_agrees_with_matching_each_filter(
            filters in proptest::collection::vec("\\$?([ab+]/){0,3}([ab+#])", 1..20), topic in "\\$?([ab]/){0,3}[ab]",
        ) {
            let mut router = Router::default();
            let filters: Vec<_> = filters.iter().filter_map(|text| TopicFilter::parse(text.clone()).ok()).collect();
            for (subscriber, filter) in filters.iter().enumerate() {
                router.subscribe(subscriber as u32, filter.clone(), Qos::AtLeastOnce, UnderWay::Nothing);
            }
            let name = TopicName::parse(topic.clone()).unwrap();
            let expected: Vec<_> =
                (0..).zip(&filters).filter(|(_, filter)| filter.matches(&name)).map(|(subscriber, _)| subscriber).collect();
            prop_assert_eq!(find(&router, &topic), expected);
        }
    }
}
