//! `alphorn check`: whether a component can run here.

use std::path::{Path, PathBuf};

use alphorn::{
    config::{Config, Overrides},
    escape::shown,
    link::WhenFull,
    plugin::{
        compile::CompileLimits,
        component::{self, About, ComponentError},
        engine::Engine,
        footprint::Footprint,
        native::{self, Native},
    },
    regular_file::{self, SECRET},
    signature::TrustedKeys,
};
use anyhow::Context;
use serde_json::json;

use super::print;
use crate::{
    cli::CheckArgs,
    exit::{self, Failure},
};

pub(crate) async fn check(args: &CheckArgs) -> Result<(), Failure> {
    let native = native::inspect(&args.file).ok().flatten();
    let keys = if native.is_some() { trusted(args)? } else { TrustedKeys::default() };
    let engine = Engine::new(super::compiler(), None, WhenFull::DropNewest)
        .context("the WebAssembly engine does not start")?
        .trusting(keys);
    match component::load(&engine, &args.file, CompileLimits::default()).await {
        Ok(loaded) => report(&loaded.about, args.json),
        Err(error) => {
            // What it says of itself helps to see why.
            if let (ComponentError::Native(_), Some(native)) = (&error, native) {
                refused(&args.file, &native, args.json)?;
            }
            Err(Failure::new(exit::DATA, error))
        }
    }
}

/// Whose native code is looked into: to do so is to trust it.
fn trusted(args: &CheckArgs) -> Result<TrustedKeys, Failure> {
    let config = args.config.clone().or_else(|| Some(PathBuf::from("alphorn.toml")).filter(|path| path.exists()));
    let mut keys = match config {
        Some(path) => {
            let config = Config::load(&path, &Overrides::default());
            config.map_err(|error| Failure::new(exit::CONFIG, error))?.trusted_keys
        }
        None => TrustedKeys::default(),
    };
    for text in &args.trust {
        if keys.add(text).is_err() {
            let file = regular_file::read_to_string(Path::new(text), SECRET).with_context(|| {
                format!("--trust {text} is no minisign public key (RW…), and no file with one that can be read")
            });
            let file = file.map_err(|error| Failure::new(exit::USAGE, error))?;
            keys.add(&file).with_context(|| text.clone()).map_err(|error| Failure::new(exit::USAGE, error))?;
        }
    }
    Ok(keys)
}

/// What a component is and asks for, on stdout.
pub(super) fn report(about: &About, as_json: bool) -> Result<(), Failure> {
    let native = about.native.as_ref();
    let remark = about.kind.remark();
    if as_json {
        let mut report = json!({
            "path": about.path,
            "kind": about.kind.name(),
            "remark": remark,
            "bytes": about.size,
            "sha256": about.digest,
            "imports": about.imports,
            "exports": about.exports,
            "instances": about.footprint.map(|it| json!({ "count": it.instances, "bytes": it.bytes })),
        });
        if let (Some(report), Some(native)) = (report.as_object_mut(), native) {
            report.insert("compiled".to_owned(), compiled(native, true));
        }
        print::json(&report).context("stdout is closed")?;
        return Ok(());
    }
    let text = format!(
        "{}\n  kind     {}{}\n  bytes    {}\n  sha256   {}\n  imports  {}\n  exports  {}{}{}",
        shown(&about.path.to_string_lossy()),
        about.kind,
        remark.map(|remark| format!("\n           {remark}")).unwrap_or_default(),
        about.size,
        about.digest,
        about.imports.join("\n           "),
        about.exports.join("\n           "),
        about.footprint.map(|it| instances(&it)).unwrap_or_default(),
        native.map(|native| lines(native, "which is trusted")).unwrap_or_default(),
    );
    print::line(&text).context("stdout is closed")?;
    Ok(())
}

fn instances(footprint: &Footprint) -> String {
    let Footprint { instances, bytes, .. } = footprint;
    format!("\n  memory   at least {bytes} bytes for its {instances} core instances, beside what is in its memories")
}

/// What a compiled component that is not looked into says of itself.
fn refused(path: &Path, native: &Native, as_json: bool) -> Result<(), Failure> {
    let printed = match as_json {
        true => print::json(&json!({ "path": path, "compiled": compiled(native, false) })),
        false => print::line(&format!("{}{}", shown(&path.to_string_lossy()), lines(native, "not verified"))),
    };
    printed.context("stdout is closed")?;
    Ok(())
}

fn compiled(native: &Native, is_trusted: bool) -> serde_json::Value {
    json!({
        "target": native.heading.target,
        "wasmtime": native.heading.wasmtime,
        "key": native.seal.as_ref().map(|seal| &seal.key),
        "comment": native.seal.as_ref().map(|seal| &seal.comment),
        "trusted": is_trusted,
    })
}

fn lines(native: &Native, remark: &str) -> String {
    let signed = native
        .seal
        .as_ref()
        .map_or_else(|| "by nobody".to_owned(), |seal| format!("{} ({remark})", shown(&seal.to_string())));
    format!("\n  target   {}\n  wasmtime {}\n  signed   {signed}", native.heading.target, native.heading.wasmtime)
}
