//! Whatever the broker sends, at whatever moment a connection or the host itself ends: nothing that was
//! acknowledged is lost, each topic stays in order, memory is bounded, and no attempt comes without
//! a pause before it. By seed; `ALPHORN_ROUNDS` asks for more rounds, `ALPHORN_SEED` for one again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    Answer, Bed, Do, Event, Message, Packet, Program, Result, Scripted, Step, ensure, frame, in_both_versions, plugin,
    rounds, seed, subscribes,
};

in_both_versions! {
    nothing_acknowledged_is_lost_whatever_the_broker_does
}

/// Connections of a round that end badly, and ends of the process among them.
const CONNECTIONS: usize = 12;
const KILLS: usize = 3;

/// What a host may take, with some of what the tests' own builds take more.
const MEMORY: usize = 128 << 20;

/// What a broker does without a packet of the client.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Burst,
    BurstAndEnd,
}

/// Messages in a burst.
const BURST: usize = 200;

/// A broker with a session, and with moods.
struct Broker {
    random: fastrand::Rng,
    /// Sent and not acknowledged, in order: packet id, number.
    outstanding: VecDeque<(u16, u32)>,
    /// Numbers that were acknowledged.
    acknowledged: BTreeSet<u32>,
    next: u32,
    last_id: u16,
    has_session: bool,
    is_kind: bool,
    /// The newest connection. What happens on an older one changes nothing.
    connection: usize,
    /// What became of each message, by number, for whoever looks into a failure.
    history: Vec<(u32, String)>,
    /// What it does when the test asks for a turn.
    turn: Turn,
    /// The host to kill, and how many PUBACKs are to come before the one it is killed at.
    kill: Option<(Pid, usize)>,
}

impl Broker {
    fn message(&mut self, packet_id: u16, number: u32, dup: bool) -> Do {
        self.history.push((number, format!("sent on {}, id {packet_id}, dup {dup}", self.connection)));
        // The same again for the same number.
        let mut of_number = fastrand::Rng::with_seed(number.into());
        let (topic, length) = (format!("in/{}", of_number.u8(0..3)), of_number.usize(0..3000));
        let payload = format!("{number} {}", "x".repeat(length)).into_bytes();
        let packet_id = Some(packet_id);
        Do::Say(Answer::Publish(Message {
            topic,
            payload,
            qos: 1,
            retain: false,
            dup,
            packet_id,
            properties: Vec::new(),
        }))
    }

    fn new_messages(&mut self, count: usize) -> Vec<Do> {
        let mut actions = Vec::new();
        for _ in 0..count {
            self.last_id = self.last_id % 5000 + 1;
            let (packet_id, number) = (self.last_id, self.next);
            self.next += 1;
            self.outstanding.push_back((packet_id, number));
            actions.push(self.message(packet_id, number, false));
        }
        actions
    }

    fn step(&mut self, event: &Event) -> Vec<Do> {
        if matches!(event.step, Step::Packet(Packet::Connect(_))) {
            self.connection = event.connection;
        }
        if event.connection != self.connection {
            return Vec::new();
        }
        let packet = match &event.step {
            Step::Packet(packet) => packet,
            Step::Turn => return self.turn(),
            _ => return Vec::new(),
        };
        let is_silent = !self.is_kind && self.random.u8(0..25) == 0;
        let mut actions = match packet {
            Packet::Connect(hello) => return self.welcome(hello.clean),
            Packet::Puback { packet_id, .. } => {
                if let Some(at) = self.outstanding.iter().position(|(id, _)| id == packet_id) {
                    let number = self.outstanding.remove(at).map(|(_, number)| number);
                    self.acknowledged.extend(number);
                    self.history.extend(number.map(|number| (number, format!("acknowledged on {}", event.connection))));
                }
                if let Some((host, acknowledgements)) = self.kill.take() {
                    match acknowledgements {
                        0 => kill_process(host, Signal::KILL).unwrap_or_default(),
                        more => self.kill = Some((host, more - 1)),
                    }
                }
                Vec::new()
            }
            Packet::Publish(message) => message.packet_id.map(Do::puback).into_iter().collect(),
            // No messages without a SUBACK: they would be numbered now and arrive behind those sent later.
            Packet::Subscribe { .. } if is_silent => Vec::new(),
            Packet::Subscribe { packet_id, filters, .. } => {
                self.has_session = true;
                let mut actions =
                    vec![Do::Say(Answer::Suback { packet_id: *packet_id, codes: vec![1; filters.len()] })];
                actions.extend(self.new_messages(20));
                actions
            }
            Packet::Unsubscribe { packet_id, filters } => {
                vec![Do::Say(Answer::Unsuback { packet_id: *packet_id, codes: vec![0; filters.len()] })]
            }
            Packet::Pingreq => vec![Do::Say(Answer::Pingresp)],
            Packet::Disconnect { .. } => vec![Do::Close],
            Packet::Broken(_) => Vec::new(),
        };
        if is_silent {
            return Vec::new();
        }
        if !self.is_kind {
            match self.random.u8(10..) {
                // Answers what was not asked.
                10..20 => actions.push(Do::puback(self.random.u16(60_000..))),
                20..60 => {
                    let count = self.random.usize(1..40);
                    actions.extend(self.new_messages(count));
                }
                60..64 => actions.extend(self.bad_end()),
                _ => {}
            }
        }
        actions
    }

