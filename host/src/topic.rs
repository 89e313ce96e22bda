//! Topic names and topic filters (MQTT 5.0, section 4.7; the same rules hold at 3.1.1).
//!
//! Text becomes a [`TopicName`] or a [`TopicFilter`] once, where it enters the
//! host; behind that nobody looks at raw strings again.

use std::fmt;

use bytestring::ByteString;

use crate::text::{self, Disallowed, TextError};

/// The deepest filter taken; the router walks filters level by level. MQTT sets no
/// limit, AWS IoT Core allows 8 levels.
const MAX_FILTER_LEVELS: usize = 256;

/// A topic a message is published to: no wildcards.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// A topic filter to subscribe or grant with: `+` is one level, a final `#` any number.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter {
    text: ByteString,
    /// Where the filter itself begins: behind `$share/GROUP/`, else 0.
    start: usize,
}

/// Which rule a topic or a filter breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Section 4.7.3: at least one character.
    #[error("it is empty")]
    Empty,
    /// Section 1.5.4.
    #[error("it has {0} bytes, MQTT allows 65535")]
    TooLong(usize),
    /// Section 1.5.4.
    #[error("it contains {0}")]
    Disallowed(Disallowed),
    /// Section 4.7.1.
    #[error("`{0}` is a wildcard; a message is published to one topic")]
    Wildcard(char),
    /// Section 4.7.1.2.
    #[error("`#` must be the last level and stand alone in it")]
    MisplacedHash,
    /// Section 4.7.1.3.
    #[error("`+` must stand alone in its level")]
    MisplacedPlus,
    /// This host's own limit.
    #[error("it has more than {MAX_FILTER_LEVELS} levels")]
    TooDeep,
    /// Section 4.8.2.
    #[error("a shared subscription is spelled $share/GROUP/FILTER, with no wildcard in GROUP")]
    Share,
}

impl TopicName {
    /// Checks the text against the rules for topic names: one to publish to.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_text(&text)?;
        Self::without_wildcards(text)
    }

    /// The same where somebody else has published to it: any text is taken that MQTT can carry.
    pub fn arrived(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        text::check_arrived(&text)?;
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        Self::without_wildcards(text)
    }

    /// No broker ends the connection over its characters.
    pub fn may_be_sent(&self) -> bool {
        text::check(&self.0).is_ok()
    }

    fn without_wildcards(text: ByteString) -> Result<Self, TopicError> {
        match text.chars().find(|c| matches!(c, '+' | '#')) {
            Some(wildcard) => Err(TopicError::Wildcard(wildcard)),
            None => Ok(Self(text)),
        }
    }

    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The topic's bytes, shared rather than copied.
    pub fn as_bytes(&self) -> &bytes::Bytes {
        self.0.as_bytes()
    }

    /// The same in memory that `own` gives.
    pub(crate) fn moved(&self, own: &mut impl FnMut(&[u8]) -> bytes::Bytes) -> Self {
        Self(crate::message::moved(&self.0, own))
    }

    /// Its levels, in order.
    pub fn levels(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.split('/')
    }
}

impl TopicFilter {
    /// It is one of `$share/GROUP/…`.
    pub fn is_shared(&self) -> bool {
        self.start > 0
    }

    /// The group of a shared subscription.
    pub fn group(&self) -> Option<&str> {
        self.text.get("$share/".len()..self.start.checked_sub(1)?)
    }

    /// It matches more than one topic.
    pub fn has_wildcards(&self) -> bool {
        self.levels().any(|level| matches!(level, "+" | "#"))
    }

