//! C and C++: a compiler that brings a C library for WASI makes a core module of the
//! plugin, the bindings and the layers above them.
//!
//! The bindings in `guest-sdk/c` are what wit-bindgen makes of the WIT package
//! (`tests/bindings` holds them to that), so nobody needs that program here.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tokio::process::Command;

use super::{Built, announce, finish, folder_name, names, names_if_any, support, tools, write};

/// The bindings, and the layers that make them pleasant.
const SDK: [(&str, &str); 5] = [
    ("wit.c", include_str!("../../../guest-sdk/c/wit.c")),
    ("wit.h", include_str!("../../../guest-sdk/c/wit.h")),
    ("alphorn.c", include_str!("../../../guest-sdk/c/alphorn.c")),
    ("alphorn.h", include_str!("../../../guest-sdk/c/alphorn.h")),
    ("alphorn.hpp", include_str!("../../../guest-sdk/cpp/alphorn.hpp")),
];

/// The compiler that is easiest to get.
pub(super) const TOOL: &str = "ziglang==0.17.1";

/// Small before fast; nothing but the plugin's own words in the warnings.
const FLAGS: [&str; 4] = ["-Os", "-Wall", "-Wextra", "-Wno-unused-parameter"];

/// Exceptions are not to be had in a component yet, so what can fail returns `std::expected`.
const CPP: [&str; 2] = ["-std=c++23", "-fno-exceptions"];

/// A library of functions, not a program; and a stack that a device can spare: zig's own
/// default is 16 MiB, which is all the memory that a plugin has.
const LINKING: [&str; 4] = ["-Os", "-s", "-mexec-model=reactor", "-Wl,-z,stack-size=131072"];

pub(super) fn is_source(name: &Path) -> bool {
    is_c(name) || is_cpp(name)
}

fn is_c(name: &Path) -> bool {
    name.extension().is_some_and(|end| end == "c")
}

fn is_cpp(name: &Path) -> bool {
    name.extension().is_some_and(|end| end == "cpp" || end == "cc" || end == "cxx")
}

pub(super) async fn build(folder: &Path) -> anyhow::Result<Built> {
    let compiler = Compiler::find(folder).await?;
    let name = folder_name(folder)?;
    let support = support(folder)?;
    write_sdk(&support)?;
    let objects = support.join("objects");
    fs::create_dir_all(&objects).with_context(|| format!("can't make {}", objects.display()))?;

    let own = sources(folder)?;
    let has_cpp = own.iter().any(|source| is_cpp(source));
    let brought = SDK.iter().map(|(name, _)| support.join(name)).filter(|path| is_c(path));
    let made = support.join("core.wasm");
    announce(&made, compiler.doing());
    let mut linked = Vec::new();
    for source in own.into_iter().chain(brought) {
        let stem = source.file_name().context("a source has a name")?.to_string_lossy().replace('.', "_");
        let object = objects.join(format!("{stem}.o"));
        let mut command = compiler.command(is_cpp(&source));
        command.current_dir(folder).args(FLAGS).args(if is_cpp(&source) { &CPP[..] } else { &[] });
        command.arg("-I").arg(&support).arg("-c").arg(&source).arg("-o").arg(&object);
        tools::run(command, &format!("compiling {}", source.display())).await?;
        linked.push(object);
    }
    let mut command = compiler.command(has_cpp);
    command.current_dir(folder).args(LINKING).args(linked).arg("-o").arg(&made);
    tools::run(command, "linking").await?;
    finish(folder, &name, &made)
}

pub(super) fn write_sdk(support: &Path) -> anyhow::Result<()> {
    SDK.iter().try_for_each(|(name, text)| write(&support.join(name), text))
}

/// What lies in the folder and in `src/`.
fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let within = |folder: PathBuf, names: Vec<String>| names.into_iter().map(move |name| folder.join(name));
    let src = folder.join("src");
    let all = within(folder.to_owned(), names(folder)?).chain(within(src.clone(), names_if_any(&src)?));
    Ok(all.filter(|path| is_source(path)).collect())
}

/// How to start it, for one language and the other.
enum Compiler {
    /// `zig`, or python with the package ziglang.
    Zig(Vec<PathBuf>),
    /// clang with a sysroot, as the WASI SDK has it.
    Clang(PathBuf),
}

impl Compiler {
    async fn find(folder: &Path) -> anyhow::Result<Self> {
        if let Some(sdk) = env::var_os("WASI_SDK_PATH").filter(|path| !path.is_empty()) {
            return Ok(Self::Clang(Path::new(&sdk).join("bin")));
        }
        zig(folder).await.map(Self::Zig).with_context(|| {
            format!(
                "there is no C compiler for WebAssembly: in {}, run `python3 -m venv .venv && .venv/bin/pip install \
                 {TOOL}` (or install zig, or set WASI_SDK_PATH to a WASI SDK)",
                folder.display()
            )
        })
    }

    /// What takes the time.
    fn doing(&self) -> &'static str {
        match self {
            Self::Zig(_) => "compiling with zig, the C and C++ libraries as well",
            Self::Clang(_) => "compiling with clang",
        }
    }

    fn command(&self, is_cpp: bool) -> Command {
        match self {
            Self::Zig(zig) => {
                let mut command = start(zig);
                command.arg(if is_cpp { "c++" } else { "cc" }).args(["-target", "wasm32-wasi"]);
                command
            }
            Self::Clang(bin) => {
                let mut command = Command::new(bin.join(if is_cpp { "clang++" } else { "clang" }));
                command.arg("--target=wasm32-wasip1");
                command
            }
        }
    }
}

/// How to start zig: a program of its own, or a module of python.
pub(super) async fn zig(folder: &Path) -> Option<Vec<PathBuf>> {
    if let Some(zig) = tools::find_in_path("zig") {
        return Some(vec![zig]);
    }
    for python in tools::pythons(folder) {
        if tools::has_module(&python, "ziglang").await {
            return Some(vec![python, "-m".into(), "ziglang".into()]);
        }
    }
    None
}

/// The command that these words are.
pub(super) fn start(words: &[PathBuf]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or(Path::new("zig"), PathBuf::as_path));
    command.args(words);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_both_languages_are_found_in_both_places() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        for name in ["b.c", "src/a.cpp", "src/a.h", "README.md"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = sources(folder.path()).unwrap();
        assert_eq!(found, ["b.c", "src/a.cpp"].map(|name| folder.path().join(name)));
    }
}
