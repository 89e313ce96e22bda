//! Passes bytes between client and broker, through the faults of each direction.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::faults::{Lane, Switches};

/// Most bytes taken in one read: what a TLS record holds.
const CHUNK: usize = 16 * 1024;

/// Most bytes that wait in one direction because of a fault, give or take a chunk.
const WAITING_BYTES: usize = 256 * 1024;

/// Most chunks that wait, so that many tiny ones are bounded too.
const WAITING_CHUNKS: usize = 1024;

/// Runs until both directions have ended or one has failed.
pub(super) async fn relay<C>(
    client: &mut C,
    broker: &mut TcpStream,
    switches: &watch::Sender<Switches>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (client_reader, client_writer) = tokio::io::split(client);
    let (broker_reader, broker_writer) = broker.split();
    let to_broker = Pump::new(client_reader, broker_writer, switches, |s| s.to_broker);
    let to_client = Pump::new(broker_reader, client_writer, switches, |s| s.to_client);
    tokio::try_join!(to_broker.run(), to_client.run())?;
    Ok(())
}

/// One direction.
struct Pump<R, W> {
    reader: R,
    writer: W,
    /// Where the faults come from, and our part of them as last seen.
    switches: watch::Receiver<Switches>,
    pick: fn(&Switches) -> Lane,
    lane: Lane,
    /// The bytes last read.
    buffer: Vec<u8>,
    /// What a fault holds back, oldest first, and how many bytes that is.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Whether the end of the stream was read; it may still be waiting.
    ended: bool,
}

/// Something that arrived and was not passed on yet.
struct Waiting {
    arrived: Instant,
    what: Arrival,
}

enum Arrival {
    Bytes(Vec<u8>),
    End,
    Failure(io::Error),
}

impl<R, W> Pump<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    fn new(reader: R, writer: W, switches: &watch::Sender<Switches>, pick: fn(&Switches) -> Lane) -> Self {
        let mut switches = switches.subscribe();
        let lane = pick(&switches.borrow_and_update());
        Self {
            reader,
            writer,
            switches,
            pick,
            lane,
            buffer: Vec::with_capacity(CHUNK),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ended: false,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        loop {
            let finished =
                if self.lane.is_clear() && self.waiting.is_empty() { self.pass().await? } else { self.wait().await? };
            if finished {
                return Ok(());
            }
        }
    }

    /// Copies one chunk. A fault may have been switched on while the read was pending, hence
    /// the look at the switches after it; without a change that is one atomic load.
    async fn pass(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        let read = self.reader.read_buf(&mut self.buffer).await;
        if self.switches.has_changed().unwrap_or(false) {
            self.refresh();
        }
        if !self.lane.is_clear() {
            self.hold(read);
            return Ok(false);
        }
        if read? == 0 {
            self.writer.shutdown().await?;
            return Ok(true);
        }
        self.writer.write_all(&self.buffer).await?;
        self.writer.flush().await?;
        Ok(false)
    }

    /// Waits for the first of: the oldest held chunk is due, another arrives, a switch moves.
    async fn wait(&mut self) -> io::Result<bool> {
        let due = self
            .waiting
            .front()
            .filter(|_| !self.lane.blackhole)
            // A delay beyond the clock's range never ends.
            .and_then(|oldest| oldest.arrived.checked_add(self.lane.delay));
        let has_room = !self.ended && self.waiting_bytes < WAITING_BYTES && self.waiting.len() < WAITING_CHUNKS;
        self.buffer.clear();
        tokio::select! {
            changed = self.switches.changed() => {
                // The sender outlives the relay, which borrows it.
                changed.map_err(io::Error::other)?;
                self.refresh();
                Ok(false)
            }
            () = sleep_until(due), if due.is_some() => self.deliver().await,
            read = self.reader.read_buf(&mut self.buffer), if has_room => {
                self.hold(read);
                Ok(false)
            }
        }
    }

    fn refresh(&mut self) {
        self.lane = (self.pick)(&self.switches.borrow_and_update());
    }

    /// Puts the outcome of a read behind what already waits.
    fn hold(&mut self, read: io::Result<usize>) {
        let what = match read {
            Ok(0) => Arrival::End,
            // A copy of the exact size: the chunk's spare room would escape the bound.
            Ok(_) => Arrival::Bytes(self.buffer.as_slice().to_vec()),
            Err(error) => Arrival::Failure(error),
        };
        if let Arrival::Bytes(bytes) = &what {
            self.waiting_bytes += bytes.len();
        } else {
            self.ended = true;
        }
        self.waiting.push_back(Waiting { arrived: Instant::now(), what });
    }

    /// Passes on the oldest held item; true if it was the end.
    async fn deliver(&mut self) -> io::Result<bool> {
        match self.waiting.pop_front().map(|oldest| oldest.what) {
            None => Ok(false),
            Some(Arrival::Bytes(bytes)) => {
                self.waiting_bytes -= bytes.len();
                self.writer.write_all(&bytes).await?;
                self.writer.flush().await?;
                Ok(false)
            }
            Some(Arrival::End) => {
                self.writer.shutdown().await?;
                Ok(true)
            }
            Some(Arrival::Failure(error)) => Err(error),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn bytes_that_wait_are_bounded() -> io::Result<()> {
        let pipe = 4 * CHUNK;
        let taken = taken_in_blackhole(pipe).await?;
        assert!(taken >= WAITING_BYTES, "{taken}");
        assert!(taken <= WAITING_BYTES + CHUNK + pipe, "{taken}");
        Ok(())
    }

    #[tokio::test]
    async fn tiny_chunks_that_wait_are_bounded() -> io::Result<()> {
        assert_eq!(taken_in_blackhole(1).await?, WAITING_CHUNKS + 1);
        Ok(())
    }

    /// How much a pump and the pipe before it take while nothing passes.
    async fn taken_in_blackhole(pipe: usize) -> io::Result<usize> {
        let switches = watch::Sender::new(Switches::default());
        switches.send_modify(|switches| switches.to_broker.blackhole = true);
        let (mut client, reader) = duplex(pipe);
        let (writer, _broker) = duplex(pipe);
        let pump = Pump::new(reader, writer, &switches, |s| s.to_broker);
        let pump = tokio::spawn(pump.run());

        let words = vec![0; pipe];
        let mut taken = 0;
        // Without progress for so long, the writer counts as halted.
        let halt = Duration::from_millis(500);
        while let Ok(written) = tokio::time::timeout(halt, client.write(&words)).await {
            taken += written?;
        }
        assert!(!pump.is_finished());
        pump.abort();
        Ok(taken)
    }
}
