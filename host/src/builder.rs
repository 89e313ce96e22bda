//! A plugin's folder to a component, whatever it is written in.
//!
//! Each language is a room of its own that finds its toolchain, or says in one line how to
//! get it. What they share is here: which language a folder is in, where things go, and
//! that a component is only touched when it has changed (`dev` swaps what was touched).
//!
//! What a build makes goes to `build/` in the plugin's folder: `NAME.wasm`, and in
//! `build/alphorn/` what the toolchains need from this program, the WIT package for one.
//! Rust is the exception, where cargo has a place for it.

mod c;
mod command;
mod go;
mod javascript;
mod python;
mod rust;
mod source_map;
pub mod template;
mod tools;
pub mod wit;
mod wrap;
mod zig;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tracing::info;

use crate::regular_file::{self, COMPONENT};

/// What came out.
#[derive(Debug, Clone)]
pub struct Built {
    /// The plugin's name, as its folder or its package has it.
    pub name: String,
    /// The component's file.
    pub component: PathBuf,
}

/// The plugin's configuration; its `[build]` says how to build what no room here knows.
const CONFIG: &str = "alphorn.toml";

/// Builds the plugin in the folder, or takes the file that was built elsewhere. Messages of compilers
/// go to stderr.
pub async fn build(path: &Path) -> anyhow::Result<Built> {
    // As cargo names it in what it reports, and the same for a folder named by a link.
    let folder = &path.canonicalize().with_context(|| format!("there is no folder or file {}", path.display()))?;
    if folder.is_file() {
        return finished(folder);
    }
    if let Some(recipe) = command::Recipe::of(folder)? {
        return recipe.build(folder).await;
    }
    match Language::of(folder)? {
        Language::Rust => rust::build(folder).await,
        Language::JavaScript => javascript::build(folder).await,
        Language::Python => python::build(folder).await,
        Language::Go => go::build(folder).await,
        Language::Zig => zig::build(folder).await,
        Language::C => c::build(folder).await,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    /// And TypeScript: one toolchain takes both.
    JavaScript,
    Python,
    Go,
    Zig,
    /// And C++.
    C,
}

impl Language {
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let mut names = names(folder)?;
        names.extend(names_if_any(&folder.join("src"))?);
        Self::from_files(&names).with_context(|| {
            format!(
                "{} is no plugin's folder: it has neither Cargo.toml (Rust), package.json (JavaScript, TypeScript), \
                 pyproject.toml (Python), go.mod (Go) nor a .zig, .c or .cpp file; for another language, `[build]` in \
                 its {CONFIG} names a `command` and the `component` it makes",
                folder.display()
            )
        })
    }

    /// The manifest decides; Zig and C have none.
    fn from_files(names: &[String]) -> Option<Self> {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let any = |is: fn(&Path) -> bool| names.iter().any(|name| is(Path::new(name)));
        match () {
            () if has("Cargo.toml") => Some(Self::Rust),
            () if has("package.json") => Some(Self::JavaScript),
            () if has("pyproject.toml") => Some(Self::Python),
            () if has("go.mod") => Some(Self::Go),
            () if any(zig::is_source) => Some(Self::Zig),
            () if any(c::is_source) => Some(Self::C),
            () => None,
        }
    }
}

/// Whether a path within a plugin's folder is what builds write or toolchains keep there, and
/// so is no source.
pub fn is_made_by_builds(within: &Path) -> bool {
    const AT_THE_TOP: [&str; 5] = ["target", "Cargo.lock", "build", "package-lock.json", "venv"];
    const ANYWHERE: [&str; 2] = ["node_modules", "__pycache__"];
    let names: Vec<_> = within.components().map(|component| component.as_os_str().to_string_lossy()).collect();
    let is_top = names.first().is_some_and(|name| AT_THE_TOP.contains(&name.as_ref()));
    // A log may well be that of `dev` itself.
    let is_none =
        |name: &str| ANYWHERE.contains(&name) || name.starts_with('.') || name.ends_with('~') || name.ends_with(".log");
    is_top || names.iter().any(|name| is_none(name))
}

/// Where builds write.
fn output(folder: &Path) -> PathBuf {
    folder.join("build")
}

