//! JavaScript and TypeScript: esbuild makes one module of the plugin and what it imports,
//! componentize-qjs puts that and QuickJS into a component.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;
use tracing::info;

use crate::regular_file::{self, SETTINGS};

use super::{
    Built, announce, finish, folder_name, names_if_any,
    source_map::{Lines, SourceMap},
    support, tools, wit, write,
};

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
    let text = regular_file::read_to_string(&manifest, SETTINGS)
        .with_context(|| format!("can't read {}", manifest.display()))?;
    let package: Package = serde_json::from_str(&text).with_context(|| format!("{}", manifest.display()))?;
    let source = package.source(folder)?;
    let name = package.plugin_name(folder)?;
    let [componentize, esbuild] = tools(folder, &package).await?;

    let support = support(folder)?;
    write(&support.join("alphorn.js"), SDK)?;
    write(&support.join("alphorn.d.ts"), TYPES)?;
    check_types(folder, &source).await?;
    let (bundle, lines) = bundle(folder, &support, &source, &native(&esbuild)).await?;

    let made = support.join("component.wasm");
    announce(&made, "componentize-qjs puts a JavaScript engine and the plugin into one component");
    let mut command = tools::command(&componentize, ["--world", wit::WORLD, "--sync"]);
    // In its folder, whose files are all it may see.
    command.current_dir(&support);
    command.arg("--wit").arg(wit::write(&support)?).arg("--js").arg(&bundle).arg("--output").arg(&made);
    tools::run_explained(command, "componentize-qjs", |said| explained(said, &lines)).await?;
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
    // Without a network the second attempt would come after ten seconds, the third after a minute.
    command.args(["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=10000"]).current_dir(folder);
    tools::run_explained(command, "`npm install`", unreachable).await?;
    match find() {
        [Some(componentize), Some(esbuild)] => Ok([componentize, esbuild]),
        _ => bail!("`npm install` in {} has left no {BIN}/componentize-qjs and esbuild", folder.display()),
    }
}

/// The program behind npm's: that is a script, which adds a stack trace of its own to each
/// mistake in the plugin.
fn native(esbuild: &Path) -> PathBuf {
    let system = match env::consts::OS {
        "macos" => "darwin",
        system => system,
    };
    let processor = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        processor => processor,
    };
    let within = format!("node_modules/@esbuild/{system}-{processor}/bin");
    let script = esbuild.canonicalize();
    let found = script.ok().and_then(|script| tools::find_near(script.parent()?, &within, "esbuild"));
    found.unwrap_or_else(|| esbuild.to_owned())
}

/// Of what the tool says when the plugin's module fails at its top level, which runs then: the
/// error, and where in the plugin it came from.
fn explained(said: &str, lines: &Lines) -> Option<String> {
    let (_, error) = said.split_once("JavaScript module evaluation: ")?;
    let mut words = "the plugin's module does not load, which is tried when it is built:".to_owned();
    for line in error.trim().lines() {
        let place = line.trim().strip_prefix("at ").and_then(|frame| frame.rsplit_once("(/plugin.js:"));
        let Some((_, place)) = place else {
            words += &format!("\n{line}");
            continue;
        };
        let number = place.split(':').next().and_then(|number| number.parse().ok());
        match number.and_then(|number| lines.source(number)) {
            // Of the layer's own lines nobody learns anything.
            Some((file, _)) if file.starts_with(MADE) => {}
            Some((file, line)) => words += &format!("\n    at {file}:{line}"),
            None => {}
        }
    }
    Some(words)
}

/// What begins with that is not the plugin's own.
const MADE: &str = "build/alphorn/";

/// Of what npm says when it does not get to its registry, which is a page: that.
fn unreachable(said: &str) -> Option<String> {
    const CODES: [&str; 5] = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH"];
    let code = CODES.into_iter().find(|code| said.contains(code))?;
    let request = said.lines().find_map(|line| line.split_once("request to ")).map_or("its registry", |(_, rest)| rest);
    Some(format!(
        "`npm install` does not reach its registry ({code}): {request}; the first build of a folder needs the network, \
         or a node_modules that was brought along"
    ))
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
async fn bundle(folder: &Path, support: &Path, source: &Path, esbuild: &Path) -> anyhow::Result<(PathBuf, Lines)> {
    let (entry, bundle) = (support.join("entry.js"), support.join("plugin.js"));
    let quoted = serde_json::to_string(&source.to_string_lossy())?;
    // `alphorn` first, so that `console` is there for all others.
    write(
        &entry,
        format!(
            "import {{ plugin }} from \"alphorn\";\nimport * as module from {quoted};\nexport const guest = plugin(module);\n"
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
    Ok((bundle, lines))
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

    #[test]
    fn an_error_at_the_top_level_names_the_plugins_line() {
        let map = r#"{ "sources": ["a", "b"], "mappings": "AAAA;ACEA" }"#;
        let names = |name: String| if name == "a" { "build/alphorn/alphorn.js".into() } else { "src/plugin.js".into() };
        let lines = serde_json::from_str::<SourceMap>(map).unwrap().lines(names).unwrap();
        let said = "componentize-qjs\n  JS: x\nError: : Failed to finish JavaScript module evaluation: Error: no table\n    \
                    at asked (/plugin.js:1:3)\n    at <anonymous> (/plugin.js:2:13)\n";
        let words = explained(said, &lines).unwrap();
        assert!(words.ends_with(":\nError: no table\n    at src/plugin.js:3"), "{words}");
        assert_eq!(explained("no such option", &lines), None);
    }

    #[test]
    fn a_network_that_is_not_there_is_named() {
        let said = "npm error code ECONNREFUSED\nnpm error FetchError: request to http://127.0.0.1:9/esbuild failed, reason: no\n";
        let words = unreachable(said).unwrap();
        assert!(
            words.contains("(ECONNREFUSED): http://127.0.0.1:9/esbuild failed") && words.contains("network"),
            "{words}"
        );
        assert_eq!(unreachable("npm error code E404"), None);
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
