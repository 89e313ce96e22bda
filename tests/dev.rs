//! `alphorn dev`: build, run, swap on save, bear mistakes, end.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{Bed, Context as _, Program, Result, Signal, target_dir};

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_session_from_the_first_build_to_ctrl_c() -> Result<()> {
    let folder = copy_of_timestamp("session")?;
    build(&folder).await?;
    let mut dev = start(&folder)?;

    // It runs against a broker of its own, through the code that connects to a real one.
    let line = dev.prints(&["test/date 20"]).await?;
    let payload = line.strip_prefix("test/date ").context("not `topic payload`")?;
    assert!(payload.len() == "2026-11-23T10:00:00".len(), "{line:?}");
    let up = ["connect success", "TLSv1.3", "ALPN x-amzn-mqtt-ca", "client id", "session new"];
    dev.log(&up).await?;
    dev.log(&["plugin{name=timestamp}", "try to publish: 20"]).await?;
    let connections = dev.logged(&["connect success"]);

    // A save brings in the new version.
    let source = folder.join("src/lib.rs");
    let original = fs::read_to_string(&source)?;
    let changed = original.replace("self.clock.now()", "format!(\"{} second\", self.clock.now())");
    assert!(changed != original, "the source is not what this test knows");
    fs::write(&source, &changed)?;
    dev.prints(&["test/date 20", " second"]).await?;
    dev.log(&["plugin{name=timestamp}", "a new version took over"]).await?;

    // A mistake leaves it running and is shown as the compiler shows it.
    fs::write(&source, format!("{changed}\nfn mistake() -> u8 {{ \"no number\" }}\n"))?;
    dev.log(&["error[E0308]: mismatched types"]).await?;
    dev.log(&["ERROR", "does not build"]).await?;
    let printed = dev.stdout().len();
    dev.prints_after(printed, &["test/date 20", " second"]).await?;

    // So does a version that fails in its start.
    fs::write(
        &source,
        changed.replace(
            "fn start(_: Start) -> Result<Self> {",
            "fn start(_: Start) -> Result<Self> { if true { panic!(\"not today\") }",
        ),
    )?;
    dev.log(&["not today"]).await?;
    dev.log(&["on probation failed", "the one before comes back"]).await?;
    let printed = dev.stdout().len();
    dev.prints_after(printed, &["test/date 20", " second"]).await?;

    // And the next good one is brought in again.
    fs::write(&source, changed.replace(" second", " third"))?;
    dev.prints(&["test/date 20", " third"]).await?;

    assert_eq!((dev.logged(&["connect success"]), dev.logged(&["connection lost"])), (connections, 0));
    dev.signal(Signal::Int)?;
    dev.fails(0, &["disconnected"]).await?;
    let stdout = dev.stdout();
    assert!(stdout.iter().all(|line| line.starts_with("test/date ")), "{stdout:?}");
    Ok(())
}

