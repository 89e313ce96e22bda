//! Any sequence of commits, kills, losses of power, full disks and turned bits, by seed: what was
//! said to be durable is there, and nothing is there that was not told.

use std::{collections::BTreeMap, sync::Arc};

use super::{simulation::seeds, *};

/// A table of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Outbox,
    Inbox,
    Dead,
    /// For the version before, while another is on probation.
    Kept,
    State,
    Snapshot,
}

use Place::{Dead, Inbox, Kept, Outbox, Snapshot, State};

/// A place, the plugin, and the number of a message or the key of a value.
type Key = (Place, String, String);

/// What there is.
#[derive(Debug, Default, Clone)]
struct Model(BTreeMap<Key, String>);

impl Model {
    fn put(&mut self, place: Place, plugin: &str, name: impl ToString, value: String) {
        self.0.insert((place, plugin.to_owned(), name.to_string()), value);
    }

    fn take(&mut self, place: Place, plugin: &str, name: impl ToString) -> Option<String> {
        self.0.remove(&(place, plugin.to_owned(), name.to_string()))
    }

    /// All that is in one place, or what of it is one plugin's.
    fn all(&self, place: Place, plugin: Option<&str>) -> Vec<(String, String)> {
        let is_of = |(at, owner, _): &Key| *at == place && plugin.is_none_or(|plugin| plugin == owner);
        self.0.keys().filter(|key| is_of(key)).map(|(_, owner, name)| (owner.clone(), name.clone())).collect()
    }

    fn any(&self, place: Place, random: &mut fastrand::Rng) -> Option<(Arc<str>, u64)> {
        let all = self.all(place, None);
        let (owner, number) = random.choice(all)?;
        Some((owner.as_str().into(), number.parse().unwrap()))
    }

    fn copy(&mut self, from: Place, to: Place, plugin: &str) {
        self.0.retain(|(place, owner, _), _| !(*place == to && owner == plugin));
        for (owner, name) in self.all(from, Some(plugin)) {
            let value = self.0[&(from, owner, name.clone())].clone();
            self.put(to, plugin, name, value);
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Taken { owner, seq, .. } => self.put(Outbox, owner, seq, String::new()),
            Change::Settled { owner, seq } => drop(self.take(Outbox, owner, seq)),
            Change::Arrived { plugin, number, .. } => self.put(Inbox, plugin, number, String::new()),
            Change::Handled { plugin, number } => drop(self.take(Inbox, plugin, number)),
            Change::Dead { plugin, number, .. } => {
                self.take(Inbox, plugin, number);
                self.put(Dead, plugin, number, String::new());
            }
            Change::Revived { plugin, number, arrival } => {
                let letter = self.take(Dead, plugin, number);
                letter.into_iter().for_each(|value| self.put(Inbox, plugin, arrival, value));
            }
            Change::Buried { plugin, number } => drop(self.take(Dead, plugin, number)),
            Change::OnProbation { plugin, number, .. } => {
                self.take(Inbox, plugin, number);
                self.put(Kept, plugin, number, String::new());
            }
            Change::NotKept { plugin, number } => drop(self.take(Kept, plugin, number)),
            Change::State { plugin, key, value: Some(value) } => {
                self.put(State, plugin, key, String::from_utf8_lossy(value).into_owned());
            }
            Change::State { plugin, key, value: None } => drop(self.take(State, plugin, key)),
            Change::Snapshot { plugin } => self.copy(State, Snapshot, plugin),
            Change::Passed { plugin } => {
                self.0.retain(|(place, owner, _), _| !(matches!(place, Snapshot | Kept) && **owner == **plugin));
            }
            Change::RolledBack { plugin } => {
                self.copy(Snapshot, State, plugin);
                for (_, number) in self.all(Kept, Some(plugin)) {
                    self.take(Dead, plugin, &number);
                    self.put(Inbox, plugin, number, String::new());
                }
                self.apply(&Change::Passed { plugin: plugin.clone() });
            }
            _ => {}
        }
    }

    fn read(store: &mut Store) -> Self {
        let mut model = Self::default();
        for plugin in PLUGINS {
            seqs(store, plugin).into_iter().for_each(|seq| model.put(Outbox, plugin, seq, String::new()));
            numbers(store, plugin).into_iter().for_each(|number| model.put(Inbox, plugin, number, String::new()));
            for letter in store.dead_letters(Some(plugin)).unwrap() {
                model.put(Dead, plugin, letter.number, String::new());
            }
            let saved = store.saved(plugin).unwrap();
            saved.kept.iter().for_each(|kept| model.put(Kept, plugin, kept.number, String::new()));
            for (place, entries) in [(State, saved.state), (Snapshot, saved.snapshot)] {
                for (key, value) in entries {
                    model.put(place, plugin, key, String::from_utf8_lossy(&value).into_owned());
                }
            }
        }
        model
    }

