//! A device, a network that is cut at random, and a broker that may close over a topic,
//! in virtual time. What the constants of this module are worth is found here.
//!
//! `ALPHORN_ROUNDS` is how many seeds of each world are tried, `ALPHORN_SEED` the only one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::*;
use crate::{
    clock::Age,
    link::{
        backoff::{Backoff, BackoffSettings},
        departure::{self, Departure},
        session::{Request, Session},
    },
    message::{Message, Qos},
    outbox::{Entry, Outbox, Room, Share},
};

/// How the world is in one run.
#[derive(Debug, Clone, Copy)]
struct World {
    /// The longest time an acknowledgement takes; the shortest is a tenth of it.
    latency: u64,
    /// The mean time between cuts, in milliseconds; 0: there are none.
    between_cuts: u64,
    /// How soon after a poisonous message the broker closes.
    close_after: u64,
    /// Topics the broker closes over.
    poison: &'static [&'static str],
    /// Poisonous messages go at QoS 0, one a second.
    qos0: bool,
    /// Virtual milliseconds.
    length: u64,
}

#[derive(Debug, Default)]
struct Outcome {
    /// What was convicted: the connection and the time.
    convicted: BTreeMap<String, (u32, u64)>,
    /// Innocent messages acknowledged, in all and before the last conviction.
    acknowledged: u64,
    connections: u32,
}

enum Packet {
    Publish(&'static str),
    Ping,
}

/// The seeds of each world.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("ALPHORN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ALPHORN_ROUNDS").unwrap_or(usual),
    }
}

const INNOCENT: [&str; 3] = ["a", "b", "c"];

fn run(world: World, seed: u64) -> Outcome {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut suspects, mut outcome) = (Suspects::new(), Outcome::default());
    let start = Instant::now();
    let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
    // Messages of QoS 1 that wait, by topic: sent again on each connection until acknowledged.
    let mut waiting: BTreeMap<&str, u64> = INNOCENT.into_iter().map(|text| (text, 1)).collect();
    if !world.qos0 {
        waiting.extend(world.poison.iter().map(|text| (*text, 1)));
    }
    let (mut now, mut failures) = (0, 0u32);
    while now < world.length {
        outcome.connections += 1;
        let connected = now;
        suspects.connected(at(now));
        let cut = match world.between_cuts {
            0 => u64::MAX,
            mean => now + (-(random.f64().max(1e-9)).ln() * mean as f64) as u64,
        };
        let mut dies = cut;
        let mut answers: VecDeque<(u64, Packet)> = VecDeque::new();
        let mut next_qos0 = now + random.u64(0..1000);
        let mut sent: BTreeMap<&str, bool> = BTreeMap::new();
        while now < dies.min(world.length) {
            let mut try_publish = |text: &'static str, suspects: &mut Suspects, random: &mut fastrand::Rng| {
                let name = TopicName::parse(text).unwrap();
                if !suspects.may_publish(1, &name, at(now)) {
                    return false;
                }
                suspects.published(1, &name, !(world.qos0 && world.poison.contains(&text)), at(now));
                if world.poison.contains(&text) {
                    dies = dies.min(now + world.close_after);
                } else {
                    let takes = random.u64(world.latency / 10..=world.latency);
                    let after = answers.back().map_or(0, |(due, _)| *due);
                    answers.push_back(((now + takes).max(after), Packet::Publish(text)));
                }
                true
            };
            if world.qos0 && next_qos0 <= now {
                next_qos0 += 1000;
                for text in world.poison {
                    if !outcome.convicted.contains_key(*text) {
                        try_publish(text, &mut suspects, &mut random);
                    }
                }
            }
            for (text, count) in &waiting {
                if *count > 0 && !sent.contains_key(text) && try_publish(text, &mut suspects, &mut random) {
                    sent.insert(text, true);
                }
            }
            if suspects.wants_ping() {
                suspects.pinged();
                let after = answers.back().map_or(0, |(due, _)| *due);
                answers.push_back(((now + random.u64(world.latency / 10..=world.latency)).max(after), Packet::Ping));
            }
            while dies > now && answers.front().is_some_and(|(due, _)| *due <= now) {
                match answers.pop_front() {
                    Some((_, Packet::Publish(text))) => {
                        suspects.acknowledged(1, &TopicName::parse(text).unwrap());
                        sent.remove(text);
                        outcome.acknowledged += 1;
                    }
                    Some((_, Packet::Ping)) => suspects.ponged(at(now)),
                    None => {}
                }
            }
            now += 10;
        }
        if now >= world.length {
            break;
        }
        // Whatever is on its way is lost.
        suspects.died(at(now), Death::Closed);
        while let Some(Conviction { item: Item::Publish { topic, .. }, .. }) = suspects.convicted() {
            waiting.remove(topic.as_str());
            outcome.convicted.insert(topic.to_string(), (outcome.connections, now));
        }
        failures = if now - connected > 20_000 { 0 } else { failures + 1 };
        let pause = (1000u64 << failures.min(7).saturating_sub(1)).min(120_000);
        now += random.u64(pause / 2..=pause);
    }
    outcome
}

