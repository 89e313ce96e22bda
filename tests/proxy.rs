//! An HTTP proxy between device and broker: who is asked for what, and what a refusal says.

use alphorn_dev_broker::Authority;

use crate::harness::{Bed, Config, Mood, Program, Proxy, Result, in_both_versions};

in_both_versions! {
    the_proxy_is_asked_for_the_brokers_name
}

/// A bed whose broker only the proxy can find.
async fn hidden() -> Result<Bed> {
    Bed::with(|authority, front| {
        front.identity = authority.issue_server(&["broker.invalid"])?;
        Ok(())
    })
    .await
}

fn by(bed: &Bed, proxy: &str) -> Config {
    bed.config("").link("url = \"mqtts://broker.invalid:443\"").link(&format!("proxy = {proxy:?}"))
}

async fn the_proxy_is_asked_for_the_brokers_name(protocol: &str) -> Result<()> {
    let bed = hidden().await?;
    let proxy = Proxy::start(Mood::Open, bed.addr()).await?;
    let mut host = Program::run(&by(&bed, &proxy.url()).link(&format!("protocol = {protocol:?}")))?;
    let says = format!("connect success: mqtts://broker.invalid:443, by the proxy {}, TLSv1.3", proxy.addr());
    host.log(&[&says, "ALPN x-amzn-mqtt-ca", &format!("MQTT {protocol}")]).await?;
    assert_eq!(proxy.requests(), ["CONNECT broker.invalid:443 HTTP/1.1"]);
    let record = bed.record(|record| record.tls_version.is_some()).await?;
    assert_eq!(record.server_name.as_deref(), Some("broker.invalid"));
    bed.cut().await?;
    host.connects(2, "present").await?;
    assert_eq!(proxy.requests().len(), 2);
    host.stop().await
}

