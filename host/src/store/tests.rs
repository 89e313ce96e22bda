mod damage;
mod full;
mod property;
mod simulation;

use std::{collections::BTreeSet, fs, path::Path};

use self::simulation::Disk;
use super::{record::tests::message, *};
use crate::{router::Subscription, topic::TopicFilter};

fn taken(owner: &str, seq: u64) -> Change {
    let record = Record { message: message("t", 200), number: seq as u32, age: Age::new() };
    Change::Taken { owner: owner.into(), seq, record }
}

fn arrived(plugin: &str, number: u64) -> Change {
    Change::Arrived { plugin: plugin.into(), number, packet_id: 0, message: message("t", 200), redelivered: false }
}

fn settled(owner: &str, seq: u64) -> Change {
    Change::Settled { owner: owner.into(), seq }
}

fn seqs(store: &mut Store, owner: &str) -> Vec<u64> {
    store.outbox(owner, 0, usize::MAX).unwrap().items.iter().map(|taken| taken.seq).collect()
}

fn numbers(store: &mut Store, plugin: &str) -> Vec<u64> {
    store.inbox(plugin, 0, usize::MAX).unwrap().items.iter().map(|arrived| arrived.number).collect()
}

fn in_folder() -> (tempfile::TempDir, StoreSettings) {
    let folder = tempfile::tempdir().unwrap();
    let settings = StoreSettings { folder: folder.path().join("data"), min_free: 0 };
    (folder, settings)
}

#[test]
fn what_was_written_is_there_again() {
    let (_folder, settings) = in_folder();
    let (mut store, restored) = Store::open(&settings).unwrap();
    assert_eq!((restored.last_seq, restored.outbox.len()), (0, 0));
    let filter = TopicFilter::parse("a/+").unwrap();
    let at_broker = Subscription { filter: filter.clone(), qos: Qos::AtLeastOnce, identifier: 7 };
    let wanted = Wanted { plugin: "one".into(), filter: filter.clone(), qos: Qos::AtMostOnce, identifier: 7 };
    store.write(&[taken("one", 1), taken("two", 2), taken("one", 3), arrived("one", 9)]).unwrap();
    store.write(&[settled("one", 1), Change::Subscribed(wanted.clone()), Change::AtBroker(at_broker.clone())]).unwrap();
    drop(store);

    let (mut store, restored) = Store::open(&settings).unwrap();
    let cost = message("t", 200).cost();
    let waiting = |name: &str| Waiting { name: name.into(), messages: 1, bytes: cost };
    assert_eq!(restored.outbox, [waiting("one"), waiting("two")]);
    assert_eq!(restored.inbox, [waiting("one")]);
    assert_eq!((restored.last_seq, restored.last_number), (3, 9));
    assert_eq!((&restored.subscriptions[..], &restored.at_broker[..]), (&[wanted][..], &[at_broker][..]));
    assert!(restored.damage.is_none() && store.last.is_some());
    let page = store.outbox("one", 0, 1).unwrap();
    assert_eq!((page.items[0].seq, page.more), (3, false));
    assert_eq!(page.items[0].record.message, message("t", 200));
    assert_eq!(numbers(&mut store, "one"), [9]);

    store.write(&[Change::Unsubscribed { plugin: "one".into(), filter }, Change::NothingAtBroker]).unwrap();
    store.write(&[settled("one", 3), settled("two", 2), Change::Handled { plugin: "one".into(), number: 9 }]).unwrap();
    assert!(!store.has_messages());
    drop(store);
    let (_, restored) = Store::open(&settings).unwrap();
    assert!(restored.outbox.is_empty() && restored.subscriptions.is_empty() && restored.at_broker.is_empty());
    assert_eq!((restored.last_seq, restored.last_number), (3, 9), "numbers are not given again");
}

