//! Which characters a text of MQTT may have (MQTT 5.0, section 1.5.4; 3.1.1 has the same section).
//!
//! U+0000 is forbidden. Control characters and what Unicode calls noncharacters "SHOULD NOT" be
//! there, and a receiver may take a packet that has one for malformed: mosquitto and others then
//! end the connection, which is everybody's. So none of them leaves this host, while what arrives
//! may have any but U+0000.

use std::fmt;

use crate::message::LONGEST_TEXT as LONGEST;

/// A character that is not to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disallowed(char);

/// Why a text can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Its length can't be written.
    #[error("it has {0} bytes, MQTT allows {LONGEST}")]
    TooLong(usize),
    /// A broker may end the connection over it.
    #[error("it contains {0}")]
    Disallowed(Disallowed),
}

/// Whether the text may be sent.
pub fn check(text: &str) -> Result<(), TextError> {
    if text.len() > LONGEST {
        return Err(TextError::TooLong(text.len()));
    }
    match disallowed(text) {
        None => Ok(()),
        Some(character) => Err(TextError::Disallowed(character)),
    }
}

/// Whether a text may be taken that somebody else has sent.
pub fn check_arrived(text: &str) -> Result<(), TextError> {
    if text.contains('\0') { Err(TextError::Disallowed(Disallowed('\0'))) } else { Ok(()) }
}

/// The first character that is not to be sent.
fn disallowed(text: &str) -> Option<Disallowed> {
    // Nearly all texts are plain ASCII, and then there is nothing to decode.
    if text.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return None;
    }
    text.chars().find(|character| is_disallowed(*character)).map(Disallowed)
}

fn is_disallowed(character: char) -> bool {
    let is_noncharacter = |code: u32| matches!(code, 0xfdd0..=0xfdef) || code & 0xfffe == 0xfffe;
    // These are U+0000 to U+001F and U+007F to U+009F.
    character.is_control() || is_noncharacter(character.into())
}

impl fmt::Display for Disallowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            '\0' => "the NUL character",
            character if character.is_control() => "a control character",
            _ => "no character by the rules of Unicode",
        };
        write!(f, "U+{:04X} ({kind}), for which a broker may end the connection", u32::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_what_the_specification_names_is_not_to_be_sent() {
        for code in 0..=0x10_ffff_u32 {
            let Some(character) = char::from_u32(code) else { continue };
            let expected =
                matches!(code, 0..=0x1f | 0x7f..=0x9f | 0xfdd0..=0xfdef) || matches!(code & 0xffff, 0xfffe | 0xffff);
            assert_eq!(disallowed(&format!("a{character}b")).is_some(), expected, "U+{code:04X}");
        }
    }

    #[test]
    fn a_text_is_refused_with_the_character_or_the_length() {
        assert_eq!(check("sensor/Küche/温度/🌡"), Ok(()));
        let words = |text: &str| check(text).unwrap_err().to_string();
        assert_eq!(
            words("a\u{7}"),
            "it contains U+0007 (a control character), for which a broker may end the connection"
        );
        assert!(words("\0").contains("U+0000 (the NUL character)"));
        assert!(words("a\u{1fffe}").contains("U+1FFFE (no character"));
        assert_eq!(check(&"x".repeat(LONGEST)), Ok(()));
        assert_eq!(check(&"x".repeat(LONGEST + 1)), Err(TextError::TooLong(LONGEST + 1)));
    }
}
