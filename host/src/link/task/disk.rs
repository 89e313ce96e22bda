//! The link and its journal: what is written, what was written, what is read.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    super::{
        Known, Look,
        arrivals::{Kept, Token},
        client::{CallEnd, Dead},
    },
    Registered, Task,
};
use crate::link::{overflow::Overflow, rules::check_stored};
use crate::{
    allowance::Allowance,
    journal::{Journal, Report},
    message::Qos,
    outbox::{Entry, PAGE, Seq},
    router::SubscriberId,
    store::{Change, Page, Quarantined, Record, Repeatable, Restored, Taken},
};

/// The journal, and what an earlier run left.
pub(in crate::link) struct Disk {
    pub(in crate::link) journal: Journal,
    pub(in crate::link) restored: Restored,
    pub(in crate::link) keeps_outbox: bool,
    /// Who had something then.
    pub(in crate::link) earlier: Vec<(Arc<str>, Known)>,
}

/// What waits for a write to be durable.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    last: AtomicU64,
    waiting: HashMap<u64, Ticket>,
    /// Bytes of arrivals on their way to inboxes.
    storing: usize,
}

#[derive(Debug)]
enum Ticket {
    /// A call that handled this has published.
    Handled {
        id: SubscriberId,
        token: Token,
        /// It has been taken out of the inbox.
        is_removed: bool,
    },
    /// These are in inboxes now.
    Stored(Stored),
    /// The broker has a session of ours.
    Session,
}

/// Arrivals that are put into inboxes together.
#[derive(Debug, Default)]
pub(super) struct Stored {
    arrivals: Vec<(SubscriberId, Token)>,
    /// Of those that are nowhere else.
    bytes: usize,
}

impl Disk {
    pub(super) fn last_seq(&self) -> Seq {
        self.restored.last_seq
    }

    pub(super) fn last_token(&self) -> Token {
        self.restored.last_number
    }
}

impl Tickets {
    fn add(&mut self, ticket: Ticket) -> u64 {
        let number = self.last.fetch_add(1, Relaxed) + 1;
        if let Ticket::Stored(Stored { bytes, .. }) = &ticket {
            self.storing += bytes;
        }
        self.waiting.insert(number, ticket);
        number
    }

    fn take(&mut self, number: u64) -> Option<Ticket> {
        let ticket = self.waiting.remove(&number)?;
        if let Ticket::Stored(Stored { bytes, .. }) = &ticket {
            self.storing -= bytes;
        }
        Some(ticket)
    }

    /// Bytes of arrivals that are in no mailbox and on no disk yet.
    pub(super) fn storing(&self) -> usize {
        self.storing
    }
}

impl Stored {
    /// `bytes`: what of it is nowhere else.
    pub(super) fn put(&mut self, id: SubscriberId, token: Token, bytes: usize) {
        self.arrivals.push((id, token));
        self.bytes += bytes;
    }

    fn one(id: SubscriberId, token: Token) -> Self {
        Self { arrivals: vec![(id, token)], bytes: 0 }
    }
}

