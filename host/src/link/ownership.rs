//! Whose the session is that the broker has under this client id. Pure.
//!
//! A session that is none of ours is ended, with its subscriptions and what waits in it. So the disk
//! says that there is one of ours before the broker is asked for anything it would keep for us.

/// What is known of the session at the broker.
#[derive(Debug)]
pub(super) struct Ownership {
    /// One that the broker has may be ours.
    may_be_ours: bool,
    /// The disk says that there is one of ours; without a disk nothing has to.
    is_kept: bool,
    /// The next connection is for ending a session that is none of ours.
    is_ending: bool,
}

impl Ownership {
    /// Without a disk nobody knows; the backlog of what is most likely the run before is not thrown away.
    pub(super) const fn unknowable() -> Self {
        Self { may_be_ours: true, is_kept: true, is_ending: false }
    }

    /// `is_kept`: the disk says that there is a session of ours. `is_damaged`: it may have said so.
    pub(super) const fn on_disk(is_kept: bool, is_damaged: bool) -> Self {
        Self { may_be_ours: is_kept || is_damaged, is_kept, is_ending: false }
    }

    /// A connection stands. False: it is not to be served, because it is for ending a session of
    /// somebody else, or because the next one is to be.
    pub(super) fn accepts(&mut self, session_present: bool) -> bool {
        let was_ending = std::mem::take(&mut self.is_ending);
        self.is_ending = session_present && !self.may_be_ours && !was_ending;
        self.may_be_ours |= !self.is_ending;
        !self.is_ending && !was_ending
    }

    /// The next connection is to begin with a clean session and to leave none.
    pub(super) const fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// The disk says now that there is a session of ours.
    pub(super) const fn kept(&mut self) {
        self.is_kept = true;
    }

    /// The broker may be asked to keep something for us.
    pub(super) const fn is_kept(&self) -> bool {
        self.is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_nobody_here_began_is_ended_once() {
        let mut ownership = Ownership::on_disk(false, false);
        assert!(!ownership.accepts(true) && ownership.is_ending());
        assert!(!ownership.accepts(false) && !ownership.is_ending(), "it is the one that ends it");
        assert!(ownership.accepts(false));
        assert!(ownership.accepts(true), "the one of a moment ago");
    }

    #[test]
    fn a_broker_that_does_not_end_it_is_taken_as_it_is() {
        let mut ownership = Ownership::on_disk(false, false);
        assert!(!ownership.accepts(true) && !ownership.accepts(true));
        assert!(ownership.accepts(true));
    }

    #[test]
    fn what_may_be_ours_is_gone_on_with() {
        for mut ownership in [Ownership::unknowable(), Ownership::on_disk(true, false), Ownership::on_disk(false, true)]
        {
            assert!(ownership.accepts(true));
        }
    }

    #[test]
    fn nothing_is_asked_for_before_the_disk_knows() {
        assert!(Ownership::unknowable().is_kept() && Ownership::on_disk(true, false).is_kept());
        let mut ownership = Ownership::on_disk(false, false);
        assert!(ownership.accepts(false) && !ownership.is_kept());
        ownership.kept();
        assert!(ownership.is_kept());
    }
}
