//! Who sends messages back: the plugin `echo`, Alphorn's link without a plugin, and a plain
//! client library. Each in a process of its own, over TLS with a client certificate, MQTT
//! 3.1.1: what comes on `test/ping` goes back on `test/ping/echo`, with the same QoS.

use std::{path::PathBuf, time::Instant};

use alphorn::{
    host::Host,
    link::{self, ClientOptions, Item, Link, WhenFull},
    message::{Message, Qos},
    plugin::compile::Compiler,
    topic::{TopicFilter, TopicName},
};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{runtime, select};

use super::{
    Place, config_for,
    process::{Meter, until_told},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Echoer {
    Rumqttc,
    Link,
    Plugin,
}

/// What an echoer has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echoing {
    pub(crate) who: Echoer,
    pub(crate) place: Place,
    /// The plugin's component.
    pub(crate) guest: PathBuf,
}

impl Echoer {
    pub(crate) const ALL: [Self; 3] = [Self::Rumqttc, Self::Link, Self::Plugin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rumqttc => "rumqttc 0.25.1",
            Self::Link => "link",
            Self::Plugin => "plugin",
        }
    }
}

impl Echoing {
    /// In a child: does it, and says at the end what it has used.
    pub(crate) fn run(&self) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).max(2);
        let runtime = match self.who {
            Echoer::Plugin => runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
            Echoer::Rumqttc | Echoer::Link => runtime::Builder::new_current_thread().enable_all().build()?,
        };
        let meter = Meter::start();
        runtime.block_on(async {
            select! {
                told = until_told() => told,
                ended = async {
                    match self.who {
                        Echoer::Rumqttc => self.by_rumqttc().await,
                        Echoer::Link => self.by_link().await,
                        Echoer::Plugin => self.by_plugin().await,
                    }
                } => ended,
            }
        })?;
        meter.tell(1)
    }

    async fn by_rumqttc(&self) -> Result<()> {
        use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS, TlsConfiguration, Transport};

        let tls = link::client_config(&config_for(&self.place, "rumqttc", "")?.link.tls)?;
        let mut options = MqttOptions::new("rumqttc", &self.place.host, self.place.port);
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.into())));
        let (client, mut events) = AsyncClient::new(options, 1_000);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        client.subscribe("test/ping", QoS::AtLeastOnce).await?;
        loop {
            if let Event::Incoming(Packet::Publish(message)) = events.poll().await? {
                let topic = message.topic + "/echo";
                client.try_publish(topic, message.qos, false, message.payload)?;
            }
        }
    }

    async fn by_link(&self) -> Result<()> {
        let link = Link::start(config_for(&self.place, "link", "")?.link, None)?;
        let (client, mut mailbox) = link.client(&ClientOptions {
            name: None,
            when_full: WhenFull::DropNewest,
            inbox_bytes: 0,
            outbox_bytes: usize::MAX,
            mailbox_messages: 256,
            mailbox_bytes: 1024 * 1024,
            tracked: false,
            words: alphorn::allowance::Allowance::unlimited(),
        });
        client.subscribe(TopicFilter::parse("test/ping")?, Qos::AtLeastOnce);
        link.open();
        while let Some(item) = mailbox.recv().await {
            if let Item::Message(delivery) = item {
                let topic = TopicName::parse(format!("{}/echo", delivery.message.topic))?;
                let echo = Message { topic, retain: false, ..delivery.message.clone() };
                client.publish_at_once(echo, Instant::now())?;
                delivery.handled();
            }
        }
        bail!("the link ended")
    }

    async fn by_plugin(&self) -> Result<()> {
        let plugin = format!(
            "[outbox]\nstorage = \"memory\"\n[plugins.echo]\ncomponent = {:?}\npublish = [\"test/+/echo\"]\n\
             subscribe = [\"test/+\"]\n[plugins.echo.config]\nfilter = \"test/+\"\n\
             [plugins.echo.limits]\npublish_rate = \"unlimited\"\n",
            self.guest
        );
        let host = Host::start(config_for(&self.place, "plugin", &plugin)?, Compiler::InProcess)?;
        host.open().await;
        host.link().ended().await;
        bail!("the link ended")
    }
}
