//! Why connections die: what this side has sent is suspected, tried, and put into quarantine.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{
    super::{
        client::Notice,
        codec::Refusal,
        error::LinkError,
        suspects::{Charge, Conviction, Death, Item},
    },
    Task,
};
use crate::{
    message::Qos,
    outbox::{Entry, Seq},
    router::SubscriberId,
    store::{Change, Record},
    topic::{TopicFilter, TopicName},
};

impl Task {
    /// A connection that stood is gone. True: over something that was on trial.
    pub(super) fn blame(&mut self, error: &LinkError) -> bool {
        let is_explained = self.suspects.died(Instant::now(), death(error));
        while let Some(Conviction { item, charge, held }) = self.suspects.convicted() {
            match item {
                Item::Publish { owner, topic } => self.hold_back(owner, &topic, charge, held),
                Item::Subscribe(filter) => self.ban(&filter, charge),
            }
        }
        if let Some(hint) = self.suspects.hint(&self.settings.client_id) {
            warn!("{hint}");
        }
        is_explained
    }

    /// A topic of a plugin makes the broker close the connection, or fall silent.
    fn hold_back(&mut self, owner: SubscriberId, topic: &TopicName, charge: Charge, held: Option<Duration>) {
        let plugin = self.clients.get(&owner).and_then(|client| client.label.clone());
        if let Some(client) = self.clients.get(&owner) {
            client.held.hold(topic.clone());
        }
        match charge {
            Charge::Closes => error!(
                plugin = plugin.as_deref(),
                %topic,
                "the broker closes the connection whenever it gets a message on this topic from this plugin: the topic \
                 is held back until the host starts again. On AWS IoT Core the policy does not allow it: allow \
                 iot:Publish, or take the topic out of the plugin's `publish`"
            ),
            Charge::NeverAnswers => error!(
                plugin = plugin.as_deref(),
                %topic,
                "the broker never acknowledges a message on this topic from this plugin, while it acknowledges others: \
                 the topic is held back until the host starts again. Look into the broker's log for what becomes of it"
            ),
        }
        let mut reason = charge.in_words().to_owned();
        if let Some(pause) = held {
            if let Some(client) = self.clients.get(&owner) {
                client.held.hold_all(true);
            }
            let pause = humantime::format_duration(pause);
            error!(
                plugin = plugin.as_deref(),
                "the broker does not bear what this plugin publishes, on one topic after the other: all its messages \
                 are held back for {pause}, and then tried one at a time. Others are not touched. Stop the plugin, or \
                 roll it back"
            );
            reason = format!("{reason}; all messages of the plugin are held back for {pause}");
        }
        for seq in self.outbox.in_flight_on(owner, topic) {
            self.session.forget(seq);
            if let Some(entry) = self.outbox.settle(seq) {
                self.quarantine(seq, entry, &reason);
            }
        }
    }

    /// Plugins that were held back for long enough may show that they have changed.
    pub(super) fn release_held(&mut self) {
        if self.suspects.next_release().is_none() {
            return;
        }
        while let Some(owner) = self.suspects.release(Instant::now()) {
            if let Some(client) = self.clients.get(&owner) {
                client.held.hold_all(false);
            }
            let plugin = self.name(owner);
            info!(plugin = plugin.as_deref(), "its messages are held back no longer, but tried one at a time at first");
        }
    }

    /// A subscription makes the broker close the connection.
    fn ban(&mut self, filter: &TopicFilter, charge: Charge) {
        match charge {
            Charge::Closes => error!(
                %filter,
                "the broker closes the connection whenever it is asked for this subscription: it is not asked again \
                 until the host starts again. On AWS IoT Core the policy does not allow it: allow iot:Subscribe"
            ),
            Charge::NeverAnswers => error!(
                %filter,
                "the broker never answers when it is asked for this subscription, while it answers others: it is not \
                 asked again until the host starts again"
            ),
        }
        self.banned.insert(filter.clone());
        let reason = charge.in_words().to_owned();
        self.subscription_refused(filter, &Refusal { code: 0x80, reason });
    }

    /// Keeps a message aside that the broker does not bear.
    pub(super) fn quarantine(&mut self, seq: Seq, entry: Entry, reason: &str) {
        let Entry { message, owner, number, age, .. } = entry;
        let topic = message.topic.to_string();
        if let Some(plugin) = self.says(owner) {
            warn!(plugin = plugin.as_deref(), topic, "a message goes to quarantine: {reason}");
        }
        if message.qos == Qos::AtLeastOnce {
            let record = Record { message, number, age };
            let reason = reason.to_owned();
            self.change_of(owner, |owner| Change::Quarantined { owner, seq, record, reason });
        }
        self.notify(owner, Notice::Quarantined { number, topic, reason: reason.to_owned() });
    }
}

impl Charge {
    fn in_words(self) -> &'static str {
        match self {
            Self::Closes => "the broker closes the connection when it gets it",
            Self::NeverAnswers => "the broker never answers it",
        }
    }
}

fn death(error: &LinkError) -> Death {
    match error {
        LinkError::Disconnected(refusal) if refusal.is_taken_over() => Death::TakenOver,
        LinkError::Disconnected(refusal) if refusal.blames_a_packet() => Death::Blamed,
        LinkError::Broken(_) => Death::Broken,
        LinkError::Disconnected(_) | LinkError::Closed | LinkError::Tls(_) => Death::Closed,
        _ => Death::Other,
    }
}
