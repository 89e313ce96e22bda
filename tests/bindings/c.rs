//! The bindings for C that are kept in `guest-sdk/c` are what wit-bindgen makes of `wit/`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use wit_bindgen_c::Opts;
use wit_bindgen_core::{Files, wit_parser::Resolve};

/// Set it to write them: `ALPHORN_WRITE_BINDINGS=1 cargo test --release -p alphorn-test-bindings`.
const WRITE: &str = "ALPHORN_WRITE_BINDINGS";

#[test]
fn the_bindings_for_c_are_those_of_the_wit_package() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root.join("wit"))?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    // What the object file says, `alphorn build` puts into the component itself.
    let options = Opts { no_object_file: true, rename_world: Some("wit".to_owned()), ..Opts::default() };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let mut looked_at = 0;
    for (name, content) in files.iter() {
        let path = root.join("guest-sdk/c").join(name);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, content)?;
        }
        let there = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(there == content, "{} is not what wit/ makes: write it with {WRITE}=1", path.display());
        looked_at += 1;
    }
    ensure!(looked_at == 2, "{looked_at} files instead of a header and a source");
    Ok(())
}
