//! What belongs to a plugin, not to one instance of it: its place in the link, its grants, its
//! subscriptions, its state. It goes from Store to Store.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{debug, trace, warn};

use super::{
    bindings::alphorn::plugin::{mqtt, state, types},
    payload::Payloads,
    state::State,
};
use crate::{
    config::Limits,
    grants::Grants,
    link::{Client, Durable, Outcome},
    message::{Message, Properties, Qos},
    rate::Bucket,
    store::{Change, Saved},
    topic::{TopicFilter, TopicName},
};

/// Lent to the instance that runs.
pub(super) struct Lent {
    pub(super) client: Client,
    pub(super) about: Arc<About>,
    bucket: Bucket,
    payloads: Payloads,
    /// Topics it has published to, and may; the last one first.
    topics: VecDeque<TopicName>,
    /// Response topics it has named, the last one first: each is looked at once.
    responses: VecDeque<TopicName>,
    /// Its name, as what is kept on disk is kept under.
    plugin: Arc<str>,
    pub(super) state: State,
    /// Filters it has asked for.
    subscriptions: BTreeMap<TopicFilter, Qos>,
    /// Those of them this version has asked for.
    asked: BTreeSet<TopicFilter>,
    /// Refusals, and what the next version would refuse, each logged once.
    refused: BTreeSet<String>,
    /// When a publish of this call has to stop waiting for room.
    patience: Instant,
}

/// A message that is published as soon as it may be.
pub(super) struct Waiting {
    message: Message,
    /// The plugin's rate allows for it.
    has_turn: bool,
}

/// What a plugin is told about itself, and may do.
pub(super) struct About {
    pub(super) name: String,
    pub(super) client_id: String,
    pub(super) grants: Grants,
    pub(super) config: Arc<BTreeMap<String, String>>,
}

/// Filters one plugin may have; AWS IoT Core allows 50 on a connection.
const SUBSCRIPTIONS: usize = 50;

/// Topics that are remembered.
const TOPICS: usize = 8;

/// Refusals that are remembered, so that each is logged once; beyond them none is logged.
const REFUSED: usize = 64;

impl Lent {
    pub(super) fn new(client: Client, about: Arc<About>, limits: &Limits, saved: &mut Saved) -> Self {
        let now = Instant::now();
        let mut lent = Self {
            client,
            plugin: about.name.as_str().into(),
            about,
            bucket: Bucket::new(limits.publish_rate, now),
            payloads: Payloads::default(),
            topics: VecDeque::new(),
            responses: VecDeque::new(),
            state: State::new(std::mem::take(&mut saved.state), limits.state_bytes),
            subscriptions: std::mem::take(&mut saved.subscriptions).into_iter().collect(),
            asked: BTreeSet::new(),
            refused: BTreeSet::new(),
            patience: now,
        };
        lent.release(|about, filter| !about.grants.allow_subscribe(filter));
        lent
    }

    /// A call begins that may take so long. A publish that waits for room leaves the guest
    /// a tenth of that to make something of the refusal.
    pub(super) fn call_begins(&mut self, now: Instant, deadline: Duration) {
        self.patience = now + deadline * 9 / 10;
        self.undo();
    }

    /// What a call that did not end well wrote to the state never was.
    pub(super) fn undo(&mut self) {
        self.state.undo();
    }

    /// A call has ended well: what it wrote takes effect, with what else is to be written. What
    /// comes out is to be waited for before the next call.
    #[must_use]
    pub(super) fn call_ended(&mut self, mut outcome: Outcome) -> Option<Durable> {
        outcome.changes.extend(self.writes());
        self.client.end_call(outcome)
    }

    /// What the call that has ended well wrote to the state.
    pub(super) fn writes(&mut self) -> Vec<Change> {
        let plugin = &self.plugin;
        let change = |(key, value)| Change::State { plugin: plugin.clone(), key, value };
        self.state.accept().map(change).collect()
    }

    /// Puts another configuration in force; subscriptions it does not grant end.
    pub(super) fn configure(&mut self, about: Arc<About>, limits: &Limits) {
        self.about = about;
        self.topics.clear();
        self.responses.clear();
        self.bucket = Bucket::new(limits.publish_rate, Instant::now());
        self.state.set_limit(limits.state_bytes);
        self.refused.clear();
        self.release(|about, filter| !about.grants.allow_subscribe(filter));
    }

