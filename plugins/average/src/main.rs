//! Reads numbers, a line each, and prints the average of the last ones: a plain WASI program,
//! which is a plugin as it is.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what is published, and the log")]

use std::{
    collections::VecDeque,
    env,
    io::{self, ErrorKind},
    num::NonZeroUsize,
    str::FromStr,
};

/// So many numbers count, unless the first argument says otherwise.
const DEFAULT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

fn main() -> io::Result<()> {
    let count = env::args().nth(1).map_or(Ok(DEFAULT), |text| NonZeroUsize::from_str(&text));
    let count = count.map_err(|cause| io::Error::new(ErrorKind::InvalidInput, format!("how many numbers: {cause}")))?;
    let mut average = Average::of_last(count);
    for line in io::stdin().lines() {
        let line = line?;
        match line.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => println!("{:.2}", average.with(number)),
            _ => eprintln!("{line:?} is no number"),
        }
    }
    Ok(())
}

/// The average of the last numbers.
struct Average {
    count: NonZeroUsize,
    last: VecDeque<f64>,
}

impl Average {
    fn of_last(count: NonZeroUsize) -> Self {
        Self { count, last: VecDeque::new() }
    }

    /// What it is with one more.
    fn with(&mut self, number: f64) -> f64 {
        if self.last.len() == self.count.get() {
            self.last.pop_front();
        }
        self.last.push_back(number);
        // Added up anew, so that no rounding adds up with the years.
        self.last.iter().sum::<f64>() / self.last.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_numbers_count() {
        let mut average = Average::of_last(NonZeroUsize::new(2).unwrap());
        assert_eq!([1.0, 2.0, 4.0, 6.0].map(|number| average.with(number)), [1.0, 1.5, 3.0, 5.0]);
    }
}
