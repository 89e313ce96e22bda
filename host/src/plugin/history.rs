//! What became of a plugin's versions, and which one a roll-back goes to.

use crate::store::{Became, Past};

/// Versions that are kept and not in force.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The newest last; each digest once.
    past: Vec<Past>,
}

/// So many that gave way to another are kept, and can be gone back to.
const REPLACED: usize = 2;

/// So many that were rolled back are kept, for who names them.
const ROLLED_BACK: usize = 1;

/// So many characters of the reason are kept.
const LONGEST: usize = 500;

/// The shortest beginning of a digest that names a version.
const SHORTEST: usize = 4;

/// Why a name names no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotFound(pub(super) String);

impl History {
    pub(super) fn new(past: Vec<Past>) -> Self {
        Self { past }
    }

    /// All of them, the newest last.
    pub(super) fn past(&self) -> &[Past] {
        &self.past
    }

    /// A version was replaced by another that was asked for.
    pub(super) fn gave_way(&mut self, digest: &str) {
        self.add(digest, Became::Replaced);
    }

    /// A version was taken back.
    pub(super) fn rolled_back(&mut self, digest: &str, why: &str) {
        self.add(digest, Became::RolledBack { why: why.chars().take(LONGEST).collect() });
    }

    /// A version is in force; whatever became of it before, it has another chance.
    pub(super) fn in_force(&mut self, digest: &str) {
        self.past.retain(|past| past.digest != digest);
    }

    /// The version to go back to if none is named: the newest that was not rolled back itself.
    pub(super) fn target(&self) -> Option<&str> {
        target(&self.past)
    }

    /// The one version whose digest begins so.
    pub(super) fn find(&self, version: &str) -> Result<&str, NotFound> {
        let mut found = self.past.iter().filter(|past| names(version, &past.digest));
        match (found.next(), found.next()) {
            (Some(past), None) => Ok(&past.digest),
            (Some(_), Some(_)) => {
                Err(NotFound(format!("more than one version begins with `{version}`: {}", self.listed())))
            }
            (None, _) => Err(NotFound(format!("no version that is kept begins with `{version}`: {}", self.listed()))),
        }
    }

    /// The versions there are, in words.
    pub(super) fn listed(&self) -> String {
        if self.past.is_empty() {
            return "none but the one in force is kept".to_owned();
        }
        let each = self.past.iter().map(|past| match &past.became {
            Became::Replaced => short(&past.digest).to_owned(),
            Became::RolledBack { why } => format!("{} (rolled back: {why})", short(&past.digest)),
        });
        format!("there are {}", each.collect::<Vec<_>>().join(", "))
    }

    fn add(&mut self, digest: &str, became: Became) {
        self.in_force(digest);
        self.past.push(Past { digest: digest.to_owned(), became });
        let (mut replaced, mut rolled_back) = (0, 0);
        let mut kept: Vec<_> = std::mem::take(&mut self.past);
        kept.reverse();
        kept.retain(|past| {
            let (count, most) = match past.became {
                Became::Replaced => (&mut replaced, REPLACED),
                Became::RolledBack { .. } => (&mut rolled_back, ROLLED_BACK),
            };
            *count += 1;
            *count <= most
        });
        kept.reverse();
        self.past = kept;
    }
}

/// Of these versions the one to go back to.
pub(super) fn target(past: &[Past]) -> Option<&str> {
    past.iter().rev().find(|past| past.became == Became::Replaced).map(|past| past.digest.as_str())
}

/// Whether somebody who says this means the version of this digest.
pub(super) fn names(version: &str, digest: &str) -> bool {
    version.len() >= SHORTEST && digest.starts_with(&version.to_ascii_lowercase())
}

/// Short enough for people: the first digits of a digest.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions that took over one after the other.
    fn after(versions: &[&str]) -> History {
        let mut history = History::default();
        for pair in versions.windows(2) {
            history.gave_way(pair[0]);
            history.in_force(pair[1]);
        }
        history
    }

    #[test]
    fn a_roll_back_never_goes_to_what_was_rolled_back() {
        let mut history = after(&["v1-good", "v2-good", "v3-bad"]);
        assert_eq!(history.target(), Some("v2-good"));
        history.rolled_back("v3-bad", "it trapped");
        history.in_force("v2-good");
        assert_eq!(history.target(), Some("v1-good"), "and not v3");
        history.rolled_back("v2-good", "as told");
        history.in_force("v1-good");
        assert_eq!(history.target(), None);
        assert_eq!(history.listed(), "there are v2-good (rolled back: as told)");
    }

    #[test]
    fn who_is_named_is_found_and_has_another_chance() {
        let mut history = after(&["aaaa1", "aaaa2"]);
        history.rolled_back("aaaa2", "as told");
        history.in_force("aaaa1");
        assert_eq!(history.find("AAAA2"), Ok("aaaa2"));
        history.gave_way("aaaa1");
        history.in_force("aaaa2");
        assert_eq!((history.target(), history.past().len()), (Some("aaaa1"), 1));
        history.gave_way("aaaa2");
        history.in_force("bbbb");
        assert_eq!(history.target(), Some("aaaa2"));
        for (version, words) in
            [("aaaa", "more than one"), ("aaa", "no version"), ("", "no version"), ("cccc", "no version")]
        {
            let NotFound(text) = history.find(version).unwrap_err();
            assert!(text.starts_with(words) && text.ends_with("there are aaaa1, aaaa2"), "{text}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_bad_versions_do_not_drive_good_ones_out() {
        let mut history = after(&["v1", "v2", "v3", "v4"]);
        assert_eq!(history.past().iter().map(|past| &*past.digest).collect::<Vec<_>>(), ["v2", "v3"]);
        for bad in ["b1", "b2", "b3"] {
            history.gave_way("v4");
            history.in_force(bad);
            history.rolled_back(bad, "it trapped");
            history.in_force("v4");
        }
        assert_eq!(history.past().iter().map(|past| &*past.digest).collect::<Vec<_>>(), ["v3", "b3"]);
        assert_eq!(history.target(), Some("v3"));
    }
}
