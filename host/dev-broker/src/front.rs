//! A TLS front: terminates TLS on a loopback port, forwards the bytes to a plain broker,
//! remembers what each client presented, and makes the link bad on demand.
//!
//! ```text
//! accepting task ── one task per connection ── handshake ── relay ── broker
//!       ▲                    ▲                     │          ▲
//!       │ refuse             │ cut, close          ▼          │ blackhole, delay
//!       └────────────────── Faults             records       Faults
//! ```

mod faults;
mod port;
mod records;
mod relay;
mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub use faults::{Direction, Faults};
use faults::{Listening, Severing, Switches};
use port::Port;
pub use records::ConnectionRecord;
pub(crate) use records::Records;
pub(crate) use tls::Terminator;
pub use tls::TlsVersions;
use tls::end_in_order;

use crate::certs::Identity;

/// Pause after a failed `accept`, which would otherwise be retried at full speed while, for
/// instance, file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What a [`Front`] shows to its clients and demands from them.
#[derive(Debug, Clone)]
pub struct FrontConfig {
    /// Certificate and key of the server.
    pub identity: Identity,
    /// Certificates (PEM) of which one must have issued the client's certificate. `None` asks
    /// for no client certificate.
    pub client_ca: Option<String>,
    /// Protocols to agree on, the preferred one first. Empty agrees on none whatever a client
    /// offers; otherwise a client that offers only others is refused.
    pub alpn: Vec<Vec<u8>>,
    /// Whether a client that offers no protocol at all is refused, too.
    pub require_alpn: bool,
    /// Versions of TLS to speak.
    pub versions: TlsVersions,
    /// Most bytes that a TLS record of ours has, header included; `None`: as many as TLS allows.
    pub max_fragment: Option<usize>,
}

impl FrontConfig {
    /// A front that demands nothing: no client certificate, no ALPN.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            client_ca: None,
            alpn: Vec::new(),
            require_alpn: false,
            versions: TlsVersions::Both,
            max_fragment: None,
        }
    }
}

/// A running TLS front. Dropping it ends its connections and frees its port soon;
/// [`Front::shutdown`] waits for that.
#[derive(Debug)]
pub struct Front {
    addr: SocketAddr,
    shared: Arc<Shared>,
    faults: Faults,
    tasks: TaskTracker,
}

/// What the tasks of a front have in common.
#[derive(Debug)]
struct Shared {
    terminator: Terminator,
    /// Where new connections are forwarded to.
    upstream: Mutex<SocketAddr>,
    records: Records,
    /// The number of the next connection.
    next_id: AtomicU64,
    switches: watch::Sender<Switches>,
    severing: Arc<Mutex<Severing>>,
    stopping: CancellationToken,
}

impl Front {
    /// Listens on a port of 127.0.0.1 that the system chooses, and forwards to `upstream`.
    ///
    /// # Errors
    ///
    /// Fails if the configured certificates or key are unusable, or no port is free.
    #[expect(clippy::unused_async, reason = "must be called within a runtime")]
    pub async fn start(upstream: SocketAddr, config: FrontConfig) -> anyhow::Result<Self> {
        let terminator = Terminator::new(&config).context("configure the TLS front")?;
        let (port, listener) = Port::listen_anywhere().context("listen for the TLS front")?;
        let addr = port.addr();

        // One command at a time: each is answered before the next matters.
        let (listening, commands) = mpsc::channel(1);
        let faults = Faults { switches: watch::Sender::new(Switches::default()), severing: Arc::default(), listening };
        let shared = Arc::new(Shared {
            terminator,
            upstream: Mutex::new(upstream),
            records: Records::new(),
            next_id: AtomicU64::new(0),
            switches: faults.switches.clone(),
            severing: Arc::clone(&faults.severing),
            stopping: CancellationToken::new(),
        });
        let tasks = TaskTracker::new();
        let acceptor =
            Acceptor { port, listener: Some(listener), commands, shared: Arc::clone(&shared), tasks: tasks.clone() };
        tasks.spawn(acceptor.run());
        Ok(Self { addr, shared, faults, tasks })
    }

