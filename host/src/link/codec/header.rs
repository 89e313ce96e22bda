//! The fixed header (section 2.1): what a packet is, and where it ends.

use super::{DecodeError, Version};

/// Of a packet that is there whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    first: u8,
    /// Bytes of the header.
    pub(super) length: usize,
    /// Bytes of the whole packet.
    pub(super) frame: usize,
}

/// Packets that are told apart before they are read.
pub(super) mod kind {
    pub(in super::super) const CONNACK: u8 = 2;
    pub(in super::super) const PUBLISH: u8 = 3;
    pub(in super::super) const PUBACK: u8 = 4;
    pub(in super::super) const SUBACK: u8 = 9;
    pub(in super::super) const UNSUBACK: u8 = 11;
    pub(in super::super) const PINGRESP: u8 = 13;
    pub(in super::super) const DISCONNECT: u8 = 14;
}

impl Header {
    /// Of the packet the bytes begin with. None: it is not there whole.
    pub(super) fn read(bytes: &[u8], max: u32) -> Result<Option<Self>, DecodeError> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let mut body = 0;
        for (at, shift) in [0, 7, 14, 21].into_iter().enumerate() {
            let Some(byte) = rest.get(at) else { return Ok(None) };
            body |= usize::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                let header = Self { first: *first, length: at + 2, frame: at + 2 + body };
                if header.frame > max as usize {
                    return Err(DecodeError::TooLarge(header.frame));
                }
                return Ok((bytes.len() >= header.frame).then_some(header));
            }
        }
        Err(DecodeError::Malformed("a packet's length has more than four bytes, so its end can't be found".into()))
    }

    /// The number of the packet's type.
    pub(super) fn kind(self) -> u8 {
        self.first >> 4
    }

    pub(super) fn flags(self) -> u8 {
        self.first & 15
    }

    /// The packet without its header, where it has no flags, as all but PUBLISH that a broker sends.
    pub(super) fn body(self, bytes: &[u8]) -> Result<&[u8], DecodeError> {
        match self.flags() {
            0 => Ok(bytes.get(self.length..self.frame).unwrap_or_default()),
            _ => Err(self.no_packet()),
        }
    }

    /// What it is called, if it is a packet that no broker sends.
    pub(super) fn unexpected(self, version: Version) -> Result<&'static str, DecodeError> {
        Ok(match self.kind() {
            1 => "CONNECT",
            5 => "PUBREC",
            6 => "PUBREL",
            7 => "PUBCOMP",
            8 => "SUBSCRIBE",
            10 => "UNSUBSCRIBE",
            12 => "PINGREQ",
            kind::DISCONNECT => "DISCONNECT",
            15 if version == Version::V5 => "AUTH",
            _ => return Err(self.no_packet()),
        })
    }

    fn no_packet(self) -> DecodeError {
        DecodeError::Malformed(format!("a packet that begins with 0x{:02x}", self.first))
    }
}
