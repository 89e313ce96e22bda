//! What was measured: a line for people on stdout, and JSON for scripts in
//! `target/benches/NAME.json` (below `CARGO_TARGET_DIR`, if that is set).

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::say;

/// All figures of one measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    measurement: &'static str,
    /// What was in force: settings, versions, counts.
    settings: BTreeMap<&'static str, String>,
    figures: Vec<Figure>,
}

/// One figure of several runs.
#[derive(Debug, Serialize)]
struct Figure {
    what: &'static str,
    unit: &'static str,
    /// What tells it from others of the same kind: `who`, `qos`, `bytes`, `broker` …
    of: BTreeMap<&'static str, String>,
    median: f64,
    least: f64,
    most: f64,
    runs: usize,
}

impl Report {
    pub(crate) fn new(measurement: &'static str) -> Self {
        Self { measurement, settings: BTreeMap::new(), figures: Vec::new() }
    }

    /// Says what is in force.
    pub(crate) fn setting(&mut self, name: &'static str, value: impl ToString) {
        let value = value.to_string();
        say(&format!("{name}: {value}"));
        self.settings.insert(name, value);
    }

    /// A figure, from at least one run. Its median comes back.
    pub(crate) fn figure(
        &mut self,
        what: &'static str,
        unit: &'static str,
        of: &[(&'static str, &dyn ToString)],
        mut values: Vec<f64>,
    ) -> f64 {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (median, least, most) = (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)));
        let of: BTreeMap<_, _> = of.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let label = of.values().map(String::as_str).collect::<Vec<_>>().join(" ");
        let digits = if median.abs() < 10.0 { 2 } else { 0 };
        say(&format!("{label:<44} {what:<22} {median:>10.digits$} [{least:.digits$} .. {most:.digits$}] {unit}"));
        self.figures.push(Figure { what, unit, of, median, least, most, runs: values.len() });
        median
    }

    /// Writes the JSON.
    pub(crate) fn write(&self) -> Result<()> {
        let path = folder().join(format!("{}.json", self.measurement));
        fs::create_dir_all(folder())?;
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())?;
        say(&format!("written to {}", path.display()));
        Ok(())
    }
}

/// Where the JSON goes.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"))).join("benches")
}