const WORLD: World =
    World { latency: 200, between_cuts: 0, close_after: 50, poison: &[], qos0: false, length: 600_000 };

#[test]
fn a_bad_network_convicts_nobody() {
    let (mut runs, mut convicted, mut cuts) = (0, 0, 0);
    for latency in [20, 200, 1000, 2000] {
        for between_cuts in [100, 300, 1000, 3000, 10_000] {
            for seed in seeds(60) {
                let world = World { latency, between_cuts, length: 1_800_000, ..WORLD };
                let outcome = run(world, seed);
                runs += 1;
                cuts += outcome.connections;
                convicted += outcome.convicted.len();
            }
        }
    }
    assert_eq!(convicted, 0, "in {runs} runs with {cuts} cuts");
}

#[test]
fn a_forbidden_topic_is_found_and_the_others_flow() {
    for (poison, qos0) in [(&["bad"][..], false), (&["bad"][..], true), (&["bad", "worse"][..], false)] {
        for close_after in [0, 50, 500] {
            for seed in seeds(50) {
                let world = World { close_after, poison, qos0, ..WORLD };
                let outcome = run(world, seed);
                assert_eq!(outcome.convicted.len(), poison.len(), "{world:?}, seed {seed}: {outcome:?}");
                let (connections, time) = outcome.convicted.values().max().unwrap();
                let most = if poison.len() == 1 { 6 } else { 11 };
                assert!(*connections <= most, "{world:?}, seed {seed}: {connections} connections, {time} ms");
                assert!(outcome.acknowledged > 1000, "{world:?}, seed {seed}: {outcome:?}");
            }
        }
    }
}

#[test]
fn a_forbidden_topic_is_found_even_on_a_bad_network_and_nobody_else_is_convicted() {
    let mut found = 0;
    for seed in 0..100 {
        let world = World { between_cuts: 20_000, poison: &["bad"], length: 3_600_000, ..WORLD };
        let outcome = run(world, seed);
        assert!(outcome.convicted.keys().all(|topic| topic == "bad"), "seed {seed}: {outcome:?}");
        found += outcome.convicted.len();
    }
    assert!(found >= 95, "found in {found} of 100 runs");
}

/// A plugin publishes with a topic that the broker closes over each second, another one publishes
/// four times a second what the broker likes.
struct Neighbours {
    session: Session,
    outbox: Outbox,
    suspects: Suspects,
    share: Arc<Share>,
    /// Numbers published, by plugin.
    published: [u32; 2],
    /// When each message of the innocent was published, until it is acknowledged.
    waiting: BTreeMap<u32, u64>,
    acknowledged: u32,
    /// The longest any of them took.
    slowest: u64,
    /// Topics held back, and whether all are.
    held: BTreeSet<TopicName>,
    all_held: bool,
    refused: u32,
    connections: u32,
    convicted: Vec<Item>,
}

