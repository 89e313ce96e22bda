//! What users of the link hold: a [`Client`] to ask with, a [`Mailbox`] to receive from.

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};

use super::{Command, Commands, LinkStatus, arrivals::Token, codec::Refusal, profile::Breach, rules::Rules};
use crate::{
    allowance::Allowance,
    clock::Age,
    message::{Message, Qos},
    outbox::{Entry, Full, Reservation, Share},
    router::SubscriberId,
    store::Change,
    topic::{TopicFilter, TopicName},
};

/// One user of the link: a plugin, or a command.
#[derive(Debug)]
pub struct Client {
    id: SubscriberId,
    commands: Commands,
    share: Arc<Share>,
    status: watch::Receiver<LinkStatus>,
    rules: Arc<Rules>,
    held: Arc<Held>,
    when_full: WhenFull,
    commit: Option<Commit>,
    tracked: bool,
    last_number: AtomicU32,
    /// QoS 1 messages taken since the last call ended.
    taken: AtomicU32,
    /// Bytes handed over to be written since the client last waited for the disk.
    ahead: AtomicUsize,
}

/// How many bytes a client may have handed over that are not on disk yet: what it wrote to its state, its
/// dead letters, and what is kept aside on probation. Beyond that it waits for the disk, so that this never
/// grows faster than the disk takes it. The outbox and the inbox have bounds of their own.
const AHEAD: usize = 256 * 1024;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// What is kept on disk for it is kept under this name. Without one nothing is.
    pub name: Option<Arc<str>>,
    /// Its share of the outbox, in bytes.
    pub outbox_bytes: usize,
    /// What happens to a message that finds no room.
    pub when_full: WhenFull,
    /// Messages its mailbox holds.
    pub mailbox_messages: usize,
    /// Their bytes.
    pub mailbox_bytes: usize,
    /// What its inbox on disk holds, in bytes.
    pub inbox_bytes: usize,
    /// It wants a [`Notice`] of what went well, too.
    pub tracked: bool,
    /// What the link may say in the log because of it.
    pub words: Allowance,
}

/// `[outbox] when_full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The message is refused.
    DropNewest,
    /// The oldest messages of the same client are given up for it.
    DropOldest,
    /// The client waits for room.
    Block,
}

/// `[outbox] commit`: when what a call has published is safe on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Before the next call.
    Call,
    /// Soon.
    Later,
}

/// What a call has published and written is on its way to the disk.
#[derive(Debug)]
pub struct Durable(oneshot::Receiver<bool>);

/// What a call leaves behind when it ends well.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The message it has handled.
    pub handled: Option<Delivery>,
    /// That message is kept aside, for the version before.
    pub is_kept: bool,
    /// What is to be written in one with that.
    pub changes: Vec<Change>,
    /// The same, behind those; nobody waits for it to be safe.
    pub behind: Vec<Change>,
}

/// The same, as the link gets it.
#[derive(Debug)]
pub(super) struct CallEnd {
    pub(super) token: Option<Token>,
    /// The message, where it is kept aside.
    pub(super) kept: Option<Message>,
    pub(super) changes: Vec<Change>,
    pub(super) reply: Option<oneshot::Sender<bool>>,
}

/// A message that could not be handled.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) token: Option<Token>,
    pub(super) message: Message,
    pub(super) attempts: u32,
    pub(super) reason: String,
    pub(super) is_kept: bool,
    pub(super) reply: Option<oneshot::Sender<bool>>,
}

/// Topics of one client that the broker does not bear; shared by the client and the link.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// So that there is nothing to lock while there are none.
    count: AtomicUsize,
    /// Whatever it publishes.
    all: AtomicBool,
    topics: Mutex<HashSet<TopicName>>,
}

/// Where a client's messages and notices arrive.
///
/// It is bounded by its limits. Beyond them QoS 0 is dropped and counted, and QoS 1 goes to
/// the inbox on disk; without one it goes in all the same, and the link reads no more from the broker
/// while too much of that waits (`intake`). For notices the bound is what the client itself asked for.
#[derive(Debug)]
pub struct Mailbox {
    id: SubscriberId,
    items: mpsc::UnboundedReceiver<Item>,
    load: Arc<Load>,
    commands: Commands,
}

