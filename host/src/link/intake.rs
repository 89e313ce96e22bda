//! Whether more is read from the broker. Pure.
//!
//! What was read and is neither in a mailbox nor in an inbox is bounded by bytes. Above that nothing more
//! is read: TCP pushes back, and the broker keeps what it has. All the same a little is read
//! now and then, so that the end of the connection is noticed, and an answer somebody waits
//! for gets through.

use std::time::{Duration, Instant};

/// Bytes of messages that were read and wait for room, before no more is read.
pub(super) const MOST: usize = 4 * 1024 * 1024;

/// With less than that, reading goes on.
const ENOUGH: usize = MOST / 2;

/// Read at a time although too much waits.
const LITTLE: usize = 64 * 1024;

/// So often at most, and as much as that waits then beyond `MOST`.
const LOOKS: u32 = 64;

/// How often, where there is no keep-alive.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Intake {
    /// Between two looks.
    pause: Duration,
    stopped: Option<Stopped>,
}

#[derive(Debug)]
struct Stopped {
    since: Instant,
    look_at: Instant,
    looks: u32,
    /// Bytes that may be read all the same.
    allowance: usize,
}

impl Intake {
    pub(super) fn new(keep_alive: Duration) -> Self {
        Self { pause: if keep_alive.is_zero() { PAUSE } else { keep_alive / 2 }, stopped: None }
    }

    /// So many bytes wait. `Some`: reading goes on, after so long.
    pub(super) fn update(&mut self, waiting: usize, now: impl Fn() -> Instant) -> Option<Duration> {
        match &self.stopped {
            None if waiting > MOST => {
                let since = now();
                self.stopped = Some(Stopped { since, look_at: since + self.pause, looks: 0, allowance: 0 });
                None
            }
            Some(stopped) if waiting <= ENOUGH => {
                let time = now().saturating_duration_since(stopped.since);
                self.stopped = None;
                Some(time)
            }
            _ => None,
        }
    }

    /// What the broker says is read as it comes.
    pub(super) fn is_reading(&self) -> bool {
        self.stopped.is_none()
    }

    /// The next bytes may be read.
    pub(super) fn may_read(&self) -> bool {
        self.stopped.as_ref().is_none_or(|stopped| stopped.allowance > 0)
    }

    /// So many bytes were.
    pub(super) fn has_read(&mut self, bytes: usize) {
        if let Some(stopped) = &mut self.stopped {
            stopped.allowance = stopped.allowance.saturating_sub(bytes);
        }
    }

    /// When to look, if ever.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stopped.as_ref().filter(|stopped| stopped.looks < LOOKS).map(|stopped| stopped.look_at)
    }

    /// `Some`: it is time to read a little, the first time after so long.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        let stopped = self.stopped.as_mut().filter(|stopped| stopped.looks < LOOKS && stopped.look_at <= now)?;
        stopped.looks += 1;
        stopped.look_at = now + self.pause;
        stopped.allowance = LITTLE;
        (stopped.looks == 1).then(|| now.saturating_duration_since(stopped.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn above_the_bound_nothing_is_read_until_half_of_it_is_gone() {
        let start = Instant::now();
        let mut intake = Intake::new(60 * SECOND);
        assert_eq!(intake.update(MOST, || start), None);
        assert!(intake.may_read() && intake.deadline().is_none());
        assert_eq!(intake.update(MOST + 1, || start), None);
        assert!(!intake.may_read() && !intake.is_reading());
        assert_eq!(intake.update(ENOUGH + 1, || start + SECOND), None);
        assert!(!intake.may_read());
        assert_eq!(intake.update(ENOUGH, || start + 2 * SECOND), Some(2 * SECOND));
        assert!(intake.may_read() && intake.is_reading());
    }

    #[test]
    fn a_little_is_read_each_half_keep_alive_and_not_for_ever() {
        let mut now = Instant::now();
        let mut intake = Intake::new(60 * SECOND);
        intake.update(usize::MAX, || now);
        let (mut read, mut told) = (0, 0);
        while let Some(at) = intake.deadline() {
            assert_eq!(at, now + 30 * SECOND);
            assert_eq!(intake.look(at - SECOND), None);
            told += usize::from(intake.look(at).is_some());
            assert!(intake.may_read() && !intake.is_reading());
            while intake.may_read() {
                intake.has_read(16 * 1024);
                read += 16 * 1024;
            }
            now = at;
        }
        assert_eq!((read, told), (MOST, 1));
        assert_eq!(intake.look(now + 1000 * SECOND), None);
    }
}