/// Half a write would break the order of its messages: the other half comes again behind it.
#[test]
fn a_write_that_is_cut_off_is_there_or_not_there() {
    let write: Vec<_> = (2..40).flat_map(|number| [taken("one", number), arrived("two", number)]).collect();
    let begin = |disk: &Disk| {
        let (mut store, _) = disk.open().unwrap();
        store.write(&[taken("one", 1), arrived("two", 1)]).unwrap();
        store
    };
    let steps = {
        let disk = Disk::default();
        let mut store = begin(&disk);
        let before = disk.state().steps;
        store.write(&write).unwrap();
        disk.state().steps - before
    };
    let mut found = BTreeSet::new();
    for cut in 1..=steps {
        let disk = Disk::default();
        let mut store = begin(&disk);
        disk.state().steps_left = Some(cut);
        store.write(&write).unwrap_err();
        let killed = disk.after_kill();
        drop(store);
        let (mut store, restored) = killed.open().unwrap();
        let is_there = (seqs(&mut store, "one").len(), numbers(&mut store, "two").len());
        assert!([(1, 1), (39, 39)].contains(&is_there), "cut at {cut} of {steps}: {is_there:?}");
        assert_eq!(restored.damage, None, "cut at {cut} of {steps}");
        found.insert(is_there);
    }
    assert_eq!(found.len(), 2, "{found:?} in {steps} steps");
}

#[test]
fn pages_are_in_order_and_end_where_asked() {
    let (mut store, _) = Disk::default().open().unwrap();
    store.write(&(1..=10).map(|seq| taken("one", seq)).collect::<Vec<_>>()).unwrap();
    store.write(&[taken("on", 11), taken("one2", 12)]).unwrap();
    let cost = message("t", 200).cost();
    let mut all = Vec::new();
    loop {
        let page = store.outbox("one", all.last().copied().unwrap_or(0), 3 * cost).unwrap();
        all.extend(page.items.iter().map(|taken| taken.seq));
        if !page.more {
            break;
        }
        assert_eq!(page.items.len(), 3);
    }
    assert_eq!(all, (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_message_in_quarantine_is_kept_with_its_reason() {
    let (_folder, settings) = in_folder();
    let (mut store, _) = Store::open(&settings).unwrap();
    store.write(&[taken("one", 1)]).unwrap();
    let record = Record { message: message("forbidden", 1), number: 1, age: Age::new() };
    store.write(&[Change::Quarantined { owner: "one".into(), seq: 1, record, reason: "because".into() }]).unwrap();
    assert_eq!(seqs(&mut store, "one"), [0; 0]);
    drop(store);
    let (_, restored) = Store::open(&settings).unwrap();
    let expected = Quarantined { owner: "one".into(), seq: 1, topic: "forbidden".into(), reason: "because".into() };
    assert_eq!(restored.quarantined, [expected]);
}

#[test]
fn a_full_inbox_drops_its_oldest() {
    let (mut store, _) = Disk::default().open().unwrap();
    store.limit_inbox("one".into(), 3 * message("t", 200).cost());
    let written = store.write(&(1..=5).map(|number| arrived("one", number)).collect::<Vec<_>>()).unwrap();
    assert_eq!(written.dropped.iter().map(|(_, count)| count).sum::<u64>(), 2);
    assert_eq!(numbers(&mut store, "one"), [3, 4, 5]);
    store.write(&[Change::Handled { plugin: "one".into(), number: 4 }]).unwrap();
    assert_eq!(store.write(&[arrived("one", 6)]).unwrap(), Written::default());
    assert_eq!(numbers(&mut store, "one"), [3, 5, 6]);
}

#[test]
fn a_second_host_is_told_so() {
    let (_folder, settings) = in_folder();
    let _first = Store::open(&settings).unwrap();
    let error = Store::open(&settings).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert!(error.to_string().contains("another host"));
}

#[test]
fn the_folder_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, settings) = in_folder();
    let _store = Store::open(&settings).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&settings.folder), mode(&settings.folder.join(FILE))), (0o700, 0o600));
    let file = settings.folder.join(FILE).join("data");
    let error = Store::open(&StoreSettings { folder: file.clone(), min_free: 0 }).unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()) && error.contains("data_dir"), "{error}");
}

