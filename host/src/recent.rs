//! The last lines of the log, for `alphorn logs`.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;
use tracing_subscriber::fmt::MakeWriter;

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
    to_come: broadcast::Sender<Arc<str>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
}

/// One line being written.
#[derive(Debug)]
pub struct LineWriter<'a> {
    recent: &'a Recent,
    line: Vec<u8>,
}

impl Recent {
    /// Empty.
    pub fn new() -> Self {
        Self { lines: Arc::default(), to_come: broadcast::channel(BEHIND).0 }
    }

    /// The lines so far, and those to come.
    pub fn look(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let kept = self.kept();
        (kept.lines.iter().cloned().collect(), self.to_come.subscribe())
    }

    fn take(&self, line: &str) {
        let line: Arc<str> = line.into();
        let mut kept = self.kept();
        kept.bytes += line.len();
        kept.lines.push_back(line.clone());
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
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

impl<'a> MakeWriter<'a> for Recent {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { recent: self, line: Vec::new() }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        let line = mem::take(&mut self.line);
        self.recent.take(String::from_utf8_lossy(&line).trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_the_next_are_told() {
        let recent = Recent::new();
        for number in 0..=LINES {
            writeln!(recent.make_writer(), "line {number}").unwrap();
        }
        let (lines, mut to_come) = recent.look();
        assert_eq!((lines.len(), &*lines[0]), (LINES, "line 1"));
        recent.take("one more");
        assert_eq!(&*to_come.try_recv().unwrap(), "one more");
        recent.take(&"x".repeat(BYTES));
        assert_eq!(recent.look().0.len(), 1, "bounded by bytes, too");
    }
}