    fn history_of(&self, numbers: [u32; 2]) -> String {
        let mut history = String::new();
        for (number, what) in self.history.iter().filter(|(number, _)| numbers.contains(number)) {
            history.push_str(&format!("{number}: {what}\n"));
        }
        history
    }

    fn turn(&mut self) -> Vec<Do> {
        let mut actions = self.new_messages(BURST);
        if matches!(self.turn, Turn::BurstAndEnd) {
            actions.extend(self.bad_end());
        }
        actions
    }

    fn welcome(&mut self, clean: bool) -> Vec<Do> {
        let is_lost = clean || !self.has_session || (!self.is_kind && self.random.u8(0..5) == 0);
        if is_lost {
            // With it goes what nobody has acknowledged.
            self.outstanding.clear();
            self.has_session = false;
        }
        let mut actions = vec![Do::welcome(!is_lost)];
        for (packet_id, number) in self.outstanding.clone() {
            actions.push(self.message(packet_id, number, true));
        }
        if !is_lost {
            actions.extend(self.new_messages(5));
        }
        actions
    }

    /// Something that ends the connection.
    fn bad_end(&mut self) -> Vec<Do> {
        let rubbish: Vec<_> = (0..self.random.usize(0..200)).map(|_| self.random.u8(..)).collect();
        match self.random.u8(0..7) {
            0 => vec![Do::Reset],
            1 => vec![Do::Close],
            2 => vec![Do::Raw(rubbish), Do::Close],
            3 => vec![Do::Raw(frame(self.random.u8(..), &rubbish)), Do::Reset],
            // The beginning of a message.
            4 => vec![Do::Raw(vec![0x32, 100, 0, 4, b'i', b'n']), Do::Close],
            5 => vec![Do::Raw(vec![0xc0, 0])],
            // A length without end.
            _ => vec![Do::Raw(vec![0x32, 0xff, 0xff, 0xff, 0xff, 0xff])],
        }
    }
}

async fn nothing_acknowledged_is_lost_whatever_the_broker_does(protocol: &str) -> Result<()> {
    let seed = seed();
    for round in 0..rounds(1) {
        let seed = seed.wrapping_add(round as u64);
        round_of(protocol, seed).await.map_err(|error| error.context(format!("ALPHORN_SEED={seed}")))?;
    }
    Ok(())
}

