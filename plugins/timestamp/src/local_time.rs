//! The time of day at a fixed distance from UTC. A sandbox has no time zone
//! database, so the distance comes from the configuration.
//!
//! `time` does the calendar. Its format descriptions stay out: they would make
//! this plugin twice as big.

use std::str::FromStr;

use alphorn_guest::{Error, Result};
use time::{OffsetDateTime, UtcOffset};

/// A clock that shows local time.
#[derive(Debug)]
pub(crate) struct LocalTime(UtcOffset);

impl LocalTime {
    pub(crate) const UTC: Self = Self(UtcOffset::UTC);

    /// What the clock shows, as `%Y-%m-%dT%H:%M:%S`.
    pub(crate) fn now(&self) -> String {
        self.at(OffsetDateTime::now_utc())
    }

    fn at(&self, time: OffsetDateTime) -> String {
        let time = time.to_offset(self.0);
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        let month = u8::from(month);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl FromStr for LocalTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        offset(text).map(Self).ok_or_else(|| {
            Error::new(format_args!("config `utc_offset` is {text:?}; it has to be like \"+09:00\" or \"-03:30\""))
        })
    }
}

fn offset(text: &str) -> Option<UtcOffset> {
    let &[sign, h1, h2, b':', m1, m2] = text.as_bytes() else { return None };
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digit = |byte: u8| i8::try_from(char::from(byte).to_digit(10)?).ok();
    let hours = digit(h1)? * 10 + digit(h2)?;
    let minutes = digit(m1)? * 10 + digit(m2)?;
    UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn shown(offset: &str, time: OffsetDateTime) -> Result<String> {
        Ok(offset.parse::<LocalTime>()?.at(time))
    }

    #[test]
    fn utc_is_shown_to_the_second() {
        let time = datetime!(2026-11-23 04:05:06.789 UTC);
        assert_eq!(LocalTime::UTC.at(time), "2026-11-23T04:05:06");
    }

    #[test]
    fn an_offset_moves_time_and_date() {
        let new_year = datetime!(2026-12-31 20:00:00 UTC);
        assert_eq!(shown("+09:00", new_year).as_deref(), Ok("2027-01-01T05:00:00"));

        let leap_day = datetime!(2028-03-01 00:00:00 UTC);
        assert_eq!(shown("-03:30", leap_day).as_deref(), Ok("2028-02-29T20:30:00"));
        assert_eq!(shown("-00:30", leap_day).as_deref(), Ok("2028-02-29T23:30:00"));
    }

    #[test]
    fn a_bad_offset_is_named() {
        for offset in ["", "9", "09:00", "+9:00", "+09:60", "+99:00", "+aa:00", "±9:00", "+09:00 ", "Asia/Tokyo"] {
            let Err(error) = offset.parse::<LocalTime>() else {
                panic!("{offset:?} was taken for an offset");
            };
            let words = error.to_string();
            assert!(words.contains(&format!("`utc_offset` is {offset:?}")), "{words}");
        }
    }
}
