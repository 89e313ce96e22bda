//! MQTT as a sink hears it: packets are read where they lie, answers are gathered.

use anyhow::{Context as _, bail, ensure};

use super::tally::Counted;

/// The largest packet.
const MAX_PACKET: usize = 4 * 1024 * 1024;

/// The protocol level of MQTT 5.
const LEVEL_5: u8 = 5;

/// What a client has agreed on with the sink.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// None before CONNECT.
    level: Option<u8>,
}

/// Why looking through packets has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// So many bytes are done with; the packet behind them needs so many in all.
    Bytes {
        used: usize,
        needed: usize,
    },
    Disconnect,
}

/// A packet: its first byte, what comes behind its length, and what comes behind itself.
type Packet<'a> = (u8, &'a [u8], &'a [u8]);

impl Session {
    /// Takes all whole packets and gathers what is to be answered.
    pub(super) fn take(
        &mut self,
        packets: &[u8],
        answers: &mut Vec<u8>,
        counted: &mut Counted,
    ) -> anyhow::Result<Ended> {
        let mut rest = packets;
        loop {
            let (head, body, behind) = match split(rest)? {
                Ok(packet) => packet,
                Err(needed) => return Ok(Ended::Bytes { used: packets.len() - rest.len(), needed }),
            };
            rest = behind;
            if head >> 4 == 14 {
                return Ok(Ended::Disconnect);
            }
            self.answer(head, body, answers, counted).with_context(|| format!("packet {head:#x}"))?;
        }
    }

    fn answer(&mut self, head: u8, body: &[u8], answers: &mut Vec<u8>, counted: &mut Counted) -> anyhow::Result<()> {
        let Some(level) = self.level else {
            ensure!(head >> 4 == 1, "no CONNECT");
            let (_, body) = text(body)?;
            let level = *body.first().context("no protocol level")?;
            self.level = Some(level);
            let connack: &[u8] = if level == LEVEL_5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
            answers.extend_from_slice(connack);
            return Ok(());
        };
        let is_5 = level == LEVEL_5;
        match head >> 4 {
            3 => {
                let (_, mut body) = text(body)?;
                match (head >> 1) & 3 {
                    0 => {}
                    1 => {
                        let (packet_id, behind) = packet_id(body)?;
                        answers.extend_from_slice(&[0x40, 2, packet_id[0], packet_id[1]]);
                        body = behind;
                    }
                    qos => bail!("QoS {qos} is not heard here"),
                }
                counted.message(if is_5 { properties(body)?.1 } else { body });
            }
            8 | 10 => {
                let subscribes = head >> 4 == 8;
                let (packet_id, mut body) = packet_id(body)?;
                if is_5 {
                    body = properties(body)?.1;
                }
                let mut codes = Vec::new();
                while !body.is_empty() {
                    body = text(body)?.1;
                    if subscribes {
                        let (options, behind) = body.split_first().context("no options")?;
                        codes.push(options & 1);
                        body = behind;
                    } else if is_5 {
                        codes.push(0);
                    }
                }
                let length = u8::try_from(2 + usize::from(is_5) + codes.len()).context("too many filters")?;
                ensure!(length < 128, "too many filters");
                answers.extend_from_slice(&[if subscribes { 0x90 } else { 0xb0 }, length, packet_id[0], packet_id[1]]);
                answers.extend(is_5.then_some(0));
                answers.extend(codes);
            }
            12 => answers.extend_from_slice(&[0xd0, 0]),
            _ => bail!("not heard here"),
        }
        Ok(())
    }
}

/// The first packet; else how many bytes it needs, as far as that can be told.
fn split(bytes: &[u8]) -> anyhow::Result<Result<Packet<'_>, usize>> {
    let Some((&head, behind)) = bytes.split_first() else { return Ok(Err(1)) };
    let Some((length, behind)) = length(behind)? else { return Ok(Err(bytes.len() + 1)) };
    ensure!(length <= MAX_PACKET, "a packet of {length} bytes");
    Ok(match behind.split_at_checked(length) {
        Some((body, behind)) => Ok((head, body, behind)),
        None => Err(bytes.len() - behind.len() + length),
    })
}

/// A variable byte integer, if all of it is there.
fn length(bytes: &[u8]) -> anyhow::Result<Option<(usize, &[u8])>> {
    let mut length = 0;
    let mut rest = bytes;
    for shift in [0, 7, 14, 21] {
        let Some((&byte, behind)) = rest.split_first() else { return Ok(None) };
        rest = behind;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((length, rest)));
        }
    }
    bail!("a length of more than four bytes")
}

/// Bytes with their length before them.
fn text(bytes: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let (length, behind) = bytes.split_first_chunk().context("no length")?;
    behind.split_at_checked(u16::from_be_bytes(*length).into()).context("a text beyond its packet")
}

fn packet_id(bytes: &[u8]) -> anyhow::Result<([u8; 2], &[u8])> {
    let (packet_id, behind) = bytes.split_first_chunk().context("no packet identifier")?;
    Ok((*packet_id, behind))
}

/// The properties of MQTT 5, unread.
fn properties(bytes: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let (length, behind) = length(bytes)?.context("no properties")?;
    behind.split_at_checked(length).context("properties beyond their packet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_says_what_it_needs() -> anyhow::Result<()> {
        let mut session = Session { level: Some(4) };
        let (mut answers, mut counted) = (Vec::new(), Counted::default());
        let packets = [0xc0, 0, 0x32, 0x86, 0x01, 0, 1, b'a', 0, 7];
        let mut take = |length: usize| session.take(&packets[..length], &mut answers, &mut counted);
        assert_eq!(take(2)?, Ended::Bytes { used: 2, needed: 1 });
        assert_eq!(take(4)?, Ended::Bytes { used: 2, needed: 3 });
        assert_eq!(take(10)?, Ended::Bytes { used: 2, needed: 3 + 134 });
        assert_eq!(answers, [0xd0, 0, 0xd0, 0, 0xd0, 0]);
        Ok(())
    }

    #[test]
    fn nonsense_is_an_error() {
        let (mut answers, mut counted) = (Vec::new(), Counted::default());
        for (level, packet) in [
            (None, &[0x30, 3, 0, 1, b'a'][..]),
            (Some(4), &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
            (Some(4), &[0x30, 1, 0]),
            (Some(4), &[0x32, 3, 0, 1, b'a']),
            (Some(4), &[0x34, 5, 0, 1, b'a', 0, 1]),
            (Some(5), &[0x30, 3, 0, 1, b'a']),
            (Some(5), &[0x30, 4, 0, 1, b'a', 9]),
            (Some(4), &[0x82, 3, 0, 1, 0]),
            (Some(4), &[0xf0, 0]),
        ] {
            assert!(Session { level }.take(packet, &mut answers, &mut counted).is_err(), "{packet:?}");
        }
        assert!(answers.is_empty());
    }
}
