//! `alphorn build --aot`: a plugin's folder, or a component, to native code that is signed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use alphorn::{
    builder,
    link::WhenFull,
    plugin::{
        ahead::{self, AheadError},
        compile::TARGET,
        component::{self, About, LoadLimits},
        engine::Engine,
        native,
    },
    regular_file::{self, COMPONENT},
    signature,
};
use anyhow::Context;
use serde_json::json;
use tracing::warn;

use super::{keygen, print};
use crate::{
    cli::{AheadArgs, BuildArgs},
    exit::{self, Failure},
};

pub(crate) async fn build(args: BuildArgs) -> Result<(), Failure> {
    let built = builder::build(&args.folder).await.map_err(|error| Failure::new(exit::DATA, error))?;
    let component = built.component;
    // Before it is compiled, which may take a while.
    let signer = args.ahead.key.as_deref().map(|key| keygen::signer(key, args.ahead.password_file.as_deref()));
    let signer = signer.transpose()?;
    let engine =
        Engine::new(super::compiler(), None, WhenFull::DropNewest).context("the WebAssembly engine does not start")?;
    let loaded = component::load(&engine, &component, LoadLimits::default())
        .await
        .map_err(|error| Failure::new(exit::DATA, error))?;
    let (code, target) = compile(&component, args.ahead.target.as_deref()).await?;
    let output = output(&component, &args.ahead)?;
    match &signer {
        Some(signer) => {
            let signature =
                signer.sign(&code, &comment(&output, &loaded.about, &target)).context("it can't be signed")?;
            // First: a host that sees the file looks for its signature.
            write(&signature::beside(&output), signature.as_bytes())?;
        }
        None => {
            // One of another content would be taken for damage.
            let _ = fs::remove_file(signature::beside(&output));
            warn!("{} is not signed, and no host runs it so: --key FILE, or `minisign -S`", output.display());
        }
    }
    write(&output, &code)?;
    report(&output, &loaded.about, &target, args.json)
}

async fn compile(component: &Path, target: Option<&str>) -> Result<(Vec<u8>, String), Failure> {
    let bytes = regular_file::read(component, COMPONENT).with_context(|| component.display().to_string())?;
    let target = target.unwrap_or(TARGET).to_owned();
    let compiled =
        tokio::task::spawn_blocking(move || ahead::compile(&bytes, &target).map(|code| (code, target))).await;
    compiled.context("the compiler has failed")?.map_err(|error| match error {
        AheadError::Triple { .. } | AheadError::Target { .. } => Failure::new(exit::USAGE, error),
        error @ AheadError::Component(_) => {
            Failure::new(exit::DATA, anyhow::Error::new(error).context(component.display().to_string()))
        }
    })
}

/// Beside the component, unless said otherwise; never in its place.
fn output(component: &Path, args: &AheadArgs) -> Result<PathBuf, Failure> {
    let output = args.output.clone().unwrap_or_else(|| component.with_extension("cwasm"));
    // The component's path is the one with links resolved.
    if output.canonicalize().is_ok_and(|output| output == component) {
        let error = anyhow::anyhow!("{} would be overwritten: name another file by --output", component.display());
        return Err(Failure::new(exit::USAGE, error));
    }
    Ok(output)
}

/// What the signature says beside that the code is the signer's: what it was made from. In the
/// form minisign's own comments have.
fn comment(output: &Path, about: &About, target: &str) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().replace(char::is_control, "?");
    format!(
        "file:{}\tcomponent:{}\tsha256:{}\ttarget:{target}\twasmtime:{}\talphorn:{}",
        name(output),
        name(&about.path),
        about.digest,
        env!("WASMTIME_VERSION"),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new();
        // As any new file; the default is for secrets.
        let mut file = file.permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    let written = write().with_context(|| format!("can't write {}", path.display()));
    written.map_err(|error| Failure::new(exit::NO_PERMISSION, error))
}

fn report(output: &Path, about: &About, target: &str, as_json: bool) -> Result<(), Failure> {
    let compiled = native::inspect(output).ok().flatten().context("what was written is no compiled component")?;
    let bytes = fs::metadata(output).map_or(0, |metadata| metadata.len());
    let signed = compiled.seal.as_ref();
    if as_json {
        let report = json!({
            "path": output,
            "bytes": bytes,
            "target": target,
            "wasmtime": compiled.heading.wasmtime,
            "key": signed.map(|seal| &seal.key),
            "component": { "path": about.path, "bytes": about.size, "sha256": about.digest },
            "imports": about.imports,
            "exports": about.exports,
        });
        print::json(&report).context("stdout is closed")?;
        return Ok(());
    }
    let text = format!(
        "{}\n  bytes      {bytes}\n  component  {}, {} bytes, sha256 {}\n  target     {target}\n  \
         wasmtime   {}\n  signed     {}",
        output.display(),
        about.path.display(),
        about.size,
        about.digest,
        compiled.heading.wasmtime,
        signed.map_or_else(|| "no".to_owned(), ToString::to_string),
    );
    print::line(&text).context("stdout is closed")?;
    Ok(())
}
