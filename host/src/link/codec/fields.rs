//! The data types of MQTT (section 1.5), read from a packet that is there whole.

use super::DecodeError;

/// What is left of a packet. Each read takes something off its front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

/// Why something can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A length has no end, so nothing behind it has a place.
    Endless,
    /// It can't be used; in words. The packet's end is known all the same.
    Unusable(String),
}

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Trouble> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Trouble> {
        let (byte, rest) = self.0.split_first().ok_or_else(short)?;
        self.0 = rest;
        Ok(*byte)
    }

    pub(super) fn two_bytes(&mut self) -> Result<u16, Trouble> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn four_bytes(&mut self) -> Result<u32, Trouble> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A variable byte integer (section 1.5.5).
    pub(super) fn variable(&mut self) -> Result<usize, Trouble> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Trouble::Endless)
    }

    /// Binary data, or a text that is not looked at (sections 1.5.6 and 1.5.4).
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Trouble> {
        let length = self.two_bytes()?;
        self.take(length.into())
    }
}

pub(super) fn unusable(what: impl Into<String>) -> Trouble {
    Trouble::Unusable(what.into())
}

fn short() -> Trouble {
    unusable("a length goes beyond the packet")
}

impl From<Trouble> for DecodeError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Endless => Self::Malformed("a length of more than four bytes".into()),
            Trouble::Unusable(what) => Self::Malformed(what),
        }
    }
}
