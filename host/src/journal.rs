//! The thread that writes the store. fsync happens here and nowhere else.
//!
//! Changes gather and are written in groups, so that flash is spared: what is queued when
//! a call asks to be durable is one group, and what is only taken out waits for
//! company. Groups go into the log; now and then, and where they have to be read back, what is left
//! of them goes into the database, in one transaction. A message that is settled before
//! it was written is never written at all, and one that is settled before its turn comes never gets
//! into the database.

mod group;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::group::Group;
use crate::store::{Arrived, Change, Page, Store, StoreError, Taken, Written};

/// `[outbox] commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// What a call published is durable before the plugin's next call.
    Call,
    /// What comes is written so much later, with what else has come.
    Every(Duration),
}

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct JournalSettings {
    /// When.
    pub commit: Commit,
}

/// The journal's thread. Everything told to it is done in the order of telling.
pub struct Journal {
    orders: Sender<Order>,
    /// Not told yet.
    changes: Vec<Change>,
    thread: thread::JoinHandle<()>,
}

/// What the journal has to say.
#[derive(Debug)]
pub enum Report {
    /// All that was told before this ticket is durable.
    Durable(u64),
    /// A part of a plugin's outbox.
    Outbox {
        /// The plugin's name.
        owner: Arc<str>,
        /// The messages.
        page: Page<Taken>,
    },
    /// A part of a plugin's inbox.
    Inbox {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The messages.
        page: Page<Arrived>,
    },
    /// An inbox was full.
    InboxDropped {
        /// The plugin's name.
        plugin: Arc<str>,
        /// How many messages had to go.
        messages: u64,
    },
    /// Dead letters were too many.
    Buried {
        /// The plugin's name.
        plugin: Arc<str>,
        /// How many had to go.
        letters: u64,
    },
    /// Writing fails; it is tried again.
    Trouble(String),
    /// Writing works again.
    Recovered,
}

enum Order {
    Changes(Vec<Change>),
    Commit(Option<oneshot::Sender<bool>>, Option<u64>),
    CommitNow(u64),
    LoadOutbox(Arc<str>, u64, usize),
    LoadInbox(Arc<str>, u64, usize),
    LimitInbox(Arc<str>, usize),
    Look(Look),
    Close,
}

/// Something to be read from the store, behind all that was told before.
pub type Look = Box<dyn FnOnce(&mut Store) + Send>;

/// What is only taken out waits so long for company.
const LAZY: Duration = Duration::from_secs(1);

/// And no more than so many changes wait.
const MANY: usize = 1000;

/// The database is written when so many have come since.
const VERY_MANY: usize = 20_000;

/// And when something has been in the log for that long.
const LATEST: Duration = Duration::from_secs(60);

/// What is to be durable but that nobody waits for yet: a call that is under way.
const SOON: Duration = Duration::from_millis(200);

/// How often writing is tried while it fails.
const AGAIN: Duration = Duration::from_secs(1);

/// And no more of the time than that part goes into it.
const PART: u32 = 10;

/// How often the clock is kept while messages wait.
const TICK: Duration = Duration::from_secs(60);

impl Journal {
    /// Starts the thread. `disk_full` is set while nothing can be written.
    pub fn start(
        store: Store,
        settings: JournalSettings,
        disk_full: Arc<AtomicBool>,
        report: impl Fn(Report) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let trouble = store.trouble().map(ToOwned::to_owned);
        if let Some(cause) = &trouble {
            disk_full.store(true, SeqCst);
            report(Report::Trouble(refused(cause)));
        }
        let writer = Writer {
            store,
            commit: settings.commit,
            disk_full,
            report: Box::new(report),
            group: Group::default(),
            replies: Vec::new(),
            tickets: Vec::new(),
            is_pressing: false,
            loads: Vec::new(),
            since: None,
            logged_since: None,
            trouble: trouble.map(|_| Instant::now() + AGAIN),
        };
        let thread = thread::Builder::new().name("alphorn-journal".into()).spawn(move || writer.run(&inbox))?;
        Ok(Self { orders, changes: Vec::new(), thread })
    }

