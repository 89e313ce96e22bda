//! Whether the clock can be right. Certificates are valid from one time to another, so a
//! device that thinks it is 1970 trusts nobody.

use std::{
    process::Stdio,
    time::{Duration, SystemTime},
};

use tokio::{process::Command, time::timeout};

use super::{report::Check, versions};

/// The name of the check.
const NAME: &str = "clock";

/// How long the answer whether the clock is synchronised is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at the clock, and asks who keeps it.
pub(super) async fn check() -> Check {
    judge(SystemTime::now(), versions::built(), synchronised().await)
}

fn judge(now: SystemTime, built: Option<SystemTime>, synchronised: Option<bool>) -> Check {
    let shown = humantime::format_rfc3339_seconds(now).to_string();
    if let Some(built) = built.filter(|built| now < *built) {
        let built = humantime::format_rfc3339_seconds(built);
        return Check::warn(
            NAME,
            shown,
            format!("the clock is behind: this program was built later, at {built}; certificates seem not valid yet"),
            "set the clock; give the device NTP, or a battery for its clock",
        );
    }
    match synchronised {
        Some(true) => Check::ok(NAME, format!("{shown}, synchronised")),
        None => Check::ok(NAME, shown),
        Some(false) => Check::warn(
            NAME,
            shown,
            "the kernel says that the clock is not synchronised, it may be anything",
            "start an NTP client (systemd-timesyncd, chrony) and see that it reaches its server: timedatectl",
        ),
    }
}

/// What the kernel says, by way of systemd; `None` where there is none.
async fn synchronised() -> Option<bool> {
    let mut command = Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_before_the_build_date_is_behind() {
        let check = judge(at(5), Some(at(1_700_000_000)), Some(true));
        assert_eq!((check.status, check.found.as_str()), (Status::Warn, "1970-01-01T00:00:05Z"));
        assert!(check.cause.unwrap().contains("2023-11-14T22:13:20Z"));
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_worth_a_look() {
        let check = judge(at(1_800_000_000), Some(at(1_700_000_000)), Some(false));
        assert_eq!(check.status, Status::Warn);
        assert!(check.cause.unwrap().contains("not synchronised"));
    }

    #[test]
    fn a_plausible_clock_is_fine_also_where_nobody_can_say_more() {
        for (synchronised, found) in
            [(Some(true), "2027-01-15T08:00:00Z, synchronised"), (None, "2027-01-15T08:00:00Z")]
        {
            let check = judge(at(1_800_000_000), Some(at(1_700_000_000)), synchronised);
            assert_eq!((check.status, check.found.as_str()), (Status::Ok, found));
        }
    }
}
