//! What was checked and what came of it: for people a table, for scripts one JSON object.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::escape::shown;

/// All checks, in the order in which a connection meets what they are about.
#[derive(Debug, Clone, Default)]
pub struct Report {
    checks: Vec<Check>,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable: scripts look for it.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// What was seen.
    pub found: String,
    /// Why that is no good.
    pub cause: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// It does not work.
    Fail(Fault),
    /// Not tried, since something else is in its way.
    Skip,
}

/// Whose fault a failure is, which is what the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The configuration or a file it names.
    Configuration,
    /// The way to the broker, or the broker.
    Broker,
    /// The broker's policy.
    NotPermitted,
}

/// What a device is for, in order, and the checks that show it. One that is not `Ok` does not show it.
const NEEDED: [(&str, &str); 3] = [(CONNECT, "connack"), (PUBLISH, "publish"), ("subscribe", "subscribe")];
const CONNECT: &str = "connect";
const PUBLISH: &str = "publish";

/// With MQTT 3.1.1 a broker acknowledges what it does not allow: only what came back was published.
const ROUND_TRIP: &str = "round-trip";

/// Where found begins: behind the status and the longest name.
const STATUS_WIDTH: usize = 6;

impl Check {
    /// As it should be.
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), cause: None, remedy: None }
    }

    /// Works, with a but.
    pub(super) fn warn(
        name: &'static str,
        found: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::ok(name, found).spoilt(Status::Warn, cause, remedy)
    }

    /// Does not work.
    pub(super) fn fail(
        name: &'static str,
        fault: Fault,
        found: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::ok(name, found).spoilt(Status::Fail(fault), cause, remedy)
    }

    /// Not tried.
    pub(super) fn skip(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, status: Status::Skip, found: String::new(), cause: Some(why.into()), remedy: None }
    }

    /// The same finding in another light.
    pub(super) fn spoilt(self, status: Status, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, cause: Some(cause.into()), remedy: Some(remedy.into()), ..self }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "status": self.status.word().to_lowercase(),
            "found": self.found,
            "cause": self.cause,
            "remedy": self.remedy,
        })
    }
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail(_) => "FAIL",
            Self::Skip => "skip",
        }
    }

    /// The number of its colour on a terminal.
    fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warn => 33,
            Self::Fail(_) => 31,
            Self::Skip => 2,
        }
    }
}

impl Report {
    pub(super) fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    pub(super) fn extend(&mut self, checks: impl IntoIterator<Item = Check>) {
        self.checks.extend(checks);
    }

    /// The checks in their order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What keeps this device from working; of several faults the one to mend first.
    pub fn fault(&self) -> Option<Fault> {
        let faults = self.checks.iter().filter_map(|check| match check.status {
            Status::Fail(fault) => Some(fault),
            _ => None,
        });
        // What was never tried does not work, whoever should have said why.
        faults.min().or_else(|| self.not_shown().contains(&CONNECT).then_some(Fault::Broker))
    }

