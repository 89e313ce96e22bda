//! Any sequence of commits, kills, losses of power, full disks and turned bits, by seed: what was
//! said to be durable is there, and nothing is there that was not told.

use std::collections::BTreeMap;

use super::{simulation::seeds, *};

/// What there is.
#[derive(Debug, Default, Clone)]
struct Model {
    outbox: BTreeSet<(String, u64)>,
    inbox: BTreeSet<(String, u64)>,
    state: BTreeMap<(String, String), String>,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Taken { owner, seq, .. } => drop(self.outbox.insert((owner.to_string(), *seq))),
            Change::Settled { owner, seq } => drop(self.outbox.remove(&(owner.to_string(), *seq))),
            Change::Arrived { plugin, number, .. } => drop(self.inbox.insert((plugin.to_string(), *number))),
            Change::Handled { plugin, number } => drop(self.inbox.remove(&(plugin.to_string(), *number))),
            Change::State { plugin, key, value } => {
                let key = (plugin.to_string(), key.to_string());
                match value {
                    Some(value) => self.state.insert(key, String::from_utf8_lossy(value).into_owned()),
                    None => self.state.remove(&key),
                };
            }
            _ => {}
        }
    }

    fn read(store: &mut Store) -> Self {
        let mut model = Self::default();
        for plugin in PLUGINS {
            model.outbox.extend(seqs(store, plugin).into_iter().map(|seq| (plugin.to_owned(), seq)));
            model.inbox.extend(numbers(store, plugin).into_iter().map(|number| (plugin.to_owned(), number)));
            let state = store.saved(plugin).unwrap().state;
            let text = |value: bytes::Bytes| String::from_utf8_lossy(&value).into_owned();
            model
                .state
                .extend(state.into_iter().map(|(key, value)| ((plugin.to_owned(), key.to_string()), text(value))));
        }
        model
    }
}

const PLUGINS: [&str; 3] = ["one", "two", "three"];

/// Writes as the journal does.
#[derive(Default)]
struct Driver {
    /// Since the database was written.
    since: Vec<Change>,
    logged: usize,
    attempted: usize,
    /// Of `since`: all before are durable.
    durable: usize,
}

impl Driver {
    fn commit(&mut self, store: &mut Store, to_log: bool) -> Result<(), StoreError> {
        if store.was_written()? {
            self.since.drain(..self.attempted);
            self.logged = self.logged.saturating_sub(self.attempted);
            self.durable = self.durable.saturating_sub(self.attempted);
        }
        let new = self.since.get(self.logged..).unwrap_or_default();
        if to_log && new.iter().all(Change::is_for_log) && store.log(new)? {
            self.logged = self.since.len();
            self.durable = self.since.len();
            return Ok(());
        }
        self.attempted = self.since.len();
        store.write(&self.since)?;
        *self = Self::default();
        Ok(())
    }
}

fn some_changes(random: &mut fastrand::Rng, next: &mut u64, told: &Model) -> Vec<Change> {
    let mut changes = Vec::new();
    let with_arrivals = random.u8(0..6) == 0;
    for _ in 0..random.usize(1..8) {
        let plugin = PLUGINS[random.usize(0..3)];
        *next += 1;
        changes.push(match random.u8(0..9) {
            0..4 => taken(plugin, *next),
            4 if with_arrivals => arrived(plugin, *next),
            5 if !told.inbox.is_empty() => {
                let (plugin, number) = told.inbox.iter().nth(random.usize(0..told.inbox.len())).unwrap();
                Change::Handled { plugin: plugin.as_str().into(), number: *number }
            }
            6 => {
                let value = (random.u8(0..4) > 0).then(|| next.to_string().into_bytes().into());
                Change::State { plugin: plugin.into(), key: format!("key {}", random.u8(0..20)).into(), value }
            }
            _ if !told.outbox.is_empty() => {
                let (owner, seq) = told.outbox.iter().nth(random.usize(0..told.outbox.len())).unwrap();
                settled(owner, *seq)
            }
            _ => taken(plugin, *next),
        });
    }
    changes
}

/// Whatever is durable is there, and nothing but what is under way beside it.
fn check(before: &Model, under_way: &[Change], found: &Model, is_torn: bool, place: &str) {
    let mut after = before.clone();
    let (mut outbox, mut inbox, mut state) = (before.outbox.clone(), before.inbox.clone(), BTreeMap::new());
    for (key, value) in &before.state {
        state.entry(key.clone()).or_insert_with(BTreeSet::new).insert(Some(value.clone()));
    }
    for change in under_way {
        after.apply(change);
        outbox.extend(after.outbox.iter().cloned());
        inbox.extend(after.inbox.iter().cloned());
        if let Change::State { plugin, key, value } = change {
            let key = (plugin.to_string(), key.to_string());
            let was = before.state.get(&key).cloned();
            let value = value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
            state.entry(key).or_default().extend([was, value]);
        }
    }
    let lost: Vec<_> = before.outbox.intersection(&after.outbox).filter(|one| !found.outbox.contains(one)).collect();
    assert!(lost.is_empty(), "{place}: lost {lost:?}");
    let lost: Vec<_> = before.inbox.intersection(&after.inbox).filter(|one| !found.inbox.contains(one)).collect();
    assert!(lost.is_empty(), "{place}: lost in the inbox {lost:?}");
    assert!(
        is_torn || found.outbox.is_subset(&outbox),
        "{place}: again {:?}",
        found.outbox.difference(&outbox).collect::<Vec<_>>()
    );
    assert!(
        is_torn || found.inbox.is_subset(&inbox),
        "{place}: again {:?}",
        found.inbox.difference(&inbox).collect::<Vec<_>>()
    );
    for (key, values) in &state {
        let value = found.state.get(key).cloned();
        assert!(values.contains(&value), "{place}: {key:?} is {value:?}, not of {values:?}");
    }
    assert!(found.state.keys().all(|key| state.contains_key(key)), "{place}");
}