#[test]
fn a_disk_with_too_little_left_is_left_alone() {
    let (_folder, mut settings) = in_folder();
    settings.min_free = u64::MAX;
    let (mut store, _) = Store::open(&settings).unwrap();
    let error = store.write(&[taken("one", 1)]).unwrap_err();
    assert!(matches!(error, StoreError::Low { .. }) && error.to_string().contains("min_free"), "{error}");
    store.write(&[settled("one", 1)]).unwrap();
}

#[test]
fn a_full_disk_refuses_and_works_again_when_there_is_room() {
    let disk = Disk::default();
    let (mut store, _) = disk.open().unwrap();
    store.write(&[taken("one", 1)]).unwrap();
    disk.set_full(true);
    let many: Vec<_> = (2..2000).map(|seq| taken("one", seq)).collect();
    for _ in 0..3 {
        let error = store.write(&many).unwrap_err().to_string();
        assert!(error.contains("can't be written"), "{error}");
    }
    disk.set_full(false);
    store.write(&many).unwrap();
    assert_eq!(seqs(&mut store, "one"), (1..2000).collect::<Vec<_>>());
}

/// Some commits, each of which takes, keeps something else, and takes out again. What goes into the
/// log has no arrivals.
fn commits(to_log: impl Fn(usize) -> bool) -> Vec<Vec<Change>> {
    (1..=12u64)
        .map(|round| {
            let mut changes: Vec<_> = (0..5).map(|at| taken("one", round * 10 + at)).collect();
            changes.push(match to_log(round as usize - 1) {
                true => state("two", &round.to_string(), b"1"),
                false => arrived("two", round),
            });
            if round > 1 {
                changes.push(settled("one", (round - 1) * 10));
            }
            changes
        })
        .collect()
}

/// What has to be there after so many commits.
fn expected(commits: usize) -> (Vec<u64>, Vec<u64>) {
    let outbox = (1..=commits as u64).flat_map(|round| {
        let first = if round < commits as u64 { 1 } else { 0 };
        (first..5).map(move |at| round * 10 + at)
    });
    (outbox.collect(), (1..=commits as u64).collect())
}

/// Commits into the log, as the journal does: the database is written with all since then.
fn commit(store: &mut Store, since: &mut Vec<Change>, changes: Vec<Change>, to_log: bool) -> Result<(), StoreError> {
    since.extend(changes.iter().cloned());
    if to_log {
        return store.log(&changes).map(|has_room| assert!(has_room));
    }
    store.write(&*since)?;
    since.clear();
    Ok(())
}

#[test]
fn no_committed_message_is_lost_wherever_the_power_fails() {
    // Into the database alone, and in the log with the database now and then.
    power_fails_everywhere(|_| false);
    power_fails_everywhere(|number| number % 4 != 3);
}

