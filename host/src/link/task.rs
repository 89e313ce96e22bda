//! The link's loop: connect, serve, back off. The one owner of the socket, the
//! session, the outbox and the table of subscriptions.
//!
//! It waits for the socket, for commands and for the clock, and for nothing else.

mod receive;
mod send;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    select,
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{debug, info, warn};

use super::{
    Command, LinkSettings, LinkState, LinkStatus, Notice, Phase,
    backoff::Backoff,
    client::MailboxSender,
    connect::{self, Connection},
    error::LinkError,
    keep_alive::{Due, KeepAlive},
    session::{Request, Session},
    wire::Turn,
};
use crate::{
    message::Qos,
    outbox::Outbox,
    router::{Router, SubscriberId},
    topic::TopicFilter,
};

/// Commands taken at once, so that a flood of them does not starve the socket.
const COMMANDS: usize = 256;

/// Everything the link owns.
pub(super) struct Task {
    settings: Arc<LinkSettings>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the acknowledgements that travel with deliveries.
    own_commands: mpsc::WeakUnboundedSender<Command>,
    status: watch::Sender<LinkStatus>,
    phase: watch::Receiver<Phase>,
    clients: HashMap<SubscriberId, Registered>,
    router: Router,
    outbox: Outbox,
    session: Session,
    /// SUBSCRIBEs and UNSUBSCRIBEs the broker has to be sent, one for a filter at most.
    requests: VecDeque<Request>,
    /// Filters the broker was sent a SUBSCRIBE for in this session.
    at_broker: HashSet<TopicFilter>,
    /// Connections of this run.
    connections: u32,
    /// Reused for each arrival.
    found: Vec<SubscriberId>,
}

struct Registered {
    mailbox: MailboxSender,
    tracked: bool,
    /// Messages of QoS 0 that found no room, and those given up.
    dropped: u64,
}

