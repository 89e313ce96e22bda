//! The switches that make the link bad.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client; withholds acknowledgements and leaves publishes alone.
    ToClient,
    /// Either way.
    Both,
}

/// Makes the link behind a [`Front`](super::Front) bad and good again while it runs.
///
/// Clones switch the same front. All faults are off at the start and independent of each
/// other; they do not end with the handle.
#[derive(Clone)]
pub struct Faults {
    pub(super) switches: watch::Sender<Switches>,
    pub(super) severing: Arc<Mutex<Severing>>,
    pub(super) listening: mpsc::Sender<Listening>,
}

impl Faults {
    /// Drops all current connections with a reset, as when a middlebox forgets them.
    ///
    /// New connections are welcome at once. The records say when the old ones are closed.
    pub fn cut(&self) {
        self.renew_severing().cut.cancel();
    }

    /// Ends all current connections in order: `close_notify`, then the end of the stream.
    ///
    /// New connections are welcome at once. The records say when the old ones are closed.
    pub fn close(&self) {
        self.renew_severing().close.cancel();
    }

    /// Refuses new connections (`ECONNREFUSED`) until called with `false`, on the same port.
    /// Current connections stay. In effect when this returns.
    ///
    /// # Errors
    ///
    /// Fails if the port cannot be listened on again, or the front is shut down.
    pub async fn refuse(&self, refuse: bool) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the front is shut down");
        self.listening.send(Listening { refuse, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Lets connections stay open but passes no bytes until called with `false`.
    ///
    /// The bytes wait, they are not lost: the front takes a bounded amount, then the sender's
    /// socket fills up. The end of a stream waits just so, therefore a broker learns of a
    /// client's departure only when the fault is lifted. A write that was already under way
    /// is finished. New connections complete their handshakes, see [`Self::ignore_new`].
    pub fn blackhole(&self, direction: Direction, blackhole: bool) {
        self.change(direction, |lane| lane.blackhole = blackhole);
    }

    /// Delivers bytes this much later than they arrived, in order; [`Duration::ZERO`] ends it
    /// and releases what waits. A latency, not a limit on throughput, up to a bounded amount
    /// of bytes under way.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |lane| lane.delay = delay);
    }

    /// Accepts new TCP connections but does not answer their TLS handshakes until called with
    /// `false`; then those that still wait are answered.
    pub fn ignore_new(&self, ignore: bool) {
        self.switches.send_modify(|switches| switches.ignore_new = ignore);
    }

    fn change(&self, direction: Direction, change: impl Fn(&mut Lane)) {
        self.switches.send_modify(|switches| match direction {
            Direction::ToBroker => change(&mut switches.to_broker),
            Direction::ToClient => change(&mut switches.to_client),
            Direction::Both => {
                change(&mut switches.to_broker);
                change(&mut switches.to_client);
            }
        });
    }

    /// Takes the tokens of all current connections and leaves fresh ones for the next.
    fn renew_severing(&self) -> Severing {
        let mut severing = self.severing.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut severing)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&*self.switches.borrow()).finish()
    }
}

/// The faults that last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Switches {
    pub(super) to_broker: Lane,
    pub(super) to_client: Lane,
    /// Whether the handshakes of new connections stay unanswered.
    pub(super) ignore_new: bool,
}

/// The faults of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lane {
    pub(super) delay: Duration,
    pub(super) blackhole: bool,
}

impl Lane {
    /// Whether bytes may pass as they come.
    pub(super) fn is_clear(self) -> bool {
        self.delay.is_zero() && !self.blackhole
    }
}

/// The two ways in which a generation of connections can end.
#[derive(Debug, Clone, Default)]
pub(super) struct Severing {
    pub(super) cut: CancellationToken,
    pub(super) close: CancellationToken,
}

/// Tells the accepting task to leave its port or to come back to it.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) refuse: bool,
    pub(super) done: oneshot::Sender<io::Result<()>>,
}
