//! The worst a plugin can do ends as documented, and its neighbour handles every message in order.

use crate::harness::{Bed, Host, Program, Result, ensure, handmade::World};

/// Does a deed again and again while a stream of numbers goes to the neighbour; `ends`: what
/// the log says of it, or else what the guest says it got.
async fn does(deed: &str, config: &str, limits: &str, ends: Ends<'_>) -> Result<()> {
    const ROUNDS: usize = 3;
    const NUMBERS: usize = 100;
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let plugins = format!(
        r#"
        [plugins.recorder]
        component = "recorder.wasm"
        publish = ["out"]
        subscribe = ["in"]
        config = {{ to = "out", filters = "in" }}
        limits = {{ publish_rate = "unlimited" }}

        [plugins.hostile]
        component = "hostile.wasm"
        publish = ["said/#"]
        subscribe = ["deeds", "mine/#"]
        config = {{ to = "said", filters = "deeds" {config} }}
        limits = {{ restart = {{ max = 100, within = "1m" }}, retry = {{ max = 1 }}, {limits} }}
        "#
    );
    let settings = bed.config(&plugins);
    let mut host = Program::run(&settings)?;
    watcher.ready("out").await?;
    watcher.ready("said").await?;
    let mut client = bed.client().await?;
    for round in 1..=ROUNDS {
        client.publish("deeds", deed.as_bytes()).await?;
        for number in 0..NUMBERS {
            client.publish("in", format!("{:04}", (round - 1) * NUMBERS + number).as_bytes()).await?;
        }
        watcher.payload(&format!("in {:04}", round * NUMBERS - 1)).await?;
        match ends {
            Ends::Logged(words) => drop(host.log_times(round, &[&["plugin{name=hostile}"], words].concat()).await?),
            Ends::Said(words) => {
                let said = |messages: &[crate::harness::Message]| {
                    let is = |message: &&crate::harness::Message| {
                        message.topic == "said" && String::from_utf8_lossy(&message.payload).contains(words)
                    };
                    (messages.iter().filter(is).count() >= round).then_some(())
                };
                watcher.wait_for(words, said).await?;
            }
        }
    }
    let records = watcher.records("out");
    let records: Vec<_> = records.iter().map(|line| line.trim_end_matches(" redelivered")).collect();
    let expected: Vec<_> = (0..ROUNDS * NUMBERS).map(|number| format!("in {number:04}")).collect();
    ensure!(records == expected, "{records:?}");
    let all = (ROUNDS * NUMBERS) as u64;
    let row = Host::of(&settings).await?.until("recorder", |row| row.handled >= all).await?;
    ensure!(row.faults == 0 && row.handled == all, "{row:?}");
    host.stop().await
}

#[derive(Clone, Copy)]
enum Ends<'a> {
    Logged(&'a [&'a str]),
    Said(&'a str),
}

const SHORT: &str = "deadline = \"300ms\"";

/// A plugin of short calls shares the link's thread; it can't keep it.
#[tokio::test]
async fn an_endless_loop_on_the_links_thread_leaves_it_to_the_others() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let settings = bed.config(
        r#"
        [plugins.recorder]
        component = "recorder.wasm"
        publish = ["out"]
        subscribe = ["in"]
        config = { to = "out", filters = "in" }

        [plugins.hostile]
        component = "hostile.wasm"
        publish = ["said"]
        subscribe = ["deeds"]
        config = { to = "said", filters = "deeds" }
        limits = { deadline = "20s", restart = { max = 0 } }
        "#,
    );
    let path = settings.write()?;
    let arguments = ["run".as_ref(), "--config".as_ref(), path.as_os_str()];
    let host = Program::start_with(&arguments, &[("RUST_LOG", "debug")])?;
    watcher.ready("out").await?;
    watcher.ready("said").await?;
    let mut client = bed.client().await?;
    let [came, left] = ["it goes on on the link's thread", "it leaves the link's thread"];
    let hostile = |line| ["plugin{name=hostile}", line];
    let mut answers = 0;
    // It may have left again where the machine was busy.
    while host.logged(&hostile(came)) <= host.logged(&hostile(left)) {
        answers += 1;
        ensure!(answers < 10_000, "it does not come to the link's thread");
        client.publish("deeds", b"bad timer").await?;
        let said = |messages: &[crate::harness::Message]| {
            (messages.iter().filter(|message| message.topic == "said").count() > answers).then_some(())
        };
        watcher.wait_for("an answer", said).await?;
    }
    client.publish("deeds", b"loop").await?;
    host.log_times(host.logged(&hostile(came)), &hostile(left)).await?;
    for number in 0..20 {
        client.publish("in", format!("{number}").as_bytes()).await?;
        watcher.payload(&format!("in {number}")).await?;
    }
    ensure!(host.logged(&["it took longer"]) == 0, "the others have waited for it");
    Ok(())
}

