//! What the embedded broker does, alone and behind the front. Some tests pin down behaviour
//! that the standard leaves open and that the host has to live with.
#![cfg(feature = "broker")]

mod support;

use std::time::Duration;

use alphorn_dev_broker::{ALPN, Authority, Broker, DevBroker, Direction, Front, FrontConfig, Identity};
use anyhow::Context as _;
use support::mqtt::{Connect, Mqtt, Version};
use support::{Client, Tls, soon};
use tokio::net::TcpStream;

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

#[tokio::test]
async fn messages_travel_through_front_and_broker_in_both_versions() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    for version in VERSIONS {
        let mut receiver = bed.tls(&fresh(version, "receiver")).await?;
        receiver.subscribe("sensor/+", 1, None).await?;
        let mut sender = bed.tls(&fresh(version, "sender")).await?;
        sender.publish("sensor/a", b"21").await?;

        let message = receiver.message().await?;
        assert_eq!(message.topic, "sensor/a");
        assert_eq!(message.payload, b"21");
        assert_eq!((message.qos, message.retain, message.dup), (1, false, false));
        receiver.acknowledge(&message).await?;
        receiver.ping().await?;
    }
    soon("shutdown", bed.front.shutdown()).await?;
    soon("shutdown", bed.broker.shutdown()).await?
}

#[tokio::test]
async fn large_messages_pass() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let payload = vec![7; 2 * 1024 * 1024];
    let mut client = bed.tls(&fresh(Version::V3, "a")).await?;
    client.subscribe("big", 0, None).await?;
    client.send("big", &payload, None, false).await?;
    assert_eq!(client.message().await?.payload, payload);
    Ok(())
}

#[tokio::test]
async fn session_survives_a_cut_and_keeps_messages() -> anyhow::Result<()> {
    for version in VERSIONS {
        let bed = Bed::start().await?;
        let device =
            Connect { version, client_id: "device", clean: false, expiry: (version == Version::V5).then_some(3600) };
        let mut client = bed.tls(&device).await?;
        assert!(!client.session_present);
        client.subscribe("cmd/#", 1, None).await?;
        let mut sender = bed.plain(&fresh(version, "sender")).await?;
        sender.publish("cmd/1", b"unacknowledged").await?;
        assert_eq!(client.message().await?.payload, b"unacknowledged");

        bed.front.faults().cut();
        client.closed().await?;
        sender.publish("cmd/2", b"meanwhile").await?;
        sender.publish("cmd/3", b"meanwhile").await?;

        let mut client = bed.tls(&device).await?;
        assert!(client.session_present, "{version:?}");
        let repeated = client.message().await?;
        assert_eq!((repeated.topic.as_str(), repeated.dup), ("cmd/1", true));
        client.acknowledge(&repeated).await?;
        for topic in ["cmd/2", "cmd/3"] {
            let message = client.message().await?;
            assert_eq!((message.topic.as_str(), message.dup), (topic, false));
            client.acknowledge(&message).await?;
        }
        client.ping().await?;

        bed.front.faults().cut();
        client.closed().await?;
        let mut client = bed.tls(&device).await?;
        assert!(client.session_present);
        // Nothing is left but what comes now; the subscription is.
        sender.publish("cmd/4", b"new").await?;
        assert_eq!(client.message().await?.topic, "cmd/4");
    }
    Ok(())
}

#[tokio::test]
async fn redirected_front_loses_the_session() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let device = Connect { clean: false, ..fresh(Version::V3, "device") };
    drop(bed.tls(&device).await?);
    assert!(bed.tls(&device).await?.session_present);

    let other = Broker::start().await?;
    bed.front.redirect(other.addr());
    assert!(!bed.tls(&device).await?.session_present);
    Ok(())
}

#[tokio::test]
async fn session_of_mqtt5_ends_with_its_connection_unless_an_expiry_is_given() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let forgetful = Connect { clean: false, ..fresh(Version::V5, "forgetful") };
    bed.plain(&forgetful).await?;
    assert!(!bed.plain(&forgetful).await?.session_present);
    Ok(())
}