    /// Only those messages of it that are in another, too.
    fn retain_messages_of(&mut self, other: &Self) {
        self.0.retain(|key, _| is_state(key) || other.0.contains_key(key));
    }
}

fn is_state(key: &Key) -> bool {
    matches!(key.0, State | Snapshot)
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
    // With these the database is written, and not the log.
    let is_rare = random.u8(0..6) == 0;
    for _ in 0..random.usize(1..8) {
        let plugin: Arc<str> = PLUGINS[random.usize(0..3)].into();
        *next += 1;
        let change = match random.u8(0..9) {
            0..4 => None,
            4 if is_rare => rare_change(random, next, told, plugin.clone()),
            5 => told.any(Inbox, random).map(|(plugin, number)| Change::Handled { plugin, number }),
            6 => {
                let value = (random.u8(0..4) > 0).then(|| next.to_string().into_bytes().into());
                let key = format!("key {}", random.u8(0..20)).into();
                Some(Change::State { plugin: plugin.clone(), key, value })
            }
            _ => told.any(Outbox, random).map(|(owner, seq)| settled(&owner, seq)),
        };
        changes.push(change.unwrap_or_else(|| taken(&plugin, *next)));
    }
    changes
}

fn rare_change(random: &mut fastrand::Rng, next: &mut u64, told: &Model, plugin: Arc<str>) -> Option<Change> {
    let message = || message("t", 200);
    match random.u8(0..16) {
        0..8 => Some(arrived(&plugin, *next)),
        8 | 9 => told.any(Inbox, random).map(|(plugin, number)| {
            let reason = "as told".to_owned();
            Change::Dead { plugin, number, message: message(), packet_id: 0, attempts: 2, reason }
        }),
        10 => told.any(Dead, random).map(|(plugin, number)| Change::Revived { plugin, number, arrival: *next }),
        11 => told.any(Dead, random).map(|(plugin, number)| Change::Buried { plugin, number }),
        12 => {
            told.any(Inbox, random).map(|(plugin, number)| Change::OnProbation { plugin, number, message: message() })
        }
        13 => told.any(Kept, random).map(|(plugin, number)| Change::NotKept { plugin, number }),
        14 => Some(Change::Snapshot { plugin }),
        _ if random.bool() => Some(Change::Passed { plugin }),
        _ => Some(Change::RolledBack { plugin }),
    }
}

/// Whatever is durable is there, and nothing but what is under way beside it: what is found at each
/// place is what was there at one moment at least.
fn check(before: &Model, under_way: &[Change], found: &Model, is_torn: bool, place: &str) {
    let mut now = before.clone();
    let mut seen: BTreeMap<Key, BTreeSet<Option<String>>> = BTreeMap::new();
    // A message that goes from one place to another is at one of them at any time.
    let messages = |model: &Model| -> BTreeSet<(String, String)> {
        [Inbox, Dead, Kept].into_iter().flat_map(|place| model.all(place, None)).collect()
    };
    let mut stays = messages(before);
    for change in under_way {
        let was = now.clone();
        now.apply(change);
        for key in was.0.keys().chain(now.0.keys()).filter(|key| was.0.get(*key) != now.0.get(*key)) {
            seen.entry(key.clone()).or_default().extend([was.0.get(key).cloned(), now.0.get(key).cloned()]);
        }
        let still = messages(&now);
        stays.retain(|message| still.contains(message));
    }
    for key in before.0.keys().chain(found.0.keys()).chain(seen.keys()) {
        let is = found.0.get(key);
        let allowed = match seen.get(key) {
            Some(values) => values.contains(&is.cloned()),
            None => is == before.0.get(key),
        };
        let is_again = is_torn && is.is_some() && !is_state(key);
        assert!(
            allowed || is_again,
            "{place}: {key:?} is {is:?}, was {:?}, then {:?}",
            before.0.get(key),
            seen.get(key)
        );
    }
    let there = messages(found);
    let lost: Vec<_> = stays.difference(&there).collect();
    assert!(lost.is_empty(), "{place}: lost between places {lost:?}");
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
            is_there.retain_messages_of(&durable);
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
                let is_message = |key: &&Key| !is_state(key);
                let lost: Vec<_> =
                    durable.0.keys().filter(is_message).filter(|key| !seen.0.contains_key(*key)).collect();
                assert!(lost.is_empty() || !under_way.is_empty(), "{place}: {lost:?}, {:?}", store.trouble());
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