fn one_life_after_the_other(seed: u64, counts: &mut BTreeMap<&'static str, u64>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut disk = Disk::default();
    disk.state().blocks = (random.u8(0..3) == 0).then(|| random.usize(500..1500));
    let (mut durable, mut under_way, mut next) = (Model::default(), Vec::new(), 0);
    for life in 0..random.usize(2..9) {
        let place = format!("seed {seed}, life {life}");
        // The power may fail while the store is opened, and again; what that has to say nobody hears.
        let mut was_opened = false;
        while random.u8(0..5) == 0 {
            disk.state().steps_left = Some(random.usize(1..60));
            drop(disk.open());
            was_opened = true;
            *counts.entry("cut while opening").or_default() += 1;
            disk = if random.bool() { disk.after_kill() } else { disk.after_power_loss(random.u64(..)) };
        }
        if random.u8(0..6) == 0 {
            disk.set_full(true);
        }
        let (mut store, restored) = disk.open().unwrap_or_else(|error| panic!("{place}: {error}"));
        let found = Model::read(&mut store);
        // Messages of a write that came to nothing are kept; one that was settled may be among them.
        let is_torn = restored.damage.as_deref().is_some_and(|damage| damage.contains("is not whole"));
        *counts.entry("torn").or_default() += u64::from(is_torn);
        let is_torn = is_torn || was_opened;
        check(&durable, &under_way, &found, is_torn, &format!("{place}, {:?}", restored.damage));
        let mut is_there = found.clone();
        if is_torn && store.trouble().is_some() {
            // Nobody said that these are safe, and nothing can be written to make them so.
            is_there.outbox = found.outbox.intersection(&durable.outbox).cloned().collect();
            is_there.inbox = found.inbox.intersection(&durable.inbox).cloned().collect();
        } else {
            under_way.clear();
        }
        let is_lossless = restored.damage.as_deref().is_none_or(|damage| is_torn || damage.contains("nothing is lost"));
        assert!(is_lossless, "{place}: {:?}", restored.damage);
        *counts.entry("lives").or_default() += 1;
        *counts.entry("views").or_default() += u64::from(store.trouble().is_some());
        let mut told = found;
        durable = is_there;
        let (mut driver, not_of_this_life) = (Driver::default(), under_way.len());
        if random.u8(0..4) > 0 {
            disk.state().steps_left = Some(random.usize(1..600));
        }
        for _ in 0..random.usize(1..120) {
            if random.u8(0..30) == 0 {
                let is_full = random.bool();
                disk.set_full(is_full);
            }
            let changes = some_changes(&mut random, &mut next, &told);
            changes.iter().for_each(|change| told.apply(change));
            driver.since.extend(changes.clone());
            under_way.extend(changes);
            let result = driver.commit(&mut store, random.u8(0..4) > 0);
            match result {
                Ok(()) => {
                    under_way.drain(not_of_this_life..).for_each(|change| durable.apply(&change));
                    *counts.entry("commits").or_default() += 1;
                }
                Err(_) => *counts.entry("failed commits").or_default() += 1,
            }
            if disk.is_dead() {
                break;
            }
            if random.u8(0..40) == 0 && disk.state().steps_left.is_none() {
                // What can be read is what is durable, at least.
                let found = Model::read(&mut store);
                let since: Vec<Change> = driver.since.clone();
                let mut seen = found.clone();
                since.iter().for_each(|change| seen.apply(change));
                let lost: Vec<_> = durable.outbox.difference(&seen.outbox).collect();
                assert!(
                    lost.is_empty() || !under_way.is_empty(),
                    "{place}: {lost:?} of {:?}, {:?}",
                    seen.outbox,
                    store.trouble()
                );
            }
        }
        let ends_well = !disk.is_dead() && random.bool();
        if ends_well && driver.commit(&mut store, false).is_ok() {
            under_way.drain(not_of_this_life..).for_each(|change| durable.apply(&change));
        }
        let is_killed = !ends_well && random.bool();
        let after = if is_killed { Some(disk.after_kill()) } else { None };
        let without_power = (!ends_well && !is_killed).then(|| disk.after_power_loss(random.u64(..)));
        drop(store);
        disk = after.or(without_power).unwrap_or(disk);
        disk.state().steps_left = None;
        disk.set_full(false);
        if random.u8(0..4) == 0 && disk.names().iter().any(|name| name == FILE) {
            disk.bend(FILE, |bytes| {
                if !bytes.is_empty() {
                    let at = random.usize(0..bytes.len());
                    bytes[at] ^= 1 << random.u8(0..8);
                }
            });
            *counts.entry("turned bits").or_default() += 1;
        }
    }
}

/// `ALPHORN_ROUNDS` seeds, `ALPHORN_SEED` alone.
#[test]
fn what_was_durable_is_there_whatever_happens() {
    let mut counts = BTreeMap::new();
    for seed in seeds(60) {
        one_life_after_the_other(seed, &mut counts);
    }
    eprintln!("{counts:?}");
}
