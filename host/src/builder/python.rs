//! Python: componentize-py puts the plugin's module, what it imports and CPython into a
//! component.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::{Built, announce, finish, folder_name, support, tools, wit, write};
use crate::regular_file::{self, SETTINGS};

/// What a plugin imports as `alphorn`.
const SDK: &str = include_str!("../../../guest-sdk/python/alphorn.py");

/// The tool, as the template pins it.
pub(super) const TOOL: &str = "componentize-py==0.25.1";

/// The part of pyproject.toml that is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PyProject {
    project: Project,
    tool: Tools,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Project {
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tools {
    alphorn: Settings,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// The module with the plugin's class.
    module: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { module: "plugin".to_owned() }
    }
}

pub(super) async fn build(folder: &Path) -> anyhow::Result<Built> {
    let manifest = folder.join("pyproject.toml");
    let text = regular_file::read_to_string(&manifest, SETTINGS)
        .with_context(|| format!("can't read {}", manifest.display()))?;
    let project: PyProject = toml::from_str(&text).with_context(|| format!("{}", manifest.display()))?;
    let name = match project.project.name {
        Some(name) => name,
        None => folder_name(folder)?,
    };
    let module = project.tool.alphorn.module;
    let roots = roots(folder, &module)?;

    let support = support(folder)?;
    write(&support.join("alphorn.py"), SDK)?;
    let entry = "import alphorn\nimport MODULE as plugin\n\nGuest = alphorn.guest_of(plugin)\n";
    write(&support.join("alphorn_entry.py"), entry.replace("MODULE", &module))?;

    let made = support.join("component.wasm");
    announce(&made, "componentize-py puts Python, its library and the plugin into one component");
    let mut command = componentize(folder)?;
    command.current_dir(folder).args(["--quiet", "--world", wit::WORLD]);
    command.arg("--wit-path").arg(wit::write(&support)?);
    command.args(["componentize", "alphorn_entry"]);
    for root in roots.iter().chain([&support]) {
        command.arg("--python-path").arg(root);
    }
    command.arg("--output").arg(&made);
    // Its own inner workings would hide the plugin's traceback.
    command.env("RUST_BACKTRACE", "0");
    tools::run_explained(command, "componentize-py", explained).await?;
    finish(folder, &name, &made)
}

/// Of what the tool says when the plugin's module fails at its top level, which runs then: the
/// traceback without the tool's own part.
fn explained(said: &str) -> Option<String> {
    let (_, error) = said.split_once("AssertionError: ")?;
    let error = error.split("\nCaused by:").next()?.trim();
    let (mut words, mut is_own) = (String::new(), true);
    for line in error.lines() {
        if let Some(frame) = line.strip_prefix("  File \"") {
            is_own = !["/alphorn.py\"", "/alphorn_entry.py\""].iter().any(|layer| frame.contains(layer));
        } else if !line.starts_with("  ") {
            is_own = true;
        }
        if is_own {
            // The tool knows each folder of modules under a number.
            words += &format!("\n{}", line.replacen("  File \"/0/", "  File \"", 1));
        }
    }
    let is_told = !words.contains("panicked at") && !words.is_empty();
    is_told.then(|| format!("the plugin's module does not load, which is tried when it is built:{words}"))
}

/// Where modules are looked for: beside the plugin's.
fn roots(folder: &Path, module: &str) -> anyhow::Result<Vec<PathBuf>> {
    let file = format!("{}.py", module.replace('.', "/"));
    let root = [folder.join("src"), folder.to_owned()].into_iter().find(|root| root.join(&file).is_file());
    ensure!(
        root.is_some(),
        "there is neither {file} nor src/{file} in {}: `module` in [tool.alphorn] of pyproject.toml names another",
        folder.display()
    );
    Ok(root.into_iter().collect())
}

/// The tool: of the folder's virtual environment or one above, else of the system.
fn componentize(folder: &Path) -> anyhow::Result<Command> {
    for environment in [".venv", "venv"] {
        if let Some(program) = tools::find_near(folder, &format!("{environment}/bin"), "componentize-py") {
            let mut command = Command::new(&program);
            // Where it finds the packages that the plugin uses.
            if let Some(environment) = program.parent().and_then(Path::parent) {
                command.env("VIRTUAL_ENV", environment);
            }
            return Ok(command);
        }
    }
    if let Some(program) = tools::find_in_path("componentize-py") {
        return Ok(Command::new(program));
    }
    bail!(
        "componentize-py is missing: in {}, run `python3 -m venv .venv && .venv/bin/pip install {TOOL}`",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_may_name_another_module() {
        let project: PyProject = toml::from_str("[project]\nname = \"x\"\n[tool.black]\nline-length = 99").unwrap();
        assert_eq!((project.project.name.as_deref(), project.tool.alphorn.module.as_str()), (Some("x"), "plugin"));
        let project: PyProject = toml::from_str("[tool.alphorn]\nmodule = \"pump.main\"").unwrap();
        assert_eq!(project.tool.alphorn.module, "pump.main");
        assert!(toml::from_str::<PyProject>("[tool.alphorn]\nmodul = \"x\"").is_err());
    }

    #[test]
    fn of_a_traceback_the_plugins_part_is_left() {
        let said = "Traceback (most recent call last):\n  File \"/x/.venv/bin/componentize-py\", line 8, in <module>\n    \
                    sys.exit(script())\nAssertionError: Traceback (most recent call last):\n  \
                    File \"/1/alphorn_entry.py\", line 2, in <module>\n    import plugin as plugin\n  \
                    File \"/0/plugin.py\", line 3, in <module>\n    first = table[0]\n            ~~~~~^^^\n\
                    TypeError: not subscriptable\n\n\nCaused by:\n    TypeError: not subscriptable\n";
        let words = explained(said).unwrap();
        let wanted = "Traceback (most recent call last):\n  File \"plugin.py\", line 3, in <module>\n    first = table[0]\n            \
                      ~~~~~^^^\nTypeError: not subscriptable";
        assert!(words.ends_with(wanted), "{words}");
        assert_eq!(explained("no such option"), None);
    }

    #[test]
    fn modules_are_beside_the_manifest_or_in_src() {
        let folder = tempfile::tempdir().unwrap();
        let words = roots(folder.path(), "pump.main").unwrap_err().to_string();
        assert!(words.contains("pump/main.py") && words.contains("[tool.alphorn]"), "{words}");
        std::fs::create_dir_all(folder.path().join("src/pump")).unwrap();
        std::fs::write(folder.path().join("src/pump/main.py"), "").unwrap();
        assert_eq!(roots(folder.path(), "pump.main").unwrap(), [folder.path().join("src")]);
    }
}
