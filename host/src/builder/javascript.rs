//! JavaScript and TypeScript: esbuild makes one module of the plugin and what it imports,
//! componentize-qjs puts that and QuickJS into a component.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;
use tracing::info;

use super::{Built, finish, folder_name, names_if_any, source_map::SourceMap, support, tools, wit, write};

/// What a plugin imports as `alphorn`, and its types.
const SDK: &str = include_str!("../../../guest-sdk/javascript/alphorn.js");
const TYPES: &str = include_str!("../../../guest-sdk/javascript/alphorn.d.ts");

/// Where npm puts programs.
const BIN: &str = "node_modules/.bin";

/// The tools, as the templates pin them: a young tool's next version is a change to look at.
pub(super) const TOOLS: [(&str, &str); 2] = [("componentize-qjs", "0.4.5"), ("esbuild", "0.28.2")];

/// The part of package.json that is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Package {
    name: Option<String>,
    main: Option<String>,
    dependencies: BTreeMap<String, serde_json::Value>,
    dev_dependencies: BTreeMap<String, serde_json::Value>,
}

pub(super) async fn build(folder: &Path) -> anyhow::Result<Built> {
    let manifest = folder.join("package.json");
    let text = fs::read_to_string(&manifest).with_context(|| format!("can't read {}", manifest.display()))?;
    let package: Package = serde_json::from_str(&text).with_context(|| format!("{}", manifest.display()))?;
    let source = package.source(folder)?;
    let name = package.plugin_name(folder)?;
    let [componentize, esbuild] = tools(folder, &package).await?;

    let support = support(folder)?;
    write(&support.join("alphorn.js"), SDK)?;
    write(&support.join("alphorn.d.ts"), TYPES)?;
    check_types(folder, &source).await?;
    let bundle = bundle(folder, &support, &source, &esbuild).await?;

    let made = support.join("component.wasm");
    let mut command = tools::command(&componentize, ["--world", wit::WORLD, "--sync"]);
    // In its folder, whose files are all it may see.
    command.current_dir(&support);
    command.arg("--wit").arg(wit::write(&support)?).arg("--js").arg(&bundle).arg("--output").arg(&made);
    tools::run_quietly(command, "componentize-qjs").await?;
    finish(folder, &name, &made)
}

impl Package {
    /// The module that the plugin is.
    fn source(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        const USUAL: [&str; 4] = ["src/plugin.ts", "src/plugin.js", "plugin.ts", "plugin.js"];
        if let Some(main) = &self.main {
            let source = folder.join(main);
            anyhow::ensure!(
                source.is_file(),
                "package.json names `main`: {main:?}, and there is no {}",
                source.display()
            );
            return Ok(source);
        }
        let source = USUAL.iter().map(|name| folder.join(name)).find(|source| source.is_file());
        source.with_context(|| {
            format!("{} has no src/plugin.js or src/plugin.ts, and package.json no `main`", folder.display())
        })
    }

    /// Its name without the scope.
    fn plugin_name(&self, folder: &Path) -> anyhow::Result<String> {
        match &self.name {
            Some(name) => Ok(name.rsplit('/').next().unwrap_or(name).to_owned()),
            None => folder_name(folder),
        }
    }

    fn asks_for(&self, tool: &str) -> bool {
        self.dependencies.contains_key(tool) || self.dev_dependencies.contains_key(tool)
    }
}