fn power_fails_everywhere(to_log: impl Fn(usize) -> bool) {
    let counting = Disk::default();
    let (mut store, _) = counting.open().unwrap();
    let begin = counting.state().steps;
    let mut since = Vec::new();
    for (number, changes) in commits(&to_log).into_iter().enumerate() {
        commit(&mut store, &mut since, changes, to_log(number)).unwrap();
    }
    let steps = counting.state().steps;
    drop(store);

    for cut in begin..steps {
        let disk = Disk::default();
        let (mut store, _) = disk.open().unwrap();
        disk.state().steps_left = Some(cut - begin);
        let (mut committed, mut since) = (0, Vec::new());
        for (number, changes) in commits(&to_log).into_iter().enumerate() {
            if commit(&mut store, &mut since, changes, to_log(number)).is_err() {
                break;
            }
            committed += 1;
        }
        drop(store);
        for seed in 0..3 {
            let (mut store, restored) = disk.after_power_loss(seed).open().unwrap_or_else(|error| {
                panic!("cut at {cut}, seed {seed}: {error}");
            });
            let mut others = numbers(&mut store, "two");
            others.extend(store.saved("two").unwrap().state.keys().map(|key| key.parse::<u64>().unwrap()));
            others.sort_unstable();
            let found = (seqs(&mut store, "one"), others);
            // The commit that was cut off may have become durable; whole messages of one that has not
            // are kept, and nothing else of it.
            let [before, after] = [expected(committed), expected(committed + 1)];
            let place = format!("cut at {cut}, seed {seed}, {committed} committed: {found:?}");
            let is_there = |seq: &u64| found.0.contains(seq);
            assert!(before.0.iter().all(|seq| is_there(seq) || !after.0.contains(seq)), "{place}");
            assert!(found.0.iter().all(|seq| before.0.contains(seq) || after.0.contains(seq)), "{place}");
            assert!([before.1, after.1].contains(&found.1), "{place}");
            assert_eq!(restored.outbox.iter().map(|waiting| waiting.messages).sum::<u64>(), found.0.len() as u64);
            store.write(&[taken("one", 1000)]).unwrap();
        }
    }
}

/// A file with these messages.
fn filled(settings: &StoreSettings, count: u64) -> PathBuf {
    let (mut store, _) = Store::open(settings).unwrap();
    store.write(&(1..=count).map(|seq| taken("one", seq)).collect::<Vec<_>>()).unwrap();
    store.write(&[arrived("two", 5)]).unwrap();
    settings.folder.join(FILE)
}

#[test]
fn one_flipped_bit_costs_nothing() {
    const COUNT: u64 = 200;
    let (_folder, settings) = in_folder();
    let path = filled(&settings, COUNT);
    let whole = fs::read(&path).unwrap();
    let mut damaged = 0;
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        fs::write(&path, &bent).unwrap();
        let (mut store, restored) = Store::open(&settings).unwrap();
        assert_eq!(seqs(&mut store, "one"), (1..=COUNT).collect::<Vec<_>>(), "byte {at}: {:?}", restored.damage);
        drop(store);
        if let Some(damage) = restored.damage {
            damaged += 1;
            assert!(damage.contains("nothing is lost"), "{damage}");
            // It is as it was.
            let (_, restored) = Store::open(&settings).unwrap();
            assert_eq!(restored.damage, None, "byte {at}");
        }
    }
    assert!(damaged > 0, "no flip was noticed");
}

#[test]
fn a_flipped_bit_in_the_last_write_before_a_bad_end_does_not_cost_the_whole_write() {
    let (_folder, settings) = in_folder();
    let (mut store, _) = Store::open(&settings).unwrap();
    store.write(&[taken("one", 1)]).unwrap();
    store.write(&(2..=100).map(|seq| taken("one", seq)).collect::<Vec<_>>()).unwrap();
    let mut bytes = fs::read(settings.folder.join(FILE)).unwrap();
    drop(store);
    // As the file was when the power failed.
    let at = bytes.windows(4).rposition(|window| window == record::MAGIC).unwrap();
    bytes[at + 40] ^= 1;
    fs::write(settings.folder.join(FILE), &bytes).unwrap();
    let (mut store, restored) = Store::open(&settings).unwrap();
    let found = seqs(&mut store, "one");
    assert_eq!(found, (1..=100).collect::<Vec<_>>(), "{:?}", restored.damage);
    assert!(restored.damage.is_some());
}

