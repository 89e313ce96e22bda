//! The plugin's configuration.

use std::time::Duration;

use alphorn_guest::{Error, Result};

#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) topic: String,
    pub(crate) alarm: String,
    pub(crate) limit: f64,
    pub(crate) hysteresis: f64,
    /// None: it may take as long as it takes.
    pub(crate) missing_after: Option<Duration>,
}

impl Settings {
    pub(crate) fn from_config(config: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |key: &str| config(key).ok_or_else(|| Error::new(format_args!("config `{key}` is missing")));
        let number = |key: &str, text: String| {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| Error::new(format_args!("config `{key}` is {text:?}; it has to be a number")))
        };
        let or = |key: &str, default: &str| number(key, config(key).unwrap_or_else(|| default.to_owned()));
        let missing_after = or("missing_after", "60")?;
        Ok(Self {
            topic: text("topic")?,
            alarm: text("alarm")?,
            limit: number("limit", text("limit")?)?,
            hysteresis: or("hysteresis", "0")?,
            missing_after: Some(missing_after).filter(|seconds| *seconds > 0.0).map(Duration::from_secs_f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(config: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_config(|wanted| {
            config.iter().find(|(key, _)| *key == wanted).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let topics = [("topic", "a"), ("alarm", "b")];
        let words = |config: &[(&str, &str)]| settings(config).map_err(|error| error.to_string());
        assert_eq!(words(&topics), Err("config `limit` is missing".to_owned()));
        let bad = [&topics[..], &[("limit", "hot")]].concat();
        assert_eq!(words(&bad), Err("config `limit` is \"hot\"; it has to be a number".to_owned()));
        let good = settings(&[&topics[..], &[("limit", "30"), ("missing_after", "0")]].concat()).unwrap();
        assert_eq!((good.limit, good.hysteresis, good.missing_after), (30.0, 0.0, None));
    }
}