/// The programs; installed if package.json names them and nobody has yet.
async fn tools(folder: &Path, package: &Package) -> anyhow::Result<[PathBuf; 2]> {
    let find = || TOOLS.map(|(tool, _)| tools::find(folder, BIN, tool));
    if let [Some(componentize), Some(esbuild)] = find() {
        return Ok([componentize, esbuild]);
    }
    if !TOOLS.iter().all(|(tool, _)| package.asks_for(tool)) {
        let pinned = TOOLS.map(|(tool, version)| format!("{tool}@{version}")).join(" ");
        bail!(
            "the tools for JavaScript are missing: in {}, run `npm install --save-dev --save-exact {pinned}`",
            folder.display()
        );
    }
    let npm = tools::find(folder, BIN, "npm")
        .context("npm is missing: install Node.js 20 or newer, from https://nodejs.org or your system's packages")?;
    info!("installing what {} names (npm install)", folder.join("package.json").display());
    // A bundle has no use for what such scripts compile.
    let mut command = tools::command(&npm, ["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
    command.current_dir(folder);
    tools::run_quietly(command, "`npm install`").await?;
    match find() {
        [Some(componentize), Some(esbuild)] => Ok([componentize, esbuild]),
        _ => bail!("`npm install` in {} has left no {BIN}/componentize-qjs and esbuild", folder.display()),
    }
}

/// esbuild only takes the types off; TypeScript's own compiler looks at them, where it is there.
async fn check_types(folder: &Path, source: &Path) -> anyhow::Result<()> {
    let is_typescript = source.extension().is_some_and(|end| end == "ts" || end == "mts");
    let configured = names_if_any(folder)?.iter().any(|name| name == "tsconfig.json");
    let Some(tsc) = tools::find(folder, BIN, "tsc").filter(|_| is_typescript && configured) else { return Ok(()) };
    let mut command = tools::command(&tsc, ["--noEmit", "--project", "tsconfig.json"]);
    command.current_dir(folder);
    tools::run(command, "the check of types (tsc)").await
}

/// One module of all, with the table of lines behind it.
async fn bundle(folder: &Path, support: &Path, source: &Path, esbuild: &Path) -> anyhow::Result<PathBuf> {
    let (entry, bundle) = (support.join("entry.js"), support.join("plugin.js"));
    let quoted = serde_json::to_string(&source.to_string_lossy())?;
    write(
        &entry,
        format!(
            "import * as module from {quoted};\nimport {{ plugin }} from \"alphorn\";\nexport const guest = plugin(module);\n"
        ),
    )?;
    let mut command = tools::command(
        esbuild,
        [
            "--bundle",
            "--format=esm",
            "--target=es2023",
            "--platform=neutral",
            "--main-fields=module,main",
            "--external:alphorn:plugin/*",
            "--external:wasi:*",
            "--sourcemap=external",
            "--sources-content=false",
            "--log-level=warning",
        ],
    );
    command.arg(&entry).arg(format!("--outfile={}", bundle.display()));
    command.arg(format!("--alias:alphorn={}", support.join("alphorn.js").display())).current_dir(folder);
    tools::run(command, "esbuild").await?;

    let map = support.join("plugin.js.map");
    let read = || fs::read(&map).with_context(|| format!("esbuild has left no {}", map.display()));
    let map: SourceMap = serde_json::from_slice(&read()?).context("esbuild's source map")?;
    let lines = map.lines(|name| within(folder, &support.join(&name)))?;
    // Behind all else: no line is moved by it.
    let text = fs::read_to_string(&bundle).with_context(|| format!("esbuild has left no {}", bundle.display()))?;
    fs::write(&bundle, format!("{text}globalThis.alphornLines = {};\n", serde_json::to_string(&lines)?))
        .with_context(|| format!("can't write {}", bundle.display()))?;
    Ok(bundle)
}

/// The file's path as one in the plugin's folder says it.
fn within(folder: &Path, file: &Path) -> String {
    // Not by the file system, which would follow npm's links.
    let mut plain = PathBuf::new();
    for part in file.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain.strip_prefix(folder).unwrap_or(&plain).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_from_the_plugins_folder() {
        let folder = Path::new("/p/mine");
        assert_eq!(within(folder, Path::new("/p/mine/build/alphorn/../../src/plugin.ts")), "src/plugin.ts");
        assert_eq!(within(folder, Path::new("/p/mine/build/alphorn/../../../shared.js")), "/p/shared.js");
    }

    #[test]
    fn a_scope_is_no_part_of_a_plugins_name() {
        let package: Package = serde_json::from_str(r#"{ "name": "@plant/pump", "private": true }"#).unwrap();
        assert_eq!(package.plugin_name(Path::new("/p/x")).unwrap(), "pump");
        assert_eq!(Package::default().plugin_name(Path::new("/p/x")).unwrap(), "x");
    }

    #[tokio::test]
    async fn a_package_that_asks_for_no_tools_is_told_which() {
        let folder = tempfile::tempdir().unwrap();
        let found = tools(folder.path(), &Package::default()).await;
        // Unless this machine has them for everybody.
        if let Err(error) = found {
            let words = error.to_string();
            assert!(words.contains("npm install --save-dev") && words.contains("componentize-qjs@0.4.5"), "{words}");
        }
    }
}