/// What toolchains need from this program goes there: a folder that is there afterwards.
fn support(folder: &Path) -> anyhow::Result<PathBuf> {
    let support = output(folder).join("alphorn");
    fs::create_dir_all(&support).with_context(|| format!("can't make {}", support.display()))?;
    Ok(support)
}

/// Writes a file, unless that is what it says already.
fn write(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let content = content.as_ref();
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let folder = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    // Whoever looks meanwhile finds the old one or the new one, whole.
    // Not for one's own eyes only, as temporary files are: as the umask has it.
    let mode = fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
    let mut file = file.with_context(|| cant_write(folder))?;
    io::Write::write_all(&mut file, content).with_context(|| cant_write(path))?;
    file.persist(path).with_context(|| cant_write(path))?;
    Ok(())
}

fn cant_write(path: &Path) -> String {
    format!("can't write to {}", path.display())
}

/// Before a build whose toolchain works for long and says nothing, which it does the first time.
fn announce(made: &Path, doing: &str) {
    if !made.exists() {
        info!("{doing}; this takes a while the first time, up to some minutes");
    }
}

/// A component as it is, a core module wrapped into one beside it.
fn finished(file: &Path) -> anyhow::Result<Built> {
    let folder = file.parent().context("a file lies in a folder")?;
    let name = file.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
    let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    if wrap::is_module(&bytes) { finish(folder, &name, file) } else { Ok(Built { name, component: file.to_owned() }) }
}

/// Puts what a toolchain has made in the component's place.
fn finish(folder: &Path, name: &str, made: &Path) -> anyhow::Result<Built> {
    let bytes =
        regular_file::read(made, COMPONENT).with_context(|| format!("the build has left no {}", made.display()))?;
    let component = output(folder).join(format!("{name}.wasm"));
    let wrapped = wrap::component(bytes)?;
    if matches!(wrapped, wrap::Wrapped::Program(_)) {
        info!(
            "{} is a program of WASI 0.1, and wrapped as a plain WASI program: messages are lines of its input, lines \
             it prints are published (docs/wasi-programs.md)",
            made.display()
        );
    }
    write(&component, wrapped.bytes())?;
    Ok(Built { name: name.to_owned(), component })
}

/// The last part of the folder's path, which names a plugin that nothing else names.
fn folder_name(folder: &Path) -> anyhow::Result<String> {
    match folder.file_name() {
        Some(name) => Ok(name.to_string_lossy().into_owned()),
        None => bail!("{} has no name that a plugin could have", folder.display()),
    }
}

/// The names of the files in a folder.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        // The order of a folder is any.
        names.sort();
        Ok(names)
    };
    read().with_context(|| format!("can't read {}", folder.display()))
}

fn names_if_any(folder: &Path) -> anyhow::Result<Vec<String>> {
    if folder.is_dir() { names(folder) } else { Ok(Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(names: &[&str]) -> Option<Language> {
        Language::from_files(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_manifest_says_which_language_it_is() {
        assert_eq!(language(&["Cargo.toml", "lib.rs", "helper.c"]), Some(Language::Rust));
        assert_eq!(language(&["package.json", "plugin.ts"]), Some(Language::JavaScript));
        assert_eq!(language(&["pyproject.toml", "plugin.py"]), Some(Language::Python));
        assert_eq!(language(&["go.mod", "plugin.go", "helper.c"]), Some(Language::Go));
        assert_eq!(language(&["alphorn.toml", "helper.c", "plugin.zig"]), Some(Language::Zig));
        assert_eq!(language(&["alphorn.toml", "plugin.c"]), Some(Language::C));
        assert_eq!(language(&["plugin.cpp"]), Some(Language::C));
        assert_eq!(language(&["README.md", "plugin.h"]), None);
    }

    #[test]
    fn a_component_that_is_what_it_was_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.wasm");
        write(&path, "one").unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        write(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        write(&path, "two").unwrap();
        // As any file has it.
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn a_folder_of_none_says_what_there_could_be() {
        let folder = tempfile::tempdir().unwrap();
        let words = Language::of(folder.path()).unwrap_err().to_string();
        for part in ["Cargo.toml", "package.json", "pyproject.toml", "go.mod", ".c", "[build]", "command"] {
            assert!(words.contains(part), "{words}");
        }
    }
}
