//! Which message, or which subscription, a broker closes the connection over; and whether
//! somebody else uses our client id. Pure.
//!
//! AWS IoT Core closes the connection when a policy forbids a topic. A client that sends
//! the message again after each reconnect loops for ever, and nobody's messages get
//! through. A network that is cut again and again looks much the same. So what was sent
//! and not answered when a connection died is only *suspected*, by topic and plugin:
//!
//! ```text
//!  Calm ── two deaths in a row with a suspect in common ──► Trial, of each such suspect:
//!
//!    it goes alone, with a PINGREQ behind it, and nothing else until it is acknowledged, or
//!    PINGRESP has come and the broker had `SETTLE` time to think better of it
//!       │ then: innocent                                  │ the connection dies: a strike
//!       ▼                                                 ▼
//!    (next suspect, or Calm)          before its next trial a control: on a new connection all
//!                                     others go first, a PINGREQ is answered, and it has to live
//!                                     for `CONTROL`. If it does not, the network is at fault: Calm.
//!
//!  three strikes, each as soon after the message as the first was: convicted. Each trial that
//!  showed the network to be bad asks for one strike more.
//! ```
//!
//! A suspect that was alone both times begins with a strike, so one forbidden topic is
//! convicted at the fourth death, and one among others at the fifth. Where the broker itself
//! blames a packet (MQTT 5), dying alone is enough. Whatever is acknowledged is innocent.
//! What has no acknowledgement (QoS 0) is suspected if it was sent within `PROMPT` before a death.
//!
//! A plugin that is convicted again and again is held back as a whole (`parole`), and what the broker
//! leaves unanswered while it answers others is convicted as well (`mute`).

mod mute;
mod parole;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::{
    mute::Mute,
    parole::{Parole, Standing},
};
use crate::{
    router::SubscriberId,
    topic::{TopicFilter, TopicName},
};

/// What a broker may hold against us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Messages of this plugin on this topic.
    Publish {
        /// The plugin.
        owner: SubscriberId,
        /// The topic.
        topic: TopicName,
    },
    /// A subscription.
    Subscribe(TopicFilter),
}

/// What has been found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conviction {
    pub(super) item: Item,
    pub(super) charge: Charge,
    /// The plugin's messages are held back as a whole, for so long.
    pub(super) held: Option<Duration>,
}

/// What the broker does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// It closes the connection.
    Closes,
    /// It never answers, while it answers others.
    NeverAnswers,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The other side closed it.
    Closed,
    /// It broke, or was reset.
    Broken,
    /// The broker says that something we sent was wrong.
    Blamed,
    /// Another connection with our client id took over.
    TakenOver,
    /// For a reason that has nothing to do with what was sent.
    Other,
}

#[derive(Debug)]
pub(super) struct Suspects {
    /// What was sent on this connection and may be what a death is for, in order.
    unanswered: VecDeque<Sent>,
    /// What was unanswered when the last connection died.
    before: Vec<Item>,
    /// Those that go one at a time. Empty: calm.
    suspects: Vec<Suspect>,
    trial: Option<Trial>,
    /// A suspect is next: nothing else may leave.
    is_clearing: bool,
    connected: Option<Instant>,
    /// A PINGREQ of this connection was answered.
    has_ponged: bool,
    needs_ping: bool,
    has_pinged: bool,
    convicted: VecDeque<Conviction>,
    parole: Parole,
    mute: Mute,
    /// Trials in a row that showed the network to be bad: so many strikes more are asked for.
    doubt: u32,
    /// Deaths in a row with nothing unanswered.
    bare: u32,
    hint: bool,
}

#[derive(Debug)]
struct Sent {
    item: Item,
    /// When it stops to be suspicious; None: when it is acknowledged.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Suspect {
    item: Item,
    strikes: u32,
    /// How long the connection lived after it, the first time.
    fatal_after: Option<Duration>,
}

#[derive(Debug)]
struct Trial {
    item: Item,
    sent: Instant,
    /// PINGRESP came.
    ponged: Option<Instant>,
}

/// Things remembered as unanswered; the oldest are forgotten.
const REMEMBERED: usize = 256;

/// How long a connection has to live without the suspect before it is tried again.
const CONTROL: Duration = Duration::from_secs(3);

/// A broker may answer a PINGREQ before it has looked at the message before it.
const SETTLE: Duration = Duration::from_millis(700);

/// Strikes to a conviction.
const STRIKES: u32 = 3;

/// A death this much later or earlier than the first says nothing about the suspect.
const SLACK: Duration = Duration::from_millis(100);

/// A death that comes later than this after the message has another cause.
const PROMPT: Duration = Duration::from_secs(2);

