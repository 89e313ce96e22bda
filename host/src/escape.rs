//! Text that came from outside, as it may be shown: on a terminal, in a log, in a table.
//!
//! A topic, a guest's last words or a broker's reason may hold what ends a line, steers a terminal or
//! turns the order of letters around. All of that becomes visible: `\n`, `\u{1b}`, `\u{202e}`.
//! A backslash stays what it is: this is for eyes, not to be read back.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// A character that could forge a line, steer a terminal, or that nobody would see: all of the
/// categories Cc, Cf, Zl and Zp of Unicode 17.
pub fn is_hidden(character: char) -> bool {
    match character {
        ' '..='~' => false,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        '\u{a0}'..='\u{ac}' => false,
        _ => matches!(
            character,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        ),
    }
}

/// The text in one line in which everything can be seen. Most texts need nothing for that.
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// The same of a text of several lines, which stay lines.
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character != '\n' && is_hidden(character))
}

/// JSON in which everything can be seen: the same value, each hidden character of its texts as `\uXXXX`.
pub fn shown_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_hidden) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// The text in one line, its middle left out where it is longer than `longest` bytes.
pub fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return shown(text);
    }
    let head = text.get(..text.floor_char_boundary(longest * 3 / 4)).unwrap_or_default();
    let tail = text.get(text.ceil_char_boundary(text.len() - longest / 4)..).unwrap_or_default();
    let left_out = text.len() - head.len() - tail.len();
    Cow::Owned(format!("{}[… {left_out} bytes …]{}", shown(head), shown(tail)))
}

/// Writes on what is written to it, escaped, and no more than it was told to.
#[derive(Debug)]
pub struct Escaping<'a> {
    out: &'a mut String,
    /// Bytes that may still be written.
    left: usize,
    left_out: usize,
}

impl<'a> Escaping<'a> {
    /// Appends to `out`, and no more than so many bytes.
    pub fn new(out: &'a mut String, longest: usize) -> Self {
        Self { out, left: longest, left_out: 0 }
    }

    /// Says how much had no room.
    pub fn end(self) {
        if self.left_out > 0 {
            let _ = write!(self.out, "[… {} bytes]", self.left_out);
        }
    }

    fn push(&mut self, piece: &str, of: usize) {
        // Once something is left out all that follows is: a text with holes would mislead.
        if self.left_out > 0 || piece.len() > self.left {
            self.left_out += of;
            return;
        }
        self.left -= piece.len();
        self.out.push_str(piece);
    }
}

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.left_out == 0 && text.len() <= self.left && !text.chars().any(is_hidden) {
            self.push(text, text.len());
            return Ok(());
        }
        let mut buffer = [0; 4];
        for character in text.chars() {
            let length = character.len_utf8();
            match is_hidden(character) {
                true => self.push(&character.escape_default().collect::<String>(), length),
                false => self.push(character.encode_utf8(&mut buffer), length),
            }
        }
        Ok(())
    }
}

fn escaped(text: &str, is_meant: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_meant) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_meant(character) { out.extend(character.escape_default()) } else { out.push(character) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_forges_or_hides_is_seen() {
        let text = "a\nERROR link{name=x}: b\r\u{1b}[31m\u{202e}c\u{2028}\0\u{7f}\u{85}\u{feff}ü\\n\t";
        let seen = r"a\nERROR link{name=x}: b\r\u{1b}[31m\u{202e}c\u{2028}\u{0}\u{7f}\u{85}\u{feff}ü\n\t";
        assert_eq!(shown(text), seen);
        assert!(matches!(shown("plain ünïcode 😀"), Cow::Borrowed(_)));
        assert_eq!(shown_lines("a\nb\r"), "a\nb\\r");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "t\u{202e}": "a\u{85}\n\u{e0001}ü" });
        let json = value.to_string();
        let shown = shown_json(&json);
        assert!(!shown.chars().any(is_hidden), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert!(matches!(shown_json("{\"a\":1}"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_written_through_is_escaped_and_bounded() {
        let mut out = String::new();
        let mut escaping = Escaping::new(&mut out, 10);
        write!(escaping, "a\u{1b}b").unwrap();
        write!(escaping, "{}", "x".repeat(100)).unwrap();
        write!(escaping, "y").unwrap();
        escaping.end();
        assert_eq!(out, "a\\u{1b}bxx[… 99 bytes]");
        assert_eq!(cut(&format!("{}\n{}", "ä".repeat(50), "z".repeat(50)), 16), "ääääää[… 135 bytes …]zzzz");
    }

    /// The categories of Unicode, by what the standard library knows of them: whatever it calls a
    /// control character is hidden, and nothing that is a letter, a digit or a space of a width.
    #[test]
    fn no_letter_is_hidden_and_no_control_character_is_not() {
        for character in '\0'..=char::MAX {
            if character.is_control() {
                assert!(is_hidden(character), "{character:?}");
            }
            if character.is_alphanumeric() {
                assert!(!is_hidden(character), "{character:?}");
            }
        }
    }
}
