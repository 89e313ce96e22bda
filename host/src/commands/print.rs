//! Messages and results on stdout.

use std::io::{self, Write};

use alphorn::message::Message;
use serde_json::json;

/// `topic payload`, or one JSON object. A payload that is not text is shown in hexadecimal.
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
        return line(&object.to_string());
    }
    match text {
        Some(text) => line(&format!("{} {text}", message.topic)),
        None => line(&format!("{} 0x{}", message.topic, hexadecimal(&message.payload))),
    }
}

/// One line, at once: whoever reads it through a pipe waits for it.
pub(super) fn line(text: &str) -> io::Result<()> {
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
    table.load_preset(comfy_table::presets::NOTHING).set_header(head.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
