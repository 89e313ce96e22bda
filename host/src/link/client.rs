//! What users of the link hold: a [`Client`] to ask with, a [`Mailbox`] to receive from.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::{mpsc, watch};

use super::{Command, Commands, LinkStatus, codec::Refusal, session};
use crate::{
    message::{Message, Qos},
    outbox::{Entry, Share},
    router::SubscriberId,
    topic::TopicFilter,
};

/// One user of the link: a plugin, or a command.
#[derive(Debug)]
pub struct Client {
    id: SubscriberId,
    commands: Commands,
    share: Arc<Share>,
    status: watch::Receiver<LinkStatus>,
    last_number: AtomicU32,
    max_payload: u32,
    tracked: bool,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Its share of the outbox, in bytes.
    pub outbox_bytes: usize,
    /// Messages of QoS 0 its mailbox holds.
    pub mailbox_messages: usize,
    /// Their bytes.
    pub mailbox_bytes: usize,
    /// It wants a [`Notice`] of what went well, too.
    pub tracked: bool,
}

/// Where a client's messages and notices arrive.
///
/// It is bounded: by its limits for QoS 0, which is dropped and counted beyond them;
/// by the window of unacknowledged messages for QoS 1; by what the client itself
/// asked for, for notices.
#[derive(Debug)]
pub struct Mailbox(mpsc::UnboundedReceiver<Item>);

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
    acknowledgement: Option<Acknowledgement>,
    _load: LoadGuard,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The payload is over the limit, in bytes.
    #[error("the payload is larger than {0} bytes")]
    TooLarge(u32),
    /// No room.
    #[error("the outbox is full")]
    Full,
    /// The link has ended.
    #[error("the link has ended")]
    Ended,
}

/// Both ends of a mailbox.
pub(super) fn mailbox(options: &ClientOptions) -> (MailboxSender, Mailbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let load = Load {
        messages: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        max_messages: options.mailbox_messages,
        max_bytes: options.mailbox_bytes,
    };
    (MailboxSender { sender, load: Arc::new(load) }, Mailbox(receiver))
}

impl Client {
    pub(super) fn new(
        id: SubscriberId,
        commands: Commands,
        share: Arc<Share>,
        status: watch::Receiver<LinkStatus>,
        max_payload: u32,
        tracked: bool,
    ) -> Self {
        Self { id, commands, share, status, last_number: AtomicU32::new(0), max_payload, tracked }
    }

    /// Hands a message over. Ok: taken, and its number.
    pub fn publish(&self, message: Message) -> Result<u32, NotTaken> {
        if message.payload.len() > self.max_payload as usize {
            return Err(NotTaken::TooLarge(self.max_payload));
        }
        let reservation = self.share.reserve(message.cost()).map_err(|_| NotTaken::Full)?;
        let number = self.next_number();
        let entry =
            Entry { message, owner: self.id, number, taken: Instant::now(), tracked: self.tracked, reservation };
        self.commands.send(Command::Publish(entry)).map_err(|_| NotTaken::Ended)?;
        Ok(number)
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

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Detach(self.id));
    }
}

impl Mailbox {
    /// The next item; `None` when the link has ended.
    pub async fn recv(&mut self) -> Option<Item> {
        self.0.recv().await
    }
}

impl Delivery {
    /// The message is done with, one way or the other.
    pub fn handled(mut self) {
        if let Some(acknowledgement) = self.acknowledgement.take() {
            acknowledgement.handled();
        }
    }
}

/// Tells the link about one QoS 1 arrival, exactly once.
pub(super) struct Acknowledgement {
    pub(super) token: session::Token,
    pub(super) commands: Option<Commands>,
}

impl Acknowledgement {
    fn handled(mut self) {
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Handled(self.token));
        }
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Abandoned(self.token));
        }
    }
}

impl fmt::Debug for Acknowledgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acknowledgement({})", self.token)
    }
}

/// The link's end of a mailbox.
#[derive(Debug)]
pub(super) struct MailboxSender {
    sender: mpsc::UnboundedSender<Item>,
    load: Arc<Load>,
}

/// What is in a mailbox and not settled.
#[derive(Debug)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    max_messages: usize,
    max_bytes: usize,
}

/// A part of the load; dropping it takes it off.
#[derive(Debug)]
struct LoadGuard {
    load: Arc<Load>,
    bytes: usize,
}

impl MailboxSender {
    /// There is room for a message of this cost.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let load = &self.load;
        load.messages.load(Relaxed) < load.max_messages && load.bytes.load(Relaxed) + bytes <= load.max_bytes
    }

    pub(super) fn deliver(&self, message: Message, redelivered: bool, acknowledgement: Option<Acknowledgement>) {
        let bytes = message.cost();
        self.load.messages.fetch_add(1, Relaxed);
        self.load.bytes.fetch_add(bytes, Relaxed);
        let load = LoadGuard { load: self.load.clone(), bytes };
        let delivery = Delivery { message, redelivered, acknowledgement, _load: load };
        let _ = self.sender.send(Item::Message(delivery));
    }

    pub(super) fn notify(&self, notice: Notice) {
        // A client that is gone needs no notice.
        let _ = self.sender.send(Item::Notice(notice));
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.load.messages.fetch_sub(1, Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Relaxed);
    }
}
