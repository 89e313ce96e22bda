//! A plugin's publish loop beside plain rumqttc 0.25.1: 256 bytes, QoS 0 and 1, the same
//! embedded broker behind the same TLS front, in turn, MQTT 3.1.1.
//!
//! `cargo bench -p alphorn-benches --bench publish`
//!
//! Both publish `bench/start`, the messages, and `bench/done` on one connection; a third
//! client subscribes to the first and the last and takes the time between them. Since a
//! broker works on a connection's packets in order, `bench/done` comes after all others
//! were taken, at QoS 0 too.

mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use alphorn::{
    builder,
    host::Host,
    link::{self, Client, ClientOptions, Item, Link, Mailbox, Notice, WhenFull},
    message::Qos,
    plugin::compile::Compiler,
    topic::TopicFilter,
};
use alphorn_dev_broker::DevBroker;
use anyhow::{Context, Result, bail};
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, QoS, TlsConfiguration, Transport};
use support::{config, say, spread};
use tokio::time::timeout;

const COUNT: u32 = 20_000;
const SIZE: usize = 256;
const ROUNDS: usize = 7;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    // `cargo test --benches` asks whether it builds and runs; a measurement is for `cargo bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let guest = builder::build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("guest")).await?.component;
    let folder = tempfile::tempdir()?;
    let broker = DevBroker::start(folder.path()).await?;
    let mut watch = Observer::start(&broker).await?;
    say(&format!("{COUNT} messages of {SIZE} bytes, {ROUNDS} rounds, median [least .. most] of messages a second"));
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let mut plugin = Vec::new();
        let mut plain = Vec::new();
        for _ in 0..ROUNDS {
            plain.push(rumqttc_alone(&broker, qos, &mut watch).await?);
            plugin.push(through_a_plugin(&broker, &guest, qos, &mut watch).await?);
        }
        let ratios = plugin.iter().zip(&plain).map(|(plugin, plain)| plugin / plain).collect();
        let qos = qos as u8;
        say(&format!("QoS {qos}  rumqttc 0.25.1   {}", spread(plain, 0)));
        say(&format!("QoS {qos}  plugin           {}", spread(plugin, 0)));
        say(&format!("QoS {qos}  plugin/rumqttc   {}", spread(ratios, 2)));
    }
    broker.shutdown().await
}

/// Sees `bench/start` and `bench/done`.
struct Observer {
    mailbox: Mailbox,
    _client: Client,
    _link: Link,
}

impl Observer {
    async fn start(broker: &DevBroker) -> Result<Self> {
        let files = broker.files();
        let mut settings = config(broker, "observer", "")?.link;
        settings.tls.identity = Some((files.monitor_cert.clone(), files.monitor_key.clone()));
        let link = Link::start(settings, None)?;
        let unlimited = ClientOptions {
            name: None,
            when_full: WhenFull::DropNewest,
            inbox_bytes: 0,
            outbox_bytes: usize::MAX,
            mailbox_messages: usize::MAX,
            mailbox_bytes: usize::MAX / 2,
            tracked: true,
        };
        let (client, mut mailbox) = link.client(&unlimited);
        for filter in ["bench/start", "bench/done"] {
            client.subscribe(TopicFilter::parse(filter)?, Qos::AtLeastOnce);
        }
        link.open();
        for _ in 0..2 {
            while !matches!(
                mailbox.recv().await.context("the observer's link ended")?,
                Item::Notice(Notice::Subscribed(_))
            ) {}
        }
        Ok(Self { mailbox, _client: client, _link: link })
    }

    /// Messages a second between the two.
    async fn rate(&mut self) -> Result<f64> {
        self.until("bench/start").await?;
        let start = Instant::now();
        self.until("bench/done").await?;
        Ok(f64::from(COUNT) / start.elapsed().as_secs_f64())
    }

    async fn until(&mut self, topic: &str) -> Result<()> {
        let arrival = async {
            loop {
                match self.mailbox.recv().await {
                    Some(Item::Message(delivery)) => {
                        let this = delivery.message.topic.as_str() == topic;
                        delivery.handled();
                        if this {
                            return Ok(());
                        }
                    }
                    Some(Item::Notice(_)) => {}
                    None => bail!("the observer's link ended"),
                }
            }
        };
        timeout(PATIENCE, arrival).await.with_context(|| format!("no {topic} within {PATIENCE:?}"))?
    }
}

async fn through_a_plugin(broker: &DevBroker, guest: &Path, qos: Qos, watch: &mut Observer) -> Result<f64> {
    let plugin = format!(
        "[outbox]\nstorage = \"memory\"\n[plugins.flood]\ncomponent = {guest:?}\npublish = [\"bench/+\"]\n\
         [plugins.flood.config]\nqos = \"{}\"\ncount = \"{COUNT}\"\nsize = \"{SIZE}\"\n\
         [plugins.flood.limits]\npublish_rate = \"unlimited\"\n",
        qos as u8
    );
    let host = Host::start(config(broker, "plugin", &plugin)?, Compiler::InProcess).await?;
    let rate = watch.rate().await;
    host.shutdown().await;
    rate
}

async fn rumqttc_alone(broker: &DevBroker, qos: Qos, watch: &mut Observer) -> Result<f64> {
    let settings = config(broker, "rumqttc", "")?.link;
    let mut options = MqttOptions::new("rumqttc", broker.host(), broker.port());
    options.set_transport(Transport::Tls(TlsConfiguration::Rustls(link::client_config(&settings.tls)?.into())));
    let (client, mut events) = AsyncClient::new(options, 100);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    let polling = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                return;
            }
        }
    });
    let sending = async {
        let quality = if qos == Qos::AtLeastOnce { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let payload = bytes::Bytes::from(vec![b'x'; SIZE]);
        client.publish("bench/start", QoS::AtLeastOnce, false, "").await?;
        for _ in 0..COUNT {
            client.publish_bytes("bench/data", quality, false, payload.clone()).await?;
        }
        client.publish("bench/done", QoS::AtLeastOnce, false, "").await?;
        anyhow::Ok(())
    };
    let (sent, rate) = tokio::join!(sending, watch.rate());
    sent?;
    client.disconnect().await?;
    polling.await?;
    rate
}
