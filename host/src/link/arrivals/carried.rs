//! Arrivals of earlier connections, by packet id and by token. Pure.

use rustc_hash::FxHashMap;

use super::{Arrived, Token};

#[derive(Debug, Default)]
pub(super) struct Carried {
    arrivals: FxHashMap<u16, Arrived>,
    packet_ids: FxHashMap<Token, u16>,
}

impl Carried {
    /// A later one under the same packet id takes the place of an earlier one.
    pub(super) fn extend(&mut self, arrivals: impl Iterator<Item = Arrived>) {
        for arrived in arrivals {
            self.packet_ids.insert(arrived.token, arrived.packet_id);
            if let Some(earlier) = self.arrivals.insert(arrived.packet_id, arrived) {
                self.packet_ids.remove(&earlier.token);
            }
        }
    }

    /// The one under this packet id, which names what arrives now.
    pub(super) fn take(&mut self, packet_id: u16) -> Option<Arrived> {
        let arrived = self.arrivals.remove(&packet_id)?;
        self.packet_ids.remove(&arrived.token);
        Some(arrived)
    }

    pub(super) fn get(&self, token: Token) -> Option<&Arrived> {
        self.arrivals.get(self.packet_ids.get(&token)?)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Arrived> {
        self.arrivals.get_mut(self.packet_ids.get(&token)?)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Arrived> {
        self.arrivals.values_mut()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
