//! Finding and running the programs of toolchains.

use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

/// The program in `within` (like `node_modules/.bin`) of the folder or of one above it, as
/// package managers look; else in the search path.
pub(super) fn find(folder: &Path, within: &str, program: &str) -> Option<PathBuf> {
    find_near(folder, within, program).or_else(|| find_in_path(program))
}

/// The program in `within` of the folder or of one above it.
pub(super) fn find_near(folder: &Path, within: &str, program: &str) -> Option<PathBuf> {
    folder.ancestors().map(|folder| folder.join(within).join(program)).find(|path| path.is_file())
}

/// The program in the search path.
pub(super) fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Pythons that may have a module: of the folder's virtual environment or one above, of the
/// active one, and the system's.
pub(super) fn pythons(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let near = [".venv/bin", "venv/bin"].map(|within| find_near(folder, within, "python3"));
    near.into_iter().chain([find_in_path("python3")]).flatten()
}

/// Whether python has the module, without running it.
pub(super) async fn has_module(python: &Path, module: &str) -> bool {
    let find = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec({module:?}) is None)");
    let mut command = Command::new(python);
    command.arg("-c").arg(find).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.status().await.is_ok_and(|status| status.success())
}

/// Runs it to its end. All it says goes to stderr: stdout is for the result of `build`.
pub(super) async fn run(mut command: Command, what: &str) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(io::stderr()).stderr(Stdio::inherit()).kill_on_drop(true);
    let status = command.status().await.with_context(|| format!("{what} can't be started"))?;
    ensure!(status.success(), "{what} failed ({status}); its message is above");
    Ok(())
}

/// The same for a program whose result is what it says.
pub(super) async fn output(mut command: Command, what: &str) -> anyhow::Result<Vec<u8>> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).stdout(Stdio::piped()).kill_on_drop(true);
    // Not `output`, which takes stderr as well.
    let output = command.spawn().with_context(|| format!("{what} can't be started"))?.wait_with_output().await?;
    ensure!(output.status.success(), "{what} failed ({}); its message is above", output.status);
    Ok(output.stdout)
}

/// The same for a program that tells of its progress: what it says is shown only if it fails,
/// and of that what `explain` finds in it for who writes the plugin.
pub(super) async fn run_explained(
    mut command: Command,
    what: &str,
    explain: impl FnOnce(&str) -> Option<String>,
) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("{what} can't be started"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match explain(&said) {
        Some(words) => bail!("{words}"),
        None => bail!("{what} failed ({}):\n{}", output.status, said.trim()),
    }
}

/// A command with these arguments.
pub(super) fn command<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_program_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let (near, far) = (root.path().join("a/b"), root.path().join("bin"));
        fs::create_dir_all(near.join("bin")).unwrap();
        fs::create_dir_all(&far).unwrap();
        fs::write(far.join("tool"), "").unwrap();
        assert_eq!(find(&near, "bin", "tool"), Some(far.join("tool")));
        fs::write(near.join("bin/tool"), "").unwrap();
        assert_eq!(find(&near, "bin", "tool"), Some(near.join("bin/tool")));
        assert_eq!(find(&near, "bin", "no-such-tool-anywhere"), None);
        assert!(find(&near, "bin", "sh").is_some(), "not in the search path");
    }
}
