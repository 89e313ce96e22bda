//! The link's loop: connect, serve, back off. The one owner of the socket, the
//! session, the outbox and the table of subscriptions.
//!
//! It waits for the socket, for commands and for the clock, and for nothing else.

mod blame;
mod disk;
mod inbox;
mod receive;
mod send;
mod subscribe;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tokio::{
    select,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep_until, timeout},
};
use tracing::{debug, info, warn};

pub(super) use self::disk::Disk;
use self::{
    disk::{Stored, Tickets},
    inbox::HOLD,
    send::too_old,
};
use super::{
    Attached, Command, LinkSettings, LinkState, LinkStatus, Notice, Phase,
    backoff::Backoff,
    client::{Held, MailboxSender},
    codec::Version,
    connect::{self, Connection},
    error::LinkError,
    intake::Intake,
    keep_alive::{Due, KeepAlive},
    oddities::Oddities,
    overflow::Overflow,
    ownership::Ownership,
    pace::Pace,
    rules::Rules,
    session::{Overdue, Request, Session},
    suspects::Suspects,
    wire::Turn,
};
use crate::{
    allowance::Allowance,
    message::Qos,
    outbox::{Outbox, Share},
    router::{Router, SubscriberId, Subscription},
    topic::TopicFilter,
};

/// Commands taken at once, so that a flood of them does not starve the socket.
const COMMANDS: usize = 256;

/// How often messages are looked through for those that waited too long.
const SWEEP: Duration = Duration::from_secs(1);

/// How long it may take to close a connection in good order.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everything the link owns.
pub(super) struct Task {
    settings: Arc<LinkSettings>,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<LinkStatus>,
    phase: watch::Receiver<Phase>,
    /// What messages have to keep to, shared with clients.
    rules: Arc<Rules>,
    clients: FxHashMap<SubscriberId, Registered>,
    router: Router,
    outbox: Outbox,
    session: Session,
    suspects: Suspects,
    pace: Pace,
    oddities: Oddities,
    disk: Option<Disk>,
    tickets: Tickets,
    /// SUBSCRIBEs and UNSUBSCRIBEs to be sent, as `plan` made them.
    requests: VecDeque<Request>,
    /// The subscriptions the broker has acknowledged in this session.
    at_broker: BTreeMap<TopicFilter, Subscription>,
    /// Filters a client has asked for since, which the broker is sent again for the
    /// messages it keeps.
    asked: BTreeSet<TopicFilter>,
    /// Filters the broker has granted and may still send kept messages for: it has answered nothing
    /// since, beyond so many answers.
    settling: Vec<(TopicFilter, u64)>,
    /// Filters the broker does not take on this connection.
    refused: BTreeSet<TopicFilter>,
    /// Filters over which the broker closes the connection.
    banned: BTreeSet<TopicFilter>,
    /// What is wanted and what the broker has may differ.
    needs_plan: bool,
    /// Connections of this run.
    connections: u32,
    /// When to look for messages that waited too long.
    sweep_at: Option<Instant>,
    /// Reused for each arrival.
    found: Vec<SubscriberId>,
    /// Arrivals that were put into inboxes and are not committed yet.
    stored: Stored,
    /// Bytes of messages that mailboxes had no room for.
    beyond: Arc<AtomicUsize>,
    /// The last connection is being closed.
    farewell: Option<JoinHandle<()>>,
    ownership: Ownership,
}

struct Registered {
    name: Option<Arc<str>>,
    /// None: nobody reads messages.
    mailbox: Option<MailboxSender>,
    /// Messages are not to go into the mailbox for now.
    is_away: bool,
    overflow: Overflow,
    share: Arc<Share>,
    held: Arc<Held>,
    tracked: bool,
    /// What it is called in the log; `name` is what things are kept under.
    label: Option<Arc<str>>,
    /// What may be said in the log because of it.
    words: Allowance,
    /// Messages of QoS 0 it published while there was no connection.
    dropped: u64,
}

