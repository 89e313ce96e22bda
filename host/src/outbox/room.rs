//! Room in the outbox: counters that whoever publishes asks first, on its own thread,
//! without asking the link.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Instant,
};

use tokio::{sync::Notify, time::timeout_at};

/// Bytes that may wait, all plugins together.
#[derive(Debug)]
pub struct Room {
    used: AtomicUsize,
    limit: usize,
    /// Nothing can be stored at the moment; the journal says so.
    disk_full: Arc<AtomicBool>,
    /// How many wait for room; nobody is woken while there is none.
    waiting: AtomicUsize,
    freed: Notify,
}

/// One plugin's part of the room.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    used: AtomicUsize,
    messages: AtomicU32,
    limit: AtomicUsize,
    /// Messages that found no room, or were taken and will not be sent.
    lost: AtomicU64,
}

/// Room taken by one message; dropping it gives the room back.
#[derive(Debug)]
pub struct Reservation {
    /// None: kept.
    share: Option<Arc<Share>>,
    bytes: usize,
}

/// There is no room for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Room {
    /// `limit` in bytes; `usize::MAX` is unlimited. While `disk_full` is set there is no room at all.
    pub fn new(limit: usize, disk_full: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
            disk_full,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// A part of the room, at most `limit` bytes. `messages` with `bytes` are in it already:
    /// an earlier run left them.
    pub fn share(self: &Arc<Self>, limit: usize, messages: u32, bytes: usize) -> Arc<Share> {
        self.used.fetch_add(bytes, SeqCst);
        Arc::new(Share {
            room: self.clone(),
            used: AtomicUsize::new(bytes),
            messages: AtomicU32::new(messages),
            limit: AtomicUsize::new(limit),
            lost: AtomicU64::new(0),
        })
    }
}

impl Share {
    /// So many of its messages will not be sent.
    pub fn lost(&self, messages: u64) {
        self.lost.fetch_add(messages, Relaxed);
    }

    /// How many that were.
    pub fn lost_so_far(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Takes room for a message of this cost.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, Full> {
        if self.room.disk_full.load(SeqCst) {
            return Err(Full);
        }
        take(&self.used, bytes, self.limit.load(SeqCst))?;
        if let Err(full) = take(&self.room.used, bytes, self.room.limit) {
            self.used.fetch_sub(bytes, SeqCst);
            return Err(full);
        }
        self.messages.fetch_add(1, SeqCst);
        Ok(Reservation { share: Some(self.clone()), bytes })
    }

    /// The same, and waits until then for others to leave.
    pub async fn reserve_until(self: &Arc<Self>, bytes: usize, until: Instant) -> Result<Reservation, Full> {
        if !self.can_hold(bytes) || self.room.disk_full.load(SeqCst) {
            return Err(Full);
        }
        let _waiting = Waiting::new(&self.room);
        loop {
            let mut freed = std::pin::pin!(self.room.freed.notified());
            freed.as_mut().enable();
            if let Ok(reservation) = self.reserve(bytes) {
                return Ok(reservation);
            }
            if timeout_at(until.into(), freed).await.is_err() {
                return self.reserve(bytes);
            }
        }
    }

    /// Whether there can be room for so much, once others have left.
    pub fn can_hold(&self, bytes: usize) -> bool {
        bytes <= self.limit.load(SeqCst).min(self.room.limit)
    }

    /// The reservation of a message that is counted already: it comes back from disk.
    pub fn adopt(self: &Arc<Self>, bytes: usize) -> Reservation {
        Reservation { share: Some(self.clone()), bytes }
    }

    /// The reservation of a message that is not counted and can't be refused: it comes back from
    /// where no room was kept for it.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.used.fetch_add(bytes, SeqCst);
        self.room.used.fetch_add(bytes, SeqCst);
        self.messages.fetch_add(1, SeqCst);
        self.adopt(bytes)
    }