#[test]
fn what_is_only_in_the_log_is_there_again() {
    let (_folder, settings) = in_folder();
    let (mut store, _) = Store::open(&settings).unwrap();
    store.write(&[arrived("one", 9)]).unwrap();
    assert!(store.log(&[taken("one", 1), taken("two", 2)]).unwrap());
    assert!(store.log(&[settled("one", 1), taken("one", 3), state("one", "key", b"1")]).unwrap());
    assert!(store.log(&[state("one", "key", b"2"), Change::Handled { plugin: "one".into(), number: 9 }]).unwrap());
    assert_eq!(numbers(&mut store, "one"), [9], "the database is not written");
    drop(store);
    for _ in 0..2 {
        let (mut store, restored) = Store::open(&settings).unwrap();
        assert_eq!((seqs(&mut store, "one"), seqs(&mut store, "two")), (vec![3], vec![2]));
        assert_eq!((numbers(&mut store, "one"), restored.damage), (vec![], None));
        assert_eq!((restored.last_seq, restored.last_number), (3, 9));
        assert_eq!(store.saved("one").unwrap().state.get("key").unwrap(), "2");
    }
}

#[test]
fn what_the_database_has_is_not_taken_from_the_log_again() {
    let (_folder, settings) = in_folder();
    let (mut store, _) = Store::open(&settings).unwrap();
    // What was settled before the database was written is in the log only, and then nowhere.
    assert!(store.log(&(1..=50).map(|seq| taken("one", seq)).collect::<Vec<_>>()).unwrap());
    store.write(&[state("one", "key", b"1")]).unwrap();
    assert!(store.log(&[taken("one", 51)]).unwrap());
    drop(store);
    let (mut store, restored) = Store::open(&settings).unwrap();
    assert_eq!((seqs(&mut store, "one"), restored.last_seq, restored.damage), (vec![51], 51, None));
    store.write(&[settled("one", 51)]).unwrap();
    drop(store);
    let (mut store, restored) = Store::open(&settings).unwrap();
    assert_eq!((seqs(&mut store, "one"), restored.last_seq), (vec![], 51));
}

#[test]
fn a_full_log_says_so_and_begins_again_when_the_database_is_written() {
    let (_folder, settings) = in_folder();
    let (mut store, _) = Store::open(&settings).unwrap();
    let mut seq = 0;
    for round in 0..3 {
        let mut since = Vec::new();
        loop {
            let changes: Vec<_> = (0..100).map(|at| taken("one", seq + at + 1)).collect();
            since.extend(changes.clone());
            seq += 100;
            if !store.log(&changes).unwrap() {
                break;
            }
        }
        assert!(since.len() > 1000 && fs::metadata(settings.folder.join(LOG)).unwrap().len() <= 2 * 1024 * 1024);
        if round < 2 {
            store.write(&since).unwrap();
        }
    }
    drop(store);
    let (mut store, _) = Store::open(&settings).unwrap();
    // The last part found no room in the log, and was not written elsewhere.
    assert_eq!(seqs(&mut store, "one"), (1..=seq - 100).collect::<Vec<_>>());
}

#[test]
fn one_flipped_bit_in_the_log_costs_one_message_at_most() {
    const COUNT: u64 = 60;
    let (_folder, settings) = in_folder();
    let (mut store, _) = Store::open(&settings).unwrap();
    for first in [1, 21, 41] {
        assert!(store.log(&(first..first + 20).map(|seq| taken("one", seq)).collect::<Vec<_>>()).unwrap());
    }
    drop(store);
    let [whole, database] = [LOG, FILE].map(|name| fs::read(settings.folder.join(name)).unwrap());
    let mut damaged = 0;
    // Behind that are zeroes.
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..end).step_by(end / 150) {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        fs::write(settings.folder.join(LOG), &bent).unwrap();
        fs::write(settings.folder.join(FILE), &database).unwrap();
        let (mut store, restored) = Store::open(&settings).unwrap();
        let found = seqs(&mut store, "one");
        assert!(found.len() as u64 >= COUNT - 1 && found.is_sorted(), "byte {at}: {found:?}");
        damaged += usize::from(restored.damage.is_some());
        drop(store);
        let (mut store, restored) = Store::open(&settings).unwrap();
        assert_eq!((seqs(&mut store, "one"), restored.damage), (found, None), "byte {at}");
    }
    assert!(damaged > 75, "{damaged} flips were noticed");
}