#[tokio::test]
async fn a_login_is_sent_and_not_logged() -> Result<()> {
    let bed = hidden().await?;
    // user:s3cret@
    let proxy = Proxy::start(Mood::Wants("Basic dXNlcjpzM2NyZXRA"), bed.addr()).await?;
    let file = by(&bed, &proxy.url_with("user:s3cret%40@")).write()?;
    let arguments = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
    let mut host = Program::start_with(&arguments, &[("RUST_LOG", "trace")])?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert_eq!(host.logged(&["s3cret"]) + host.logged(&["dXNlcjpzM2NyZXRA"]), 0);
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_wants_a_login_says_so() -> Result<()> {
    let bed = hidden().await?;
    let proxy = Proxy::start(Mood::Wants("Basic dXNlcjpzM2NyZXRA"), bed.addr()).await?;
    let name = format!("the proxy {}", proxy.addr());
    for (login, parts) in [
        ("", ["wants a login", "schemes: Basic", "http://user:password@"]),
        ("user:wr0ng@", ["refused user name or password", "schemes: Basic", "`link.proxy`"]),
    ] {
        let mut host = Program::run(&by(&bed, &proxy.url_with(login)))?;
        host.log(&[&["connect failed (attempt 2)", &name, "407"], &parts[..]].concat()).await?;
        host.stop().await?;
        assert_eq!(host.logged(&["wr0ng"]), 0);
    }
    assert_eq!(bed.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_opens_no_way_is_named_with_the_cause() -> Result<()> {
    let bed = hidden().await?;
    for (mood, parts) in [
        (Mood::Says("HTTP/1.1 403 Forbidden\r\n\r\n<html>"), &["403 (Forbidden)", "rules do not allow"][..]),
        (Mood::Says("HTTP/1.0 502 Bad Gateway\r\n\r\n"), &["502 (Bad Gateway)", "could not reach the broker"]),
        (Mood::Says("HTTP/1.1 501 Not Implemented\r\n\r\n"), &["501", "may not be a proxy"]),
        (Mood::Says("\u{16}\u{3}\u{1} nonsense"), &["does not speak HTTP", "nonsense", "link.proxy"]),
        (Mood::Closes, &["closed the connection in place of an answer"]),
        (Mood::Silent, &["no connection within 1s (`connect_timeout`)", "waiting for the proxy's answer"]),
    ] {
        let proxy = Proxy::start(mood, bed.addr()).await?;
        let mut host = Program::run(&by(&bed, &proxy.url()).link("connect_timeout = \"1s\""))?;
        host.log(&[&["connect failed (attempt 2)"], parts].concat()).await?;
        host.stop().await?;
    }
    assert_eq!(bed.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_slow_proxy_is_waited_for() -> Result<()> {
    let bed = hidden().await?;
    let proxy = Proxy::start(Mood::Slow, bed.addr()).await?;
    let mut host = Program::run(&by(&bed, &proxy.url()))?;
    host.log(&["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_said() -> Result<()> {
    let bed = hidden().await?;
    let gone = Proxy::start(Mood::Open, bed.addr()).await?.addr();
    for (proxy, parts) in [
        (format!("http://{gone}"), [format!("the proxy {gone}: no TCP connection"), "refused".to_owned()]),
        (
            "http://proxy.invalid:3128".to_owned(),
            ["the proxy proxy.invalid:3128".to_owned(), "can't be resolved".to_owned()],
        ),
    ] {
        let mut host = Program::run(&by(&bed, &proxy))?;
        host.log(&["connect failed (attempt 2)", &parts[0], &parts[1]]).await?;
        host.stop().await?;
    }
    Ok(())
}

/// What comes behind the proxy is checked as without it.
#[tokio::test]
async fn a_server_of_an_unknown_authority_is_refused_behind_a_proxy_too() -> Result<()> {
    let bed = hidden().await?;
    bed.file("other-ca.pem", Authority::new("somebody else")?.ca_pem())?;
    let proxy = Proxy::start(Mood::Open, bed.addr()).await?;
    let mut host = Program::run(&by(&bed, &proxy.url()).link("ca = \"other-ca.pem\""))?;
    host.log(&["connect failed (attempt 2)", "issued by a CA", "other-ca.pem"]).await?;
    host.stop().await
}

#[tokio::test]
async fn the_environment_names_a_proxy_for_tls() -> Result<()> {
    let bed = hidden().await?;
    let proxy = Proxy::start(Mood::Open, bed.addr()).await?;
    let url = proxy.url();
    let hidden = bed.config("").link("url = \"mqtts://broker.invalid:443\"");
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let mut host = run_with(&hidden, &[(variable, &url), ("NO_PROXY", "elsewhere.example")])?;
        host.log(&["connect success", "by the proxy"]).await?;
        host.stop().await?;
    }
    let mut host = run_with(&hidden, &[("HTTPS_PROXY", &url), ("NO_PROXY", "x,invalid")])?;
    host.log(&["connect failed (attempt 2)", "the name `broker.invalid` can't be resolved"]).await?;
    host.stop().await?;
    let mut host = run_with(&hidden.clone().link("proxy = \"\""), &[("HTTPS_PROXY", &url)])?;
    host.log(&["connect failed (attempt 2)", "the name `broker.invalid` can't be resolved"]).await?;
    host.stop().await?;
    assert_eq!(proxy.requests().len(), 3);
    Ok(())
}

#[tokio::test]
async fn without_tls_only_the_configuration_names_a_proxy() -> Result<()> {
    let bed = Bed::start().await?;
    let proxy = Proxy::start(Mood::Open, bed.addr()).await?;
    let url = proxy.url();
    let plain = Config::new(bed.folder(), &format!("mqtt://{}", bed.broker.addr()), "");
    let mut host = run_with(&plain, &[("HTTPS_PROXY", &url), ("ALL_PROXY", &url)])?;
    host.log(&["connect success", "no TLS"]).await?;
    host.stop().await?;
    assert!(proxy.requests().is_empty());

    let mut host = Program::run(&plain.link(&format!("proxy = {url:?}")))?;
    host.log(&["connect success", "by the proxy", "no TLS"]).await?;
    host.stop().await?;
    assert_eq!(proxy.requests(), [format!("CONNECT {} HTTP/1.1", bed.broker.addr())]);
    Ok(())
}

#[tokio::test]
async fn proxies_of_other_kinds_end_the_start() -> Result<()> {
    let bed = Bed::start().await?;
    for (proxy, parts) in [
        ("https://user:s3cret@proxy:3128", ["link.proxy", "https://", "not supported"]),
        ("socks5://user:s3cret@proxy:1080", ["link.proxy", "socks5://", "http://proxy:3128"]),
    ] {
        let mut host = Program::run(&bed.config("").link(&format!("proxy = {proxy:?}")))?;
        host.fails(78, &parts).await?;
        assert_eq!(host.logged(&["s3cret"]), 0);
    }
    let mut host = run_with(&bed.config(""), &[("ALL_PROXY", "socks5://user:s3cret@proxy:1080")])?;
    host.fails(78, &["ALL_PROXY", "socks5://", "proxy = \"\""]).await?;
    assert_eq!(host.logged(&["s3cret"]), 0);
    Ok(())
}

fn run_with(config: &Config, environment: &[(&str, &str)]) -> Result<Program> {
    let file = config.write()?;
    Program::start_with(&["run".as_ref(), "--config".as_ref(), file.as_os_str()], environment)
}
