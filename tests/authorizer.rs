//! A custom authorizer of AWS IoT Core: port 443 with ALPN `mqtt`, user name and password in
//! place of a client certificate.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::harness::{Bed, Program, Result, in_both_versions, soon};

in_both_versions! {
    user_name_and_password_arrive_in_connect
}

async fn user_name_and_password_arrive_in_connect(protocol: &str) -> Result<()> {
    let bed = Bed::with(|_, front| {
        front.client_ca = None;
        front.alpn = vec![b"mqtt".to_vec()];
        Ok(())
    })
    .await?;
    let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    bed.front.redirect(broker.local_addr()?);
    bed.file("token", "s3cret\n")?;
    let username = "me?x-amz-customauthorizer-name=mine&x-amz-customauthorizer-signature=abc";
    let config = bed
        .config("")
        .without(&["cert", "key"])
        .link("alpn = [\"mqtt\"]")
        .link(&format!("username = {username:?}"))
        .link("password_file = \"token\"")
        .link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;

    let (mut connection, _) = soon("a connection", broker.accept()).await??;
    let mut connect = Vec::new();
    let connack: &[u8] = if protocol == "5" { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
    let ends = [&length(username), username.as_bytes(), &length("s3cret"), b"s3cret"].concat();
    let greeted = async {
        // They are the last of the packet.
        while !connect.ends_with(&ends) {
            anyhow::ensure!(connection.read_buf(&mut connect).await? > 0, "it left");
        }
        connection.write_all(connack).await?;
        Ok(())
    };
    soon("CONNECT with user name and password", greeted).await??;
    host.log(&["connect success", "ALPN mqtt", &format!("MQTT {protocol}")]).await?;
    let record = bed.record(|record| record.tls_version.is_some()).await?;
    assert_eq!(record.alpn_offered, Some(vec![b"mqtt".to_vec()]));
    assert_eq!(record.client_certificate, None);
    host.stop().await?;
    assert_eq!(host.logged(&["s3cret"]), 0);
    Ok(())
}

fn length(text: &str) -> [u8; 2] {
    u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()
}
