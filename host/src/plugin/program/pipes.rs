//! A program's standard input and output: one line in, whole lines out, both bounded.
//!
//! The program's end of them waits where an operating system's would: reading, until there is a
//! line or the end; writing, while there is more than [`ROOM`] that has not been published. Both
//! ends belong to the plugin's one task; nobody ever waits for the lock.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    mem::{size_of, take},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdinStream, StdoutStream},
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

/// Bytes of whole lines that may wait to be published.
const ROOM: usize = 64 * 1024;

/// The host's end.
#[derive(Clone)]
pub(super) struct Pipes(Arc<Mutex<Both>>);

/// Where a program reads.
pub(super) struct Stdin(Pipes);

/// Where it writes.
pub(super) struct Stdout(Pipes);

/// A line that was printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Printed {
    /// Without its end.
    Line(Vec<u8>),
    /// It is longer than may be, and left out to its end.
    TooLong,
}

/// The pure part: what is in both.
struct Both {
    /// What it has not read yet of the line it was given.
    input: Bytes,
    /// Nothing more comes.
    is_closed: bool,
    /// It wants to read, and there is nothing.
    asks: bool,
    /// It has read some of the line it was given.
    has_read: bool,
    reader: Option<Waker>,
    /// Whole lines, and what they take.
    lines: VecDeque<Printed>,
    bytes: usize,
    /// The line that is not ended yet.
    line: Vec<u8>,
    /// That is too long: the rest of it is left out.
    is_too_long: bool,
    /// The longest a line may be.
    longest: usize,
    writer: Option<Waker>,
}

impl Pipes {
    /// `longest`: bytes of a line of output, without its end.
    pub(super) fn new(longest: usize) -> Self {
        Self(Arc::new(Mutex::new(Both {
            input: Bytes::new(),
            is_closed: false,
            asks: false,
            has_read: false,
            reader: None,
            lines: VecDeque::new(),
            bytes: 0,
            line: Vec::new(),
            is_too_long: false,
            longest,
            writer: None,
        })))
    }

    pub(super) fn stdin(&self) -> Stdin {
        Stdin(self.clone())
    }

    pub(super) fn stdout(&self) -> Stdout {
        Stdout(self.clone())
    }

    /// Gives it a line, which it has asked for.
    pub(super) fn feed(&self, line: Vec<u8>) {
        let mut both = self.both();
        both.input = line.into();
        both.asks = false;
        both.has_read = false;
        both.wake_reader();
    }

    /// Behind what it has been given comes the end.
    pub(super) fn close(&self) {
        let mut both = self.both();
        both.is_closed = true;
        both.wake_reader();
    }

    /// It has read all it was given, and wants more.
    pub(super) fn asks(&self) -> bool {
        self.both().asks
    }

    /// It has read some of what it was given last.
    pub(super) fn has_read(&self) -> bool {
        self.both().has_read
    }

    /// There are whole lines.
    pub(super) fn has_printed(&self) -> bool {
        !self.both().lines.is_empty()
    }

    /// The next whole line.
    pub(super) fn next_line(&self) -> Option<Printed> {
        let mut both = self.both();
        let printed = both.lines.pop_front()?;
        both.bytes -= printed.size();
        if let Some(writer) = both.writer.take() {
            writer.wake();
        }
        Some(printed)
    }

    /// It has ended well: what it has not ended is a line all the same.
    pub(super) fn end_line(&self) {
        let mut both = self.both();
        if !both.line.is_empty() {
            both.line_ends();
        }
    }

    /// Whole lines nobody has taken.
    pub(super) fn left(&self) -> usize {
        self.both().lines.len()
    }

    fn both(&self) -> MutexGuard<'_, Both> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Printed {
    fn size(&self) -> usize {
        let bytes = match self {
            Self::Line(line) => line.len(),
            Self::TooLong => 0,
        };
        bytes + size_of::<Self>()
    }
}

impl Both {
    /// `None`: it has to wait. Empty: the end.
    fn read(&mut self, size: usize) -> Option<Bytes> {
        if size == 0 {
            return None;
        }
        if !self.input.is_empty() {
            self.has_read = true;
            return Some(self.input.split_to(size.min(self.input.len())));
        }
        self.asks = true;
        self.is_closed.then(Bytes::new)
    }

    fn poll_read(&mut self, context: &Context<'_>) -> Poll<()> {
        if !self.input.is_empty() || self.is_closed {
            return Poll::Ready(());
        }
        self.asks = true;
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Bytes it may write now.
    fn room(&self) -> usize {
        ROOM.saturating_sub(self.bytes)
    }

    fn poll_write(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.room() > 0 {
            return Poll::Ready(());
        }
        self.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if !self.is_too_long && self.line.len() + text.len() > self.longest {
                self.is_too_long = true;
                self.line = Vec::new();
                self.push(Printed::TooLong);
            }
            if !self.is_too_long {
                self.line.extend_from_slice(text);
            }
            if is_whole {
                self.line_ends();
            }
        }
    }

