//! Messages that were sent and are not acknowledged. Pure.

use std::collections::VecDeque;

use super::{Entry, Seq};

/// By number, ascending. A broker acknowledges mostly in order, so what is sent is put in at the
/// back and what is acknowledged is at the front; what is taken out in between leaves its place.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    places: VecDeque<(Seq, Option<Entry>)>,
    len: usize,
}

impl InFlight {
    pub(super) fn insert(&mut self, seq: Seq, entry: Entry) {
        match self.places.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(at) => {
                if let Some((_, place)) = self.places.get_mut(at) {
                    self.len += usize::from(place.is_none());
                    *place = Some(entry);
                }
            }
            Err(at) => {
                self.places.insert(at, (seq, Some(entry)));
                self.len += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, seq: Seq) -> Option<Entry> {
        let at = self.find(seq)?;
        let entry = self.places.get_mut(at)?.1.take()?;
        self.len -= 1;
        while self.places.pop_front_if(|(_, entry)| entry.is_none()).is_some() {}
        while self.places.pop_back_if(|(_, entry)| entry.is_none()).is_some() {}
        Some(entry)
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.places.get(self.find(seq)?)?.1.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, &Entry)> {
        self.places.iter().filter_map(|(seq, entry)| Some((*seq, entry.as_ref()?)))
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<Seq> {
        self.places.back().map(|(seq, _)| *seq)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn find(&self, seq: Seq) -> Option<usize> {
        if self.places.front()?.0 == seq {
            return Some(0);
        }
        self.places.binary_search_by_key(&seq, |(seq, _)| *seq).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Age,
        message::{Message, Qos},
        outbox::Room,
        topic::TopicName,
    };

    fn entry(number: u32) -> Entry {
        let topic = TopicName::parse("t".to_owned()).unwrap();
        let message =
            Message { topic, payload: bytes::Bytes::new(), qos: Qos::AtLeastOnce, retain: false, properties: None };
        let share = Room::new(usize::MAX, std::sync::Arc::default()).share(usize::MAX, 0, 0);
        Entry { message, owner: 1, number, age: Age::new(), tracked: false, reservation: share.reserve(1).unwrap() }
    }

    proptest! {
        #[test]
        fn it_does_what_a_map_does(steps in proptest::collection::vec((0_u64..20, any::<bool>()), 0..100)) {
            let (mut in_flight, mut map) = (InFlight::default(), BTreeMap::new());
            for (number, (seq, inserts)) in (0..).zip(steps) {
                if inserts {
                    in_flight.insert(seq, entry(number));
                    map.insert(seq, number);
                } else {
                    prop_assert_eq!(in_flight.remove(seq).map(|entry| entry.number), map.remove(&seq));
                }
                prop_assert_eq!(in_flight.get(seq).map(|entry| entry.number), map.get(&seq).copied());
                let all: Vec<_> = in_flight.iter().map(|(seq, entry)| (seq, entry.number)).collect();
                prop_assert_eq!(all, map.iter().map(|(seq, number)| (*seq, *number)).collect::<Vec<_>>());
                prop_assert_eq!(in_flight.last(), map.keys().next_back().copied());
                prop_assert_eq!((in_flight.len(), in_flight.is_empty()), (map.len(), map.is_empty()));
            }
        }
    }
}