    /// From now on it is noted which filters are asked for. Those there are come out.
    pub(super) fn note_subscriptions(&mut self) -> BTreeMap<TopicFilter, Qos> {
        self.asked.clear();
        self.subscriptions.clone()
    }

    /// All there are count as asked for: nobody knows any more which were.
    pub(super) fn ask_for_all(&mut self) {
        self.asked = self.subscriptions.keys().cloned().collect();
    }

    /// Gives back the filters there were not before, and asks for those there were.
    pub(super) fn restore_subscriptions(&mut self, before: BTreeMap<TopicFilter, Qos>) {
        self.release(|_, filter| !before.contains_key(filter));
        for (filter, qos) in before {
            if !self.subscriptions.contains_key(&filter) && self.about.grants.allow_subscribe(&filter) {
                self.subscriptions.insert(filter.clone(), qos);
                self.client.subscribe(filter, qos);
            }
        }
    }

    /// Gives back the filters nobody has asked for since.
    pub(super) fn release_others(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        self.release(|_, filter| !asked.contains(filter));
    }

    fn release(&mut self, is_superfluous: impl Fn(&About, &TopicFilter) -> bool) {
        let (client, about) = (&self.client, &self.about);
        self.subscriptions.retain(|filter, _| {
            let goes = is_superfluous(about, filter);
            if goes {
                debug!(%filter, "given back");
                client.unsubscribe(filter.clone());
            }
            !goes
        });
    }

    pub(super) fn state(&mut self) -> Result<&mut State, state::StateError> {
        if !self.client.is_durable() {
            let why = "this host keeps nothing on disk; set `host.data_dir`";
            return Err(state::StateError::Other(why.to_owned()));
        }
        Ok(&mut self.state)
    }

    /// Checks what is the plugin's own matter; the rest is the link's.
    fn checked(&mut self, message: types::MessageResult, now: Instant) -> Result<Message, mqtt::PublishError> {
        let topic = self.granted(message.topic)?;
        let properties = message.properties.map(Properties::try_from).transpose()?.map(Properties::share);
        if let Some(response) = properties.as_ref().and_then(|properties| properties.response_topic.as_ref()) {
            self.look_at_response(response);
        }
        self.bucket.take(now).map_err(|wait| mqtt::PublishError::RateLimited(milliseconds(wait)))?;
        let qos = message.qos.into();
        let payload = self.payloads.pack(message.payload, qos);
        trace!(%topic, bytes = payload.len(), "publish");
        Ok(Message { topic, payload, qos, retain: message.retain, properties })
    }

    /// A topic it may publish to. Most plugins publish to a few again and again.
    fn granted(&mut self, topic: String) -> Result<TopicName, mqtt::PublishError> {
        if let Some(at) = self.topics.iter().position(|known| known.as_str() == topic) {
            self.topics.swap(0, at);
            if let Some(known) = self.topics.front() {
                return Ok(known.clone());
            }
        }
        let topic = TopicName::parse(topic)
            .map_err(|cause| mqtt::PublishError::InvalidTopic(format!("a topic can't be used: {cause}")))?;
        if !self.about.grants.allow_publish(&topic) {
            let granted = listed(self.about.grants.publish());
            let why = format!(
                "`{topic}` is not within the plugin's publish grants ({granted}): add it to `publish` of [plugins.{}]",
                self.about.name
            );
            self.log_refusal(&why);
            return Err(mqtt::PublishError::NotGranted(why));
        }
        self.topics.truncate(TOPICS - 1);
        self.topics.push_front(topic.clone());
        Ok(topic)
    }

    pub(super) async fn publish(&mut self, message: types::MessageResult) -> Result<u32, mqtt::PublishError> {
        let now = Instant::now();
        let message = self.checked(message, now)?;
        Ok(self.client.publish(message, now, self.patience).await?)
    }

    /// The same where nobody ever waits for room.
    pub(super) fn publish_at_once(&mut self, message: types::MessageResult) -> Result<u32, mqtt::PublishError> {
        let now = Instant::now();
        let message = self.checked(message, now)?;
        Ok(self.client.publish_at_once(message, now)?)
    }

