//! Bad configuration ends the program with 78 and says what is wrong and where.

use crate::harness::{Bed, Config, Program, Result};

#[tokio::test]
async fn mistakes_are_named_with_file_and_remedy() -> Result<()> {
    let bed = Bed::start().await?;
    for (rest, parts) in [
        ("[plugin.a]", &["did you mean `plugins`?"][..]),
        ("[hosts]", &["did you mean `host`?"]),
        ("[outbox]\nmax_byte = \"1MiB\"", &["max_byte", "did you mean `max_bytes`?"]),
        ("[plugins.a]\ncomponent = \"a.wasm\"\n[plugins.a.limits]\nmemroy = \"1MiB\"", &["did you mean `memory`?"]),
        ("[plugins.a]\npublish = []", &["plugins.a", "`component` is missing"]),
        ("[plugins.a]\ncomponent = \"a.wasm\"\npublish = [\"a/#/b\"]", &["plugins.a", "a/#/b"]),
        ("[plugins.a]\ncomponent = \"a.wasm\"\nsubscribe = [\"$SYS/#\"]", &["reserved = true"]),
        ("[host]\nshutdown_grace = 10", &["\"10s\""]),
        ("[host", &["line"]),
    ] {
        let file = bed.config(rest).write()?;
        let name = file.to_string_lossy();
        let mut host = Program::start(&["run", "--config", &name])?;
        host.fails(78, &[parts, &[&*name]].concat()).await?;
    }
    for (line, parts) in [
        ("urll = \"mqtts://x\"", &["did you mean `url`?"][..]),
        ("url = \"https://localhost\"", &["link.url", "https", "mqtts://"]),
        ("url = \"localhost\"", &["link.url", "mqtts://"]),
        ("protocol = \"4\"", &["3.1.1"]),
        ("keep_alive = \"soon\"", &["soon", "\"10s\""]),
        ("client_id = \"\"", &["link.client_id"]),
    ] {
        Program::run(&bed.config("").link(line))?.fails(78, parts).await?;
    }
    for (key, parts) in [
        ("url", ["link.url is missing", "mqtts://"]),
        ("client_id", ["link.client_id is missing", "name"]),
        ("key", ["link.cert is set", "link.key is not"]),
        ("cert", ["link.key is set", "link.cert is not"]),
    ] {
        Program::run(&bed.config("").without(&[key]))?.fails(78, &parts).await?;
    }
    assert_eq!(bed.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn files_that_are_missing_or_of_the_wrong_kind_are_named() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("empty.pem", "")?;
    bed.file("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n")?;
    for (line, parts) in [
        ("ca = \"no-ca.pem\"", &["can't read the CA file", "no-ca.pem"][..]),
        ("cert = \"no-cert.pem\"", &["can't read the client certificate", "no-cert.pem"]),
        ("key = \"no.key\"", &["can't read the key", "no.key"]),
        ("ca = \"empty.pem\"", &["the CA file", "empty.pem", "contains no certificate"]),
        ("cert = \"device.key\"", &["the client certificate", "device.key", "contains no certificate"]),
        ("key = \"device.pem\"", &["the key", "device.pem", "contains no private key", "PKCS#8"]),
        ("key = \"encrypted.key\"", &["the key", "encrypted.key", "not encrypted"]),
        ("password_file = \"no.password\"", &["password_file", "no.password"]),
    ] {
        Program::run(&bed.config("").link(line))?.fails(78, parts).await?;
    }
    Program::start(&["run", "--config", "/no/where.toml"])?.fails(78, &["/no/where.toml", "No such file"]).await?;
    Program::start(&["pub", "a", "b", "--config", "/no/where.toml"])?.fails(78, &["/no/where.toml"]).await?;
    assert_eq!(bed.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn the_environment_overrides_the_file() -> Result<()> {
    let bed = Bed::start().await?;
    let file = bed.config("").link("url = \"mqtts://localhost:1\"").write()?;
    let arguments = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
    let url = format!("mqtts://localhost:{}", bed.addr().port());
    let environment = [("ALPHORN_LINK__URL", &*url), ("ALPHORN_LINK__CLIENT_ID", "somebody")];
    let mut host = Program::start_with(&arguments, &environment)?;
    host.log(&["connect success", &url, "client id somebody"]).await?;
    host.stop().await?;

    let mut host = Program::start_with(&arguments, &[("ALPHORN_LINK__URI", "x")])?;
    host.fails(78, &["ALPHORN_LINK__URI", "did you mean `url`?"]).await
}

#[tokio::test]
async fn what_this_version_does_not_do_is_said_at_the_start() -> Result<()> {
    let bed = Bed::start().await?;
    let mut host = bed.connected("5", "[outbox]\nstorage = \"memory\"\nmax_bytes = -1").await?;
    host.log(&["WARN", "outbox.max_bytes"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_password_is_sent_and_not_logged() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("password", "hunter2\n")?;
    let url = format!("mqtt://127.0.0.1:{}", bed.broker.addr().port());
    let config = Config::new(bed.folder(), &url, "").link("username = \"u\"").link("password_file = \"password\"");
    let file = config.write()?;
    let mut host = Program::start(&["-vv".as_ref(), "run".as_ref(), "--config".as_ref(), file.as_os_str()])?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert_eq!(host.logged(&["hunter2"]), 0);
    Ok(())
}