#[tokio::test]
async fn an_endless_loop() -> Result<()> {
    does("loop", "", SHORT, Ends::Logged(&["ERROR", "it took longer than 300ms", "starts again"])).await
}

#[tokio::test]
async fn endless_recursion() -> Result<()> {
    does("recurse", "", "", Ends::Logged(&["ERROR", "it trapped", "stack"])).await
}

#[tokio::test]
async fn a_stack_of_nested_calls() -> Result<()> {
    does("nest", "", "", Ends::Logged(&["ERROR", "it trapped", "starts again"])).await
}

#[tokio::test]
async fn a_memory_bomb() -> Result<()> {
    does("eat", "", "", Ends::Logged(&["ERROR", "limits.memory"])).await
}

#[tokio::test]
async fn a_flood_of_publishes() -> Result<()> {
    does("flood", "", SHORT, Ends::Logged(&["ERROR", "it took longer than 300ms"])).await
}

#[tokio::test]
async fn a_flood_of_log_lines() -> Result<()> {
    does("chatter", "", "", Ends::Logged(&["WARN", "were left out", "limits.log_rate"])).await
}

#[tokio::test]
async fn a_line_without_end() -> Result<()> {
    does("long line", "", "", Ends::Said("said")).await
}

#[tokio::test]
async fn a_subscription_to_everything() -> Result<()> {
    does("subscribe", "", "", Ends::Said("does not lie within")).await
}

#[tokio::test]
async fn more_subscriptions_than_there_may_be() -> Result<()> {
    // One of its 50 is the one it is told its deeds by.
    does("subscriptions", "", "publish_rate = \"unlimited\"", Ends::Said("151 refused")).await
}

#[tokio::test]
async fn a_payload_that_is_too_large() -> Result<()> {
    does("huge payload", "", "", Ends::Said("131072")).await
}

#[tokio::test]
async fn a_payload_of_100_megabytes() -> Result<()> {
    does("monstrous payload", "", "memory = \"256MiB\"", Ends::Logged(&["ERROR", "limits.hostcall_bytes"])).await
}

#[tokio::test]
async fn more_user_properties_than_a_message_may_have() -> Result<()> {
    does("properties", "", "", Ends::Said("at most 1024 user properties")).await
}

#[tokio::test]
async fn messages_that_a_broker_takes_for_malformed() -> Result<()> {
    does("poison", "", "publish_rate = \"unlimited\"", Ends::Said("taken: []")).await
}

#[tokio::test]
async fn a_line_with_a_million_ends() -> Result<()> {
    does("many lines", "", "", Ends::Said("said")).await
}

/// Half a megabyte of WebAssembly that asks for gigabytes of globals is refused before any of it runs.
#[tokio::test]
async fn instances_of_many_globals() -> Result<()> {
    let bed = Bed::start().await?;
    let plugin = World::read()?.component(&[], "", "", "")?;
    let large = bed.file("large.wasm", with_instances(&plugin, 20_000, 900)?)?;
    let many = bed.file("many.wasm", with_instances(&plugin, 0, 1001)?)?;
    let mut check = Program::start(&["check".as_ref(), large.as_os_str(), "--memory".as_ref(), "512MiB".as_ref()])?;
    check.fails(0, &[]).await?;
    ensure!(check.stdout().join("\n").contains("core instances take 28"), "{:?}", check.stdout());
    let mut check = Program::start(&["check".as_ref(), large.as_os_str()])?;
    check.fails(65, &["large.wasm", "core instances take 28", "limits.memory"]).await?;
    let mut check = Program::start(&["check".as_ref(), many.as_os_str()])?;
    check.fails(65, &["core instances", "many.wasm", "make one component"]).await?;
    let watcher = bed.watch("out").await?;
    let config = bed.config(
        r#"
        [plugins.recorder]
        component = "recorder.wasm"
        publish = ["out"]
        subscribe = ["in"]
        config = { to = "out", filters = "in" }

        [plugins.large]
        component = "large.wasm"
        limits = { memory = "1MiB" }
        "#,
    );
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    host.log(&["ERROR", "plugin{name=large}", "core instances take 28", "limits.memory"]).await?;
    ensure!(host.resident()? < 150 * 1024 * 1024, "{} bytes", host.resident()?);
    host.stop().await
}