    fn line_ends(&mut self) {
        let line = take(&mut self.line);
        if !take(&mut self.is_too_long) {
            self.push(Printed::Line(line));
        }
    }

    fn push(&mut self, printed: Printed) {
        self.bytes += printed.size();
        self.lines.push_back(printed);
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Self(self.0.clone()))
    }

    /// Not the default, which reads ahead: it would ask before the program does.
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(Self(self.0.clone()))
    }
}

impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.0.both().read(size) {
            Some(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Some(bytes) => Ok(bytes),
            None => Ok(Bytes::new()),
        }
    }
}

#[async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        poll_fn(|context| self.0.both().poll_read(context)).await;
    }
}

impl AsyncRead for Stdin {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut both = self.0.both();
        ready!(both.poll_read(context));
        let bytes = both.read(buffer.remaining()).unwrap_or_default();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Self(self.0.clone()))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Self(self.0.clone()))
    }
}

impl OutputStream for Stdout {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.both().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.0.both().room())
    }
}

#[async_trait]
impl Pollable for Stdout {
    async fn ready(&mut self) {
        poll_fn(|context| self.0.both().poll_write(context)).await;
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut both = self.0.both();
        ready!(both.poll_write(context));
        let bytes = bytes.get(..both.room()).unwrap_or(bytes);
        both.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<Printed> {
        Some(Printed::Line(text.as_bytes().to_vec()))
    }

    #[test]
    fn it_asks_when_it_wants_more_than_the_line_it_has() {
        let pipes = Pipes::new(10);
        let mut stdin = pipes.stdin();
        assert!(!pipes.asks());
        assert!(stdin.read(8).unwrap().is_empty() && pipes.asks());
        pipes.feed(b"12345\n".to_vec());
        assert!(!pipes.asks() && !pipes.has_read());
        assert_eq!((&stdin.read(4).unwrap()[..], &stdin.read(4).unwrap()[..]), (&b"1234"[..], &b"5\n"[..]));
        assert!(!pipes.asks() && pipes.has_read(), "it has the line, and may be at it");
        assert!(stdin.read(0).unwrap().is_empty() && !pipes.asks());
        pipes.close();
        assert!(matches!(stdin.read(4), Err(StreamError::Closed)) && pipes.asks());
    }

    #[tokio::test]
    async fn whoever_reads_waits_for_a_line_and_whoever_writes_for_room() {
        let pipes = Pipes::new(ROOM);
        let (mut stdin, mut stdout) = (pipes.stdin(), pipes.stdout());
        let fed = async {
            tokio::task::yield_now().await;
            assert!(pipes.asks());
            pipes.feed(b"x\n".to_vec());
        };
        assert_eq!(tokio::join!(stdin.blocking_read(9), fed).0.unwrap(), "x\n");
        while stdout.check_write().unwrap() > 0 {
            stdout.write(b"a line of twenty byt\n".to_vec().into()).unwrap();
        }
        let taken = async {
            tokio::task::yield_now().await;
            assert_eq!(pipes.next_line(), line("a line of twenty byt"));
        };
        assert!(tokio::join!(stdout.write_ready(), taken).0.unwrap() > 0);
        assert!(pipes.left() < ROOM / 20, "what is beside a line counts, too");
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let pipes = Pipes::new(10);
        let mut stdout = pipes.stdout();
        stdout.write("on".into()).unwrap();
        assert!(!pipes.has_printed());
        stdout.write("e\n\ntwo\nthr".into()).unwrap();
        let lines = [pipes.next_line(), pipes.next_line(), pipes.next_line(), pipes.next_line()];
        assert_eq!(lines, [line("one"), line(""), line("two"), None]);
        pipes.end_line();
        assert_eq!((pipes.next_line(), pipes.both().bytes), (line("thr"), 0));
        pipes.end_line();
        assert!(!pipes.has_printed());
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_to_its_end_and_takes_no_memory() {
        let pipes = Pipes::new(4);
        let mut stdout = pipes.stdout();
        stdout.write("1234\n12345\n1".into()).unwrap();
        assert_eq!((pipes.next_line(), pipes.next_line()), (line("1234"), Some(Printed::TooLong)));
        for _ in 0..1000 {
            stdout.write("2345678".into()).unwrap();
        }
        assert_eq!((pipes.next_line(), pipes.next_line()), (Some(Printed::TooLong), None), "said once");
        assert_eq!(pipes.both().line.capacity(), 0);
        stdout.write("9\nnext\n".into()).unwrap();
        assert_eq!((pipes.next_line(), pipes.next_line()), (line("next"), None));
    }
}