const VILLAIN: SubscriberId = 0;
const INNOCENT_ONE: SubscriberId = 1;

#[derive(Debug, Clone, Copy)]
struct Village {
    close_after: u64,
    /// The first pause between connections, and the longest.
    backoff: (u64, u64),
    /// The broker keeps the session.
    keeps_session: bool,
    /// Poisonous messages in the first second, beside one each second.
    burst: u32,
    length: u64,
}

impl Neighbours {
    fn new() -> Self {
        Self {
            session: Session::new(Duration::from_secs(5), 0),
            outbox: Outbox::new(false, 0),
            suspects: Suspects::new(),
            share: Room::new(usize::MAX, Arc::default()).share(usize::MAX, 0, 0),
            published: [0; 2],
            waiting: BTreeMap::new(),
            acknowledged: 0,
            slowest: 0,
            held: BTreeSet::new(),
            all_held: false,
            refused: 0,
            connections: 0,
            convicted: Vec::new(),
        }
    }

    fn publish(&mut self, owner: SubscriberId, now: u64) {
        if owner == VILLAIN && self.all_held {
            self.refused += 1;
            return;
        }
        let number = &mut self.published[owner as usize];
        *number += 1;
        let number = *number;
        let topic = if owner == VILLAIN { format!("bad/{number}") } else { format!("good/{}", number % 3) };
        let topic = TopicName::parse(topic).unwrap();
        let message =
            Message { topic, payload: bytes::Bytes::new(), qos: Qos::AtLeastOnce, retain: false, properties: None };
        let reservation = self.share.reserve(message.cost()).unwrap();
        self.outbox.push(Entry { message, owner, number, age: Age::new(), tracked: false, reservation }, false);
        if owner == INNOCENT_ONE {
            self.waiting.insert(number, now);
        }
    }

    /// What leaves next: its packet id, plugin and number.
    fn send(&mut self, now: Instant) -> Option<(u16, SubscriberId, u32)> {
        loop {
            let (packet_id, seq) =
                match departure::next(&self.session, &mut self.outbox, &mut self.suspects, true, now)? {
                    Departure::Again(packet_id, seq) => {
                        self.session.sent_again(packet_id, now);
                        (packet_id, seq)
                    }
                    Departure::New(head) if self.held.contains(&head.entry.message.topic) => {
                        self.outbox.pop();
                        continue;
                    }
                    Departure::New(head) => {
                        let seq = head.seq;
                        self.outbox.send();
                        (self.session.begin(Request::Publish(seq), now), seq)
                    }
                };
            let entry = self.outbox.in_flight(seq).unwrap();
            self.suspects.published(entry.owner, &entry.message.topic, true, now);
            return Some((packet_id, entry.owner, entry.number));
        }
    }

    fn acknowledged(&mut self, packet_id: u16, now: u64) {
        let Some(Request::Publish(seq)) = self.session.end(packet_id) else { return };
        let Some(entry) = self.outbox.settle(seq) else { return };
        self.suspects.acknowledged(entry.owner, &entry.message.topic);
        if let Some(published) = self.waiting.remove(&entry.number).filter(|_| entry.owner == INNOCENT_ONE) {
            self.acknowledged += 1;
            self.slowest = self.slowest.max(now - published);
        }
    }

    fn died(&mut self, now: Instant) -> bool {
        self.outbox.went_down();
        let is_explained = self.suspects.died(now, Death::Closed);
        while let Some(Conviction { item, held, .. }) = self.suspects.convicted() {
            self.all_held |= held.is_some();
            if let Item::Publish { owner, topic } = &item {
                self.held.insert(topic.clone());
                for seq in self.outbox.in_flight_on(*owner, topic) {
                    self.session.forget(seq);
                    self.outbox.settle(seq);
                }
            }
            self.convicted.push(item);
        }
        is_explained
    }