/// A connection that lived so long shows that the network is not so bad after all.
const GOOD: Duration = Duration::from_secs(60);

/// Deaths in a row, each on a connection not older than this, that hint at a second client.
const BARE: u32 = 3;
const YOUNG: Duration = Duration::from_secs(120);

impl Suspects {
    pub(super) fn new() -> Self {
        Self {
            unanswered: VecDeque::new(),
            before: Vec::new(),
            suspects: Vec::new(),
            trial: None,
            is_clearing: false,
            connected: None,
            has_ponged: false,
            needs_ping: false,
            has_pinged: false,
            convicted: VecDeque::new(),
            parole: Parole::default(),
            mute: Mute::default(),
            doubt: 0,
            bare: 0,
            hint: false,
        }
    }

    /// A connection stands; nothing has been sent on it.
    pub(super) fn connected(&mut self, now: Instant) {
        self.unanswered.clear();
        self.connected = Some(now);
        self.trial = None;
        self.is_clearing = false;
        (self.has_pinged, self.has_ponged) = (false, false);
        self.needs_ping = self.suspects.iter().any(|suspect| suspect.strikes > 0);
    }

    /// Whether a message may leave now.
    pub(super) fn may_publish(&mut self, owner: SubscriberId, topic: &TopicName, now: Instant) -> bool {
        if self.suspects.is_empty() && self.parole.is_empty() && self.mute.is_empty() {
            return true;
        }
        match self.parole.standing(owner) {
            Standing::Free => {}
            Standing::Held(_) => return false,
            Standing::OnProbation(_) => self.put_to_the_test(owner, topic),
        }
        !self.is_mute(|item| item.is_publish(owner, topic)) && self.may_send(|item| item.is_publish(owner, topic), now)
    }

    /// Whether a SUBSCRIBE may leave now.
    pub(super) fn may_subscribe(&mut self, filter: &TopicFilter, now: Instant) -> bool {
        if self.suspects.is_empty() && self.mute.is_empty() {
            return true;
        }
        !self.is_mute(|item| item.is_subscribe(filter)) && self.may_send(|item| item.is_subscribe(filter), now)
    }

    /// What a plugin on probation sends is tried, as if it had a strike.
    fn put_to_the_test(&mut self, owner: SubscriberId, topic: &TopicName) {
        if self.suspects.iter().all(|suspect| !suspect.item.is_publish(owner, topic)) {
            let item = Item::Publish { owner, topic: topic.clone() };
            self.suspects.push(Suspect { item, strikes: 1, fatal_after: None });
            self.needs_ping |= !self.has_ponged;
        }
    }

    /// One is under way that the broker may never answer.
    fn is_mute(&self, is: impl Fn(&Item) -> bool) -> bool {
        !self.mute.is_empty()
            && self
                .unanswered
                .iter()
                .any(|sent| is(&sent.item) && sent.until.is_none() && self.mute.contains(&sent.item))
    }

    /// The broker has not answered it on this connection, for as long as is borne; `others`: what
    /// was sent later was answered.
    pub(super) fn was_unanswered(&mut self, item: &Item, others: bool, now: Instant) {
        if self.mute.was_unanswered(item, others) {
            self.convict(&item.clone(), Charge::NeverAnswers, now);
        }
    }

    fn may_send(&mut self, is: impl Fn(&Item) -> bool, now: Instant) -> bool {
        if let Some(trial) = self.trial.take_if(|trial| trial.settles().is_some_and(|at| at <= now)) {
            self.unanswered.retain(|sent| sent.item != trial.item);
            self.clear(&trial.item);
        }
        if self.trial.is_some() {
            return false;
        }
        let Some(suspect) = self.suspects.iter().find(|suspect| is(&suspect.item)) else {
            return !self.is_clearing;
        };
        if suspect.strikes > 0 && !(self.has_ponged && self.control_ends().is_some_and(|end| end <= now)) {
            return false;
        }
        // It has to be the only one that can be blamed.
        self.forget_settled(now);
        self.is_clearing = !self.unanswered.is_empty();
        !self.is_clearing
    }

    fn forget_settled(&mut self, now: Instant) {
        self.unanswered.retain(|sent| sent.until.is_none_or(|until| until > now));
    }

    /// When a suspect that is held back may be tried.
    fn control_ends(&self) -> Option<Instant> {
        let slowest = self.suspects.iter().filter_map(|suspect| suspect.fatal_after).max().unwrap_or_default();
        Some(self.connected? + CONTROL.max(slowest * 8))
    }

