//! A scripted broker on loopback: raw bytes in, raw bytes out, everything it saw in a log.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub const CONNECT: u8 = 1;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
/// Pseudo packet type: the client closed the connection.
pub const CLOSED: u8 = 0;

/// One packet as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub conn: usize,
    /// Socket reads on this connection so far, and TCP segments with data that carried them.
    /// The kernel may merge segments, so the number of writes is this or more.
    pub reads: usize,
    pub segments: u32,
    pub kind: u8,
    pub dup: bool,
    pub id: u16,
    /// Payload of a PUBLISH, which the candidates fill with a running number.
    pub payload: String,
}

/// What the broker answers to a packet, and after how many milliseconds.
pub type Answer = fn(v5: bool, &Seen) -> Option<(u64, Vec<u8>)>;

/// Script of one connection.
#[derive(Clone)]
pub struct Conn {
    pub connack: Vec<u8>,
    pub delay: u64,
    /// Sent right behind the CONNACK.
    pub push: Vec<u8>,
    pub answer: Answer,
    /// Close half a second after this many PUBLISH packets (0: after the CONNECT).
    pub close_after: Option<usize>,
}

pub fn silent(_: bool, _: &Seen) -> Option<(u64, Vec<u8>)> {
    None
}

pub fn puback(id: u16) -> Vec<u8> {
    vec![0x40, 2, (id >> 8) as u8, id as u8]
}

pub fn ack_late(_: bool, seen: &Seen) -> Option<(u64, Vec<u8>)> {
    (seen.kind == PUBLISH).then(|| (300, puback(seen.id)))
}

/// CONNACK; at MQTT 5 success carries Receive Maximum 100.
pub fn connack(v5: bool, session_present: bool, code: u8) -> Vec<u8> {
    let sp = u8::from(session_present);
    match (v5, code) {
        (false, code) => vec![0x20, 2, sp, code],
        (true, 0) => vec![0x20, 6, sp, 0, 3, 0x21, 0, 100],
        (true, code) => vec![0x20, 3, sp, code, 0],
    }
}

/// An inbound QoS 1 PUBLISH to topic "in".
pub fn publish(v5: bool, dup: bool, id: u16, payload: &str) -> Vec<u8> {
    let mut body = vec![0, 2, b'i', b'n', (id >> 8) as u8, id as u8];
    body.extend(v5.then_some(0));
    body.extend(payload.as_bytes());
    let mut packet = vec![if dup { 0x3A } else { 0x32 }, body.len() as u8];
    packet.extend(body);
    packet
}

impl Conn {
    pub fn accept(v5: bool, session_present: bool) -> Self {
        Self {
            connack: connack(v5, session_present, 0),
            delay: 0,
            push: Vec::new(),
            answer: silent,
            close_after: None,
        }
    }
}

pub struct Broker {
    pub port: u16,
    log: Arc<Mutex<Vec<Seen>>>,
    task: AbortHandle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Broker {
    /// Plays `script`, one entry per connection; the last entry repeats.
    pub async fn start(v5: bool, script: Vec<Conn>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((socket, _)) = listener.accept().await {
                let Some(conn) = script.get(number).or(script.last()).cloned() else {
                    return;
                };
                tokio::spawn(serve(v5, number, conn, socket, Arc::clone(&seen)));
                number += 1;
            }
        });
        Ok(Self { port, log, task: task.abort_handle() })
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().expect("no holder panics").clone()
    }

    /// Polls until `done` or the deadline; returns whether it was reached.
    pub async fn wait(&self, ms: u64, done: impl Fn(&[Seen]) -> bool) -> bool {
        for _ in 0..ms / 20 {
            if done(&self.seen()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done(&self.seen())
    }
}

async fn serve(v5: bool, conn: usize, script: Conn, socket: TcpStream, log: Arc<Mutex<Vec<Seen>>>) {
    let _ = socket.set_nodelay(true);
    let (mut reader, writer) = socket.into_split();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let (mut buffer, mut reads, mut publishes) = (Vec::new(), 0, 0);
    let end = tokio::time::sleep(Duration::from_secs(60));
    tokio::pin!(end);
    loop {
        let mut chunk = [0; 65536];
        let n = tokio::select! {
            // Dropping both halves closes the connection.
            () = &mut end => return,
            n = reader.read(&mut chunk) => n.unwrap_or(0),
        };
        reads += 1;
        let segments = segments(reader.as_ref());
        buffer.extend_from_slice(&chunk[..n]);
        while let Some(packet) = take_packet(&mut buffer, v5) {
            let seen = Seen { conn, reads, segments, ..packet };
            log.lock().expect("no holder panics").push(seen.clone());
            let answer = match seen.kind {
                CONNECT => Some((script.delay, [&script.connack[..], &script.push].concat())),
                12 => Some((0, vec![0xD0, 0])),
                _ => (script.answer)(v5, &seen),
            };
            if let Some((ms, bytes)) = answer {
                let writer = Arc::clone(&writer);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    let _ = writer.lock().await.write_all(&bytes).await;
                });
            }
            publishes += usize::from(seen.kind == PUBLISH);
            if script.close_after == Some(publishes) {
                end.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(500));
            }
        }
        if n == 0 {
            let closed = Seen { conn, kind: CLOSED, ..Seen::default() };
            log.lock().expect("no holder panics").push(closed);
            return;
        }
    }
}

/// TCP segments with data received on this socket so far.
fn segments(socket: &TcpStream) -> u32 {
    // SAFETY: tcp_info is plain integers, all zero is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let at = (&raw mut info).cast();
    // SAFETY: the descriptor is open and the kernel writes at most `len` bytes to `info`.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, at, &mut len)
    };
    info.tcpi_data_segs_in
}

/// Takes one complete packet off the front of the buffer.
fn take_packet(buffer: &mut Vec<u8>, v5: bool) -> Option<Seen> {
    let (mut len, mut head) = (0, 1);
    loop {
        let byte = *buffer.get(head)?;
        len |= usize::from(byte & 0x7F) << (7 * (head - 1));
        head += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if buffer.len() < head + len {
        return None;
    }
    let packet: Vec<u8> = buffer.drain(..head + len).collect();
    let (first, body) = (packet[0], &packet[head..]);
    let u16_at = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (mut id, mut payload) = (0, String::new());
    match first >> 4 {
        PUBLISH => {
            let mut at = 2 + usize::from(u16_at(0));
            if first & 6 != 0 {
                id = u16_at(at);
                at += 2;
            }
            if v5 {
                at += 1 + usize::from(body[at]);
            }
            payload = String::from_utf8_lossy(&body[at..]).into_owned();
        }
        PUBACK => id = u16_at(0),
        _ => {}
    }
    Some(Seen { kind: first >> 4, dup: first & 8 != 0, id, payload, ..Seen::default() })
}
