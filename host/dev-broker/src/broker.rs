//! The embedded broker: plain MQTT 3.1.1 and 5 on a loopback port, everything in memory.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use mqtt5::broker::config::{AuthConfig, BrokerConfig, RateLimitConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};
use tokio_util::task::AbortOnDropHandle;

/// Largest packet. AWS IoT takes 128 KiB; the host has to keep its limits itself.
const MAX_PACKET: usize = 4 * 1024 * 1024;

/// Most messages that wait for one session, and most bytes; beyond it the oldest are dropped.
const MAX_WAITING: usize = 100_000;
const MAX_WAITING_BYTES: usize = 256 * 1024 * 1024;

/// Most unacknowledged messages to one client. A client of MQTT 5 can ask for fewer; with
/// 3.1.1 this is all there is, and AWS IoT has 100.
const OUTBOUND_WINDOW: u16 = 100;

/// A running broker without TLS. Dropping it ends its tasks soon; [`Broker::shutdown`] waits
/// for that. Sessions and retained messages end with it.
pub struct Broker {
    addr: SocketAddr,
    handle: BrokerShutdownHandle,
    running: AbortOnDropHandle<mqtt5::Result<()>>,
}

impl Broker {
    /// Starts a broker on a port of 127.0.0.1 that the system chooses. It accepts everybody.
    ///
    /// # Errors
    ///
    /// Fails if no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let mut broker = MqttBroker::with_config(config()).await.context("configure the broker")?;
        let addr = broker.local_addr().context("the broker has no port")?;
        let handle = broker.shutdown_handle();
        let mut ready = broker.ready_receiver();
        let task = tokio::spawn(async move { broker.run().await });
        let running = AbortOnDropHandle::new(task);
        // The broker hears its shutdown signal only once it is ready.
        if ready.wait_for(|ready| *ready).await.is_err() {
            running.await?.context("run the broker")?;
            anyhow::bail!("the broker ended before it was ready");
        }
        Ok(Self { addr, handle, running })
    }

    /// Where clients, and fronts, connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Disconnects all clients, frees the port and waits until that is done.
    ///
    /// # Errors
    ///
    /// Fails if the broker had failed before.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.handle.shutdown();
        self.running.await?.context("run the broker")
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Nothing on disk, no `$SYS` topics, no limit on rates. What is not said here has a default
/// that suits: all of QoS 2, retained messages, wildcards and shared subscriptions are on,
/// and sessions last as long as their clients ask for.
fn config() -> BrokerConfig {
    let storage = StorageConfig::new()
        .with_backend(StorageBackend::Memory)
        .with_cleanup_interval(Duration::from_secs(60))
        .with_max_queued_messages_per_client(MAX_WAITING)
        .with_max_queued_bytes_per_client(MAX_WAITING_BYTES);
    let auth = AuthConfig {
        allow_anonymous: true,
        rate_limit: RateLimitConfig { enabled: false, ..RateLimitConfig::default() },
        ..AuthConfig::default()
    };
    BrokerConfig::new()
        .with_bind_address((Ipv4Addr::LOCALHOST, 0))
        .with_storage(storage)
        .with_auth(auth)
        .with_max_packet_size(MAX_PACKET)
        .with_client_channel_capacity(MAX_WAITING)
        .with_max_outbound_inflight(OUTBOUND_WINDOW)
        .with_server_receive_maximum(u16::MAX)
        .with_sys_topics_enabled(false)
}
