//! How things are, and what a value makes of it. The host is not asked here.

use alphorn_guest::Result;
use serde::{Deserialize, Serialize};

/// What is kept, and handed over: the same JSON in every language.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Alarm {
    /// The value has been over the limit and not yet back under it by the hysteresis.
    pub(crate) high: bool,
    /// Nothing has come for too long.
    pub(crate) missing: bool,
    /// The last value.
    pub(crate) value: Option<f64>,
}

/// What is published.
#[derive(Serialize)]
struct Report {
    alarm: &'static str,
    value: Option<f64>,
}

impl Alarm {
    pub(crate) fn after(self, value: f64, limit: f64, hysteresis: f64) -> Self {
        // What is high has to come down further than it had to rise.
        let high = if self.high { value > limit - hysteresis } else { value > limit };
        Self { high, missing: false, value: Some(value) }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self { missing: true, .. } => "missing",
            Self { high: true, .. } => "high",
            _ => "normal",
        }
    }

    pub(crate) fn report(self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&Report { alarm: self.name(), value: self.value })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_ends_below_the_limit_by_the_hysteresis() {
        let mut alarm = Alarm::default();
        let names = [30.0, 30.1, 29.0, 28.1, 28.0, 30.0].map(|value| {
            alarm = alarm.after(value, 30.0, 2.0);
            alarm.name()
        });
        assert_eq!(names, ["normal", "high", "high", "high", "normal", "normal"]);
    }

    #[test]
    fn a_value_ends_its_being_missing() {
        let alarm = Alarm { high: true, missing: true, value: Some(31.0) };
        assert_eq!(alarm.name(), "missing");
        assert_eq!(alarm.after(29.0, 30.0, 2.0).name(), "high");
    }
}
