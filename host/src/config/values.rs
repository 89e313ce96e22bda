//! Times (`"10s"`), sizes (`"16MiB"`) and rates (`"2/s"`) as they are written.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use crate::rate::Rate;

/// A time with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(Duration);

/// A size with its unit; a bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes(usize);

/// A size, `"unlimited"` or -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Bytes(Bytes),
    Unlimited,
}

/// A time, or `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MaxAge {
    Unlimited,
    After(Span),
}

/// A text that does not show up in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SecretText(pub(super) String);

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RateValue(pub(super) Rate);

impl Span {
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(super) fn get(self) -> Duration {
        self.0
    }
}

impl Bytes {
    pub(super) const fn kib(kib: usize) -> Self {
        Self(kib * 1024)
    }

    pub(super) fn get(self) -> usize {
        self.0
    }
}

impl RateValue {
    pub(super) const UNLIMITED: Self = Self(Rate::UNLIMITED);

    pub(super) const fn per_second(times: u32) -> Self {
        Self(Rate::per_second(times))
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What is there instead may be as secret.
        String::deserialize(deserializer).map(Self).map_err(|_| de::Error::custom("expected a text in quotes"))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a time with its unit, like \"10s\", \"500ms\" or \"1h\"",
            text: span,
            number: |_| None,
        })
    }
}

impl<'de> Deserialize<'de> for MaxAge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a time with its unit, like \"10s\", \"500ms\" or \"1h\", or \"unlimited\"",
            text: |text| match text {
                "unlimited" => Some(Self::Unlimited),
                text => span(text).map(Self::After),
            },
            number: |_| None,
        })
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a size, like \"16MiB\" or \"128KiB\"",
            text: bytes,
            number: |number| usize::try_from(number).ok().map(Bytes),
        })
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a size, like \"16MiB\", or \"unlimited\"",
            text: |text| match text {
                "unlimited" | "-1" => Some(Limit::Unlimited),
                text => bytes(text).map(Limit::Bytes),
            },
            number: |number| match number {
                -1 => Some(Limit::Unlimited),
                number => usize::try_from(number).ok().map(|number| Limit::Bytes(Bytes(number))),
            },
        })
    }
}

impl<'de> Deserialize<'de> for RateValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a rate, like \"100/s\", \"30/m\" or \"unlimited\"",
            text: |text| text.parse().ok().map(RateValue),
            number: |_| None,
        })
    }
}

fn span(text: &str) -> Option<Span> {
    // A century, so that no clock runs over.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);
    humantime::parse_duration(text).ok().filter(|time| *time <= LONGEST).map(Span)
}

fn bytes(text: &str) -> Option<Bytes> {
    let size: bytesize::ByteSize = text.parse().ok()?;
    usize::try_from(size.as_u64()).ok().map(Bytes)
}

/// Reads a text or a number, and says what was expected when it is neither.
struct Reader<T> {
    expected: &'static str,
    text: fn(&str) -> Option<T>,
    number: fn(i64) -> Option<T>,
}

impl<T> Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.number)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}
