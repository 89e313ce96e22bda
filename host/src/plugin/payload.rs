//! Payloads of what a plugin publishes, many in one piece of memory. Pure.
//!
//! A payload comes out of the guest in memory of its own, is sent by another thread, and would be
//! freed there: for small messages that costs more than all the rest. So small ones are put
//! together, and the thread that allocates is mostly the one that frees.

use bytes::{Bytes, BytesMut};

use crate::message::Qos;

/// The pieces that are being filled. Messages of one QoS leave in order, so a piece is freed when
/// about all in it have left; both in one would let a QoS 1 message that waits keep many others'.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    at_most_once: BytesMut,
    at_least_once: BytesMut,
}

/// Bytes of a piece. One is kept at most for the sake of a message that stays long.
const PIECE: usize = 8 * 1024;

/// Larger ones keep the memory they have.
const SMALL: usize = 1024;

impl Payloads {
    pub(super) fn pack(&mut self, payload: Vec<u8>, qos: Qos) -> Bytes {
        if payload.len() > SMALL {
            return payload.into();
        }
        let piece = match qos {
            Qos::AtMostOnce => &mut self.at_most_once,
            Qos::AtLeastOnce => &mut self.at_least_once,
        };
        if piece.capacity() - piece.len() < payload.len() {
            *piece = BytesMut::with_capacity(PIECE);
        }
        piece.extend_from_slice(&payload);
        piece.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_payloads_share_memory_with_their_kind() {
        let mut payloads = Payloads::default();
        let mut packed = |text: &str, qos| payloads.pack(text.as_bytes().to_vec(), qos);
        let (one, two, other) =
            (packed("one", Qos::AtLeastOnce), packed("two", Qos::AtLeastOnce), packed("other", Qos::AtMostOnce));
        assert_eq!((&one[..], &two[..], &other[..]), (&b"one"[..], &b"two"[..], &b"other"[..]));
        assert_eq!(two.as_ptr() as usize - one.as_ptr() as usize, 3);
        assert_eq!(packed("", Qos::AtMostOnce), "");
        for number in 0..100_u8 {
            assert_eq!(payloads.pack(vec![number; 1000], Qos::AtLeastOnce), vec![number; 1000]);
        }
        let large = vec![7; SMALL + 1];
        let at = large.as_ptr();
        assert_eq!(payloads.pack(large, Qos::AtLeastOnce).as_ptr(), at, "not copied");
    }
}