    /// Where clients connect to. Stays the same while [`Faults::refuse`] is on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A handle that makes the link bad.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Forwards new connections to another broker, for instance one that has lost all
    /// sessions. Current connections stay with the old one.
    pub fn redirect(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// What was seen of each connection so far, in the order of arrival; the newest 1024.
    #[must_use]
    pub fn records(&self) -> Vec<ConnectionRecord> {
        self.shared.records.snapshot()
    }

    /// Waits until the records fulfil a condition, and returns those that did. It may wait
    /// forever: put a deadline around it.
    pub async fn wait_for(&self, condition: impl FnMut(&[ConnectionRecord]) -> bool) -> Vec<ConnectionRecord> {
        self.shared.records.wait_for(condition).await
    }

    /// Ends all connections, frees the port and waits until that is done.
    pub async fn shutdown(self) {
        self.shared.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
    }
}

/// The task that owns the listener.
struct Acceptor {
    port: Port,
    /// `None` while connections are refused.
    listener: Option<TcpListener>,
    commands: mpsc::Receiver<Listening>,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(mut self) {
        let stopping = self.shared.stopping.clone();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                Some(command) = self.commands.recv() => {
                    let outcome = self.set_refusing(command.refuse);
                    // Whoever asked may have stopped waiting; the switch is set all the same.
                    let _ = command.done.send(outcome);
                }
                accepted = accept(self.listener.as_ref()) => match accepted {
                    Ok(tcp) => self.serve(tcp),
                    Err(error) => {
                        warn!(%error, "the TLS front cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn set_refusing(&mut self, refuse: bool) -> std::io::Result<()> {
        if refuse {
            self.listener = None;
        } else if self.listener.is_none() {
            self.listener = Some(self.port.listen_again()?);
        }
        Ok(())
    }

    fn serve(&self, tcp: TcpStream) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.records.open(id);
        let severing = self.shared.severing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = Connection { id, severing, shared: Arc::clone(&self.shared) };
        self.tasks.spawn(connection.run(tcp));
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(tcp, _)| tcp),
        None => std::future::pending().await,
    }
}

/// One client's way to the broker.
struct Connection {
    id: u64,
    /// Signals that end this connection and its contemporaries.
    severing: Severing,
    shared: Arc<Shared>,
}

impl Connection {
    async fn run(self, mut tcp: TcpStream) {
        let id = self.id;
        tokio::select! {
            biased;
            () = self.shared.stopping.cancelled() => {}
            () = self.severing.cut.cancelled() => {
                // Turns the close below into a reset.
                if let Err(error) = tcp.set_zero_linger() {
                    warn!(id, %error, "the TLS front cannot reset a connection");
                }
            }
            outcome = self.forward(&mut tcp) => if let Err(error) = outcome {
                debug!(id, error = format!("{error:#}"), "connection through the TLS front failed");
                self.shared.records.update(id, |record| {
                    record.error = Some(format!("{error:#}"));
                });
            }
        }
        drop(tcp);
        self.shared.records.update(id, |record| record.closed = true);
    }

    async fn forward(&self, tcp: &mut TcpStream) -> anyhow::Result<()> {
        let Shared { terminator, upstream, records, switches, .. } = &*self.shared;
        tcp.set_nodelay(true)?;

        let handshake = async {
            // Fails only without the sender, which `shared` holds.
            switches.subscribe().wait_for(|s| !s.ignore_new).await?;
            terminator.accept(&mut *tcp, records, self.id).await
        };
        let mut client = tokio::select! {
            biased;
            () = self.severing.close.cancelled() => return Ok(()),
            client = handshake => client?,
        };

        let upstream = *upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut broker =
            TcpStream::connect(upstream).await.with_context(|| format!("connect to the broker at {upstream}"))?;
        broker.set_nodelay(true)?;
        tokio::select! {
            biased;
            () = self.severing.close.cancelled() => {
                end_in_order(&mut client).await;
                Ok(())
            }
            relayed = relay::relay(&mut client, &mut broker, switches) => {
                relayed.context("relay")
            }
        }
    }
}
