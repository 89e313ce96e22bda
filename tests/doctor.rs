//! `alphorn doctor`: each way in which a device can fail to connect, and the words for it.
//!
//! What it prints is compared with the files beside this one. `ALPHORN_SNAPSHOTS=write` writes
//! them anew; look at what changed then.

mod servers;
mod snapshot;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use alphorn_dev_broker::{Authority, Profile};
use serde_json::Value;
use tokio::net::TcpStream;

use self::{
    servers::{answering, echo, http_error, silent},
    snapshot::{doctor, says},
};
use crate::harness::{
    Answer, Bed, Config, Connect, Context as _, Do, Event, Mood, Mqtt, Packet, Program, Proxy, Result, Scripted,
    Service, Step, Tls, Version, Web, ensure, free_ports, kind, soon,
};

const CONFIGURATION: i32 = 78;
const BROKER: i32 = 69;
const NOT_PERMITTED: i32 = 77;

#[tokio::test]
async fn all_is_well() -> Result<()> {
    for protocol in ["5", "3.1.1"] {
        // Receive maximum, maximum packet size and keep-alive.
        let properties = [&[0x21, 0, 100][..], &[0x27, 0, 2, 0, 0], &[0x13, 0, 30]].concat();
        let script = move |event: &Event| match &event.step {
            Step::Packet(Packet::Connect(_)) => {
                vec![Do::Say(Answer::Connack { session_present: false, code: 0, properties: properties.clone() })]
            }
            _ => echo(event),
        };
        scripted(&format!("all-well-mqtt-{protocol}"), protocol, 0, script).await?;
    }
    Ok(())
}

#[tokio::test]
async fn json_is_one_object_with_stable_names() -> Result<()> {
    let bed = Bed::start().await?;
    let (exit, text) = doctor(&bed.config("").write()?, &["--json"]).await?;
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!((exit, &report["status"]), (0, &Value::from("ok")), "{text}");
    let checks = report["checks"].as_array().context("no checks")?;
    let names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    let expected = [
        "versions",
        "configuration",
        "clock",
        "code-memory",
        "storage",
        "socket",
        "components",
        "ca",
        "client-certificate",
        "dns",
        "tcp",
        "proxy",
        "tls",
        "server-certificate",
        "alpn",
        "connack",
        "subscribe",
        "publish",
        "round-trip",
        "client-id",
    ];
    assert_eq!(names, expected);
    for check in checks {
        let keys: Vec<_> = check.as_object().context("no object")?.keys().map(String::as_str).collect();
        assert_eq!(keys, ["cause", "found", "name", "remedy", "status"]);
    }

    let (exit, text) = doctor(&bed.config("").link("alpn = [\"mqtt\"]").write()?, &["--json"]).await?;
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!((exit, &report["status"]), (BROKER, &Value::from("fail")), "{text}");
    let alpn = report["checks"].as_array().and_then(|checks| checks.iter().find(|check| check["name"] == "alpn"));
    assert_eq!(alpn.context("no alpn")?["status"], "fail");
    Ok(())
}

#[tokio::test]
async fn bad_configuration_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("").link("keepalive = \"60s\"");
    says("configuration", &bed, &config, CONFIGURATION).await
}

#[tokio::test]
async fn a_name_without_an_address_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("").link("url = \"mqtts://no-such-host.invalid:443\"").link("connect_timeout = \"5s\"");
    // The words are the system's.
    let (exit, text) = doctor(&config.write()?, &[]).await?;
    ensure!(exit == BROKER && text.contains("FAIL  dns") && text.contains("What fails: dns."), "{text}");
    Ok(())
}

#[tokio::test]
async fn nothing_listening_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let [port] = free_ports()?;
    says("nothing-listening", &bed, &at(&bed, port), BROKER).await
}

#[tokio::test]
async fn a_web_server_on_the_port_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let server = answering(http_error).await?;
    says("http-server", &bed, &at(&bed, server.port), BROKER).await
}

/// As on a port that is shared with HTTPS, where ALPN decides.
#[tokio::test]
async fn a_web_server_behind_tls_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let server = answering(http_error).await?;
    bed.front.redirect(([127, 0, 0, 1], server.port).into());
    says("https-server", &bed, &bed.config(""), BROKER).await
}

