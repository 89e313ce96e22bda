//! A disk that takes nothing.

use super::{simulation::seeds, *};

/// A store with messages in its database and in its log, as a kill left it.
fn killed(disk: &Disk, messages: u64, to_log: u64) -> Disk {
    let (mut store, _) = disk.open().unwrap();
    store.write(&(1..=messages).map(|seq| taken("one", seq)).collect::<Vec<_>>()).unwrap();
    store.write(&[state("two", "key", b"1"), arrived("two", 1)]).unwrap();
    for seq in messages + 1..=messages + to_log {
        assert!(store.log(&[taken("one", seq)]).unwrap());
    }
    let killed = disk.after_kill();
    drop(store);
    killed
}

fn damaged(disk: &Disk) -> usize {
    disk.names().iter().filter(|name| name.contains("damaged")).count()
}

#[test]
fn a_full_disk_at_start_is_no_damage_and_what_waits_can_be_read_and_taken_out() {
    let (mut views, mut recovered) = (0, 0);
    for seed in seeds(60) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (messages, to_log) = (random.u64(1..400), random.u64(0..40));
        let disk = killed(&Disk::default(), messages, to_log);
        let all: Vec<u64> = (1..=messages + to_log).collect();
        match random.u8(0..4) {
            0 => disk.state().is_read_only = true,
            _ => disk.set_full(true),
        }
        if random.bool() {
            folder::Folder::remove(&disk, RESERVE.0).unwrap_or_default();
        }
        let (mut store, restored) = disk.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(seqs(&mut store, "one"), all, "seed {seed}");
        assert_eq!((numbers(&mut store, "two"), damaged(&disk), restored.damage), (vec![1], 0, None), "seed {seed}");
        assert_eq!(store.saved("two").unwrap().state["key"], "1");
        views += usize::from(store.trouble().is_some());
        // Half of them are settled while it is full; it may or may not be written.
        let settled: Vec<_> = all.iter().filter(|seq| *seq % 2 == 0).map(|seq| settled("one", *seq)).collect();
        let mut is_written = store.write(&settled).is_ok();
        recovered += usize::from(is_written);
        if random.bool() {
            // Another start on the full disk.
            let killed = disk.after_kill();
            drop(store);
            let (mut store, restored) = killed.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let left = seqs(&mut store, "one");
            let expected: Vec<u64> = all.iter().copied().filter(|seq| !is_written || seq % 2 == 1).collect();
            assert_eq!((left, damaged(&killed), restored.damage), (expected, 0, None), "seed {seed}");
            continue;
        }
        disk.set_full(false);
        disk.state().is_read_only = false;
        if !is_written {
            assert!(!store.was_written().unwrap());
            store.write(&settled).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            is_written = true;
        }
        assert!(is_written && store.trouble().is_none());
        store.write(&[taken("one", 10_000)]).unwrap();
        assert!(store.log(&[taken("one", 10_001)]).unwrap());
        drop(store);
        let (mut store, restored) = disk.open().unwrap();
        let expected: Vec<u64> = all.iter().copied().filter(|seq| seq % 2 == 1).chain([10_000, 10_001]).collect();
        assert_eq!((seqs(&mut store, "one"), damaged(&disk), restored.damage), (expected, 0, None), "seed {seed}");
    }
    assert!(views > 0 && recovered > 0, "{views} views, {recovered} written on the full disk");
}

#[test]
fn its_own_outbox_does_not_lock_the_host_out() {
    for blocks in [400, 700, 1000] {
        let disk = Disk::default();
        disk.state().blocks = Some(blocks);
        let (mut store, _) = disk.open().unwrap();
        let (mut seq, mut since): (u64, Vec<Change>) = (0, Vec::new());
        // As the journal does it, until nothing more is taken.
        loop {
            let changes: Vec<_> = (1..=10).map(|at| taken("one", seq + at)).collect();
            match store.log(&changes) {
                Ok(true) => since.extend(changes),
                _ => {
                    since.extend(changes);
                    if store.write(&since).is_err() {
                        break;
                    }
                    since.clear();
                }
            }
            seq += 10;
        }
        let killed = disk.after_kill();
        drop(store);
        let (mut store, restored) = killed.open().unwrap();
        let waiting = seqs(&mut store, "one");
        assert!(waiting.len() as u64 >= seq, "{blocks} blocks: {} of {seq}", waiting.len());
        assert_eq!(restored.damage, None);
        // All of it is sent. Nothing else is taken from the disk.
        let settled: Vec<_> = waiting.iter().map(|seq| settled("one", *seq)).collect();
        store.write(&settled).unwrap_or_else(|error| panic!("{blocks} blocks, {} messages: {error}", waiting.len()));
        assert!(store.trouble().is_none());
        store.write(&[taken("one", 100_000)]).unwrap();
        drop(store);
        let (mut store, _) = killed.open().unwrap();
        assert_eq!(seqs(&mut store, "one"), [100_000]);
    }
}

