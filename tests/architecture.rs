//! ARCHITECTURE.md is kept to: what it calls pure is pure, and what it names is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{Context as _, Result, ensure};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rows of the code map: files and folders, and what of I/O they do.
fn code_map() -> Result<Vec<(Vec<String>, String)>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md"))?;
    let map = text.split("| file | what it is | I/O |").nth(1).context("no code map")?;
    let rows = map.lines().skip_while(|line| line.len() < 2 || line.starts_with("|---"));
    Ok(rows
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').split(" | ");
            let files = cells.next()?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Some((files, cells.last()?.trim().to_owned()))
        })
        .collect())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_in(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// A file without its tests and its comments.
fn code(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    Ok(text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n"))
}

#[test]
fn what_is_called_pure_neither_waits_nor_does_io() -> Result<()> {
    let map = code_map()?;
    ensure!(map.len() > 40, "{} rows", map.len());
    let named: BTreeSet<PathBuf> = map.iter().flat_map(|(files, _)| files).map(|file| source().join(file)).collect();
    let mut looked_at = 0;
    for (files, io) in &map {
        for file in files {
            let path = source().join(file);
            ensure!(path.exists(), "{file} is in the code map and not in host/src");
            let within = if path.is_dir() { files_in(&path)? } else { vec![path.clone()] };
            // Who has a row of its own is judged there.
            for path in within.into_iter().filter(|inner| *inner == path || !named.contains(inner)) {
                let is_test = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "simulation");
                if io != "none" || is_test {
                    continue;
                }
                looked_at += 1;
                let code = code(&path)?;
                for word in [".await", "fs::", "File::", "net::Tcp", "net::Unix", "thread::spawn", "Command::new("] {
                    ensure!(!code.contains(word), "{} is called pure and has `{word}`", path.display());
                }
            }
        }
    }
    ensure!(looked_at > 30, "{looked_at} files");
    Ok(())
}

/// Nobody else waits for the disk, and nobody else trusts native code.
#[test]
fn the_store_is_written_in_one_place_and_unsafe_is_in_one_place() -> Result<()> {
    for path in files_in(&source())? {
        if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let (code, path) = (code(&path)?, path.strip_prefix(source())?.to_owned());
        let may = |files: &[&str]| files.iter().any(|file| path == Path::new(file));
        let writes = ["store.rs", "store/opening.rs", "store/salvage.rs"];
        ensure!(!code.contains("begin_write") || may(&writes), "{} writes the store", path.display());
        let syncs = code.contains("sync_all") || code.contains("sync_data");
        let waits = ["log.rs", "folder.rs", "medium.rs", "opening.rs"].map(|file| format!("store/{file}"));
        let others = ["plugin/compile/cache.rs", "plugin/versions.rs", "commands/keygen.rs"];
        let is_store = waits.iter().any(|file| path == Path::new(file));
        ensure!(!syncs || is_store || may(&others), "{} waits for the disk", path.display());
        ensure!(
            !code.contains("unsafe {")
                || may(&["plugin/compile/cache.rs", "clock.rs", "doctor/code_memory.rs", "main.rs"]),
            "{} has unsafe code",
            path.display()
        );
    }
    Ok(())
}

/// A device's build has nothing to unwind with, so a panic ends the process in each.
#[test]
fn nothing_relies_on_a_panic_that_is_caught() -> Result<()> {
    for path in files_in(&source())? {
        let code = code(&path)?;
        for word in ["catch_unwind", "is_panic", "into_panic", "resume_unwind", "panicking()"] {
            ensure!(!code.contains(word), "{} has `{word}`", path.display());
        }
    }
    let main = code(&source().join("main.rs"))?;
    ensure!(main.contains("set_hook") && main.contains("abort()"), "a panic ends the process");
    Ok(())
}

/// The whole map: a newcomer finds every file of the library there, by itself or by its folder.
#[test]
fn every_file_is_in_the_code_map() -> Result<()> {
    let map = code_map()?;
    let named: Vec<PathBuf> = map.iter().flat_map(|(files, _)| files).map(|file| source().join(file)).collect();
    for path in files_in(&source())? {
        let name = path.strip_prefix(source())?;
        let is_program = ["main.rs", "lib.rs", "cli.rs", "exit.rs", "signals.rs", "commands.rs"].map(Path::new);
        let is_known = is_program.contains(&name)
            || name.starts_with("commands")
            || named.iter().any(|known| path == *known || path.starts_with(known));
        // A module's own folder belongs to it.
        let parent = path.parent().map(|folder| folder.with_extension("rs"));
        ensure!(
            is_known || parent.is_some_and(|parent| named.contains(&parent)),
            "{} is not in the code map",
            name.display()
        );
    }
    Ok(())
}
