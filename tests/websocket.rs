//! MQTT over WebSocket: through a web server of ours that cuts frames at odd places, and to
//! mosquitto's own.

use std::path::Path;

use alphorn_dev_broker::Authority;

use crate::harness::{
    Bed, Config, Mood, Mosquitto, Program, Proxy, Result, Service, Watcher, Web, ensure, in_both_versions, needs,
};

in_both_versions! {
    messages_travel_both_ways_whatever_the_frames_are
    the_session_is_found_again_after_a_cut
    mosquitto_takes_websockets
    mosquitto_takes_websockets_over_tls
}

const RECORDER: &str = r#"
    [plugins.recorder]
    component = "recorder.wasm"
    publish = ["out"]
    subscribe = ["in/#"]
    config = { to = "out", filters = "in/#" }
"#;

/// A bed whose front demands no ALPN, with a web server between it and the broker.
async fn web(service: Service) -> Result<(Bed, Web)> {
    let bed = Bed::with(|_, front| {
        front.alpn.clear();
        front.require_alpn = false;
        Ok(())
    })
    .await?;
    let web = Web::start(service, bed.broker.addr()).await?;
    bed.front.redirect(web.addr());
    Ok((bed, web))
}

fn config(bed: &Bed, path: &str, rest: &str) -> Config {
    let url = format!("wss://localhost:{}{path}", bed.addr().port());
    bed.config(rest).without(&["alpn"]).link(&format!("url = {url:?}"))
}

/// The recorder tells what it receives, so each message goes to it and comes back.
async fn there_and_back(bed: &Bed, watcher: &Watcher) -> Result<()> {
    let mut client = bed.client().await?;
    for size in [0, 1, 1000, 70_000] {
        let payload = "x".repeat(size);
        client.publish("in/a", payload.as_bytes()).await?;
        watcher.payload(&format!("in/a {payload}")).await?;
    }
    Ok(())
}

async fn messages_travel_both_ways_whatever_the_frames_are(protocol: &str) -> Result<()> {
    let (bed, web) = web(Service::Broker).await?;
    let watcher = bed.watch("out").await?;
    let mut host = Program::run(&config(&bed, "", RECORDER).link(&format!("protocol = {protocol:?}")))?;
    let port = bed.addr().port();
    let says = format!("connect success: wss://localhost:{port}/mqtt, TLSv1.3");
    host.log(&[&says, "ALPN none agreed (offered: none)", &format!("MQTT {protocol}")]).await?;
    watcher.ready("out").await?;
    there_and_back(&bed, &watcher).await?;
    web.pong().await?;
    host.stop().await?;
    let request = web.requests().concat();
    ensure!(request.starts_with("/mqtt\n"), "{request}");
    ensure!(request.contains("sec-websocket-protocol: \"mqtt\""), "{request}");
    ensure!(request.contains(&format!("host: \"localhost:{port}\"")), "{request}");
    Ok(())
}

async fn the_session_is_found_again_after_a_cut(protocol: &str) -> Result<()> {
    let (bed, _web) = web(Service::Broker).await?;
    let mut host = Program::run(&config(&bed, "/mqtt", "").link(&format!("protocol = {protocol:?}")))?;
    host.log(&["connect success"]).await?;
    bed.cut().await?;
    host.connects(2, "present").await?;
    host.stop().await
}

#[tokio::test]
async fn headers_and_query_are_sent_and_not_logged() -> Result<()> {
    let (bed, web) = web(Service::Broker).await?;
    bed.file("password", "s3cret-3\n")?;
    let rest = "[link.headers]\nX-Amz-CustomAuthorizer-Name = \"mine\"\nToken = \"s3cret-1\"";
    let config =
        config(&bed, "/other?token=s3cret-2", rest).link("username = \"user\"").link("password_file = \"password\"");
    let file = config.write()?;
    let arguments = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
    for level in ["trace", "tungstenite=trace,info"] {
        let mut host = Program::start_with(&arguments, &[("RUST_LOG", level)])?;
        host.log(&["connect success", "/other?…"]).await?;
        host.stop().await?;
        // What a frame carries would be written in hexadecimal.
        assert_eq!(host.logged(&["s3cret"]) + host.logged(&["733363726574"]), 0);
    }
    let request = web.requests().concat();
    for part in ["/other?token=s3cret-2\n", "x-amz-customauthorizer-name: \"mine\"", "token: \"s3cret-1\""] {
        ensure!(request.contains(part), "{request}");
    }
    Ok(())
}