/// A plain program: what it reads is what it may subscribe to, and both what it does and what
/// it may do change on save.
#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_plain_program_and_what_it_may_do_are_swapped_on_save() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dev").join("program");
    fs::create_dir_all(folder.join("src"))?;
    let manifest = "[workspace]\n[package]\nname = \"parrot\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    fs::write(folder.join("Cargo.toml"), manifest)?;
    let (source, settings) = (folder.join("src/main.rs"), folder.join("alphorn.toml"));
    let says = |what: &str| {
        format!(
            "fn main() {{\n    for line in std::io::stdin().lines() {{\n        println!(\"{what} {{}}\", line.unwrap());\n    }}\n}}\n"
        )
    };
    let may = |topic: &str| {
        format!(
            "[plugins.parrot]\ncomponent = \"parrot.wasm\"\npublish = [\"{topic}\"]\nsubscribe = [\"hears\"]\n\
             [plugins.parrot.command]\ntopic = \"{topic}\"\n"
        )
    };
    fs::write(&source, says("heard"))?;
    fs::write(&settings, may("says"))?;
    build(&folder).await?;
    let mut dev = start(&folder)?;
    dev.log(&["connect success", "client id alphorn-dev,"]).await?;
    let line = dev.log(&["alphorn pub --config "]).await?;
    let client = line.split("--config ").nth(1).and_then(|rest| rest.split(' ').next()).context("no --config")?;
    let publish = async |payload: &str| -> Result<()> {
        Program::start(&["pub", "--config", client, "hears", payload])?.fails(0, &[]).await
    };
    publish("one").await?;
    dev.prints(&["says heard one"]).await?;

    fs::write(&source, says("learnt"))?;
    dev.log_in_its_own_time(&["a new version took over"]).await?;
    publish("two").await?;
    dev.prints(&["says learnt two"]).await?;

    // Not only the source: what it may do, too.
    fs::write(&settings, may("sings") + "[link]\nkeep_alive = \"30s\"\n")?;
    dev.log_in_its_own_time(&["WARN", "alphorn.toml", "start `alphorn dev` again"]).await?;
    dev.log_times_in_its_own_time(2, &["a new version took over"]).await?;
    publish("three").await?;
    dev.prints(&["sings learnt three"]).await?;

    // A mistake there leaves it running.
    fs::write(&settings, "[plugins.parrot]\npublish = sings\n")?;
    dev.log(&["ERROR", "alphorn.toml is not TOML"]).await?;
    fs::write(&settings, may("sings").replace("[plugins.parrot", "[plugins.other"))?;
    dev.log(&["ERROR", "`parrot` is called `other` now", "the running version goes on"]).await?;
    publish("four").await?;
    dev.prints(&["sings learnt four"]).await?;
    dev.signal(Signal::Int)?;
    dev.fails(0, &[]).await
}

/// A finished module of any compiler for WASI 0.1, and what other terminals see of the session.
#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn a_finished_program_runs_and_is_found_from_another_terminal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let runtime = folder.path().join("runtime").to_string_lossy().into_owned();
    let environment = [("XDG_RUNTIME_DIR", &*runtime)];
    let file = folder.path().join("parrot.wasm");
    fs::write(&file, program_that_says("hello")?)?;
    let settings =
        "[plugins.bird]\ncomponent = \"parrot.wasm\"\npublish = [\"says\"]\ncommand = { topic = \"says\" }\n";
    fs::write(folder.path().join("alphorn.toml"), settings)?;
    let mut dev = Program::start_with(&["dev".as_ref(), file.as_os_str()], &environment)?;
    dev.log(&["INFO", "parrot.wasm", "is a program of WASI 0.1", "messages are lines of its input"]).await?;
    dev.prints(&["says hello"]).await?;

    dev.log(&["from another terminal", "alphorn ps"]).await?;
    let ps = Program::start_with(&["ps"], &environment)?;
    ps.prints(&["bird", "running"]).await?;
    Program::start_with(&["logs", "bird"], &environment)?.prints(&["plugin{name=bird}"]).await?;
    Program::start_with(&["pub", "says", "from elsewhere"], &environment)?.fails(0, &[]).await?;
    dev.prints(&["says from elsewhere"]).await?;

    fs::write(&file, program_that_says("good day")?)?;
    dev.log(&["parrot.wasm was saved"]).await?;
    dev.log(&["plugin{name=bird}", "a new version took over"]).await?;
    dev.prints(&["says good day"]).await?;
    dev.signal(Signal::Int)?;
    dev.fails(0, &[]).await?;
    let left: Vec<_> = fs::read_dir(Path::new(&runtime).join("alphorn"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Says a line, then reads its input to the end.
#[cfg(feature = "embedded-broker")]
fn program_that_says(line: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{line}\n")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
                (i32.store (i32.const 4) (i32.const 32))
                (loop $more
                    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
                    (br_if $more (i32.load (i32.const 16))))))"#,
        length = line.len() + 1
    );
    Ok(wat::parse_str(text)?)
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn several_folders_run_together() -> Result<()> {
    let (echo, hello) = (example("echo")?, example("hello")?);
    for folder in [&echo, &hello] {
        build(folder).await?;
    }
    let target = target_dir().to_string_lossy();
    let arguments = ["dev".as_ref(), echo.as_os_str(), hello.as_os_str()];
    let mut dev = Program::start_with(&arguments, &[("CARGO_TARGET_DIR", &*target)])?;
    dev.prints(&["alpn/devicesdk Hello over MQTT on port 443"]).await?;
    dev.log(&["plugin{name=echo}"]).await?;
    dev.signal(Signal::Term)?;
    dev.fails(0, &[]).await
}