    /// What this device is for and was not seen to do.
    fn not_shown(&self) -> Vec<&'static str> {
        let is = |name: &str, wanted: &[Status]| {
            self.checks.iter().any(|check| check.name == name && wanted.contains(&check.status))
        };
        let came_back = !is(ROUND_TRIP, &[Status::Warn]);
        let is_shown = |(what, check): &(&str, &str)| is(check, &[Status::Ok]) && (*what != PUBLISH || came_back);
        NEEDED.iter().filter(|needed| !is_shown(needed)).map(|(what, _)| *what).collect()
    }

    fn names(&self, wanted: impl Fn(Status) -> bool) -> Vec<&'static str> {
        self.checks.iter().filter(|check| wanted(check.status)).map(|check| check.name).collect()
    }

    fn failed(&self) -> Vec<&'static str> {
        self.names(|status| matches!(status, Status::Fail(_)))
    }

    /// One object: `status` (the worst of all) and the `checks`.
    pub fn json(&self) -> Value {
        let status = match (self.fault().is_none(), self.names(|status| status == Status::Warn).is_empty()) {
            (false, _) => "fail",
            (true, false) => "warn",
            (true, true) => "ok",
        };
        json!({ "status": status, "checks": self.checks.iter().map(Check::json).collect::<Vec<_>>() })
    }

    /// A line a check, with cause and remedy below; then what it comes to.
    pub fn table(&self, colour: bool) -> String {
        let paint = |code: u8, text: &str| match colour {
            true if !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        };
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default() + 2;
        let mut out = String::new();
        let mut line = |status: &str, code: u8, name: &str, text: &str| {
            let padding = " ".repeat(STATUS_WIDTH.saturating_sub(status.len()));
            let line = format!("{}{padding}{name:width$}{}", paint(code, status), shown(text));
            // Writing to a string does not fail.
            let _ = writeln!(out, "{}", line.trim_end());
        };
        for check in self.checks.iter().filter(|check| check.status != Status::Skip) {
            line(check.status.word(), check.status.colour(), check.name, &check.found);
            for (label, text) in [("cause:  ", &check.cause), ("remedy: ", &check.remedy)] {
                if let Some(text) = text {
                    line("", 0, "", &format!("{label}{text}"));
                }
            }
        }
        // One line for all that had to wait for the same: they have nothing more to say.
        let mut skipped = self.checks.iter().filter(|check| check.status == Status::Skip).peekable();
        while let Some(first) = skipped.next() {
            let mut names = vec![first.name];
            while let Some(next) = skipped.next_if(|next| next.cause == first.cause) {
                names.push(next.name);
            }
            let cause = first.cause.as_deref().unwrap_or_default();
            line("skip", Status::Skip.colour(), "", &format!("{}: {cause}", names.join(", ")));
        }
        let warned = self.names(|status| status == Status::Warn);
        let (code, mut sum) = match (self.failed().as_slice(), self.not_shown().as_slice()) {
            ([], []) => (32, "This device can connect, publish and subscribe.".to_owned()),
            ([], unknown) if unknown.contains(&CONNECT) => {
                (31, "Whether this device can connect was not found out.".to_owned())
            }
            ([], unknown) => {
                let unknown = unknown.join(" and ");
                (33, format!("This device can connect. Whether it can {unknown} was not found out."))
            }
            (failed, _) => (31, format!("This device does not work as configured. What fails: {}.", failed.join(", "))),
        };
        let code = if code == 32 && !warned.is_empty() { 33 } else { code };
        if self.failed().is_empty() && !warned.is_empty() {
            let _ = write!(sum, " To look at: {}.", warned.join(", "));
        }
        let _ = writeln!(out, "\n{}", paint(code, &sum));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checks: Vec<Check>) -> Report {
        Report { checks }
    }

    #[test]
    fn the_table_is_aligned_and_says_cause_and_remedy() {
        let report = report(vec![
            Check::ok("dns", "a.example → 192.0.2.1"),
            Check::warn("server-certificate", "CN=a", "it expires soon", "renew it"),
            Check::fail("tcp", Fault::Broker, "192.0.2.1:443", "connection refused", "check the port"),
            Check::skip("tls", "there is no connection"),
            Check::skip("alpn", "there is no connection"),
        ]);
        let expected = "\
ok    dns                 a.example → 192.0.2.1
warn  server-certificate  CN=a
                          cause:  it expires soon
                          remedy: renew it
FAIL  tcp                 192.0.2.1:443
                          cause:  connection refused
                          remedy: check the port
skip                      tls, alpn: there is no connection

This device does not work as configured. What fails: tcp.
";
        assert_eq!(report.table(false), expected);
    }

    #[test]
    fn colour_comes_only_when_asked_for_and_does_not_shift_the_table() {
        let report = report(vec![Check::ok("dns", "found")]);
        assert!(report.table(true).starts_with("\u{1b}[32mok\u{1b}[0m    dns  found\n"), "{}", report.table(true));
        assert!(!report.table(false).contains('\u{1b}'));
    }

    #[test]
    fn a_strangers_words_do_not_steer_the_terminal() {
        let report = report(vec![Check::ok("dns", "CN=\u{1b}[2Jx\ny")]);
        assert!(report.table(false).starts_with("ok    dns  CN=\\u{1b}[2Jx\\ny\n"));
    }

    #[test]
    fn the_fault_to_mend_first_decides() {
        let fail = |fault| Check::fail("x", fault, "", "", "");
        assert_eq!(report(vec![Check::ok("connack", ""), Check::warn("y", "", "", "")]).fault(), None);
        assert_eq!(report(vec![fail(Fault::NotPermitted)]).fault(), Some(Fault::NotPermitted));
        let faults = vec![fail(Fault::NotPermitted), fail(Fault::Broker), fail(Fault::Configuration)];
        assert_eq!(report(faults).fault(), Some(Fault::Configuration));
    }

    #[test]
    fn nothing_is_claimed_that_was_not_seen() {
        let sum = |checks: &[Check]| report(checks.to_vec()).table(false).lines().last().unwrap_or_default().to_owned();
        let [connack, subscribe, publish] = ["connack", "subscribe", "publish"].map(|name| Check::ok(name, ""));
        let all = [connack.clone(), subscribe.clone(), publish.clone()];
        assert_eq!(sum(&all), "This device can connect, publish and subscribe.");
        let denied = Check::warn("publish", "", "denied", "allow it");
        assert_eq!(
            sum(&[connack.clone(), subscribe.clone(), denied]),
            "This device can connect. Whether it can publish was not found out. To look at: publish."
        );
        let swallowed = [&all[..], &[Check::warn("round-trip", "", "", "")]].concat();
        assert!(sum(&swallowed).contains("Whether it can publish was not found out. To look at: round-trip."));
        let skipped = ["connack", "subscribe", "publish"].map(|name| Check::skip(name, "not tried"));
        assert_eq!(sum(&skipped), "Whether this device can connect was not found out.");
        assert_eq!(
            (report(skipped.to_vec()).fault(), report(vec![]).fault()),
            (Some(Fault::Broker), Some(Fault::Broker))
        );
        assert_eq!(report(skipped.to_vec()).json()["status"], "fail");
        assert!(sum(&[&skipped[1..], &[connack]].concat()).contains("Whether it can publish and subscribe was not"));
    }

    #[test]
    fn json_has_every_check_and_the_worst_status() {
        let mut checks = vec![Check::ok("connack", "found")];
        assert_eq!(report(checks.clone()).json()["status"], "ok");
        checks.push(Check::warn("clock", "", "late", "ntp"));
        assert_eq!(report(checks.clone()).json()["status"], "warn");
        checks.push(Check::fail("tcp", Fault::Broker, "1.2.3.4:5", "refused", "look"));
        checks.push(Check::skip("tls", "no tcp"));
        let json = report(checks).json();
        assert_eq!(json["status"], "fail");
        let tcp = json!({"name": "tcp", "status": "fail", "found": "1.2.3.4:5", "cause": "refused", "remedy": "look"});
        assert_eq!(json["checks"][2], tcp);
        let tls = json!({"name": "tls", "status": "skip", "found": "", "cause": "no tcp", "remedy": null});
        assert_eq!(json["checks"][3], tls);
    }
}