/// The link's ends of what connects it with its users.
pub(super) struct Ends {
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) status: watch::Sender<LinkStatus>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) rules: Arc<Rules>,
    pub(super) beyond: Arc<AtomicUsize>,
}

/// What is due on a connection, besides the socket and commands.
struct Clock {
    keep_alive: KeepAlive,
    intake: Intake,
    /// When the next message of the backlog may leave.
    next_drain: Option<Instant>,
    /// No message leaves before that: the broker asks for a pause, or the pace does.
    pause: Option<Instant>,
    /// Pauses the broker asked for in a row.
    pauses: u32,
}

impl Task {
    pub(super) fn new(settings: LinkSettings, ends: Ends, disk: Option<Disk>) -> Self {
        let Ends { commands, status, phase, rules, beyond } = ends;
        let (last_seq, last_token) = disk.as_ref().map_or((0, 0), |disk| (disk.last_seq(), disk.last_token()));
        let mut task = Self {
            commands,
            status,
            phase,
            rules,
            clients: FxHashMap::default(),
            router: Router::default(),
            outbox: Outbox::new(!settings.drain_rate.is_unlimited(), last_seq),
            session: Session::new(settings.operation_timeout, last_token),
            suspects: Suspects::new(),
            pace: settings.profile.pace(),
            oddities: Oddities::default(),
            tickets: Tickets::default(),
            requests: VecDeque::new(),
            at_broker: BTreeMap::new(),
            asked: BTreeSet::new(),
            settling: Vec::new(),
            refused: BTreeSet::new(),
            banned: BTreeSet::new(),
            needs_plan: true,
            connections: 0,
            sweep_at: settings.max_age.map(|_| Instant::now()),
            found: Vec::new(),
            stored: Stored::default(),
            beyond,
            farewell: None,
            ownership: disk.as_ref().map_or_else(Ownership::unknowable, |disk| {
                Ownership::on_disk(disk.restored.has_session, disk.restored.damage.is_some())
            }),
            disk,
            settings: Arc::new(settings),
        };
        task.restore();
        task
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
                Some(Ok(connection)) if !self.is_ours(&connection) => {
                    self.disconnect(connection).await;
                    continue;
                }
                Some(Ok(connection)) => {
                    if !self.keep_session().await {
                        self.disconnect(connection).await;
                        break;
                    }
                    let up = Instant::now();
                    match self.serve(connection).await {
                        None => break,
                        Some(error) => (error, Some(up.elapsed())),
                    }
                }
            };
            if self.went_down(&error, stood) {
                backoff.is_explained();
            }
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
        self.end();
    }

    /// Takes commands until the next attempt is due and allowed. False: closing.
    async fn wait(&mut self, until: Instant) -> bool {
        loop {
            let phase = *self.phase.borrow_and_update();
            if matches!(phase, Phase::Closing(_)) {
                return false;
            }
            self.do_chores();
            let may_connect = phase == Phase::Open;
            if may_connect && Instant::now() >= until {
                return true;
            }
            let deadline = [Some(until).filter(|_| may_connect), self.sweep_at, self.suspects.next_release()];
            let deadline = deadline.into_iter().flatten().min();
            select! {
                changed = self.phase.changed() => if changed.is_err() { return false },
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command, false),
                    None => return false,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {}
            }
        }
    }

    /// One attempt; commands are taken meanwhile. `None`: closing.
    async fn connect(&mut self) -> Option<Result<Connection, LinkError>> {
        let (mut settings, farewell) = (self.settings.clone(), self.farewell.take());
        if self.ownership.is_ending() {
            Arc::make_mut(&mut settings).session_expiry = Duration::ZERO;
        }
        let mut observer = |step| debug!("{step}");
        let mut attempt = pin!(async {
            // The broker is to have all that the last connection said before this one takes its place.
            if let Some(farewell) = farewell {
                let _ = farewell.await;
            }
            connect::connect(&settings, &mut observer).await
        });
        loop {
            self.do_chores();
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

    /// Whether the connection may be served. On a session that somebody else began it may not, since the
    /// subscriptions of that one would go on for ever: a client that has no state of it has to close
    /// (MQTT-3.2.2-4), and the next connection ends the session by a clean start.
    fn is_ours(&mut self, connection: &Connection) -> bool {
        let is_ours = self.ownership.accepts(connection.connack.session_present);
        if self.ownership.is_ending() {
            warn!("the broker has a session of this client id that this host knows nothing of: it is ended");
        }
        is_ours
    }

    /// Waits until the disk says that there is a session of ours at the broker; not for a disk that can't be
    /// written, since messages flow without it, too. False: closing.
    async fn keep_session(&mut self) -> bool {
        if !self.ownership.is_kept() {
            self.note_session();
        }
        while !self.ownership.is_kept() && self.status.borrow().trouble.is_none() {
            self.do_chores();
            select! {
                changed = self.phase.changed() => {
                    if changed.is_err() || matches!(*self.phase.borrow(), Phase::Closing(_)) {
                        return false;
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command, false),
                    None => return false,
                },
            }
        }
        true
    }

    /// Serves a connection until it ends. `None`: closed in good order.
    async fn serve(&mut self, mut connection: Connection) -> Option<LinkError> {
        self.came_up(&connection);
        match self.serve_until(&mut connection).await {
            None => {
                self.disconnect(connection).await;
                None
            }
            Some(error) => {
                self.part(connection, &error);
                Some(error)
            }
        }
    }

    /// `None`: it is time to close it.
    async fn serve_until(&mut self, connection: &mut Connection) -> Option<LinkError> {
        let keep_alive = connection.connack.keep_alive.unwrap_or(self.settings.keep_alive);
        let mut clock = Clock {
            keep_alive: KeepAlive::new(keep_alive, Instant::now()),
            intake: Intake::new(keep_alive),
            next_drain: None,
            pause: None,
            pauses: 0,
        };
        let mut commands = Vec::with_capacity(COMMANDS);
        // The CONNACK may have come with more behind it.
        if let Err(error) = self.receive(connection, &mut clock) {
            return Some(error);
        }
        loop {
            let closing = match *self.phase.borrow_and_update() {
                Phase::Closing(until) => Some(until),
                Phase::Waiting | Phase::Open | Phase::Quiet => None,
            };
            self.do_chores();
            let waiting = self.tickets.storing() + self.beyond.load(Relaxed);
            if let Some(stood) = clock.intake.update(waiting, Instant::now) {
                self.reads_again(stood, &mut clock);
            }
            if let Err(error) = self.fill(connection, &mut clock) {
                return Some(error);
            }
            // Filling settles what is of QoS 0.
            self.tell_journal();
            // What plugins said last may still be on its way here.
            let all_done = self.commands.is_empty()
                && self.outbox.is_empty()
                && !self.session.is_waiting()
                && !connection.wire.is_writing();
            if closing.is_some_and(|until| all_done || Instant::now() >= until) {
                return None;
            }
            let deadline = self.deadline(&clock, closing);
            select! {
                turn = connection.wire.turn(clock.intake.may_read()) => match turn {
                    Ok(Turn::Read(bytes)) => {
                        clock.intake.has_read(bytes);
                        if let Err(error) = self.receive(connection, &mut clock) {
                            return Some(error);
                        }
                    }
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
                    if let Err(error) = self.time_passed(connection, &mut clock) {
                        return Some(error);
                    }
                }
            }
        }
    }

    /// When something is due, whatever the socket does.
    fn deadline(&self, clock: &Clock, closing: Option<Instant>) -> Option<Instant> {
        let hold = self.disk.as_ref().and_then(|_| self.session.arrivals.oldest_held()).map(|since| since + HOLD);
        let is_reading = clock.intake.is_reading();
        let due = [
            clock.keep_alive.deadline(is_reading),
            clock.intake.deadline(),
            clock.next_drain,
            clock.pause,
            closing,
            self.session.look_at().filter(|_| is_reading),
            self.suspects.next_deadline(Instant::now()),
            self.suspects.next_release(),
            self.sweep_at,
            hold,
        ];
        due.into_iter().flatten().min()
    }

    /// Looks at everything that may be due on a connection.
    fn time_passed(&mut self, connection: &mut Connection, clock: &mut Clock) -> Result<(), LinkError> {
        let now = Instant::now();
        if let Some(stood) = clock.intake.look(now) {
            let (stood, bytes) = (rounded(stood), self.tickets.storing() + self.beyond.load(Relaxed));
            warn!(
                bytes,
                "nothing more was read from the broker for {}: what it sent waits for plugins that are slow, or for the disk",
                humantime::format_duration(stood)
            );
        }
        let is_reading = clock.intake.is_reading();
        match clock.keep_alive.due(now, is_reading) {
            Due::Nothing => {}
            Due::Ping => self.ping(connection, clock, now)?,
            Due::GiveUp(silence) => return Err(LinkError::Silent(silence)),
        }
        if is_reading && self.session.look_at().is_some_and(|at| at <= now) {
            match self.session.overdue(now) {
                Overdue::GiveUp { packet_id, request, others } => self.unanswered(packet_id, request, others, now)?,
                // MQTT 5 forbids to repeat on the same connection (MQTT-4.4.0-1).
                Overdue::Repeat(_) if self.settings.protocol == Version::V5 => {}
                Overdue::Repeat(packet_ids) => self.repeat(&packet_ids, connection)?,
            }
        }
        self.store_held(now);
        Ok(())
    }

    /// The broker was not slow: nothing was read, by our own choice.
    fn reads_again(&mut self, stood: Duration, clock: &mut Clock) {
        let now = Instant::now();
        debug!("reading goes on after {}", humantime::format_duration(rounded(stood)));
        clock.keep_alive.reads_again(now);
        self.session.stood_still(stood, now);
    }

    /// What has to be done from time to time, with a connection and without.
    fn do_chores(&mut self) {
        self.read_outbox();
        self.tell_journal();
        if let (Some(at), Some(max_age)) = (self.sweep_at, self.settings.max_age)
            && at <= Instant::now()
        {
            self.sweep_at = Some(Instant::now() + SWEEP);
            while let Some((seq, entry)) = self.outbox.take_older(max_age) {
                self.give_up(seq, entry, too_old(Some(max_age)), None);
            }
        }
        self.release_held();
    }

    fn came_up(&mut self, connection: &Connection) {
        let connack = &connection.connack;
        self.rules.announced(connack);
        if connack.session_present {
            self.session.resume(connack.receive_maximum);
        } else {
            self.session.restart(connack.receive_maximum);
            self.outbox.rewind();
            self.forget_broker();
        }
        self.settling.clear();
        self.refused.clone_from(&self.banned);
        self.needs_plan = true;
        self.outbox.went_up();
        self.suspects.connected(Instant::now());
        self.connections += 1;
        let state = LinkState::Up { number: self.connections, session_present: connack.session_present };
        self.show(state);
        info!("connect success: {}", connection.info);
    }

    /// True: something this side has sent is why.
    fn went_down(&mut self, error: &LinkError, stood: Option<Duration>) -> bool {
        let mut is_explained = false;
        if stood.is_some() {
            self.outbox.went_down();
            is_explained = self.blame(error);
        }
        if !self.settings.store_qos0 {
            for entry in self.outbox.take_qos0() {
                self.drop_qos0(&entry);
            }
        }
        let state = LinkState::Down { reason: error.to_string().into() };
        self.show(state);
        is_explained
    }

    fn show(&self, state: LinkState) {
        self.status.send_modify(|status| (status.state, status.since) = (state, Instant::now()));
    }

    fn apply(&mut self, command: Command, connected: bool) {
        match command {
            Command::Attach(id, attached) => self.attach(id, *attached),
            Command::Detach(id) => self.detach(id),
            Command::Forget(id) => self.forget(id),
            Command::Away(id, away) => self.set_away(id, away),
            Command::Publish(entry) => {
                if connected || entry.message.qos == Qos::AtLeastOnce || self.settings.store_qos0 {
                    self.take(entry);
                } else {
                    self.drop_qos0(&entry);
                }
            }
            Command::MakeRoom(id, bytes) => {
                self.outbox.owe(id, bytes);
                self.pay(id);
            }
            Command::CallEnd(id, end) => self.call_ended(id, *end),
            Command::Dead(id, dead) => self.bury(id, *dead),
            Command::Revive(plugin, number) => self.revive(&plugin, number),
            Command::Release(quarantined) => self.release(*quarantined),
            Command::LimitInbox(id, bytes) => self.limit_inbox(id, bytes),
            Command::Look(look) => self.look(look),
            Command::Change(change) => self.change_now(*change),
            Command::Subscribe(id, filter, qos) => self.subscribe(id, filter, qos),
            Command::Unsubscribe(id, filter) => self.unsubscribe(id, &filter),
            Command::Handled(id, token) => self.handled(id, token),
            Command::Abandoned(id, token) => self.abandoned(id, token),
            Command::More(id) => self.read_inbox(id),
            Command::Report(report) => self.report(report),
        }
    }

    fn attach(&mut self, id: SubscriberId, attached: Attached) {
        let Attached { name, label, mailbox, share, held, inbox_bytes, tracked, words } = attached;
        // What an earlier run, or an earlier client of this name, left is on disk only.
        let returns = self.clients.contains_key(&id) && self.disk.is_some() && name.is_some();
        let overflow = if returns { Overflow::everything() } else { Overflow::default() };
        if let (Some(mailbox), true) = (&mailbox, returns) {
            mailbox.set_overflows(true);
        }
        if let (Some(disk), Some(name)) = (&mut self.disk, &name) {
            disk.journal.limit_inbox(name.clone(), inbox_bytes);
        }
        let client =
            Registered { name, label, mailbox, is_away: false, overflow, share, held, tracked, words, dropped: 0 };
        self.clients.insert(id, client);
    }

    fn detach(&mut self, id: SubscriberId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.name.is_some() {
            // Its subscriptions and what comes for it stay.
            client.mailbox = None;
            return;
        }
        // While the host ends, the session keeps its subscriptions for the next run.
        if !self.is_ending() {
            self.forget(id);
        }
        self.clients.remove(&id);
    }

    fn is_ending(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Quiet | Phase::Closing(_))
    }

    /// A connection that is given up on this side is closed so that the broker gets what was written, and why.
    fn part(&mut self, mut connection: Connection, error: &LinkError) {
        let Some(farewell) = error.farewell() else { return };
        if connection.codec.give_up(farewell, &mut connection.wire.outbound).is_ok() {
            let closing = timeout(PATIENCE, connection.wire.close());
            self.farewell = Some(tokio::spawn(async move { drop(closing.await) }));
        }
    }

    async fn disconnect(&mut self, mut connection: Connection) {
        if connection.codec.disconnect(&mut connection.wire.outbound).is_ok() {
            let closed = timeout(PATIENCE, connection.wire.close()).await;
            if !matches!(closed, Ok(Ok(()))) {
                debug!("the broker did not take the DISCONNECT");
            }
        }
        info!("disconnected");
    }

    /// What a client is called, if another line may be said about it.
    fn says(&self, id: SubscriberId) -> Option<Option<Arc<str>>> {
        let Some(client) = self.clients.get(&id) else { return Some(None) };
        client.words.take().then(|| client.label.clone())
    }

    fn notify(&self, id: SubscriberId, notice: Notice) {
        // Who comes back later has nothing to do with what was asked for before.
        let client = self.clients.get(&id).filter(|client| !client.is_away);
        if let Some(mailbox) = client.and_then(|client| client.mailbox.as_ref()) {
            mailbox.notify(notice);
        }
    }
}

fn rounded(pause: Duration) -> Duration {
    Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}