#[tokio::test]
async fn another_broker_is_used_on_request() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let hello = example("hello")?;
    build(&hello).await?;
    let config = bed.config("").link("url = \"mqtts://localhost:1\"").write()?;
    let url = format!("mqtts://localhost:{}", bed.addr().port());
    let target = target_dir().to_string_lossy();
    let arguments = ["dev".as_ref(), hello.as_os_str(), "--broker".as_ref(), url.as_ref(), "--config".as_ref()];
    let arguments = [&arguments[..], &[config.as_os_str()]].concat();
    let mut dev = Program::start_with(&arguments, &[("CARGO_TARGET_DIR", &*target)])?;
    watcher.payload("Hello over MQTT on port 443").await?;
    dev.signal(Signal::Int)?;
    dev.fails(0, &[&url, "client id device"]).await
}

#[cfg(not(feature = "embedded-broker"))]
#[tokio::test]
async fn a_build_without_a_broker_says_so() -> Result<()> {
    let hello = example("hello")?;
    build(&hello).await?;
    start(&hello)?.fails(64, &["--broker", "--config", "embedded-broker"]).await
}

#[tokio::test]
async fn a_first_build_that_fails_ends_with_the_compilers_message() -> Result<()> {
    let folder = copy_of_timestamp("broken")?;
    fs::write(folder.join("src/lib.rs"), "fn mistake() -> u8 { \"no number\" }")?;
    let mut dev = start(&folder)?;
    dev.ends_in_its_own_time().await?;
    dev.fails(65, &["error[E0308]: mismatched types", "does not build"]).await
}

#[tokio::test]
async fn a_folder_that_is_none_is_named() -> Result<()> {
    Program::start(&["dev", "/no/where"])?.fails(65, &["/no/where"]).await
}

fn start(folder: &Path) -> Result<Program> {
    let target = target_dir().to_string_lossy();
    Program::start_with(&["dev".as_ref(), folder.as_os_str()], &[("CARGO_TARGET_DIR", &*target)])
}

/// A folder of `plugins/`.
fn example(name: &str) -> Result<PathBuf> {
    Ok(root()?.join("plugins").join(name))
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")
}

/// The first build of a plugin compiles what all share and takes the time it takes.
async fn build(folder: &Path) -> Result<()> {
    let target = target_dir().to_string_lossy();
    let environment = [("CARGO_TARGET_DIR", &*target)];
    let mut build = Program::start_with(&["build".as_ref(), folder.as_os_str()], &environment)?;
    build.ends_in_its_own_time().await?;
    build.fails(0, &[]).await
}

/// A package of its own, so that a test can change it. Always in the same place, so that
/// cargo does not gather copies.
fn copy_of_timestamp(test: &str) -> Result<PathBuf> {
    let root = root()?;
    let original = root.join("plugins/timestamp");
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dev").join(test);
    fs::create_dir_all(copy.join("src"))?;
    for file in ["src/lib.rs", "src/local_time.rs", "alphorn.toml"] {
        fs::copy(original.join(file), copy.join(file)).with_context(|| format!("copy {file}"))?;
    }
    // The versions the workspace has chosen; cargo takes out what is not needed.
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;

    let workspace: toml::Table = fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let time = ["workspace", "dependencies", "time"]
        .iter()
        .try_fold(&toml::Value::Table(workspace.clone()), |value, key| value.get(key))
        .context("the workspace has no `time`")?
        .to_string();
    let guest = root.join("guest-sdk");
    let manifest = format!(
        "[workspace]\n[package]\nname = \"timestamp-{test}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\nalphorn-guest = {{ path = {guest:?} }}\ntime = {time}\n"
    );
    fs::write(copy.join("Cargo.toml"), manifest)?;
    Ok(copy)
}
