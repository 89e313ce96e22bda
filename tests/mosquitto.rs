//! A broker and a front that were not made by us: mosquitto, and nginx before it as AWS has
//! it on port 443, where one port serves MQTT to ALPN `x-amzn-mqtt-ca` and HTTPS to others.

use std::{ffi::OsStr, net::SocketAddr};

use alphorn_dev_broker::{Authority, Identity};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{
    Config, Context as _, Mosquitto, Program, Ready, Result, TlsClient, Watcher, ensure, free_ports, in_both_versions,
    needs, plugin, soon,
};

in_both_versions! {
    timestamp_arrives_through_nginx
    mosquitto_alone_agrees_on_no_alpn_and_that_is_said
}

async fn timestamp_arrives_through_nginx(protocol: &str) -> Result<()> {
    let Some(bed) = Nginx::start().await? else { return Ok(()) };
    let watcher = Watcher::start(bed.mosquitto.addr, "test/#").await?;
    let component = plugin("timestamp")?;
    let plugins = format!("[plugins.timestamp]\ncomponent = {component:?}\npublish = [\"test/date\"]");
    let config = bed.config(&plugins).link("alpn = [\"x-amzn-mqtt-ca\"]").link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    // nginx passes the connection through; mosquitto, which ends TLS, knows no ALPN.
    let port = bed.port;
    host.log(&[&format!("connect success: mqtts://localhost:{port}, TLSv1.3"), &format!("MQTT {protocol}")]).await?;
    watcher.payload_like("20").await?;
    host.stop().await
}

