//! Who publishes: a plugin, Alphorn's link without one, and plain client libraries. Each in
//! a process of its own, over TLS with a client certificate, MQTT 3.1.1: `bench/start`, then
//! the messages on `bench/data`, each with its number in front, then `bench/done`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use alphorn::{
    host::Host,
    link::{self, Client, ClientOptions, Link, NotTaken, WhenFull},
    message::{Message, Qos},
    plugin::compile::Compiler,
    topic::TopicName,
};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rumqttc_v4::PublishOptions;
use serde::{Deserialize, Serialize};
use tokio::{runtime, time::sleep};
use tokio_rustls::TlsConnector;

use super::{
    Place, config_for,
    process::{Meter, until_told},
};

/// Requests that the libraries' own queues hold.
const QUEUE: usize = 100;

/// Unacknowledged messages; what Alphorn has by itself.
const WINDOW: u16 = 100;

/// Messages that the newer library sends in one go. Its queue holds as many.
const BATCH: usize = 256;

/// A plugin's share of the outbox, unless it is configured.
const SHARE: usize = 8 * 1024 * 1024;

/// How long who finds the outbox full waits before the next attempt, as the plugin does.
const WHEN_FULL: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Who {
    /// rumqttc 0.25.1, as its users get it.
    Rumqttc,
    /// rumqttc-v4-next 0.34, whose codec is ours, with its batching switched on.
    Next,
    /// Alphorn's link, without a plugin.
    Link,
    /// The whole of Alphorn.
    Plugin,
}

/// What a publisher has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) who: Who,
    pub(crate) qos: u8,
    /// Bytes of a payload.
    pub(crate) size: usize,
    pub(crate) count: u32,
    pub(crate) place: Place,
    /// The plugin's component.
    pub(crate) guest: PathBuf,
    /// Messages that one call into the plugin publishes at most, and how many timers make calls.
    pub(crate) call: u32,
    pub(crate) timers: u32,
    /// More of the host's configuration.
    pub(crate) host: String,
}

impl Who {
    pub(crate) const ALL: [Self; 4] = [Self::Rumqttc, Self::Next, Self::Link, Self::Plugin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rumqttc => "rumqttc 0.25.1",
            Self::Next => "rumqttc-v4-next, batching",
            Self::Link => "link",
            Self::Plugin => "plugin",
        }
    }

    /// What is in force, beyond the defaults.
    pub(crate) fn settings(self) -> String {
        match self {
            Self::Rumqttc => format!("nodelay, inflight {WINDOW}, queue {QUEUE}, one thread"),
            Self::Next => format!("nodelay, inflight {WINDOW}, queue and batch {BATCH}, one thread"),
            Self::Link => format!("defaults: memory, window as the broker says, outbox {SHARE} bytes; two threads"),
            Self::Plugin => {
                "defaults, but publish_rate = \"unlimited\" and, unless said otherwise, storage = \"memory\"".to_owned()
            }
        }
    }
}

impl Job {
    /// In a child: does it.
    pub(crate) fn run(&self) -> Result<()> {
        // The program's own number of threads; libraries are fastest on one.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).max(2);
        let runtime = match self.who {
            Who::Plugin => runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
            Who::Rumqttc | Who::Next | Who::Link => runtime::Builder::new_current_thread().enable_all().build()?,
        };
        runtime.block_on(async {
            match self.who {
                Who::Rumqttc => self.by_rumqttc().await,
                Who::Next => self.by_next().await,
                Who::Link => self.by_link().await,
                Who::Plugin => self.by_plugin().await,
            }
        })
    }

