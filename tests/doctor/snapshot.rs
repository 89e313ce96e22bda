//! What the program prints, without what changes from one run to the next.

use std::{ffi::OsStr, path::Path};

use crate::harness::{Bed, Config, Context as _, Program, Result, ensure};

/// Exit code and output of `alphorn doctor`.
pub(super) async fn doctor(config: &Path, arguments: &[&str]) -> Result<(i32, String)> {
    let mut all = vec![OsStr::new("doctor"), OsStr::new("--config"), config.as_os_str()];
    all.extend(arguments.iter().map(OsStr::new));
    // Nobody there can be asked who keeps the clock, and nothing is wrong with the configuration but
    // what a test puts there.
    let mut program = Program::start_with(&all, &[("PATH", ""), ("ALPHORN_OUTBOX__STORAGE", "memory")])?;
    let exit = program.exit().await?;
    Ok((exit, program.stdout().join("\n")))
}

/// It ends with this code and says what is in `tests/doctor/NAME.txt`.
pub(super) async fn says(name: &str, bed: &Bed, config: &Config, exit: i32) -> Result<()> {
    let (code, text) = doctor(&config.write()?, &[]).await?;
    let shown = steady(&text, bed.folder());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/doctor").join(format!("{name}.txt"));
    if std::env::var("ALPHORN_SNAPSHOTS").as_deref() == Ok("write") {
        std::fs::write(&path, &shown)?;
    }
    let expected = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    ensure!(shown == expected, "{name} is not as expected:\n{expected}\nbut:\n{shown}");
    ensure!(code == exit, "{name}: exit code {code} instead of {exit}");
    Ok(())
}

/// The same text on every run.
fn steady(text: &str, folder: &Path) -> String {
    let text = text.replace(&*folder.to_string_lossy(), "DIR");
    let mut out = String::new();
    for line in text.lines() {
        let mut words = Vec::new();
        let mut rest = line.split(' ').peekable();
        while let Some(word) = rest.next() {
            match rest.peek().and_then(|unit| measure(word, unit)) {
                Some(time) => {
                    rest.next();
                    words.push(time);
                }
                None => words.push(steady_word(word)),
            }
        }
        out += &words.join(" ");
        out.push('\n');
    }
    out
}

/// Versions, ports, dates and the numbers of files have no place in a comparison.
fn steady_word(word: &str) -> String {
    let bare = word.trim_matches(['(', ')', ',', ';', ':', '.']);
    if let Some((before, number)) = word.split_once("DIR/data-") {
        return format!("{before}DIR/data{}", number.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    let is_date = bare.len() == 20 && bare.ends_with('Z') && bare.contains('T');
    let is_version =
        bare.split('.').count() == 3 && bare.starts_with(|c: char| c.is_ascii_digit()) && !bare.contains(':');
    if is_date {
        return word.replace(bare, "DATE");
    }
    if is_version {
        // MQTT's versions are not ours.
        return if bare == "3.1.1" { word.to_owned() } else { word.replace(bare, "VERSION") };
    }
    if let Some((host, behind)) = bare.rsplit_once(':') {
        let path = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        if behind.len() - path.len() > 2 {
            return word.replace(bare, &format!("{host}:PORT{path}"));
        }
    }
    match bare.split_once("alphorn-").and_then(|(before, rest)| Some((before, rest.strip_suffix(".toml")?))) {
        Some((before, _)) => word.replace(bare, &format!("{before}alphorn.toml")),
        None => word.to_owned(),
    }
}

/// A number and its unit, of a time or a size, with what stands around them.
fn measure(number: &str, unit: &str) -> Option<String> {
    const UNITS: [&str; 15] = [
        "µs", "ms", "s", "second", "seconds", "minute", "minutes", "hour", "hours", "day", "days", "KiB", "MiB", "GiB",
        "TiB",
    ];
    let bare = unit.trim_matches(|c: char| !c.is_alphabetic());
    let open = if number.starts_with('(') { "(" } else { "" };
    let digits = number.trim_start_matches('(');
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let shown = if bare.ends_with("iB") { "SIZE" } else { "TIME" };
    (is_number && UNITS.contains(&bare)).then(|| format!("{open}{}", unit.replacen(bare, shown, 1)))
}
