//! A broker that does what a test tells it, packet by packet: it stays silent, answers late,
//! twice, out of order or with a refusal, talks nonsense, or goes away, at whatever step.
//!
//! ```text
//! accept ─▶ Came ─▶ ClientHello ─▶ Asked ─▶ handshake ─▶ Agreed ─▶ packets ─▶ Packet … ─▶ Gone
//!             │                      │                     │                    │
//!             └───────────┬──────────┴──────────┬──────────┴──────────┬─────────┘
//!                    the script says what to do at each step: Do, Do, Do
//! ```
//!
//! A script is a closure. What it does not care about it leaves to [`kind`], a broker without
//! faults, or to [`resuming`], one that knows its client's session:
//!
//! ```ignore
//! let broker = Scripted::start(&bed, |event| match &event.step {
//!     Step::Packet(Packet::Publish(message)) if message.topic == "forbidden" => vec![Do::Reset],
//!     _ => kind(event),
//! }).await?;
//! let host = Program::run(&broker.config(&bed, PLUGINS))?;
//! broker.packet("a PINGREQ", |packet| matches!(packet, Packet::Pingreq)).await?;
//! ```
//!
//! Every step is recorded with the number of its connection and its time. A packet that MQTT
//! forbids is recorded as [`Packet::Broken`], and makes every later wait fail.

mod packet;
mod stream;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alphorn_dev_broker::ALPN;
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

use self::stream::Stream;
pub(crate) use self::{
    packet::{Answer, Hello, Packet, frame, length, string},
    stream::{Offer, Tls},
};
use super::{Bed, Config, Context as _, Message, Result, Version, ensure, seen::Seen};

/// Something happened on a connection.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Counts connections from 0.
    pub(crate) connection: usize,
    pub(crate) at: Instant,
    pub(crate) step: Step,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is a TCP connection.
    Came,
    /// A ClientHello has come, unless the broker is plain.
    Asked(Offer),
    /// The TLS handshake is complete, unless the broker is plain.
    Agreed,
    Packet(Packet),
    /// The test asks what to do now, by [`Do::Ask`].
    Turn,
    /// The connection is over; why, in words, if not by the script.
    Gone(String),
}

/// What to do about it.
#[derive(Debug, Clone)]
pub(crate) enum Do {
    Say(Answer),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// Asks the script, by [`Step::Turn`]. What the script answers goes out in order with its other
    /// answers on that connection.
    Ask,
    /// Later, without holding up anything else.
    Later(Duration, Box<Do>),
    /// Ends the connection: `close_notify` and FIN.
    Close,
    /// Ends the connection: RST.
    Reset,
    /// Ends the connection: a fatal TLS alert and FIN.
    Alert,
}

impl Do {
    /// CONNACK, all is well.
    pub(crate) fn welcome(session_present: bool) -> Self {
        Self::Say(Answer::Connack { session_present, code: 0, properties: Vec::new() })
    }

    /// CONNACK with a refusal.
    pub(crate) fn refuse(code: u8) -> Self {
        Self::Say(Answer::Connack { session_present: false, code, properties: Vec::new() })
    }

    /// PUBACK, all is well.
    pub(crate) fn puback(packet_id: u16) -> Self {
        Self::Say(Answer::Puback { packet_id, reason: 0 })
    }

    /// A message at QoS 1.
    pub(crate) fn deliver(topic: &str, payload: impl AsRef<[u8]>, packet_id: u16, dup: bool) -> Self {
        Self::Say(Answer::Publish(Message {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_vec(),
            qos: 1,
            retain: false,
            dup,
            packet_id: Some(packet_id),
            properties: Vec::new(),
        }))
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self::Later(delay, Box::new(self))
    }
}

/// Answers as it should be, and knows no session.
pub(crate) fn kind(event: &Event) -> Vec<Do> {
    answer(event, false)
}

/// Answers as it should be; from the second connection on it knows the session.
pub(crate) fn resuming(event: &Event) -> Vec<Do> {
    answer(event, event.connection > 0)
}

