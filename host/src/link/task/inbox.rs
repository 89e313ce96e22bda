//! Arrivals on their way to plugins: into mailboxes, or into inboxes on disk.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{
    super::{
        arrivals::{Held, Holders, Token},
        codec::Arrival,
        overflow::Overflow,
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
    /// A message came. What of it goes to inboxes is to be committed.
    pub(super) fn arrived(&mut self, arrival: Arrival, now: Instant) {
        let Arrival { message, packet_id, duplicate, identifiers } = arrival;
        if !matches!(*self.phase.borrow(), Phase::Open) {
            return;
        }
        let (token, holders) = match message.qos {
            Qos::AtMostOnce => (None, Holders::new()),
            Qos::AtLeastOnce => match self.session.arrivals.arrived(&message, packet_id, duplicate, now) {
                Some((token, holders)) => (Some(token), holders),
                None => return,
            },
        };
        let mut found = std::mem::take(&mut self.found);
        self.router.find(&message.topic, &identifiers, message.retain, &mut found);
        if found.is_empty() {
            debug!(topic = %message.topic, "a message arrived that nobody here takes");
        }
        for id in &found {
            match token {
                None => self.deliver_qos0(*id, &message, duplicate),
                // Who has it on disk since an earlier run is not given it again.
                Some(_) if holders.contains(id) => {}
                Some(token) => self.deliver(*id, token, packet_id, &message, duplicate),
            }
        }
        self.found = found;
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
            let plugin = client.label.as_deref();
            warn!(plugin, dropped, topic = %message.topic, "a mailbox is full, or nobody reads it: QoS 0 messages were dropped");
        }
    }

    /// Into the mailbox, or into the inbox.
    fn deliver(&mut self, id: SubscriberId, token: Token, packet_id: u16, message: &Message, redelivered: bool) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let lasts = self.disk.is_some() && client.name.is_some();
        let reads = client.mailbox.as_ref().filter(|_| !client.is_away);
        let is_stored = lasts && client.overflow.is_on();
        match reads {
            Some(mailbox) if !is_stored && mailbox.has_room(message.cost()) => {
                mailbox.deliver(message.clone(), redelivered, Some(token));
                self.session.arrivals.went_to(id, false);
            }
            Some(mailbox) if !lasts => {
                mailbox.deliver_beyond(message.clone(), redelivered, token);
                self.session.arrivals.went_to(id, false);
            }
            _ if lasts => {
                if !is_stored {
                    self.spill(id);
                }
                self.overflow(id, token);
                self.session.arrivals.went_to(id, true);
                let held = Held {
                    token,
                    packet_id,
                    message: message.clone(),
                    duplicate: redelivered,
                    receivers: Holders::from_iter([id]),
                };
                self.store(held, message.cost());
            }
            _ => {
                if client.words.take() {
                    let plugin = client.label.as_deref();
                    warn!(plugin, topic = %message.topic, "a QoS 1 message was given up: nobody reads it");
                }
            }
        }
    }

    /// What a plugin has in memory only goes to its inbox, before what comes behind it does: so what is
    /// there is in the order of arrival, without a gap, also for the next run.
    fn spill(&mut self, id: SubscriberId) {
        for held in self.session.arrivals.spill(id) {
            self.store(held, 0);
        }
    }

    /// A message is in the inbox and not in the mailbox.
    pub(super) fn overflow(&mut self, id: SubscriberId, token: Token) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.overflow.put(token);
        if let Some(mailbox) = &client.mailbox {
            mailbox.set_overflows(true);
        }
    }

    /// `bytes`: what of it is nowhere else.
    fn store(&mut self, held: Held, mut bytes: usize) {
        let Held { token, packet_id, message, duplicate: redelivered, receivers } = held;
        for id in receivers {
            let Some(plugin) = self.name(id) else { continue };
            self.stored.put(id, token, std::mem::take(&mut bytes));
            let message = message.clone();
            self.change(Change::Arrived { plugin, number: token, packet_id, message, redelivered });
        }
    }

    /// What plugins have held for too long goes to their inboxes.
    pub(super) fn store_held(&mut self, now: Instant) {
        if self.disk.is_none() {
            return;
        }
        for held in self.session.arrivals.held(HOLD, now) {
            self.store(held, 0);
        }
        self.commit_stored();
    }

    /// A plugin has handled a message.
    pub(super) fn handled(&mut self, id: SubscriberId, token: Token) {
        if self.session.arrivals.handled(token, id) {
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
            if let Some(held) = self.session.arrivals.message(token) {
                self.store(Held { receivers: Holders::from_iter([id]), ..held }, 0);
                self.commit_stored();
            }
            return;
        }
        if let Some(plugin) = self.says(id) {
            warn!(plugin = plugin.as_deref(), "a QoS 1 message was given up: the plugin it was for is gone");
        }
        self.session.arrivals.handled(token, id);
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
