//! Files that are not what was written: what can be read is there, and what is missing is said.

use super::{simulation::seeds, *};

const PLUGINS: [&str; 4] = ["one", "two", "three", "four"];

fn installed(plugin: &str) -> Change {
    let installed = Installed { current: format!("version of {plugin}"), ..Installed::default() };
    Change::Installed { plugin: plugin.into(), installed }
}

/// A store with something in all its tables, closed in good order.
fn furnished() -> Disk {
    let disk = Disk::default();
    let (mut store, _) = disk.open().unwrap();
    let mut changes = Vec::new();
    for plugin in PLUGINS {
        changes.push(installed(plugin));
        let filter = TopicFilter::parse(format!("in/{plugin}")).unwrap();
        changes.push(Change::Subscribed(Wanted {
            plugin: plugin.into(),
            filter,
            qos: Qos::AtLeastOnce,
            identifier: 1,
        }));
        for key in 0..60 {
            changes.push(state(plugin, &format!("key {key}"), b"a value that takes up some room, as values do"));
        }
    }
    for number in 0..80 {
        changes.push(taken(PLUGINS[number as usize % 4], number + 1));
        changes.push(arrived(PLUGINS[number as usize % 4], number + 1));
    }
    store.write(&changes).unwrap();
    // The commit before is another, and there are pages that are free.
    store.write(&[settled("one", 1), state("two", "last", b"1")]).unwrap();
    drop(store);
    disk
}

/// What is there: values of state, messages, versions, subscriptions; by plugin.
fn inventory(store: &mut Store, restored: &Restored) -> Vec<[usize; 5]> {
    let mut found = Vec::new();
    for plugin in PLUGINS {
        let saved = store.saved(plugin).unwrap();
        found.push([
            saved.state.len(),
            seqs(store, plugin).len(),
            numbers(store, plugin).len(),
            usize::from(saved.installed.is_some()),
            restored.subscriptions.iter().filter(|wanted| *wanted.plugin == *plugin).count(),
        ]);
    }
    found
}

fn whole() -> Vec<[usize; 5]> {
    vec![[60, 19, 20, 1, 1], [61, 20, 20, 1, 1], [60, 20, 20, 1, 1], [60, 20, 20, 1, 1]]
}

/// Whatever is lost of a plugin is said, with its name; and nobody else loses anything.
fn is_said(found: &[[usize; 5]], damage: Option<&str>, place: &str) -> usize {
    let mut lost = 0;
    for ((plugin, found), whole) in PLUGINS.iter().zip(found).zip(whole()) {
        // Messages that were settled may be there again.
        if found.iter().zip(&whole).any(|(found, whole)| found < whole) {
            let damage = damage.unwrap_or_default();
            assert!(damage.contains(&format!("`{plugin}`")), "{place}: {plugin} has {found:?}, and: {damage}");
            lost += whole.iter().sum::<usize>().saturating_sub(found.iter().sum::<usize>());
        }
    }
    lost
}

#[test]
fn a_page_that_is_gone_costs_what_was_on_it_and_it_is_said_whose() {
    let blocks = furnished().bend(FILE, |bytes| bytes.len() / 4096);
    let (mut noticed, mut most) = (0, 0);
    for (block, is_bad) in (0..blocks).flat_map(|block| [(block, false), (block, true)]) {
        let disk = furnished();
        if is_bad {
            disk.make_bad(FILE, block);
        } else {
            let mut random = fastrand::Rng::with_seed(block as u64);
            disk.bend(FILE, |bytes| bytes[block * 4096..][..4096].iter_mut().for_each(|byte| *byte = random.u8(..)));
        }
        let place = format!("block {block} of {blocks}, {is_bad}");
        let (mut store, restored) = disk.open().unwrap_or_else(|error| panic!("{place}: {error}"));
        let found = inventory(&mut store, &restored);
        let lost = is_said(&found, restored.damage.as_deref(), &place);
        most = most.max(lost);
        noticed += usize::from(restored.damage.is_some());
        drop(store);
        let (mut store, again) = disk.open().unwrap();
        assert_eq!((inventory(&mut store, &again), again.damage), (found, None), "{place}");
    }
    // At worst it is the root of the table of state.
    assert!(noticed > 20 && most <= 241, "{noticed} pages were noticed, at most {most} rows lost");
}

