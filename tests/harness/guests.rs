//! The plugins the tests run, built once.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{Context as _, Result, ensure};

const TARGET: &str = "wasm32-wasip2";

/// The component of a guest in `tests/guests/examples`.
pub(crate) fn guest(name: &str) -> Result<PathBuf> {
    existing(&format!("examples/{name}.wasm"))
}

/// The same guest with another digest: a component may end with sections nobody reads.
pub(crate) fn version(name: &str, number: u8) -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(guest(name)?)?;
    // A custom section: id 0, its length, the length of its name, the name.
    bytes.extend([0, 3, 1, b'v', number]);
    Ok(bytes)
}

/// The component of an example in `plugins`.
pub(crate) fn plugin(name: &str) -> Result<PathBuf> {
    existing(&format!("{name}.wasm"))
}

/// All of them.
pub(super) fn all() -> Result<Vec<PathBuf>> {
    let built = built()?;
    let mut components = Vec::new();
    for folder in [built.to_owned(), built.join("examples")] {
        for entry in folder.read_dir()? {
            let path = entry?.path();
            // Cargo keeps another copy with a digest in its name.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".wasm") && !name.contains('-') {
                components.push(path);
            }
        }
    }
    Ok(components)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> &'static Path {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp)
}

fn existing(file: &str) -> Result<PathBuf> {
    let path = built()?.join(file);
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}

/// Builds the guests if no test has; the folder they are in.
fn built() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    add_target(root)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args([
        "build",
        "--release",
        "--locked",
        "--target",
        TARGET,
        "--lib",
        "--bins",
        "--examples",
    ]);
    for package in ["alphorn-test-guests", "timestamp", "threshold", "echo", "hello", "average"] {
        cargo.args(["--package", package]);
    }
    cargo.arg("--target-dir").arg(target_dir());
    // What cargo sets for the tests is not meant for what they build.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    succeeds(&mut cargo)?;
    Ok(target_dir().join(TARGET).join("release"))
}

fn add_target(root: &Path) -> Result<()> {
    // Where there is no rustup, the toolchain has the target or the build says that it is missing.
    let Ok(listed) = Command::new("rustup").current_dir(root).args(["target", "list", "--installed"]).output() else {
        return Ok(());
    };
    if String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == TARGET) {
        return Ok(());
    }
    succeeds(Command::new("rustup").current_dir(root).args(["target", "add", TARGET]))
}

fn succeeds(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A plain program that takes long to compile: one function of so many times five instructions. `rest`
/// is what it has or asks for beside that, as text.
pub(crate) fn slow_to_compile(times: usize, rest: &str) -> Result<Vec<u8>> {
    let body = "local.get 0 i32.const 7 i32.mul i32.const 3 i32.add local.set 0 ".repeat(times);
    let text = format!(
        r#"(component {rest}
            (core module $slow (func (param i32) {body}))
            (core module $run (func (export "run") (result i32) (i32.const 0)))
            (core instance $run (instantiate $run))
            (func $run (result (result)) (canon lift (core func $run "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#
    );
    Ok(wat::parse_str(text)?)
}
