//! Components are compiled by a child under limits, once.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Bed, Context as _, Message, Program, Result, ensure};

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
    let rounds = std::env::var("ALPHORN_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let seed = std::env::var("ALPHORN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
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
        watcher.wait_for("its start", ups).await.with_context(|| format!("ALPHORN_SEED={seed}, round {round}"))?;
        if round > 0 {
            host.log(&["WARN", "is damaged", "is compiled anew"]).await?;
        }
        host.log(&["compiled", "recorder.wasm", "ms"]).await?;
        let payload = format!("{round}");
        bed.client().await?.publish("in", payload.as_bytes()).await?;
        watcher.payload(&format!("in {payload}")).await.with_context(|| format!("ALPHORN_SEED={seed}"))?;
        host.stop().await.with_context(|| format!("ALPHORN_SEED={seed}, round {round}"))?;
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

#[tokio::test]
async fn what_takes_too_long_or_too_much_to_compile_is_refused_and_the_others_run() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("out").await?;
    // One function of a million instructions.
    let body = "local.get 0 i32.const 7 i32.mul i32.const 3 i32.add local.set 0 ".repeat(200_000);
    let text = format!("(component (core module (func (param i32) {body})))");
    bed.file("huge.wasm", wat::parse_str(text)?)?;
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
