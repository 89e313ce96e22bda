//! ALPN: what is offered, what is agreed, and what a refusal says.

use alphorn_dev_broker::ALPN;

use crate::harness::{Bed, Program, Result};

#[tokio::test]
async fn a_wrong_name_is_refused_and_named() -> Result<()> {
    refused("[\"mqtt\"]", "mqtt").await
}

#[tokio::test]
async fn offering_none_where_one_is_demanded_is_refused_and_said() -> Result<()> {
    refused("[]", "none").await
}

async fn refused(alpn: &str, offered: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("").link(&format!("alpn = {alpn}"));
    let mut host = Program::run(&config)?;
    let says = format!("ALPN names offered ({offered})");
    host.log(&["connect failed (attempt 2)", &says, "x-amzn-mqtt-ca"]).await?;
    let offers: Vec<_> = bed.front.records().into_iter().map(|record| record.alpn_offered).collect();
    let same = (offered != "none").then(|| vec![offered.as_bytes().to_vec()]);
    assert!(offers.iter().all(|offer| *offer == same), "it fell back to something else: {offers:?}");
    assert_eq!(host.logged(&["connect success"]), 0);
    host.stop().await
}

#[tokio::test]
async fn a_server_that_picks_none_works_and_that_is_said() -> Result<()> {
    let bed = Bed::with(|_, front| {
        front.alpn.clear();
        front.require_alpn = false;
        Ok(())
    })
    .await?;
    let mut host = bed.connected("5", "").await?;
    host.log(&["connect success", "ALPN none agreed (offered: x-amzn-mqtt-ca)"]).await?;
    host.stop().await
}

#[tokio::test]
async fn the_one_of_several_that_was_agreed_is_said() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = Program::run(&bed.config("").link("alpn = [\"mqtt\", \"x-amzn-mqtt-ca\"]"))?;
    host.log(&["connect success", "ALPN x-amzn-mqtt-ca"]).await?;
    let record = bed.record(|record| record.tls_version.is_some()).await?;
    assert_eq!(record.alpn_agreed.as_deref(), Some(ALPN));
    host.stop().await
}
