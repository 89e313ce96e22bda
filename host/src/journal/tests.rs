use std::{path::Path, sync::mpsc};

use super::*;
use crate::{
    clock::Age,
    message::{Message, Qos},
    store::{Record, Restored, StoreSettings},
    topic::TopicName,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn message() -> Message {
    Message {
        topic: TopicName::parse("t").unwrap(),
        payload: bytes::Bytes::from_static(b"payload"),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: None,
    }
}

fn taken(seq: u64) -> Change {
    let record = Record { message: message(), number: 1, age: Age::new() };
    Change::Taken { owner: "one".into(), seq, record }
}

fn settled(seq: u64) -> Change {
    Change::Settled { owner: "one".into(), seq }
}

fn start(folder: &Path, commit: Commit, min_free: u64) -> (Journal, mpsc::Receiver<Report>, Arc<AtomicBool>, Restored) {
    let (store, restored) = Store::open(&StoreSettings { folder: folder.to_owned(), min_free }).unwrap();
    let (sender, reports) = mpsc::channel();
    let disk_full = Arc::<AtomicBool>::default();
    let report = move |report| drop(sender.send(report));
    let journal = Journal::start(store, JournalSettings { commit }, disk_full.clone(), report).unwrap();
    (journal, reports, disk_full, restored)
}

fn restored(folder: &Path) -> u64 {
    let settings = StoreSettings { folder: folder.to_owned(), min_free: 0 };
    Store::open(&settings).unwrap().1.outbox.iter().map(|waiting| waiting.messages).sum()
}

fn commit(journal: &mut Journal) -> oneshot::Receiver<bool> {
    let (reply, answer) = oneshot::channel();
    journal.commit(Some(reply), None);
    answer
}

#[test]
fn a_commit_is_answered_when_all_before_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, reports, _, _) = start(folder.path(), Commit::Call, 0);
    for seq in 1..=100 {
        journal.change(taken(seq));
    }
    journal.commit(None, Some(7));
    assert!(commit(&mut journal).blocking_recv().unwrap());
    assert!(matches!(reports.recv_timeout(PATIENCE).unwrap(), Report::Durable(7)));
    journal.change(settled(1));
    journal.close();
    assert_eq!(restored(folder.path()), 99);
}

#[test]
fn what_was_settled_before_it_was_written_needs_no_commit() {
    let folder = tempfile::tempdir().unwrap();
    // So that nothing is written by the way.
    let (mut journal, reports, _, _) = start(folder.path(), Commit::Every(Duration::from_secs(3600)), 0);
    journal.change(taken(1));
    journal.change(settled(1));
    journal.commit(None, Some(1));
    assert!(matches!(reports.recv_timeout(PATIENCE).unwrap(), Report::Durable(1)));
    assert!(commit(&mut journal).blocking_recv().unwrap());
    journal.close();
    assert_eq!(restored(folder.path()), 0);
}

#[test]
fn what_comes_within_the_pause_is_written_together() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, reports, _, _) = start(folder.path(), Commit::Every(Duration::from_millis(50)), 0);
    let begin = Instant::now();
    for ticket in 1..=5 {
        journal.change(taken(ticket));
        journal.commit(None, Some(ticket));
    }
    for ticket in 1..=5 {
        assert!(matches!(reports.recv_timeout(PATIENCE).unwrap(), Report::Durable(durable) if durable == ticket));
    }
    assert!(begin.elapsed() >= Duration::from_millis(50));
    journal.close();
    assert_eq!(restored(folder.path()), 5);
}

#[test]
fn who_waits_for_an_answer_is_not_made_to_wait_for_the_next_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _reports, _, _) = start(folder.path(), Commit::Every(Duration::from_secs(3600)), 0);
    journal.change(taken(1));
    let (answer, (sender, answers)) = (commit(&mut journal), mpsc::channel());
    thread::spawn(move || sender.send(answer.blocking_recv()));
    assert!(answers.recv_timeout(PATIENCE).expect("an answer in time").unwrap());
    journal.close();
}

#[test]
fn a_page_has_everything_told_before_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, reports, _, _) = start(folder.path(), Commit::Every(Duration::from_secs(3600)), 0);
    (1..=10).for_each(|seq| journal.change(taken(seq)));
    journal.change(settled(3));
    journal.load_outbox("one".into(), 2, usize::MAX);
    let Report::Outbox { owner, page } = reports.recv_timeout(PATIENCE).unwrap() else { panic!() };
    assert_eq!((&*owner, page.more), ("one", false));
    assert_eq!(page.items.iter().map(|taken| taken.seq).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9, 10]);
    journal.close();
}

#[test]
fn while_the_disk_is_full_nobody_waits_and_nothing_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, reports, disk_full, _) = start(folder.path(), Commit::Call, u64::MAX);
    journal.change(taken(1));
    journal.commit(None, Some(7));
    assert!(!commit(&mut journal).blocking_recv().unwrap());
    let Report::Trouble(cause) = reports.recv_timeout(PATIENCE).unwrap() else { panic!() };
    assert!(cause.contains("min_free") && disk_full.load(SeqCst), "{cause}");
    assert!(!commit(&mut journal).blocking_recv().unwrap(), "at once");
    // What frees room is written all the same, and then there is nothing left to store.
    journal.change(settled(1));
    journal.flush();
    assert!(matches!(reports.recv_timeout(PATIENCE).unwrap(), Report::Recovered));
    assert!(matches!(reports.recv_timeout(PATIENCE).unwrap(), Report::Durable(7)));
    assert!(!disk_full.load(SeqCst));
    journal.close();
}
