//! Times as people say them.

use std::time::Duration;

/// To three digits, so that a reader sees at once whether it is much.
pub(super) fn short(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        10_000..1_000_000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (micros, shown) in
            [(0, "0 µs"), (999, "999 µs"), (1_234, "1.2 ms"), (45_678, "45 ms"), (3_210_000, "3.2 s")]
        {
            assert_eq!(short(Duration::from_micros(micros)), shown);
        }
    }
}
