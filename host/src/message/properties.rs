//! What MQTT 5 adds to a message (MQTT 5.0, section 3.3.2.3). Pure.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;

use crate::topic::TopicName;

/// The MQTT 5 properties of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// A MIME type, usually.
    pub content_type: Option<ByteString>,
    /// Where an answer is expected.
    pub response_topic: Option<TopicName>,
    /// What the answer has to carry.
    pub correlation_data: Option<Bytes>,
    /// Seconds until the message is worthless.
    pub message_expiry: Option<u32>,
    /// The payload is declared to be UTF-8.
    pub utf8: bool,
    /// The application's own pairs, in order.
    pub user_properties: UserProperties,
}

/// Pairs of texts, kept as they are on the wire: a pair costs its bytes and five more, where two
/// strings would cost some fifty beside theirs, and there may be thousands in a packet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserProperties {
    /// Of each its identifier, then name and value, each behind its length.
    wire: Vec<u8>,
    count: usize,
}

/// User properties of a message, in either direction. No broker says how many it takes; this is far
/// more than any protocol on top of MQTT has, and what a message may hold beside its payload.
pub const MOST_PAIRS: usize = 1024;

/// Their bytes, as they are on the wire.
pub const MOST_PAIR_BYTES: usize = 64 * 1024;

/// The longest text MQTT can carry: its length is a 16-bit number (section 1.5.4).
pub const LONGEST_TEXT: usize = 65_535;

/// The identifier of a user property (table 2-4).
pub const USER_PROPERTY: u8 = 0x26;

/// Beside its texts: its identifier and two lengths.
const BESIDE_TEXTS: usize = 1 + 2 + 2;

/// User properties beyond what a message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many.
    #[error("a message has at most {MOST_PAIRS} user properties")]
    Pairs,
    /// Too long together.
    #[error("the user properties of a message have at most {MOST_PAIR_BYTES} bytes, five more for each counted")]
    Bytes,
    /// One text is too long.
    #[error("a user property's text has at most {LONGEST_TEXT} bytes")]
    Text,
}

impl Properties {
    /// As messages have them: in memory that is as large as needed.
    pub fn share(mut self) -> Arc<Self> {
        self.user_properties.wire.shrink_to_fit();
        Arc::new(self)
    }

    /// What they have that may share memory with others.
    pub(super) fn texts(&self) -> [&[u8]; 3] {
        [
            self.content_type.as_ref().map_or(&[], |text| text.as_bytes()),
            self.response_topic.as_ref().map_or(&[], |topic| topic.as_bytes()),
            self.correlation_data.as_deref().unwrap_or_default(),
        ]
    }

    /// The same, each of those in memory that `own` gives.
    pub(super) fn moved(&self, own: &mut impl FnMut(&[u8]) -> Bytes) -> Self {
        Self {
            content_type: self.content_type.as_ref().map(|text| moved(text, own)),
            response_topic: self.response_topic.as_ref().map(|topic| topic.moved(own)),
            correlation_data: self.correlation_data.as_deref().map(own),
            ..self.clone()
        }
    }

    /// Bytes they take in memory.
    pub(super) fn size(&self) -> usize {
        /// Each piece of memory has a header of the allocator and two counters.
        const PIECE: usize = 32;
        let piece = |bytes: usize| if bytes > 0 { bytes + PIECE } else { 0 };
        size_of::<Self>()
            + PIECE
            + piece(self.content_type.as_ref().map_or(0, |text| text.len()))
            + piece(self.response_topic.as_ref().map_or(0, |topic| topic.as_str().len()))
            + piece(self.correlation_data.as_ref().map_or(0, Bytes::len))
            + piece(self.user_properties.wire.len())
    }

    /// Bytes they have in a packet.
    pub(crate) fn wire_length(&self) -> usize {
        let text = |length: usize| 1 + 2 + length;
        usize::from(self.utf8) * 2
            + self.message_expiry.map_or(0, |_| 1 + 4)
            + self.content_type.as_ref().map_or(0, |it| text(it.len()))
            + self.response_topic.as_ref().map_or(0, |it| text(it.as_str().len()))
            + self.correlation_data.as_ref().map_or(0, |it| text(it.len()))
            + self.user_properties.wire.len()
    }
}

