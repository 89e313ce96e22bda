//! The contract with plugins is frozen: `wit/` says what it said, and a component of that day runs.

use std::{fs, path::PathBuf};

use alphorn::builder::wit;
use anyhow::bail;
use sha2::{Digest, Sha256};
use wit_component::{DecodedWasm, WitPrinter};
use wit_parser::{Resolve, WorldItem};

use crate::harness::{Bed, Context as _, Host, Program, Result, ensure};

/// SHA-256 of `alphorn:plugin@0.1.0` without its comments, which may still be made better.
const DIGEST: &str = "ffe8a2d2e2d87f3db9406fb54f9f1a2d4f125eaacb68ffc51438c79f29bdff12";

/// `tests/guests/examples/contract.rs`, compiled on the day the contract was frozen.
fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/contract-0.1.0.wasm")
}

#[test]
fn the_contract_says_what_it_said() -> Result<()> {
    let (resolve, world) = wit::resolve()?;
    let package = resolve.worlds.get(world).and_then(|world| world.package).context("a package")?;
    let mut printer = WitPrinter::default();
    printer.emit_docs(false).print(&resolve, package, &[])?;
    let text = printer.output.to_string();
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        digest == DIGEST,
        "a plugin built for alphorn:plugin@0.1.0 would not run any more: what is new goes into new functions or \
         interfaces of a new version (docs/wit.md). Now it is {digest}:\n{text}"
    );
    Ok(())
}

#[test]
fn the_component_of_that_day_calls_all_there_is() -> Result<()> {
    let imported = |resolve: &Resolve, world| {
        let items = resolve.worlds.get(world).into_iter().flat_map(|world| world.imports.values());
        let interfaces = items.filter_map(|item| match item {
            WorldItem::Interface { id, .. } => resolve.interfaces.get(*id),
            _ => None,
        });
        let functions = interfaces.flat_map(|interface| {
            interface.functions.keys().map(|function| format!("{:?} {function}", interface.name))
        });
        functions.collect::<Vec<_>>()
    };
    let DecodedWasm::Component(component, world) = wit_component::decode(&fs::read(fixture())?)? else {
        bail!("no component");
    };
    let called = imported(&component, world);
    let (resolve, world) = wit::resolve()?;
    let missing: Vec<_> = imported(&resolve, world).into_iter().filter(|function| !called.contains(function)).collect();
    ensure!(missing.is_empty(), "it does not call {missing:?}");
    Ok(())
}

#[tokio::test]
async fn a_component_of_that_day_runs() -> Result<()> {
    let bed = Bed::start().await?;
    let component = fs::read(fixture())?;
    bed.file("contract.wasm", component.clone())?;
    let config = bed.config(
        "[plugins.contract]\ncomponent = \"contract.wasm\"\npublish = [\"told\"]\nsubscribe = [\"in/#\"]\n\
         config = { to = \"told\", more = \"\" }\n",
    );
    let told = bed.watch("told").await?;
    let mut host = Program::run(&config)?;
    for line in [
        "start first from false with : contract of device, config more to, false true, time true",
        "subscribe notgranted invalidfilter",
        "publish notgranted invalidtopic toolarge",
        "state Some([49]) None a c toolarge",
        "timers timererror",
        "after",
        "every 1",
        "every 2",
        "up false",
    ] {
        told.payload(line).await?;
    }
    host.log(&["ERROR", "plugin{name=contract}", "a line of error"]).await?;

    let mut client = bed.client().await?;
    client.publish("in/x", b"hello").await?;
    told.payload_like("hello on in/x atleastonce false 1 false").await?;
    client.publish("in/x", b"retry").await?;
    told.payload_like("retry on in/x atleastonce false 2 true").await?;
    client.publish("in/x", b"drop").await?;
    host.log(&["WARN", "plugin{name=contract}", "gave a message up: as told"]).await?;
    client.publish("in/x", b"link").await?;
    told.payload_like("link true ").await?;
    client.publish("in/x", b"retain").await?;
    told.payload("kept").await?;
    client.publish("in/x", b"properties").await?;
    let message = told.payload("with properties").await?;
    ensure!(message.qos == 0, "{message:?}");

    // Another version: the same, with another digest.
    let mut next = component;
    next.extend([0, 3, 1, b'v', 1]);
    let next = bed.file("next.wasm", next)?;
    Host::of(&config).await?.swap("contract", &next).await?.map_err(anyhow::Error::msg)?;
    told.payload("stop swap").await?;
    told.payload_like("start swap from true with what it knew: contract of device").await?;
    host.stop().await?;
    told.payload("stop shutdown").await?;
    Ok(())
}