#[tokio::test]
async fn a_web_server_that_takes_no_websocket_is_explained() -> Result<()> {
    for (service, parts) in [
        (Service::Says("HTTP/1.1 403 Forbidden\r\n\r\n{}"), &["status 403 (Forbidden)", "link.headers", "policy"][..]),
        (Service::Says("HTTP/1.1 401 Unauthorized\r\n\r\n"), &["status 401", "authorizer"]),
        (Service::Says("HTTP/1.1 404 Not Found\r\n\r\n"), &["status 404 (Not Found)", "the path in `url`"]),
        (Service::Says("HTTP/1.1 200 OK\r\n\r\n<html>"), &["status 200 (OK) instead of 101"]),
        (Service::Says("nonsense"), &["does not speak WebSocket", "nonsense"]),
        (Service::Says(""), &["closed the connection in place of an answer"]),
        (Service::Closes(1008, "go away"), &["closed the WebSocket with code 1008 (go away)"]),
        (Service::Closes(1000, ""), &["closed the connection in answer to CONNECT"]),
    ] {
        let (bed, _web) = web(service).await?;
        let mut host = Program::run(&config(&bed, "", ""))?;
        host.log(&[&["connect failed (attempt 2)"], parts].concat()).await?;
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_takes_no_websockets_is_explained() -> Result<()> {
    let bed = Bed::start().await?;
    let url = format!("ws://{}", bed.broker.addr());
    let config = Config::new(bed.folder(), &url, "").link("connect_timeout = \"1s\"");
    let mut host = Program::run(&config)?;
    // Brokers differ: they close, they answer with a packet, or they wait for the rest of what they take for one.
    host.log(&["connect failed (attempt 2)", "WebSocket"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_proxy_leads_to_a_web_server_too() -> Result<()> {
    let bed = Bed::with(|authority, front| {
        front.identity = authority.issue_server(&["broker.invalid"])?;
        front.alpn.clear();
        front.require_alpn = false;
        Ok(())
    })
    .await?;
    let web = Web::start(Service::Broker, bed.broker.addr()).await?;
    bed.front.redirect(web.addr());
    let proxy = Proxy::start(Mood::Open, bed.addr()).await?;
    let config =
        config(&bed, "", "").link("url = \"wss://broker.invalid\"").link(&format!("proxy = {:?}", proxy.url()));
    let mut host = Program::run(&config)?;
    host.log(&["connect success: wss://broker.invalid:443/mqtt, by the proxy"]).await?;
    host.stop().await?;
    assert_eq!(proxy.requests(), ["CONNECT broker.invalid:443 HTTP/1.1"]);
    ensure!(web.requests().concat().contains("host: \"broker.invalid\"\n"), "{:?}", web.requests());
    Ok(())
}

async fn mosquitto_takes_websockets(protocol: &str) -> Result<()> {
    if !needs(&["mosquitto"])? {
        return Ok(());
    }
    let mosquitto = Mosquitto::start(|port| format!("listener {port} 127.0.0.1\nprotocol websockets")).await?;
    let folder = tempfile::tempdir()?;
    let url = format!("ws://127.0.0.1:{}", mosquitto.other_port);
    let config = Config::new(folder.path(), &url, &component(RECORDER)?);
    passes_messages(&mosquitto, config.link(&format!("protocol = {protocol:?}")), "no TLS").await
}

async fn mosquitto_takes_websockets_over_tls(protocol: &str) -> Result<()> {
    if !needs(&["mosquitto"])? {
        return Ok(());
    }
    let authority = Authority::new("the tests' authority")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path();
    std::fs::write(path.join("ca.pem"), authority.ca_pem())?;
    authority.issue_client("device")?.write(path, "device")?;
    authority.issue_server(&["localhost"])?.write(path, "server")?;
    let file = |name: &str| path.join(name).display().to_string();
    let listener = |port| {
        format!(
            "listener {port} 127.0.0.1\nprotocol websockets\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        )
    };
    let mosquitto = Mosquitto::start(listener).await?;
    let url = format!("wss://localhost:{}/mqtt", mosquitto.other_port);
    let config = Config::new(path, &url, &component(RECORDER)?)
        .link("ca = \"ca.pem\"")
        .link("cert = \"device.pem\"")
        .link("key = \"device.key\"")
        .link(&format!("protocol = {protocol:?}"));
    passes_messages(&mosquitto, config, "TLSv1.3").await
}

/// With the component's whole path: these tests have no bed.
fn component(rest: &str) -> Result<String> {
    let path = crate::harness::guest("recorder")?;
    Ok(rest.replace("recorder.wasm", &Path::new(&path).display().to_string()))
}

async fn passes_messages(mosquitto: &Mosquitto, config: Config, tls: &str) -> Result<()> {
    let watcher = Watcher::start(mosquitto.addr, "#").await?;
    let mut host = Program::run(&config)?;
    host.log(&["connect success", tls]).await?;
    watcher.ready("out").await?;
    let mut client = crate::harness::client(mosquitto.addr).await?;
    for size in [1, 70_000] {
        let payload = "x".repeat(size);
        client.publish("in/a", payload.as_bytes()).await?;
        watcher.payload(&format!("in/a {payload}")).await?;
    }
    host.stop().await
}
