//! Messages and results on stdout. Whatever comes from outside is made visible here.

use std::io::{self, IsTerminal, Write};

use alphorn::{
    escape::{shown, shown_json, shown_lines},
    message::Message,
};
use serde::Serialize;
use serde_json::json;

/// `topic payload`, or one JSON object. A payload that is not text is shown in hexadecimal. A terminal
/// gets a line that does not steer it; a file or a program gets the payload as it is.
pub(super) fn message(message: &Message, as_json: bool) -> io::Result<()> {
    let text = std::str::from_utf8(&message.payload).ok();
    if as_json {
        let (key, payload) = match text {
            Some(text) => ("payload", text.to_owned()),
            None => ("payload_hex", hexadecimal(&message.payload)),
        };
        let object = json!({
            "topic": message.topic.as_str(),
            "qos": message.qos as u8,
            "retain": message.retain,
            key: payload,
        });
        return self::json(&object);
    }
    let topic = shown(message.topic.as_str());
    match text {
        Some(text) if io::stdout().is_terminal() => composed(&format!("{topic} {}", shown(text))),
        Some(text) => composed(&format!("{topic} {text}")),
        None => composed(&format!("{topic} 0x{}", hexadecimal(&message.payload))),
    }
}

/// What somebody sent, which may have lines of its own. A terminal is not steered by it.
pub(super) fn payload(text: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { line(text) } else { composed(text) }
}

/// One line, or several that are our own.
pub(super) fn line(text: &str) -> io::Result<()> {
    composed(&shown_lines(text))
}

/// One JSON value.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    composed(&shown_json(&serde_json::to_string(value)?))
}

/// What holds colours, or is what somebody sent: nothing in it is escaped any more. At once, since
/// whoever reads it through a pipe waits for it.
pub(super) fn composed(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A plain table, its columns as wide as they have to be.
pub(super) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    let rows = rows.map(|row| row.iter().map(|cell| shown(cell).into_owned()).collect::<Vec<_>>());
    table.load_preset(comfy_table::presets::NOTHING).set_header(head.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