#[tokio::test]
async fn long_absence_fills_the_session_in_order() -> anyhow::Result<()> {
    const COUNT: u32 = 12_000;

    let bed = Bed::start().await?;
    let device = Connect { clean: false, ..fresh(Version::V3, "device") };
    let mut client = bed.plain(&device).await?;
    client.subscribe("queue", 1, None).await?;
    drop(client);

    let mut sender = bed.plain(&fresh(Version::V3, "sender")).await?;
    for number in 0..COUNT {
        sender.publish("queue", &number.to_be_bytes()).await?;
    }
    let mut client = bed.plain(&device).await?;
    for number in 0..COUNT {
        let message = client.message().await?;
        assert_eq!(message.payload, number.to_be_bytes());
        client.acknowledge(&message).await?;
    }
    Ok(())
}

#[tokio::test]
async fn unacknowledged_messages_stop_at_the_window() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let mut client = bed.plain(&fresh(Version::V3, "device")).await?;
    client.subscribe("queue", 1, None).await?;
    let mut sender = bed.plain(&fresh(Version::V3, "sender")).await?;
    for _ in 0..=100 {
        sender.publish("queue", b"").await?;
    }
    let first = client.message().await?;
    for _ in 1..100 {
        client.message().await?;
    }
    // An answer to the ping in place of the 101st message.
    client.ping().await?;
    client.acknowledge(&first).await?;
    client.message().await?;
    Ok(())
}

#[tokio::test]
async fn withheld_acknowledgements_arrive_after_the_fault() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let mut watcher = bed.plain(&fresh(Version::V3, "watcher")).await?;
    watcher.subscribe("data", 1, None).await?;
    let mut client = bed.tls(&fresh(Version::V3, "device")).await?;
    let faults = bed.front.faults();

    faults.blackhole(Direction::ToClient, true);
    client.send("data", b"x", Some(7), false).await?;
    assert_eq!(watcher.message().await?.payload, b"x");
    let early = tokio::time::timeout(Duration::from_millis(200), client.puback()).await;
    assert!(early.is_err(), "{early:?}");
    faults.blackhole(Direction::ToClient, false);
    client.puback().await
}

/// Every subscription that matches delivers a copy of its own.
#[tokio::test]
async fn overlapping_filters_deliver_one_copy_each() -> anyhow::Result<()> {
    for version in VERSIONS {
        let bed = Bed::start().await?;
        let mut client = bed.plain(&fresh(version, "a")).await?;
        let v5 = version == Version::V5;
        for (filter, identifier) in [("a/+", 1), ("a/#", 2), ("a/b", 3)] {
            client.subscribe(filter, 1, v5.then_some(identifier)).await?;
        }
        let mut sender = bed.plain(&fresh(version, "b")).await?;
        sender.publish("a/b", b"").await?;
        let mut identifiers = Vec::new();
        for _ in 0..3 {
            let message = client.message().await?;
            identifiers.extend(subscription_identifiers(&message.properties)?);
        }
        client.ping().await?;
        identifiers.sort_unstable();
        let expected: &[u8] = if v5 { &[1, 2, 3] } else { &[] };
        assert_eq!(identifiers, expected);
    }
    Ok(())
}