#[tokio::test]
async fn nginx_hands_a_wrong_name_or_none_to_its_web_server_and_that_is_explained() -> Result<()> {
    let Some(bed) = Nginx::start().await? else { return Ok(()) };
    for (alpn, offered) in [("[\"mqtt\"]", "mqtt"), ("[]", "none")] {
        let mut host = Program::run(&bed.config("").link(&format!("alpn = {alpn}")))?;
        let line = host.log(&["connect failed (attempt 2)", "ALPN", "x-amzn-mqtt-ca"]).await?;
        ensure!(
            line.contains(&format!("offered: {offered}")) || line.contains(&format!("offered ({offered})")),
            "{line}"
        );
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn nginx_serves_https_to_everybody_else_on_the_same_port() -> Result<()> {
    let Some(bed) = Nginx::start().await? else { return Ok(()) };
    let client = TlsClient { alpn: &[b"http/1.1"], ..TlsClient::new(&bed.authority) };
    let mut stream = client.connect(SocketAddr::from(([127, 0, 0, 1], bed.port))).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    // nginx may end TCP without ending TLS.
    let _ = soon("the web page", stream.read_to_end(&mut answer)).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

async fn mosquitto_alone_agrees_on_no_alpn_and_that_is_said(protocol: &str) -> Result<()> {
    let Some(bed) = Alone::start().await? else { return Ok(()) };
    let config = bed.config("").link("alpn = [\"x-amzn-mqtt-ca\"]").link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    host.log(&["connect success", "ALPN none agreed (offered: x-amzn-mqtt-ca)"]).await?;
    host.stop().await
}

#[tokio::test]
async fn mosquitto_refuses_a_client_without_certificate_and_that_is_said() -> Result<()> {
    let Some(bed) = Alone::start().await? else { return Ok(()) };
    let mut host = Program::run(&bed.config("").without(&["cert", "key"]))?;
    host.log(&["connect failed (attempt 2)", "a client certificate", "`cert` and `key` are not set"]).await?;
    host.stop().await
}

#[tokio::test]
async fn mosquitto_refuses_a_strangers_certificate_and_that_is_said() -> Result<()> {
    let Some(bed) = Alone::start().await? else { return Ok(()) };
    Authority::new("somebody else")?.issue_client("device")?.write(bed.folder.path(), "device")?;
    let mut host = Program::run(&bed.config(""))?;
    host.log(&["connect failed (attempt 2)", "the server refused the client certificate", "device.pem"]).await?;
    host.stop().await
}

/// A mosquitto that ends TLS and demands client certificates.
struct Alone {
    authority: Authority,
    mosquitto: Mosquitto,
    folder: TempDir,
}

impl Alone {
    /// `None` where mosquitto is not installed.
    async fn start() -> Result<Option<Self>> {
        if !needs(&["mosquitto"])? {
            return Ok(None);
        }
        let authority = Authority::new("the tests' authority")?;
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        std::fs::write(path.join("ca.pem"), authority.ca_pem())?;
        authority.issue_client("device")?.write(path, "device")?;
        let identity: Identity = authority.issue_server(&["localhost"])?;
        let (cert, key) = identity.write(path, "server")?;
        let tls = |port| {
            format!(
                "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
                path.join("ca.pem").display(),
                cert.display(),
                key.display()
            )
        };
        let mosquitto = Mosquitto::start(tls).await?;
        Ok(Some(Self { authority, mosquitto, folder }))
    }

    fn config(&self, rest: &str) -> Config {
        config(&self.folder, self.mosquitto.other_port, rest)
    }
}

/// One port for MQTT and for the web.
struct Nginx {
    authority: Authority,
    mosquitto: Mosquitto,
    port: u16,
    folder: TempDir,
    _server: Ready,
}

impl Nginx {
    /// `None` where mosquitto or nginx are not installed.
    async fn start() -> Result<Option<Self>> {
        if !needs(&["mosquitto", "nginx"])? {
            return Ok(None);
        }
        let Alone { authority, mosquitto, folder } = Alone::start().await?.context("no mosquitto")?;
        let mut failure = None;
        // Somebody may take a port between its choice and its use.
        for _ in 0..5 {
            let [port, web_port] = free_ports()?;
            let file = folder.path().join("nginx.conf");
            std::fs::write(&file, nginx_conf(port, mosquitto.other_port, web_port))?;
            let arguments = [OsStr::new("-e"), OsStr::new("stderr"), OsStr::new("-c"), file.as_os_str()];
            let arguments = [&arguments[..], &[OsStr::new("-p"), folder.path().as_os_str()]].concat();
            match Ready::start("nginx", &arguments, "using the \"epoll\" event method").await {
                Ok(server) => return Ok(Some(Self { authority, mosquitto, port, folder, _server: server })),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("unreachable")?)
    }

    fn config(&self, rest: &str) -> Config {
        config(&self.folder, self.port, rest)
    }
}

fn config(folder: &TempDir, port: u16, rest: &str) -> Config {
    Config::new(folder.path(), &format!("mqtts://localhost:{port}"), rest)
        .link("ca = \"ca.pem\"")
        .link("cert = \"device.pem\"")
        .link("key = \"device.key\"")
}

/// One process in the foreground. The variable is a list, hence the regular expression.
fn nginx_conf(port: u16, mqtt_port: u16, web_port: u16) -> String {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    // Where nginx was built with it, there is no module to load.
    let load = if std::path::Path::new(module).exists() { format!("load_module {module};") } else { String::new() };
    format!(
        r#"
        {load}
        daemon off;
        master_process off;
        pid nginx.pid;
        error_log stderr notice;
        events {{}}
        stream {{
            map $ssl_preread_alpn_protocols $upstream {{
                ~\bx-amzn-mqtt-ca\b 127.0.0.1:{mqtt_port};
                default 127.0.0.1:{web_port};
            }}
            server {{
                listen 127.0.0.1:{port};
                ssl_preread on;
                tcp_nodelay on;
                proxy_pass $upstream;
            }}
        }}
        http {{
            access_log off;
            client_body_temp_path body;
            proxy_temp_path proxy;
            fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi;
            scgi_temp_path scgi;
            server {{
                listen 127.0.0.1:{web_port} ssl;
                ssl_certificate server.pem;
                ssl_certificate_key server.key;
                location / {{ return 200 "the web\n"; }}
            }}
        }}
        "#
    )
}