fn answer(event: &Event, session_present: bool) -> Vec<Do> {
    let Step::Packet(packet) = &event.step else { return Vec::new() };
    match packet {
        Packet::Connect(hello) => vec![Do::welcome(session_present && !hello.clean)],
        Packet::Publish(message) => message.packet_id.map(Do::puback).into_iter().collect(),
        Packet::Subscribe { packet_id, filters, .. } => {
            let codes = filters.iter().map(|filter| filter.options & 3).collect();
            vec![Do::Say(Answer::Suback { packet_id: *packet_id, codes })]
        }
        Packet::Unsubscribe { packet_id, filters } => {
            vec![Do::Say(Answer::Unsuback { packet_id: *packet_id, codes: vec![0; filters.len()] })]
        }
        Packet::Pingreq => vec![Do::Say(Answer::Pingresp)],
        Packet::Disconnect { .. } => vec![Do::Close],
        Packet::Puback { .. } | Packet::Broken(_) => Vec::new(),
    }
}

type Script = Box<dyn FnMut(&Event) -> Vec<Do> + Send>;

/// A running scripted broker.
pub(crate) struct Scripted {
    addr: SocketAddr,
    shared: Arc<Shared>,
    is_tls: bool,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    script: Mutex<Script>,
    events: Seen<Event>,
    /// Ways to act on the connections that stand.
    open: Mutex<HashMap<usize, mpsc::UnboundedSender<Do>>>,
    tls: Option<Arc<ServerConfig>>,
}

impl Scripted {
    /// Demands what AWS IoT demands: a client certificate and ALPN `x-amzn-mqtt-ca`.
    pub(crate) async fn start(bed: &Bed, script: impl FnMut(&Event) -> Vec<Do> + Send + 'static) -> Result<Self> {
        Self::with(bed, |_| Ok(()), script).await
    }