    /// Something is to be written; the thread hears of it with the next order, or by
    /// [`Journal::flush`]: waking it costs more than the rest.
    pub fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Tells the thread of all changes so far.
    pub fn flush(&mut self) {
        if !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            self.send(Order::Changes(changes));
        }
    }

    /// These are to be written in one transaction, or none of them.
    pub fn together(&mut self, changes: Vec<Change>) {
        self.changes.extend(changes);
        self.flush();
    }

    /// Reads what is asked for.
    pub fn look(&mut self, look: Look) {
        self.order(Order::Look(look));
    }

    /// Everything told so far is to be durable. `reply` hears true then, or false at once if
    /// the disk fails; `ticket` is reported only when it is durable.
    pub fn commit(&mut self, reply: Option<oneshot::Sender<bool>>, ticket: Option<u64>) {
        self.order(Order::Commit(reply, ticket));
    }

    /// Everything told so far is to be durable without waiting for company, whatever `[outbox] commit`
    /// says. `ticket` is reported when it is.
    pub fn commit_now(&mut self, ticket: u64) {
        self.order(Order::CommitNow(ticket));
    }

    /// Asks for a part of a plugin's outbox, behind `after`.
    pub fn load_outbox(&mut self, owner: Arc<str>, after: u64, max_bytes: usize) {
        self.order(Order::LoadOutbox(owner, after, max_bytes));
    }

    /// Asks for a part of a plugin's inbox, behind `after`.
    pub fn load_inbox(&mut self, plugin: Arc<str>, after: u64, max_bytes: usize) {
        self.order(Order::LoadInbox(plugin, after, max_bytes));
    }

    /// What an inbox may hold, in bytes.
    pub fn limit_inbox(&mut self, plugin: Arc<str>, bytes: usize) {
        self.order(Order::LimitInbox(plugin, bytes));
    }

    /// Writes all that is left and ends.
    pub fn close(mut self) {
        self.order(Order::Close);
        // A panic would have ended the process.
        let _ = self.thread.join();
    }

    fn order(&mut self, order: Order) {
        self.flush();
        self.send(order);
    }

    fn send(&self, order: Order) {
        // Fails only when the thread is gone, and it outlasts what tells it.
        let _ = self.orders.send(order);
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

/// What the thread owns.
struct Writer {
    store: Store,
    commit: Commit,
    disk_full: Arc<AtomicBool>,
    report: Box<dyn Fn(Report) + Send>,
    group: Group,
    replies: Vec<oneshot::Sender<bool>>,
    tickets: Vec<u64>,
    /// One of them waits for no company.
    is_pressing: bool,
    loads: Vec<Load>,
    /// Since when the oldest change waits that is written nowhere.
    since: Option<Instant>,
    /// Since when something waits in the log.
    logged_since: Option<Instant>,
    /// Writing fails; when to try again.
    trouble: Option<Instant>,
}

enum Load {
    Outbox(Arc<str>, u64, usize),
    Inbox(Arc<str>, u64, usize),
    Look(Look),
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut is_closing = false;
        while !is_closing {
            let order = match self.deadline() {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(order) => is_closing = self.take(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_closing = true,
            }
            // All that has come meanwhile goes into the same group.
            while !is_closing && self.group.len_new() < MANY * 10 {
                let Ok(order) = orders.try_recv() else { break };
                is_closing = self.take(order);
            }
            if is_closing || self.deadline().is_some_and(|at| at <= Instant::now()) {
                self.write(is_closing);
            }
        }
    }

    /// True: it is the end.
    fn take(&mut self, order: Order) -> bool {
        match order {
            Order::Changes(changes) => {
                changes.into_iter().for_each(|change| self.group.add(change));
                self.since.get_or_insert_with(Instant::now);
            }
            Order::Look(look) => self.loads.push(Load::Look(look)),
            Order::Commit(reply, ticket) => {
                if self.group.is_urgent() {
                    self.replies.extend(reply);
                    self.tickets.extend(ticket);
                } else {
                    // It is durable already, or was never needed.
                    ticket.into_iter().for_each(|ticket| (self.report)(Report::Durable(ticket)));
                    self.answer(reply.into_iter().collect(), true);
                }
            }
            // Nothing waits to be written.
            Order::CommitNow(ticket) if self.since.is_none() => (self.report)(Report::Durable(ticket)),
            Order::CommitNow(ticket) => {
                self.tickets.push(ticket);
                self.is_pressing = true;
            }
            Order::LoadOutbox(owner, after, bytes) => self.loads.push(Load::Outbox(owner, after, bytes)),
            Order::LoadInbox(plugin, after, bytes) => self.loads.push(Load::Inbox(plugin, after, bytes)),
            Order::LimitInbox(plugin, bytes) => self.store.limit_inbox(plugin, bytes),
            Order::Close => return true,
        }
        if self.trouble.is_some() {
            // Nobody waits for a disk that fails.
            self.load_from_both();
            let replies = std::mem::take(&mut self.replies);
            self.answer(replies, false);
        }
        false
    }

    /// When to write next, if ever.
    fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(again) = self.trouble {
            return Some(again);
        }
        if !self.loads.is_empty() {
            return Some(now);
        }
        let logged = self.logged_since.map(|since| since + LATEST);
        let Some(since) = self.since else {
            return logged.or_else(|| self.store.has_messages().then(|| now + TICK));
        };
        // With a time between commits, a plugin waits for an answer only when it is far ahead of the disk,
        // and should not have to wait for that time as well.
        let is_pressing = self.is_pressing || !self.replies.is_empty();
        let patience = match self.commit {
            _ if self.group.len_new() >= MANY || is_pressing => Duration::ZERO,
            Commit::Every(pause) if self.group.is_urgent() => pause,
            Commit::Call if !self.tickets.is_empty() => Duration::ZERO,
            _ if self.group.is_urgent() => SOON,
            _ => LAZY,
        };
        Some(logged.map_or(since + patience, |logged| logged.min(since + patience)))
    }

    fn write(&mut self, is_closing: bool) {
        if !is_closing && self.trouble.is_none() {
            self.load_beside();
            if self.loads.is_empty() && self.deadline().is_none_or(|at| at > Instant::now()) {
                return;
            }
        }
        let begin = Instant::now();
        match self.store.was_written() {
            Ok(true) => self.group.forget_attempted(),
            Ok(false) => {}
            Err(error) => return self.fail(&error, begin),
        }
        let is_late = self.logged_since.is_some_and(|since| since.elapsed() >= LATEST);
        let is_for_log =
            !is_closing && !is_late && self.loads.is_empty() && self.since.is_some() && self.group.len() < VERY_MANY;
        let logged = match self.group.new_changes().filter(|_| is_for_log) {
            Some(changes) => self.store.log(changes),
            None => Ok(false),
        };
        let written = match logged {
            Ok(true) => {
                self.group.set_logged();
                self.logged_since.get_or_insert_with(Instant::now);
                Ok(Written::default())
            }
            Ok(false) => match self.store.write(self.group.changes()) {
                Ok(written) => {
                    self.group.clear();
                    self.logged_since = None;
                    Ok(written)
                }
                Err(error) => {
                    self.group.set_attempted();
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        match written {
            Ok(written) => {
                (self.since, self.is_pressing) = (None, false);
                if self.trouble.take().is_some() {
                    self.disk_full.store(false, SeqCst);
                    (self.report)(Report::Recovered);
                }
                // First, so that what was handled is acknowledged before what the plugin does next.
                for ticket in std::mem::take(&mut self.tickets) {
                    (self.report)(Report::Durable(ticket));
                }
                let replies = std::mem::take(&mut self.replies);
                self.answer(replies, true);
                for (plugin, messages) in written.dropped {
                    (self.report)(Report::InboxDropped { plugin, messages });
                }
                for (plugin, letters) in written.buried {
                    (self.report)(Report::Buried { plugin, letters });
                }
                self.load();
            }
            Err(error) => self.fail(&error, begin),
        }
    }

    /// Nothing can be written, for now.
    fn fail(&mut self, error: &StoreError, begin: Instant) {
        let pause = AGAIN.max(begin.elapsed() * PART);
        if self.trouble.replace(Instant::now() + pause).is_none() {
            self.disk_full.store(true, SeqCst);
            (self.report)(Report::Trouble(refused(&error.to_string())));
        }
        let replies = std::mem::take(&mut self.replies);
        self.answer(replies, false);
        self.load_from_both();
    }

    /// Reads what the store has, with what waits to be written into it.
    fn load_from_both(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            match load {
                Load::Look(look) => look(&mut self.store),
                Load::Outbox(owner, after, bytes) => match self.store.outbox(&owner, after, bytes) {
                    Ok(mut page) => {
                        let last = page.items.last().map_or(after, |taken| taken.seq);
                        let mut room = bytes.saturating_sub(page.items.iter().map(cost).sum());
                        for taken in self.group.taken(&owner, last) {
                            if page.more || (cost(&taken) > room && !page.items.is_empty()) {
                                page.more = true;
                                break;
                            }
                            room = room.saturating_sub(cost(&taken));
                            page.items.push(taken);
                        }
                        (self.report)(Report::Outbox { owner, page });
                    }
                    Err(_) => self.loads.push(Load::Outbox(owner, after, bytes)),
                },
                Load::Inbox(plugin, after, bytes) => match self.store.inbox(&plugin, after, bytes) {
                    // What is still to come there is read when it can be written.
                    Ok(page) if page.more || !self.group.fills_inbox(&plugin) => {
                        (self.report)(Report::Inbox { plugin, page });
                    }
                    Ok(page) if !page.items.is_empty() => {
                        (self.report)(Report::Inbox { plugin, page: Page { more: true, ..page } });
                    }
                    _ => self.loads.push(Load::Inbox(plugin, after, bytes)),
                },
            }
        }
    }

    /// Reads parts of outboxes that have what was asked for although not all is written: what is
    /// newer lies behind them, and who asks knows what is done with.
    fn load_beside(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            if let Load::Outbox(owner, after, bytes) = &load
                && let Ok(page) = self.store.outbox(owner, *after, *bytes)
                && (page.more || !self.group.has_taken())
            {
                (self.report)(Report::Outbox { owner: owner.clone(), page });
            } else {
                self.loads.push(load);
            }
        }
    }

    fn load(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            let load = match load {
                Load::Look(look) => {
                    look(&mut self.store);
                    continue;
                }
                load => load,
            };
            let result = match &load {
                Load::Look(_) => Ok(()),
                Load::Outbox(owner, after, bytes) => self
                    .store
                    .outbox(owner, *after, *bytes)
                    .map(|page| (self.report)(Report::Outbox { owner: owner.clone(), page })),
                Load::Inbox(plugin, after, bytes) => self
                    .store
                    .inbox(plugin, *after, *bytes)
                    .map(|page| (self.report)(Report::Inbox { plugin: plugin.clone(), page })),
            };
            if let Err(error) = result {
                (self.report)(Report::Trouble(format!("messages can't be read back: {error}")));
                self.trouble = Some(Instant::now() + AGAIN);
                self.loads.push(load);
            }
        }
    }

    fn answer(&self, replies: Vec<oneshot::Sender<bool>>, durable: bool) {
        for reply in replies {
            // Who asked may be gone.
            let _ = reply.send(durable);
        }
    }
}

fn refused(cause: &str) -> String {
    format!("messages can't be stored, publish is refused: {cause}")
}

fn cost(taken: &Taken) -> usize {
    taken.record.message.cost()
}

#[cfg(test)]
mod tests;
