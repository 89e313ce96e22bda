//! What is wrong with a configuration, in words: the line, the key, the cause and the remedy, and
//! nothing that should not be read by others.

use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use crate::{
    escape::{cut, shown},
    nearest::with_nearest,
};

/// The most that is repeated of a value, in bytes.
const VALUE: usize = 80;

/// The longest message, in bytes. That of an unknown key lists all there are.
const MESSAGE: usize = 2000;

/// An error of the text, with its line and its key.
pub(super) fn explain(error: &Error, text: &str, has_lines: bool) -> String {
    let message = in_our_words(&with_nearest(error.message()));
    let Some(span) = error.span() else { return message };
    let key = key_at(text, &span).map(|key| format!("{key}: ")).unwrap_or_default();
    match has_lines {
        true => format!("line {}: {key}{message}", line_of(text, span.start)),
        false => format!("{key}{message}"),
    }
}

/// The key an error is about, if it is about one.
pub(super) fn key_of(error: &Error, text: &str) -> Option<String> {
    key_at(text, &error.span()?)
}

/// A message that begins with a key, with the line where that stands in the file.
pub(super) fn with_line(message: &str, text: &str) -> String {
    let key = message.split([' ', ':']).next().unwrap_or_default();
    let Ok(document) = DeTable::parse(text) else { return message.to_owned() };
    match start_of(document.get_ref(), key) {
        Some(start) => format!("line {}: {message}", line_of(text, start)),
        None => message.to_owned(),
    }
}

/// The message as it may be shown and kept: in one line, no value longer than is of use, no login.
pub(super) fn presentable(message: &str) -> String {
    let message = without_logins(message);
    let mut out = String::with_capacity(message.len());
    // What is between two quotes of a kind is a name or a value.
    let mut rest = message.as_str();
    while let Some(at) = rest.find(['`', '"']) {
        let (before, quoted) = rest.split_at(at);
        let quote = if quoted.starts_with('`') { '`' } else { '"' };
        let inner = quoted.get(1..).unwrap_or_default();
        let Some(end) = inner.find(quote) else { break };
        let (value, after) = inner.split_at(end);
        out.push_str(&shown(before));
        out.push(quote);
        out.push_str(&cut(value, VALUE));
        out.push(quote);
        rest = after.get(1..).unwrap_or_default();
    }
    out.push_str(&shown(rest));
    cut(&out, MESSAGE).into_owned()
}

/// `user:password@` of URLs, and whatever looks like it, is left out.
fn without_logins(message: &str) -> String {
    let ends = |character: char| character.is_whitespace() || matches!(character, '"' | '`' | '\'' | ',');
    let mut out = String::with_capacity(message.len());
    for word in message.split_inclusive(ends) {
        let login = word.rfind('@').filter(|at| word.get(..*at).is_some_and(|before| before.contains(':')));
        match login {
            Some(at) => {
                let scheme = word.get(..at).and_then(|before| before.find("://")).map_or(0, |scheme| scheme + 3);
                out.push_str(word.get(..scheme).unwrap_or_default());
                out.push('…');
                out.push_str(word.get(at..).unwrap_or_default());
            }
            None => out.push_str(word),
        }
    }
    out
}

/// What serde calls by the names of our types, or of its own, as people call it.
fn in_our_words(message: &str) -> String {
    const WORDS: [(&str, &str); 14] = [
        ("expected a sequence", "expected a list, like [\"…\"]"),
        ("expected a map", "expected a table, like { key = \"…\" }"),
        ("expected a string", "expected a text in quotes"),
        ("expected path string", "expected a path in quotes"),
        ("expected a boolean", "expected true or false"),
        ("wanted string or table", "expected a text in quotes"),
        ("expected string or table", "expected a text in quotes"),
        ("expected u8", "expected a small whole number"),
        ("expected u16", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("invalid type: sequence", "invalid type: a list"),
        ("invalid type: map", "invalid type: a table"),
    ];
    let mut words = message.to_owned();
    for (theirs, ours) in WORDS {
        words = words.replace(theirs, ours);
    }
    // A message about the text itself may have lines.
    words.replace('\n', ", ")
}

fn line_of(text: &str, start: usize) -> usize {
    text.get(..start).unwrap_or(text).matches('\n').count() + 1
}

/// The key whose name or value is there; in a text that can't be read, the one before it.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let Ok(document) = DeTable::parse(text) else { return key_before(text, span.start) };
    let mut found: Option<(usize, String)> = None;
    look(document.get_ref(), "", &mut |key, range| {
        let is_there = range.start <= span.start && span.start < range.end.max(range.start + 1);
        if is_there && found.as_ref().is_none_or(|(length, _)| range.len() <= *length) {
            found = Some((range.len(), key.to_owned()));
        }
    });
    found.map(|(_, key)| key)
}

