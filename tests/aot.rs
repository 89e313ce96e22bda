//! Compiled components: signed, trusted, for this host; or refused, with the reason.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use alphorn::{
    link::WhenFull,
    plugin::{
        compile::{Compiler, TARGET},
        component::{self, LoadLimits},
        engine::Engine,
    },
    signature::{self, Signer, TrustedKeys},
};

use crate::harness::{Bed, Config, Context as _, Host, Program, Result, Watcher, ensure, guest, slow_to_compile};

/// A bed with a pair of keys.
struct Workshop {
    bed: Bed,
}

impl Workshop {
    async fn open() -> Result<Self> {
        let workshop = Self { bed: Bed::start().await? };
        workshop.keys("mine").await?;
        Ok(workshop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bed.folder().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// `NAME.key` and `NAME.pub`.
    async fn keys(&self, name: &str) -> Result<()> {
        run(&["keygen", &self.text(name), "--no-password"]).await
    }

    /// Compiles a component there and signs it with `mine.key`.
    async fn compile(&self, from: &str, to: &str) -> Result<PathBuf> {
        let (from, to, key) = (self.text(from), self.text(to), self.text("mine.key"));
        run(&["build", &from, "--aot", "--key", &key, "--output", &to]).await?;
        Ok(to.into())
    }

    /// Signs whatever it is with `mine.key`.
    fn sign(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let signature = Signer::read(&fs::read_to_string(self.path("mine.key"))?, None)?.sign(bytes, "forged")?;
        let path = self.bed.file(name, bytes)?;
        fs::write(signature::beside(&path), signature)?;
        Ok(path)
    }

    /// A host that trusts `mine.pub` and runs this.
    fn config(&self, component: &str) -> Config {
        self.bed.config(&format!("[host]\ntrusted_keys = [\"mine.pub\"]\n{}", keeper(component)))
    }

    async fn runs(&self, config: &Config) -> Result<(Program, Host, Watcher)> {
        let watcher = self.bed.watch("out").await?;
        let host = Program::run(config)?;
        watcher.ready("out").await?;
        let socket = Host::of(config).await?;
        Ok((host, socket, watcher))
    }

    /// `alphorn check` refuses it, in these words.
    async fn refuses(&self, path: &Path, parts: &[&str]) -> Result<Program> {
        let (path, key) = (path.to_string_lossy(), self.text("mine.pub"));
        let mut check = Program::start(&["check", &path, "--trust", &key])?;
        check.fails(65, &[&[&*path], parts].concat()).await?;
        Ok(check)
    }
}

fn keeper(component: &str) -> String {
    format!(
        "[plugins.keeper]\ncomponent = {component:?}\npublish = [\"out\"]\nsubscribe = [\"in\"]\n\
         config = {{ to = \"out\", filters = \"in\" }}\nlimits = {{ publish_rate = \"unlimited\" }}\n"
    )
}

async fn run(arguments: &[&str]) -> Result<()> {
    Program::start(arguments)?.fails(0, &[]).await
}

/// The bytes with a text in place of one as long.
fn replaced(bytes: &[u8], old: &str, new: &str) -> Result<Vec<u8>> {
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).context("it is not there")?;
    let mut bytes = bytes.to_vec();
    bytes.get_mut(at..at + new.len()).context("it does not fit")?.copy_from_slice(new.as_bytes());
    Ok(bytes)
}

#[tokio::test]
async fn a_key_is_its_owners_alone_and_never_overwritten() -> Result<()> {
    let workshop = Workshop::open().await?;
    assert_eq!(fs::metadata(workshop.path("mine.key"))?.permissions().mode() & 0o777, 0o600);
    let before = fs::read_to_string(workshop.path("mine.key"))?;
    let again = ["keygen", &workshop.text("mine"), "--no-password"];
    Program::start(&again)?.fails(64, &["mine.key is there already"]).await?;
    assert_eq!(fs::read_to_string(workshop.path("mine.key"))?, before);
    fs::remove_file(workshop.path("mine.key"))?;
    Program::start(&again)?.fails(64, &["mine.pub is there already"]).await?;
    assert!(!workshop.path("mine.key").exists());
    // What it prints can be put into a configuration as it is.
    let mut keygen = Program::start(&["keygen", &workshop.text("other"), "--no-password"])?;
    keygen.fails(0, &[]).await?;
    let line = keygen.prints(&["trusted_keys = [\"RW"]).await?;
    let config = workshop.bed.config(&format!("[host]\n{}\n", line.trim()));
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_key_with_a_password_signs_only_with_it() -> Result<()> {
    let workshop = Workshop::open().await?;
    let (password, wrong) = (workshop.bed.file("password", "hunter2\n")?, workshop.bed.file("wrong", "guess")?);
    let (password, wrong) = (password.to_string_lossy(), wrong.to_string_lossy());
    let name = workshop.text("safe");
    Program::start(&["keygen", &name])?.fails(64, &["no terminal", "--password-file", "--no-password"]).await?;
    run(&["keygen", &name, "--password-file", &password]).await?;
    let (component, key) = (workshop.text("keeper.wasm"), format!("{name}.key"));
    let output = workshop.text("keeper.cwasm");
    let build = ["build", &component, "--aot", "--output", &output, "--key", &key];
    Program::start(&build)?.fails(64, &["no terminal", "--password-file"]).await?;
    let with = |file| [&build[..], &["--password-file", file]].concat();
    Program::start(&with(&wrong))?.fails(65, &["safe.key", "the password is not the key's"]).await?;
    assert!(!workshop.path("keeper.cwasm").exists());
    run(&with(&password)).await?;
    let public = format!("{name}.pub");
    run(&["check", &output, "--trust", &public]).await
}

#[tokio::test]
async fn a_compiled_component_runs_and_is_swapped_and_rolled_back_as_any_other() -> Result<()> {
    let workshop = Workshop::open().await?;
    let first = workshop.compile("keeper.wasm", "first.cwasm").await?;
    // Its words are others, so that its code is; sections nobody reads are not in the compiled form.
    let source = workshop.bed.file("second.wasm", replaced(&fs::read(guest("keeper")?)?, "spoiled", "SPOILED")?)?;
    let second = workshop.compile("second.wasm", "second.cwasm").await?;
    let config = workshop.config("first.cwasm");
    let (mut host, mut socket, watcher) = workshop.runs(&config).await?;
    host.log(&["first.cwasm is compiled, and signed by key", "component:keeper.wasm", TARGET]).await?;
    let mut client = workshop.bed.client().await?;
    client.publish("in", b"a").await?;
    watcher.payload("a 1 first").await?;
    // To another compiled one, to its source, and back again.
    socket.swap("keeper", &second).await?.map_err(anyhow::Error::msg)?;
    client.publish("in", b"b").await?;
    watcher.payload("b 2 swap").await?;
    socket.swap("keeper", &source).await?.map_err(anyhow::Error::msg)?;
    client.publish("in", b"c").await?;
    watcher.payload("c 3 swap").await?;
    run(&["rollback", "keeper", "--socket", &config.socket().to_string_lossy()]).await?;
    client.publish("in", b"d").await?;
    watcher.payload("d 4 rollback").await?;
    ensure!(host.logged(&["compiled ", " ms"]) == 1, "only the source was compiled here");
    // The next run finds the version in force, signature and all, whatever became of its file.
    let version = socket.plugin("keeper").await?.version;
    host.kill().await?;
    fs::remove_file(&second)?;
    fs::remove_file(signature::beside(&second))?;
    let (mut host, mut socket, _) = workshop.runs(&config).await?;
    assert_eq!(socket.plugin("keeper").await?.version, version);
    host.stop().await?;
    // It is not trusted any more, so what was kept of it is not either.
    let text = keeper(&first.to_string_lossy());
    let mut host = Program::run(&workshop.bed.config(&text).in_place_of(&config))?;
    host.log(&["ERROR", "components/", "signed by key", "no key is trusted here", "[host] trusted_keys"]).await?;
    host.stop().await
}

#[tokio::test]
async fn plugins_of_one_compiled_component_share_it() -> Result<()> {
    let workshop = Workshop::open().await?;
    workshop.compile("keeper.wasm", "keeper.cwasm").await?;
    let other = keeper("keeper.cwasm").replace("plugins.keeper", "plugins.other").replace("\"in\"", "\"in/2\"");
    let rest = format!("[host]\ntrusted_keys = [\"mine.pub\"]\n{}{other}", keeper("keeper.cwasm"));
    let config = workshop.bed.config(&rest);
    let watcher = workshop.bed.watch("out").await?;
    let mut host = Program::run(&config)?;
    // Both tell of their start and of the connection.
    watcher.count(4).await?;
    let mut client = workshop.bed.client().await?;
    client.publish("in", b"a").await?;
    watcher.payload("a 1 first").await?;
    client.publish("in/2", b"b").await?;
    watcher.payload("b 1 first").await?;
    assert_eq!(host.code_of(".cwasm")?, 1, "its code is in memory once");
    let kept = fs::read_dir(config.data_dir().join("compiled"))?.count();
    assert_eq!((kept, host.logged(&["compiled ", " ms"])), (1, 0));
    host.stop().await
}

#[tokio::test]
async fn check_says_what_a_compiled_component_is() -> Result<()> {
    let workshop = Workshop::open().await?;
    let path = workshop.compile("keeper.wasm", "keeper.cwasm").await?;
    let (path, key) = (path.to_string_lossy(), workshop.text("mine.pub"));
    let mut check = Program::start(&["check", &path, "--trust", &key])?;
    check.fails(0, &[]).await?;
    for parts in [
        ["imports", "alphorn:plugin/"],
        ["exports", "alphorn:plugin/guest@0.1.0"],
        ["target", TARGET],
        ["wasmtime", "48"],
        ["signed", "which is trusted"],
    ] {
        check.prints(&parts).await?;
    }
    let mut check = Program::start(&["check", &path, "--json", "--trust", &key])?;
    check.fails(0, &[]).await?;
    let json: serde_json::Value = serde_json::from_str(check.stdout().first().context("nothing")?)?;
    let compiled = json.get("compiled").context("compiled")?;
    assert_eq!(compiled.get("target").and_then(|target| target.as_str()), Some(TARGET));
    assert_eq!(compiled.get("trusted"), Some(&true.into()));
    // By the keys of a configuration.
    let config = workshop.config("keeper.cwasm").write()?;
    run(&["check", &path, "--config", &config.to_string_lossy()]).await?;
    // Without a key it is not looked into, and says what it can.
    let mut check = Program::start(&["check", &path])?;
    check.fails(65, &["no key is trusted here"]).await?;
    check.prints(&["target", TARGET]).await?;
    check.prints(&["signed", "component:keeper.wasm", "not verified"]).await?;
    Ok(())
}

/// Where the engine tells of it, it is refused before it is made; else when it is, with the remedy, too.
#[tokio::test]
async fn a_compiled_component_that_begins_with_too_much_memory_is_refused_with_the_remedy() -> Result<()> {
    let workshop = Workshop::open().await?;
    let memories = |pages: usize, times: usize| {
        let instances = "(core instance (instantiate $m))".repeat(times);
        slow_to_compile(1, &format!("(core module $m (memory {pages})) {instances}"))
    };
    // 20 MiB in one piece, and 24 in two.
    for (name, pages, times, is_told) in [("large", 320, 1, true), ("many", 192, 2, false)] {
        let (from, to) = (format!("{name}.wasm"), format!("{name}.cwasm"));
        workshop.bed.file(&from, memories(pages, times)?)?;
        let path = workshop.compile(&from, &to).await?;
        if is_told {
            let parts =
                ["20971520 bytes of memory or more", "may have 16777216 (`limits.memory`)", "at least \"20MiB\""];
            workshop.refuses(&path, &parts).await?;
        }
        let plugin = format!(
            "[host]\ntrusted_keys = [\"mine.pub\"]\n[plugins.p]\ncomponent = {to:?}\npublish = [\"out\"]\n\
             command = {{ topic = \"out\" }}\n"
        );
        let mut host = Program::run(&workshop.bed.config(&plugin))?;
        host.log(&["ERROR", "plugin{name=p}", "may have 16777216 (`limits.memory`)", "raise that to at least"]).await?;
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_trusted_has_signed_is_refused() -> Result<()> {
    let workshop = Workshop::open().await?;
    let path = workshop.compile("keeper.wasm", "keeper.cwasm").await?;
    let (code, signature) = (fs::read(&path)?, fs::read_to_string(signature::beside(&path))?);
    // Unsigned.
    fs::remove_file(signature::beside(&path))?;
    workshop.refuses(&path, &["is not signed", "keeper.cwasm.minisig", "--key FILE"]).await?;
    // Signed by a key nobody here knows.
    workshop.keys("other").await?;
    let (input, output, other) =
        (workshop.text("keeper.wasm"), workshop.text("other.cwasm"), workshop.text("other.key"));
    run(&["build", &input, "--aot", "--key", &other, "--output", &output]).await?;
    let foreign = workshop.path("other.cwasm");
    workshop.refuses(&foreign, &["signed by key", "trusted are", "[host] trusted_keys"]).await?;
    // Altered: the code, what the signature says, or the signature of another file.
    let mut altered = code.clone();
    *altered.last_mut().context("empty")? ^= 1;
    fs::write(&path, &altered)?;
    fs::write(signature::beside(&path), &signature)?;
    workshop.refuses(&path, &["is not for this file as it is"]).await?;
    fs::write(&path, &code)?;
    fs::write(signature::beside(&path), signature.replace("component:keeper", "component:beeper"))?;
    workshop.refuses(&path, &["is not for this file as it is"]).await?;
    fs::write(signature::beside(&path), "nonsense")?;
    workshop.refuses(&path, &["no minisign signature", "sign the file again"]).await?;
    // The same by a running host: at its start, by a swap, and by a file that is replaced.
    let config = workshop.config("keeper.cwasm");
    let mut host = Program::run(&config)?;
    host.log(&["ERROR", "plugin{name=keeper}", "keeper.cwasm", "no minisign signature"]).await?;
    let mut socket = Host::of(&config).await?;
    assert_eq!(socket.plugin("keeper").await?.state, "failed");
    let refused = socket.swap("keeper", &foreign).await?;
    ensure!(refused.as_ref().is_err_and(|words| words.contains("signed by key")), "{refused:?}");
    // The signature comes after the file, and is noticed.
    fs::write(signature::beside(&path), &signature)?;
    socket.until("keeper", |row| row.state == "running").await?;
    host.stop().await
}

#[tokio::test]
async fn what_was_compiled_for_another_host_is_refused_though_it_is_signed() -> Result<()> {
    let workshop = Workshop::open().await?;
    let code = fs::read(workshop.compile("keeper.wasm", "keeper.cwasm").await?)?;
    let remedy = format!("alphorn build --aot --target {TARGET} --key FILE");
    // Another version of wasmtime: the zero and the length before are its section's.
    let older = workshop.sign("older.cwasm", &replaced(&code, "\0\u{2}48", "\0\u{2}47")?)?;
    let check = workshop.refuses(&older, &["incompatible version '47'", &remedy]).await?;
    check.prints(&["wasmtime 47"]).await?;
    // Another kind of processor, of a name as long.
    let architecture = TARGET.split('-').next().unwrap_or_default();
    let other = if architecture.len() == 6 { "mips64" } else { "riscv64" };
    let foreign = TARGET.replace(architecture, other);
    let foreign = workshop.sign("foreign.cwasm", &replaced(&code, TARGET, &foreign)?)?;
    let check = workshop.refuses(&foreign, &[&format!("for architecture '{other}'"), &remedy]).await?;
    check.prints(&["target", other]).await?;
    // Other settings of the engine.
    let bytes = fs::read(guest("keeper")?)?;
    let mut settings = wasmtime::Config::new();
    settings.target(TARGET)?;
    let engine = wasmtime::Engine::new(&settings)?;
    let plain = workshop.sign("plain.cwasm", &engine.precompile_component(&bytes)?)?;
    workshop.refuses(&plain, &["epoch interruption", &remedy]).await?;
    // A program, and something that is nothing.
    let program = workshop.sign("program.cwasm", &fs::read("/proc/self/exe")?)?;
    workshop.refuses(&program, &["native code, but not a compiled component"]).await?;
    let nothing = workshop.sign("nothing.cwasm", b"nothing")?;
    workshop.refuses(&nothing, &["is not WebAssembly"]).await?;
    // Nothing of it is kept by a host.
    let config = workshop.config("older.cwasm");
    let mut host = Program::run(&config)?;
    host.log(&["ERROR", "older.cwasm", "incompatible version"]).await?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert_eq!(fs::read_dir(config.data_dir().join("compiled"))?.count(), 0);
    Ok(())
}

/// Of a feature that every processor of this kind may have, and a host can't know of.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn what_asks_for_more_than_this_processor_has_is_refused() -> Result<()> {
    let workshop = Workshop::open().await?;
    let mut settings = wasmtime::Config::new();
    settings.target(TARGET)?;
    // SAFETY is not at stake: it is not run.
    #[expect(unsafe_code, reason = "wasmtime asks for it, since such code may not run here; it does not")]
    unsafe {
        settings.cranelift_flag_enable("has_sse3");
    }
    let engine = wasmtime::Engine::new(&settings)?;
    let code = engine.precompile_component(&fs::read(guest("keeper")?)?)?;
    let modern = workshop.sign("modern.cwasm", &replaced(&code, "has_sse3", "has_sse9")?)?;
    workshop.refuses(&modern, &["has_sse9", "alphorn build --aot"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_built_unsigned_is_said_to_be() -> Result<()> {
    let workshop = Workshop::open().await?;
    let (input, output) = (workshop.text("keeper.wasm"), workshop.text("keeper.cwasm"));
    // A signature of what was there before would be taken for damage.
    workshop.compile("keeper.wasm", "keeper.cwasm").await?;
    Program::start(&["build", &input, "--aot", "--output", &output])?.fails(0, &["WARN", "is not signed"]).await?;
    workshop.refuses(Path::new(&output), &["is not signed"]).await?;
    Program::start(&["build", &input, "--aot", "--output", &input])?.fails(64, &["would be overwritten"]).await?;
    let build = ["build", &input, "--aot", "--output", &output, "--target"];
    let target = |target| [&build[..], &[target]].concat();
    Program::start(&target("my machine"))?.fails(64, &["no target triple", "aarch64-unknown-linux-gnu"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_host_that_keeps_nothing_runs_it_from_memory() -> Result<()> {
    let workshop = Workshop::open().await?;
    let path = workshop.compile("keeper.wasm", "keeper.cwasm").await?;
    let mut keys = TrustedKeys::default();
    keys.add(&fs::read_to_string(workshop.path("mine.pub"))?)?;
    let engine = Engine::new(Compiler::Nobody, None, WhenFull::DropNewest)?.trusting(keys);
    let loaded = component::load(&engine, &path, LoadLimits::default()).await?;
    let native = loaded.about.native.as_ref().context("compiled")?;
    assert_eq!(native.heading.target, TARGET);
    // What is signed is these bytes, whatever the file is by now.
    fs::write(&path, "something else")?;
    let error = component::load(&engine, &path, LoadLimits::default()).await;
    ensure!(error.is_err(), "the file is another one");
    Ok(())
}

#[tokio::test]
async fn a_host_without_a_compiler_says_who_has_one() -> Result<()> {
    let engine = Engine::new(Compiler::Nobody, None, WhenFull::DropNewest)?;
    let error = component::load(&engine, &guest("keeper")?, LoadLimits::default()).await;
    let words = error.err().context("it was compiled")?.to_string();
    for part in ["keeper.wasm", "no compiler", &format!("alphorn build --aot --target {TARGET}"), "--features compiler"]
    {
        ensure!(words.contains(part), "{words}");
    }
    Ok(())
}

#[tokio::test]
async fn another_key_takes_a_restart_and_a_reload_says_so() -> Result<()> {
    let workshop = Workshop::open().await?;
    workshop.compile("keeper.wasm", "keeper.cwasm").await?;
    let config = workshop.config("keeper.cwasm");
    let file = config.write()?;
    let mut host = Program::start(&["run", "--config", &file.to_string_lossy()])?;
    host.log(&["connect success"]).await?;
    workshop.bed.config(&keeper("keeper.cwasm")).in_place_of(&config).write_to(&file)?;
    host.signal(crate::harness::Signal::Hup)?;
    host.log(&["WARN", "[host]", "that takes a restart"]).await?;
    host.stop().await
}
