//! A plugin to begin with, in each language.

use std::{
    fs,
    path::{Component, Path},
};

use anyhow::{Context, bail, ensure};

use super::{wit, write};

/// A language that there is a template for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// By cargo.
    Rust,
    /// By zig, or a WASI SDK.
    C,
    /// The same.
    Cpp,
    /// By componentize-qjs.
    JavaScript,
    /// The same.
    TypeScript,
    /// By componentize-py.
    Python,
    /// By Go's own compiler.
    Go,
    /// By zig.
    Zig,
}

/// The files of a folder in `templates/`.
macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../templates/", $folder, "/", $name)))),*]
    };
}

impl Template {
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => files!("rust": "Cargo.toml" "src/lib.rs" "alphorn.toml" "README.md" "gitignore"),
            Self::C => files!("c": "plugin.c" "compile_flags.txt" "alphorn.toml" "README.md" "gitignore"),
            Self::Cpp => files!("cpp": "plugin.cpp" "compile_flags.txt" "alphorn.toml" "README.md" "gitignore"),
            Self::JavaScript => {
                files!("javascript": "package.json" "jsconfig.json" "src/plugin.js" "alphorn.toml" "README.md" "gitignore")
            }
            Self::TypeScript => {
                files!("typescript": "package.json" "tsconfig.json" "src/plugin.ts" "alphorn.toml" "README.md" "gitignore")
            }
            Self::Python => files!("python": "pyproject.toml" "plugin.py" "alphorn.toml" "README.md" "gitignore"),
            Self::Zig => files!("zig": "plugin.zig" "alphorn.toml" "README.md" "gitignore"),
            Self::Go => files!("go": "go.mod" "plugin.go" "alphorn.toml" "README.md" "gitignore"),
        }
    }

    /// Makes the folder, which must not be there or be empty; its last part names the plugin.
    pub fn create(self, folder: &Path) -> anyhow::Result<()> {
        // `.` has no name of its own.
        let named = if folder.file_name().is_none() { &folder.canonicalize()? } else { folder };
        let name = named.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        check_name(name)?;
        let is_taken = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        ensure!(
            !is_taken && !folder.is_file(),
            "{} is there already, and not empty: choose another name",
            named.display()
        );
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let sdk = if self == Self::Rust { Some(RustSdk::near(&folder)) } else { None };

        let crate_name = name.replace('-', "_");
        let type_name = type_name(name);
        let sdk_path = sdk.as_ref().map(RustSdk::path).unwrap_or_default();
        for (file, text) in self.files() {
            let text = text.replace("{{name}}", name).replace("{{crate}}", &crate_name);
            let mut text = text.replace("{{type}}", &type_name).replace("{{sdk}}", &sdk_path);
            if *file == "Cargo.toml" && sdk.as_ref().is_some_and(|sdk| !sdk.is_member) {
                text.push_str("\n# A workspace of its own, also within another.\n[workspace]\n");
            }
            let file = if *file == "gitignore" { ".gitignore" } else { file };
            write(&folder.join(file), text)?;
        }
        if sdk.is_some_and(|sdk| sdk.beside.is_none()) {
            write_rust_sdk(&folder.join(VENDORED))?;
        }
        Ok(())
    }
}

/// What is a name everywhere: in topics, packages and files.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_fine = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if !is_fine {
        let instead = instead_of(name);
        let hint = if instead.is_empty() { String::new() } else { format!("; for instance {instead:?}") };
        bail!(
            "{name:?} can't be a plugin's name: it has to be lower-case letters, digits, - and _, a letter first{hint}"
        );
    }
    Ok(())
}

/// The nearest name there can be; empty if there is none.
fn instead_of(name: &str) -> String {
    let fitting =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' });
    let fitting: String = fitting.collect();
    fitting.trim_start_matches(|c: char| !c.is_ascii_lowercase()).trim_end_matches('-').to_owned()
}

/// `flow-meter` as types are called: `FlowMeter`.
fn type_name(name: &str) -> String {
    let parts = name.split(['-', '_']).map(|part| {
        let mut characters = part.chars();
        let first = characters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(characters).collect::<String>()
    });
    parts.collect()
}

/// Where a new plugin in Rust finds `alphorn-guest`, which no registry has yet.
struct RustSdk {
    /// In Alphorn's own sources, if the plugin is within them; else it gets a copy.
    beside: Option<String>,
    /// The plugin is a member of that workspace.
    is_member: bool,
}

/// The copy's folder in the plugin's.
const VENDORED: &str = "alphorn-guest";

