//! What of a plugin's messages is on disk only. Pure.
//!
//! Messages go from the link into a mailbox. When it is full, or nobody reads it, they go
//! to the plugin's inbox on disk instead, and so do all behind them until the inbox has
//! been read back: that keeps their order.

use super::arrivals::Token;

/// How far one inbox has been read back.
#[derive(Debug, Default)]
pub(super) struct Overflow(Option<Reading>);

#[derive(Debug)]
struct Reading {
    /// All up to this one has gone into the mailbox.
    read_to: Token,
    is_loading: bool,
    /// Something was put behind what is being loaded.
    grew: bool,
}

impl Overflow {
    /// Whatever is in the inbox is there only.
    pub(super) fn everything() -> Self {
        Self(Some(Reading { read_to: 0, is_loading: false, grew: true }))
    }

    /// Messages have to go to the inbox.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A message goes to the inbox and not into the mailbox.
    pub(super) fn put(&mut self, token: Token) {
        let reading = self.0.get_or_insert(Reading { read_to: token - 1, is_loading: false, grew: false });
        reading.grew = true;
    }

    /// From where on the inbox is to be read, unless that is under way.
    pub(super) fn load(&mut self) -> Option<Token> {
        let reading = self.0.as_mut().filter(|reading| !reading.is_loading)?;
        reading.is_loading = true;
        reading.grew = false;
        Some(reading.read_to)
    }

    /// What was read ends with this one. `more`: there is more behind it.
    pub(super) fn loaded(&mut self, last: Option<Token>, more: bool) {
        let Some(reading) = &mut self.0 else { return };
        reading.is_loading = false;
        reading.read_to = last.unwrap_or(reading.read_to);
        if !more && !reading.grew {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_one_message_is_on_disk_all_go_there_until_it_is_read() {
        let mut overflow = Overflow::default();
        assert!(!overflow.is_on() && overflow.load().is_none());
        overflow.put(7);
        assert!(overflow.is_on());
        assert_eq!(overflow.load(), Some(6));
        assert_eq!(overflow.load(), None, "one at a time");
        overflow.put(8);
        overflow.loaded(Some(7), false);
        assert!(overflow.is_on(), "another came meanwhile");
        assert_eq!(overflow.load(), Some(7));
        overflow.loaded(Some(8), false);
        assert!(!overflow.is_on());
    }

    #[test]
    fn a_long_inbox_is_read_in_parts() {
        let mut overflow = Overflow::everything();
        assert_eq!(overflow.load(), Some(0));
        overflow.loaded(Some(40), true);
        assert_eq!(overflow.load(), Some(40));
        overflow.loaded(None, false);
        assert!(!overflow.is_on());
    }
}