/// The component with instances of another module of so many globals.
fn with_instances(component: &[u8], globals: usize, instances: usize) -> Result<Vec<u8>> {
    /// The header of a component, and of a section in it that has a module.
    const HEADER: usize = 8;
    const MODULE: u8 = 1;
    let sections = |component: &[u8]| {
        let (mut at, mut sections) = (HEADER, Vec::new());
        while let Some(id) = component.get(at) {
            let begin = at;
            let (mut size, mut shift) = (0, 0);
            loop {
                at += 1;
                let byte = component.get(at).copied().unwrap_or_default();
                size |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            at += 1 + size;
            sections.push((*id, begin));
        }
        sections
    };
    let modules = sections(component).iter().filter(|(id, _)| *id == MODULE).count();
    let text = format!(
        "(component {} (core module {}) {})",
        "(core module)".repeat(modules),
        "(global i64 (i64.const 0))".repeat(globals),
        format!("(core instance (instantiate {modules}))").repeat(instances),
    );
    let others = wat::parse_str(text)?;
    let begin = sections(&others).get(modules).map_or(HEADER, |(_, begin)| *begin);
    Ok([component, others.get(begin..).unwrap_or_default()].concat())
}

#[tokio::test]
async fn timers_by_the_thousand() -> Result<()> {
    does("timers", "", "", Ends::Said(" timers")).await
}

#[tokio::test]
async fn a_panic_in_a_timer() -> Result<()> {
    does("bad timer", ", bad_timer = \"yes\"", "", Ends::Logged(&["ERROR", "it trapped", "starts again"])).await
}

#[tokio::test]
async fn a_call_that_never_returns_from_the_host() -> Result<()> {
    does("sleep", "", SHORT, Ends::Logged(&["ERROR", "it took longer than 300ms"])).await
}

#[tokio::test]
async fn an_error_of_a_megabyte() -> Result<()> {
    does("long error", "", "", Ends::Logged(&["WARN", "gave a message up"])).await
}

#[tokio::test]
async fn errors_from_timers_without_end() -> Result<()> {
    // Its errors count as lines of its own in the log.
    does(
        "failing timers",
        ", failing_timers = \"yes\"",
        "",
        Ends::Logged(&["WARN", "were left out", "limits.log_rate"]),
    )
    .await
}

#[tokio::test]
async fn a_value_larger_than_a_call_may_hand_over() -> Result<()> {
    does(
        "large value",
        "",
        "state_bytes = \"10MiB\"",
        Ends::Logged(&["ERROR", "1048576 bytes", "limits.hostcall_bytes"]),
    )
    .await
}

#[tokio::test]
async fn state_that_comes_and_goes() -> Result<()> {
    does("state churn", "", SHORT, Ends::Logged(&["ERROR", "it took longer than 300ms"])).await
}

#[tokio::test]
async fn more_state_than_there_may_be() -> Result<()> {
    does("state", "", "state_bytes = \"100KiB\", deadline = \"5s\"", Ends::Said("kept")).await
}

/// Tables grow until they are refused: as it starts, and when it runs.
#[tokio::test]
async fn a_table_bomb() -> Result<()> {
    const BOMB: &str = "(loop $more
        (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1)))
        unreachable)";
    let bed = Bed::start().await?;
    let world = World::read()?;
    for (name, start, on_event) in [("first.wasm", BOMB, ""), ("second.wasm", "", BOMB)] {
        bed.file(name, world.component(&[], "(table $t 0 funcref)", start, on_event)?)?;
    }
    let watcher = bed.watch("out").await?;
    let config = bed.config(
        r#"
        [plugins.recorder]
        component = "recorder.wasm"
        publish = ["out"]
        subscribe = ["in"]
        config = { to = "out", filters = "in" }

        [plugins.first]
        component = "first.wasm"
        limits = { restart = { max = 1, within = "1m" } }

        [plugins.second]
        component = "second.wasm"
        limits = { restart = { max = 1, within = "1m" } }
        "#,
    );
    let mut host = Program::run(&config)?;
    watcher.ready("out").await?;
    for name in ["plugin{name=first}", "plugin{name=second}"] {
        host.log(&["ERROR", name, "bytes of memory (`limits.memory`)", "starts again"]).await?;
        host.log(&["ERROR", name, "quarantined"]).await?;
    }
    bed.client().await?.publish("in", b"still here").await?;
    watcher.payload("in still here").await?;
    Host::of(&config).await?.until("second", |row| row.state == "quarantined").await?;
    host.stop().await
}