impl RustSdk {
    fn near(folder: &Path) -> Self {
        let is_root = |root: &&Path| {
            let manifest = fs::read_to_string(root.join("guest-sdk/Cargo.toml"));
            manifest.is_ok_and(|text| text.contains("name = \"alphorn-guest\""))
        };
        let root = folder.ancestors().find(is_root);
        let beside = root.and_then(|root| {
            let within = folder.strip_prefix(root).ok()?;
            let up = within.components().filter(|part| matches!(part, Component::Normal(_)));
            Some(up.map(|_| "../").chain(["guest-sdk"]).collect())
        });
        let is_member = root.is_some_and(|root| folder.parent() == Some(&root.join("plugins")));
        Self { beside, is_member }
    }

    fn path(&self) -> String {
        self.beside.clone().unwrap_or_else(|| VENDORED.to_owned())
    }
}

/// The SDK as this program was built with.
const RUST_SDK: [(&str, &str); 17] = [
    ("examples/smallest.rs", include_str!("../../../guest-sdk/examples/smallest.rs")),
    ("macros/src/check.rs", include_str!("../../../guest-sdk/macros/src/check.rs")),
    ("macros/src/expand.rs", include_str!("../../../guest-sdk/macros/src/expand.rs")),
    ("macros/src/lib.rs", include_str!("../../../guest-sdk/macros/src/lib.rs")),
    ("src/bindings.rs", include_str!("../../../guest-sdk/src/bindings.rs")),
    ("src/error.rs", include_str!("../../../guest-sdk/src/error.rs")),
    ("src/export.rs", include_str!("../../../guest-sdk/src/export.rs")),
    ("src/host.rs", include_str!("../../../guest-sdk/src/host.rs")),
    ("src/lib.rs", include_str!("../../../guest-sdk/src/lib.rs")),
    ("src/log.rs", include_str!("../../../guest-sdk/src/log.rs")),
    ("src/message.rs", include_str!("../../../guest-sdk/src/message.rs")),
    ("src/mqtt.rs", include_str!("../../../guest-sdk/src/mqtt.rs")),
    ("src/plugin.rs", include_str!("../../../guest-sdk/src/plugin.rs")),
    ("src/state.rs", include_str!("../../../guest-sdk/src/state.rs")),
    ("src/testing.rs", include_str!("../../../guest-sdk/src/testing.rs")),
    ("src/testing/calls.rs", include_str!("../../../guest-sdk/src/testing/calls.rs")),
    ("src/timers.rs", include_str!("../../../guest-sdk/src/timers.rs")),
];

fn write_rust_sdk(folder: &Path) -> anyhow::Result<()> {
    for (file, text) in RUST_SDK {
        // The package lies in the copy, not beside it.
        write(&folder.join(file), text.replace("path: \"../wit\"", "path: \"wit\""))?;
    }
    for (file, text) in wit::FILES {
        write(&folder.join("wit").join(file), text)?;
    }
    // It is formatted as here, whatever the plugin chooses.
    write(&folder.join("rustfmt.toml"), include_str!("../../../rustfmt.toml"))?;
    write(&folder.join("Cargo.toml"), rust_manifest("alphorn-guest", &["wit-bindgen"], SDK_MANIFEST)?)?;
    let macros = rust_manifest("alphorn-guest-macros", &["proc-macro2", "quote", "strsim", "syn"], MACROS_MANIFEST)?;
    write(&folder.join("macros/Cargo.toml"), macros)
}

const SDK_MANIFEST: &str = "alphorn-guest-macros = { path = \"macros\" }\n";
const MACROS_MANIFEST: &str = "\n[lib]\nproc-macro = true\n";