    /// Checks the text against the rules for topic filters.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_text(&text)?;
        let start = match text.strip_prefix("$share/") {
            None => 0,
            Some(rest) => {
                let (group, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
                if group.is_empty() || group.contains(['+', '#']) || filter.is_empty() {
                    return Err(TopicError::Share);
                }
                text.len() - filter.len()
            }
        };
        let filter = Self { text, start };
        let mut levels = filter.levels().peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(TopicError::MisplacedHash);
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::MisplacedPlus);
            }
        }
        drop(levels);
        if filter.levels().nth(MAX_FILTER_LEVELS).is_some() {
            return Err(TopicError::TooDeep);
        }
        Ok(filter)
    }

    /// The filter as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its levels, in order, without `$share/GROUP`.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.text.get(self.start..).unwrap_or_default().split('/')
    }

    /// The topic is one the filter asks for. A wildcard in the first level does not
    /// match topics that begin with `$` (section 4.7.2).
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.as_str().starts_with('$') && self.begins_with_wildcard() {
            return false;
        }
        let mut topic = topic.levels();
        for level in self.levels() {
            match (level, topic.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (literal, Some(level)) if literal == level => {}
                _ => return false,
            }
        }
        topic.next().is_none()
    }

    /// Every topic the other filter matches is one this filter matches.
    pub fn contains(&self, other: &Self) -> bool {
        let dollar = other.levels().next().is_some_and(|level| level.starts_with('$'));
        if dollar && self.begins_with_wildcard() {
            return false;
        }
        let mut others = other.levels();
        for level in self.levels() {
            match (level, others.next()) {
                ("#", _) => return true,
                ("+", Some(other)) if other != "#" => {}
                (literal, Some(other)) if literal == other => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }

    /// Its first level is `+` or `#`.
    pub fn begins_with_wildcard(&self) -> bool {
        matches!(self.levels().next(), Some("+" | "#"))
    }
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    Ok(text::check(text)?)
}

impl From<TextError> for TopicError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::TooLong(bytes) => Self::TooLong(bytes),
            TextError::Disallowed(character) => Self::Disallowed(character),
        }
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    #[test]
    fn names_have_no_wildcards_and_filters_have_them_in_their_places() {
        assert_eq!(TopicName::parse(""), Err(TopicError::Empty));
        assert_eq!(TopicName::parse("a/+"), Err(TopicError::Wildcard('+')));
        for bad in ["a\0b", "a\u{1b}b", "a\u{ffff}"] {
            assert!(matches!(TopicName::parse(bad), Err(TopicError::Disallowed(_))), "{bad:?}");
            assert!(matches!(TopicFilter::parse(bad), Err(TopicError::Disallowed(_))), "{bad:?}");
        }
        assert_eq!(TopicName::parse("x".repeat(65_536)), Err(TopicError::TooLong(65_536)));
        assert_eq!(TopicFilter::parse("a/#/b"), Err(TopicError::MisplacedHash));
        assert_eq!(TopicFilter::parse("a#"), Err(TopicError::MisplacedHash));
        assert_eq!(TopicFilter::parse("a/b+"), Err(TopicError::MisplacedPlus));
        assert_eq!(TopicFilter::parse("/".repeat(256)), Err(TopicError::TooDeep));
        assert_eq!(TopicFilter::parse("$share/g"), Err(TopicError::Share));
        assert_eq!(TopicFilter::parse("$share/+/a"), Err(TopicError::Share));
        for good in ["/", "#", "+", "a//b", "+/+/#", "$share/g/a/#", "$SYS/#"] {
            assert!(TopicFilter::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_arrives_may_be_what_is_not_sent() {
        for odd in ["a\u{1b}b", "a\u{ffff}"] {
            assert_eq!(TopicName::arrived(odd).map(|topic| topic.may_be_sent()), Ok(false), "{odd:?}");
        }
        for bad in ["", "a\0b", "a/#", "+"] {
            assert!(TopicName::arrived(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_examples_of_the_specification_match_as_it_says() {
        for (text, matching, other) in [
            (
                "sport/tennis/player1/#",
                vec!["sport/tennis/player1", "sport/tennis/player1/ranking"],
                vec!["sport/tennis"],
            ),
            ("sport/#", vec!["sport"], vec!["sports"]),
            ("sport/tennis/+", vec!["sport/tennis/player1"], vec!["sport/tennis/player1/ranking", "sport/tennis"]),
            ("+/+", vec!["/finance"], vec!["finance"]),
            ("/+", vec!["/finance"], vec!["finance"]),
            ("+", vec!["finance"], vec!["/finance", "$SYS"]),
            ("#", vec!["a/b"], vec!["$SYS/monitor"]),
            ("$SYS/#", vec!["$SYS/monitor"], vec![]),
            ("$share/group/a/+", vec!["a/b"], vec!["a", "$share/group/a/b"]),
        ] {
            for topic in matching {
                assert!(filter(text).matches(&name(topic)), "{text} {topic}");
            }
            for topic in other {
                assert!(!filter(text).matches(&name(topic)), "{text} {topic}");
            }
        }
    }

    #[test]
    fn a_filter_contains_what_lies_within_it() {
        for (outer, inner) in [("#", "a/+/#"), ("a/#", "a"), ("a/+", "a/b"), ("a/+/c", "a/+/c"), ("$SYS/#", "$SYS/+")] {
            assert!(filter(outer).contains(&filter(inner)), "{outer} {inner}");
        }
        for (outer, inner) in [("a/+", "a/#"), ("a/b", "a/+"), ("+", "#"), ("#", "$SYS/a"), ("a/+", "a/b/c")] {
            assert!(!filter(outer).contains(&filter(inner)), "{outer} {inner}");
        }
    }

    proptest! {
        #[test]
        fn what_a_contained_filter_matches_its_container_matches(
            outer in "([ab+]/){0,3}([ab+#])", inner in "([ab+]/){0,3}([ab+#])", topic in "([ab]/){0,3}[ab]",
        ) {
            let (outer, inner, topic) = (filter(&outer), filter(&inner), name(&topic));
            if outer.contains(&inner) && inner.matches(&topic) {
                prop_assert!(outer.matches(&topic));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = TopicName::parse(text.clone());
            let _ = TopicFilter::parse(text);
        }
    }
}