#[test]
fn a_damaged_database_on_a_full_disk_is_read_and_salvaged_when_there_is_room() {
    let disk = killed(&Disk::default(), 100, 0);
    // All pages that messages are on.
    disk.bend(FILE, |bytes| {
        let has_message = |page: &[u8]| page.windows(4).any(|window| window == record::MAGIC);
        bytes.chunks_mut(4096).filter(|page| has_message(page)).for_each(|page| page[..4].fill(0));
    });
    disk.set_full(true);
    let (mut store, restored) = disk.open().unwrap();
    let found = seqs(&mut store, "one");
    folder::Folder::remove(&disk, RESERVE.0).unwrap();
    disk.set_full(true);
    assert!(found.len() == 100 && restored.damage.unwrap().contains("until there is room"));
    store.write(&[settled("one", found[0])]).unwrap_err();
    assert_eq!(damaged(&disk), 0);
    disk.set_full(false);
    store.write(&[settled("one", found[0])]).unwrap();
    assert_eq!((damaged(&disk), seqs(&mut store, "one").len()), (1, found.len() - 1));
    drop(store);
    let (mut store, restored) = disk.open().unwrap();
    assert_eq!((seqs(&mut store, "one").len(), restored.damage), (found.len() - 1, None));
}

#[test]
fn a_first_start_on_a_full_disk_waits_for_room() {
    let disk = Disk::default();
    disk.set_full(true);
    let (mut store, _) = disk.open().unwrap();
    assert!(store.trouble().is_some());
    store.write(&[taken("one", 1)]).unwrap_err();
    disk.set_full(false);
    store.write(&[taken("one", 1)]).unwrap();
    drop(store);
    let (mut store, _) = disk.open().unwrap();
    assert_eq!(seqs(&mut store, "one"), [1]);
}

/// The disk says that it failed, and has written all the same: what was done is not done twice.
#[test]
fn what_came_through_although_the_disk_said_no_is_not_done_twice() {
    let disk = Disk::default();
    let (mut store, _) = disk.open().unwrap();
    store.write(&[state("one", "key", b"old"), Change::Snapshot { plugin: "one".into() }]).unwrap();
    store.write(&[state("one", "key", b"new")]).unwrap();
    let back = [Change::RolledBack { plugin: "one".into() }];
    disk.state().lies = true;
    store.write(&back).unwrap_err();
    disk.state().lies = false;
    if !store.was_written().unwrap() {
        store.write(&back).unwrap();
    }
    assert_eq!(store.saved("one").unwrap().state.get("key").unwrap(), "old");
    drop(store);
    let (mut store, _) = disk.open().unwrap();
    assert_eq!(store.saved("one").unwrap().state.get("key").unwrap(), "old");
}

/// A system may refuse rights, open files, memory or room for a while, at any call. The store does not
/// take that for damage: it sets nothing aside, and has everything when it is opened again.
#[test]
fn what_is_refused_for_a_while_is_no_damage() {
    const REFUSED: [i32; 8] =
        [libc::EACCES, libc::EPERM, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT, libc::EROFS];
    let first = killed(&Disk::default(), 60, 10);
    let all: Vec<u64> = (1..=70).collect();
    let calls = {
        let disk = first.after_kill();
        drop(disk.open().unwrap());
        disk.state().calls
    };
    let (mut opened, mut refused) = (0, 0);
    for (error, at, is_short) in
        REFUSED.into_iter().flat_map(|error| (1..=calls).flat_map(move |at| [(error, at, true), (error, at, false)]))
    {
        let disk = first.after_kill();
        disk.state().refuses = Some((at..if is_short { at + 1 } else { usize::MAX }, error));
        let place = format!("error {error} at call {at} of {calls}, once: {is_short}");
        let as_found = |disk: &Disk, (mut store, restored): (Store, Restored)| {
            disk.state().refuses = None;
            let found = (seqs(&mut store, "one"), numbers(&mut store, "two"), restored.damage);
            assert_eq!(found, (all.clone(), vec![1], None), "{place}");
            assert_eq!(store.saved("two").unwrap().state["key"], "1", "{place}");
            assert_eq!(damaged(disk), 0, "{place}: {:?}", disk.names());
            store
        };
        match disk.open() {
            Ok(found) => {
                opened += 1;
                drop(as_found(&disk, found));
            }
            Err(error) => {
                refused += 1;
                assert!(!matches!(error, StoreError::Database(_) | StoreError::InUse(_)), "{place}: {error}");
                assert!(error.to_string().contains("/disk"), "{place}: {error}");
            }
        }
        disk.state().refuses = None;
        let mut store = as_found(&disk, disk.open().unwrap_or_else(|error| panic!("{place}: {error}")));
        store.write(&[settled("one", 1), taken("one", 1000)]).unwrap_or_else(|error| panic!("{place}: {error}"));
    }
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}