#[tokio::test]
async fn a_server_that_says_nothing_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let server = answering(silent).await?;
    let config = at(&bed, server.port).link("connect_timeout = \"500ms\"");
    says("silent-server", &bed, &config, BROKER).await
}

#[tokio::test]
async fn a_broker_without_tls_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::plain(|event| match &event.step {
        Step::Packet(Packet::Broken(_)) => vec![Do::Close],
        _ => kind(event),
    })
    .await?;
    says("plain-mqtt", &bed, &at(&bed, broker.addr().port()), BROKER).await
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("other-ca.pem", Authority::new("somebody else")?.ca_pem())?;
    says("wrong-ca", &bed, &bed.config("").link("ca = \"other-ca.pem\""), BROKER).await
}

#[tokio::test]
async fn a_server_with_another_name_is_said() -> Result<()> {
    let bed = server(Profile::server(&["elsewhere.example"])).await?;
    says("wrong-name", &bed, &bed.config(""), BROKER).await
}

#[tokio::test]
async fn an_expired_server_certificate_is_said() -> Result<()> {
    let bed = server(Profile::server(&["localhost"]).expired()).await?;
    says("server-expired", &bed, &bed.config(""), BROKER).await
}

#[tokio::test]
async fn a_server_certificate_of_the_future_is_said() -> Result<()> {
    let bed = server(Profile::server(&["localhost"]).not_yet_valid()).await?;
    says("server-not-yet-valid", &bed, &bed.config(""), BROKER).await
}

#[tokio::test]
async fn a_missing_client_certificate_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    says("client-certificate-missing", &bed, &bed.config("").without(&["cert", "key"]), BROKER).await
}

/// As mosquitto's own recipe makes it.
#[tokio::test]
async fn a_client_certificate_of_version_1_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("old", &bed.authority.issue_client("device")?.version_1()?)?;
    let config = bed.config("").link("cert = \"old.pem\"").link("key = \"old.key\"");
    says("client-certificate-version-1", &bed, &config, CONFIGURATION).await?;
    Program::run(&config)?.fails(CONFIGURATION, &["X.509 version 1", "openssl x509 -req"]).await
}

#[tokio::test]
async fn a_refused_client_certificate_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("stranger", &Authority::new("somebody else")?.issue_client("device")?)?;
    let config = bed.config("").link("cert = \"stranger.pem\"").link("key = \"stranger.key\"");
    says("client-certificate-refused", &bed, &config, BROKER).await
}

#[tokio::test]
async fn an_expired_client_certificate_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("device", &bed.authority.issue(&Profile::client("device").expired())?)?;
    says("client-certificate-expired", &bed, &bed.config(""), BROKER).await
}

#[tokio::test]
async fn a_key_of_another_certificate_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("other", &bed.authority.issue_client("device")?)?;
    says("key-mismatch", &bed, &bed.config("").link("key = \"other.key\""), CONFIGURATION).await
}

#[tokio::test]
async fn a_missing_file_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    says("ca-missing", &bed, &bed.config("").link("ca = \"nowhere.pem\""), CONFIGURATION).await
}

#[tokio::test]
async fn refused_alpn_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    says("alpn-refused", &bed, &bed.config("").link("alpn = [\"mqtt\"]"), BROKER).await
}

#[tokio::test]
async fn a_server_that_picks_no_alpn_is_worth_a_look() -> Result<()> {
    let bed = Bed::start().await?;
    let without_alpn = |tls: &mut Tls| {
        tls.alpn.clear();
        Ok(())
    };
    let broker = Scripted::with(&bed, without_alpn, echo).await?;
    says("alpn-none-agreed", &bed, &broker.config(&bed, ""), 0).await
}

