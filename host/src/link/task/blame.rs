//! Why connections die: what this side has sent is suspected, tried, and put into quarantine.

use std::time::Instant;

use tracing::{error, warn};

use super::{
    super::{
        client::Notice,
        codec::Refusal,
        error::LinkError,
        suspects::{Death, Item},
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
    /// A connection that stood is gone.
    pub(super) fn blame(&mut self, error: &LinkError) {
        self.suspects.died(Instant::now(), death(error));
        while let Some(item) = self.suspects.convicted() {
            match item {
                Item::Publish { owner, topic } => self.hold_back(owner, &topic),
                Item::Subscribe(filter) => self.ban(&filter),
            }
        }
        if let Some(hint) = self.suspects.hint(&self.settings.client_id) {
            warn!("{hint}");
        }
    }

    /// A topic of a plugin makes the broker close the connection.
    fn hold_back(&mut self, owner: SubscriberId, topic: &TopicName) {
        if let Some(client) = self.clients.get(&owner) {
            client.held.hold(topic.clone());
        }
        error!(
            plugin = self.name(owner).as_deref(),
            %topic,
            "the broker closes the connection whenever it gets a message on this topic from this plugin: the topic \
             is held back until the host starts again. On AWS IoT Core the policy does not allow it: allow \
             iot:Publish, or take the topic out of the plugin's `publish`"
        );
        for seq in self.outbox.in_flight_on(owner, topic) {
            self.session.forget(seq);
            if let Some(entry) = self.outbox.settle(seq) {
                self.quarantine(seq, entry, "the broker closes the connection when it gets it");
            }
        }
    }

    /// A subscription makes the broker close the connection.
    fn ban(&mut self, filter: &TopicFilter) {
        error!(
            %filter,
            "the broker closes the connection whenever it is asked for this subscription: it is not asked again \
             until the host starts again. On AWS IoT Core the policy does not allow it: allow iot:Subscribe"
        );
        self.banned.insert(filter.clone());
        let reason = "the broker closes the connection when it is asked for it".to_owned();
        self.subscription_refused(filter, &Refusal { code: 0x80, reason });
    }

    /// Keeps a message aside that the broker does not bear.
    pub(super) fn quarantine(&mut self, seq: Seq, entry: Entry, reason: &str) {
        let Entry { message, owner, number, age, .. } = entry;
        let topic = message.topic.to_string();
        warn!(plugin = self.name(owner).as_deref(), topic, "a message goes to quarantine: {reason}");
        if message.qos == Qos::AtLeastOnce {
            let record = Record { message, number, age };
            let reason = reason.to_owned();
            self.change_of(owner, |owner| Change::Quarantined { owner, seq, record, reason });
        }
        self.notify(owner, Notice::Quarantined { number, topic, reason: reason.to_owned() });
    }
}

fn death(error: &LinkError) -> Death {
    match error {
        LinkError::Disconnected(refusal) if refusal.is_taken_over() => Death::TakenOver,
        LinkError::Disconnected(refusal) if refusal.blames_a_packet() => Death::Blamed,
        LinkError::Disconnected(_) | LinkError::Closed | LinkError::Broken(_) | LinkError::Tls(_) => Death::Closed,
        _ => Death::Other,
    }
}
