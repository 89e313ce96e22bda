//! The device's one MQTT connection.
//!
//! A [`Link`] is a thread with one task on it (`task`) that owns the socket, the
//! session, the outbox and the table of subscriptions. Everybody else holds a
//! [`Client`] and a [`Mailbox`]: commands go one way, arrivals the other, and the
//! [`LinkStatus`] can be watched. The link never waits for a client.

mod arrivals;
mod backoff;
mod client;
mod codec;
mod connect;
mod departure;
mod error;
mod intake;
mod keep_alive;
#[cfg(test)]
mod model;
mod oddities;
mod overflow;
mod ownership;
mod pace;
pub(crate) mod probe;
mod profile;
mod proxy;
mod rules;
mod session;
mod suspects;
mod task;
mod tls;
mod url;
mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot, watch},
};
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tracing::{Instrument, error_span};

pub(crate) use self::tls::{certificates, identity, private_key, read_certificate, roots};
pub use self::{
    backoff::BackoffSettings,
    client::{
        Client, ClientOptions, Commit, Delivery, Durable, Gauge, Item, Mailbox, NotTaken, Notice, Outcome, WhenFull,
    },
    codec::{ConnAck, NOT_AUTHORIZED, Refusal, Secret, Version},
    connect::{Observer, ProxyRefusal, Stage, Step, TlsInfo, UpgradeRefusal},
    error::{LinkError, Tried},
    profile::{Breach, Profile},
    proxy::{Proxy, ProxyUrlError},
    tls::{TlsError, TlsFailure, TlsPart, TlsSettings, client_config, provider},
    url::{BrokerUrl, UrlError},
};
use self::{
    client::{CallEnd, ClientParts, Dead, Held, MailboxSender},
    rules::Rules,
};
use crate::{
    allowance::Allowance,
    journal::{self, Journal, JournalSettings},
    message::Qos,
    outbox::{Entry, Room, Share},
    rate::Rate,
    router::SubscriberId,
    store::{Change, DeadLetter, Quarantined, Restored, Saved, Store, StoreError, Taken},
    topic::TopicFilter,
};

/// `[link]` and `[outbox]`, checked. Two are equal if nobody could tell them apart; how they are shown
/// leaves out what is secret.
#[derive(Debug, Clone, PartialEq)]
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
    /// The limits to keep to.
    pub profile: Profile,
    /// The longest silence on either side; zero: as long as it takes.
    pub keep_alive: Duration,
    /// From DNS to CONNACK.
    pub connect_timeout: Duration,
    /// How long an acknowledgement may take.
    pub operation_timeout: Duration,
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
    /// Messages that waited longer are dropped.
    pub max_age: Option<Duration>,
    /// Messages of QoS 0 wait for a connection instead of being dropped.
    pub store_qos0: bool,
    /// How fast what waited may leave after a reconnect.
    pub drain_rate: Rate,
}

/// Where the link keeps what has to last.
#[derive(Debug)]
pub struct Disk {
    /// The open store.
    pub store: Store,
    /// What an earlier run left in it.
    pub restored: Restored,
    /// When it is written to.
    pub settings: JournalSettings,
    /// The outbox is kept there too, not only inboxes and subscriptions.
    pub keeps_outbox: bool,
}

/// The running link.
#[derive(Debug)]
pub struct Link {
    commands: Commands,
    room: Arc<Room>,
    status: watch::Receiver<LinkStatus>,
    phase: watch::Sender<Phase>,
    rules: Arc<Rules>,
    /// Bytes of messages that mailboxes had no room for.
    beyond: Arc<AtomicUsize>,
    /// What clients may have to wait for; None: nothing is kept on disk.
    commit: Option<Commit>,
    next_client: AtomicU32,
    /// Clients with names, of this run and of those before.
    names: Mutex<HashMap<Arc<str>, Known>>,
    runtime: Handle,
    /// Taken by the first to close.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What outlasts a client.
#[derive(Debug, Clone)]
struct Known {
    id: SubscriberId,
    share: Arc<Share>,
    held: Arc<Held>,
}

/// The connection as everybody may see it.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// Up or down.
    pub state: LinkState,
    /// Since when.
    pub since: Instant,
    /// What is wrong with the disk, if anything.
    pub trouble: Option<Arc<str>>,
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
    Attach(SubscriberId, Box<Attached>),
    Detach(SubscriberId),
    /// It will not come back: its subscriptions end.
    Forget(SubscriberId),
    /// Nobody reads its mailbox for now; or somebody does again.
    Away(SubscriberId, bool),
    Publish(Entry),
    /// Its oldest messages have to make room for so many bytes.
    MakeRoom(SubscriberId, usize),
    /// A call has ended with something to last; it may have handled a message, and may wait for the disk.
    CallEnd(SubscriberId, Box<CallEnd>),
    Dead(SubscriberId, Box<Dead>),
    /// A dead letter is to be tried once more.
    Revive(Arc<str>, u64),
    /// A message in quarantine is to be sent after all, and its topic with it.
    Release(Box<(Quarantined, Taken)>),
    LimitInbox(SubscriberId, usize),
    Look(Look),
    Change(Box<Change>),
    Subscribe(SubscriberId, TopicFilter, Qos),
    Unsubscribe(SubscriberId, TopicFilter),
    Handled(SubscriberId, arrivals::Token),
    Abandoned(SubscriberId, arrivals::Token),
    /// Its mailbox is empty and its inbox is not.
    More(SubscriberId),
    Report(journal::Report),
}