    /// The same with other TLS.
    pub(crate) async fn with(
        bed: &Bed,
        adapt: impl FnOnce(&mut Tls) -> Result<()>,
        script: impl FnMut(&Event) -> Vec<Do> + Send + 'static,
    ) -> Result<Self> {
        let identity = bed.authority.issue_server(&["localhost"])?;
        let mut tls = Tls {
            cert_pem: identity.cert_pem,
            key_pem: identity.key_pem,
            client_ca: Some(bed.authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            versions: rustls::ALL_VERSIONS.to_vec(),
            max_fragment: None,
        };
        adapt(&mut tls)?;
        Self::listen(Some(tls.config()?), Box::new(script)).await
    }

    /// Without TLS.
    pub(crate) async fn plain(script: impl FnMut(&Event) -> Vec<Do> + Send + 'static) -> Result<Self> {
        Self::listen(None, Box::new(script)).await
    }

    async fn listen(tls: Option<Arc<ServerConfig>>, script: Script) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let is_tls = tls.is_some();
        let shared = Arc::new(Shared { script: Mutex::new(script), events: Seen::new(), open: Mutex::default(), tls });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, shared.clone())));
        Ok(Self { addr, shared, is_tls, _accepting: accepting })
    }

    /// Connects to it with all it demands; `rest` follows the section `[link]`.
    pub(crate) fn config(&self, bed: &Bed, rest: &str) -> Config {
        let port = self.addr.port();
        if self.is_tls {
            bed.config(rest).link(&format!("url = \"mqtts://localhost:{port}\""))
        } else {
            Config::new(bed.folder(), &format!("mqtt://127.0.0.1:{port}"), rest)
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Another script from now on.
    pub(crate) fn now(&self, script: impl FnMut(&Event) -> Vec<Do> + Send + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Does something on the newest connection, without being asked.
    pub(crate) fn act(&self, action: Do) -> Result<()> {
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, newest) = open.iter().max_by_key(|(number, _)| **number).context("no connection")?;
        newest.send(action).context("the connection is gone")
    }

    /// All that happened so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.shared.events.look(<[Event]>::to_vec)
    }

    /// TCP connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.events.look(|events| events.iter().filter(|event| event.step == Step::Came).count())
    }

    /// The packets so far that a test looks for, with the number of their connection.
    pub(crate) fn packets<R>(&self, wanted: impl Fn(&Packet) -> Option<R>) -> Vec<(usize, R)> {
        let found = |event: &Event| match &event.step {
            Step::Packet(packet) => Some((event.connection, wanted(packet)?)),
            _ => None,
        };
        self.shared.events.look(|events| events.iter().filter_map(found).collect())
    }

    /// The messages published to a topic so far, each time they came.
    pub(crate) fn published(&self, topic: &str) -> Vec<Message> {
        let wanted = |packet: &Packet| match packet {
            Packet::Publish(message) if message.topic == topic => Some(message.clone()),
            _ => None,
        };
        self.packets(wanted).into_iter().map(|(_, message)| message).collect()
    }

    /// Looks after each event, until there is what was looked for.
    pub(crate) async fn wait_for<R>(&self, what: &str, mut look: impl FnMut(&[Event]) -> Option<R>) -> Result<R> {
        let found = self.shared.events.wait_for(what, |events| {
            let broken = events.iter().find_map(|event| match &event.step {
                Step::Packet(Packet::Broken(why)) => Some(format!("connection {}: {why}", event.connection)),
                _ => None,
            });
            broken.map_or_else(|| look(events).map(Ok), |why| Some(Err(why)))
        });
        let found = found.await.map_err(|error| {
            let events: Vec<_> = self.events().iter().rev().take(20).rev().map(line).collect();
            error.context(format!("at the scripted broker, in the end:\n{}", events.join("\n")))
        })?;
        found.map_err(|why| anyhow::anyhow!("{what}: the client broke the rules on {why}"))
    }

    /// Waits for the first packet that is as wanted.
    pub(crate) async fn packet(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Result<Event> {
        self.packet_times(1, what, wanted).await
    }

    /// Waits for the `count`th packet that is as wanted.
    pub(crate) async fn packet_times(
        &self,
        count: usize,
        what: &str,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Event> {
        let is = |event: &&Event| matches!(&event.step, Step::Packet(packet) if wanted(packet));
        let what = format!("{what}, number {count}");
        self.wait_for(&what, |events| events.iter().filter(is).nth(count - 1).cloned()).await
    }

    /// Waits for the `count`th PUBLISH to a topic, repetitions included.
    pub(crate) async fn publish(&self, topic: &str, count: usize) -> Result<Message> {
        let what = format!("a PUBLISH to {topic}");
        let event = self.packet_times(count, &what, |packet| publishes(packet, topic)).await?;
        match event.step {
            Step::Packet(Packet::Publish(message)) => Ok(message),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Waits for the `count`th CONNECT and returns it.
    pub(crate) async fn connect(&self, count: usize) -> Result<Hello> {
        let event = self.packet_times(count, "a CONNECT", |packet| matches!(packet, Packet::Connect(_))).await?;
        match event.step {
            Step::Packet(Packet::Connect(hello)) => Ok(hello),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Waits until that connection is over.
    pub(crate) async fn gone(&self, connection: usize) -> Result<Event> {
        let is = |event: &&Event| event.connection == connection && matches!(event.step, Step::Gone(_));
        let what = format!("the end of connection {connection}");
        self.wait_for(&what, |events| events.iter().find(is).cloned()).await
    }

    /// Fails if the client has sent what MQTT forbids.
    pub(crate) fn keeps_the_rules(&self) -> Result<()> {
        let broken = self.packets(|packet| match packet {
            Packet::Broken(why) => Some(why.clone()),
            _ => None,
        });
        ensure!(broken.is_empty(), "the client broke the rules: {broken:?}");
        Ok(())
    }
}

/// Whether it is a PUBLISH to this topic.
pub(crate) fn publishes(packet: &Packet, topic: &str) -> bool {
    matches!(packet, Packet::Publish(message) if message.topic == topic)
}

/// Whether it is a SUBSCRIBE with this filter.
pub(crate) fn subscribes(packet: &Packet, filter: &str) -> bool {
    matches!(packet, Packet::Subscribe { filters, .. } if filters.iter().any(|other| other.name == filter))
}

/// An event without the bulk of its payload.
fn line(event: &Event) -> String {
    let text = format!("{:?}", event.step);
    format!("connection {}: {}", event.connection, text.chars().take(200).collect::<String>())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and with them the connections.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((tcp, _)) = listener.accept().await else { return };
        let shared = shared.clone();
        tasks.spawn(async move {
            let (sender, actions) = mpsc::unbounded_channel();
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender.clone());
            let mut connection =
                Connection { number, shared, stream: Stream::Tcp(tcp), sender, actions, version: None, over: false };
            let reason = connection.run().await.err().map_or_else(String::new, |error| format!("{error:#}"));
            let Connection { shared, stream, .. } = connection;
            drop(stream);
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            shared.events.push(Event { connection: number, at: Instant::now(), step: Step::Gone(reason) });
        });
    }
}

/// One connection: the only one to touch its stream.
struct Connection {
    number: usize,
    shared: Arc<Shared>,
    stream: Stream,
    sender: mpsc::UnboundedSender<Do>,
    actions: mpsc::UnboundedReceiver<Do>,
    /// What CONNECT said.
    version: Option<Version>,
    /// The script has ended it.
    over: bool,
}

impl Connection {
    async fn run(&mut self) -> Result<()> {
        if let Stream::Tcp(tcp) = &self.stream {
            tcp.set_nodelay(true)?;
        }
        self.step(Step::Came).await?;
        if let Some(tls) = self.shared.tls.clone().filter(|_| !self.over) {
            let offer = self.stream.hello().await?;
            self.step(Step::Asked(offer)).await?;
            if !self.over {
                self.stream.shake(tls).await?;
                self.step(Step::Agreed).await?;
            }
        }
        let mut buffer = Vec::new();
        while !self.over {
            tokio::select! {
                biased;
                Some(action) = self.actions.recv() => self.perform(action).await?,
                read = self.stream.read(&mut buffer) => {
                    ensure!(read? > 0, "closed by the client");
                    while let Some((head, body)) = packet::split(&mut buffer).filter(|_| !self.over) {
                        let packet = packet::read(head, &body, self.version);
                        if let Packet::Connect(hello) = &packet {
                            self.version = Some(hello.version);
                        }
                        self.step(Step::Packet(packet)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Records it, and does what the script says. The record comes first: a test that sees the
    /// client's answer sees also what it was the answer to.
    async fn step(&mut self, step: Step) -> Result<()> {
        let event = Event { connection: self.number, at: Instant::now(), step };
        self.shared.events.push(event.clone());
        let actions = {
            let mut script = self.shared.script.lock().unwrap_or_else(PoisonError::into_inner);
            script(&event)
        };
        for action in actions {
            if !self.over {
                self.perform(action).await?;
            }
        }
        Ok(())
    }

    async fn perform(&mut self, action: Do) -> Result<()> {
        match action {
            Do::Say(answer) => {
                let bytes = answer.encode(self.version.unwrap_or(Version::V5));
                self.stream.write(&bytes).await?;
            }
            Do::Raw(bytes) => self.stream.write(&bytes).await?,
            Do::Ask => Box::pin(self.step(Step::Turn)).await?,
            Do::Later(delay, action) => {
                let sender = self.sender.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    // The connection may be gone by then, and the answer with it.
                    let _ = sender.send(*action);
                });
            }
            Do::Close => {
                self.over = true;
                self.stream.close().await?;
                self.drain().await;
            }
            Do::Alert => {
                self.over = true;
                self.stream.alert().await?;
                self.drain().await;
            }
            Do::Reset => {
                self.over = true;
                self.stream.reset()?;
            }
        }
        Ok(())
    }

    /// Reads until the client has gone, too. With unread bytes the end would become a RST, and
    /// the client might never see what was said before it.
    async fn drain(&mut self) {
        // Whether it went in time makes no difference any more.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.discard()).await;
    }
}