    async fn by_rumqttc(&self) -> Result<()> {
        use rumqttc::{AsyncClient, MqttOptions, NetworkOptions, QoS, TlsConfiguration, Transport};

        let tls = link::client_config(&config_for(&self.place, "rumqttc", "")?.link.tls)?;
        let mut options = MqttOptions::new("rumqttc", &self.place.host, self.place.port);
        options.set_inflight(WINDOW).set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.into())));
        let (client, mut events) = AsyncClient::new(options, QUEUE);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        let meter = Meter::start();
        let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        let qos = if self.qos == 1 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let sending = async {
            client.publish("bench/start", QoS::AtLeastOnce, false, "").await?;
            for number in 0..self.count {
                client.publish_bytes("bench/data", qos, false, self.payload(number)).await?;
            }
            client.publish("bench/done", QoS::AtLeastOnce, false, "").await?;
            until_told().await
        };
        alone(polling, sending).await?;
        meter.tell(self.count)
    }

    async fn by_next(&self) -> Result<()> {
        use rumqttc_v4::{AsyncClient, MqttOptions};

        let tls = link::client_config(&config_for(&self.place, "next", "")?.link.tls)?;
        let connector = TlsConnector::from(Arc::new(tls));
        let mut options = MqttOptions::new("next", (self.place.host.as_str(), self.place.port));
        options.set_inflight(WINDOW).set_max_request_batch(BATCH);
        // Its own TLS is the same on the same stream, but a feature that the program does without.
        let host = self.place.host.clone();
        options.set_socket_connector(move |address, mut network| {
            let (connector, host) = (connector.clone(), host.clone());
            async move {
                network.set_tcp_nodelay(true);
                let tcp = rumqttc_v4::default_socket_connect(address, network).await?;
                let name = host.try_into().map_err(std::io::Error::other)?;
                connector.connect(name, tcp).await
            }
        });
        let (client, mut events) = AsyncClient::builder(options).capacity(BATCH).build();
        let meter = Meter::start();
        let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        let options = if self.qos == 1 { PublishOptions::at_least_once() } else { PublishOptions::at_most_once() };
        let sending = async {
            client.publish("bench/start", "", PublishOptions::at_least_once()).await?;
            for number in 0..self.count {
                client.publish("bench/data", self.payload(number), options).await?;
            }
            client.publish("bench/done", "", PublishOptions::at_least_once()).await?;
            until_told().await
        };
        alone(polling, sending).await?;
        meter.tell(self.count)
    }

    async fn by_link(&self) -> Result<()> {
        let settings = config_for(&self.place, "link", "")?.link;
        let meter = Meter::start();
        let link = Link::start(settings, None)?;
        let (client, _mailbox) = link.client(&ClientOptions {
            name: None,
            when_full: WhenFull::DropNewest,
            inbox_bytes: 0,
            outbox_bytes: SHARE,
            mailbox_messages: 1,
            mailbox_bytes: 0,
            tracked: false,
            words: alphorn::allowance::Allowance::unlimited(),
        });
        link.open();
        link.status().wait_for(|status| status.connection().is_some()).await?;
        let message = |topic, payload, qos| {
            anyhow::Ok(Message { topic: TopicName::parse(topic)?, payload, qos, retain: false, properties: None })
        };
        let qos = if self.qos == 1 { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        publish(&client, message("bench/start", Bytes::new(), Qos::AtLeastOnce)?).await?;
        let template = message("bench/data", Bytes::new(), qos)?;
        for number in 0..self.count {
            publish(&client, Message { payload: self.payload(number), ..template.clone() }).await?;
        }
        publish(&client, message("bench/done", Bytes::new(), Qos::AtLeastOnce)?).await?;
        until_told().await?;
        meter.tell(self.count)?;
        link.close(Duration::from_secs(1)).await;
        Ok(())
    }

    async fn by_plugin(&self) -> Result<()> {
        let Self { qos, size, count, guest, call, timers, host, .. } = self;
        let plugin = format!(
            "{host}\n[plugins.flood]\ncomponent = {guest:?}\npublish = [\"bench/+\"]\n\
             [plugins.flood.config]\nqos = \"{qos}\"\ncount = \"{count}\"\nsize = \"{size}\"\n\
             call = \"{call}\"\ntimers = \"{timers}\"\n\
             [plugins.flood.limits]\npublish_rate = \"unlimited\"\n"
        );
        let config = config_for(&self.place, "plugin", &plugin)?;
        let host = Host::start(config, Compiler::InProcess)?;
        host.open().await;
        // Compiling is over, connecting has just begun.
        let meter = Meter::start();
        until_told().await?;
        meter.tell(*count)?;
        host.shutdown().await;
        Ok(())
    }

    /// Made anew for each message, as a plugin's is.
    fn payload(&self, number: u32) -> Bytes {
        let mut payload = Vec::with_capacity(self.size);
        payload.extend_from_slice(&number.to_be_bytes());
        payload.resize(self.size, b'x');
        payload.into()
    }
}

/// A library's event loop must not end while somebody publishes.
async fn alone(polling: tokio::task::JoinHandle<()>, sending: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        _ = polling => bail!("the connection was lost"),
        sent = sending => sent,
    }
}

async fn publish(client: &Client, message: Message) -> Result<()> {
    loop {
        match client.publish_at_once(message.clone(), Instant::now()) {
            Err(NotTaken::Full) => sleep(WHEN_FULL).await,
            taken => return taken.map(drop).context("not taken"),
        }
    }
}