/// Something to be read from the store.
struct Look(journal::Look);

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

/// A client's end of the link.
#[derive(Debug)]
struct Attached {
    name: Option<Arc<str>>,
    mailbox: Option<MailboxSender>,
    share: Arc<Share>,
    held: Arc<Held>,
    inbox_bytes: usize,
    tracked: bool,
    /// What it is called, also where nothing is kept of it.
    label: Option<Arc<str>>,
    words: Allowance,
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
    /// Starts the link's thread. It connects once [`Link::open`] is called. Without a disk
    /// everything is kept in memory.
    pub fn start(settings: LinkSettings, disk: Option<Disk>) -> std::io::Result<Self> {
        let disk_full = Arc::default();
        let room = Room::new(settings.outbox_bytes, Arc::clone(&disk_full));
        let rules = Arc::new(Rules::new(settings.profile, settings.max_payload));
        let (commands, inbox) = mpsc::unbounded_channel();
        let (status_sender, status) = watch::channel(LinkStatus::new());
        let (phase, phases) = watch::channel(Phase::Waiting);
        let (mut names, mut commit) = (HashMap::new(), None);
        let disk = disk.map(|disk| {
            let Disk { store, restored, settings, keeps_outbox } = disk;
            commit = Some(match settings.commit {
                journal::Commit::Call => Commit::Call,
                journal::Commit::Every(_) => Commit::Later,
            });
            names = known(&restored, &room);
            let reports = commands.downgrade();
            let journal = Journal::start(store, settings, disk_full, move |report| {
                // Fails only when the link has ended.
                if let Some(commands) = reports.upgrade() {
                    let _ = commands.send(Command::Report(report));
                }
            })?;
            let earlier = names.iter().map(|(name, known)| (name.clone(), known.clone())).collect();
            Ok::<_, std::io::Error>(task::Disk { journal, restored, keeps_outbox, earlier })
        });
        let disk = disk.transpose()?;
        // After each turn of somebody else the link's task is next, if it has anything to do.
        let runtime = Builder::new_current_thread().enable_all().event_interval(1).build()?;
        let handle = runtime.handle().clone();
        let span = error_span!(target: crate::log::SPANS, "link", name = %settings.label);
        let (rules_of, beyond) = (rules.clone(), Arc::new(AtomicUsize::new(0)));
        let beyond_of = beyond.clone();
        let ends =
            task::Ends { commands: inbox, status: status_sender, phase: phases, rules: rules_of, beyond: beyond_of };
        let task = task::Task::new(settings, ends, disk);
        let thread = thread::Builder::new().name("alphorn-link".into()).spawn(move || {
            runtime.block_on(task.run().instrument(span));
            // A resolver that hangs must not keep the process.
            runtime.shutdown_background();
        })?;
        let next_client = names.len() as SubscriberId + 1;
        Ok(Self {
            commands,
            room,
            status,
            phase,
            rules,
            beyond,
            commit,
            next_client: AtomicU32::new(next_client),
            names: Mutex::new(names),
            runtime: handle,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Lets the link connect; until then subscriptions and messages only gather.
    pub fn open(&self) {
        self.phase.send_replace(Phase::Open);
    }

    /// Of the link's thread, for what is quick and should begin and end there.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A new user of the link, or one that comes back.
    pub fn client(&self, options: &ClientOptions) -> (Client, Mailbox) {
        let commit = self.commit.filter(|_| options.name.is_some());
        let known = match &options.name {
            Some(name) => {
                let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                names.entry(name.clone()).or_insert_with(|| self.new_client()).clone()
            }
            None => self.new_client(),
        };
        let Known { id, share, held } = known;
        share.set_limit(options.outbox_bytes);
        let (sender, mailbox) = client::mailbox(id, self.commands.clone(), self.beyond.clone(), options);
        let attached = Attached {
            name: options.name.clone().filter(|_| commit.is_some()),
            mailbox: Some(sender),
            share: share.clone(),
            held: held.clone(),
            inbox_bytes: options.inbox_bytes,
            tracked: options.tracked,
            label: options.name.clone(),
            words: options.words.clone(),
        };
        // Fails when the link has ended; the client's own calls then say so.
        let _ = self.commands.send(Command::Attach(id, Box::new(attached)));
        let (commands, status, rules) = (self.commands.clone(), self.status.clone(), self.rules.clone());
        (Client::new(ClientParts { id, commands, share, status, rules, held, commit }, options), mailbox)
    }

    /// Ends the subscriptions of names that an earlier run had and this one has not.
    pub fn forget_others(&self, names: &[&str]) {
        let known = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, known) in known.iter().filter(|(name, _)| !names.contains(&name.as_ref())) {
            let _ = self.commands.send(Command::Forget(known.id));
        }
    }

    /// Ends the subscriptions of a plugin that does not come back.
    pub fn forget(&self, name: &str) {
        let known = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(name) {
            let _ = self.commands.send(Command::Forget(known.id));
        }
    }

    /// What is kept of a plugin, as of all that was told before. None: nothing is kept here.
    pub async fn saved(&self, name: &str) -> Option<Result<Saved, StoreError>> {
        let name = name.to_owned();
        self.read(move |store| store.saved(&name)).await
    }

    /// Messages that plugins could not handle.
    pub async fn dead_letters(&self, plugin: Option<&str>) -> Option<Result<Vec<DeadLetter>, StoreError>> {
        let plugin = plugin.map(str::to_owned);
        self.read(move |store| store.dead_letters(plugin.as_deref())).await
    }

    /// Tries a dead letter once more, or drops it.
    pub fn settle_letter(&self, letter: &DeadLetter, again: bool) {
        let (plugin, number) = (letter.plugin.clone(), letter.number);
        let command = if again {
            Command::Revive(plugin, number)
        } else {
            Command::Change(Box::new(Change::Buried { plugin, number }))
        };
        let _ = self.commands.send(command);
    }

    /// Messages the broker does not bear.
    pub async fn quarantined(&self) -> Option<Result<Vec<(Quarantined, Taken)>, StoreError>> {
        self.read(Store::quarantined).await
    }

    /// Sends a message of the quarantine after all, or drops it. Its topic is free either way.
    pub fn settle_quarantined(&self, quarantined: (Quarantined, Taken), again: bool) {
        let command = if again {
            Command::Release(Box::new(quarantined))
        } else {
            let Quarantined { owner, seq, .. } = quarantined.0;
            Command::Change(Box::new(Change::Released { owner, seq }))
        };
        let _ = self.commands.send(command);
    }

    async fn read<R: Send + 'static>(&self, look: impl FnOnce(&mut Store) -> R + Send + 'static) -> Option<R> {
        self.commit?;
        let (reply, answer) = oneshot::channel();
        let look: journal::Look = Box::new(move |store| drop(reply.send(look(store))));
        self.commands.send(Command::Look(Look(look))).ok()?;
        answer.await.ok()
    }

    fn new_client(&self) -> Known {
        let id = self.next_client.fetch_add(1, Relaxed);
        Known { id, share: self.room.share(usize::MAX, 0, 0), held: Arc::default() }
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

/// A client for each name that an earlier run left something of.
fn known(restored: &Restored, room: &Arc<Room>) -> HashMap<Arc<str>, Known> {
    let mut names = HashMap::new();
    let mut know = |name: &Arc<str>, messages, bytes| {
        let id = names.len() as SubscriberId + 1;
        names.entry(name.clone()).or_insert_with(|| Known {
            id,
            share: room.share(usize::MAX, messages, bytes),
            held: Arc::default(),
        });
    };
    for waiting in &restored.outbox {
        know(&waiting.name, u32::try_from(waiting.messages).unwrap_or(u32::MAX), waiting.bytes);
    }
    restored.inbox.iter().for_each(|waiting| know(&waiting.name, 0, 0));
    restored.subscriptions.iter().for_each(|subscription| know(&subscription.plugin, 0, 0));
    restored.plugins.iter().for_each(|plugin| know(plugin, 0, 0));
    names
}

impl LinkStatus {
    /// Before the first attempt.
    fn new() -> Self {
        Self { state: LinkState::Starting, since: Instant::now(), trouble: None }
    }

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
