//! What ends TLS before the peer, on a thread of its own.

use std::{net::SocketAddr, thread};

use alphorn::config::Config;
use alphorn_dev_broker::Front;
use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::support::{Place, config_for, servers::Certificates};

/// Ends when dropped.
pub(crate) struct TlsFront {
    place: Place,
    _certificates: Certificates,
    _end: oneshot::Sender<()>,
}

impl TlsFront {
    /// Before that address.
    pub(crate) fn start(peer: SocketAddr) -> Result<Self> {
        let certificates = Certificates::new()?;
        let config = certificates.front();
        let (ready, started) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("front".into()).spawn(move || front(peer, config, &ready, ended))?;
        let port = started.recv().context("the TLS front has ended")??;
        Ok(Self { place: certificates.place(port), _certificates: certificates, _end: end })
    }

    /// For the peer behind it: MQTT 3.1.1, a clean session.
    pub(crate) fn configuration(&self, more: &str) -> Result<Config> {
        config_for(&self.place, "rig", more)
    }
}

fn front(
    peer: SocketAddr,
    config: alphorn_dev_broker::FrontConfig,
    ready: &std::sync::mpsc::Sender<Result<u16>>,
    ended: oneshot::Receiver<()>,
) {
    let run = async {
        let front = Front::start(peer, config).await?;
        // Who waits for it is there until then.
        let _ = ready.send(Ok(front.addr().port()));
        let _ = ended.await;
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Err(error) = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run)) {
        let _ = ready.send(Err(error));
    }
}