#[tokio::test]
async fn retained_message_greets_every_new_subscription() -> anyhow::Result<()> {
    for version in VERSIONS {
        let bed = Bed::start().await?;
        let mut sender = bed.plain(&fresh(version, "sender")).await?;
        sender.send("state", b"on", Some(1), true).await?;
        sender.puback().await?;

        let mut client = bed.plain(&fresh(version, "device")).await?;
        client.subscribe("state", 1, None).await?;
        let greeting = client.message().await?;
        assert_eq!(greeting.payload, b"on");
        assert!(greeting.retain);
        client.acknowledge(&greeting).await?;
        // Whoever is subscribed already gets it as a plain message.
        sender.send("state", b"off", Some(2), true).await?;
        sender.puback().await?;
        let live = client.message().await?;
        assert_eq!((live.payload.as_slice(), live.retain), (b"off".as_slice(), false));
        client.acknowledge(&live).await?;

        sender.send("state", b"", Some(3), true).await?;
        sender.puback().await?;
        let mut late = bed.plain(&fresh(version, "late")).await?;
        late.subscribe("state", 1, None).await?;
        late.ping().await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_but_our_messages_matches_everything() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let mut client = bed.plain(&fresh(Version::V5, "a")).await?;
    client.subscribe("#", 0, None).await?;
    client.subscribe("$SYS/#", 0, None).await?;
    client.ping().await
}

#[tokio::test]
async fn second_connection_with_the_same_client_id_ends_the_first() -> anyhow::Result<()> {
    for version in VERSIONS {
        let bed = Bed::start().await?;
        let mut first = bed.plain(&fresh(version, "twin")).await?;
        let _second = bed.plain(&fresh(version, "twin")).await?;
        first.closed().await?;
    }
    Ok(())
}

#[tokio::test]
async fn shutdown_disconnects_idle_clients() -> anyhow::Result<()> {
    let broker = Broker::start().await?;
    let tcp = TcpStream::connect(broker.addr()).await?;
    let mut client = Mqtt::connect(tcp, &fresh(Version::V3, "idle")).await?;
    let addr = broker.addr();
    // The broker itself gives up on its connections after five seconds.
    let quick = Duration::from_secs(4);
    tokio::time::timeout(quick, broker.shutdown()).await.context("slow shutdown")??;
    client.closed().await?;
    assert!(TcpStream::connect(addr).await.is_err());
    Ok(())
}

#[tokio::test]
async fn dropped_broker_disconnects_clients() -> anyhow::Result<()> {
    let broker = Broker::start().await?;
    let tcp = TcpStream::connect(broker.addr()).await?;
    let mut client = Mqtt::connect(tcp, &fresh(Version::V3, "idle")).await?;
    drop(broker);
    client.closed().await
}

#[tokio::test]
async fn dev_broker_demands_what_its_files_provide() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dev = DevBroker::start(&dir.path().join("deeper")).await?;
    let files = dev.files();
    assert!(files.ca.ends_with("deeper/ca.pem"));
    for (cert, key) in [(&files.device_cert, &files.device_key), (&files.monitor_cert, &files.monitor_key)] {
        let identity = Identity { cert_pem: std::fs::read_to_string(cert)?, key_pem: std::fs::read_to_string(key)? };
        let client = Client {
            identity: Some(&identity),
            alpn: &[ALPN],
            ..Client::trusting(std::fs::read_to_string(&files.ca)?)
        };
        let tls = client.connect((dev.host(), dev.port())).await?;
        Mqtt::connect(tls, &fresh(Version::V3, "x")).await?;
    }
    assert!(!std::path::Path::new("mqtt_storage").exists());
    soon("shutdown", dev.shutdown()).await?
}

struct Bed {
    authority: Authority,
    front: Front,
    broker: Broker,
}

impl Bed {
    async fn start() -> anyhow::Result<Self> {
        let authority = Authority::new("root")?;
        let broker = Broker::start().await?;
        let config = FrontConfig {
            client_ca: Some(authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(authority.issue_server(&["localhost"])?)
        };
        let front = Front::start(broker.addr(), config).await?;
        Ok(Self { authority, front, broker })
    }

    /// A client through the front.
    async fn tls(&self, connect: &Connect<'_>) -> anyhow::Result<Mqtt<Tls>> {
        let identity = self.authority.issue_client(connect.client_id)?;
        let client = Client { identity: Some(&identity), alpn: &[ALPN], ..Client::new(&self.authority) };
        Mqtt::connect(client.connect(self.front.addr()).await?, connect).await
    }

    /// A client beside the front.
    async fn plain(&self, connect: &Connect<'_>) -> anyhow::Result<Mqtt<TcpStream>> {
        let tcp = TcpStream::connect(self.broker.addr()).await?;
        Mqtt::connect(tcp, connect).await
    }
}

/// A client without a past.
fn fresh(version: Version, client_id: &str) -> Connect<'_> {
    Connect { version, client_id, clean: true, expiry: None }
}

/// The subscription identifiers below 128 in a property section that has, besides, only user
/// properties.
fn subscription_identifiers(mut properties: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut identifiers = Vec::new();
    loop {
        match properties {
            [] => return Ok(identifiers),
            [11, identifier, rest @ ..] => {
                identifiers.push(*identifier);
                properties = rest;
            }
            [38, rest @ ..] => {
                properties = rest;
                for _ in ["key", "value"] {
                    let (length, rest) = properties.split_first_chunk().context("short")?;
                    let length = usize::from(u16::from_be_bytes(*length));
                    (_, properties) = rest.split_at_checked(length).context("short")?;
                }
            }
            other => anyhow::bail!("unexpected property {other:?}"),
        }
    }
}