impl Task {
    /// Takes up what an earlier run left.
    pub(super) fn restore(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let restored = std::mem::take(&mut disk.restored);
        let ids: HashMap<_, _> = disk.earlier.iter().map(|(name, known)| (name.clone(), known.id)).collect();
        for (name, known) in std::mem::take(&mut disk.earlier) {
            let client = Registered {
                label: Some(name.clone()),
                words: Allowance::unlimited(),
                name: Some(name),
                mailbox: None,
                is_away: false,
                overflow: Overflow::everything(),
                share: known.share,
                held: known.held,
                tracked: false,
                dropped: 0,
            };
            self.clients.insert(known.id, client);
        }
        for waiting in restored.outbox {
            if let Some(id) = ids.get(&waiting.name) {
                info!(plugin = %waiting.name, messages = waiting.messages, "messages of an earlier run wait for the broker");
                self.outbox.restore(*id);
            }
        }
        for waiting in restored.inbox {
            info!(plugin = %waiting.name, messages = waiting.messages, "messages of an earlier run wait in the inbox");
        }
        for subscription in restored.subscriptions {
            if let Some(id) = ids.get(&subscription.plugin) {
                self.router.restore(*id, subscription.filter, subscription.qos, subscription.identifier);
            }
        }
        let kept = restored.repeatable.iter().filter_map(|repeatable| {
            let Repeatable { plugin, number: token, packet_id, digest } = repeatable;
            Some(Kept { token: *token, packet_id: *packet_id, digest: *digest, holder: *ids.get(plugin)? })
        });
        self.session.arrivals.remember(kept);
        self.at_broker = restored.at_broker.into_iter().map(|at| (at.filter.clone(), at)).collect();
        for quarantined in restored.quarantined {
            warn!(
                plugin = %quarantined.owner,
                topic = %quarantined.topic,
                "a message is in quarantine since an earlier run: {}",
                quarantined.reason
            );
        }
    }

    /// A client's name on disk.
    pub(super) fn name(&self, id: SubscriberId) -> Option<Arc<str>> {
        self.clients.get(&id)?.name.clone()
    }

    pub(super) fn change(&mut self, change: Change) {
        if let Some(disk) = &mut self.disk {
            disk.journal.change(change);
        }
    }

