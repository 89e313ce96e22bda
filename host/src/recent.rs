//! The last lines of the log, for `alphorn logs`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

/// Lines kept.
const LINES: usize = 1000;

/// Their bytes.
const BYTES: usize = 512 * 1024;

/// Lines a reader may be behind.
const BEHIND: usize = 256;

/// A log is written to this; shared by all who have it.
#[derive(Debug, Clone)]
pub struct Recent {
    lines: Arc<Mutex<Kept>>,
    to_come: broadcast::Sender<Line>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whose it is, if it is a plugin's.
    plugin: Option<Arc<str>>,
    text: Arc<str>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Line {
    /// As it was logged.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is of this plugin; any is of `None`. What it says does not count.
    pub fn is_of(&self, plugin: Option<&str>) -> bool {
        plugin.is_none_or(|plugin| self.plugin.as_deref() == Some(plugin))
    }
}

impl Recent {
    /// Empty.
    pub fn new() -> Self {
        Self { lines: Arc::default(), to_come: broadcast::channel(BEHIND).0 }
    }

    /// The lines so far, and those to come.
    pub fn look(&self) -> (Vec<Line>, broadcast::Receiver<Line>) {
        let kept = self.kept();
        (kept.lines.iter().cloned().collect(), self.to_come.subscribe())
    }

    /// Takes the next line.
    pub fn take(&self, plugin: Option<Arc<str>>, text: &str) {
        let line = Line { plugin, text: text.into() };
        let mut kept = self.kept();
        kept.bytes += text.len();
        kept.lines.push_back(line.clone());
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.text.len();
        }
        // Nobody may be listening.
        let _ = self.to_come.send(line);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_the_next_are_told() {
        let recent = Recent::new();
        for number in 0..=LINES {
            recent.take(None, &format!("line {number}"));
        }
        let (lines, mut to_come) = recent.look();
        assert_eq!((lines.len(), lines[0].text()), (LINES, "line 1"));
        recent.take(None, "one more");
        assert_eq!(to_come.try_recv().unwrap().text(), "one more");
        recent.take(None, &"x".repeat(BYTES));
        assert_eq!(recent.look().0.len(), 1, "bounded by bytes, too");
    }

    #[test]
    fn a_line_is_whose_it_is_and_not_whose_it_says() {
        let line = Line { plugin: Some("villain".into()), text: "INFO plugin{name=innocent}: hello".into() };
        assert!(line.is_of(Some("villain")) && line.is_of(None));
        assert!(!line.is_of(Some("innocent")));
        assert!(!Line { plugin: None, ..line }.is_of(Some("innocent")));
    }
}