#[tokio::test]
async fn the_way_through_a_proxy_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let identity = bed.authority.issue_server(&["broker.invalid"])?;
    let named = |tls: &mut Tls| {
        (tls.cert_pem, tls.key_pem) = (identity.cert_pem, identity.key_pem);
        Ok(())
    };
    let broker = Scripted::with(&bed, named, echo).await?;
    let config = bed.config("").link("url = \"mqtts://broker.invalid:443\"");
    for (name, mood, login, exit) in [
        ("proxy", Mood::Open, "", 0),
        ("proxy-login", Mood::Wants("Basic dXNlcjpzM2NyZXRA"), "", BROKER),
        ("proxy-wrong-login", Mood::Wants("Basic dXNlcjpzM2NyZXRA"), "user:wrong@", BROKER),
    ] {
        let proxy = Proxy::start(mood, broker.addr()).await?;
        let config = config.clone().link(&format!("proxy = {:?}", proxy.url_with(login)));
        says(name, &bed, &config, exit).await?;
    }
    let [port] = free_ports()?;
    let config = config.link(&format!("proxy = \"http://127.0.0.1:{port}\""));
    says("proxy-not-listening", &bed, &config, BROKER).await
}

#[tokio::test]
async fn websocket_is_said() -> Result<()> {
    let bed = Bed::with(|_, front| {
        front.alpn.clear();
        front.require_alpn = false;
        Ok(())
    })
    .await?;
    let broker = Scripted::plain(echo).await?;
    let url = format!("url = \"wss://localhost:{}\"", bed.addr().port());
    let config = bed.config("").without(&["alpn"]).link(&url);
    for (name, service, exit) in [
        ("websocket", Service::Broker, 0),
        ("websocket-refused", Service::Says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), BROKER),
    ] {
        let web = Web::start(service, broker.addr()).await?;
        bed.front.redirect(web.addr());
        says(name, &bed, &config, exit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_refusal_of_the_broker_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    for (name, protocol, code) in [
        ("connack-not-authorised", "5", 0x87),
        ("connack-not-authorised-3.1.1", "3.1.1", 5),
        ("connack-not-authorised-aws", "3.1.1", 7),
        ("connack-bad-login", "5", 0x86),
        ("connack-bad-login-3.1.1", "3.1.1", 4),
        ("connack-bad-client-id", "5", 0x85),
        ("connack-bad-client-id-3.1.1", "3.1.1", 2),
    ] {
        let broker = Scripted::start(&bed, move |event| match &event.step {
            Step::Packet(Packet::Connect(_)) => vec![Do::refuse(code), Do::Close],
            _ => kind(event),
        })
        .await?;
        let config = broker.config(&bed, "").link(&format!("protocol = {protocol:?}"));
        says(name, &bed, &config, BROKER).await.context(name)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_connect_is_said() -> Result<()> {
    let script = |event: &Event| match &event.step {
        Step::Packet(Packet::Connect(_)) => vec![Do::Close],
        _ => kind(event),
    };
    scripted("connack-closed", "5", BROKER, script).await
}

#[tokio::test]
async fn a_policy_that_denies_the_test_topic_is_worth_a_look() -> Result<()> {
    for (name, protocol, code) in [("subscribe-denied", "5", 0x87), ("subscribe-denied-3.1.1", "3.1.1", 0x80)] {
        let script = move |event: &Event| denying_subscribe(event, &|_| true, code).unwrap_or_else(|| echo(event));
        scripted(name, protocol, 0, script).await.context(name)?;
    }
    for (name, protocol) in [("subscribe-closed", "5"), ("subscribe-closed-3.1.1", "3.1.1")] {
        let script = |event: &Event| match &event.step {
            Step::Packet(Packet::Subscribe { .. }) => vec![Do::Close],
            _ => echo(event),
        };
        scripted(name, protocol, 0, script).await.context(name)?;
    }
    scripted("publish-denied", "5", 0, denying_publish).await?;
    // As mosquitto does with MQTT 3.1.1, which has no way to refuse a message.
    scripted("publish-swallowed-3.1.1", "3.1.1", 0, kind).await?;
    for (name, protocol) in [("publish-closed", "5"), ("publish-closed-3.1.1", "3.1.1")] {
        let script = |event: &Event| match &event.step {
            Step::Packet(Packet::Publish(_)) => vec![Do::Reset],
            _ => kind(event),
        };
        scripted(name, protocol, 0, script).await.context(name)?;
    }
    Ok(())
}

/// What somebody has named is needed.
#[tokio::test]
async fn a_policy_that_denies_the_topic_asked_for_is_a_failure() -> Result<()> {
    let denying = |event: &Event| denying_subscribe(event, &|_| true, 0x87).unwrap_or_else(|| echo(event));
    for (script, what) in [(denying as fn(&Event) -> Vec<Do>, "subscribe"), (denying_publish, "publish")] {
        let bed = Bed::start().await?;
        let broker = Scripted::start(&bed, script).await?;
        let (exit, text) = doctor(&broker.config(&bed, "").write()?, &["--topic", "test/doctor"]).await?;
        let failed = format!("FAIL  {what}");
        ensure!(exit == NOT_PERMITTED && text.contains(&failed) && text.contains("test/doctor"), "{text}");
        broker.keeps_the_rules()?;
    }
    Ok(())
}

/// Where the test topic is denied, subscribing is tried with what a plugin is granted; nothing is
/// published to it.
#[tokio::test]
async fn what_a_plugin_is_granted_is_subscribed_to_and_never_published_to() -> Result<()> {
    const PLUGIN: &str =
        "[plugins.valve]\ncomponent = \"recorder.wasm\"\npublish = [\"valve/open\"]\nsubscribe = [\"valve/#\"]\n";
    for (name, allowed, exit) in [("granted-allowed", true, 0), ("granted-denied", false, NOT_PERMITTED)] {
        let bed = Bed::start().await?;
        let script = move |event: &Event| {
            let is_denied = |filter: &str| !(allowed && filter == "valve/#");
            denying_subscribe(event, &is_denied, 0x87).unwrap_or_else(|| denying_publish(event))
        };
        let broker = Scripted::start(&bed, script).await?;
        says(name, &bed, &broker.config(&bed, PLUGIN), exit).await?;
        broker.keeps_the_rules()?;
        let published = |event: &Event| match &event.step {
            Step::Packet(Packet::Publish(message)) => Some(message.topic.clone()),
            _ => None,
        };
        let topics: Vec<_> = broker.events().iter().filter_map(published).collect();
        assert_eq!(topics, ["alphorn/device/doctor"], "{name}");
    }
    // Not even to the test topic, where a plugin has been granted just that.
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, echo).await?;
    let listens = "[plugins.a]\ncomponent = \"recorder.wasm\"\nreserved = true\nsubscribe = [\"alphorn/+/doctor\"]\n";
    let (exit, text) = doctor(&broker.config(&bed, listens).write()?, &[]).await?;
    ensure!(exit == 0 && text.contains("warn  publish") && text.contains("somebody may act on"), "{text}");
    ensure!(!broker.events().iter().any(|event| matches!(event.step, Step::Packet(Packet::Publish(_)))), "published");
    Ok(())
}

fn denying_subscribe(event: &Event, is_denied: &dyn Fn(&str) -> bool, code: u8) -> Option<Vec<Do>> {
    let Step::Packet(Packet::Subscribe { packet_id, filters, .. }) = &event.step else { return None };
    let is_denied = filters.iter().any(|filter| is_denied(&filter.name));
    is_denied.then(|| vec![Do::Say(Answer::Suback { packet_id: *packet_id, codes: vec![code] })])
}

fn denying_publish(event: &Event) -> Vec<Do> {
    match &event.step {
        Step::Packet(Packet::Publish(message)) => {
            vec![Do::Say(Answer::Puback { packet_id: message.packet_id.unwrap_or(0), reason: 0x87 })]
        }
        _ => kind(event),
    }
}

#[tokio::test]
async fn a_second_device_with_the_client_id_is_said() -> Result<()> {
    for (name, protocol) in [("client-id-taken", "5"), ("client-id-taken-3.1.1", "3.1.1")] {
        let script = move |event: &Event| match &event.step {
            Step::Packet(Packet::Connect(_)) => {
                let word = (protocol == "5").then_some(Do::Say(Answer::Disconnect(0x8e)));
                let end = word.into_iter().chain([Do::Close]).map(|action| action.after(Duration::from_secs(1)));
                [Do::welcome(false)].into_iter().chain(end).collect()
            }
            _ => echo(event),
        };
        scripted(name, protocol, BROKER, script).await.context(name)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_answers_nothing_more_does_not_hold_it() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |event| match &event.step {
        Step::Packet(Packet::Connect(_)) => kind(event),
        _ => Vec::new(),
    })
    .await?;
    let start = Instant::now();
    let config = broker.config(&bed, "").link("operation_timeout = \"200ms\"");
    says("no-answers", &bed, &config, BROKER).await?;
    ensure!(start.elapsed() < Duration::from_secs(15), "it took {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn what_waits_for_the_device_still_waits_afterwards() -> Result<()> {
    let bed = Bed::start().await?;
    let mut device = session(&bed).await?;
    device.subscribe("orders/#", 1, None).await?;
    drop(device);
    bed.client().await?.publish("orders/1", b"turn left").await?;

    let file = bed.config("[plugins.a]\ncomponent = \"recorder.wasm\"\nsubscribe = [\"orders/#\"]").write()?;
    let (exit, text) = doctor(&file, &[]).await?;
    ensure!(exit == 0 && text.contains("session present"), "{text}");
    // A topic that may be subscribed to in that session is not touched.
    let (exit, text) = doctor(&file, &["--topic", "orders/2"]).await?;
    ensure!(exit == 0 && text.contains("warn  subscribe") && text.contains("orders/2: not tried"), "{text}");

    let mut device = session(&bed).await?;
    ensure!(device.session_present, "the session is gone");
    let message = soon("the order", device.message()).await??;
    assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("orders/1", &b"turn left"[..]));
    Ok(())
}

#[tokio::test]
async fn a_host_that_runs_is_not_disconnected() -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, echo).await?;
    std::fs::create_dir(bed.folder().join("data"))?;
    let _running = redb::Database::create(bed.folder().join("data/alphorn.redb"))?;
    let file = broker.config(&bed, "").keeping(Path::new("data")).write()?;
    let (exit, text) = doctor(&file, &[]).await?;
    ensure!(exit == 0 && text.contains("a host runs as `device`"), "{text}");
    let hello = broker.connect(1).await?;
    ensure!(hello.client_id.starts_with("device-doctor-") && hello.clean, "{hello:?}");

    let (exit, text) = doctor(&file, &["--client-id", "tester", "--topic", "test/doctor"]).await?;
    ensure!(exit == 0 && text.contains("test/doctor"), "{text}");
    assert_eq!(broker.connect(2).await?.client_id, "tester");
    broker.keeps_the_rules()
}

