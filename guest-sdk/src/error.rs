//! How a plugin says that something went wrong.

use std::error::Error as StdError;
use std::fmt;

/// What most methods of a plugin return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Words for the host's log.
///
/// Any [`std::error::Error`] becomes one with `?`, its causes included. As with
/// `anyhow::Error`, that rules out that the type is itself one.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// An error in the plugin's own words.
    ///
    /// ```
    /// # use alphorn_guest::Error;
    /// let unit = "furlong";
    /// let error = Error::new(format_args!("unit {unit:?} is not known"));
    /// assert_eq!(error.to_string(), r#"unit "furlong" is not known"#);
    /// ```
    pub fn new(words: impl fmt::Display) -> Self {
        Self(words.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// The words alone, for `unwrap` and `{:?}` in a log line.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<E: StdError> From<E> for Error {
    fn from(error: E) -> Self {
        Self(words_of(&error))
    }
}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.0
    }
}

/// What the host does with a message that was not handled. The text is for its log.
///
/// `?` on any error gives [`Failure::Retry`]. Where another attempt can't help,
/// say so:
///
/// ```
/// # use alphorn_guest::Failure;
/// fn parse(payload: &[u8]) -> Result<u32, Failure> {
///     let text = std::str::from_utf8(payload).map_err(Failure::drop)?;
///     text.parse().map_err(Failure::drop)
/// }
/// assert_eq!(parse(b"7"), Ok(7));
/// assert!(matches!(parse(b"seven"), Err(Failure::Drop(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Deliver it again later, after a pause that grows.
    Retry(String),
    /// Give it up.
    Drop(String),
}

impl Failure {
    /// Another attempt may succeed.
    pub fn retry(words: impl fmt::Display) -> Self {
        Self::Retry(words.to_string())
    }

    /// No attempt will succeed.
    pub fn drop(words: impl fmt::Display) -> Self {
        Self::Drop(words.to_string())
    }
}

impl<E: StdError> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Retry(words_of(&error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Retry(error.0)
    }
}

/// The error and its causes. A cause that the words before already end with is
/// left out: many types print it themselves.
fn words_of(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.ends_with(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{Error, Failure, Result};

    #[derive(Debug)]
    struct Outer(&'static str);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&std::fmt::Error)
        }
    }

    #[test]
    fn a_cause_is_named_once() {
        let words = format!("no report: {}", std::fmt::Error);
        assert_eq!(Error::from(Outer("no report")).to_string(), words);

        let outer = Outer(words.clone().leak());
        assert_eq!(Error::from(outer).to_string(), words);
    }

    #[test]
    fn question_mark_asks_for_another_attempt() {
        fn std_error() -> Result<u32, Failure> {
            Ok("x".parse()?)
        }
        fn own_error() -> Result<(), Failure> {
            Err(Error::new("not now"))?
        }
        assert_eq!(std_error(), Err(Failure::Retry("invalid digit found in string".to_owned())));
        assert_eq!(own_error(), Err(Failure::retry("not now")));
    }
}
