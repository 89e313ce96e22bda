//! Just enough MQTT over any stream to see what a broker really sends. Written by hand, so
//! that nothing retries, reconnects or acknowledges behind a test's back.

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::soon;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V5,
}

/// A PUBLISH from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<u16>,
    /// The property section of MQTT 5, undecoded.
    pub(crate) properties: Vec<u8>,
}

pub(crate) struct Mqtt<S> {
    stream: S,
    version: Version,
    /// The Session Present flag of the CONNACK.
    pub(crate) session_present: bool,
    /// The property section of the CONNACK, undecoded.
    pub(crate) connack_properties: Vec<u8>,
}

/// How to connect.
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    pub(crate) client_id: &'a str,
    /// Clean Session, or Clean Start.
    pub(crate) clean: bool,
    /// Session Expiry Interval of MQTT 5, if given.
    pub(crate) expiry: Option<u32>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Mqtt<S> {
    pub(crate) async fn connect(mut stream: S, connect: &Connect<'_>) -> anyhow::Result<Self> {
        let mut body = string("MQTT");
        body.push(match connect.version {
            Version::V3 => 4,
            Version::V5 => 5,
        });
        body.push(u8::from(connect.clean) << 1);
        body.extend([0, 60]);
        if connect.version == Version::V5 {
            match connect.expiry {
                None => body.push(0),
                Some(seconds) => {
                    body.extend([5, 17]);
                    body.extend(seconds.to_be_bytes());
                }
            }
        }
        body.extend(string(connect.client_id));
        write_packet(&mut stream, 0x10, &body).await?;

        let (head, body) = read_packet(&mut stream).await?;
        anyhow::ensure!(head == 0x20, "no CONNACK but {head:#x}");
        let [flags, code, properties @ ..] = body.as_slice() else {
            anyhow::bail!("short CONNACK");
        };
        anyhow::ensure!(*code == 0, "refused with {code}");
        Ok(Self {
            stream,
            version: connect.version,
            session_present: flags & 1 == 1,
            connack_properties: properties.to_vec(),
        })
    }

    /// Subscribes; with an identifier only in MQTT 5.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8, identifier: Option<u8>) -> anyhow::Result<()> {
        let mut body = vec![0, 1];
        if self.version == Version::V5 {
            match identifier {
                None => body.push(0),
                Some(identifier) => body.extend([2, 11, identifier]),
            }
        }
        body.extend(string(filter));
        body.push(qos);
        write_packet(&mut self.stream, 0x82, &body).await?;
        let (head, body) = read_packet(&mut self.stream).await?;
        anyhow::ensure!(head == 0x90, "no SUBACK but {head:#x}");
        anyhow::ensure!(body.last() == Some(&qos), "SUBACK {body:?}");
        Ok(())
    }

    /// Sends a PUBLISH, at QoS 1 under the packet identifier.
    pub(crate) async fn send(
        &mut self,
        topic: &str,
        payload: &[u8],
        packet_id: Option<u16>,
        retain: bool,
    ) -> anyhow::Result<()> {
        let mut body = string(topic);
        body.extend(packet_id.into_iter().flat_map(u16::to_be_bytes));
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload);
        let qos = u8::from(packet_id.is_some());
        write_packet(&mut self.stream, 0x30 | qos << 1 | u8::from(retain), &body).await
    }

    /// Publishes at QoS 1 and waits for the acknowledgement.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        self.send(topic, payload, Some(1), false).await?;
        self.puback().await
    }

    pub(crate) async fn puback(&mut self) -> anyhow::Result<()> {
        let (head, body) = read_packet(&mut self.stream).await?;
        anyhow::ensure!(head == 0x40, "no PUBACK but {head:#x} {body:?}");
        Ok(())
    }

    /// The next message, unacknowledged.
    pub(crate) async fn message(&mut self) -> anyhow::Result<Message> {
        soon("read a packet", self.message_whenever()).await?
    }

    /// The same, however long that takes: for who only looks on.
    pub(crate) async fn message_whenever(&mut self) -> anyhow::Result<Message> {
        let (head, body) = packet(&mut self.stream).await?;
        anyhow::ensure!(head & 0xf0 == 0x30, "no PUBLISH but {head:#x} {body:?}");
        let qos = (head >> 1) & 3;
        let mut rest = body.as_slice();
        let topic_length = u16::from_be_bytes(take(&mut rest)?);
        let (topic, mut rest) = rest.split_at_checked(topic_length.into()).context("topic beyond the packet")?;
        let packet_id = match qos {
            0 => None,
            _ => Some(u16::from_be_bytes(take(&mut rest)?)),
        };
        let mut properties: &[u8] = &[];
        if self.version == Version::V5 {
            let [length] = take(&mut rest)?;
            anyhow::ensure!(length < 128, "more properties than this client can read");
            (properties, rest) = rest.split_at_checked(length.into()).context("properties beyond the packet")?;
        }
        Ok(Message {
            topic: String::from_utf8(topic.to_vec())?,
            payload: rest.to_vec(),
            qos,
            retain: head & 1 == 1,
            dup: head & 8 == 8,
            packet_id,
            properties: properties.to_vec(),
        })
    }

    pub(crate) async fn acknowledge(&mut self, message: &Message) -> anyhow::Result<()> {
        let packet_id = message.packet_id.context("QoS 0 is not acknowledged")?;
        write_packet(&mut self.stream, 0x40, &packet_id.to_be_bytes()).await
    }

    /// A round trip, after which the broker has dealt with everything sent before.
    pub(crate) async fn ping(&mut self) -> anyhow::Result<()> {
        write_packet(&mut self.stream, 0xc0, &[]).await?;
        let (head, body) = read_packet(&mut self.stream).await?;
        anyhow::ensure!(head == 0xd0, "no PINGRESP but {head:#x} {body:?}");
        Ok(())
    }

    /// Waits for the end of the stream, in whatever manner.
    pub(crate) async fn closed(&mut self) -> anyhow::Result<()> {
        soon("end of the connection", async { while self.stream.read_u8().await.is_ok() {} }).await
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn take<const N: usize>(rest: &mut &[u8]) -> anyhow::Result<[u8; N]> {
    let (taken, left) = rest.split_first_chunk().context("short packet")?;
    *rest = left;
    Ok(*taken)
}

async fn write_packet<S>(stream: &mut S, head: u8, body: &[u8]) -> anyhow::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut packet = vec![head];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f)?;
        length >>= 7;
        packet.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    soon("write a packet", async {
        stream.write_all(&packet).await?;
        stream.flush().await
    })
    .await??;
    Ok(())
}

async fn read_packet<S>(stream: &mut S) -> anyhow::Result<(u8, Vec<u8>)>
where
    S: AsyncRead + Unpin,
{
    Ok(soon("read a packet", packet(stream)).await??)
}

async fn packet<S>(stream: &mut S) -> std::io::Result<(u8, Vec<u8>)>
where
    S: AsyncRead + Unpin,
{
    let head = stream.read_u8().await?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((head, body))
}
