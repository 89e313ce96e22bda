//! Components are compiled by a child under limits, once.

use std::os::unix::fs::PermissionsExt;

use alphorn::control::protocol::Request;

use crate::harness::{
    Bed, Context as _, Host, Message, Program, Result, ensure, rounds, seed, slow_to_compile, soon, version,
};

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in"]
    config = { to = "out", filters = "in" }
"#;

#[tokio::test]
async fn a_second_start_does_not_compile() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config(RECORDER);
    let mut host = Program::run(&config)?;
    host.log(&["compiled", "recorder.wasm", "ms"]).await?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    let kept: Vec<_> = std::fs::read_dir(config.data_dir().join("compiled"))?.collect::<Result<_, _>>()?;
    assert_eq!(kept.len(), 1, "{kept:?}");
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert_eq!(host.logged(&["compiled", "recorder.wasm", "ms"]), 0);
    // A damaged one is not trusted.
    std::fs::write(kept[0].path(), "damaged")?;
    let mut host = Program::run(&config)?;
    host.log(&["WARN", "is compiled anew"]).await?;
    host.log(&["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_flipped_bit_in_kept_code_costs_a_compilation_and_no_more() -> Result<()> {
    let (rounds, seed) = (rounds(5), seed());
    let mut random = fastrand::Rng::with_seed(seed);
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(RECORDER);
    let kept = || -> Result<_> {
        let mut files = std::fs::read_dir(config.data_dir().join("compiled"))?.collect::<Result<Vec<_>, _>>()?;
        ensure!(files.len() == 1, "{files:?}");
        Ok(files.remove(0).path())
    };
    for round in 0..=rounds {
        let mut host = Program::run(&config)?;
        let is_up = |message: &&Message| message.payload.starts_with(b"* up");
        let ups = |messages: &[Message]| (messages.iter().filter(is_up).count() > round).then_some(());
        watcher.wait_for("its start", ups).await.with_context(|| format!("round {round}"))?;
        if round > 0 {
            host.log(&["WARN", "is damaged", "is compiled anew"]).await?;
        }
        host.log(&["compiled", "recorder.wasm", "ms"]).await?;
        let payload = format!("{round}");
        bed.client().await?.publish("in", payload.as_bytes()).await?;
        watcher.payload(&format!("in {payload}")).await.with_context(|| format!("round {round}"))?;
        host.stop().await.with_context(|| format!("round {round}"))?;
        let file = kept()?;
        let mut code = std::fs::read(&file)?;
        let at = random.usize(..code.len());
        code[at] ^= 1 << random.u8(..8);
        std::fs::write(&file, code)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_others_can_write_to_is_not_used() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config(RECORDER);
    let folder = config.data_dir().join("compiled");
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
    let mut host = Program::run(&config)?;
    host.log(&["WARN", "compiled components are not kept", "0700"]).await?;
    host.log(&["connect success"]).await?;
    assert_eq!(std::fs::read_dir(&folder)?.count(), 0);
    host.stop().await
}

fn huge(times: usize) -> Result<Vec<u8>> {
    slow_to_compile(times, "")
}

/// It would be for nothing.
#[tokio::test]
async fn what_asks_for_too_much_is_refused_before_it_is_compiled() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("foreign.wasm", slow_to_compile(200_000, r#"(import "other:host/call" (func))"#)?)?;
    let text = "[plugins.foreign]\ncomponent = \"foreign.wasm\"\nlimits = { compile = { time = \"50ms\" } }\n";
    let mut host = bed.connected("5", text).await?;
    host.log(&["ERROR", "plugin{name=foreign}", "imports other:host/call"]).await?;
    assert_eq!(host.logged(&["longer than 50ms"]), 0);
    host.stop().await
}

/// A memory of so many pages, which something of the component has from the begin.
fn memory(pages: usize) -> String {
    format!("(core module $large (memory {pages})) (core instance (instantiate $large))")
}

/// 20 MiB, and what its instances take beside that.
const HUNGRY: usize = 320;

#[tokio::test]
async fn what_begins_with_more_memory_than_it_may_have_is_refused_before_it_is_compiled() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("hungry.wasm", slow_to_compile(200_000, &memory(HUNGRY))?)?;
    let hungry = |name, memory| {
        format!(
            "[plugins.{name}]\ncomponent = \"hungry.wasm\"\ncommand = {{ topic = \"out\" }}\npublish = [\"out\"]\n\
             limits = {{ {memory} compile = {{ time = \"50ms\" }} }}\n"
        )
    };
    let text = [
        hungry("by_default", ""),
        hungry("too_little", "memory = \"20MiB\","),
        hungry("enough", "memory = \"21MiB\","),
    ];
    let mut host = bed.connected("5", &text.concat()).await?;
    for (name, limit) in [("by_default", "16777216"), ("too_little", "20971520")] {
        let plugin = format!("plugin{{name={name}}}");
        host.log(&["ERROR", &plugin, "hungry.wasm", limit, "`limits.memory`", "at least \"21MiB\""]).await?;
        assert_eq!(host.logged(&[&plugin, "longer than 50ms"]), 0);
    }
    host.log(&["ERROR", "plugin{name=enough}", "longer than 50ms"]).await?;
    host.stop().await
}

#[tokio::test]
async fn check_refuses_what_begins_with_more_memory_than_it_may_have() -> Result<()> {
    let bed = Bed::start().await?;
    let slow = bed.file("slow.wasm", slow_to_compile(400_000, &memory(HUNGRY))?)?;
    let file = bed.file("hungry.wasm", slow_to_compile(1, &memory(HUNGRY))?)?;
    let check = |file: &std::path::Path, rest: &[&str]| {
        let rest = rest.iter().map(std::ffi::OsStr::new);
        Program::start(&["check".as_ref(), file.as_os_str()].into_iter().chain(rest).collect::<Vec<_>>())
    };
    // Nothing is known of its plugin, so it would have what each has.
    let parts = ["slow.wasm", "16777216", "`limits.memory`", "at least \"21MiB\"", "the default", "--memory"];
    check(&slow, &[])?.fails(65, &parts).await?;
    let mut taken = check(&file, &["--memory", "21MiB"])?;
    taken.fails(0, &[]).await?;
    taken.prints(&["memory", "bytes when it begins", "20971520 in its memories and tables"]).await?;
    // As a plugin of a configuration it has what that says, and the least where several have it.
    let plugin = |name: &str, memory: &str| {
        format!(
            "[plugins.{name}]\ncomponent = \"hungry.wasm\"\ncommand = {{ topic = \"out\" }}\npublish = [\"out\"]\n\
             limits = {{ memory = \"{memory}\" }}\n"
        )
    };
    let config = bed.config(&plugin("large", "64MiB")).write()?;
    check(&file, &["--config", &config.to_string_lossy()])?.fails(0, &[]).await?;
    let config = bed.config(&[plugin("large", "64MiB"), plugin("small", "18MiB")].concat()).write()?;
    let parts = ["hungry.wasm", "18874368", "[plugins.small]", "at least \"21MiB\""];
    check(&file, &["--config", &config.to_string_lossy()])?.fails(65, &parts).await
}

#[tokio::test]
async fn nothing_is_loaded_from_where_others_could_have_put_it() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config(RECORDER);
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    // Rights change while it runs: a swap looks again.
    let data_dir = config.data_dir();
    let kept = std::fs::read_dir(data_dir.join("compiled"))?.count();
    std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o777))?;
    let file = bed.file("version.wasm", version("recorder", 1)?)?;
    let mut socket = Host::of(&config).await?;
    socket.swap("recorder", &file).await?.map_err(anyhow::Error::msg)?;
    host.log(&["WARN", "no compiled component that is kept is used", "everybody may exchange", "chmod o-w"]).await?;
    assert_eq!(std::fs::read_dir(data_dir.join("compiled"))?.count(), kept, "and nothing is put there");
    host.stop().await?;
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    host.log(&["WARN", "host.data_dir", "not safe from others", "chmod o-w"]).await?;
    host.log(&["WARN", "compiled components are not kept", "chmod o-w"]).await?;
    host.log(&["compiled", "components/", "ms"]).await?;
    host.stop().await
}