/// How full the queues of one client are.
#[derive(Debug, Clone)]
pub struct Gauge {
    load: Arc<Load>,
    share: Arc<Share>,
}

/// One thing in a mailbox.
#[derive(Debug)]
pub enum Item {
    /// A message.
    Message(Delivery),
    /// How something the client asked for turned out.
    Notice(Notice),
}

/// A message that arrived. Of QoS 1 it must be settled with [`Delivery::handled`]; one that
/// is dropped unsettled is given up, which is logged, so that it holds nobody back.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// It may have been handled before.
    pub redelivered: bool,
    is_aside: bool,
    /// There was no room for it: it keeps the link from reading more.
    is_beyond: bool,
    /// The arrival the link has to be told about, exactly once. It is of QoS 1.
    arrival: Option<Token>,
    load: Arc<Load>,
}

/// How something a client asked for turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The broker has the message of this number. For tracked clients.
    Published(u32),
    /// A taken message will not reach the broker.
    Dropped {
        /// Its number.
        number: u32,
        /// Its topic.
        topic: String,
        /// Why.
        reason: String,
        /// The broker's reason code, where it was the broker.
        code: Option<u8>,
    },
    /// The broker does not bear a taken message; it is kept aside, and its topic is held back.
    Quarantined {
        /// Its number.
        number: u32,
        /// Its topic.
        topic: String,
        /// Why.
        reason: String,
    },
    /// The broker has the subscription. For tracked clients.
    Subscribed(TopicFilter),
    /// The broker refused the subscription.
    SubscriptionRefused {
        /// What was asked for.
        filter: TopicFilter,
        /// Why.
        refusal: Refusal,
    },
}

/// A publish the link does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It breaks a rule of the broker or of the configuration.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// No room.
    #[error("the outbox is full")]
    Full,
    /// The broker closes the connection over this topic.
    #[error("messages on `{0}` are held back: the broker closes the connection when it gets one")]
    Held(TopicName),
    /// The broker closes the connection over one topic of the plugin after the other.
    #[error(
        "all messages of this plugin are held back for a while: the broker does not bear what it publishes, on one \
         topic after the other"
    )]
    AllHeld,
    /// The link has ended.
    #[error("the link has ended")]
    Ended,
}

/// Both ends of a mailbox.
pub(super) fn mailbox(
    id: SubscriberId,
    commands: Commands,
    beyond: Arc<AtomicUsize>,
    options: &ClientOptions,
) -> (MailboxSender, Mailbox) {
    let (sender, items) = mpsc::unbounded_channel();
    let load = Arc::new(Load {
        client: id,
        commands: commands.downgrade(),
        messages: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        max_messages: options.mailbox_messages.into(),
        max_bytes: options.mailbox_bytes.into(),
        messages_aside: AtomicUsize::new(0),
        bytes_aside: AtomicUsize::new(0),
        beyond,
        overflows: AtomicBool::new(false),
        dropped: AtomicU64::new(0),
    });
    (MailboxSender { sender, load: load.clone(), piece: RefCell::default() }, Mailbox { id, items, load, commands })
}

/// What a client is made of, besides its options.
pub(super) struct ClientParts {
    pub(super) id: SubscriberId,
    pub(super) commands: Commands,
    pub(super) share: Arc<Share>,
    pub(super) status: watch::Receiver<LinkStatus>,
    pub(super) rules: Arc<Rules>,
    pub(super) held: Arc<Held>,
    pub(super) commit: Option<Commit>,
}

impl Client {
    pub(super) fn new(parts: ClientParts, options: &ClientOptions) -> Self {
        let ClientParts { id, commands, share, status, rules, held, commit } = parts;
        let (when_full, tracked) = (options.when_full, options.tracked);
        let (last_number, taken, ahead) = (AtomicU32::new(0), AtomicU32::new(0), AtomicUsize::new(0));
        Self { id, commands, share, status, rules, held, when_full, commit, tracked, last_number, taken, ahead }
    }

    /// Hands a message over. Ok: taken, and its number. Where the outbox is full and
    /// `when_full` says so, it waits for room until then.
    pub async fn publish(&self, message: Message, now: Instant, until: Instant) -> Result<u32, NotTaken> {
        self.check(&message)?;
        let cost = message.cost();
        let reservation = match self.share.reserve(cost) {
            Ok(reservation) => reservation,
            Err(Full) => self.make_room(cost, until).await.inspect_err(|_| self.share.lost(1))?,
        };
        self.hand_over(message, now, reservation)
    }