#[tokio::test]
async fn a_topic_with_wildcards_is_wrong_usage() -> Result<()> {
    let (exit, text) = doctor(Path::new("alphorn.toml"), &["--topic", "a/#"]).await?;
    assert_eq!((exit, text.as_str()), (64, ""));
    Ok(())
}

/// All that the bed demands, on another port.
fn at(bed: &Bed, port: u16) -> Config {
    bed.config("").link(&format!("url = \"mqtts://localhost:{port}\""))
}

async fn server(profile: Profile) -> Result<Bed> {
    Bed::with(|authority, front| {
        front.identity = authority.issue(&profile)?;
        Ok(())
    })
    .await
}

async fn scripted(
    name: &str,
    protocol: &str,
    exit: i32,
    script: impl FnMut(&Event) -> Vec<Do> + Send + 'static,
) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, script).await?;
    let config = broker.config(&bed, "").link(&format!("protocol = {protocol:?}"));
    // Long enough for a busy machine, short enough for a message that never comes.
    says(name, &bed, &config.link("operation_timeout = \"2s\""), exit).await?;
    broker.keeps_the_rules()
}

/// The device's session, beside the front.
async fn session(bed: &Bed) -> Result<Mqtt<TcpStream>> {
    let connect = Connect { version: Version::V5, client_id: "device", clean: false, expiry: Some(3600) };
    Mqtt::connect(TcpStream::connect(bed.broker.addr()).await?, &connect).await
}
