//! Each fault does what it says, and ends when it is lifted.

mod support;

use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Waker};
use std::time::{Duration, Instant};

use alphorn_dev_broker::{Authority, ConnectionRecord, Direction, Faults, Front, FrontConfig};
use anyhow::Context as _;
use support::{Client, Tls, soon};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
#[cfg(target_os = "linux")]
use tokio::net::TcpSocket;
use tokio::net::{TcpListener, TcpStream};

/// Without progress for so long, a writer counts as halted.
const HALT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn cut_resets_current_connections_only() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.cut();

    let error = soon("reset", client.read_u8()).await?.err();
    assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
    assert!(soon("broker's end", broker.read_u8()).await?.is_err());
    bed.record(|record| record.closed && record.error.is_none()).await?;

    let (mut client, mut broker) = bed.pair().await?;
    client.say(b"again").await?;
    broker.hear(b"again").await
}

#[tokio::test]
async fn cut_ends_a_handshake_that_is_under_way() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let mut tcp = TcpStream::connect(bed.front.addr()).await?;
    bed.record(|record| record.id == 0).await?;
    bed.faults.cut();
    let error = soon("reset", tcp.read_u8()).await?.err();
    assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
    Ok(())
}

#[tokio::test]
async fn close_says_goodbye_on_both_sides() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.close();

    // Without `close_notify` rustls reports an unexpected end instead of the end.
    let read = soon("end", client.read(&mut [0])).await??;
    assert_eq!(read, 0);
    drop(client);
    let read = soon("broker's end", broker.read(&mut [0])).await??;
    assert_eq!(read, 0);
    bed.record(|record| record.closed && record.error.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn refused_front_comes_back_on_the_same_port() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    for _ in 0..3 {
        bed.faults.refuse(true).await?;
        let error = TcpStream::connect(bed.front.addr()).await.err();
        assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused));
        // Who is connected stays so.
        client.say(b"still here").await?;
        broker.hear(b"still here").await?;

        bed.faults.refuse(false).await?;
        let (mut newcomer, mut broker) = bed.pair().await?;
        newcomer.say(b"back").await?;
        broker.hear(b"back").await?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn port_of_a_refusing_front_is_not_given_away() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    bed.faults.refuse(true).await?;
    let error = TcpSocket::new_v4()?.bind(bed.front.addr()).err();
    assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    Ok(())
}

#[tokio::test]
async fn blackhole_withholds_bytes_until_it_is_lifted() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.blackhole(Direction::Both, true);
    client.say(b"up").await?;
    broker.say(b"down").await?;
    // A connection made later gets through its whole handshake: were the bytes not held, they
    // would have arrived by then.
    bed.connect().await?;
    assert!(client.is_silent());
    assert!(broker.is_silent());

    bed.faults.blackhole(Direction::Both, false);
    broker.hear(b"up").await?;
    client.hear(b"down").await
}

#[tokio::test]
async fn blackhole_of_one_direction_leaves_the_other_alone() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.blackhole(Direction::ToClient, true);
    for _ in 0..100 {
        client.say(b"publish").await?;
        broker.hear(b"publish").await?;
        broker.say(b"ack").await?;
    }
    assert!(client.is_silent());
    bed.faults.blackhole(Direction::ToClient, false);
    client.hear(&b"ack".repeat(100)).await
}

#[tokio::test]
async fn blackhole_takes_a_bounded_amount_and_loses_none() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.blackhole(Direction::ToBroker, true);

    // More than front and sockets can hold, so that the writer must come to a halt.
    let all: Vec<u8> = (0_u32..8 * 1024 * 1024).flat_map(u32::to_be_bytes).collect();
    let mut rest = all.as_slice();
    while let Ok(written) = tokio::time::timeout(HALT, client.write(rest)).await {
        (_, rest) = rest.split_at_checked(written?).context("wrote too much")?;
        assert!(!rest.is_empty(), "the front took everything");
    }
    assert!(broker.is_silent());

    bed.faults.blackhole(Direction::ToBroker, false);
    let mut arrived = Vec::new();
    let write = async {
        client.write_all(rest).await?;
        client.shutdown().await
    };
    let read = broker.read_to_end(&mut arrived);
    soon("the rest", async { tokio::try_join!(write, read) }).await??;
    assert!(arrived == all, "{} bytes arrived", arrived.len());
    Ok(())
}

#[tokio::test]
async fn departure_of_a_client_is_hidden_by_a_blackhole() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.blackhole(Direction::ToBroker, true);
    client.say(b"last words").await?;
    client.shutdown().await?;
    drop(client);
    bed.connect().await?;
    assert!(broker.is_silent());

    bed.faults.blackhole(Direction::ToBroker, false);
    let mut heard = Vec::new();
    soon("end", broker.read_to_end(&mut heard)).await??;
    assert_eq!(heard, b"last words");
    Ok(())
}