    /// The same without ever waiting: where the outbox is full, the message is refused.
    pub fn publish_at_once(&self, message: Message, now: Instant) -> Result<u32, NotTaken> {
        self.check(&message)?;
        let Ok(reservation) = self.share.reserve(message.cost()) else {
            self.share.lost(1);
            return Err(NotTaken::Full);
        };
        self.hand_over(message, now, reservation)
    }

    /// The same for who can't be refused: it waits for room as long as that takes. Full: there can
    /// never be enough. Safe to drop; nothing was handed over then.
    pub async fn publish_in_time(&self, message: &Message) -> Result<u32, NotTaken> {
        // Nobody tells when a full disk takes something again.
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        self.check(message)?;
        let cost = message.cost();
        loop {
            let until = Instant::now() + LOOK_AGAIN;
            if let Ok(reservation) = self.share.reserve(cost) {
                return self.hand_over(message.clone(), Instant::now(), reservation);
            }
            if !self.share.can_hold(cost) {
                return Err(NotTaken::Full);
            }
            if self.when_full == WhenFull::DropOldest {
                self.commands.send(Command::MakeRoom(self.id, cost)).map_err(|_| NotTaken::Ended)?;
            }
            match self.share.reserve_until(cost, until).await {
                Ok(reservation) => return self.hand_over(message.clone(), Instant::now(), reservation),
                Err(Full) => sleep_until(until.into()).await,
            }
        }
    }

    fn check(&self, message: &Message) -> Result<(), NotTaken> {
        self.rules.check(message)?;
        if self.held.holds_all() {
            return Err(NotTaken::AllHeld);
        }
        if self.held.holds(&message.topic) {
            return Err(NotTaken::Held(message.topic.clone()));
        }
        Ok(())
    }

    fn hand_over(&self, message: Message, now: Instant, reservation: Reservation) -> Result<u32, NotTaken> {
        if message.qos == Qos::AtLeastOnce {
            self.taken.fetch_add(1, Relaxed);
        }
        let (owner, number, tracked) = (self.id, self.next_number(), self.tracked);
        let entry = Entry { message, owner, number, age: Age::since(now), tracked, reservation };
        self.commands.send(Command::Publish(entry)).map_err(|_| NotTaken::Ended)?;
        Ok(number)
    }

    async fn make_room(&self, cost: usize, until: Instant) -> Result<Reservation, NotTaken> {
        match self.when_full {
            WhenFull::DropNewest => return Err(NotTaken::Full),
            WhenFull::DropOldest => {
                self.commands.send(Command::MakeRoom(self.id, cost)).map_err(|_| NotTaken::Ended)?;
            }
            WhenFull::Block => {}
        }
        self.share.reserve_until(cost, until).await.map_err(|Full| NotTaken::Full)
    }

    /// A call has ended well. What comes out is to be waited for before the next call: with
    /// [`Commit::Call`] where it has published or written anything, otherwise only where the client
    /// is far ahead of the disk.
    #[must_use]
    pub fn end_call(&self, outcome: Outcome) -> Option<Durable> {
        let Outcome { handled, is_kept, mut changes, mut behind } = outcome;
        let taken = self.taken.swap(0, Relaxed);
        let is_to_last = taken > 0 || !changes.is_empty();
        let Some(commit) = self.commit.filter(|_| is_to_last || is_kept || !behind.is_empty()) else {
            if let Some(token) = handled.and_then(Delivery::into_token) {
                let _ = self.commands.send(Command::Handled(self.id, token));
            }
            return None;
        };
        changes.append(&mut behind);
        let kept = handled.as_ref().filter(|_| is_kept).map(|delivery| delivery.message.clone());
        let token = handled.and_then(Delivery::into_token);
        let bytes = changes.iter().map(Change::size).sum::<usize>() + kept.as_ref().map_or(0, Message::cost);
        let (reply, durable) = self.to_be_written(bytes, is_to_last && commit == Commit::Call);
        let end = CallEnd { token, kept, changes, reply };
        self.commands.send(Command::CallEnd(self.id, Box::new(end))).ok().and(durable)
    }