#[tokio::test]
async fn secrets_that_everybody_can_read_are_said() -> Result<()> {
    let bed = Bed::start().await?;
    let password = bed.file("password", "secret")?;
    let config = bed.config("").link("username = \"u\"").link("password_file = \"password\"");
    let config = config.link("proxy = \"\"").link("headers = { Authorization = \"secret\" }");
    let path = config.write()?;
    let files = [bed.folder().join("device.key"), password, path.clone()];
    for (mode, times) in [(0o644, 1), (0o600, 0)] {
        for file in &files {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))?;
        }
        let mut host = Program::start(&["run".as_ref(), "--config".as_ref(), path.as_os_str()])?;
        host.log(&["alphorn starts"]).await?;
        host.stop().await?;
        for file in &files {
            let file = file.to_string_lossy();
            assert_eq!(host.logged(&["WARN", "everybody", &file, "chmod 600"]), times, "{file} {mode:o}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_takes_too_long_or_too_much_to_compile_is_refused_and_the_others_run() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    bed.file("huge.wasm", huge(200_000)?)?;
    let huge = |name, limits| {
        format!("[plugins.{name}]\ncomponent = \"huge.wasm\"\nlimits = {{ compile = {{ {limits} }} }}\n")
    };
    let config = [RECORDER, &huge("slow", "time = \"50ms\""), &huge("large", "memory = \"16MiB\"")].concat();
    let mut host = bed.connected("5", &config).await?;
    host.log(&["ERROR", "plugin{name=slow}", "huge.wasm", "longer than 50ms", "limits.compile.time"]).await?;
    host.log(&["ERROR", "plugin{name=large}", "huge.wasm", "more than 16777216 bytes", "limits.compile.memory"])
        .await?;
    watcher.ready("out").await?;
    bed.client().await?.publish("in", b"still here").await?;
    watcher.payload("in still here").await?;
    host.stop().await
}

/// What can be named in place of a component, and what is said of it: a device that does not end, a
/// pipe that nobody writes to, a file larger than memory.
fn no_components(bed: &Bed) -> Result<[(std::path::PathBuf, &'static str); 3]> {
    let (pipe, sparse) = (bed.folder().join("pipe.wasm"), bed.folder().join("sparse.wasm"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU)?;
    std::fs::File::create(&sparse)?.set_len(3 << 30)?;
    Ok([("/dev/zero".into(), "a device"), (pipe, "a pipe"), (sparse, "larger than 256.0 MiB")])
}

#[tokio::test]
async fn only_a_regular_file_of_some_size_is_swapped_in() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(RECORDER);
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    let mut socket = Host::of(&config).await?;
    for (file, what) in no_components(&bed)? {
        let refused = socket.swap("recorder", &file).await?.unwrap_err();
        assert!(refused.contains(what), "{refused}");
        Program::start(&["check".as_ref(), file.as_os_str()])?.fails(65, &[what]).await?;
    }
    assert!(host.resident()? < 200 << 20, "{} bytes", host.resident()?);
    // The plugin hears what is asked of it.
    let rolled_back =
        socket.does(Request::Rollback { name: "recorder".to_owned(), to: None, dry_run: false }).await?.unwrap_err();
    assert!(rolled_back.contains("no version before"), "{rolled_back}");
    assert!(socket.swap("recorder", &bed.folder().join("recorder.wasm")).await?.is_ok());
    host.stop().await
}

#[tokio::test]
async fn what_is_configured_and_no_regular_file_fails_at_once_and_the_others_run() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    let mut text = RECORDER.to_owned();
    for (number, (file, _)) in no_components(&bed)?.iter().enumerate() {
        text += &format!("[plugins.p{number}]\ncomponent = {file:?}\n");
    }
    let config = bed.config(&text);
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    let mut socket = Host::of(&config).await?;
    for (number, what) in ["a device", "a pipe", "larger than 256.0 MiB"].iter().enumerate() {
        let row = socket.until(&format!("p{number}"), |row| row.state == "failed").await?;
        assert!(row.last_error.as_deref().is_some_and(|error| error.contains(what)), "{row:?}");
    }
    assert_eq!(socket.plugin("recorder").await?.state, "running");
    host.stop().await
}

/// Settings, certificates, keys and passwords are read by the same rule.
#[tokio::test]
async fn no_file_of_the_configuration_may_keep_the_host_waiting() -> Result<()> {
    let bed = Bed::start().await?;
    let pipe = bed.folder().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU)?;
    Program::start(&["run".as_ref(), "--config".as_ref(), pipe.as_os_str()])?.fails(78, &["a pipe"]).await?;
    for key in ["ca", "cert", "key", "password_file"] {
        let config = bed.config("").link("username = \"x\"").link(&format!("{key} = {pipe:?}"));
        soon(key, async { Program::run(&config)?.fails(78, &["a pipe"]).await }).await??;
    }
    let trusted = bed.config(&format!("[host]\ntrusted_keys = [{pipe:?}]\n"));
    Program::run(&trusted)?.fails(78, &["a pipe"]).await
}

/// The link does not wait for the compiler for longer than a plugin may take to start, and what comes
/// meanwhile is kept for the plugin.
#[tokio::test]
async fn a_plugin_that_is_still_compiling_does_not_hold_up_the_link() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    bed.file("huge.wasm", huge(400_000)?)?;
    let text = format!(
        "{RECORDER}[plugins.slow]\ncomponent = \"huge.wasm\"\nlimits = {{ start_deadline = \"1s\", compile.time = \"60s\" }}\n"
    );
    let config = bed.config(&text);
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    let mut socket = Host::of(&config).await?;
    assert_eq!(socket.plugin("slow").await?.state, "starting");
    watcher.ready("out").await?;
    bed.client().await?.publish("in", b"hello").await?;
    watcher.payload("in hello").await?;
    host.stop().await
}
