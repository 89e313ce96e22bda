//! Where each line of a bundle comes from, so that a stack trace can name the plugin's own
//! files. Source maps (ECMA-426) say it in a dense form; a plugin carries a table instead.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// The part of a source map that is read.
#[derive(Debug, Deserialize)]
pub(super) struct SourceMap {
    sources: Vec<String>,
    mappings: String,
}

/// For each line of the bundle the file, as a place in `files`, and the line there, from 1.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lines {
    files: Vec<String>,
    lines: Vec<Option<(i64, i64)>>,
}

impl SourceMap {
    /// The table; `name` says what a file is called in it.
    pub(super) fn lines(self, name: impl Fn(String) -> String) -> anyhow::Result<Lines> {
        // All but the column in the bundle count on over the lines.
        let (mut file, mut line) = (0, 0);
        let mut lines = Vec::new();
        for segments in self.mappings.split(';') {
            let mut first = None;
            for segment in segments.split(',').filter(|segment| !segment.is_empty()) {
                let numbers = numbers(segment)?;
                // One number: this place comes from nowhere.
                if let &[_, more_files, more_lines, ..] = numbers.as_slice() {
                    file += more_files;
                    line += more_lines;
                    first = first.or(Some((file, line + 1)));
                }
            }
            lines.push(first);
        }
        Ok(Lines { files: self.sources.into_iter().map(name).collect(), lines })
    }
}

impl Lines {
    /// The file and the line that the bundle's line, from 1, comes from.
    pub(super) fn source(&self, line: usize) -> Option<(&str, i64)> {
        let (file, line) = (*self.lines.get(line.checked_sub(1)?)?)?;
        Some((self.files.get(usize::try_from(file).ok()?)?, line))
    }
}

/// A segment's numbers: base 64, five bits a digit, the lowest first, the sign in the last bit.
fn numbers(segment: &str) -> anyhow::Result<Vec<i64>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut numbers = Vec::new();
    let (mut value, mut shift) = (0_i64, 0);
    for character in segment.chars() {
        let digit = DIGITS.find(character).with_context(|| format!("{character:?} in a source map"))?;
        ensure!(shift < 60, "a number in a source map is too long");
        value |= i64::try_from(digit & 0b1_1111)? << shift;
        shift += 5;
        if digit & 0b10_0000 == 0 {
            numbers.push(if value & 1 == 0 { value >> 1 } else { -(value >> 1) });
            (value, shift) = (0, 0);
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_standard_has_them() {
        assert_eq!(numbers("AAAA").unwrap(), [0, 0, 0, 0]);
        assert_eq!(numbers("CDgB").unwrap(), [1, -1, 16]);
        assert!(numbers("A!").is_err());
        assert!(numbers(&"g".repeat(20)).is_err());
    }

    #[test]
    fn each_line_has_the_place_it_begins_with() {
        let map =
            SourceMap { sources: vec!["../a.js".into(), "../b.js".into()], mappings: ";AAAA,CAACA;;ACCA,A".into() };
        let lines = map.lines(|name| name.replace("../", "")).unwrap();
        assert_eq!(lines.files, ["a.js", "b.js"]);
        assert_eq!(lines.lines, [None, Some((0, 1)), None, Some((1, 2))]);
    }
}
