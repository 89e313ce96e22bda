//! Time that survives reboots and wrong clocks.
//!
//! Ages count the time a device runs. Wall time counts only between two readings of a
//! clock that the kernel says is synchronised; where that is unsure, a message is taken to
//! be younger and kept.

use std::{
    fs,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

/// How long something has been waiting, over all runs of the host.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    before: Duration,
    since: Instant,
}

/// A moment, as it can be kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Which boot of the device it was in.
    boot: u128,
    /// Milliseconds since that boot.
    since_boot: u64,
    /// Milliseconds the device had run, over all boots that are known.
    ran: u64,
    /// Seconds since 1970, if the clock could be trusted.
    wall: Option<u64>,
}

impl Age {
    /// It begins now.
    pub fn new() -> Self {
        Self::of(Duration::ZERO)
    }

    /// It began then, in this run.
    pub fn since(begin: Instant) -> Self {
        Self { before: Duration::ZERO, since: begin }
    }

    /// It has been that long already.
    pub fn of(before: Duration) -> Self {
        Self { before, since: Instant::now() }
    }

    /// How long it is.
    pub fn elapsed(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

impl Default for Age {
    fn default() -> Self {
        Self::new()
    }
}

impl Stamp {
    /// This moment, after the last one that is known.
    pub fn now(last: Option<&Self>) -> Self {
        Self::after(last, boot_id(), since_boot(), trusted_wall())
    }

    pub(crate) fn after(last: Option<&Self>, boot: u128, since_boot: u64, wall: Option<u64>) -> Self {
        let ran = match last {
            None => since_boot,
            Some(last) if last.boot == boot => last.ran + since_boot.saturating_sub(last.since_boot),
            Some(last) => last.ran + since_boot,
        };
        Self { boot, since_boot, ran, wall }
    }

    /// What must have passed from then to now, at least.
    pub fn since(&self, then: &Self) -> Duration {
        let ran = Duration::from_millis(self.ran.saturating_sub(then.ran));
        let wall = match (self.wall, then.wall) {
            (Some(now), Some(then)) => Duration::from_secs(now.saturating_sub(then)),
            _ => Duration::ZERO,
        };
        ran.max(wall)
    }

    /// The time of day, if the clock could be trusted.
    pub fn wall(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.wall?))
    }
}

/// The time it is at least: that of the build, or the last at which the clock could be trusted.
pub fn not_before(trusted: Option<SystemTime>) -> SystemTime {
    let built = SystemTime::UNIX_EPOCH + Duration::from_secs(env!("BUILT_AT").parse().unwrap_or_default());
    trusted.map_or(built, |trusted| trusted.max(built))
}

/// Random at each boot; where there is none, at each start of the host.
fn boot_id() -> u128 {
    static BOOT: OnceLock<u128> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let id = id.and_then(|id| u128::from_str_radix(&id.trim().replace('-', ""), 16).ok());
        id.unwrap_or_else(|| fastrand::u128(..))
    })
}

/// Milliseconds, those of a suspended device too.
#[cfg(target_os = "linux")]
fn since_boot() -> u64 {
    #[allow(unsafe_code, reason = "asked with each write; the file in /proc that says the same takes five calls")]
    // SAFETY: the call only fills in the structure it is given, of which all fields are numbers.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time);
        time
    };
    let [seconds, nanoseconds] = [time.tv_sec as u64, time.tv_nsec as u64];
    seconds * 1000 + nanoseconds / 1_000_000
}

/// Elsewhere nobody says; only what runs counts.
#[cfg(not(target_os = "linux"))]
fn since_boot() -> u64 {
    static BEGIN: OnceLock<std::time::Instant> = OnceLock::new();
    u64::try_from(BEGIN.get_or_init(std::time::Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn trusted_wall() -> Option<u64> {
    if !is_synchronised() {
        return None;
    }
    Some(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// Whether the kernel says that somebody keeps its clock right.
#[cfg(target_os = "linux")]
pub fn is_synchronised() -> bool {
    #[allow(unsafe_code, reason = "no safe crate among our dependencies asks the kernel this")]
    // SAFETY: all fields of a timex are numbers, for which zeroes are good; with `modes` zero
    // the call only fills in the structure it is given.
    let (state, clock) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut clock), clock)
    };
    state >= 0 && state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0
}

/// Whether somebody keeps the clock right; elsewhere nobody says.
#[cfg(not(target_os = "linux"))]
pub fn is_synchronised() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn stamp(last: Option<&Stamp>, boot: u128, hours: u64, wall_hours: Option<u64>) -> Stamp {
        Stamp::after(last, boot, hours * HOUR, wall_hours.map(|hours| hours * 3600))
    }

    fn hours(now: &Stamp, then: &Stamp) -> u64 {
        now.since(then).as_secs() / 3600
    }

    #[test]
    fn within_a_boot_running_time_counts_whatever_the_clock_does() {
        let then = stamp(None, 1, 2, None);
        for wall in [None, Some(0), Some(400_000)] {
            assert_eq!(hours(&stamp(Some(&then), 1, 5, wall), &then), 3, "{wall:?}");
        }
        let then = stamp(None, 1, 2, Some(100));
        assert_eq!(hours(&stamp(Some(&then), 1, 5, Some(50)), &then), 3, "a clock that goes back");
    }

    #[test]
    fn over_a_reboot_the_time_it_was_off_counts_between_trusted_readings_only() {
        let then = stamp(None, 1, 2, Some(100));
        assert_eq!(hours(&stamp(Some(&then), 2, 1, Some(148)), &then), 48);
        assert_eq!(hours(&stamp(Some(&then), 2, 1, None), &then), 1, "a clock at 1970");
        let then = stamp(None, 1, 2, None);
        assert_eq!(hours(&stamp(Some(&then), 2, 1, Some(148)), &then), 1, "nobody knows when that was");
    }

    #[test]
    fn running_time_adds_up_over_boots() {
        let then = stamp(None, 1, 2, None);
        let last = stamp(Some(&then), 1, 10, None);
        let second = stamp(Some(&last), 2, 5, None);
        let third = stamp(Some(&second), 3, 1, None);
        assert_eq!(hours(&third, &then), 8 + 5 + 1);
    }

    #[test]
    fn a_moment_is_not_before_the_build() {
        let built = not_before(None);
        assert!(built > SystemTime::UNIX_EPOCH && built <= SystemTime::now());
        let early = stamp(None, 1, 1, Some(1));
        assert_eq!(not_before(early.wall()), built);
        let late = stamp(None, 1, 1, Some(1_000_000));
        assert_eq!(not_before(late.wall()), late.wall().unwrap());
    }

    #[test]
    fn an_age_goes_on() {
        let age = Age::of(Duration::from_secs(60));
        assert!(age.elapsed() >= Duration::from_secs(60) && age.elapsed() < Duration::from_secs(120));
        assert!(Stamp::now(None).since_boot > 0);
    }
}
