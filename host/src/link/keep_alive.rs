//! When to ask the broker for a sign of life, and when to stop waiting for one.

use std::time::{Duration, Instant};

/// The clock of one connection. A half-open connection is noticed within one and a half
/// keep-alives: one without a packet, half of one after the PINGREQ.
#[derive(Debug)]
pub(super) struct KeepAlive {
    /// Zero: there is none.
    interval: Duration,
    last_sent: Instant,
    last_received: Instant,
    ping_sent: Option<Instant>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// A PINGREQ has to be sent; it counts as sent.
    Ping,
    /// Nothing came for so long, nor an answer to a PINGREQ within half an interval.
    GiveUp(Duration),
}

impl KeepAlive {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, last_sent: now, last_received: now, ping_sent: None }
    }

    /// Bytes went out.
    pub(super) fn sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// A whole packet came in; whichever it is, the broker lives.
    pub(super) fn received(&mut self, now: Instant) {
        self.last_received = now;
        self.ping_sent = None;
    }

    /// A PINGREQ goes out, for whatever reason.
    pub(super) fn pinged(&mut self, now: Instant) {
        self.ping_sent.get_or_insert(now);
    }

    /// Something is read again that was left alone by our own choice; that was not the broker's silence.
    pub(super) fn reads_again(&mut self, now: Instant) {
        self.last_received = now;
        self.ping_sent = self.ping_sent.map(|_| now);
    }

    /// When to look again, if ever. `is_reading`: what the broker says is read; else it is not
    /// waited for, but still hears of us.
    pub(super) fn deadline(&self, is_reading: bool) -> Option<Instant> {
        if self.interval.is_zero() {
            return None;
        }
        if !is_reading {
            return Some(self.last_sent + self.interval);
        }
        // The protocol wants something sent in each interval; and a device that sends all
        // the time must still notice that nothing comes back.
        let ping_due = self.last_sent.min(self.last_received) + self.interval;
        Some(self.ping_sent.map_or(ping_due, |sent| sent + self.interval / 2))
    }

    pub(super) fn due(&mut self, now: Instant, is_reading: bool) -> Due {
        if self.deadline(is_reading).is_none_or(|deadline| now < deadline) {
            return Due::Nothing;
        }
        if !is_reading {
            // It may take its time to leave: the broker may not read either.
            self.last_sent = now;
            self.ping_sent.get_or_insert(now);
            return Due::Ping;
        }
        if self.ping_sent.is_some() {
            return Due::GiveUp(now.saturating_duration_since(self.last_received));
        }
        self.ping_sent = Some(now);
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_broker_is_asked_once_and_then_given_up() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(10 * SECOND, start);
        assert_eq!(clock.due(start + 9 * SECOND, true), Due::Nothing);
        assert_eq!(clock.due(start + 10 * SECOND, true), Due::Ping);
        assert_eq!(clock.due(start + 14 * SECOND, true), Due::Nothing);
        assert_eq!(clock.due(start + 15 * SECOND, true), Due::GiveUp(15 * SECOND));
    }

    #[test]
    fn any_packet_is_a_sign_of_life() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(10 * SECOND, start);
        assert_eq!(clock.due(start + 10 * SECOND, true), Due::Ping);
        clock.sent(start + 10 * SECOND);
        clock.received(start + 11 * SECOND);
        assert_eq!(clock.due(start + 19 * SECOND, true), Due::Nothing);
        assert_eq!(clock.due(start + 20 * SECOND, true), Due::Ping);
    }

    #[test]
    fn a_device_that_sends_all_the_time_still_notices_that_nothing_comes_back() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(10 * SECOND, start);
        for second in 1..10 {
            clock.sent(start + second * SECOND);
        }
        assert_eq!(clock.due(start + 10 * SECOND, true), Due::Ping);
        clock.sent(start + 12 * SECOND);
        assert!(matches!(clock.due(start + 15 * SECOND, true), Due::GiveUp(_)));
    }

    #[test]
    fn a_device_that_only_receives_still_sends_something_in_each_interval() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(10 * SECOND, start);
        for second in 1..10 {
            clock.received(start + second * SECOND);
        }
        assert_eq!(clock.due(start + 10 * SECOND, true), Due::Ping);
    }

    #[test]
    fn while_nothing_is_read_the_broker_hears_of_us_and_is_not_given_up() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(10 * SECOND, start);
        assert_eq!(clock.due(start + 10 * SECOND, true), Due::Ping);
        for interval in 2..10 {
            assert_eq!(clock.due(start + interval * 10 * SECOND, false), Due::Ping);
            assert_eq!(clock.due(start + interval * 10 * SECOND, false), Due::Nothing);
        }
        clock.reads_again(start + 100 * SECOND);
        assert_eq!(clock.due(start + 104 * SECOND, true), Due::Nothing);
        assert_eq!(clock.due(start + 105 * SECOND, true), Due::GiveUp(5 * SECOND));
    }

    #[test]
    fn how_long_nothing_came_is_what_it_was() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(10 * SECOND, start);
        // For whatever reason, long before it was due.
        clock.pinged(start + SECOND);
        assert_eq!(clock.due(start + 6 * SECOND, true), Due::GiveUp(6 * SECOND));
    }

    #[test]
    fn without_a_keep_alive_nothing_is_ever_due() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(Duration::ZERO, start);
        assert_eq!(clock.deadline(true), None);
        assert_eq!(clock.due(start + 10_000 * SECOND, true), Due::Nothing);
    }
}
