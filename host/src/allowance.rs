//! How many lines a plugin may cause in the log: what is left out is counted, and said later.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tracing::{Span, warn};

use crate::rate::{Bucket, Rate};

/// Lines that may be written at a rate. All clones share it: each has what the others leave.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<Mutex<Used>>);

#[derive(Debug)]
struct Used {
    bucket: Bucket,
    left_out: u64,
    /// Whose lines they are, in words.
    what: &'static str,
    span: Span,
}

impl Allowance {
    /// Of what the plugin writes itself, in whose span this is called.
    pub fn of_its_own(rate: Rate) -> Self {
        Self::new(rate, "lines of it", Span::current())
    }

    /// Of what the host says about the plugin with this span.
    pub fn about(rate: Rate, span: Span) -> Self {
        Self::new(rate, "lines about it", span)
    }

    /// No limit, for who is no plugin.
    pub fn unlimited() -> Self {
        Self::new(Rate::UNLIMITED, "lines", Span::none())
    }

    fn new(rate: Rate, what: &'static str, span: Span) -> Self {
        let used = Used { bucket: Bucket::new(rate, Instant::now()), left_out: 0, what, span };
        Self(Arc::new(Mutex::new(used)))
    }

    /// Another line may be written. What was left out before is said first.
    pub fn take(&self) -> bool {
        // Two threads at most ever meet here, neither for longer than this.
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.bucket.take(Instant::now()).is_err() {
            used.left_out += 1;
            return false;
        }
        used.tell();
        true
    }

    /// So many lines are not written, since one before them was not.
    pub fn leave_out(&self, lines: usize) {
        if lines > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).left_out += lines as u64;
        }
    }

    /// What was left out and not yet said, and no longer is.
    #[cfg(test)]
    pub(crate) fn take_left_out(&self) -> u64 {
        std::mem::take(&mut self.0.lock().unwrap().left_out)
    }

    /// Another rate from now on.
    pub fn set_rate(&self, rate: Rate) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.bucket = Bucket::new(rate, Instant::now());
    }
}

impl Used {
    fn tell(&mut self) {
        let (left_out, what) = (std::mem::take(&mut self.left_out), self.what);
        if left_out > 0 {
            self.span.in_scope(|| warn!("{left_out} {what} were left out (`limits.log_rate`)"));
        }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clones_share_what_is_allowed() {
        let allowance = Allowance::about("1/h".parse().unwrap(), Span::none());
        let other = allowance.clone();
        assert!(allowance.take());
        assert!(!other.take() && !allowance.take());
        assert_eq!(allowance.0.lock().unwrap().left_out, 2);
        other.set_rate("2/h".parse().unwrap());
        assert!(allowance.take());
        assert_eq!(allowance.0.lock().unwrap().left_out, 0, "it was said");
    }
}
