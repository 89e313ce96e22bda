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
    /// There is so much more in `inbound`.
    Read(usize),
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

    /// Writes what is outbound and waits until that is done or, where it may read, something arrived.
    /// Safe to drop.
    pub(super) async fn turn(&mut self, may_read: bool) -> io::Result<Turn> {
        let writing = self.is_writing();
        poll_fn(|cx| {
            // In turns: a peer that takes all we have must still be heard.
            let read_first = may_read && std::mem::take(&mut self.has_written);
            if read_first && let Poll::Ready(turn) = self.poll_read(cx) {
                return Poll::Ready(turn);
            }
            if writing && self.poll_write(cx)?.is_ready() {
                self.has_written = true;
                return Poll::Ready(Ok(Turn::Written));
            }
            if read_first || !may_read { Poll::Pending } else { self.poll_read(cx) }
        })
        .await
    }

    /// Something is on its way out.
    pub(super) fn is_writing(&self) -> bool {
        !self.outbound.is_empty() || self.unflushed
    }

    /// Writes what is left and closes the stream in good order: the peer gets all of it. With
    /// unread bytes the end would become a reset, and what was written would be lost with it; so the rest is
    /// read until the peer has closed its side, too. How long that may take is for the caller to say.
    pub(super) async fn close(mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_closing_write(cx)).await?;
        self.stream.shutdown().await?;
        // However it ends: it is over.
        while let Ok(Turn::Read(_)) = poll_fn(|cx| self.poll_read(cx)).await {
            self.inbound.clear();
        }
        Ok(())
    }

    /// Writes, and reads meanwhile: a peer that waits for us to read does not read either.
    fn poll_closing_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Poll::Ready(written) = self.poll_write(cx) {
                return Poll::Ready(written);
            }
            match ready!(self.poll_read(cx))? {
                Turn::Read(_) => self.inbound.clear(),
                Turn::Written | Turn::Closed => return self.poll_write(cx),
            }
        }
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
        Poll::Ready(Ok(if read == 0 { Turn::Closed } else { Turn::Read(read) }))
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
            turns.push(timeout(Duration::from_secs(5), wire.turn(true)).await.unwrap().unwrap());
            if matches!(turns.last(), Some(Turn::Read(_))) {
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
        let turn = timeout(Duration::from_secs(5), wire.turn(true)).await.unwrap().unwrap();
        assert_eq!((turn, &wire.inbound[..]), (Turn::Read(5), &b"hello"[..]));

        let mut all = vec![0; 100];
        let read = theirs.read_exact(&mut all);
        let (turn, read) =
            timeout(Duration::from_secs(5), async { tokio::join!(wire.turn(true), read) }).await.unwrap();
        assert_eq!((turn.unwrap(), read.unwrap()), (Turn::Written, 100));
        drop(theirs);
        assert_eq!(wire.turn(true).await.unwrap(), Turn::Closed);
    }

    #[tokio::test]
    async fn what_may_not_be_read_is_left_alone_and_writing_goes_on() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut wire = Wire::new(Box::new(ours));
        theirs.write_all(b"hello").await.unwrap();
        wire.outbound.extend_from_slice(&[1; 100]);
        let mut all = [0; 100];
        let (turn, read) = tokio::join!(wire.turn(false), theirs.read_exact(&mut all));
        assert_eq!((turn.unwrap(), read.unwrap()), (Turn::Written, 100));
        assert!(timeout(Duration::from_millis(20), wire.turn(false)).await.is_err() && wire.inbound.is_empty());
        assert_eq!(wire.turn(true).await.unwrap(), Turn::Read(5));
    }

    /// Over TCP, where unread bytes make the difference.
    #[tokio::test]
    async fn what_was_written_arrives_although_the_peer_has_sent_more_than_was_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let mut wire = Wire::new(Box::new(ours));
        let peer = tokio::spawn(async move {
            // More than the sockets hold: it reads when all of that is gone.
            theirs.write_all(&vec![7; 16 * 1024 * 1024]).await?;
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all)
        });
        assert!(matches!(wire.turn(true).await.unwrap(), Turn::Read(_)));
        wire.outbound.extend_from_slice(&[1; 100_000]);
        timeout(Duration::from_secs(5), wire.close()).await.unwrap().unwrap();
        assert_eq!(peer.await.unwrap().unwrap().len(), 100_000);
    }
}
