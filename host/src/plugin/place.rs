//! Where a plugin's task runs: on the link's thread, or on one of the host's.
//!
//! A message that is handled where it was read need not wait for another thread to wake, on the
//! way there and on the way back: most of the time of a lone message. But what takes long there
//! holds the socket up. So a task comes to the link's thread after a row of quick turns elsewhere,
//! and leaves it with the first that is not quick: a guest that computes on gives its thread up
//! within two ticks of the epoch, and goes on where the link does not wait for it. What it held the
//! thread for decides how long it stays away, so that all it can take is a share of its time.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::{Instrument, debug};

/// Longer than a lone message takes with cold caches (0.1 ms on a PC), also on a slower board;
/// half a tick.
const QUICK: Duration = Duration::from_micros(500);
/// So many quick turns in a row bring a task to the link's thread; twice as many the next time,
/// half as many after as many quick ones there.
const FIRST_ROW: u32 = 8;
const LONGEST_ROW: u32 = 4096;
/// Who has held the link's thread stays away for so many times as long: a hundredth is what it can take.
const AWAY: u32 = 100;
/// And never for longer: where the whole machine stood still, that was not its doing.
const LONGEST_AWAY: Duration = Duration::from_secs(60);
/// So long without a turn that was not quick before a row counts: a thousand turns may be over at once.
const CALM: Duration = Duration::from_secs(1);

/// Runs a task until it has ended, here or on the link's thread, in the span of this call. In a runtime
/// of one thread it stays.
pub(super) fn run(task: impl Future<Output = ()> + Send + 'static, link: Handle) -> impl Future<Output = ()> + Send {
    // Outside of the future, which would keep room for the task itself, too: that is large.
    let task = Box::pin(task);
    async move {
        let host = Handle::current();
        let may_move = host.runtime_flavor() != RuntimeFlavor::CurrentThread;
        let mut next = Some(Placed { task, habits: Habits::new(may_move) });
        while let Some(placed) = next {
            let there = if placed.habits.is_beside_link { &link } else { &host };
            // An error says that the runtime has ended, and with it the host: a panic ends the process.
            next = there.spawn(Stay(Some(placed)).in_current_span()).await.ok().flatten();
        }
    }
}

struct Placed<F> {
    task: Pin<Box<F>>,
    habits: Habits,
}

/// A task, as long as it stays in one place. Its outcome is the task that moves; None: it has ended.
struct Stay<F>(Option<Placed<F>>);

impl<F: Future<Output = ()>> Future for Stay<F> {
    type Output = Option<Placed<F>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(placed) = &mut self.0 else { return Poll::Ready(None) };
        let began = Instant::now();
        if placed.task.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let now = Instant::now();
        let took = now - began;
        if !placed.habits.moves(took, now) {
            return Poll::Pending;
        }
        match placed.habits.is_beside_link {
            true => debug!("its calls are short: it goes on on the link's thread"),
            false => debug!(?took, "it leaves the link's thread, where this turn was too long"),
        }
        Poll::Ready(self.0.take())
    }
}

/// How long a task's turns were, and where it belongs for that.
struct Habits {
    may_move: bool,
    is_beside_link: bool,
    /// Quick turns since the last that was not, or since the row was full.
    quick: u32,
    row: u32,
    /// When it came to the link, or its row was halved there.
    since: Instant,
    /// It does not come back before.
    away_until: Option<Instant>,
}

impl Habits {
    fn new(may_move: bool) -> Self {
        let since = Instant::now();
        Self { may_move, is_beside_link: false, quick: 0, row: FIRST_ROW, since, away_until: None }
    }

    /// After a turn that is over now: whether the next one is elsewhere.
    fn moves(&mut self, took: Duration, now: Instant) -> bool {
        if !self.may_move {
            return false;
        }
        if took > QUICK {
            self.quick = 0;
            if self.is_beside_link {
                self.row = (self.row * 2).min(LONGEST_ROW);
                self.away_until = Some(now + took.saturating_mul(AWAY).min(LONGEST_AWAY));
            }
            return std::mem::take(&mut self.is_beside_link);
        }
        self.quick = self.quick.saturating_add(1);
        if self.quick < self.row {
            return false;
        }
        if self.is_beside_link {
            if now.duration_since(self.since) >= CALM {
                (self.quick, self.since) = (0, now);
                self.row = (self.row / 2).max(FIRST_ROW);
            }
            return false;
        }
        if self.away_until.is_some_and(|until| now < until) {
            return false;
        }
        (self.quick, self.since, self.away_until) = (0, now, None);
        self.is_beside_link = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc, thread};

