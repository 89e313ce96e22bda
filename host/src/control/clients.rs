//! Who is connected to the socket, and who has to go when there are too many.
//!
//! A client that has sent no whole request is idle: there is room for some, and the one that has been
//! for longest makes room for the next. One that has is served, whatever the idle ones do: there
//! are places for each kind of request, so that neither those that wait for a plugin nor those that
//! follow the log keep anybody from looking at the host.

use std::collections::BTreeMap;

/// Clients that have sent no whole request.
pub(super) const IDLE: usize = 32;

/// What a request keeps the host busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// To say how things are.
    Look,
    /// To change something, which may wait for a plugin.
    Act,
    /// To send the log until told otherwise.
    Follow,
}

impl Work {
    const ALL: usize = 3;

    /// Requests of this kind at a time.
    pub(super) const fn places(self) -> usize {
        match self {
            Self::Look => 64,
            Self::Act => 32,
            Self::Follow => 16,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Look => 0,
            Self::Act => 1,
            Self::Follow => 2,
        }
    }
}

/// All connections. `E` is what ends one.
#[derive(Debug)]
pub(super) struct Clients<E> {
    /// By the order in which they became so.
    idle: BTreeMap<u64, E>,
    next: u64,
    served: [usize; Work::ALL],
}

impl<E> Clients<E> {
    pub(super) fn new() -> Self {
        Self { idle: BTreeMap::new(), next: 0, served: [0; Work::ALL] }
    }

    /// One has come, or was answered. Its number, and who has to go for it.
    pub(super) fn rests(&mut self, end: E) -> (u64, Option<E>) {
        let number = self.next;
        self.next += 1;
        self.idle.insert(number, end);
        let too_many = self.idle.len() > IDLE;
        let oldest = if too_many { self.idle.pop_first() } else { None };
        (number, oldest.map(|(_, end)| end))
    }

    /// The oldest one has to go: there is no room for another.
    pub(super) fn oldest(&mut self) -> Option<E> {
        self.idle.pop_first().map(|(_, end)| end)
    }

    /// It is idle no more, or gone.
    pub(super) fn stirs(&mut self, number: u64) {
        self.idle.remove(&number);
    }

    /// A whole request has come. False: there is no place for it.
    pub(super) fn begins(&mut self, work: Work) -> bool {
        let Some(served) = self.served.get_mut(work.index()).filter(|served| **served < work.places()) else {
            return false;
        };
        *served += 1;
        true
    }

    /// A request that had a place has been dealt with.
    pub(super) fn ends(&mut self, work: Work) {
        if let Some(served) = self.served.get_mut(work.index()) {
            *served = served.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_idle_client_makes_room() {
        let mut clients = Clients::new();
        let numbers: Vec<u64> = (0..IDLE).map(|client| clients.rests(client).0).collect();
        assert_eq!(clients.rests(100).1, Some(0));
        // The second has spoken: it is the third's turn.
        clients.stirs(numbers[1]);
        assert_eq!(clients.rests(101).1, None);
        assert_eq!(clients.rests(102).1, Some(2));
        // One that was answered is the youngest.
        clients.stirs(numbers[3]);
        assert_eq!(clients.rests(3).1, None);
        assert_eq!(clients.rests(103).1, Some(4));
        assert_eq!(clients.oldest(), Some(5));
    }

    #[test]
    fn whoever_has_a_whole_request_has_a_place_whatever_others_do() {
        let mut clients = Clients::new();
        for client in 0..1000 {
            clients.rests(client);
        }
        for work in [Work::Act, Work::Follow] {
            for _ in 0..work.places() {
                assert!(clients.begins(work));
            }
            assert!(!clients.begins(work), "{work:?}: no more than there are places for");
        }
        assert!(clients.begins(Work::Look));
        clients.ends(Work::Act);
        assert!(clients.begins(Work::Act));
        assert!(!clients.begins(Work::Act));
        assert_eq!(clients.idle.len(), IDLE);
    }
}
