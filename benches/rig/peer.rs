//! A broker of a few lines: it takes everything, acknowledges at once and sends what it is told
//! to. It allocates nothing for a message, so that counts of the whole process are the host's,
//! and it knows when it acknowledged first.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

use alphorn::message::Qos;
use anyhow::{Context, Result, bail};

/// The other end of the link: MQTT 3.1.1, plain.
#[derive(Debug)]
pub(crate) struct Peer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    next_id: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shared {
    /// The newest connection.
    stream: Mutex<Option<TcpStream>>,
    received: AtomicU64,
    subscriptions: AtomicUsize,
    connects: AtomicUsize,
    first_acknowledged: Mutex<Option<Instant>>,
    /// New connections are closed at once.
    refuses: AtomicBool,
}

impl Peer {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let all = shared.clone();
        thread::Builder::new().name("peer".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if all.refuses.load(SeqCst) {
                    continue;
                }
                let shared = all.clone();
                // A connection that breaks is none of the peer's concern.
                let _ = thread::Builder::new().name("peer".into()).spawn(move || serve(&stream, &shared));
            }
        })?;
        Ok(Self { addr, shared, next_id: AtomicUsize::new(0) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Messages that came.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(SeqCst)
    }

    /// Filters that were subscribed to.
    pub(crate) fn subscriptions(&self) -> usize {
        self.shared.subscriptions.load(SeqCst)
    }

    /// Connections there were.
    pub(crate) fn connects(&self) -> usize {
        self.shared.connects.load(SeqCst)
    }

    /// When the first message of QoS 1 was acknowledged since this was asked last.
    pub(crate) fn first_acknowledged(&self) -> Option<Instant> {
        self.shared.first_acknowledged.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes no connections, or takes them again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, SeqCst);
    }

    /// Sends so many messages of so many bytes to the newest connection. At QoS 1 packet ids go round.
    pub(crate) fn publish(&self, topic: &str, bytes: usize, qos: Qos, count: usize) -> Result<()> {
        self.publish_each(bytes, qos, (0..count).map(|_| topic))
    }

    /// Sends a message of so many bytes to each topic.
    pub(crate) fn publish_each<'a>(&self, bytes: usize, qos: Qos, topics: impl Iterator<Item = &'a str>) -> Result<()> {
        const AT_ONCE: usize = 64 * 1024;
        let mut packets = Vec::new();
        for topic in topics {
            let id_bytes = if qos == Qos::AtLeastOnce { 2 } else { 0 };
            packets.push(0x30 | (qos as u8) << 1);
            put_length(&mut packets, 2 + topic.len() + id_bytes + bytes);
            packets.extend(u16::try_from(topic.len())?.to_be_bytes());
            packets.extend(topic.as_bytes());
            if qos == Qos::AtLeastOnce {
                let id = u16::try_from(self.next_id.fetch_add(1, SeqCst) % 60_000)? + 1;
                packets.extend(id.to_be_bytes());
            }
            packets.resize(packets.len() + bytes, b'x');
            if packets.len() > AT_ONCE {
                self.shared.write(&packets)?;
                packets.clear();
            }
        }
        self.shared.write(&packets)
    }
}

impl Shared {
    fn write(&self, packets: &[u8]) -> Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(stream.as_ref().context("nobody is connected")?.write_all(packets)?)
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reading = stream;
    let mut buffer = vec![0; 1024 * 1024];
    let mut answer = Vec::with_capacity(256 * 1024);
    let mut filled = 0;
    loop {
        let read = reading.read(buffer.get_mut(filled..).unwrap_or_default())?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut rest = buffer.get(..filled).unwrap_or_default();
        let mut acknowledges = false;
        let mut received = 0;
        while let Some((kind, body, after)) = split(rest) {
            rest = after;
            match kind >> 4 {
                // CONNECT
                1 => {
                    *shared.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
                    shared.connects.fetch_add(1, SeqCst);
                    answer.extend([0x20, 2, 0, 0]);
                }
                // PUBLISH
                3 => {
                    received += 1;
                    if kind & 0b110 != 0 {
                        let topic = usize::from(u16::from_be_bytes([at(body, 0)?, at(body, 1)?]));
                        answer.extend([0x40, 2, at(body, 2 + topic)?, at(body, 3 + topic)?]);
                        acknowledges = true;
                    }
                }
                // SUBSCRIBE
                8 => {
                    let mut filters = 0;
                    let mut begin = 2;
                    while begin < body.len() {
                        begin += 3 + usize::from(u16::from_be_bytes([at(body, begin)?, at(body, begin + 1)?]));
                        filters += 1;
                    }
                    shared.subscriptions.fetch_add(filters, SeqCst);
                    answer.push(0x90);
                    put_length(&mut answer, 2 + filters);
                    answer.extend([at(body, 0)?, at(body, 1)?]);
                    answer.resize(answer.len() + filters, 1);
                }
                // UNSUBSCRIBE
                10 => answer.extend([0xb0, 2, at(body, 0)?, at(body, 1)?]),
                // PINGREQ
                12 => answer.extend([0xd0, 0]),
                // DISCONNECT
                14 => return Ok(()),
                // PUBACK
                4 => {}
                other => bail!("packet type {other}"),
            }
        }
        let left = rest.len();
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
        if !answer.is_empty() {
            shared.write(&answer)?;
            answer.clear();
        }
        shared.received.fetch_add(received, SeqCst);
        if acknowledges {
            shared.first_acknowledged.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
    }
}

/// The first byte of a packet, its body, and what is behind it, if it is whole.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (mut length, mut shift, mut position) = (0_usize, 0, 1);
    loop {
        let byte = *bytes.get(position)?;
        length |= usize::from(byte & 0x7f) << shift;
        (shift, position) = (shift + 7, position + 1);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (body, rest) = bytes.get(position..)?.split_at_checked(length)?;
    Some((*bytes.first()?, body, rest))
}

fn at(body: &[u8], position: usize) -> Result<u8> {
    body.get(position).copied().context("a packet that ends too early")
}

/// A length as MQTT writes it, in seven bits at a time.
fn put_length(packet: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        packet.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return;
        }
    }
}