/// What is due on a connection, besides the socket and commands.
struct Clock {
    keep_alive: KeepAlive,
    /// When the next message of the backlog may leave.
    next_drain: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        settings: LinkSettings,
        commands: mpsc::UnboundedReceiver<Command>,
        own_commands: mpsc::WeakUnboundedSender<Command>,
        status: watch::Sender<LinkStatus>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            settings: Arc::new(settings),
            commands,
            own_commands,
            status,
            phase,
            clients: HashMap::new(),
            router: Router::default(),
            outbox: Outbox::default(),
            session: Session::new(),
            requests: VecDeque::new(),
            at_broker: HashSet::new(),
            connections: 0,
            found: Vec::new(),
        }
    }

    /// Until closed.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.settings.backoff);
        let mut next_attempt = Instant::now();
        while self.wait(next_attempt).await {
            info!(url = %self.settings.url, client_id = self.settings.client_id, "start connect");
            let (error, stood) = match self.connect().await {
                None => break,
                Some(Err(error)) => (error, None),
                Some(Ok(connection)) => {
                    let up = Instant::now();
                    match self.serve(connection).await {
                        None => break,
                        Some(error) => (error, Some(up.elapsed())),
                    }
                }
            };
            self.went_down(&error);
            let pause = backoff.pause(stood);
            next_attempt = Instant::now() + pause;
            let (attempt, wait) = (backoff.failures(), humantime::format_duration(rounded(pause)));
            if stood.is_some() {
                warn!("connection lost: {error}; next attempt in {wait}");
            } else {
                warn!("connect failed (attempt {attempt}): {error}; next attempt in {wait}");
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.apply(command, false);
        }
        if !self.outbox.is_empty() {
            warn!(messages = self.outbox.len(), "the link ends with messages the broker has not acknowledged");
        }
    }

    /// Takes commands until the next attempt is due and allowed. False: closing.
    async fn wait(&mut self, until: Instant) -> bool {
        loop {
            let phase = *self.phase.borrow_and_update();
            if matches!(phase, Phase::Closing(_)) {
                return false;
            }
            let may_connect = phase == Phase::Open;
            if may_connect && Instant::now() >= until {
                return true;
            }
            select! {
                changed = self.phase.changed() => if changed.is_err() { return false },
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command, false),
                    None => return false,
                },
                () = sleep_until(until.into()), if may_connect => {}
            }
        }
    }

    /// One attempt; commands are taken meanwhile. `None`: closing.
    async fn connect(&mut self) -> Option<Result<Connection, LinkError>> {
        let settings = self.settings.clone();
        let mut observer = |step| debug!("{step}");
        let mut attempt = pin!(connect::connect(&settings, &mut observer));
        loop {
            select! {
                connected = &mut attempt => return Some(connected),
                changed = self.phase.changed() => {
                    if changed.is_err() || matches!(*self.phase.borrow(), Phase::Closing(_)) {
                        return None;
                    }
                }
                command = self.commands.recv() => self.apply(command?, false),
            }
        }
    }

    /// Serves a connection until it ends. `None`: closed in good order.
    async fn serve(&mut self, mut connection: Connection) -> Option<LinkError> {
        self.came_up(&connection);
        let keep_alive = connection.connack.keep_alive.unwrap_or(self.settings.keep_alive);
        let mut clock = Clock { keep_alive: KeepAlive::new(keep_alive, Instant::now()), next_drain: None };
        let mut commands = Vec::with_capacity(COMMANDS);
        // The CONNACK may have come with more behind it.
        if let Err(error) = self.receive(&mut connection, &mut clock) {
            return Some(error);
        }
        loop {
            let closing = match *self.phase.borrow_and_update() {
                Phase::Closing(until) => Some(until),
                Phase::Waiting | Phase::Open | Phase::Quiet => None,
            };
            if let Err(error) = self.fill(&mut connection, &mut clock) {
                return Some(error);
            }
            // What plugins said last may still be on its way here.
            let all_done = self.commands.is_empty()
                && self.outbox.is_empty()
                && !self.session.is_waiting()
                && !connection.wire.is_writing();
            if closing.is_some_and(|until| all_done || Instant::now() >= until) {
                self.disconnect(connection).await;
                return None;
            }
            let deadline = [clock.keep_alive.deadline(), clock.next_drain, closing].into_iter().flatten().min();
            select! {
                turn = connection.wire.turn() => match turn {
                    Ok(Turn::Read) => if let Err(error) = self.receive(&mut connection, &mut clock) {
                        return Some(error);
                    },
                    Ok(Turn::Written) => clock.keep_alive.sent(Instant::now()),
                    Ok(Turn::Closed) => return Some(LinkError::Closed),
                    Err(cause) => return Some(connect::broken(&self.settings, cause)),
                },
                count = self.commands.recv_many(&mut commands, COMMANDS) => {
                    if count == 0 {
                        return None;
                    }
                    for command in commands.drain(..) {
                        self.apply(command, true);
                    }
                }
                changed = self.phase.changed() => if changed.is_err() { return None },
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    match clock.keep_alive.due(Instant::now()) {
                        Due::Nothing => {}
                        Due::Ping => {
                            if let Err(error) = connection.codec.ping(&mut connection.wire.outbound) {
                                return Some(LinkError::NotMqtt(format!("PINGREQ: {error}")));
                            }
                        }
                        Due::GiveUp(silence) => return Some(LinkError::Silent(silence)),
                    }
                }
            }
        }
    }

    fn came_up(&mut self, connection: &Connection) {
        let connack = &connection.connack;
        let requests = if connack.session_present {
            self.session.resume(connack.receive_maximum)
        } else {
            self.session.restart(connack.receive_maximum);
            self.outbox.rewind();
            self.at_broker.clear();
            Vec::new()
        };
        // The broker may keep a session of an earlier run, whose subscriptions this run does not know.
        if !connack.session_present || self.connections == 0 {
            self.requests = self.router.all().into_iter().map(Request::Subscribe).collect();
        } else {
            for request in requests.into_iter().rev() {
                if !self.requests.iter().any(|newer| newer.filter() == request.filter()) {
                    self.requests.push_front(request);
                }
            }
        }
        self.outbox.mark_backlog();
        self.connections += 1;
        let state = LinkState::Up { number: self.connections, session_present: connack.session_present };
        self.status.send_replace(LinkStatus { state, since: Instant::now() });
        info!("connect success: {}", connection.info);
    }

    fn went_down(&mut self, error: &LinkError) {
        if !self.settings.store_qos0 {
            for entry in self.outbox.take_qos0() {
                self.drop_qos0(&entry);
            }
        }
        let state = LinkState::Down { reason: error.to_string().into() };
        self.status.send_replace(LinkStatus { state, since: Instant::now() });
    }

    fn apply(&mut self, command: Command, connected: bool) {
        match command {
            Command::Attach(id, mailbox, tracked) => {
                self.clients.insert(id, Registered { mailbox, tracked, dropped: 0 });
            }
            Command::Detach(id) => {
                self.clients.remove(&id);
                let filters = self.router.remove(id);
                // While the host ends, the session keeps its subscriptions for the next run.
                if !self.is_ending() {
                    filters.into_iter().for_each(|filter| self.request(Request::Unsubscribe(filter)));
                }
            }
            Command::Publish(entry) => {
                if connected || entry.message.qos == Qos::AtLeastOnce || self.settings.store_qos0 {
                    self.outbox.push(entry);
                } else {
                    self.drop_qos0(&entry);
                }
            }
            Command::Subscribe(id, filter, qos) => {
                let of = |request: &Request| request.filter() == Some(&filter);
                let asked = self.requests.iter().any(of) || self.session.requests().any(of);
                let subscription = self.router.subscribe(id, filter, qos, asked);
                self.request(Request::Subscribe(subscription));
            }
            Command::Unsubscribe(id, filter) => {
                if let Some(filter) = self.router.unsubscribe(id, &filter) {
                    self.request(Request::Unsubscribe(filter));
                }
            }
            Command::Handled(token) => self.session.handled(token),
            Command::Abandoned(token) => {
                // While the host ends, what nobody handled stays with the broker.
                if !self.is_ending() {
                    warn!("a QoS 1 message was given up: the plugin it was for is gone");
                    self.session.handled(token);
                }
            }
        }
    }

    /// Only the newest request for a filter matters.
    fn request(&mut self, request: Request) {
        self.requests.retain(|older| older.filter() != request.filter());
        let needless = matches!(&request, Request::Unsubscribe(filter) if !self.at_broker.contains(filter));
        if !needless {
            self.requests.push_back(request);
        }
    }

    fn is_ending(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Quiet | Phase::Closing(_))
    }

    async fn disconnect(&mut self, mut connection: Connection) {
        const PATIENCE: Duration = Duration::from_secs(1);
        if connection.codec.disconnect(&mut connection.wire.outbound).is_ok() {
            let closed = tokio::time::timeout(PATIENCE, connection.wire.close()).await;
            if !matches!(closed, Ok(Ok(()))) {
                debug!("the broker did not take the DISCONNECT");
            }
        }
        info!("disconnected");
    }

    fn notify(&self, id: SubscriberId, notice: Notice) {
        if let Some(client) = self.clients.get(&id) {
            client.mailbox.notify(notice);
        }
    }
}

impl Request {
    fn filter(&self) -> Option<&TopicFilter> {
        match self {
            Self::Subscribe(subscription) => Some(&subscription.filter),
            Self::Unsubscribe(filter) => Some(filter),
            Self::Publish(_) => None,
        }
    }
}

fn rounded(pause: Duration) -> Duration {
    Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}