#[test]
fn what_could_not_be_written_into_the_log_does_not_come_back_later() {
    let disk = Disk::default();
    let (mut store, _) = disk.open().unwrap();
    store.log(&[state("one", "key", b"1")]).unwrap();
    // It is written, but the sync fails.
    disk.state().steps_left = Some(1);
    let error = store.log(&[state("one", "key", b"2"), taken("one", 1)]).unwrap_err().to_string();
    assert!(error.contains(LOG), "{error}");
    disk.state().steps_left = None;
    store.write(&[state("one", "key", b"3"), taken("one", 1), settled("one", 1)]).unwrap();
    drop(store);
    let (mut store, _) = disk.open().unwrap();
    assert_eq!(store.saved("one").unwrap().state.get("key").unwrap(), "3");
    assert_eq!(seqs(&mut store, "one"), [0; 0]);
}

#[test]
fn many_messages_are_put_in_and_taken_out_whatever_lies_between() {
    let (mut store, _) = Disk::default().open().unwrap();
    let mut all: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut next = 0;
    for _ in 0..60 {
        let mut changes = Vec::new();
        for _ in 0..random.usize(0..200) {
            next += random.u64(1..4);
            let owner = ["a", "b", "bb"][random.usize(0..3)];
            all.insert((owner.to_owned(), next));
            changes.push(taken(owner, next));
        }
        for (owner, seq) in all.clone() {
            if random.u8(0..3) == 0 {
                all.remove(&(owner.clone(), seq));
                changes.push(settled(&owner, seq));
            }
        }
        // One that is there already, and older than others.
        if let Some((owner, seq)) = all.first() {
            changes.push(taken(owner, *seq));
        }
        store.write(&changes).unwrap();
        for owner in ["a", "b", "bb"] {
            let expected: Vec<u64> = all.iter().filter(|(its, _)| its == owner).map(|(_, seq)| *seq).collect();
            assert_eq!(seqs(&mut store, owner), expected, "{owner}");
        }
        assert_eq!(store.bytes, all.len() as u64 * message("t", 200).cost() as u64);
    }
}

fn state(plugin: &str, key: &str, value: &'static [u8]) -> Change {
    Change::State { plugin: plugin.into(), key: key.into(), value: Some(bytes::Bytes::from_static(value)) }
}

#[test]
fn a_torn_file_keeps_what_its_beginning_has() {
    let (_folder, settings) = in_folder();
    let path = filled(&settings, 200);
    let whole = fs::read(&path).unwrap();
    let mut most = 0;
    for part in 0..20 {
        fs::write(&path, &whole[..whole.len() * part / 20]).unwrap();
        let (mut store, restored) = Store::open(&settings).unwrap();
        let found = seqs(&mut store, "one").len();
        assert!(found >= most, "a longer part has fewer messages: {found} after {most}");
        most = found;
        if part > 0 {
            let damage = restored.damage.unwrap();
            assert!(damage.contains(&format!("{} messages", found + numbers(&mut store, "two").len())), "{damage}");
        }
    }
    assert!(most > 100, "{most}");
}

#[test]
fn rubbish_is_set_aside() {
    let (_folder, settings) = in_folder();
    fs::create_dir(&settings.folder).unwrap();
    for (number, rubbish) in [&b"rubbish"[..], &[0; 10_000], &[0xa7; 100_000]].into_iter().enumerate() {
        fs::write(settings.folder.join(FILE), rubbish).unwrap();
        let (mut store, restored) = Store::open(&settings).unwrap();
        assert!(restored.damage.unwrap().contains(&format!("damaged-{}", number + 1)));
        store.write(&[taken("one", 1)]).unwrap();
        drop(store);
        fs::remove_file(settings.folder.join(FILE)).unwrap();
    }
}
