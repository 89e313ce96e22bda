//! Arrivals on their way to plugins: into mailboxes, or into inboxes on disk.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{
    super::{
        codec::Arrival,
        error::LinkError,
        overflow::Overflow,
        session::{Held, Token},
    },
    Phase, Task,
};
use crate::{
    message::{Message, Qos},
    router::SubscriberId,
    store::{Arrived, Change, Page},
};

/// A message that a plugin has held for this long goes to its inbox, so that it can be
/// acknowledged: a slow plugin must not close the broker's window for the others.
pub(super) const HOLD: Duration = Duration::from_secs(1);

impl Task {
    /// A message came.
    pub(super) fn arrived(&mut self, arrival: Arrival, now: Instant) -> Result<(), LinkError> {
        let Arrival { message, packet_id, duplicate, identifiers } = arrival;
        if !matches!(*self.phase.borrow(), Phase::Open) {
            return Ok(());
        }
        let token = match message.qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => match self.session.arrived(packet_id, duplicate, now) {
                Some(token) => Some(token),
                None => return Ok(()),
            },
        };
        let mut found = std::mem::take(&mut self.found);
        self.router.find(&message.topic, &identifiers, message.retain, &mut found);
        if found.is_empty() {
            debug!(topic = %message.topic, "a message arrived that nobody here takes");
        }
        let mut stored = Vec::new();
        for id in &found {
            match token {
                None => self.deliver_qos0(*id, &message, duplicate),
                Some(token) => {
                    let is_storing = self.deliver(*id, token, &message, duplicate);
                    if is_storing {
                        stored.push((*id, token));
                    }
                }
            }
        }
        self.found = found;
        self.commit_stored(stored);
        Ok(())
    }

    fn deliver_qos0(&mut self, id: SubscriberId, message: &Message, duplicate: bool) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        // Nobody is there, and comes back later.
        let Some(mailbox) = &client.mailbox else { return };
        if !client.is_away && mailbox.has_room(message.cost()) {
            mailbox.deliver(message.clone(), duplicate, None);
            return;
        }
        let dropped = mailbox.dropped(1);
        if dropped.is_power_of_two() {
            let plugin = client.name.as_deref();
            warn!(client = id, plugin, dropped, topic = %message.topic, "a mailbox is full, or nobody reads it: QoS 0 messages were dropped");
        }
    }

    /// Into the mailbox, or, true, into the inbox.
    fn deliver(&mut self, id: SubscriberId, token: Token, message: &Message, redelivered: bool) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        let lasts = self.disk.is_some() && client.name.is_some();
        let reads = client.mailbox.as_ref().filter(|_| !client.is_away);
        match reads.filter(|mailbox| !lasts || (!client.overflow.is_on() && mailbox.has_room(message.cost()))) {
            Some(mailbox) => {
                mailbox.deliver(message.clone(), redelivered, Some(token));
                self.session.went_to(id, message, false);
                false
            }
            None if lasts => {
                client.overflow.put(token);
                if let Some(mailbox) = &client.mailbox {
                    mailbox.set_overflows(true);
                }
                self.session.went_to(id, message, true);
                self.store(id, token, message.clone(), redelivered);
                true
            }
            None => {
                warn!(client = id, topic = %message.topic, "a QoS 1 message was given up: nobody reads it");
                false
            }
        }
    }

    fn store(&mut self, id: SubscriberId, token: Token, message: Message, redelivered: bool) {
        self.change_of(id, |plugin| Change::Arrived { plugin, number: token, message, redelivered });
    }

    /// What plugins have held for too long goes to their inboxes.
    pub(super) fn store_held(&mut self, now: Instant) {
        if self.disk.is_none() {
            return;
        }
        let mut stored = Vec::new();
        for Held { token, message, duplicate, receivers } in self.session.held(HOLD, now) {
            for id in receivers {
                if self.name(id).is_some() {
                    self.store(id, token, message.clone(), duplicate);
                    stored.push((id, token));
                }
            }
        }
        self.commit_stored(stored);
    }

    /// A plugin has handled a message.
    pub(super) fn handled(&mut self, id: SubscriberId, token: Token) {
        if self.session.handled(token, id) {
            self.change_of(id, |plugin| Change::Handled { plugin, number: token });
        }
    }

    /// Nobody will handle it here.
    pub(super) fn abandoned(&mut self, id: SubscriberId, token: Token) {
        // While the host ends, what nobody handled stays with the broker, or in the inbox.
        if self.is_ending() {
            return;
        }
        if self.disk.is_some() && self.name(id).is_some() {
            if let Some((message, duplicate)) = self.session.message(token) {
                self.store(id, token, message, duplicate);
                self.commit_stored(vec![(id, token)]);
            }
            return;
        }
        warn!("a QoS 1 message was given up: the plugin it was for is gone");
        self.session.handled(token, id);
    }

    /// The mailbox has nothing more, the inbox has.
    pub(super) fn read_inbox(&mut self, id: SubscriberId) {
        let (Some(disk), Some(client)) = (&mut self.disk, self.clients.get_mut(&id)) else { return };
        let (Some(name), Some(mailbox)) = (&client.name, &client.mailbox) else { return };
        // Not while the host ends: what is read would only be put back.
        let room = mailbox.room();
        if room == 0 || client.is_away || !matches!(*self.phase.borrow(), Phase::Open | Phase::Waiting) {
            return;
        }
        if let Some(after) = client.overflow.load() {
            disk.journal.load_inbox(name.clone(), after, room);
        }
    }

    pub(super) fn inbox_read(&mut self, plugin: &str, page: Page<Arrived>) {
        let Some(id) = self.client_named(plugin) else { return };
        let Some(client) = self.clients.get_mut(&id) else { return };
        let last = page.items.last().map(|arrived| arrived.number);
        let Some(mailbox) = &client.mailbox else {
            // Who asked is gone; whoever comes next begins anew.
            client.overflow = Overflow::everything();
            return;
        };
        for Arrived { number, message, redelivered } in page.items {
            mailbox.deliver(message, redelivered, Some(number));
        }
        client.overflow.loaded(last, page.more);
        mailbox.set_overflows(client.overflow.is_on());
        if last.is_none() && client.overflow.is_on() {
            // Something was put there meanwhile, and the plugin waits for it.
            self.read_inbox(id);
        }
    }

    /// Nobody reads the mailbox for now, or somebody does again.
    pub(super) fn set_away(&mut self, id: SubscriberId, away: bool) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.is_away = away;
        }
    }

    /// Whoever this was does not come back.
    pub(super) fn forget(&mut self, id: SubscriberId) {
        for filter in self.router.remove(id) {
            self.change_of(id, |plugin| Change::Unsubscribed { plugin, filter });
        }
        self.needs_plan = true;
    }
}