    /// Counts bytes that are handed over to be written. Where `waits` says so, or the client is more than
    /// [`AHEAD`] bytes ahead of the disk, two ends come out: one for the journal to answer, and one for the
    /// client to wait on until these bytes, and all it handed over before, are on disk.
    fn to_be_written(&self, bytes: usize, waits: bool) -> (Option<oneshot::Sender<bool>>, Option<Durable>) {
        let ahead = self.ahead.load(Relaxed) + bytes;
        let waits = waits || ahead > AHEAD;
        // A disk that takes nothing answers at once without having written, so what is ahead of it stays.
        let is_written = waits && !self.share.disk_is_full();
        self.ahead.store(if is_written { 0 } else { ahead }, Relaxed);
        if !waits {
            return (None, None);
        }
        let (reply, durable) = oneshot::channel();
        (Some(reply), Some(Durable(durable)))
    }

    /// Something is to be written soon; nobody waits for it.
    pub fn write(&self, changes: Vec<Change>) {
        if self.is_durable() && !changes.is_empty() {
            let end = CallEnd { token: None, kept: None, changes, reply: None };
            let _ = self.commands.send(Command::CallEnd(self.id, Box::new(end)));
        }
    }

    /// A message can't be handled: it is kept as a dead letter, where there is a disk.
    /// `is_kept`: the message is kept aside for the version before, too. What comes out is to be waited for
    /// before the next call, as with [`Client::end_call`].
    #[must_use]
    pub fn bury(&self, delivery: Delivery, attempts: u32, reason: &str, is_kept: bool) -> Option<Durable> {
        if !self.is_durable() {
            delivery.handled();
            return None;
        }
        let (message, reason) = (delivery.message.clone(), reason.to_owned());
        let bytes = (1 + usize::from(is_kept)) * message.cost() + reason.len();
        let (reply, durable) = self.to_be_written(bytes, false);
        let dead = Dead { token: delivery.into_token(), message, attempts, reason, is_kept, reply };
        self.commands.send(Command::Dead(self.id, Box::new(dead))).ok().and(durable)
    }

    /// Other limits from now on.
    pub fn set_limits(&self, outbox_bytes: usize, inbox_bytes: usize) {
        self.share.set_limit(outbox_bytes);
        let _ = self.commands.send(Command::LimitInbox(self.id, inbox_bytes));
    }

    /// Nothing can be written for now.
    pub fn disk_is_full(&self) -> bool {
        self.share.disk_is_full()
    }

    /// Nothing can be written for now, and the client is already more than 256 KiB ahead of the disk.
    pub fn is_stuck(&self) -> bool {
        self.ahead.load(Relaxed) > AHEAD && self.disk_is_full()
    }

    /// Nobody reads the mailbox for now: messages go to the inbox. Or somebody does again.
    pub fn set_away(&self, away: bool) {
        let _ = self.commands.send(Command::Away(self.id, away));
    }

    /// Its subscriptions and messages outlast it.
    pub fn is_durable(&self) -> bool {
        self.commit.is_some()
    }

    /// Asks for messages.
    pub fn subscribe(&self, filter: TopicFilter, qos: Qos) {
        // Fails only when the link has ended, and the process with it.
        let _ = self.commands.send(Command::Subscribe(self.id, filter, qos));
    }

    /// Takes that back.
    pub fn unsubscribe(&self, filter: TopicFilter) {
        let _ = self.commands.send(Command::Unsubscribe(self.id, filter));
    }

    /// The connection, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// Messages and bytes of this client in the outbox.
    pub fn queued(&self) -> (u32, usize) {
        self.share.used()
    }

    /// Counts up, wraps, is never 0.
    fn next_number(&self) -> u32 {
        let number = self.last_number.fetch_add(1, Relaxed).wrapping_add(1);
        if number == 0 { self.next_number() } else { number }
    }
}

impl Held {
    fn holds_all(&self) -> bool {
        self.all.load(Relaxed)
    }

    pub(super) fn hold_all(&self, all: bool) {
        self.all.store(all, Relaxed);
    }

    pub(super) fn holds(&self, topic: &TopicName) -> bool {
        self.count.load(Relaxed) > 0 && self.topics().contains(topic)
    }

