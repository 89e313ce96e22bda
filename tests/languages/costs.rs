//! What each language costs: the table in docs/languages.md.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{C, CPP, FLAG, GO, JAVASCRIPT, Language, PYTHON, RUST, TYPESCRIPT, ZIG, program, root};
use crate::harness::{Bed, Context as _, Host, Program, Result, ensure};

/// What a language costs, as a row of the table in docs/languages.md.
struct Costs {
    language: &'static str,
    bytes: u64,
    gzip: usize,
    build: Duration,
    compile: Duration,
    start: Duration,
    memory: usize,
    small: Duration,
    large: Duration,
}

async fn measure(language: Language) -> Result<Costs> {
    let bed = Bed::start().await?;
    let (mut build, mut compile) = (Duration::ZERO, Duration::ZERO);
    for example in ["echo", "threshold"] {
        let folder = root()?.join(language.examples).join(example);
        // The second build has nothing to install or to warm up.
        for _ in 0..2 {
            let started = Instant::now();
            let mut program = program(&["build", "--json", &folder.to_string_lossy()])?;
            program.ends_in_its_own_time().await?;
            let line = program.log(&["compiled ", " ms"]).await?;
            compile = Duration::from_millis(line.rsplit(' ').nth(1).context("no time")?.parse()?);
            build = started.elapsed().saturating_sub(compile);
            let about: Value = serde_json::from_str(&program.stdout().concat())?;
            let component = about.get("path").and_then(Value::as_str).context("no path")?;
            fs::copy(component, bed.folder().join(format!("x-{example}.wasm")))?;
        }
    }
    let component = bed.folder().join("x-echo.wasm");
    let gzip = std::process::Command::new("gzip").args(["-9", "-c"]).arg(&component).output()?.stdout.len();
    let config = format!(
        r#"
        [plugins.ready]
        component = "recorder.wasm"
        publish = ["ready"]
        config = {{ to = "ready" }}
        [plugins.echo]
        component = "x-echo.wasm"
        publish = ["test/+/echo"]
        subscribe = ["test/+"]
        config = {{ filter = "test/+" }}
        limits = {{ publish_rate = "unlimited", {limits} }}
        [plugins.threshold]
        component = "x-threshold.wasm"
        config = {{ topic = "sensor", alarm = "alarm", limit = "30" }}
        subscribe = ["sensor"]
        limits = {{ {limits} }}
        "#,
        limits = language.limits
    );
    let config = bed.config(&config);
    let mut host = Program::run(&config)?;
    host.log_in_its_own_time(&["connect success"]).await?;
    host.stop().await?;
    let ready = bed.watch("ready").await?;
    let mut host = Program::run(&config)?;
    ready.ready("ready").await?;
    // From the file that was compiled before to the plugin's own first line.
    let at = async |parts: &[&str]| -> Result<f64> {
        let line = host.log(parts).await?;
        let (minutes, seconds) = line.get(14..27).and_then(|time| time.split_once(':')).context("no time")?;
        Ok(minutes.parse::<f64>()? * 60.0 + seconds.trim_end_matches('Z').parse::<f64>()?)
    };
    let start = at(&["plugin{name=threshold}", " says"]).await? - at(&["plugin{name=threshold}", "loaded"]).await?;
    let mut socket = Host::of(&config).await?;
    let mut client = bed.client().await?;
    let mut times = Vec::new();
    for (size, count) in [(16, 2_000_u64), (65_536, 200)] {
        let payload = vec![b'x'; size];
        let before = socket.plugin("echo").await?;
        let mut after = before.clone();
        for number in 1..=count {
            client.publish("test/a", &payload).await?;
            // Not more at once than its mailbox takes.
            if number % 10 == 0 {
                after = socket.until("echo", |row| row.handled >= before.handled + number).await?;
            }
        }
        times.push(Duration::from_micros((after.busy_us - before.busy_us) / count));
    }
    let memory = socket.plugin("echo").await?.memory;
    host.stop().await?;
    let [small, large] = times[..] else { anyhow::bail!("two sizes") };
    Ok(Costs {
        language: language.name,
        bytes: fs::metadata(&component)?.len(),
        gzip,
        build,
        compile,
        start: Duration::from_secs_f64(start.max(0.0)),
        memory,
        small,
        large,
    })
}

/// `cargo test --release --test integration -- --ignored the_table_of_languages` writes it.
#[tokio::test]
#[ignore = "a measurement, for a machine that has nothing else to do"]
async fn the_table_of_languages_is_written() -> Result<()> {
    const BEGIN: &str = "<!-- measured: begin -->\n";
    const END: &str = "<!-- measured: end -->\n";
    let mut table = "| language | component | gzip -9 | build | compile on the host | start | memory | a message of 16 B | of 64 KiB |\n\
                     |---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for language in [RUST, C, CPP, ZIG, GO, JAVASCRIPT, TYPESCRIPT, PYTHON] {
        ensure!(language.is_here()?, "{} has to be installed, and {FLAG}=all be set", language.install);
        let costs = measure(language).await?;
        table += &format!(
            "| {} | {} KB | {} KB | {:.1} s | {} ms | {:.1} ms | {:.1} MB | {} µs | {} µs |\n",
            costs.language,
            costs.bytes / 1_000,
            costs.gzip / 1_000,
            costs.build.as_secs_f64(),
            costs.compile.as_millis(),
            costs.start.as_secs_f64() * 1_000.0,
            costs.memory as f64 / 1e6,
            costs.small.as_micros(),
            costs.large.as_micros(),
        );
    }
    let file = root()?.join("docs/languages.md");
    let text = fs::read_to_string(&file)?;
    let (before, rest) = text.split_once(BEGIN).context("no begin")?;
    let (_, after) = rest.split_once(END).context("no end")?;
    fs::write(&file, format!("{before}{BEGIN}{table}{END}{after}"))?;
    Ok(())
}
