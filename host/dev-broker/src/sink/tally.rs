//! What a sink has counted, and who waits for it.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// The highest number that is told from others: a bit each, 16 MiB at most.
const HIGHEST: u32 = 1 << 27;

/// What a sink has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// PUBLISH packets, repeated ones and those without a number included.
    pub messages: u64,
    /// Different numbers at the beginning of payloads.
    pub numbers: u32,
    /// When the first of these came.
    pub first: Option<Instant>,
    /// When the last of these came, as far as it was new.
    pub last: Option<Instant>,
}

/// The count of all connections together.
#[derive(Debug, Default)]
pub(super) struct Tallying {
    counted: Mutex<Counted>,
}

/// What is counted, to be changed while it is locked.
#[derive(Debug, Default)]
pub(super) struct Counted {
    tally: Tally,
    /// A bit for each number that was seen.
    seen: Vec<u64>,
    awaited: Vec<(u32, oneshot::Sender<Tally>)>,
}

impl Tallying {
    /// Counts what one read has brought; all of it came now.
    pub(super) fn count<R>(&self, count: impl FnOnce(&mut Counted) -> R) -> R {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = counted.tally.numbers;
        let result = count(&mut counted);
        if counted.tally.numbers > before {
            let now = Instant::now();
            counted.tally.first.get_or_insert(now);
            counted.tally.last = Some(now);
            counted.tell();
        }
        result
    }

    pub(super) fn read(&self) -> Tally {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).tally
    }

    pub(super) fn reset(&self) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.tally = Tally::default();
        counted.seen.fill(0);
    }

    pub(super) async fn wait_for(&self, numbers: u32) -> Tally {
        let (sender, reached) = oneshot::channel();
        {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            counted.awaited.push((numbers, sender));
            counted.tell();
        }
        // The sender stays in the list until then.
        reached.await.unwrap_or_default()
    }
}

impl Counted {
    /// A PUBLISH with this payload.
    pub(super) fn message(&mut self, payload: &[u8]) {
        self.tally.messages += 1;
        let Some((number, _)) = payload.split_first_chunk() else { return };
        let number = u32::from_be_bytes(*number);
        if number >= HIGHEST {
            return;
        }
        let (word, bit) = ((number / u64::BITS) as usize, 1 << (number % u64::BITS));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        if let Some(word) = self.seen.get_mut(word)
            && *word & bit == 0
        {
            *word |= bit;
            self.tally.numbers += 1;
        }
    }

    fn tell(&mut self) {
        let tally = self.tally;
        if self.awaited.iter().all(|(numbers, _)| *numbers > tally.numbers) {
            return;
        }
        for (numbers, sender) in mem::take(&mut self.awaited) {
            if numbers <= tally.numbers {
                // Whoever waited may have given up.
                let _ = sender.send(tally);
            } else {
                self.awaited.push((numbers, sender));
            }
        }
    }
}
