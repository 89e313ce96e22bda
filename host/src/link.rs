//! The device's one MQTT connection.
//!
//! A [`Link`] is a thread with one task on it (`task`) that owns the socket, the
//! session, the outbox and the table of subscriptions. Everybody else holds a
//! [`Client`] and a [`Mailbox`]: commands go one way, arrivals the other, and the
//! [`LinkStatus`] can be watched. The link never waits for a client.

mod backoff;
mod client;
mod codec;
mod connect;
mod error;
mod keep_alive;
pub(crate) mod probe;
mod proxy;
mod session;
mod task;
mod tls;
mod url;
mod wire;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tracing::{Instrument, info_span};

use self::client::MailboxSender;
pub(crate) use self::tls::{certificates, private_key, roots};
pub use self::{
    backoff::BackoffSettings,
    client::{Client, ClientOptions, Delivery, Item, Mailbox, NotTaken, Notice},
    codec::{ConnAck, NOT_AUTHORIZED, Refusal, Secret, Version},
    connect::{Observer, ProxyRefusal, Stage, Step, TlsInfo, UpgradeRefusal},
    error::LinkError,
    proxy::{Proxy, ProxyUrlError},
    tls::{TlsError, TlsFailure, TlsPart, TlsSettings, client_config, provider},
    url::{BrokerUrl, UrlError},
};
use crate::{
    message::Qos,
    outbox::{Entry, Room},
    rate::Rate,
    router::SubscriberId,
    topic::TopicFilter,
};

/// `[link]` and `[outbox]`, checked.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// Its name in the log.
    pub label: &'static str,
    /// Where the broker is.
    pub url: BrokerUrl,
    /// The device's name at the broker.
    pub client_id: String,
    /// Certificates and ALPN.
    pub tls: TlsSettings,
    /// What leads there.
    pub proxy: Option<Proxy>,
    /// Of the request for a WebSocket, besides what it needs. Their values are secret.
    pub headers: HeaderMap,
    /// Which MQTT.
    pub protocol: Version,
    /// The longest silence on either side; zero: as long as it takes.
    pub keep_alive: Duration,
    /// From DNS to CONNACK.
    pub connect_timeout: Duration,
    /// How long the broker keeps the session without a connection; zero: a clean start each time.
    pub session_expiry: Duration,
    /// The largest payload, in bytes, either way.
    pub max_payload: u32,
    /// Pauses between attempts.
    pub backoff: BackoffSettings,
    /// For brokers that ask for them.
    pub username: Option<String>,
    /// Never logged.
    pub password: Option<Secret>,
    /// Bytes that may wait for the broker.
    pub outbox_bytes: usize,
    /// Messages of QoS 0 wait for a connection instead of being dropped.
    pub store_qos0: bool,
    /// How fast what waited may leave after a reconnect.
    pub drain_rate: Rate,
}

/// The running link.
#[derive(Debug)]
pub struct Link {
    commands: Commands,
    room: Arc<Room>,
    status: watch::Receiver<LinkStatus>,
    phase: watch::Sender<Phase>,
    next_client: AtomicU32,
    max_payload: u32,
    /// Taken by the first to close.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// The connection as everybody may see it.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// Up or down.
    pub state: LinkState,
    /// Since when.
    pub since: Instant,
}

/// Up or down.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// No attempt has ended yet.
    Starting,
    /// There is a connection.
    Up {
        /// Counts the connections of this run; two ups with different numbers had a down between them.
        number: u32,
        /// The broker still knew the session.
        session_present: bool,
    },
    /// There is none.
    Down {
        /// Why.
        reason: Arc<str>,
    },
}

/// What clients tell the link. The channel has no bound of its own: publishes take
/// room in the outbox first, the rest is bounded by limits of the clients.
type Commands = mpsc::UnboundedSender<Command>;

#[derive(Debug)]
enum Command {
    Attach(SubscriberId, MailboxSender, bool),
    Detach(SubscriberId),
    Publish(Entry),
    Subscribe(SubscriberId, TopicFilter, Qos),
    Unsubscribe(SubscriberId, TopicFilter),
    Handled(session::Token),
    Abandoned(session::Token),
}

/// How far the life of the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Takes commands, does not connect yet.
    Waiting,
    /// Connects, and connects again.
    Open,
    /// Delivers nothing more.
    Quiet,
    /// Sends what is left, until then.
    Closing(Instant),
}

impl Link {
    /// Starts the link's thread. It connects once [`Link::open`] is called.
    pub fn start(settings: LinkSettings) -> std::io::Result<Self> {
        let room = Room::new(settings.outbox_bytes);
        let max_payload = settings.max_payload;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (status_sender, status) = watch::channel(LinkStatus { state: LinkState::Starting, since: Instant::now() });
        let (phase, phases) = watch::channel(Phase::Waiting);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let span = info_span!("link", name = %settings.label);
        let task = task::Task::new(settings, inbox, commands.downgrade(), status_sender, phases);
        let thread = thread::Builder::new().name("alphorn-link".into()).spawn(move || {
            runtime.block_on(task.run().instrument(span));
            // A resolver that hangs must not keep the process.
            runtime.shutdown_background();
        })?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { commands, room, status, phase, next_client: AtomicU32::new(1), max_payload, thread })
    }

    /// Lets the link connect; until then subscriptions and messages only gather.
    pub fn open(&self) {
        self.phase.send_replace(Phase::Open);
    }

    /// A new user of the link.
    pub fn client(&self, options: ClientOptions) -> (Client, Mailbox) {
        let id = self.next_client.fetch_add(1, Relaxed);
        let (sender, mailbox) = client::mailbox(&options);
        // Fails when the link has ended; the client's own calls then say so.
        let _ = self.commands.send(Command::Attach(id, sender, options.tracked));
        let share = self.room.share(options.outbox_bytes);
        let client =
            Client::new(id, self.commands.clone(), share, self.status.clone(), self.max_payload, options.tracked);
        (client, mailbox)
    }

    /// The connection, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// Delivers nothing more; what arrives from now on stays with the broker.
    pub fn quiet(&self) {
        self.phase.send_replace(Phase::Quiet);
    }

    /// Sends what is left, for as long as `grace`, disconnects and ends.
    pub async fn close(&self, grace: Duration) {
        self.phase.send_replace(Phase::Closing(Instant::now() + grace));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Joins off the runtime's threads. The link itself keeps to `grace`, and a second for DISCONNECT.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Returns when the link's thread has ended, which it does only after [`Link::close`]
    /// or by a fault of the host itself.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }
}

impl LinkStatus {
    /// The number of the connection, if there is one.
    pub fn connection(&self) -> Option<u32> {
        match self.state {
            LinkState::Up { number, .. } => Some(number),
            LinkState::Starting | LinkState::Down { .. } => None,
        }
    }
}

impl LinkSettings {
    /// The largest packet: a payload of the largest size, its topic and its properties.
    fn largest_packet(&self) -> u32 {
        const TOPIC_AND_PROPERTIES: u32 = 4096;
        self.max_payload.saturating_add(TOPIC_AND_PROPERTIES)
    }
}
