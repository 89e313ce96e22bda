//! What the sink counts and acknowledges.

mod support;

use alphorn_dev_broker::{ALPN, Authority, FrontConfig, Sink, Tally};
use support::mqtt::{Connect, Mqtt, Version};
use support::{Client, Tls, soon};

struct Bed {
    sink: Sink,
    authority: Authority,
}

impl Bed {
    fn start() -> anyhow::Result<Self> {
        let authority = Authority::new("sink")?;
        let config = FrontConfig {
            client_ca: Some(authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(authority.issue_server(&["localhost"])?)
        };
        Ok(Self { sink: Sink::start(&config)?, authority })
    }

    async fn connect(&self, version: Version) -> anyhow::Result<Mqtt<Tls>> {
        let device = self.authority.issue_client("device")?;
        let client = Client { identity: Some(&device), alpn: &[ALPN], ..Client::new(&self.authority) };
        let tls = client.connect(self.sink.addr()).await?;
        Mqtt::connect(tls, &Connect { version, client_id: "device", clean: true, expiry: None }).await
    }

    async fn counted(&self, numbers: u32) -> anyhow::Result<Tally> {
        soon("the numbers", self.sink.wait_for(numbers)).await
    }
}

fn payload(number: u32, size: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(size, b'x');
    payload
}

#[tokio::test]
async fn each_number_is_counted_once() -> anyhow::Result<()> {
    for version in [Version::V3, Version::V5] {
        let bed = Bed::start()?;
        let mut client = bed.connect(version).await?;
        for number in 0..100 {
            client.send("a/b", &payload(number, 256), None, false).await?;
        }
        for number in 90..110 {
            client.publish("a/b", &payload(number, 4)).await?;
        }
        client.publish("without/a/number", b"abc").await?;
        client.publish("beyond/all/numbers", &payload(u32::MAX, 16)).await?;

        let tally = bed.counted(110).await?;
        assert_eq!((tally.messages, tally.numbers), (122, 110));
        assert!(tally.first <= tally.last && tally.first.is_some(), "{tally:?}");
        bed.sink.reset();
        assert_eq!(bed.sink.tally(), Tally::default());
        client.publish("a/b", &payload(7, 4)).await?;
        assert_eq!(bed.counted(1).await?.messages, 1);
    }
    Ok(())
}

#[tokio::test]
async fn subscribing_and_pinging_are_answered() -> anyhow::Result<()> {
    for version in [Version::V3, Version::V5] {
        let bed = Bed::start()?;
        let mut client = bed.connect(version).await?;
        client.subscribe("a/#", 1, None).await?;
        client.ping().await?;
        client.publish("a/b", &payload(1, 4)).await?;
        client.ping().await?;
    }
    Ok(())
}

#[tokio::test]
async fn packets_are_taken_however_large_they_are() -> anyhow::Result<()> {
    let bed = Bed::start()?;
    let mut client = bed.connect(Version::V5).await?;
    for (number, size) in [(0, 1_000_000), (1, 4), (2, 65_536), (3, 100_000)] {
        client.publish("a/b", &payload(number, size)).await?;
    }
    assert_eq!(bed.counted(4).await?.messages, 4);
    Ok(())
}

#[tokio::test]
async fn messages_of_all_connections_count() -> anyhow::Result<()> {
    let bed = Bed::start()?;
    let mut one = bed.connect(Version::V3).await?;
    let mut other = bed.connect(Version::V5).await?;
    one.publish("a", &payload(1, 16)).await?;
    other.publish("b", &payload(2, 16)).await?;
    other.publish("b", &payload(1, 16)).await?;
    let tally = bed.counted(2).await?;
    assert_eq!(tally.numbers, 2);
    Ok(())
}

#[tokio::test]
async fn a_sink_that_is_dropped_ends_its_connections() -> anyhow::Result<()> {
    let bed = Bed::start()?;
    let mut client = bed.connect(Version::V3).await?;
    drop(bed.sink);
    client.closed().await
}