/// A text in memory that `own` gives.
pub(crate) fn moved(text: &ByteString, own: &mut impl FnMut(&[u8]) -> Bytes) -> ByteString {
    // The bytes are those of a text, so it is never the other one.
    ByteString::try_from(own(text.as_bytes())).unwrap_or_else(|_| text.clone())
}

impl UserProperties {
    /// One more, behind the others.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), TooMuch> {
        if self.count >= MOST_PAIRS {
            return Err(TooMuch::Pairs);
        }
        if self.wire.len() + BESIDE_TEXTS + name.len() + value.len() > MOST_PAIR_BYTES {
            return Err(TooMuch::Bytes);
        }
        self.push_any(name, value)
    }

    /// The same, however many there are: they were taken by an earlier version, and are on disk.
    pub(crate) fn push_any(&mut self, name: &str, value: &str) -> Result<(), TooMuch> {
        let length = |text: &str| u16::try_from(text.len()).map_err(|_| TooMuch::Text);
        let (name_length, value_length) = (length(name)?, length(value)?);
        self.wire.push(USER_PROPERTY);
        for (length, text) in [(name_length, name), (value_length, value)] {
            self.wire.extend_from_slice(&length.to_be_bytes());
            self.wire.extend_from_slice(text.as_bytes());
        }
        self.count += 1;
        Ok(())
    }

    /// As they are in a packet.
    pub(crate) fn as_wire(&self) -> &[u8] {
        &self.wire
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values, in order.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs { rest: &self.wire, left: self.count }
    }
}

/// Names and values, in order.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Pairs<'a> {
    fn text(&mut self) -> Option<&'a str> {
        let (length, rest) = self.rest.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.get(1..)?;
        self.left = self.left.saturating_sub(1);
        Some((self.text()?, self.text()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

impl<'a> IntoIterator for &'a UserProperties {
    type Item = (&'a str, &'a str);
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> TryFrom<&[(N, V)]> for UserProperties {
    type Error = TooMuch;

    fn try_from(pairs: &[(N, V)]) -> Result<Self, TooMuch> {
        let mut all = Self::default();
        pairs.iter().try_for_each(|(name, value)| all.push(name.as_ref(), value.as_ref()))?;
        Ok(all)
    }
}

impl fmt::Debug for UserProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_out_as_they_went_in() {
        let pairs = [("name", "value"), ("", ""), ("name", "ä"), ("x", "")];
        let kept = UserProperties::try_from(&pairs[..]).unwrap();
        assert_eq!(kept.iter().collect::<Vec<_>>(), pairs);
        assert_eq!((kept.len(), kept.iter().len(), kept.is_empty()), (4, 4, false));
        assert_eq!(UserProperties::default().iter().next(), None);
        assert_eq!(kept.as_wire()[..5], [USER_PROPERTY, 0, 4, b'n', b'a']);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut kept = UserProperties::default();
        for _ in 0..MOST_PAIRS {
            kept.push("", "").unwrap();
        }
        assert_eq!(kept.push("", ""), Err(TooMuch::Pairs));
        assert_eq!(kept.as_wire().len(), 5 * MOST_PAIRS);
        kept.push_any("from", "disk").unwrap();
        assert_eq!(kept.len(), MOST_PAIRS + 1);

        let mut kept = UserProperties::default();
        let half = "x".repeat(MOST_PAIR_BYTES / 2 - BESIDE_TEXTS);
        kept.push(&half, "").unwrap();
        kept.push("", &half).unwrap();
        assert_eq!(kept.push("", ""), Err(TooMuch::Bytes));
        assert_eq!(kept.push_any(&"x".repeat(LONGEST_TEXT + 1), ""), Err(TooMuch::Text));
    }

    /// What independent testing did: 20,000 pairs of nothing took a megabyte and counted for nothing.
    #[test]
    fn pairs_of_nothing_cost_what_they_take() {
        let mut properties = Properties::default();
        let without = properties.size();
        for _ in 0..MOST_PAIRS {
            properties.user_properties.push("", "").unwrap();
        }
        let properties = properties.share();
        let taken = properties.user_properties.wire.capacity();
        assert!((taken..2 * taken).contains(&(properties.size() - without)), "{taken}");
    }
}
