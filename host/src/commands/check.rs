//! `alphorn check`: whether a component can run here.

use alphorn::{
    link::WhenFull,
    plugin::{
        compile::CompileLimits,
        component::{self, About},
        engine::Engine,
    },
};
use anyhow::Context;
use serde_json::json;

use super::print;
use crate::{
    cli::CheckArgs,
    exit::{self, Failure},
};

pub(crate) async fn check(args: &CheckArgs) -> Result<(), Failure> {
    let engine =
        Engine::new(super::compiler(), None, WhenFull::DropNewest).context("the WebAssembly engine does not start")?;
    let loaded = component::load(&engine, &args.file, CompileLimits::default())
        .await
        .map_err(|error| Failure::new(exit::DATA, error))?;
    report(&loaded.about, args.json)
}

/// What a component is and asks for, on stdout.
pub(super) fn report(about: &About, as_json: bool) -> Result<(), Failure> {
    let remark = about.kind.remark();
    let text = if as_json {
        json!({
            "path": about.path,
            "kind": about.kind.name(),
            "remark": remark,
            "bytes": about.size,
            "sha256": about.digest,
            "imports": about.imports,
            "exports": about.exports,
        })
        .to_string()
    } else {
        format!(
            "{}\n  kind     {}{}\n  bytes    {}\n  sha256   {}\n  imports  {}\n  exports  {}",
            about.path.display(),
            about.kind,
            remark.map(|remark| format!("\n           {remark}")).unwrap_or_default(),
            about.size,
            about.digest,
            about.imports.join("\n           "),
            about.exports.join("\n           "),
        )
    };
    print::line(&text).context("stdout is closed")?;
    Ok(())
}