async fn round_of(protocol: &str, seed: u64) -> Result<()> {
    let bed = Bed::start().await?;
    let model = Arc::new(Mutex::new(Broker {
        random: fastrand::Rng::with_seed(seed),
        outstanding: VecDeque::new(),
        acknowledged: BTreeSet::new(),
        next: 0,
        last_id: 0,
        has_session: false,
        is_kind: false,
        connection: 0,
        history: Vec::new(),
        turn: Turn::Burst,
        kill: None,
    }));
    let lock = |model: &Arc<Mutex<Broker>>, then: &mut dyn FnMut(&mut Broker)| {
        then(&mut model.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let scripted = model.clone();
    let broker =
        Scripted::plain(move |event| scripted.lock().unwrap_or_else(PoisonError::into_inner).step(event)).await?;
    let plugins = format!(
        r#"
        [plugins.echo]
        component = {:?}
        publish = ["in/+/echo"]
        subscribe = ["in/+"]
        config = {{ filter = "in/+" }}
        limits = {{ publish_rate = "unlimited", mailbox = {{ messages = 8, bytes = "64KiB" }}, inbox_bytes = "64MiB" }}
        "#,
        plugin("echo")?
    );
    let config = broker
        .config(&bed, &plugins)
        .link(&format!("protocol = {protocol:?}"))
        .link("backoff = { min = \"20ms\", max = \"50ms\" }")
        .link("operation_timeout = \"1s\"")
        .link("keep_alive = \"2s\"");
    let mut host = Program::run(&config)?;
    broker.packet("a SUBSCRIBE", |packet| subscribes(packet, "in/+")).await?;
    for kill in 1..=KILLS {
        // However long its connections last: the host is killed while messages are on their way.
        for _ in 0..CONNECTIONS / KILLS {
            let connects = |packet: &Packet| matches!(packet, Packet::Connect(_)).then_some(());
            let connections = broker.packets(connects).len();
            lock(&model, &mut |model| model.turn = Turn::BurstAndEnd);
            // It may have ended already.
            let _ = broker.act(Do::Ask);
            broker.connect(connections + 1).await?;
        }
        let peak = host.peak()?;
        ensure!(peak < MEMORY, "{peak} bytes of memory");
        // The host is killed as soon as a PUBACK has come: what it acknowledges has to be durable by then.
        // Where the connection ends before that, the host is killed after two seconds.
        lock(&model, &mut |model| {
            model.turn = Turn::Burst;
            model.kill = host.id().map(|host| (host, model.random.usize(..40)));
        });
        let _ = broker.act(Do::Ask);
        let until = Instant::now() + Duration::from_secs(2);
        let mut is_killed = false;
        while !is_killed && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
            lock(&model, &mut |model| is_killed = model.kill.is_none());
        }
        host.kill().await?;
        lock(&model, &mut |model| model.kill = None);
        if kill == KILLS {
            lock(&model, &mut |model| model.is_kind = true);
        }
        host = Program::run(&config)?;
    }
    // Everything that is still there comes through, and what was acknowledged before.
    let mut last = 0;
    lock(&model, &mut |model| last = model.next);
    let number = |message: &Message| {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        text.split(' ').next().and_then(|number| number.parse::<u32>().ok())
    };
    let is_through = |events: &[Event]| {
        let echoed: BTreeSet<_> = events
            .iter()
            .filter_map(|event| match &event.step {
                Step::Packet(Packet::Publish(message)) => number(message),
                _ => None,
            })
            .collect();
        let mut is_through = false;
        lock(&model, &mut |model| {
            is_through = model.outstanding.iter().all(|(_, number)| *number >= last)
                && model.acknowledged.iter().all(|number| echoed.contains(number));
        });
        is_through.then_some(())
    };
    let through = broker.wait_for("all that was acknowledged", is_through).await;
    // A process that has only just begun is ended by a signal as any other is.
    host.log(&["start connect"]).await?;
    let peak = host.peak()?;
    host.stop().await?;
    through?;
    ensure!(peak < MEMORY, "{peak} bytes of memory");

    let mut newest = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (on, message) in broker.packets(|packet| match packet {
        Packet::Publish(message) => Some(message.clone()),
        _ => None,
    }) {
        let Some(number) = number(&message) else { continue };
        if seen.insert(number) {
            let newest = newest.entry(message.topic.clone()).or_insert(number);
            if *newest > number {
                let mut history = String::new();
                lock(&model, &mut |model| history = model.history_of([number, *newest]));
                anyhow::bail!("{}: {number} came first behind {newest}, on {on}:\n{history}", message.topic);
            }
            *newest = number;
        }
    }
    let came: Vec<_> = broker.events().iter().filter(|event| event.step == Step::Came).map(|event| event.at).collect();
    let pauses = came.windows(2).filter(|two| matches!(two, [one, next] if *next - *one < Duration::from_millis(8)));
    let (quick, connections) = (pauses.count(), came.len());
    ensure!(quick <= KILLS, "{quick} of {connections} attempts came without a pause");
    Ok(())
}