#[test]
fn a_turned_bit_costs_nothing_and_a_few_are_no_more_than_their_pages() {
    let length = furnished().bend(FILE, |bytes| bytes.len());
    for at in (0..length).step_by(length / 97) {
        for bits in [1, 3] {
            let disk = furnished();
            let mut random = fastrand::Rng::with_seed(at as u64);
            disk.bend(FILE, |bytes| (0..bits).for_each(|bit| bytes[(at + bit * 7) % length] ^= 1 << random.u8(0..8)));
            let (mut store, restored) = disk.open().unwrap();
            let found = inventory(&mut store, &restored);
            match bits {
                1 => assert_eq!(found, whole(), "byte {at}: {:?}", restored.damage),
                _ => drop(is_said(&found, restored.damage.as_deref(), &format!("byte {at}"))),
            }
        }
    }
}

/// The host is killed at any step of a salvage, or the power fails; the next start finds the
/// damaged file where it was, or all of it in the new one.
#[test]
fn a_salvage_that_is_cut_off_is_done_again() {
    let furnished = furnished();
    let block = furnished.bend(FILE, |bytes| {
        let at = bytes.windows(4).rposition(|window| window == record::MAGIC).unwrap() / 4096 * 4096;
        bytes[at..at + 4096].iter_mut().for_each(|byte| *byte = !*byte);
        at / 4096
    });
    let complete = furnished.after_kill();
    let (mut store, restored) = complete.open().unwrap();
    let (expected, damage) = (inventory(&mut store, &restored), restored.damage.unwrap());
    drop(store);
    let steps = complete.state().steps;
    let (mut trials, mut unfinished) = (0, 0);
    for cut in 1..=steps {
        for seed in seeds(20) {
            let disk = furnished.after_kill();
            disk.state().steps_left = Some(cut);
            let _ = disk.open();
            // Killed, or without power; and perhaps once more in the middle of the second attempt.
            let mut disk = if seed % 2 == 0 { disk.after_kill() } else { disk.after_power_loss(seed) };
            if seed % 3 == 0 {
                disk.state().steps_left = Some(1 + (cut * 7 + seed as usize) % steps);
                let _ = disk.open();
                disk = if seed % 2 == 0 { disk.after_kill() } else { disk.after_power_loss(seed) };
            }
            let (mut store, restored) = disk.open().unwrap();
            let place = format!("cut at {cut} of {steps}, seed {seed}, block {block}: {:?}", restored.damage);
            assert_eq!(inventory(&mut store, &restored), expected, "{place}; {damage}");
            unfinished += usize::from(restored.damage.is_some());
            drop(store);
            let names = disk.names();
            let leftovers = names.iter().filter(|name| name.contains(".new") || name.contains(".complete")).count();
            assert_eq!(leftovers, 0, "{place}: {names:?}");
            assert_eq!(names.iter().filter(|name| name.contains("damaged")).count(), 1, "{place}: {names:?}");
            trials += 1;
        }
    }
    eprintln!("{trials} trials, {unfinished} of them went on with a salvage");
    assert!(unfinished > 0, "{trials} trials");
}

#[test]
fn a_database_that_ended_the_host_twice_is_not_given_to_redb_again() {
    let disk = furnished();
    folder::Folder::set_note(&disk, "alphorn.redb.in-use", &[1]).unwrap();
    let (store, restored) = disk.open().unwrap();
    assert_eq!(restored.damage, None, "once may be a matter of chance");
    drop(store);
    folder::Folder::set_note(&disk, "alphorn.redb.in-use", &[2]).unwrap();
    let (mut store, restored) = disk.open().unwrap();
    let damage = restored.damage.clone().unwrap();
    assert!(damage.contains("ended twice") && damage.contains("nothing is lost"), "{damage}");
    assert_eq!(inventory(&mut store, &restored), whole());
}

/// A store that was killed with most of what it has in its log.
fn logged() -> Disk {
    let disk = Disk::default();
    let (mut store, _) = disk.open().unwrap();
    let mut since = Vec::new();
    for round in 0..3u64 {
        for group in 0..20 {
            let first = round * 1000 + group * 10;
            let changes: Vec<_> = (1..=5).map(|at| taken("one", first + at)).collect();
            assert!(store.log(&changes).unwrap());
            since.extend(changes);
        }
        if round < 2 {
            store.write(&since).unwrap();
            since.clear();
        }
    }
    assert_eq!(seqs(&mut store, "one").len(), 200);
    let killed = disk.after_kill();
    drop(store);
    killed
}

