//! What the broker leaves unanswered while it answers others: a topic it has forgotten, or that it
//! throttles. Pure.
//!
//! MQTT 5 lets a message be sent again on another connection only, so one that was not answered in
//! time costs a connection now and then. From then on there is one message on its topic under way at
//! a time, so that it does not fill the window that is everybody's; and what was left unanswered on
//! `STRIKES` connections that answered others is convicted.

use super::Item;

#[derive(Debug, Default)]
pub(super) struct Mute(Vec<Found>);

#[derive(Debug)]
struct Found {
    item: Item,
    /// Connections that answered others, sent later, and not this.
    strikes: u32,
}

/// So many connections are enough.
const STRIKES: u32 = 3;

/// Items remembered; the oldest are forgotten.
const REMEMBERED: usize = 64;

impl Mute {
    /// There are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, item: &Item) -> bool {
        self.0.iter().any(|found| found.item == *item)
    }

    /// It was not answered in time; `others`: what was sent later was. True: convicted.
    pub(super) fn was_unanswered(&mut self, item: &Item, others: bool) -> bool {
        let at = self.0.iter().position(|found| found.item == *item);
        let mut found = match at {
            Some(at) => self.0.remove(at),
            None => Found { item: item.clone(), strikes: 0 },
        };
        found.strikes += u32::from(others);
        if found.strikes >= STRIKES {
            return true;
        }
        if self.0.len() >= REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(found);
        false
    }

    /// It was answered after all.
    pub(super) fn answered(&mut self, item: &Item) {
        self.0.retain(|found| found.item != *item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn item(topic: &str) -> Item {
        Item::Publish { owner: 1, topic: TopicName::parse(topic.to_owned()).unwrap() }
    }

    #[test]
    fn three_connections_that_answer_others_convict() {
        let mut mute = Mute::default();
        assert!(!mute.was_unanswered(&item("a"), true) && !mute.was_unanswered(&item("a"), true));
        assert!(!mute.was_unanswered(&item("a"), false), "one that answers nobody says nothing about it");
        assert!(mute.contains(&item("a")));
        assert!(mute.was_unanswered(&item("a"), true));
        assert!(mute.is_empty());
    }

    #[test]
    fn an_answer_forgives() {
        let mut mute = Mute::default();
        mute.was_unanswered(&item("a"), true);
        mute.was_unanswered(&item("a"), true);
        mute.answered(&item("a"));
        assert!(!mute.was_unanswered(&item("a"), true));
        for number in 0..1000 {
            mute.was_unanswered(&item(&number.to_string()), true);
        }
        assert!(mute.0.len() <= REMEMBERED);
    }
}