    /// Nothing can be written for now.
    pub fn disk_is_full(&self) -> bool {
        self.room.disk_full.load(SeqCst)
    }

    /// It may have so many bytes from now on.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, SeqCst);
    }

    /// Messages and bytes in use.
    pub fn used(&self) -> (u32, usize) {
        (self.messages.load(SeqCst), self.used.load(SeqCst))
    }
}

impl Reservation {
    /// The message leaves memory and stays on disk: it still counts.
    pub fn keep(mut self) {
        self.share = None;
    }
}

fn take(used: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), Full> {
    let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(SeqCst, SeqCst, within).map(drop).map_err(|_| Full)
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(Share { room, used, messages, .. }) = self.share.as_deref() else { return };
        used.fetch_sub(self.bytes, SeqCst);
        room.used.fetch_sub(self.bytes, SeqCst);
        messages.fetch_sub(1, SeqCst);
        if room.waiting.load(SeqCst) > 0 {
            room.freed.notify_waiters();
        }
    }
}

/// Somebody waits for room.
struct Waiting<'a>(&'a Room);

impl<'a> Waiting<'a> {
    fn new(room: &'a Room) -> Self {
        room.waiting.fetch_add(1, SeqCst);
        Self(room)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn room(limit: usize) -> Arc<Room> {
        Room::new(limit, Arc::default())
    }

    #[test]
    fn room_is_bounded_in_all_and_for_each_and_comes_back() {
        let room = room(100);
        let (one, two) = (room.share(60, 0, 0), room.share(usize::MAX, 0, 0));
        let first = one.reserve(60).unwrap();
        assert_eq!(one.reserve(1).unwrap_err(), Full);
        assert_eq!(two.reserve(41).unwrap_err(), Full);
        let second = two.reserve(40).unwrap();
        assert_eq!((one.used(), two.used()), ((1, 60), (1, 40)));
        drop((first, second));
        assert_eq!((one.used(), two.used()), ((0, 0), (0, 0)));
        assert!(two.reserve(100).is_ok());
        assert_eq!((one.can_hold(60), one.can_hold(61), two.can_hold(101)), (true, false, false));
    }

    #[test]
    fn what_an_earlier_run_left_counts_until_it_is_gone() {
        let room = room(100);
        let share = room.share(100, 2, 90);
        assert_eq!(share.reserve(20).unwrap_err(), Full);
        drop(share.adopt(45));
        assert_eq!(share.used(), (1, 45));
        share.reserve(20).unwrap().keep();
        assert_eq!(share.used(), (2, 65));
    }

    #[test]
    fn who_can_not_be_refused_is_counted_all_the_same() {
        let room = room(100);
        let share = room.share(100, 0, 0);
        let _held = share.reserve(80).unwrap();
        let admitted = share.admit(50);
        assert_eq!(share.used(), (2, 130));
        assert_eq!(share.reserve(1).unwrap_err(), Full);
        drop(admitted);
        assert_eq!(share.used(), (1, 80));
        assert!(share.reserve(20).is_ok(), "there is as much room as before");
    }

    #[test]
    fn a_full_disk_leaves_no_room() {
        let full = Arc::new(AtomicBool::new(true));
        let share = Room::new(100, full.clone()).share(100, 0, 0);
        assert_eq!(share.reserve(1).unwrap_err(), Full);
        full.store(false, SeqCst);
        assert!(share.reserve(1).is_ok());
    }

    #[tokio::test]
    async fn whoever_waits_gets_room_when_there_is_some_and_gives_up_in_time() {
        let share = room(100).share(100, 0, 0);
        let held = share.reserve(80).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(share.reserve_until(50, soon).await.unwrap_err(), Full);
        assert_eq!(share.reserve_until(101, Instant::now() + Duration::from_secs(60)).await.unwrap_err(), Full);
        let waiting = tokio::spawn({
            let share = share.clone();
            async move { share.reserve_until(50, Instant::now() + Duration::from_secs(60)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert!(waiting.await.unwrap());
    }
}
