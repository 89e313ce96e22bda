//! A device, a network that is cut at random, and a broker that may close over a topic,
//! in virtual time. What the constants of this module are worth is found here.

use std::collections::{BTreeMap, VecDeque};

use super::*;

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
        while let Some(Item::Publish { topic, .. }) = suspects.convicted() {
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
            for seed in 0..60 {
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
            for seed in 0..50 {
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
