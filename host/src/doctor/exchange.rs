//! Whether an accepted connection carries a message there and back, and stays.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    report::{Check, Fault, Status},
    words,
};
use crate::{
    grants::Grants,
    link::{
        LinkError, LinkSettings, NOT_AUTHORIZED, Refusal,
        probe::{Accepted, Answer, Probe, connect},
    },
    message::{Message, Qos},
    topic::{TopicError, TopicFilter, TopicName},
};

/// MQTT 5's word for: another client has come with this client id.
const SESSION_TAKEN_OVER: u8 = 0x8e;

/// All that MQTT 3.1.1 has to refuse a subscription with.
const UNSPECIFIED: u8 = 0x80;

const SUBSCRIBE: &str = "subscribe";
const PUBLISH: &str = "publish";
const ROUND_TRIP: &str = "round-trip";
const CLIENT_ID: &str = "client-id";

/// All of them, in order.
pub(super) const ALL: [&str; 4] = [SUBSCRIBE, PUBLISH, ROUND_TRIP, CLIENT_ID];

/// Where the test message goes.
#[derive(Debug, Clone)]
pub struct TestTopic {
    name: TopicName,
    filter: TopicFilter,
}

impl TestTopic {
    /// A topic that can be subscribed to as it is.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        Ok(Self { name: TopicName::parse(text)?, filter: TopicFilter::parse(text)? })
    }

    /// The one of a client, below the host's own prefix.
    pub(super) fn of(client_id: &str) -> Result<Self, TopicError> {
        Self::parse(&format!("alphorn/{}/doctor", client_id.replace(['+', '#'], "_")))
    }

    /// The same as a filter.
    fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// A plugin may hear what comes there, or send there what others hear.
    pub(super) fn is_granted_by(&self, grants: &Grants) -> bool {
        grants.allow_subscribe(&self.filter) || grants.allow_publish(&self.name)
    }
}

impl fmt::Display for TestTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())
    }
}

/// What is tried over a connection.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    pub(super) settings: &'a LinkSettings,
    /// How long an answer may take.
    pub(super) patience: Duration,
    pub(super) topic: &'a TestTopic,
    /// Somebody has named this topic. One that nobody has named need not be allowed.
    pub(super) is_asked_for: bool,
    /// A plugin may have subscribed to just this topic, in the session that the broker keeps.
    pub(super) may_be_a_plugins: bool,
    /// What is subscribed to in place of a topic that nobody has named and that is denied.
    pub(super) granted: Option<Granted<'a>>,
}

/// A filter that the configuration lets a plugin subscribe to. Nothing is published to what
/// belongs to a plugin: that may move a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted<'a> {
    /// Whose it is.
    pub(super) plugin: &'a str,
    pub(super) filter: &'a TopicFilter,
}

/// How long another client with the same id is given to take the connection away. Whoever
/// lost it to us comes back about now.
const WATCHED: Duration = Duration::from_secs(3);

/// AWS IoT Core takes one connection a second of a client id.
const BEFORE_RECONNECT: Duration = Duration::from_millis(1100);