    /// True: it was held.
    pub(super) fn release(&self, topic: &TopicName) -> bool {
        let was_held = self.topics().remove(topic);
        if was_held {
            self.count.fetch_sub(1, Relaxed);
        }
        was_held
    }

    pub(super) fn hold(&self, topic: TopicName) {
        if self.topics().insert(topic) {
            self.count.fetch_add(1, Relaxed);
        }
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, HashSet<TopicName>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Detach(self.id));
    }
}

impl Durable {
    /// Until it is safe there, or can't be.
    pub async fn wait(self) {
        // False: the disk fails, which has been logged, and the next publish will be refused.
        let _ = self.0.await;
    }
}

impl Mailbox {
    /// The next item, if one is there.
    pub fn try_recv(&mut self) -> Option<Item> {
        self.items.try_recv().ok()
    }

    /// The next item; `None` when the link has ended. Safe to drop.
    pub async fn recv(&mut self) -> Option<Item> {
        match self.items.try_recv() {
            Ok(item) => return Some(item),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
            Err(mpsc::error::TryRecvError::Empty) => {}
        }
        if self.load.overflows.load(Relaxed) {
            let _ = self.commands.send(Command::More(self.id));
        }
        self.items.recv().await
    }
}

impl Gauge {
    /// Messages and bytes in the mailbox, those set aside included.
    pub fn mailbox(&self) -> (usize, usize) {
        let load = &self.load;
        let messages = load.messages.load(Relaxed) + load.messages_aside.load(Relaxed);
        (messages, load.bytes.load(Relaxed) + load.bytes_aside.load(Relaxed))
    }

    /// Messages and bytes in the outbox.
    pub fn outbox(&self) -> (usize, usize) {
        let (messages, bytes) = self.share.used();
        (messages as usize, bytes)
    }

    /// Messages that found no room: of QoS 0 in the mailbox, of QoS 1 in the inbox.
    pub fn dropped(&self) -> u64 {
        self.load.dropped.load(Relaxed)
    }

    /// Messages of the client that found no room in the outbox, or were taken and given up.
    pub fn lost(&self) -> u64 {
        self.share.lost_so_far()
    }
}

impl Mailbox {
    /// Shows how full the queues of its plugin are.
    pub fn gauge(&self, client: &Client) -> Gauge {
        Gauge { load: self.load.clone(), share: client.share.clone() }
    }

    /// Other limits from now on.
    pub fn set_limits(&self, messages: usize, bytes: usize) {
        self.load.max_messages.store(messages, Relaxed);
        self.load.max_bytes.store(bytes, Relaxed);
    }

    /// A message that was kept, once more.
    pub fn again(&self, message: Message, number: u64) -> Delivery {
        self.load.holds(message, true, Some(number))
    }
}

impl Delivery {
    /// The number of the arrival, if it is acknowledged.
    pub fn number(&self) -> Option<u64> {
        self.arrival
    }

    /// The message is done with, one way or the other.
    pub fn handled(mut self) {
        self.leave_beyond();
        if let Some(token) = self.arrival.take() {
            self.load.tell(|client| Command::Handled(client, token));
        }
    }

    /// It may have been handled before, from now on.
    pub fn again(mut self) -> Self {
        self.redelivered = true;
        self
    }

    /// It waits for something else than its turn: it leaves its place in the mailbox to others,
    /// as long as there are not more such than the mailbox holds.
    pub fn set_aside(&mut self) {
        let (load, bytes) = (&self.load, self.message.cost());
        let has_room = load.messages_aside.load(Relaxed) < load.max_messages.load(Relaxed)
            && load.bytes_aside.load(Relaxed) + bytes <= load.max_bytes.load(Relaxed);
        if !self.is_aside && has_room {
            load.messages_aside.fetch_add(1, Relaxed);
            load.bytes_aside.fetch_add(bytes, Relaxed);
            load.messages.fetch_sub(1, Relaxed);
            load.bytes.fetch_sub(bytes, Relaxed);
            self.is_aside = true;
            let waits = self.message.clone().detached();
            self.message = waits;
        }
    }

    /// Before the link is told of it, so that it sees that there is room.
    fn leave_beyond(&mut self) {
        if std::mem::take(&mut self.is_beyond) {
            self.load.beyond.fetch_sub(self.message.cost(), Relaxed);
        }
    }

