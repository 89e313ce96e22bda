//! The byte stream with its two buffers.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What a connection runs over: TCP, or TLS on it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Reads and writes at the same time, from one task and without a lock. All progress
/// is kept in here, so a turn that is dropped loses nothing.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    /// Read and not yet decoded.
    pub inbound: BytesMut,
    /// Encoded and not yet written.
    pub outbound: BytesMut,
    /// Written into TLS and not yet flushed to the socket.
    unflushed: bool,
    /// The last turn wrote.
    has_written: bool,
    /// What one read fills. Decoded messages share the memory of `inbound`, which is
    /// therefore only as large as what came.
    scratch: Box<[u8]>,
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more in `inbound`.
    Read,
    /// `outbound` is written and flushed.
    Written,
    /// The other side has closed the stream.
    Closed,
}

/// Bytes read at once.
const READ: usize = 16 * 1024;

impl Wire {
    /// With empty buffers.
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            unflushed: false,
            has_written: false,
            scratch: vec![0; READ].into(),
        }
    }

    /// Writes what is outbound and waits until that is done or something arrived. Safe to drop.
    pub(super) async fn turn(&mut self) -> io::Result<Turn> {
        let writing = self.is_writing();
        poll_fn(|cx| {
            // In turns: a peer that takes all we have must still be heard.
            let read_first = std::mem::take(&mut self.has_written);
            if read_first && let Poll::Ready(turn) = self.poll_read(cx) {
                return Poll::Ready(turn);
            }
            if writing && self.poll_write(cx)?.is_ready() {
                self.has_written = true;
                return Poll::Ready(Ok(Turn::Written));
            }
            if read_first { Poll::Pending } else { self.poll_read(cx) }
        })
        .await
    }

    /// Something is on its way out.
    pub(super) fn is_writing(&self) -> bool {
        !self.outbound.is_empty() || self.unflushed
    }

    /// Writes what is left and closes the stream in good order.
    pub(super) async fn close(mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_write(cx)).await?;
        self.stream.shutdown().await
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbound))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbound.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Turn>> {
        let mut room = ReadBuf::new(&mut self.scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.inbound.extend_from_slice(room.filled());
        Poll::Ready(Ok(if read == 0 { Turn::Closed } else { Turn::Read }))
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("inbound", &self.inbound.len())
            .field("outbound", &self.outbound.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_all_we_have_is_still_heard() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let (mut reading, mut writing) = tokio::io::split(theirs);
        let mut wire = Wire::new(Box::new(ours));
        writing.write_all(b"hello").await.unwrap();
        let mut turns = Vec::new();
        for _ in 0..3 {
            wire.outbound.extend_from_slice(&[1; 10]);
            turns.push(timeout(Duration::from_secs(5), wire.turn()).await.unwrap().unwrap());
            if turns.last() == Some(&Turn::Read) {
                return;
            }
            reading.read_exact(&mut [0; 10]).await.unwrap();
        }
        panic!("{turns:?}");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_does_not_keep_us_from_reading() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut wire = Wire::new(Box::new(ours));
        wire.outbound.extend_from_slice(&[1; 100]);
        theirs.write_all(b"hello").await.unwrap();
        let turn = timeout(Duration::from_secs(5), wire.turn()).await.unwrap().unwrap();
        assert_eq!((turn, &wire.inbound[..]), (Turn::Read, &b"hello"[..]));

        let mut all = vec![0; 100];
        let read = theirs.read_exact(&mut all);
        let (turn, read) = timeout(Duration::from_secs(5), async { tokio::join!(wire.turn(), read) }).await.unwrap();
        assert_eq!((turn.unwrap(), read.unwrap()), (Turn::Written, 100));
        drop(theirs);
        assert_eq!(wire.turn().await.unwrap(), Turn::Closed);
    }
}
