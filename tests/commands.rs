//! `pub`, `sub`, `check`, `build`: what they print and how they end.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Bed, Context as _, Mosquitto, Program, Result, Signal, guest, in_both_versions, needs, target_dir,
};

in_both_versions! {
    what_pub_sends_sub_prints
    sub_prints_json_on_request
}

async fn what_pub_sends_sub_prints(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let file = config(&bed, protocol)?;
    let mut sub = Program::start(&["sub", "test/#", "other", "--config", &file, "--count", "3"])?;
    for filter in ["test/#", "other"] {
        sub.log(&["subscribed", filter]).await?;
    }
    for (arguments, line) in [
        (&["test/a", "hello world"][..], "test/a hello world"),
        (&["other", "ünïcode", "--qos", "0"], "other ünïcode"),
        (&["test/b/c", "", "--client-id", "tester"], "test/b/c "),
    ] {
        Program::start(&[&["pub", "--config", &file], arguments].concat())?.fails(0, &[]).await?;
        sub.prints(&[line]).await?;
    }
    sub.fails(0, &[]).await?;
    assert_eq!(sub.stdout(), ["test/a hello world", "other ünïcode", "test/b/c "]);
    Ok(())
}

async fn sub_prints_json_on_request(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let file = config(&bed, protocol)?;
    let mut client = bed.client().await?;
    client.send("kept", b"say \"hi\"", Some(9), true).await?;
    client.puback().await?;
    let mut sub = Program::start(&["sub", "#", "--json", "--count", "2", "--config", &file])?;
    sub.prints(&["kept"]).await?;
    client.send("bytes", &[0, 159, 255], None, false).await?;
    sub.fails(0, &[]).await?;
    let lines = sub.stdout();
    let objects: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    assert_eq!(
        objects,
        [
            json!({"topic": "kept", "payload": "say \"hi\"", "qos": 1, "retain": true}),
            json!({"topic": "bytes", "payload_hex": "009fff", "qos": 0, "retain": false}),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn sub_ends_well_when_told() -> Result<()> {
    let bed = Bed::start().await?;
    let file = config(&bed, "5")?;
    let mut sub = Program::start(&["sub", "a", "--config", &file])?;
    sub.log(&["subscribed"]).await?;
    sub.signal(Signal::Int)?;
    sub.fails(0, &[]).await?;
    assert!(sub.stdout().is_empty());
    Ok(())
}

#[tokio::test]
async fn sub_gives_up_after_its_timeout() -> Result<()> {
    let bed = Bed::start().await?;
    let file = config(&bed, "5")?;
    Program::start(&["sub", "a", "--timeout", "200ms", "--config", &file])?.fails(69, &["--timeout"]).await
}

#[tokio::test]
async fn pub_and_sub_do_not_disconnect_a_host_that_runs() -> Result<()> {
    let bed = Bed::start().await?;
    let file = config(&bed, "5")?;
    let mut host = bed.connected("5", "").await?;
    Program::start(&["pub", "a", "b", "--config", &file])?.fails(0, &[]).await?;
    assert_eq!(host.logged(&["connection lost"]), 0);
    host.stop().await
}

#[tokio::test]
async fn the_exit_code_says_why_there_is_no_connection() -> Result<()> {
    let bed = Bed::start().await?;
    let mut failing = Vec::new();
    for (line, parts) in [
        ("alpn = [\"mqtt\"]", ["ALPN", "mqtt"]),
        ("url = \"mqtts://127.0.0.1:1\"", ["no TCP connection", "127.0.0.1:1"]),
    ] {
        failing.push((bed.config("").link(line).write()?, parts));
    }
    for (file, parts) in failing {
        let file = file.to_string_lossy();
        Program::start(&["pub", "a", "b", "--config", &file])?.fails(69, &parts).await?;
        Program::start(&["sub", "a", "--config", &file])?.fails(69, &parts).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_the_broker_does_not_permit_ends_with_77() -> Result<()> {
    if !needs(&["mosquitto"])? {
        return Ok(());
    }
    let bed = Bed::start().await?;
    let acl = bed.file("acl", "topic readwrite allowed/#\n")?;
    let mosquitto = Mosquitto::start(|_| format!("acl_file {}", acl.display())).await?;
    bed.front.redirect(mosquitto.addr);
    let file = config(&bed, "5")?;
    Program::start(&["pub", "allowed/a", "b", "--config", &file])?.fails(0, &[]).await?;
    let parts = ["not taken", "authori"];
    Program::start(&["pub", "forbidden", "b", "--config", &file])?.fails(77, &parts).await
}

#[tokio::test]
async fn who_may_not_connect_is_told_so() -> Result<()> {
    if !needs(&["mosquitto"])? {
        return Ok(());
    }
    let bed = Bed::start().await?;
    let users = bed.file("users", "")?;
    let login = |port| format!("listener {port} 127.0.0.1\npassword_file {}\nallow_anonymous false", users.display());
    let mosquitto = Mosquitto::start(login).await?;
    bed.front.redirect((std::net::Ipv4Addr::LOCALHOST, mosquitto.other_port).into());
    for protocol in ["5", "3.1.1"] {
        let file = config(&bed, protocol)?;
        let mut sub = Program::start(&["sub", "a", "--config", &file])?;
        sub.fails(69, &["the broker refused the connection", "authori"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn wrong_usage_ends_with_64() -> Result<()> {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["pub"],
        &["pub", "topic"],
        &["pub", "a/+", "wildcards are not for topics"],
        &["pub", "a", "b", "--qos", "2"],
        &["sub"],
        &["sub", "a/#/b"],
        &["sub", "a", "--count", "many"],
        &["sub", "a", "--timeout", "soon"],
        &["run", "--what"],
        &["check"],
    ] {
        let mut program = Program::start(arguments)?;
        program.fails(64, &[]).await.with_context(|| format!("{arguments:?}"))?;
        assert!(program.stdout().is_empty() && !program.stderr().is_empty(), "{arguments:?}");
    }
    Ok(())
}

#[tokio::test]
async fn help_and_version_are_results() -> Result<()> {
    for (argument, words) in [("--help", "Usage"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let mut program = Program::start(&[argument])?;
        program.fails(0, &[]).await?;
        assert!(program.stdout().join("\n").contains(words));
        assert!(program.stderr().is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn check_says_what_a_component_is() -> Result<()> {
    let file = guest("recorder")?;
    let size = std::fs::metadata(&file)?.len();
    let mut check = Program::start(&["check".as_ref(), file.as_os_str()])?;
    check.fails(0, &[]).await?;
    let text = check.stdout().join("\n");
    for part in [&size.to_string(), "alphorn:plugin/mqtt@0.1.0", "wasi:", "alphorn:plugin/guest@0.1.0"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let mut check = Program::start(&["check".as_ref(), "--json".as_ref(), file.as_os_str()])?;
    check.fails(0, &[]).await?;
    let object: Value = serde_json::from_str(&check.stdout().join("\n"))?;
    assert_eq!(object.get("bytes"), Some(&json!(size)));
    assert_eq!(object.get("exports"), Some(&json!(["alphorn:plugin/guest@0.1.0"])));
    Ok(())
}

#[tokio::test]
async fn build_makes_a_component_that_runs() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/hello");
    let target = target_dir().to_string_lossy();
    let environment = [("CARGO_TARGET_DIR", &*target)];
    let mut build = Program::start_with(&["build".as_ref(), "--json".as_ref(), folder.as_os_str()], &environment)?;
    build.ends_in_its_own_time().await?;
    let object: Value = serde_json::from_str(&build.stdout().join("\n"))?;
    let component = object.get("path").and_then(Value::as_str).context("no path")?;

    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    let plugin = format!("[plugins.hello]\ncomponent = {component:?}\npublish = [\"alpn/devicesdk\"]");
    let mut host = bed.connected("5", &plugin).await?;
    watcher.payload("Hello over MQTT on port 443").await?;
    host.stop().await
}

#[tokio::test]
async fn build_says_what_is_missing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let arguments = ["build".as_ref(), folder.path().as_os_str()];
    Program::start(&arguments)?.fails(65, &["neither Cargo.toml", &folder.path().to_string_lossy()]).await
}

fn config(bed: &Bed, protocol: &str) -> Result<String> {
    let file = bed.config("").link(&format!("protocol = {protocol:?}")).write()?;
    Ok(file.to_string_lossy().into_owned())
}