    /// A message for [`Self::publish_in_time`], if it may be published at all.
    pub(super) fn waiting(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        qos: Qos,
        retain: bool,
    ) -> Result<Waiting, mqtt::PublishError> {
        let topic = self.granted(topic)?;
        let payload = self.payloads.pack(payload, qos);
        Ok(Waiting { message: Message { topic, payload, qos, retain, properties: None }, has_turn: false })
    }

    /// Publishes for who can't be told to come again: where a plugin would be, this waits. Safe to
    /// drop; nothing was published then.
    pub(super) async fn publish_in_time(&mut self, waiting: &mut Waiting) -> Result<u32, mqtt::PublishError> {
        while !waiting.has_turn {
            match self.bucket.take(Instant::now()) {
                Ok(()) => waiting.has_turn = true,
                Err(wait) => sleep(wait).await,
            }
        }
        let Message { topic, payload, .. } = &waiting.message;
        trace!(%topic, bytes = payload.len(), "publish");
        Ok(self.client.publish_in_time(&waiting.message).await?)
    }

    /// Subscribes who can't ask for it. Whatever else there is ends, unless somebody may still
    /// need it: the version before, if this one fails.
    pub(super) fn subscribe_as_configured(&mut self, filters: &[TopicFilter], qos: Qos, is_successor: bool) {
        if !is_successor {
            self.release(|_, filter| !filters.contains(filter));
        }
        for filter in filters {
            if let Some(why) = self.about.grants.doubt_subscribe(filter) {
                self.warn_once(&why);
            }
            debug!(%filter, "subscribe");
            self.subscriptions.insert(filter.clone(), qos);
            self.asked.insert(filter.clone());
            self.client.subscribe(filter.clone(), qos);
        }
    }

    pub(super) fn subscribe(&mut self, filter: String, qos: types::Qos) -> Result<(), mqtt::SubscribeError> {
        let filter = TopicFilter::parse(filter.clone())
            .map_err(|cause| mqtt::SubscribeError::InvalidFilter(format!("`{filter}`: {cause}")))?;
        if !self.about.grants.allow_subscribe(&filter) {
            let granted = listed(self.about.grants.subscribe());
            let why = format!(
                "`{filter}` does not lie within the plugin's subscribe grants ({granted}): add it to `subscribe` of \
                 [plugins.{}]",
                self.about.name
            );
            self.log_refusal(&why);
            return Err(mqtt::SubscribeError::NotGranted(why));
        }
        if !self.subscriptions.contains_key(&filter) && self.subscriptions.len() >= SUBSCRIPTIONS {
            return Err(mqtt::SubscribeError::LimitReached(SUBSCRIPTIONS as u32));
        }
        self.bucket.take(Instant::now()).map_err(|wait| {
            mqtt::SubscribeError::Other(format!("the plugin's rate is used up; try again in {} ms", milliseconds(wait)))
        })?;
        if let Some(why) = self.about.grants.doubt_subscribe(&filter) {
            self.warn_once(&why);
        }
        debug!(%filter, "subscribe");
        let qos = qos.into();
        self.subscriptions.insert(filter.clone(), qos);
        self.asked.insert(filter.clone());
        self.client.subscribe(filter, qos);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, filter: String) -> Result<(), mqtt::SubscribeError> {
        let filter = TopicFilter::parse(filter.clone())
            .map_err(|cause| mqtt::SubscribeError::InvalidFilter(format!("`{filter}`: {cause}")))?;
        self.asked.remove(&filter);
        if self.subscriptions.remove(&filter).is_some() {
            self.client.unsubscribe(filter);
        }
        Ok(())
    }

    fn look_at_response(&mut self, topic: &TopicName) {
        if self.responses.contains(topic) {
            return;
        }
        self.responses.truncate(TOPICS - 1);
        self.responses.push_front(topic.clone());
        if let Some(why) = self.about.grants.doubt_response(topic) {
            self.warn_once(&why);
        }
    }

    fn log_refusal(&mut self, why: &str) {
        self.warn_once(&format!("not granted: {why}"));
    }

    fn warn_once(&mut self, why: &str) {
        if self.refused.len() < REFUSED && self.refused.insert(why.to_owned()) {
            warn!("{why}");
        }
    }
}

fn listed(filters: &[TopicFilter]) -> String {
    if filters.is_empty() {
        return "none".to_owned();
    }
    filters.iter().map(TopicFilter::as_str).collect::<Vec<_>>().join(", ")
}

fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
}
