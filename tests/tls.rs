//! TLS: what is refused, by whom, and the words for it. There is never a way round.

use std::process::Command;

use alphorn_dev_broker::{Authority, Identity, Profile, TlsVersions};

use crate::harness::{Bed, Config, Context as _, Program, Result, ensure, needs};

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_refused() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("other-ca.pem", Authority::new("somebody else")?.ca_pem())?;
    let config = bed.config("").link("ca = \"other-ca.pem\"");
    refuses_the_server(&bed, &config, &["issued by a CA", "other-ca.pem", "does not contain"]).await
}

#[tokio::test]
async fn without_a_ca_file_the_systems_roots_decide() -> Result<()> {
    let bed = Bed::start().await?;
    let roots = bed.file("roots.pem", Authority::new("the system")?.ca_pem())?;
    let file = bed.config("").without(&["ca"]).write()?;
    // Where rustls and OpenSSL look before anywhere else.
    let environment = [("SSL_CERT_FILE", roots.to_str().context("path")?)];
    let arguments = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
    let mut host = Program::start_with(&arguments, &environment)?;
    host.log(&["connect failed (attempt 2)", "issued by a CA", "the system's roots"]).await?;
    host.stop().await?;

    let roots = bed.file("roots.pem", bed.authority.ca_pem())?;
    let mut host = Program::start_with(&arguments, &[("SSL_CERT_FILE", roots.to_str().context("path")?)])?;
    host.log(&["connect success"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_server_with_another_name_is_refused() -> Result<()> {
    let bed = Bed::with(|authority, front| {
        front.identity = authority.issue_server(&["elsewhere.example"])?;
        Ok(())
    })
    .await?;
    refuses_the_server(&bed, &bed.config(""), &["is not for `localhost`", "elsewhere.example"]).await
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_refused() -> Result<()> {
    let bed = server(Profile::server(&["localhost"]).expired()).await?;
    refuses_the_server(&bed, &bed.config(""), &["the server's certificate has expired", "clock"]).await
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_valid_yet_is_refused() -> Result<()> {
    let bed = server(Profile::server(&["localhost"]).not_yet_valid()).await?;
    refuses_the_server(&bed, &bed.config(""), &["is not valid yet", "clock"]).await
}

#[tokio::test]
async fn a_server_with_a_clients_certificate_is_refused() -> Result<()> {
    let bed = server(Profile::client("localhost")).await?;
    refuses_the_server(&bed, &bed.config(""), &["the server's certificate"]).await
}

async fn server(profile: Profile) -> Result<Bed> {
    Bed::with(|authority, front| {
        front.identity = authority.issue(&profile)?;
        Ok(())
    })
    .await
}

/// It says why, tries again, and never gets as far as a complete handshake.
async fn refuses_the_server(bed: &Bed, config: &Config, parts: &[&str]) -> Result<()> {
    let mut host = Program::run(config)?;
    host.log(&[&["connect failed (attempt 2)"], parts].concat()).await?;
    let records = bed.front.records();
    assert!(records.iter().all(|record| record.tls_version.is_none()), "it went on: {records:?}");
    host.stop().await
}

#[tokio::test]
async fn a_missing_client_certificate_is_said() -> Result<()> {
    for versions in [TlsVersions::Only13, TlsVersions::Only12] {
        let bed = Bed::with(|_, front| {
            front.versions = versions;
            Ok(())
        })
        .await?;
        let config = bed.config("").without(&["cert", "key"]);
        is_refused(&config, &["demand", "a client certificate", "`cert` and `key` are not set"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_the_server_does_not_know_is_named() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("stranger", &Authority::new("somebody else")?.issue_client("device")?)?;
    let config = bed.config("").link("cert = \"stranger.pem\"").link("key = \"stranger.key\"");
    is_refused(&config, &["the server refused the client certificate", "stranger.pem"]).await
}

#[tokio::test]
async fn an_expired_client_certificate_is_named() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("old", &bed.authority.issue(&Profile::client("device").expired())?)?;
    let config = bed.config("").link("cert = \"old.pem\"").link("key = \"old.key\"");
    is_refused(&config, &["the server refused the client certificate", "old.pem", "expired"]).await
}

async fn is_refused(config: &Config, parts: &[&str]) -> Result<()> {
    let mut host = Program::run(config)?;
    host.log(&[&["connect failed (attempt 2)"], parts].concat()).await?;
    assert_eq!(host.logged(&["connect success"]), 0);
    host.stop().await
}

#[tokio::test]
async fn a_key_that_belongs_to_another_certificate_ends_the_start() -> Result<()> {
    let bed = Bed::start().await?;
    bed.identity("other", &bed.authority.issue_client("device")?)?;
    let config = bed.config("").link("key = \"other.key\"");
    Program::run(&config)?.fails(78, &["other.key", "does not belong to the certificate", "device.pem"]).await?;
    assert_eq!(bed.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_key_in_sec1_form_works() -> Result<()> {
    let bed = Bed::start().await?;
    let identity = bed.authority.issue_client("device")?;
    bed.identity("device", &identity)?;
    let key = identity.key_sec1_pem()?;
    ensure!(key.contains("BEGIN EC PRIVATE KEY"));
    bed.file("device.key", key)?;
    bed.connected("5", "").await?.stop().await
}

/// AWS IoT Core hands out such keys: `-----BEGIN RSA PRIVATE KEY-----`.
#[tokio::test]
async fn an_rsa_key_in_pkcs1_form_works() -> Result<()> {
    if !needs(&["openssl"])? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output()?;
        ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    std::fs::write(folder.path().join("leaf"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")?;
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem")?;
    openssl("req -newkey rsa:2048 -nodes -subj /CN=device -keyout pkcs8.key -out device.csr")?;
    openssl("x509 -req -in device.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf -out device.pem")?;
    // OpenSSL before 3 writes that form unasked and does not know the option.
    openssl("rsa -in pkcs8.key -traditional -out device.key")
        .or_else(|_| openssl("rsa -in pkcs8.key -out device.key"))?;
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name));
    let identity = Identity { cert_pem: read("device.pem")?, key_pem: read("device.key")? };
    ensure!(identity.key_pem.contains("BEGIN RSA PRIVATE KEY"), "not PKCS#1");

    let bed = Bed::with(|_, front| {
        front.client_ca = Some(read("ca.pem")?);
        Ok(())
    })
    .await?;
    bed.identity("device", &identity)?;
    bed.connected("5", "").await?.stop().await
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_used_at_the_next_attempt() -> Result<()> {
    let bed = Bed::start().await?;
    let expired = bed.authority.issue(&Profile::client("device").expired())?;
    for refused in [expired, Authority::new("somebody else")?.issue_client("device")?] {
        bed.identity("device", &refused)?;
        let mut host = Program::run(&bed.config(""))?;
        host.log(&["connect failed", "the server refused the client certificate"]).await?;
        // Two files can't be replaced in one step; an attempt in between says so and is followed by another.
        bed.identity("device", &bed.authority.issue_client("device")?)?;
        host.log(&["connect success"]).await?;
        host.stop().await?;
    }
    Ok(())
}

/// RFC 8446 (section 6.2) wants the server to be told why.
#[tokio::test]
async fn a_server_that_is_refused_is_told_by_an_alert() -> Result<()> {
    for versions in [TlsVersions::Only13, TlsVersions::Only12] {
        for (profile, ca, alert) in [
            (Profile::server(&["localhost"]), "other-ca.pem", "UnknownCA"),
            (Profile::server(&["elsewhere.example"]), "ca.pem", "BadCertificate"),
            (Profile::server(&["localhost"]).expired(), "ca.pem", "CertificateExpired"),
            (Profile::server(&["localhost"]).not_yet_valid(), "ca.pem", "CertificateExpired"),
        ] {
            let bed = Bed::with(|authority, front| {
                front.versions = versions;
                front.identity = authority.issue(&profile)?;
                Ok(())
            })
            .await?;
            bed.file("other-ca.pem", Authority::new("somebody else")?.ca_pem())?;
            let mut host = Program::run(&bed.config("").link(&format!("ca = {ca:?}")))?;
            let record = bed.record(|record| record.error.is_some()).await?;
            let error = record.error.context("no error")?;
            ensure!(error.contains(&format!("received fatal alert: {alert}")), "{versions:?}, {profile:?}: {error}");
            host.stop().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_handshake_in_tiny_records_with_a_large_certificate_works() -> Result<()> {
    for versions in [TlsVersions::Only13, TlsVersions::Only12] {
        let bed = Bed::with(|authority, front| {
            let mut issuer = authority.intermediate("intermediate 1")?;
            for level in 2..=4 {
                issuer = issuer.intermediate(&format!("intermediate {level}"))?;
            }
            let others = (0..500).map(|number| format!("another-name-{number:03}.of-the-same-server.example"));
            let names: Vec<_> = ["localhost".to_owned()].into_iter().chain(others).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            front.identity = issuer.issue_server(&names)?;
            ensure!(front.identity.cert_pem.len() > 30_000, "not large");
            front.versions = versions;
            // The smallest that TLS libraries take.
            front.max_fragment = Some(32);
            Ok(())
        })
        .await?;
        bed.connected("5", "").await?.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn tls_where_there_is_none_and_none_where_there_is_are_explained() -> Result<()> {
    let bed = Bed::start().await?;
    let front = format!("mqtt://localhost:{}", bed.addr().port());
    let mut host = Program::run(&Config::new(bed.folder(), &front, ""))?;
    host.log(&["connect failed (attempt 2)", "it speaks TLS on this port: use mqtts://"]).await?;
    host.stop().await?;

    let broker = format!("mqtts://localhost:{}", bed.broker.addr().port());
    let mut host = Program::run(&bed.config("").link(&format!("url = {broker:?}")).link("connect_timeout = \"2s\""))?;
    // Brokers differ: they close, they answer with a packet, or they wait for the rest of what they take for one.
    let line = host.log(&["connect failed (attempt 2)", "TLS"]).await?;
    ensure!(line.contains("port"), "{line}");
    host.stop().await
}