    /// A message goes out; `acknowledged`: it will be.
    pub(super) fn published(&mut self, owner: SubscriberId, topic: &TopicName, acknowledged: bool, now: Instant) {
        let until = (!acknowledged).then(|| now + PROMPT);
        match self.unanswered.back_mut() {
            // A flood on one topic is one suspect.
            Some(last) if last.item.is_publish(owner, topic) => last.until = last.until.and(until),
            _ => self.sent(Item::Publish { owner, topic: topic.clone() }, until, now),
        }
    }

    /// A SUBSCRIBE goes out.
    pub(super) fn subscribed(&mut self, filter: &TopicFilter, now: Instant) {
        self.sent(Item::Subscribe(filter.clone()), None, now);
    }

    fn sent(&mut self, item: Item, until: Option<Instant>, now: Instant) {
        if self.suspects.iter().any(|suspect| suspect.item == item) {
            self.trial = Some(Trial { item: item.clone(), sent: now, ponged: None });
            self.needs_ping = true;
            self.is_clearing = false;
        }
        if self.unanswered.len() >= REMEMBERED {
            self.forget_settled(now);
        }
        if self.unanswered.len() >= REMEMBERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back(Sent { item, until });
    }

    /// A PINGREQ has to go out.
    pub(super) fn wants_ping(&self) -> bool {
        self.needs_ping && !self.has_pinged
    }

    /// A PINGREQ goes out.
    pub(super) fn pinged(&mut self) {
        (self.needs_ping, self.has_pinged) = (false, true);
    }

    /// PINGRESP.
    pub(super) fn ponged(&mut self, now: Instant) {
        (self.has_pinged, self.has_ponged) = (false, true);
        // One that was asked for before the trial began says nothing about it.
        if let Some(trial) = self.trial.as_mut().filter(|_| !self.needs_ping) {
            trial.ponged.get_or_insert(now);
        }
    }

    /// PUBACK.
    pub(super) fn acknowledged(&mut self, owner: SubscriberId, topic: &TopicName) {
        self.answered(|item| item.is_publish(owner, topic));
    }

    /// SUBACK.
    pub(super) fn granted(&mut self, filter: &TopicFilter) {
        self.answered(|item| item.is_subscribe(filter));
    }

    fn answered(&mut self, is: impl Fn(&Item) -> bool) {
        let at = self.unanswered.iter().position(|sent| is(&sent.item));
        if let Some(sent) = at.and_then(|at| self.unanswered.remove(at)) {
            self.clear(&sent.item);
        }
    }

    /// It is innocent.
    fn clear(&mut self, item: &Item) {
        self.mute.answered(item);
        if let Item::Publish { owner, .. } = item {
            self.parole.proved(*owner);
        }
        if self.before.is_empty() && self.suspects.is_empty() {
            return;
        }
        self.before.retain(|other| other != item);
        self.suspects.retain(|suspect| suspect.item != *item);
        self.trial.take_if(|trial| trial.item == *item);
        if self.suspects.is_empty() {
            self.is_clearing = false;
        }
    }