impl Trial<'_> {
    /// Sends a message to itself, then waits whether somebody takes the connection away.
    pub(super) async fn run(&self, accepted: Accepted) -> Vec<Check> {
        let since = Instant::now();
        let session_present = accepted.session_present();
        let mut probe = Probe::new(self.settings, self.patience, accepted);
        let mut checks = Vec::new();
        let filter = self.topic.filter();

        let mut subscribed = false;
        if self.may_be_a_plugins && session_present {
            checks.push(self.untouched());
        } else {
            // QoS 0: it is not held back by what waits for the device unacknowledged.
            let answer = probe.subscribe(filter, Qos::AtMostOnce).await;
            if let Some(stolen) = self.stolen(&answer) {
                return self.only(stolen, &[SUBSCRIBE, PUBLISH, ROUND_TRIP]);
            }
            let mut check = self.subscribed(&answer);
            // In a session that was there, a plugin may have subscribed to it.
            let granted = self.granted.filter(|_| check.status == Status::Warn && !session_present);
            let mut lost = self.again(&mut probe).await;
            subscribed = matches!(answer, Answer::Yes(_)) && matches!(lost, Ok(false));
            if let (Some(granted), Ok(_)) = (granted, &lost) {
                let answer = probe.subscribe(granted.filter, Qos::AtMostOnce).await;
                if let Some(stolen) = self.stolen(&answer) {
                    return self.only(stolen, &[SUBSCRIBE, PUBLISH, ROUND_TRIP]);
                }
                check = self.subscribed_as_granted(granted, &answer);
                if !probe.is_lost() {
                    // What it says changes nothing any more.
                    probe.unsubscribe(granted.filter).await;
                }
                lost = self.again(&mut probe).await;
            }
            checks.push(check);
            if let Err(error) = lost {
                let why = format!("the connection was not made again after it had ended: {error}");
                checks.extend([PUBLISH, ROUND_TRIP, CLIENT_ID].map(|name| Check::skip(name, &why)));
                return checks;
            }
        }

        let published = if self.may_be_a_plugins && !self.is_asked_for {
            checks.push(self.unpublished());
            None
        } else {
            let message = Message {
                topic: self.topic.name.clone(),
                payload: format!("alphorn doctor {:016x}", fastrand::u64(..)).into(),
                qos: Qos::AtLeastOnce,
                retain: false,
                properties: None,
            };
            let start = Instant::now();
            let answer = probe.publish(&message).await;
            if let Some(stolen) = self.stolen(&answer) {
                checks.extend(self.only(stolen, &[PUBLISH, ROUND_TRIP]));
                return checks;
            }
            checks.push(self.published(&answer));
            matches!(answer, Answer::Yes(_)).then_some(start)
        };
        checks.push(match (subscribed, published) {
            (false, _) => Check::skip(ROUND_TRIP, "there is no subscription"),
            (true, Some(start)) => {
                let arrival = probe.arrival().await;
                self.returned(arrival.map(|arrival| arrival.map(|arrival| arrival.saturating_duration_since(start))))
            }
            (true, None) => Check::skip(ROUND_TRIP, "the message was not published"),
        });
        if subscribed && !probe.is_lost() {
            // What it says changes nothing any more.
            probe.unsubscribe(filter).await;
        }
        checks.push(if probe.is_lost() {
            Check::skip(CLIENT_ID, "the connection had ended for another reason")
        } else {
            self.kept(probe.rest(since + WATCHED).await, since.elapsed())
        });
        if !probe.is_lost() {
            probe.close().await;
        }
        checks
    }

    /// Puts a new connection in the place of one that has ended; whether that was so.
    async fn again<'b>(&'b self, probe: &mut Probe<'b>) -> Result<bool, LinkError> {
        if !probe.is_lost() {
            return Ok(false);
        }
        sleep(BEFORE_RECONNECT).await;
        *probe = Probe::new(self.settings, self.patience, connect(self.settings, &mut |_| {}).await?);
        Ok(true)
    }

    fn untouched(&self) -> Check {
        Check::warn(
            SUBSCRIBE,
            format!("{}: not tried", self.topic),
            "the broker keeps the device's session and a plugin may have subscribed to this topic there; trying \
             would change that",
            "choose a topic that no plugin subscribes to (--topic), or another client id (--client-id)",
        )
    }

    fn unpublished(&self) -> Check {
        Check::warn(
            PUBLISH,
            format!("{}: not tried", self.topic),
            "a plugin is granted this topic, so somebody may act on what comes there",
            "choose a topic that nobody acts on: --topic",
        )
    }

    fn subscribed(&self, answer: &Answer) -> Check {
        let topic = self.topic;
        self.excused(self.asked(SUBSCRIBE, "SUBSCRIBE", topic.to_string(), answer, || {
            format!(
                "let the broker's policy allow it (AWS IoT Core: iot:Subscribe on topicfilter/{topic}, iot:Receive \
                 on topic/{topic}; changes take some minutes), or choose a topic that it allows: --topic"
            )
        }))
    }

    /// What a plugin needs counts for more than a topic that only this program has thought of.
    fn subscribed_as_granted(&self, granted: Granted<'_>, answer: &Answer) -> Check {
        let Granted { plugin, filter } = granted;
        let found = match answer {
            Answer::Yes(_) => {
                format!("{filter}, as `{plugin}` may; {} is denied, which only this test needs", self.topic)
            }
            _ => format!("{filter}, as `{plugin}` may"),
        };
        self.asked(SUBSCRIBE, "SUBSCRIBE", found, answer, || {
            format!(
                "let the broker's policy allow what the configuration grants (AWS IoT Core: iot:Subscribe on \
                 topicfilter/{filter}, iot:Receive; changes take some minutes), or change `subscribe` of the plugin"
            )
        })
    }

    /// A topic that nobody has named need not be allowed: plugins have topics of their own.
    fn excused(&self, check: Check) -> Check {
        if self.is_asked_for || check.status != Status::Fail(Fault::NotPermitted) {
            return check;
        }
        Check { status: Status::Warn, ..check }
    }

    fn published(&self, answer: &Answer) -> Check {
        let topic = self.topic;
        let found = match answer {
            Answer::Yes(took) => format!("{topic}: QoS 1, acknowledged after {}", words::short(*took)),
            _ => topic.to_string(),
        };
        self.excused(self.asked(PUBLISH, "PUBLISH", found, answer, || {
            format!(
                "let the broker's policy allow it (AWS IoT Core: iot:Publish on topic/{topic}; changes take some \
                 minutes), or choose a topic that it allows: --topic"
            )
        }))
    }

    fn asked(
        &self,
        name: &'static str,
        packet: &str,
        found: String,
        answer: &Answer,
        allow: impl FnOnce() -> String,
    ) -> Check {
        let limit = humantime::format_duration(self.patience);
        match answer {
            Answer::Yes(_) => Check::ok(name, found),
            Answer::No(refusal) if is_denial(refusal) => {
                let cause = format!("the broker's policy denies it: {refusal}");
                Check::fail(name, Fault::NotPermitted, found, cause, allow())
            }
            Answer::No(refusal) => {
                let cause = format!("the broker refused it: {refusal}");
                Check::fail(name, Fault::Broker, found, cause, "look at the broker's limits and its log")
            }
            Answer::Lost(LinkError::Disconnected(refusal)) if is_denial(refusal) => {
                let cause = format!("the broker ended the connection after {packet}: {refusal}");
                Check::fail(name, Fault::NotPermitted, found, cause, allow())
            }
            Answer::Lost(LinkError::Closed | LinkError::Broken(_)) => {
                let cause = format!(
                    "the broker closed the connection after {packet}; on AWS IoT Core that means that the policy \
                     denies it"
                );
                Check::fail(name, Fault::NotPermitted, found, cause, allow())
            }
            Answer::Lost(error) => {
                let cause = format!("after {packet}: {error}");
                Check::fail(name, Fault::Broker, found, cause, "look at the broker's log")
            }
            Answer::Late { alive: true } => {
                let cause = format!(
                    "no answer to {packet} within {limit} (`operation_timeout`), while the broker answers pings; \
                     AWS IoT Core withholds answers when it throttles"
                );
                Check::fail(name, Fault::Broker, found, cause, "look at the broker's limits and its log")
            }
            Answer::Late { alive: false } => {
                let cause = format!("no answer to {packet} within {limit} (`operation_timeout`), nor to a ping");
                Check::fail(name, Fault::Broker, found, cause, "see what the broker and the network are doing")
            }
        }
    }

    fn returned(&self, took: Result<Option<Duration>, LinkError>) -> Check {
        let policy = || {
            format!(
                "let the broker's policy allow this client to publish and to receive on `{}` (AWS IoT Core: \
                 iot:Receive), or choose a topic that it allows: --topic",
                self.topic
            )
        };
        match took {
            Ok(Some(took)) => Check::ok(ROUND_TRIP, format!("the message came back after {}", words::short(took))),
            Ok(None) => {
                let limit = humantime::format_duration(self.patience);
                let cause = format!(
                    "the broker acknowledged the message and did not deliver it within {limit}; with MQTT 3.1.1 it \
                     has no other way to deny a publish, and a policy may deny receiving alone"
                );
                let found = "the message did not come back";
                self.excused(Check::fail(ROUND_TRIP, Fault::NotPermitted, found, cause, policy()))
            }
            Err(error) => {
                let cause = format!("the connection ended while the message was awaited: {error}");
                Check::fail(ROUND_TRIP, Fault::Broker, "the message did not come back", cause, policy())
            }
        }
    }

    /// Reason code 0x8e tells it at any time.
    fn stolen(&self, answer: &Answer) -> Option<Check> {
        match answer {
            Answer::Lost(LinkError::Disconnected(refusal)) if refusal.code == SESSION_TAKEN_OVER => {
                Some(self.taken(format!("another client has connected with the same client id: {refusal}")))
            }
            _ => None,
        }
    }

    fn kept(&self, ended: Result<(), LinkError>, after: Duration) -> Check {
        let id = &self.settings.client_id;
        match ended {
            Ok(()) => Check::ok(CLIENT_ID, format!("{id}: nobody took the connection within {}", words::short(after))),
            Err(LinkError::Disconnected(refusal)) if refusal.code == SESSION_TAKEN_OVER => {
                self.taken(format!("another client has connected with the same client id: {refusal}"))
            }
            Err(LinkError::Closed | LinkError::Broken(_)) => self.taken(format!(
                "the broker ended the connection after {}, when nothing of ours was unanswered; most likely another \
                 client has connected with the same client id",
                words::short(after)
            )),
            Err(error) => {
                let cause = format!("the connection ended after {}: {error}", words::short(after));
                Check::fail(CLIENT_ID, Fault::Broker, id, cause, "look at the broker's log")
            }
        }
    }

    fn taken(&self, cause: String) -> Check {
        let remedy = "give every device a client id of its own (`client_id`); look for a second host, a test client or \
                      a console that uses this one";
        Check::fail(CLIENT_ID, Fault::Broker, &self.settings.client_id, cause, remedy)
    }

    fn only(&self, check: Check, skipped: &[&'static str]) -> Vec<Check> {
        let skipped = skipped.iter().map(|name| Check::skip(name, "the connection was taken away"));
        skipped.chain([check]).collect()
    }
}

fn is_denial(refusal: &Refusal) -> bool {
    matches!(refusal.code, NOT_AUTHORIZED | UNSPECIFIED)
}