    fn live(&mut self, village: Village, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let (min, max) = village.backoff;
        let mut backoff = Backoff::new(BackoffSettings {
            min: Duration::from_millis(min),
            max: Duration::from_millis(max),
            ..BackoffSettings::default()
        });
        let (mut connected, mut next_attempt, mut dies) = (None, 0, u64::MAX);
        let mut answers: VecDeque<(u64, Option<u16>)> = VecDeque::new();
        for now in (0..village.length).step_by(10) {
            if now == 1000 {
                (0..village.burst).for_each(|_| self.publish(VILLAIN, now));
            }
            if now % 1000 == 0 {
                self.publish(VILLAIN, now);
            }
            if now % 250 == 0 {
                self.publish(INNOCENT_ONE, now);
            }
            while self.suspects.release(at(now)).is_some() {
                self.all_held = false;
            }
            if connected.is_none() && next_attempt <= now {
                connected = Some(now);
                (dies, self.connections) = (u64::MAX, self.connections + 1);
                answers.clear();
                if village.keeps_session {
                    self.session.resume(100);
                } else {
                    self.session.restart(100);
                    self.outbox.rewind();
                }
                self.outbox.went_up();
                self.suspects.connected(at(now));
            }
            let Some(up) = connected else { continue };
            if dies <= now {
                if self.died(at(now)) {
                    backoff.is_explained();
                }
                let pause = backoff.pause(Some(Duration::from_millis(now - up)));
                (connected, next_attempt) = (None, now + pause.as_millis() as u64);
                continue;
            }
            while answers.front().is_some_and(|(due, _)| *due <= now) {
                match answers.pop_front() {
                    Some((_, Some(packet_id))) => self.acknowledged(packet_id, now),
                    _ => self.suspects.ponged(at(now)),
                }
            }
            let mut due = |answers: &VecDeque<(u64, Option<u16>)>| {
                (now + random.u64(10..=60)).max(answers.back().map_or(0, |(due, _)| *due))
            };
            while let Some((packet_id, owner, _)) = self.send(at(now)) {
                if owner == VILLAIN {
                    dies = dies.min(now + village.close_after);
                } else if dies == u64::MAX {
                    answers.push_back((due(&answers), Some(packet_id)));
                }
            }
            if self.suspects.wants_ping() {
                self.suspects.pinged();
                answers.push_back((due(&answers), None));
            }
        }
    }
}

const VILLAGE: Village =
    Village { close_after: 20, backoff: (1000, 120_000), keeps_session: true, burst: 0, length: 100_000 };

/// The innocent plugin publishes 400 messages in 100 s.
#[test]
fn a_plugin_that_poisons_with_a_new_topic_each_second_stops_nobody() {
    for backoff in [(1000, 120_000), (50, 200)] {
        for (keeps_session, burst) in [(true, 0), (false, 0), (true, 60), (false, 60)] {
            for close_after in [0, 20, 300] {
                for seed in seeds(10) {
                    let village = Village { close_after, backoff, keeps_session, burst, ..VILLAGE };
                    let mut both = Neighbours::new();
                    both.live(village, seed);
                    let (acknowledged, slowest, connections) = (both.acknowledged, both.slowest, both.connections);
                    let told = format!(
                        "{village:?}, seed {seed}: {acknowledged} acknowledged, the slowest after {slowest} ms, {connections} connections, {} refused",
                        both.refused
                    );
                    assert!(acknowledged >= 380, "{told}");
                    assert!(slowest <= 10_000, "{told}");
                    assert!(both.refused >= 20, "{told}");
                    let is_its = |item: &Item| matches!(item, Item::Publish { owner: VILLAIN, .. });
                    assert!(both.convicted.iter().all(is_its), "{told}: {:?}", both.convicted);
                    assert!(connections <= 40, "{told}");
                }
            }
        }
    }
}

/// In an hour there are few connections that end: each time it is held for longer.
#[test]
fn it_is_held_for_longer_and_longer() {
    let mut both = Neighbours::new();
    both.live(Village { length: 3_600_000, ..VILLAGE }, 1);
    assert!(both.connections <= 60, "{} connections", both.connections);
    assert!(both.acknowledged >= 14_390, "{}", both.acknowledged);
}
