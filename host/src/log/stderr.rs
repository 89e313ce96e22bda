//! Lines on their way to stderr: a bounded queue, and one thread that writes.
//!
//! Whoever logs only puts a line into the queue. A terminal, a pipe or a journal that takes lines
//! slowly then delays nobody, and what has no room is counted and said.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Bytes that may wait.
const ROOM: usize = 256 * 1024;

/// Of which plugins' lines take no more than this: what the host says of itself still finds room.
const PLUGINS: usize = ROOM / 4 * 3;

/// Stderr by way of the queue; shared by all who have it.
#[derive(Debug, Clone, Default)]
pub struct Stderr(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or nothing any more.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Lines that found no room since the last time that was said.
    left_out: u64,
    /// The thread has taken bytes and not yet written them.
    is_writing: bool,
    has_thread: bool,
}

/// The name of the thread that writes.
const THREAD: &str = "alphorn-log";

/// There is one stderr.
static OF_PROCESS: LazyLock<Stderr> = LazyLock::new(Stderr::default);

impl Stderr {
    /// This process's.
    pub fn of_process() -> Self {
        OF_PROCESS.clone()
    }

    /// In place of a process's: for tests and benchmarks, which keep what they log apart.
    pub fn to(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let stderr = Self::default();
        let shared = stderr.0.clone();
        let write = move || shared.write_all_there_is(&mut out);
        thread::Builder::new().name(THREAD.into()).spawn(write)?;
        stderr.0.queue().has_thread = true;
        Ok(stderr)
    }

    /// Nothing is written.
    #[cfg(test)]
    pub(super) fn to_nobody() -> Self {
        let stderr = Self::default();
        stderr.0.queue().has_thread = true;
        stderr
    }

    /// One line, without its end. A plugin's line has less room.
    pub fn write(&self, line: &str, is_plugins: bool) {
        let mut queue = self.0.queue();
        if !queue.has_thread {
            let shared = self.0.clone();
            let write = move || shared.write_all_there_is(&mut io::stderr());
            // Only what logs needs the thread, and most commands don't.
            queue.has_thread = thread::Builder::new().name(THREAD.into()).spawn(write).is_ok();
            if !queue.has_thread {
                drop(queue);
                let _ = writeln!(io::stderr(), "{line}");
                return;
            }
        }
        // Else the thread is at work, and looks again by itself: to wake it costs a call of the system.
        let is_awaited = queue.is_idle();
        queue.put(line, is_plugins);
        drop(queue);
        if is_awaited {
            self.0.changed.notify_all();
        }
    }

    /// Waits until all is written, but not for long: whoever reads may never do so.
    pub fn flush(&self, patience: Duration) {
        let queue = self.0.queue();
        let _ = self.0.changed.wait_timeout_while(queue, patience, |queue| queue.has_thread && !queue.is_idle());
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_there_is(&self, out: &mut impl Write) {
        let mut taken = Vec::new();
        loop {
            let mut queue = self.queue();
            queue.is_writing = false;
            if queue.is_idle() {
                self.changed.notify_all();
            }
            while queue.is_idle() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.take(&mut taken);
            drop(queue);
            // Nobody can be told that stderr is closed.
            let _ = out.write_all(&taken);
            taken.clear();
            // In a flood of lines it would else keep its processor from threads that have just woken, and
            // write a few lines at a time.
            thread::yield_now();
        }
    }
}

impl Queue {
    fn put(&mut self, line: &str, is_plugins: bool) {
        let room = if is_plugins { PLUGINS } else { ROOM };
        if self.waiting.len() + line.len() < room {
            self.waiting.extend_from_slice(line.as_bytes());
            self.waiting.push(b'\n');
        } else {
            self.left_out += 1;
        }
    }

    /// Puts what waits into an empty buffer, and says what had no room.
    fn take(&mut self, into: &mut Vec<u8>) {
        std::mem::swap(&mut self.waiting, into);
        self.is_writing = true;
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            let text = format!("({left_out} lines were left out here: they came faster than stderr takes them)\n");
            into.extend_from_slice(text.as_bytes());
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.left_out == 0 && !self.is_writing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted_and_the_hosts_own_lines_have_more() {
        let mut queue = Queue::default();
        let line = "x".repeat(1023);
        (0..300).for_each(|_| queue.put(&line, true));
        assert_eq!((queue.waiting.len(), queue.left_out), (PLUGINS, 300 - PLUGINS as u64 / 1024));
        queue.put("the host's own", false);
        let mut taken = Vec::new();
        queue.take(&mut taken);
        let text = String::from_utf8(taken).unwrap();
        let end: Vec<_> = text.lines().rev().take(2).collect();
        assert_eq!(end, ["(108 lines were left out here: they came faster than stderr takes them)", "the host's own"]);
        assert!(!queue.is_idle(), "it is not yet written");
    }

    #[test]
    fn a_reader_that_does_not_read_delays_nobody() {
        /// Takes nothing until it is let.
        struct Stuck(std::sync::mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (let_go, stuck) = std::sync::mpsc::channel();
        let written = Arc::default();
        let out = Stuck(stuck, Arc::clone(&written));
        let stderr = Stderr::to(out).unwrap();
        (0..100_000).for_each(|number| stderr.write(&format!("line {number}"), true));
        stderr.flush(Duration::from_millis(10));
        assert!(written.lock().unwrap().is_empty());
        drop(let_go);
        stderr.flush(Duration::from_secs(60));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("line 0\nline 1\n") && text.contains("lines were left out here"), "{}", text.len());
    }
}