#[test]
fn what_is_missing_in_the_log_is_said() {
    let (length, used) = logged()
        .bend(LOG, |bytes| (bytes.len(), bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(4096)));
    let complete = logged();
    let (mut store, restored) = complete.open().unwrap();
    assert_eq!((seqs(&mut store, "one").len(), restored.damage), (300, None));
    drop(store);
    // Cut off.
    for part in 0..20 {
        let disk = logged();
        disk.bend(LOG, |bytes| bytes.truncate(length * part / 20));
        let (mut store, restored) = disk.open().unwrap();
        let damage = restored.damage.unwrap_or_default();
        assert!(damage.contains("cut off"), "part {part}: {} left, {damage:?}", seqs(&mut store, "one").len());
    }
    // Overwritten, with anything.
    for block in 0..used / 4096 {
        for fill in [0, 0xff, 0xa7] {
            let disk = logged();
            disk.bend(LOG, |bytes| bytes[block * 4096..][..4096].iter_mut().for_each(|byte| *byte = fill));
            let (mut store, restored) = disk.open().unwrap();
            let found = seqs(&mut store, "one").len();
            // The last one can't be told from one that was never written to the end.
            let is_last = block + 1 == used / 4096;
            assert!(found == 295 && (restored.damage.is_some() || is_last), "block {block}: {found}");
            let said = restored.damage.unwrap_or_default();
            assert!(is_last || said.contains("up to 1 writes"), "block {block}: {said}");
        }
    }
    // To its end.
    for block in 0..used / 4096 {
        let disk = logged();
        disk.bend(LOG, |bytes| bytes[block * 4096..].iter_mut().for_each(|byte| *byte = 0));
        let (_, restored) = disk.open().unwrap();
        let said = restored.damage.unwrap_or_default();
        assert!(said.contains("become zeroes"), "block {block}: {said}");
    }
    // Gone.
    let disk = logged();
    folder::Folder::remove(&disk, LOG).unwrap();
    let (_, restored) = disk.open().unwrap();
    assert!(restored.damage.unwrap().contains("cut off, 0 bytes"));
}

#[test]
fn a_database_that_is_gone_or_another_s_is_said() {
    // Emptied, or taken away.
    for is_there in [true, false] {
        let disk = logged();
        if is_there {
            disk.bend(FILE, |bytes| bytes.clear());
        } else {
            folder::Folder::remove(&disk, FILE).unwrap();
        }
        let (mut store, restored) = disk.open().unwrap();
        let damage = restored.damage.unwrap_or_default();
        assert!(damage.contains("missing or empty"), "{damage}");
        assert_eq!(seqs(&mut store, "one").len(), 100, "what the log has is kept");
        drop(store);
        let (mut store, restored) = disk.open().unwrap();
        assert_eq!((seqs(&mut store, "one").len(), restored.damage), (100, None));
    }
    // Another's log.
    let (disk, other) = (furnished(), logged());
    let log = other.bend(LOG, |bytes| bytes.clone());
    disk.bend(LOG, |bytes| *bytes = log);
    let (mut store, restored) = disk.open().unwrap();
    let damage = restored.damage.clone().unwrap_or_default();
    assert!(damage.contains("of another database: 100 messages") || damage.contains("of another database"), "{damage}");
    assert!(seqs(&mut store, "one").len() >= 19 + 100 && inventory(&mut store, &restored)[1] == whole()[1]);
    drop(store);
    let (_, restored) = disk.open().unwrap();
    assert_eq!(restored.damage, None, "once");
}

#[test]
fn rubbish_in_any_part_neither_panics_nor_hangs() {
    for seed in seeds(150) {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = if random.bool() { furnished() } else { logged() };
        for _ in 0..random.usize(1..6) {
            let file = [FILE, FILE, LOG][random.usize(0..3)];
            disk.bend(file, |bytes| {
                let at = random.usize(0..bytes.len());
                let end = bytes.len().min(at + [1, 8, 512, 4096, 100_000][random.usize(0..5)]);
                match random.u8(0..4) {
                    0 => bytes[at..end].iter_mut().for_each(|byte| *byte = random.u8(..)),
                    1 => bytes[at..end].fill(0),
                    2 => {
                        let from = random.usize(0..=bytes.len() - (end - at));
                        bytes.copy_within(from..from + end - at, at);
                    }
                    _ => bytes.truncate(at.max(1)),
                }
            });
        }
        let opened = disk.open();
        let (mut store, _) = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let before = seqs(&mut store, "one");
        store.write(&[taken("one", 1_000_000)]).unwrap();
        drop(store);
        let (mut store, restored) = disk.open().unwrap();
        assert_eq!(seqs(&mut store, "one").len(), before.len() + 1, "seed {seed}");
        assert_eq!(restored.damage, None, "seed {seed}");
    }
}
