//! Environment, folders and network: nothing unless granted.

use crate::harness::{Bed, Result};

async fn reaches(bed: &Bed, address: &str, wasi: &str) -> Result<Vec<String>> {
    let watcher = bed.watch("out").await?;
    let plugin = format!(
        "[plugins.reaches]\ncomponent = \"reaches.wasm\"\npublish = [\"out\"]\n\
         config = {{ to = \"out\", address = \"{address}\" }}\n{wasi}"
    );
    let mut host = bed.connected("5", &plugin).await?;
    watcher.payload_like("connect ").await?;
    host.stop().await?;
    Ok(watcher.payloads())
}

#[tokio::test]
async fn a_plugin_reaches_what_it_is_granted_and_nothing_else() -> Result<()> {
    let bed = Bed::start().await?;
    bed.file("secret", "secret")?;
    std::fs::create_dir(bed.folder().join("lent"))?;
    bed.file("lent/file", "content")?;
    let address = bed.addr().to_string();
    let nothing = ["env none", "read refused", "write refused", "climb refused", "connect refused"];
    assert_eq!(reaches(&bed, &address, "").await?, nothing);
    let lent = "wasi = { env = { WORD = \"hello\" }, dirs = [\"lent:/data\"], network = [\"10.0.0.0/8:*\"] }";
    let some = ["env hello", "read content", "write refused", "climb refused", "connect refused"];
    assert_eq!(reaches(&bed, &address, lent).await?, some);
    let lent = "wasi = { dirs = [\"lent:/data:rw\"], network = [\"127.0.0.0/8:*\"] }";
    let more = ["env none", "read content", "write done", "climb refused", "connect done"];
    assert_eq!(reaches(&bed, &address, lent).await?, more);
    assert_eq!(std::fs::read_to_string(bed.folder().join("lent/new"))?, "written");
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() -> Result<()> {
    let bed = Bed::start().await?;
    let plugin = "[plugins.reaches]\ncomponent = \"reaches.wasm\"\nwasi = { dirs = [\"nowhere:/data\"] }";
    let mut host = bed.connected("5", plugin).await?;
    host.log(&["plugin{name=reaches}", "nowhere", "wasi.dirs"]).await?;
    host.stop().await
}