    use super::*;

    const LONG: Duration = Duration::from_millis(1);

    /// Habits, and the time that passes only when told to.
    struct Trial {
        habits: Habits,
        now: Instant,
    }

    impl Trial {
        fn new(may_move: bool) -> Self {
            Self { habits: Habits::new(may_move), now: Instant::now() }
        }

        fn moves(&mut self, took: Duration) -> bool {
            self.habits.moves(took, self.now)
        }

        /// Quick turns until it moves.
        fn turns(&mut self) -> u32 {
            let mut count = 1;
            while !self.moves(QUICK) {
                count += 1;
            }
            count
        }
    }

    #[test]
    fn a_row_of_quick_turns_leads_to_the_link_and_one_long_away() {
        let mut trial = Trial::new(true);
        assert!((1..FIRST_ROW).all(|_| !trial.moves(QUICK)));
        assert!(!trial.moves(LONG), "it moves only to leave the link");
        assert_eq!(trial.turns(), FIRST_ROW);
        assert!((0..100).all(|_| !trial.moves(QUICK)));
        assert!(trial.moves(LONG));
        assert!(!trial.habits.is_beside_link);
    }

    #[test]
    fn who_is_sent_away_again_and_again_comes_back_ever_later_until_it_has_mended() {
        let mut trial = Trial::new(true);
        let mut rows = Vec::new();
        for _ in 0..12 {
            rows.push(trial.turns());
            assert!(trial.moves(LONG));
            trial.now += LONG * AWAY;
        }
        assert_eq!(rows, [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        trial.turns();
        assert!((0..10 * LONGEST_ROW).all(|_| !trial.moves(QUICK)));
        assert!(trial.moves(LONG));
        trial.now += LONG * AWAY;
        assert_eq!(trial.turns(), LONGEST_ROW, "many turns in no time have mended nothing");
        for _ in 0..2 {
            trial.now += CALM;
            assert!((0..LONGEST_ROW).all(|_| !trial.moves(QUICK)));
        }
        assert!(trial.moves(LONG));
        trial.now += LONG * AWAY;
        assert_eq!(trial.turns(), LONGEST_ROW / 2);
    }

    /// Of any length of time a plugin gets a hundredth of the link's thread by long turns, however
    /// many short ones it makes between them.
    #[test]
    fn who_holds_the_thread_for_long_stays_away_for_longer() {
        let mut trial = Trial::new(true);
        let long = Duration::from_millis(434);
        let (mut held, begin) = (Duration::ZERO, trial.now);
        for _ in 0..100_000 {
            if trial.habits.is_beside_link {
                held += long;
                trial.now += long;
                assert!(trial.moves(long));
            } else {
                trial.now += QUICK * 10;
                trial.moves(QUICK);
            }
        }
        let passed = trial.now - begin;
        assert!(held > long && held * AWAY <= passed + long * AWAY, "{held:?} of {passed:?}");
    }

    #[test]
    fn without_another_thread_it_stays() {
        let mut trial = Trial::new(false);
        assert!((0..10_000).all(|_| !trial.moves(QUICK)));
    }

    #[test]
    fn a_task_goes_to_the_links_thread_and_back_and_ends() {
        let link = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let host = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (said, seen) = mpsc::channel();
        let mut was_there = false;
        let task = poll_fn(move |context| {
            let is_there = thread::current().name() == Some("link");
            if was_there {
                said.send(is_there).unwrap();
                return Poll::Ready(());
            }
            if is_there {
                was_there = true;
                thread::sleep(LONG);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let (over, is_over) = tokio::sync::oneshot::channel::<()>();
        let handle = link.handle().clone();
        let thread = thread::Builder::new().name("link".into()).spawn(move || link.block_on(is_over));
        host.block_on(async { tokio::spawn(run(task, handle)).await }).unwrap();
        over.send(()).unwrap();
        thread.unwrap().join().unwrap().unwrap();
        assert_eq!(seen.recv(), Ok(false), "it went on on the link's thread");
    }
}