#[tokio::test]
async fn delay_is_a_latency_and_keeps_the_order() -> anyhow::Result<()> {
    const DELAY: Duration = Duration::from_millis(300);
    const PARTS: u32 = 20;

    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.delay(Direction::ToBroker, DELAY);
    let start = Instant::now();
    let mut expected = Vec::new();
    for part in 0..PARTS {
        client.say(&part.to_be_bytes()).await?;
        expected.extend(part.to_be_bytes());
        // The other way takes no detour, and parts them into chunks.
        broker.say(b"tick").await?;
        client.hear(b"tick").await?;
    }
    broker.hear(&expected).await?;
    let took = start.elapsed();
    assert!(took >= DELAY, "{took:?}");
    // Were chunks delayed one after the other, it would take twenty times as long.
    assert!(took < DELAY * PARTS / 2, "{took:?}");
    Ok(())
}

#[tokio::test]
async fn lifted_delay_releases_what_waits() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, mut broker) = bed.pair().await?;
    bed.faults.delay(Direction::Both, Duration::MAX);
    client.say(b"up").await?;
    broker.say(b"down").await?;
    bed.connect().await?;
    assert!(client.is_silent());
    assert!(broker.is_silent());
    bed.faults.delay(Direction::Both, Duration::ZERO);
    broker.hear(b"up").await?;
    client.hear(b"down").await
}

#[tokio::test]
async fn ignored_newcomers_are_answered_later() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut old, mut old_broker) = bed.pair().await?;
    bed.faults.ignore_new(true);
    let client = Client::new(&bed.authority);
    let mut newcomer = std::pin::pin!(client.connect(bed.front.addr()));
    tokio::select! {
        biased;
        _ = &mut newcomer => anyhow::bail!("the newcomer was answered"),
        record = bed.record(|record| record.id == 1) => {
            assert_eq!(record?.server_name, None);
        }
    }
    old.say(b"old").await?;
    old_broker.hear(b"old").await?;

    bed.faults.ignore_new(false);
    newcomer.await?;
    Ok(())
}

#[tokio::test]
async fn shutdown_ends_connections_and_frees_the_port() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, _broker) = bed.pair().await?;
    bed.faults.blackhole(Direction::Both, true);
    let addr = bed.front.addr();
    soon("shutdown", bed.front.shutdown()).await?;
    assert!(soon("end", client.read_u8()).await?.is_err());
    assert!(TcpStream::connect(addr).await.is_err());
    assert!(bed.faults.refuse(false).await.is_err());
    Ok(())
}

#[tokio::test]
async fn dropped_front_ends_connections() -> anyhow::Result<()> {
    let bed = Bed::start().await?;
    let (mut client, _broker) = bed.pair().await?;
    drop(bed.front);
    assert!(soon("end", client.read_u8()).await?.is_err());
    Ok(())
}

/// A front without demands. The test itself plays the broker.
struct Bed {
    authority: Authority,
    front: Front,
    faults: Faults,
    broker: TcpListener,
}

impl Bed {
    async fn start() -> anyhow::Result<Self> {
        let authority = Authority::new("root")?;
        let broker = TcpListener::bind("127.0.0.1:0").await?;
        let config = FrontConfig::new(authority.issue_server(&["localhost"])?);
        let front = Front::start(broker.local_addr()?, config).await?;
        let faults = front.faults();
        Ok(Self { authority, front, faults, broker })
    }

    /// The two ends of a new connection through the front.
    async fn connect(&self) -> anyhow::Result<(Tls, TcpStream)> {
        let client = Client::new(&self.authority).connect(self.front.addr()).await?;
        let (broker, _) = soon("front's connect", self.broker.accept()).await??;
        Ok((client, broker))
    }

    /// The same after a word each way: by now the front waits for the next one, which a fault
    /// has to catch.
    async fn pair(&self) -> anyhow::Result<(Tls, TcpStream)> {
        let (mut client, mut broker) = self.connect().await?;
        client.say(b"hello").await?;
        broker.hear(b"hello").await?;
        broker.say(b"welcome").await?;
        client.hear(b"welcome").await?;
        Ok((client, broker))
    }

    /// The newest record, once it is as wanted.
    async fn record(&self, wanted: impl Fn(&ConnectionRecord) -> bool) -> anyhow::Result<ConnectionRecord> {
        let arrived = |records: &[ConnectionRecord]| records.last().is_some_and(&wanted);
        let records = soon("record", self.front.wait_for(arrived)).await?;
        records.last().cloned().context("no record")
    }
}

/// Either end of a connection.
trait Talk: AsyncRead + AsyncWrite + Unpin {
    async fn say(&mut self, words: &[u8]) -> anyhow::Result<()> {
        let say = async {
            self.write_all(words).await?;
            self.flush().await
        };
        Ok(soon("say", say).await??)
    }

    async fn hear(&mut self, words: &[u8]) -> anyhow::Result<()> {
        let mut heard = vec![0; words.len()];
        soon("hear", self.read_exact(&mut heard)).await??;
        anyhow::ensure!(heard == words, "heard {:?}", String::from_utf8_lossy(&heard));
        Ok(())
    }

    /// Whether there is nothing to read at the moment, not even the end.
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut context = TaskContext::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk for S {}
