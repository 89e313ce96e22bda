//! The bindings that are kept in `guest-sdk` are what wit-bindgen makes of `wit/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use wit_bindgen_core::{Files, WorldGenerator, wit_parser::Resolve};

/// Set it to write them: `ALPHORN_WRITE_BINDINGS=1 cargo test --release -p alphorn-test-bindings`.
const WRITE: &str = "ALPHORN_WRITE_BINDINGS";

/// Where wit-bindgen has the packages that its bindings for Go use, and where they are here.
/// So no plugin needs a module from elsewhere.
const GO_SUPPORT: (&str, &str) = ("\"go.bytecodealliance.org/pkg/wit/", "\"alphorn/internal/wit/");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What it makes of `wit/`: names and contents.
fn generate(mut generator: Box<dyn WorldGenerator>) -> Result<Vec<(String, String)>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit"))?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    let mut files = Files::default();
    generator.generate(&mut resolve, world, &mut files)?;
    files.iter().map(|(name, content)| Ok((name.to_owned(), String::from_utf8(content.to_vec())?))).collect()
}

/// Each is in the folder as it was made, or is written there.
fn check(folder: &str, made: &[(String, String)]) -> Result<()> {
    for (name, content) in made {
        let path = root().join(folder).join(name);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
            fs::write(&path, content)?;
        }
        let there = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(there == *content, "{} is not what wit/ makes: write it with {WRITE}=1", path.display());
    }
    Ok(())
}

#[test]
fn the_bindings_for_c_are_those_of_the_wit_package() -> Result<()> {
    // What the object file says, `alphorn build` puts into the component itself.
    let options = wit_bindgen_c::Opts {
        no_object_file: true,
        rename_world: Some("wit".to_owned()),
        ..wit_bindgen_c::Opts::default()
    };
    let made = generate(options.build())?;
    ensure!(made.len() == 2, "{} files instead of a header and a source", made.len());
    check("guest-sdk/c", &made)
}

#[test]
fn the_bindings_for_go_are_those_of_the_wit_package() -> Result<()> {
    let options = wit_bindgen_go::Opts {
        // As it is with every version of gofmt, and without one.
        format: wit_bindgen_go::Format::False,
        pkg_name: Some("alphorn/internal/bindings".to_owned()),
        ..wit_bindgen_go::Opts::default()
    };
    let mut made = generate(options.build())?;
    for (_, content) in &mut made {
        *content = content.replace(GO_SUPPORT.0, GO_SUPPORT.1);
    }
    ensure!(made.len() == 13, "{} files instead of a package for each interface and the exports", made.len());
    check("guest-sdk/go/internal/bindings", &made)
}
