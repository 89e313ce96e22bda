//! What a guest prints, line by line into the log.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::{Span, error, info};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::imports::LONGEST_LINE;
use crate::allowance::Allowance;

/// The most of a guest's words that is kept with a message or an error, in bytes.
const WORDS: usize = 1024;

/// What a guest gives as its reason, as it may be logged and kept: in one line, so that it can't
/// look like a line of the host's own, and no longer than needed.
pub(super) fn said(words: &str) -> String {
    let words = words.get(..words.floor_char_boundary(WORDS)).unwrap_or(words);
    words.trim().replace(char::is_control, " ")
}

/// Stdout or stderr of one guest.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Lines>>);

/// Cuts what is printed into lines. All streams of an output share the line that is not
/// ended yet; only the guest's one task ever takes the lock.
struct Lines {
    is_error: bool,
    allowance: Allowance,
    line: Vec<u8>,
    /// What it says of why it fails, if it does.
    last: LastWords,
    /// Of the plugin: streams may be written to outside of it.
    span: Span,
}

impl Output {
    pub(super) fn out(allowance: Allowance) -> Self {
        Self::new(false, allowance)
    }

    pub(super) fn err(allowance: Allowance) -> Self {
        Self::new(true, allowance)
    }

    fn new(is_error: bool, allowance: Allowance) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            is_error,
            allowance,
            line: Vec::new(),
            last: LastWords::default(),
            span: Span::current(),
        })))
    }

    /// Something that the guest says in another way, and that belongs to its last words.
    pub(super) fn note(&self, words: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.note(words);
    }

    /// What the guest said last, and not before then: in one line. None: nothing.
    pub(super) fn last_words(&self, since: Instant) -> Option<String> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unended = String::from_utf8_lossy(&lines.line).into_owned();
        lines.last.note(&unended);
        lines.last.take(since)
    }

    fn take(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
    }
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        let mut left_out = 0;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LONGEST_LINE) {
                self.line.extend_from_slice(part);
                if part.ends_with(b"\n") || self.line.len() >= LONGEST_LINE {
                    if left_out == 0 {
                        left_out += usize::from(!self.log());
                    } else {
                        // Behind one that may not be written none is; a guest may print thousands at once.
                        left_out += usize::from(!self.line.trim_ascii().is_empty());
                        if self.is_error {
                            self.last.note(&String::from_utf8_lossy(&self.line));
                        }
                        self.line.clear();
                    }
                }
            }
        }
        self.allowance.leave_out(left_out.saturating_sub(1));
    }

    /// False: it may not be written.
    fn log(&mut self) -> bool {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end();
        if self.is_error {
            self.last.note(text);
        }
        let is_written = text.is_empty() || self.allowance.take();
        if is_written && !text.is_empty() {
            self.span.in_scope(|| match text {
                text if self.is_error => error!(target: "plugin", "{text}"),
                text => info!(target: "plugin", "{text}"),
            });
        }
        self.line.clear();
        is_written
    }
}

/// The last lines a guest has printed.
#[derive(Debug, Default)]
struct LastWords(VecDeque<(Instant, String)>);

impl LastWords {
    /// Lines that are kept: enough for a panic, or an exception and where it was thrown.
    const LINES: usize = 6;
    /// Bytes of each.
    const BYTES: usize = 160;

    fn note(&mut self, line: &str) {
        let line = line.trim();
        // What Rust says below each panic is of no use to anybody here.
        if line.is_empty() || line.starts_with("note: run with `RUST_BACKTRACE=1`") {
            return;
        }
        // Most guests that print much never fail: the memory is used again.
        let mut kept = if self.0.len() < Self::LINES { None } else { self.0.pop_front() };
        let mut kept = kept.take().map_or_else(String::new, |(_, line)| line);
        kept.clear();
        kept.push_str(line.get(..line.floor_char_boundary(Self::BYTES)).unwrap_or_default());
        self.0.push_back((Instant::now(), kept));
    }

    fn take(&mut self, since: Instant) -> Option<String> {
        let lines = self.0.iter().filter(|(at, _)| *at >= since).map(|(_, line)| line.as_str());
        let words = lines.collect::<Vec<_>>().join(" ");
        self.0.clear();
        Some(said(&words)).filter(|words| !words.is_empty())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.log();
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    /// Not by way of a task of its own, as the default is, so that lines stay in order
    /// with what the guest logs.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
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

    /// What independent testing did: each of a million lines was asked for, 74 ms for one call.
    #[test]
    fn of_many_lines_those_behind_the_last_that_may_be_written_are_only_counted() {
        let allowance = Allowance::of_its_own("10/s".parse().unwrap());
        let mut lines = Output::out(allowance.clone());
        lines.take(&b"x\n\n".repeat(10_000));
        let left_out = Allowance::take_left_out;
        // A second or two may pass meanwhile on a busy machine.
        assert!((9_900..10_000).contains(&left_out(&allowance)), "empty ones don't count");
        lines.write(Bytes::from_static(b"one that is not ended")).unwrap();
        assert_eq!(left_out(&allowance), 0);

        let wasi = wasmtime_wasi::WasiCtxBuilder::new().build();
        let mut state =
            crate::plugin::imports::GuestState::new(wasi, String::new(), 0, allowance.clone(), lines.clone());
        let log = |state: &mut _, text| {
            use crate::plugin::bindings::alphorn::plugin::host::{Host, Level};
            Host::log(state, Level::Info, text).unwrap();
        };
        log(&mut state, "y\n".repeat(1_000_000));
        assert!((32_000..=32_769).contains(&left_out(&allowance)), "what is looked at is bounded");
        log(&mut state, "x".repeat(1_000_000));
        assert_eq!(left_out(&allowance), 2, "the line, and what comes behind what is looked at");
    }

    #[test]
    fn last_words_are_those_of_the_call_and_the_last() {
        let output = Output::err(Allowance::unlimited());
        output.take(b"before\n");
        let since = Instant::now();
        assert_eq!(output.last_words(since), None);
        output
            .take(b"\nthread '<unnamed>' panicked at src/lib.rs:3:5:\nno more tea\nnote: run with `RUST_BACKTRACE=1` ");
        output.take(b"environment variable to display a backtrace\nand no");
        output.take(b" end");
        let words = "thread '<unnamed>' panicked at src/lib.rs:3:5: no more tea and no end";
        assert_eq!(output.last_words(since).as_deref(), Some(words));
        for number in 0..100 {
            output.take(format!("line {number} {}\n", "x".repeat(5000)).as_bytes());
        }
        let words = output.last_words(since).unwrap();
        assert!(words.len() <= WORDS && !words.contains("line 91 ") && words.contains("line 98 "), "{words}");
    }

    #[test]
    fn a_guests_words_are_one_line_of_bounded_length() {
        assert_eq!(said(" a\nERROR link: b\u{1b}[31m\n"), "a ERROR link: b [31m");
        let long = said(&"ä".repeat(5000));
        assert!(long.len() <= WORDS && long.chars().all(|c| c == 'ä'), "{}", long.len());
    }
}
