//! Zig: its compiler makes a core module of the plugin, a layer in Zig, and the layer for C
//! with its bindings below that.

use std::path::Path;

use anyhow::Context;

use super::{Built, announce, c, finish, folder_name, support, tools, write};

/// What a plugin imports as `alphorn`.
const SDK: &str = include_str!("../../../guest-sdk/zig/alphorn.zig");

/// What each module and the C beside it is compiled for: small before fast.
const FOR: [&str; 3] = ["-target", "wasm32-wasi", "-OReleaseSmall"];

/// Functions instead of a `main`, without names; and a stack that a device can spare.
const LINKING: [&str; 7] = ["-mexec-model=reactor", "-fstrip", "-fno-entry", "-rdynamic", "-lc", "--stack", "131072"];

pub(super) fn is_source(name: &Path) -> bool {
    name.extension().is_some_and(|end| end == "zig")
}

pub(super) async fn build(folder: &Path) -> anyhow::Result<Built> {
    const USUAL: [&str; 2] = ["plugin.zig", "src/plugin.zig"];
    let source = USUAL.iter().map(|name| folder.join(name)).find(|source| source.is_file());
    let source = source.with_context(|| format!("{} has neither {}", folder.display(), USUAL.join(" nor ")))?;
    let zig = c::zig(folder).await.with_context(|| {
        format!(
            "zig is missing: in {}, run `python3 -m venv .venv && .venv/bin/pip install {}` (or install zig 0.17)",
            folder.display(),
            c::TOOL
        )
    })?;
    let support = support(folder)?;
    c::write_sdk(&support)?;
    let made = support.join("core.wasm");
    announce(&made, "compiling with zig, its standard library and that of C as well");
    let layer = support.join("alphorn.zig");
    write(&layer, SDK)?;
    // Zig reads no headers by itself. What it makes of them it has at hand the next time.
    let translated = support.join("c.zig");
    let mut command = c::start(&zig);
    command.current_dir(&support).arg("translate-c").args(["-target", "wasm32-wasi", "-lc", "alphorn.h"]);
    write(&translated, tools::output(command, "translating alphorn.h").await?)?;

    let mut command = c::start(&zig);
    command.current_dir(folder).arg("build-exe").args(LINKING);
    // A module comes behind what it consists of and the names it imports.
    command.args(FOR).arg("-I").arg(&support).args(["wit.c", "alphorn.c"].map(|name| support.join(name)));
    command.args(["--dep", "alphorn"]).arg(format!("-Mroot={}", source.display()));
    command.args(FOR).args(["--dep", "c"]).arg(format!("-Malphorn={}", layer.display()));
    command.args(FOR).arg(format!("-Mc={}", translated.display()));
    command.arg(format!("-femit-bin={}", made.display()));
    tools::run(command, "`zig build-exe`").await?;
    finish(folder, &folder_name(folder)?, &made)
}
