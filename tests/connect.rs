//! A connection: what it is made of, what is said of it, and when it counts as lost.

use std::time::{Duration, Instant};

use alphorn_dev_broker::{Direction, TlsVersions};

use crate::harness::{Bed, Config, Program, Result, in_both_versions};

in_both_versions! {
    it_says_what_was_agreed
    the_session_is_found_again_after_a_cut
    without_session_expiry_each_session_is_new
    a_broker_without_tls_works_and_is_said_to_be_one
    a_broker_that_falls_silent_is_noticed
}

async fn it_says_what_was_agreed(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected(protocol, "").await?;
    host.log(&["start connect"]).await?;
    let port = bed.addr().port();
    host.log(&[&format!(
        "connect success: mqtts://localhost:{port}, TLSv1.3 TLS13_AES_256_GCM_SHA384, ALPN x-amzn-mqtt-ca, \
         MQTT {protocol}, client id device, session new"
    )])
    .await?;
    let record = bed.record(|record| record.tls_version.is_some()).await?;
    assert_eq!(record.server_name.as_deref(), Some("localhost"));
    assert_eq!(record.alpn_offered, Some(vec![b"x-amzn-mqtt-ca".to_vec()]));
    assert!(record.client_certificate.is_some());
    host.stop().await?;
    host.log(&["disconnected"]).await?;
    Ok(())
}

async fn the_session_is_found_again_after_a_cut(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected(protocol, "").await?;
    bed.cut().await?;
    host.log(&["connection lost: ", "next attempt in"]).await?;
    host.connects(2, "present").await?;
    host.stop().await
}

async fn without_session_expiry_each_session_is_new(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("").link("session_expiry = \"0s\"").link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    bed.cut().await?;
    host.connects(2, "new").await?;
    host.stop().await
}

async fn a_broker_without_tls_works_and_is_said_to_be_one(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let url = format!("mqtt://127.0.0.1:{}", bed.broker.addr().port());
    let config = Config::new(bed.folder(), &url, "").link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    host.log(&["connect success", &url, "no TLS", &format!("MQTT {protocol}")]).await?;
    host.stop().await
}

async fn a_broker_that_falls_silent_is_noticed(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("").link("keep_alive = \"1s\"").link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    bed.faults().blackhole(Direction::ToClient, true);
    host.log(&["connection lost: ", "nothing came from the broker for 1s 5"]).await?;
    bed.faults().blackhole(Direction::ToClient, false);
    host.log_times(2, &["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = Program::run(&bed.config("").link("keep_alive = \"1s\""))?;
    host.log(&["connect success"]).await?;
    let start = Instant::now();
    // The broker gives up after one and a half keep-alives; outlasting that is the only way to see it.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(start.elapsed() > Duration::from_secs(2));
    assert_eq!((bed.connections(), host.logged(&["connection lost"])), (1, 0));
    host.stop().await
}

#[tokio::test]
async fn tls_1_2_works_and_is_said() -> Result<()> {
    let bed = Bed::with(|_, front| {
        front.versions = TlsVersions::Only12;
        Ok(())
    })
    .await?;
    let mut host = bed.connected("5", "").await?;
    host.log(&["connect success", "TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_connection_that_takes_too_long_names_the_step() -> Result<()> {
    let bed = Bed::start().await?;
    bed.faults().ignore_new(true);
    let mut host = Program::run(&bed.config("").link("connect_timeout = \"300ms\""))?;
    let parts = ["connect failed (attempt 1)", "no connection within 300ms", "connect_timeout", "the TLS handshake"];
    host.log(&parts).await?;
    bed.faults().ignore_new(false);
    bed.faults().blackhole(Direction::ToClient, true);
    host.log(&["connect failed", "no connection within 300ms", "the broker's CONNACK"]).await?;
    bed.faults().blackhole(Direction::ToClient, false);
    host.log(&["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_connection_the_broker_ends_in_order_is_made_again() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected("5", "").await?;
    bed.faults().close();
    host.log(&["connection lost: the broker closed the connection; next attempt in"]).await?;
    host.log_times(2, &["connect success"]).await?;
    host.stop().await
}