/// Shows every key of a table with where it stands: its name, then its value.
fn look(table: &DeTable<'_>, parent: &str, see: &mut impl FnMut(&str, &Range<usize>)) {
    for (name, value) in table {
        let key = if parent.is_empty() { name.get_ref().to_string() } else { format!("{parent}.{}", name.get_ref()) };
        see(&key, &name.span());
        see(&key, &value.span());
        match value.get_ref() {
            DeValue::Table(table) => look(table, &key, see),
            DeValue::Array(items) => {
                for item in items {
                    if let DeValue::Table(table) = item.get_ref() {
                        look(table, &key, see);
                    }
                }
            }
            _ => {}
        }
    }
}

fn start_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let mut start: Option<(usize, usize)> = None;
    // A message may be about something within what stands in the file.
    look(table, "", &mut |there, range| {
        let is_it = key == there || key.strip_prefix(there).is_some_and(|rest| rest.starts_with('.'));
        if is_it && start.is_none_or(|(length, _)| length < there.len()) {
            start = Some((there.len(), range.start));
        }
    });
    start.map(|(_, start)| start)
}

/// The key of the line, or else of what stands before it.
fn key_before(text: &str, start: usize) -> Option<String> {
    let end = text.get(start..)?.find('\n').map_or(text.len(), |length| start + length);
    let lines: Vec<_> = text.get(..end)?.lines().collect();
    let name = |line: &str| {
        let line = line.trim();
        let name = line.split(['=', ']']).next().unwrap_or_default().trim_start_matches('[').trim();
        (!name.is_empty() && !line.starts_with('#')).then(|| name.to_owned())
    };
    let (last, before) = lines.split_last()?;
    let table = before.iter().rev().find(|line| line.trim_start().starts_with('[')).and_then(|line| name(line));
    let key = name(last).or_else(|| before.iter().rev().find_map(|line| name(line)))?;
    match table {
        Some(table) if !last.trim_start().starts_with('[') && table != key => Some(format!("{table}.{key}")),
        _ => Some(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_never_repeated() {
        for text in [
            "`mqtts://user:hunter2@host:1` is no time",
            "`user:hunter2@host` is no time",
            "string \"mqtts://user:hunter/2@host/path\", expected",
            "`https://u:hunter2@a,http://u:hunter2@b`",
        ] {
            let seen = presentable(text);
            assert!(!seen.contains("hunter") && seen.contains('…'), "{seen}");
        }
        assert_eq!(presentable("write to a@b.example"), "write to a@b.example");
    }

    #[test]
    fn long_and_strange_values_are_cut_and_escaped() {
        let seen = presentable(&format!("`{}` is no time: write \"10s\"", "x".repeat(100_000)));
        assert!(seen.len() < 200 && seen.contains("[… 99920 bytes …]") && seen.ends_with("write \"10s\""), "{seen}");
        assert_eq!(presentable("`a\nERROR \u{1b}[31m`"), r"`a\nERROR \u{1b}[31m`");
        assert!(presentable(&"y".repeat(100_000)).len() < MESSAGE + 40);
    }

    #[test]
    fn a_key_is_found_by_its_place_and_its_place_by_the_key() {
        let text = "[link]\nurl = \"x\"\n[plugins.a]\nlimits = { retry = { max = \"many\" } }\n";
        let at = |part: &str| text.find(part).unwrap();
        assert_eq!(key_at(text, &(at("\"many\"")..at(" } }"))).as_deref(), Some("plugins.a.limits.retry.max"));
        assert_eq!(key_at(text, &(at("\"x\"")..at("\n[pl"))).as_deref(), Some("link.url"));
        assert_eq!(with_line("plugins.a.limits.retry.max: no", text), "line 4: plugins.a.limits.retry.max: no");
        assert_eq!(with_line("link.url is no", text), "line 2: link.url is no");
        assert_eq!(with_line("host.socket: no", text), "host.socket: no");
        assert_eq!(key_before("[link]\nurl = \"x\nclient_id = 1", 14).as_deref(), Some("link.url"));
        assert_eq!(key_before("[link", 5).as_deref(), Some("link"));
    }
}
