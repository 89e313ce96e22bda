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

use std::collections::{BTreeMap, HashMap};

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
    entries: HashMap<u32, Entry>,
    /// Ascending, so that subscribing again after a lost session is repeatable.
    identifiers: BTreeMap<TopicFilter, u32>,
    trie: Node,
    last_identifier: u32,
}

#[derive(Debug)]
struct Entry {
    filter: TopicFilter,
    subscribers: Vec<(SubscriberId, Qos)>,
    /// Who asked last: the broker sends kept messages again at each SUBSCRIBE, and
    /// they are for the one who asked. None: for all of them.
    asked_last: Option<SubscriberId>,
}

/// One level of the topic tree.
#[derive(Debug, Default)]
struct Node {
    levels: HashMap<String, Node>,
    plus: Option<Box<Node>>,
    /// Filters that end here with `#`.
    hash: Vec<u32>,
    /// Filters that end here.
    end: Vec<u32>,
}

impl Router {
    /// Records the subscription. The broker has to be asked each time: it then sends
    /// the messages it keeps. `asked`: it is being asked for this filter already, so
    /// what it sends is not for the newest subscriber alone.
    pub fn subscribe(&mut self, subscriber: SubscriberId, filter: TopicFilter, qos: Qos, asked: bool) -> Subscription {
        let identifier = match self.identifiers.get(&filter) {
            Some(identifier) => *identifier,
            None => self.insert(filter.clone()),
        };
        let entry = self.entries.entry(identifier).or_insert_with(|| Entry {
            filter,
            subscribers: Vec::new(),
            asked_last: None,
        });
        match entry.subscribers.iter_mut().find(|(known, _)| *known == subscriber) {
            Some((_, wanted)) => *wanted = qos,
            None => entry.subscribers.push((subscriber, qos)),
        }
        let alone = !asked || entry.asked_last == Some(subscriber);
        entry.asked_last = alone.then_some(subscriber);
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

    /// Takes back all of a subscriber's; filters come out that nobody wants any more.
    pub fn remove(&mut self, subscriber: SubscriberId) -> Vec<TopicFilter> {
        let filters: Vec<_> = self.identifiers.keys().cloned().collect();
        filters.iter().filter_map(|filter| self.unsubscribe(subscriber, filter)).collect()
    }

    /// The whole table, to ask a broker for that has lost the session.
    pub fn all(&mut self) -> Vec<Subscription> {
        let entries = &mut self.entries;
        let all = self.identifiers.values().filter_map(|identifier| {
            let entry = entries.get_mut(identifier)?;
            entry.asked_last = None;
            Some(entry.subscription(*identifier))
        });
        all.collect()
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
        let mut add = |identifier: u32| {
            let Some(entry) = self.entries.get(&identifier) else {
                return;
            };
            if entry.filter.begins_with_wildcard() && topic.levels().next() == Some(HOST_PREFIX) {
                return;
            }
            for (subscriber, _) in &entry.subscribers {
                let meant = !kept || entry.asked_last.is_none_or(|asked| asked == *subscriber);
                if meant && !found.contains(subscriber) {
                    found.push(*subscriber);
                }
            }
        };
        // The broker may still send numbers that an earlier run of the host gave.
        let ours = |identifier: &&u32| self.entries.get(identifier).is_some_and(|entry| entry.filter.matches(topic));
        let mut named = identifiers.iter().filter(ours).peekable();
        if named.peek().is_some() {
            named.for_each(|identifier| add(*identifier));
        } else {
            let dollar = topic.as_str().starts_with('$');
            self.trie.find(&mut topic.levels(), dollar, &mut add);
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

impl Entry {
    fn subscription(&self, identifier: u32) -> Subscription {
        let qos = self.subscribers.iter().map(|(_, qos)| *qos).max().unwrap_or(Qos::AtMostOnce);
        Subscription { filter: self.filter.clone(), qos, identifier }
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
        let first = router.subscribe(1, filter("a/+"), Qos::AtMostOnce, false);
        let second = router.subscribe(2, filter("a/+"), Qos::AtLeastOnce, false);
        assert_eq!(first.identifier, second.identifier);
        assert_eq!(second.qos, Qos::AtLeastOnce);
        assert_eq!(router.all(), vec![second]);
        assert_eq!(router.unsubscribe(1, &filter("a/+")), None);
        assert_eq!(router.unsubscribe(2, &filter("a/+")), Some(filter("a/+")));
        assert!(router.trie.is_empty() && router.entries.is_empty());
    }

    #[test]
    fn a_subscriber_with_overlapping_filters_gets_one_copy_of_one_arrival() {
        let mut router = Router::default();
        router.subscribe(1, filter("a/#"), Qos::AtLeastOnce, false);
        router.subscribe(1, filter("a/b"), Qos::AtLeastOnce, false);
        router.subscribe(2, filter("+/b"), Qos::AtLeastOnce, false);
        assert_eq!(find(&router, "a/b"), [1, 2]);
        assert_eq!(find(&router, "a"), [1]);
        assert_eq!(find(&router, "c"), [0; 0]);
    }

    #[test]
    fn identifiers_tell_copies_apart() {
        let mut router = Router::default();
        let wide = router.subscribe(1, filter("a/#"), Qos::AtLeastOnce, false).identifier;
        let narrow = router.subscribe(2, filter("a/b"), Qos::AtLeastOnce, false).identifier;
        assert_eq!(find_with(&router, "a/b", &[wide], false), [1]);
        assert_eq!(find_with(&router, "a/b", &[narrow], false), [2]);
        assert_eq!(find_with(&router, "a/b", &[wide, narrow], false), [1, 2]);
        assert_eq!(find_with(&router, "a/c", &[narrow], false), [1], "a number of an earlier run");
        assert_eq!(find_with(&router, "a/b", &[77], false), [1, 2]);
    }

    #[test]
    fn kept_messages_go_to_the_one_who_asked_last() {
        let mut router = Router::default();
        router.subscribe(1, filter("a"), Qos::AtLeastOnce, false);
        router.subscribe(2, filter("a"), Qos::AtLeastOnce, false);
        assert_eq!(find_with(&router, "a", &[], true), [2]);
        assert_eq!(find_with(&router, "a", &[], false), [1, 2]);
        router.all();
        assert_eq!(find_with(&router, "a", &[], true), [1, 2]);
    }

    #[test]
    fn kept_messages_go_to_all_who_asked_at_the_same_time() {
        let mut router = Router::default();
        router.subscribe(1, filter("a"), Qos::AtLeastOnce, false);
        router.subscribe(2, filter("a"), Qos::AtLeastOnce, true);
        assert_eq!(find_with(&router, "a", &[], true), [1, 2]);
    }

    #[test]
    fn wildcards_do_not_reach_the_brokers_and_the_hosts_topics() {
        let mut router = Router::default();
        router.subscribe(1, filter("#"), Qos::AtLeastOnce, false);
        router.subscribe(2, filter("alphorn/+/status"), Qos::AtLeastOnce, false);
        router.subscribe(3, filter("$SYS/#"), Qos::AtLeastOnce, false);
        assert_eq!(find(&router, "alphorn/x/status"), [2]);
        assert_eq!(find(&router, "$SYS/a"), [3]);
    }

    #[test]
    fn removing_a_subscriber_leaves_what_others_want() {
        let mut router = Router::default();
        router.subscribe(1, filter("a"), Qos::AtLeastOnce, false);
        router.subscribe(1, filter("b"), Qos::AtLeastOnce, false);
        router.subscribe(2, filter("b"), Qos::AtLeastOnce, false);
        assert_eq!(router.remove(1), [filter("a")]);
        assert_eq!(find(&router, "b"), [2]);
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_matching_each_filter(
            filters in proptest::collection::vec("\\$?([ab+]/){0,3}([ab+#])", 1..20), topic in "\\$?([ab]/){0,3}[ab]",
        ) {
            let mut router = Router::default();
            let filters: Vec<_> = filters.iter().filter_map(|text| TopicFilter::parse(text.clone()).ok()).collect();
            for (subscriber, filter) in filters.iter().enumerate() {
                router.subscribe(subscriber as u32, filter.clone(), Qos::AtLeastOnce, false);
            }
            let name = TopicName::parse(topic.clone()).unwrap();
            let expected: Vec<_> =
                (0..).zip(&filters).filter(|(_, filter)| filter.matches(&name)).map(|(subscriber, _)| subscriber).collect();
            prop_assert_eq!(find(&router, &topic), expected);
        }
    }
}