    /// Whoever takes the token answers for it.
    fn into_token(mut self) -> Option<Token> {
        self.arrival.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.leave_beyond();
        let load = &self.load;
        let (messages, bytes) = match self.is_aside {
            true => (&load.messages_aside, &load.bytes_aside),
            false => (&load.messages, &load.bytes),
        };
        messages.fetch_sub(1, Relaxed);
        bytes.fetch_sub(self.message.cost(), Relaxed);
        if let Some(token) = self.arrival.take() {
            load.tell(|client| Command::Abandoned(client, token));
        }
    }
}

/// The link's end of a mailbox.
#[derive(Debug)]
pub(super) struct MailboxSender {
    sender: mpsc::UnboundedSender<Item>,
    load: Arc<Load>,
    /// What waits in the mailbox is put into it.
    piece: RefCell<BytesMut>,
}

/// So many messages of a mailbox may share the memory they were read into with others: each can keep
/// some 64 KiB of it.
const SHARING: usize = 4;

/// What is in a mailbox and not settled.
#[derive(Debug)]
struct Load {
    client: SubscriberId,
    /// The link has it, too, and ends when no user has one any more: so it does not count.
    commands: mpsc::WeakUnboundedSender<Command>,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    max_messages: AtomicUsize,
    max_bytes: AtomicUsize,
    /// The same of messages that are set aside.
    messages_aside: AtomicUsize,
    bytes_aside: AtomicUsize,
    /// Bytes of messages that no mailbox of this link had room for and that are in one.
    beyond: Arc<AtomicUsize>,
    /// More waits on disk.
    overflows: AtomicBool,
    /// Messages that found no room.
    dropped: AtomicU64,
}

impl Load {
    /// One message more; dropping it takes it off again.
    fn holds(self: &Arc<Self>, message: Message, redelivered: bool, arrival: Option<Token>) -> Delivery {
        self.messages.fetch_add(1, Relaxed);
        self.bytes.fetch_add(message.cost(), Relaxed);
        Delivery { message, redelivered, is_aside: false, is_beyond: false, arrival, load: self.clone() }
    }

    fn tell(&self, command: impl FnOnce(SubscriberId) -> Command) {
        // Without a link nobody wants to know.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(command(self.client));
        }
    }
}

impl MailboxSender {
    /// There is room for a message of this cost.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let load = &self.load;
        load.messages.load(Relaxed) < load.max_messages.load(Relaxed)
            && load.bytes.load(Relaxed) + bytes <= load.max_bytes.load(Relaxed)
    }

    /// Bytes it can still take; none when it holds as many messages as it may.
    pub(super) fn room(&self) -> usize {
        let load = &self.load;
        if load.messages.load(Relaxed) >= load.max_messages.load(Relaxed) {
            return 0;
        }
        load.max_bytes.load(Relaxed).saturating_sub(load.bytes.load(Relaxed))
    }

    /// So many more messages found no room; all of them come out.
    pub(super) fn dropped(&self, messages: u64) -> u64 {
        self.load.dropped.fetch_add(messages, Relaxed) + messages
    }

    /// More waits on disk, or no longer.
    pub(super) fn set_overflows(&self, overflows: bool) {
        self.load.overflows.store(overflows, Relaxed);
    }

    pub(super) fn deliver(&self, message: Message, redelivered: bool, arrival: Option<Token>) {
        let message = self.waits(message);
        let _ = self.sender.send(Item::Message(self.load.holds(message, redelivered, arrival)));
    }

    /// The same where there is no room for it and no other place.
    pub(super) fn deliver_beyond(&self, message: Message, redelivered: bool, arrival: Token) {
        self.load.beyond.fetch_add(message.cost(), Relaxed);
        let mut delivery = self.load.holds(self.waits(message), redelivered, Some(arrival));
        delivery.is_beyond = true;
        let _ = self.sender.send(Item::Message(delivery));
    }

    /// A message that has to wait keeps none of the memory it was read into. One that is handled at
    /// once need not be copied.
    fn waits(&self, message: Message) -> Message {
        if self.load.messages.load(Relaxed) < SHARING {
            return message;
        }
        message.packed(&mut self.piece.borrow_mut())
    }

    pub(super) fn notify(&self, notice: Notice) {
        // A client that is gone needs no notice.
        let _ = self.sender.send(Item::Notice(notice));
    }
}
