//! Rates: `"100/s"`, `"2/s"`, `"30/m"`, `"unlimited"`.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Times a second; infinite: unlimited.
    per_second: f64,
}

/// The text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a rate: write \"100/s\", \"30/m\", \"10/h\" or \"unlimited\"")]
pub struct RateError(String);

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { per_second: f64::INFINITY };

    /// So many times a second.
    pub const fn per_second(times: u32) -> Self {
        Self { per_second: times as f64 }
    }

    /// There is none.
    pub fn is_unlimited(self) -> bool {
        self.per_second.is_infinite()
    }

    /// The time from one to the next.
    pub fn interval(self) -> Duration {
        if self.is_unlimited() { Duration::ZERO } else { Duration::from_secs_f64(1.0 / self.per_second) }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let error = || RateError(text.to_owned());
        let (times, unit) = text.split_once('/').ok_or_else(error)?;
        let times: f64 = times.trim().parse().map_err(|_| error())?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(error()),
        };
        // Slower than once in eleven days is a slip of the pen, and keeps intervals finite.
        let per_second = times / seconds;
        if !(1e-6..=1e9).contains(&per_second) {
            return Err(error());
        }
        Ok(Self { per_second })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() { f.write_str("unlimited") } else { write!(f, "{}/s", self.per_second) }
    }
}

/// Lets through at a rate, with a burst of one second's worth (at least one).
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// What is left, at `at`.
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: Self::burst(rate), at: now }
    }

    /// Takes one; or how long to wait for the next.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.rate.is_unlimited() {
            return Ok(());
        }
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate.per_second).min(Self::burst(self.rate));
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate.per_second))
        }
    }

    fn burst(rate: Rate) -> f64 {
        rate.per_second.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_nonsense_is_not() {
        assert_eq!("100/s".parse(), Ok(Rate::per_second(100)));
        assert_eq!("30/m".parse::<Rate>().unwrap().interval(), Duration::from_secs(2));
        assert!("unlimited".parse::<Rate>().unwrap().is_unlimited());
        for text in ["", "5", "x/s", "0/s", "-1/s", "1/d", "NaN/s", "inf/s", "1e-9/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate::per_second(10), start);
        assert!((0..10).all(|_| bucket.take(start).is_ok()));
        let wait = bucket.take(start).unwrap_err();
        assert!(wait <= Duration::from_millis(100) && wait > Duration::from_millis(99), "{wait:?}");
        assert!(bucket.take(start + Duration::from_millis(101)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(101)).is_err());
    }

    #[test]
    fn a_slow_rate_still_lets_one_through() {
        let start = Instant::now();
        let mut bucket = Bucket::new("6/m".parse().unwrap(), start);
        assert!(bucket.take(start).is_ok());
        assert!(bucket.take(start + Duration::from_secs(9)).is_err());
        assert!(bucket.take(start + Duration::from_secs(11)).is_ok());
    }
}