/// A manifest with dependencies as Alphorn's workspace has them.
fn rust_manifest(name: &str, dependencies: &[&str], rest: &str) -> anyhow::Result<String> {
    let workspace: toml::Table = include_str!("../../../Cargo.toml").parse()?;
    let table = |key| workspace.get("workspace").and_then(|workspace| workspace.get(key));
    let (package, versions) =
        (table("package").context("no package")?, table("dependencies").context("no dependencies")?);
    let mut text = format!("# A copy of Alphorn's guest SDK, made by `alphorn new`.\n[package]\nname = {name:?}\n");
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        text += &format!("{key} = {}\n", package.get(key).with_context(|| format!("no {key}"))?);
    }
    text += "\n[dependencies]\n";
    for dependency in dependencies {
        let version = versions.get(dependency).with_context(|| format!("no {dependency}"))?;
        text += &format!("{dependency} = {version}\n");
    }
    Ok(text + rest)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use super::*;

    /// With the folder of each.
    const ALL: [(Template, &str); 8] = [
        (Template::Rust, "rust"),
        (Template::C, "c"),
        (Template::Cpp, "cpp"),
        (Template::JavaScript, "javascript"),
        (Template::TypeScript, "typescript"),
        (Template::Python, "python"),
        (Template::Go, "go"),
        (Template::Zig, "zig"),
    ];

    fn source(folder: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)
    }

    fn files_in(folder: &Path) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.strip_prefix(folder).unwrap().to_owned());
                }
            }
        }
        files
    }

    #[test]
    fn every_file_of_a_template_and_of_the_sdk_is_brought_along() {
        for (template, folder) in ALL {
            let brought: BTreeSet<_> = template.files().iter().map(|(file, _)| PathBuf::from(file)).collect();
            assert_eq!(brought, files_in(&source("host/templates").join(folder)));
        }
        let brought: BTreeSet<_> = RUST_SDK.iter().map(|(file, _)| PathBuf::from(file)).collect();
        let mut wanted = files_in(&source("guest-sdk"));
        wanted.retain(|file| ["src", "macros/src", "examples"].iter().any(|folder| file.starts_with(folder)));
        assert_eq!(brought, wanted);
    }

    #[test]
    fn nothing_of_a_template_is_left_to_fill_in_and_its_tools_are_those_of_the_builder() {
        for (template, _) in ALL {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("flow-meter");
            template.create(&folder).unwrap();
            for file in files_in(&folder) {
                let text = fs::read_to_string(folder.join(&file)).unwrap();
                assert!(!text.contains("{{"), "{template:?} {}", file.display());
                if file.ends_with("package.json") {
                    for (tool, version) in super::super::javascript::TOOLS {
                        assert!(text.contains(&format!("\"{tool}\": \"{version}\"")), "{text}");
                    }
                }
                if file.ends_with("pyproject.toml") {
                    assert!(text.contains(super::super::python::TOOL), "{text}");
                }
                let compiler = match template {
                    Template::C | Template::Cpp | Template::Zig => Some(super::super::c::TOOL),
                    Template::Go => Some(super::super::go::TOOL),
                    Template::Rust | Template::JavaScript | Template::TypeScript | Template::Python => None,
                };
                if let Some(compiler) = compiler.filter(|_| file.ends_with("README.md")) {
                    assert!(text.contains(compiler), "{text}");
                }
                if file.ends_with("plugin.c") {
                    assert!(text.contains("\"flow-meter/in\""), "{text}");
                }
            }
            assert!(template.create(&folder).unwrap_err().to_string().contains("is there already"));
        }
    }

    #[test]
    fn the_sdk_is_copied_only_where_it_is_not_beside() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("one");
        Template::Rust.create(&outside).unwrap();
        assert!(outside.join("alphorn-guest/wit/world.wit").is_file());
        let bindings = fs::read_to_string(outside.join("alphorn-guest/src/bindings.rs")).unwrap();
        assert!(bindings.contains("path: \"wit\""), "{bindings}");

        fs::create_dir_all(root.path().join("guest-sdk")).unwrap();
        fs::copy(source("guest-sdk/Cargo.toml"), root.path().join("guest-sdk/Cargo.toml")).unwrap();
        for (place, path, is_member) in [("plugins/two", "../../guest-sdk", true), ("three", "../guest-sdk", false)] {
            let folder = root.path().join(place);
            Template::Rust.create(&folder).unwrap();
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("path = {path:?}")), "{manifest}");
            assert_eq!(!manifest.contains("[workspace]"), is_member);
            assert!(!folder.join("alphorn-guest").exists());
        }
    }

    #[test]
    fn a_new_plugin_in_rust_is_formatted_whatever_its_name() {
        let root = tempfile::tempdir().unwrap();
        for name in ["x", "flow-meter", "the-flow-meter-of-the-second-tank"] {
            let folder = root.path().join(name);
            Template::Rust.create(&folder).unwrap();
            let manifest = folder.join("Cargo.toml");
            let mut format = std::process::Command::new("cargo");
            let output = format.args(["fmt", "--check", "--manifest-path"]).arg(manifest).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
            // As for one in Alphorn's own workspace, which has other settings.
            let mut format = std::process::Command::new("rustfmt");
            format.args(["--check", "--edition", "2024", "--config-path"]).arg(source("rustfmt.toml"));
            let output = format.arg(folder.join("src/lib.rs")).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn a_folder_whose_path_ends_without_a_name_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let pump = folder.path().join("pump");
        fs::create_dir_all(pump.join("sub")).unwrap();
        let words = Template::C.create(&pump.join("sub/..")).unwrap_err().to_string();
        assert!(words.contains("pump is there already, and not empty"), "{words}");
    }

    #[test]
    fn names_fit_everywhere() {
        for name in ["", "Pump", "7up", "a b", "a/b", "größe"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("flow-meter_2").is_ok());
        for (name, instead) in
            [("Pump", "pump"), ("7up", "up"), ("My Pump.2", "my-pump-2"), ("größe", "gr--e"), ("1", "")]
        {
            assert_eq!(instead_of(name), instead);
        }
        assert_eq!(type_name("flow-meter_2"), "FlowMeter2");
    }
}
