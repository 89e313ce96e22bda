//! Takes what is published, counts it, acknowledges it, and forgets it: what is left of a
//! broker when only the publishers' speed is to be measured.
//!
//! It terminates TLS as the [`Front`](crate::Front) does, with no relay and no broker behind,
//! and has a thread of its own, so that it shares no runtime with what is measured. It hears
//! MQTT 3.1.1 and 5, QoS 0 and 1; a SUBSCRIBE is granted, and nothing ever comes of it.
//!
//! A payload begins with the number of its message, four bytes, big endian. Numbers are
//! counted once each, so a message that is sent again does not make anybody faster.

mod packets;
mod tally;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::packets::{Ended, Session};
pub use self::tally::Tally;
use self::tally::Tallying;
use crate::front::{FrontConfig, Records, Terminator};

/// Bytes that one read from the socket takes; rustls alone would take 4 KiB.
const FROM_SOCKET: usize = 128 * 1024;

/// Bytes of packets that are looked through at once. A larger packet gets what it needs.
const AT_ONCE: usize = 64 * 1024;

/// A running sink. Dropping it ends its connections and its thread.
pub struct Sink {
    addr: SocketAddr,
    tallying: Arc<Tallying>,
    stopping: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sink {
    /// Listens on a port of 127.0.0.1 that the system chooses.
    ///
    /// # Errors
    ///
    /// Fails if the configured certificates or key are unusable, or no port is free.
    pub fn start(config: &FrontConfig) -> anyhow::Result<Self> {
        let terminator = Arc::new(Terminator::new(config).context("configure the sink's TLS")?);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for the sink")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tallying, stopping) = (Arc::new(Tallying::default()), CancellationToken::new());
        let serving = accept(listener, terminator, Arc::clone(&tallying));
        let stopped = stopping.clone();
        let thread = thread::Builder::new().name("sink".into()).spawn(move || {
            if let Some(Err(error)) = runtime.block_on(stopped.run_until_cancelled(serving)) {
                debug!(%error, "the sink accepts no more connections");
            }
        })?;
        Ok(Self { addr, tallying, stopping, thread: Some(thread) })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was counted since the start, or since [`Sink::reset`].
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tallying.read()
    }

    /// Forgets what was counted, and every number that was seen.
    pub fn reset(&self) {
        self.tallying.reset();
    }

    /// Waits until so many different numbers were seen. It may wait forever: put a deadline
    /// around it.
    pub async fn wait_for(&self, numbers: u32) -> Tally {
        self.tallying.wait_for(numbers).await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stopping.cancel();
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread has panicked, which has been printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("addr", &self.addr).field("tally", &self.tally()).finish_non_exhaustive()
    }
}

async fn accept(
    listener: std::net::TcpListener,
    terminator: Arc<Terminator>,
    tallying: Arc<Tallying>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let (terminator, tallying) = (Arc::clone(&terminator), Arc::clone(&tallying));
        tokio::spawn(async move {
            if let Err(error) = serve(tcp, &terminator, &tallying).await {
                debug!(error = format!("{error:#}"), "a connection to the sink failed");
            }
        });
    }
}

async fn serve(tcp: TcpStream, terminator: &Terminator, tallying: &Tallying) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let tcp = BufReader::with_capacity(FROM_SOCKET, tcp);
    let mut stream = terminator.accept(tcp, &Records::new(), 0).await?;
    let mut session = Session::default();
    let mut buffer = vec![0; AT_ONCE];
    let mut answers = Vec::with_capacity(AT_ONCE);
    let mut filled = 0;
    loop {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let packets = buffer.get(..filled).unwrap_or_default();
        let taken = tallying.count(|counted| session.take(packets, &mut answers, counted))?;
        stream.write_all(&answers).await?;
        stream.flush().await?;
        answers.clear();
        match taken {
            Ended::Disconnect => return Ok(stream.shutdown().await?),
            Ended::Bytes { used, needed } => {
                buffer.copy_within(used..filled, 0);
                filled -= used;
                if buffer.len() < needed {
                    buffer.resize(needed, 0);
                }
            }
        }
    }
}