    /// The journal hears of what has changed.
    pub(super) fn tell_journal(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.journal.flush();
        }
    }

    /// The disk is to say at once that there is a session of ours at the broker.
    pub(super) fn note_session(&mut self) {
        self.change(Change::NothingAtBroker);
        let ticket = self.tickets.add(Ticket::Session);
        if let Some(disk) = &mut self.disk {
            disk.journal.commit_now(ticket);
        }
    }

    /// Something about a named client has changed; nothing to write about others.
    pub(super) fn change_of(&mut self, id: SubscriberId, change: impl FnOnce(Arc<str>) -> Change) {
        if let Some(name) = self.disk.as_ref().and_then(|_| self.name(id)) {
            self.change(change(name));
        }
    }

    /// Something about the broker has changed.
    pub(super) fn change_at_broker(&mut self, change: impl FnOnce() -> Change) {
        if self.disk.is_some() {
            self.change(change());
        }
    }

    /// Puts a message into the outbox, and on disk if it is to last.
    pub(super) fn take(&mut self, entry: Entry) {
        let lasts = entry.message.qos == Qos::AtLeastOnce || self.settings.store_qos0;
        let owner = entry.owner;
        let name = match &self.disk {
            Some(disk) if disk.keeps_outbox && lasts => self.clients.get(&owner).and_then(|client| client.name.clone()),
            _ => None,
        };
        let Some(name) = name else {
            self.outbox.push(entry, false);
            return;
        };
        let record = Record { message: entry.message.clone(), number: entry.number, age: entry.age };
        let seq = self.outbox.push(entry, true);
        self.change(Change::Taken { owner: name, seq, record });
    }

    /// A message of the outbox is done with.
    pub(super) fn settled(&mut self, seq: Seq, entry: &Entry) {
        if self.disk.as_ref().is_some_and(|disk| disk.keeps_outbox)
            && (entry.message.qos == Qos::AtLeastOnce || self.settings.store_qos0)
        {
            self.change_of(entry.owner, |owner| Change::Settled { owner, seq });
        }
    }

    /// Lets the disk fill lanes that have their tails there.
    pub(super) fn read_outbox(&mut self) {
        while let Some((owner, after)) = self.outbox.load() {
            let name = self.name(owner);
            if let (Some(disk), Some(name)) = (&mut self.disk, name) {
                disk.journal.load_outbox(name, after, PAGE);
            }
        }
    }

    /// A call has ended: what it published and wrote, and that it handled a message, become
    /// durable together.
    pub(super) fn call_ended(&mut self, id: SubscriberId, end: CallEnd) {
        let CallEnd { token, kept, mut changes, reply } = end;
        let nothing_else = kept.is_none() && changes.is_empty();
        if self.disk.as_ref().is_none_or(|disk| !disk.keeps_outbox && nothing_else) {
            let _ = reply.map(|reply| reply.send(true));
            token.into_iter().for_each(|token| self.handled(id, token));
            return;
        }
        let plugin = self.name(id);
        let ticket = match (token, kept, plugin) {
            (Some(token), Some(message), Some(plugin)) => {
                // Ahead of those that are kept no longer: it may be one of them.
                changes.insert(0, Change::OnProbation { plugin, number: token, message });
                self.session.arrivals.stores(token, id);
                Some(self.tickets.add(Ticket::Stored(Stored::one(id, token))))
            }
            (Some(token), None, Some(plugin)) => {
                let is_removed = !self.session.arrivals.is_in_memory(token, id);
                if is_removed {
                    changes.push(Change::Handled { plugin, number: token });
                }
                Some(self.tickets.add(Ticket::Handled { id, token, is_removed }))
            }
            _ => None,
        };
        self.together(changes, reply, ticket);
    }

    /// A plugin can't handle a message: it goes to the dead letters.
    pub(super) fn bury(&mut self, id: SubscriberId, dead: Dead) {
        let Dead { token, message, attempts, reason, is_kept, reply } = dead;
        let Some(plugin) = self.name(id) else { return };
        let packet_id = token.and_then(|token| self.session.arrivals.packet_id(token)).unwrap_or_default();
        let number = token.unwrap_or_else(|| self.session.arrivals.new_token());
        self.session.arrivals.stores(number, id);
        let ticket = self.tickets.add(Ticket::Stored(Stored::one(id, number)));
        let kept = is_kept.then(|| Change::OnProbation { plugin: plugin.clone(), number, message: message.clone() });
        let dead = Change::Dead { plugin, number, packet_id, message, attempts, reason };
        self.together(kept.into_iter().chain([dead]).collect(), reply, Some(ticket));
    }

    /// A dead letter arrives once more.
    pub(super) fn revive(&mut self, plugin: &Arc<str>, number: u64) {
        let arrival = self.session.arrivals.new_token();
        self.together(vec![Change::Revived { plugin: plugin.clone(), number, arrival }], None, None);
        let Some(id) = self.client_named(plugin) else { return };
        self.overflow(id, arrival);
        self.read_inbox(id);
    }

    /// A message in quarantine is sent after all.
    pub(super) fn release(&mut self, quarantined: (Quarantined, Taken)) {
        let (Quarantined { owner: name, seq, .. }, Taken { record, .. }) = quarantined;
        let Some(owner) = self.client_named(&name) else { return };
        let Some(client) = self.clients.get(&owner) else { return };
        client.held.release(&record.message.topic);
        self.suspects.pardon(owner, Instant::now());
        // Its room was given back when it went to quarantine.
        let reservation = client.share.admit(record.message.cost());
        let Record { message, number, age } = record;
        let tracked = client.tracked;
        info!(plugin = %name, topic = %message.topic, "a message leaves the quarantine");
        self.take(Entry { message, owner, number, age, tracked, reservation });
        self.change_now(Change::Released { owner: name, seq });
    }

    pub(super) fn limit_inbox(&mut self, id: SubscriberId, bytes: usize) {
        let name = self.name(id);
        if let (Some(disk), Some(name)) = (&mut self.disk, name) {
            disk.journal.limit_inbox(name, bytes);
        }
    }

    pub(super) fn look(&mut self, look: Look) {
        if let Some(disk) = &mut self.disk {
            disk.journal.look(look.0);
        }
    }

    pub(super) fn change_now(&mut self, change: Change) {
        self.together(vec![change], None, None);
    }

    fn together(&mut self, changes: Vec<Change>, reply: Option<oneshot::Sender<bool>>, ticket: Option<u64>) {
        let Some(disk) = &mut self.disk else { return };
        if !changes.is_empty() {
            disk.journal.together(changes);
        }
        disk.journal.commit(reply, ticket);
    }

    /// Arrivals have been put into inboxes: asks to be told when they are safe there.
    pub(super) fn commit_stored(&mut self) {
        if self.stored.arrivals.is_empty() {
            return;
        }
        let stored = std::mem::take(&mut self.stored);
        let ticket = self.tickets.add(Ticket::Stored(stored));
        if let Some(disk) = &mut self.disk {
            disk.journal.commit(None, Some(ticket));
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        match report {
            Report::Durable(number) => match self.tickets.take(number) {
                Some(Ticket::Handled { id, token, is_removed: false }) => self.handled(id, token),
                // It may be on its way to the inbox, or repeated by the broker meanwhile.
                Some(Ticket::Handled { id, token, is_removed: true }) => {
                    self.session.arrivals.handled(token, id);
                }
                Some(Ticket::Stored(stored)) => {
                    stored.arrivals.into_iter().for_each(|(id, token)| self.session.arrivals.stored(token, id));
                }
                Some(Ticket::Session) => self.ownership.kept(),
                None => {}
            },
            Report::Outbox { owner, page } => self.outbox_read(&owner, page),
            Report::Inbox { plugin, page } => self.inbox_read(&plugin, page),
            Report::InboxDropped { plugin, messages } => {
                let client = self.client_named(&plugin).and_then(|id| self.clients.get(&id));
                if client.is_none_or(|client| client.words.take()) {
                    warn!(%plugin, messages, "the inbox is full: its oldest messages were dropped (`limits.inbox_bytes`)");
                }
                client.and_then(|client| client.mailbox.as_ref()).map(|mailbox| mailbox.dropped(messages));
            }
            Report::Buried { plugin, letters } => {
                let client = self.client_named(&plugin).and_then(|id| self.clients.get(&id));
                if client.is_none_or(|client| client.words.take()) {
                    warn!(%plugin, letters, "too many dead letters: the oldest were dropped (`limits.inbox_bytes`)");
                }
            }
            Report::Trouble(cause) => {
                error!("{cause}");
                self.status.send_modify(|status| status.trouble = Some(cause.to_string().into()));
            }
            Report::Recovered => {
                info!("the disk takes messages again");
                self.status.send_modify(|status| status.trouble = None);
            }
        }
    }

    pub(super) fn client_named(&self, name: &str) -> Option<SubscriberId> {
        self.clients.iter().find(|(_, client)| client.name.as_deref() == Some(name)).map(|(id, _)| *id)
    }

    fn outbox_read(&mut self, name: &str, page: Page<Taken>) {
        let Some(owner) = self.client_named(name) else { return };
        let Some(client) = self.clients.get(&owner) else { return };
        let (share, tracked) = (client.share.clone(), client.tracked);
        let mut refused = Vec::new();
        let entries = page.items.into_iter().filter_map(|taken| {
            let Taken { seq, cost, record: Record { message, number, age } } = taken;
            let reservation = share.adopt(cost);
            let breach = check_stored(&message).err();
            let entry = Entry { message, owner, number, age, tracked, reservation };
            match breach {
                None => Some((seq, entry)),
                Some(breach) => {
                    refused.push((seq, entry, breach));
                    None
                }
            }
        });
        self.outbox.loaded(owner, entries, page.more);
        for (seq, entry, breach) in refused {
            self.quarantine(seq, entry, &breach.to_string());
        }
        self.pay(owner);
    }

    /// Writes what is left and closes the disk.
    pub(super) fn end(self) {
        let left = self.outbox.len();
        match self.disk {
            Some(disk) => {
                if left > 0 && disk.keeps_outbox {
                    info!(messages = left, "what the broker has not acknowledged stays in the outbox");
                }
                disk.journal.close();
            }
            None if left > 0 => warn!(messages = left, "the link ends with messages the broker has not acknowledged"),
            None => {}
        }
    }
}
