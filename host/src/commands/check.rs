//! `alphorn check`: whether a component can run here.

use std::path::Path;

use alphorn::{
    config::{self, Config, Limits, Overrides},
    escape::shown,
    link::WhenFull,
    plugin::{
        component::{self, About, ComponentError, LoadLimits, in_mib, when_it_begins},
        engine::Engine,
        native::{self, Native},
    },
    regular_file::{self, SECRET, SETTINGS},
    signature::TrustedKeys,
};
use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use serde_json::json;
use tracing::warn;

use super::print;
use crate::{
    cli::CheckArgs,
    exit::{self, Failure},
};

/// The configuration that is looked for if none is named.
const CONFIG: &str = "alphorn.toml";

pub(crate) async fn check(args: &CheckArgs) -> Result<(), Failure> {
    let native = native::inspect(&args.file).ok().flatten();
    let config = configuration(args, native.is_some())?;
    let keys = trusted(args, config.as_ref())?;
    let room = Room::of(args, config.as_ref());
    let engine = Engine::new(super::compiler(), None, WhenFull::DropNewest)
        .context("the WebAssembly engine does not start")?
        .trusting(keys);
    let limits = LoadLimits { memory: Some(room.memory), ..LoadLimits::default() };
    match component::load(&engine, &args.file, limits).await {
        Ok(loaded) => report(&loaded.about, args.json),
        Err(error @ ComponentError::Memory { .. }) => Err(Failure::new(exit::DATA, anyhow!("{error}. {}", room.whose))),
        Err(error) => {
            // What it says of itself helps to see why.
            if let (ComponentError::Native(_), Some(native)) = (&error, native) {
                refused(&args.file, &native, args.json)?;
            }
            Err(Failure::new(exit::DATA, error))
        }
    }
}

/// The configuration that was named, or the one that lies here.
fn configuration(args: &CheckArgs, is_needed: bool) -> Result<Option<Config>, Failure> {
    let here = Path::new(CONFIG);
    let path = match &args.config {
        Some(path) => path,
        None if here.exists() => here,
        None => return Ok(None),
    };
    match Config::load(path, &Overrides::default()).or_else(|error| plugins_alone(path).ok_or(error)) {
        Ok(config) => Ok(Some(config)),
        Err(error) if is_needed || args.config.is_some() => Err(Failure::new(exit::CONFIG, error)),
        // It may be of something else.
        Err(error) => {
            warn!("what plugins may have is not read from a file that is no configuration: {error}");
            Ok(None)
        }
    }
}

/// A plugin's folder may have a configuration that says of plugins only what they may do, and of a
/// connection nothing.
fn plugins_alone(path: &Path) -> Option<Config> {
    let text = regular_file::read_to_string(path, SETTINGS).ok()?;
    let nowhere = Overrides {
        url: Some("mqtt://localhost".to_owned()),
        default_client_id: Some("DEVICE".to_owned()),
        ..Overrides::default()
    };
    Config::parse(&text, path.parent().unwrap_or(Path::new("")), config::environment(), &nowhere).ok()
}

/// The memory that the component may have.
struct Room {
    memory: usize,
    /// Whose limit that is, and what else can be done about it, in words.
    whose: String,
}

impl Room {
    fn of(args: &CheckArgs, config: Option<&Config>) -> Self {
        if let Some(ByteSize(bytes)) = args.memory {
            let memory = usize::try_from(bytes).unwrap_or(usize::MAX);
            return Self { memory, whose: "What it may have is what --memory says".to_owned() };
        }
        let file = args.file.canonicalize().ok();
        let is_it = |component: &Path| file.is_some() && component.canonicalize().ok() == file;
        let plugins = config.into_iter().flat_map(|config| &config.plugins);
        let plugins = plugins.filter(|(_, plugin)| is_it(&plugin.component));
        match plugins.min_by_key(|(_, plugin)| plugin.limits.memory) {
            Some((name, plugin)) => {
                Self { memory: plugin.limits.memory, whose: format!("That limit is of [plugins.{name}]") }
            }
            None => Self {
                memory: Limits::default().memory,
                whose: "That is the default: no configuration was found that has it as a `component`. `--config FILE` \
                        names one, `--memory SIZE` says what it is to get"
                    .to_owned(),
            },
        }
    }
}

/// Whose native code is looked into: to do so is to trust it.
fn trusted(args: &CheckArgs, config: Option<&Config>) -> Result<TrustedKeys, Failure> {
    let mut keys = config.map(|config| config.trusted_keys.clone()).unwrap_or_default();
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
            "memory": { "at_start": about.at_start, "is_exact": about.footprint.is_some() },
        });
        if let (Some(report), Some(native)) = (report.as_object_mut(), native) {
            report.insert("compiled".to_owned(), compiled(native, true));
        }
        print::json(&report).context("stdout is closed")?;
        return Ok(());
    }
    let text = format!(
        "{}\n  kind     {}{}\n  bytes    {}\n  sha256   {}\n  imports  {}\n  exports  {}\n  memory   {}{}",
        shown(&about.path.to_string_lossy()),
        about.kind,
        remark.map(|remark| format!("\n           {remark}")).unwrap_or_default(),
        about.size,
        about.digest,
        about.imports.join("\n           "),
        about.exports.join("\n           "),
        memory(about),
        native.map(|native| lines(native, "which is trusted")).unwrap_or_default(),
    );
    print::line(&text).context("stdout is closed")?;
    Ok(())
}

/// What it has when it begins, and what has to be configured for that.
fn memory(about: &About) -> String {
    let begins = format!("{} bytes{}", about.at_start, when_it_begins(about.footprint.as_ref()));
    if about.at_start <= Limits::default().memory {
        return begins;
    }
    format!(
        "{begins}\n           more than plugins may have by default: `limits.memory` has to be at least \"{}\"",
        in_mib(about.at_start)
    )
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