    /// When something may leave that is held back now, if something is.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let settles = self.trial.as_ref().and_then(Trial::settles);
        let clears = self.unanswered.iter().filter_map(|sent| sent.until).max().filter(|_| self.is_clearing);
        let settles = settles.or(clears);
        let has_strikes = || self.suspects.iter().any(|suspect| suspect.strikes > 0);
        let is_held = self.has_ponged && self.trial.is_none() && has_strikes();
        settles.or_else(|| self.control_ends().filter(|_| is_held)).filter(|at| *at > now)
    }

    /// When a plugin that is held may be tried, if one is.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.parole.next_release()
    }

    /// A plugin that is held no longer: its messages are tried, one at a time.
    pub(super) fn release(&mut self, now: Instant) -> Option<SubscriberId> {
        self.parole.release(now)
    }

    /// Somebody answers for the plugin.
    pub(super) fn pardon(&mut self, plugin: SubscriberId, now: Instant) {
        self.parole.pardon(plugin, now);
    }

    /// The connection is gone. True: because of what was on trial, so there is no reason to wait long
    /// before the next.
    pub(super) fn died(&mut self, now: Instant, how: Death) -> bool {
        self.forget_settled(now);
        let unanswered = self.take_unanswered();
        let lived = self.connected.take().map(|connected| now.saturating_duration_since(connected));
        self.watch_for_rivals(how, unanswered.is_empty(), lived);
        if lived.is_some_and(|lived| lived > GOOD) {
            self.doubt = 0;
        }
        let trial = self.trial.take();
        self.is_clearing = false;
        if matches!(how, Death::Other | Death::TakenOver) {
            self.calm_down();
            return false;
        }
        let is_explained = match trial {
            Some(trial) => self.strike(&trial, now, how),
            // It died while the suspect was held back, or before it came: the network is bad.
            None if self.suspects.iter().any(|suspect| suspect.strikes > 0) => {
                self.doubt();
                false
            }
            None => {
                self.suspect(&unanswered, how, now);
                false
            }
        };
        self.before = unanswered;
        is_explained
    }

    fn take_unanswered(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        for Sent { item, .. } in std::mem::take(&mut self.unanswered) {
            if !items.contains(&item) {
                items.push(item);
            }
        }
        items
    }

    /// Twice in a row is worth a trial; of a plugin that is known for it, once.
    fn suspect(&mut self, unanswered: &[Item], how: Death, now: Instant) {
        let is_known = |item: &Item| matches!(item, Item::Publish { owner, .. } if self.parole.is_known(*owner, now));
        let common: Vec<_> = unanswered.iter().filter(|item| self.before.contains(item) || is_known(item)).collect();
        let was_alone = unanswered.len() == 1 && self.before.len() == 1;
        for item in &common {
            if self.suspects.iter().all(|suspect| suspect.item != **item) {
                let strikes = u32::from(was_alone);
                self.suspects.push(Suspect { item: (*item).clone(), strikes, fatal_after: None });
            }
        }
        if let ([item], Death::Blamed) = (unanswered, how) {
            self.convict(&item.clone(), Charge::Closes, now);
        }
    }

    /// The connection died while a suspect was the only thing unanswered.
    fn strike(&mut self, trial: &Trial, now: Instant, how: Death) -> bool {
        let after = now.saturating_duration_since(trial.sent);
        let Some(suspect) = self.suspects.iter_mut().find(|suspect| suspect.item == trial.item) else { return false };
        let first = *suspect.fatal_after.get_or_insert(after);
        let is_alike = after <= PROMPT && after.abs_diff(first) <= SLACK.max(first / 2);
        if !is_alike {
            self.doubt();
            return false;
        }
        suspect.strikes += 1;
        if suspect.strikes >= STRIKES + self.doubt || how == Death::Blamed {
            let item = suspect.item.clone();
            self.convict(&item, Charge::Closes, now);
        }
        true
    }

    fn convict(&mut self, item: &Item, charge: Charge, now: Instant) {
        self.suspects.retain(|suspect| suspect.item != *item);
        self.before.retain(|other| other != item);
        let mut held = None;
        if let Item::Publish { owner, .. } = item {
            held = self.parole.convicted(*owner, now);
            if held.is_some() {
                // What else it has under way is held, too, and can't be tried.
                let is_its = |item: &Item| matches!(item, Item::Publish { owner: other, .. } if other == owner);
                self.suspects.retain(|suspect| !is_its(&suspect.item));
                self.before.retain(|other| !is_its(other));
            }
        }
        self.convicted.push_back(Conviction { item: item.clone(), charge, held });
    }

    fn doubt(&mut self) {
        self.doubt = (self.doubt + 1).min(STRIKES);
        self.calm_down();
    }

    fn calm_down(&mut self) {
        self.suspects.clear();
        self.before.clear();
    }

    /// What has been convicted, once.
    pub(super) fn convicted(&mut self) -> Option<Conviction> {
        self.convicted.pop_front()
    }

    /// A connection that is accepted, idle, and closed, over and over, has a rival.
    fn watch_for_rivals(&mut self, how: Death, is_bare: bool, lived: Option<Duration>) {
        let counts = is_bare && how == Death::Closed && lived.is_some_and(|lived| lived < YOUNG);
        self.bare = if counts { self.bare + 1 } else { 0 };
        self.hint = how == Death::TakenOver || (self.bare >= BARE && self.bare.is_power_of_two()) || self.bare == BARE;
    }

    /// What should be said about the client id, if anything.
    pub(super) fn hint(&mut self, client_id: &str) -> Option<String> {
        std::mem::take(&mut self.hint).then(|| {
            let remedy = "each connection ends the other's (duplicate client id); give every device an id of its own \
                          (`link.client_id`)";
            match self.bare {
                0 => format!("the client id `{client_id}` is in use by another client, too: {remedy}"),
                times => format!(
                    "the broker has closed {times} connections in a row without a word, and with nothing under way: \
                     if it was not started again, the client id `{client_id}` may be in use by another client, too: \
                     {remedy}"
                ),
            }
        })
    }
}

impl Trial {
    fn settles(&self) -> Option<Instant> {
        Some(self.ponged? + SETTLE)
    }
}

impl Item {
    fn is_publish(&self, owner: SubscriberId, topic: &TopicName) -> bool {
        matches!(self, Self::Publish { owner: other, topic: on } if *other == owner && on == topic)
    }

    fn is_subscribe(&self, filter: &TopicFilter) -> bool {
        matches!(self, Self::Subscribe(other) if other == filter)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
