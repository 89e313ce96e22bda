//! Rust: `cargo build`, whose linker makes components.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tracing::info;

use super::Built;

/// The target whose linker makes components.
const TARGET: &str = "wasm32-wasip2";

/// Small before fast: a plugin is sent over the air and compiled on the device.
const PROFILE: [&str; 6] = [
    "profile.alphorn-plugin.inherits=\"release\"",
    "profile.alphorn-plugin.opt-level=\"s\"",
    "profile.alphorn-plugin.lto=true",
    "profile.alphorn-plugin.codegen-units=1",
    "profile.alphorn-plugin.strip=true",
    "profile.alphorn-plugin.panic=\"abort\"",
];

/// Builds the package in the folder. The compiler's messages go to stderr.
pub(super) async fn build(folder: &Path) -> anyhow::Result<Built> {
    let manifest = folder.join("Cargo.toml");
    ensure_target().await?;
    let mut command = Command::new("cargo");
    command.args([
        "build",
        "--target",
        TARGET,
        "--profile",
        "alphorn-plugin",
        "--message-format=json-render-diagnostics",
    ]);
    command.arg("--manifest-path").arg(&manifest);
    for setting in PROFILE {
        command.args(["--config", setting]);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cargo can't be started: install Rust from https://rustup.rs")?
        // Not `output`, which takes stderr as well.
        .wait_with_output()
        .await?;
    ensure!(output.status.success(), "{} does not build; the compiler's message is above", folder.display());
    let artifacts =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Artifact>(line).ok());
    let component = artifacts.filter(|artifact| artifact.manifest_path == manifest).find_map(|artifact| {
        let component =
            artifact.filenames.into_iter().find(|file| file.extension().is_some_and(|end| end == "wasm"))?;
        Some(Built { name: artifact.target.name, component })
    });
    component.with_context(|| {
        format!(
            "{} built, but not to a component: its Cargo.toml needs\n[lib]\ncrate-type = [\"cdylib\"]",
            folder.display()
        )
    })
}

/// Adds the target to the toolchain if it is missing.
async fn ensure_target() -> anyhow::Result<()> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().await;
    let output = output.context("rustc can't be started: install Rust from https://rustup.rs")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).exists() {
        return Ok(());
    }
    info!("adding the target {TARGET} to the toolchain");
    let added = Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).status().await;
    match added {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("`rustup target add {TARGET}` failed; its message is above"),
        Err(_) => bail!(
            "the target {TARGET} is missing and there is no rustup to add it with: install it the way Rust was installed"
        ),
    }
}

/// A line of cargo's that speaks of something it made.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}
