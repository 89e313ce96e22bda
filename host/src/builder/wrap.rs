//! From a core module, as C and most compilers make it, to a component.

use anyhow::Context;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::wit;

/// What every WebAssembly file begins with.
const MAGIC: &[u8] = b"\0asm";
/// What follows in a core module.
const CORE: &[u8] = &[1, 0, 0, 0];

/// What a program of WASI 0.1 exports: it is called once, and runs to its end.
const MAIN: &str = "_start";
/// What each export of a plugin begins with.
const PLUGIN: &str = "alphorn:plugin/";

/// What has become of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrapped {
    /// They were a component, or nothing that is known here.
    AsItWas(Vec<u8>),
    /// A module with the exports of a plugin.
    Plugin(Vec<u8>),
    /// A module with a `main`, as any compiler for WASI 0.1 makes it.
    Program(Vec<u8>),
}

impl Wrapped {
    pub(super) fn bytes(&self) -> &[u8] {
        let (Self::AsItWas(bytes) | Self::Plugin(bytes) | Self::Program(bytes)) = self;
        bytes
    }
}

/// A component as it is; a module as a component, of the world `plugin` or of a plain WASI program.
/// What the module wants of WASI 0.1 is put on WASI 0.2; a plugin that wants nothing of it gets nothing.
pub(super) fn component(bytes: Vec<u8>) -> anyhow::Result<Wrapped> {
    if !is_module(&bytes) {
        return Ok(Wrapped::AsItWas(bytes));
    }
    if is_program(&bytes).context("the module can't be read")? { program(&bytes) } else { plugin(bytes) }
}

/// Whether these are the bytes of a core module.
pub(super) fn is_module(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MAGIC).is_some_and(|rest| rest.starts_with(CORE))
}

fn plugin(mut bytes: Vec<u8>) -> anyhow::Result<Wrapped> {
    let (resolve, world) = wit::resolve()?;
    embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8)?;
    let encoded = encode(&bytes, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER);
    encoded.map(Wrapped::Plugin).context(
        "the module is no plugin, which exports and imports what the WIT package says, nor a program, which exports \
         `_start`",
    )
}

fn program(bytes: &[u8]) -> anyhow::Result<Wrapped> {
    let encoded = encode(bytes, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER);
    encoded.map(Wrapped::Program).context(
        "the module has a `_start`, so it is taken for a program of WASI 0.1 (wasm32-wasi), and it imports something \
         else than that",
    )
}

fn encode(module: &[u8], adapter: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(module).context("the module can't be read")?;
    encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?;
    encoder.encode()
}

/// Whether it has a `main` and nothing that the host would call in a plugin.
fn is_program(module: &[u8]) -> anyhow::Result<bool> {
    let mut has_main = false;
    for payload in Parser::new(0).parse_all(module) {
        let Payload::ExportSection(exports) = payload? else { continue };
        for export in exports {
            let name = export?.name;
            if name.starts_with(PLUGIN) {
                return Ok(false);
            }
            has_main |= name == MAIN;
        }
    }
    Ok(has_main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_left_as_it_is() {
        let bytes = wat::parse_str("(component)").unwrap();
        assert_eq!(component(bytes.clone()).unwrap(), Wrapped::AsItWas(bytes));
    }

    #[test]
    fn a_module_that_is_no_plugin_is_refused_with_what_it_lacks() {
        let words = format!("{:#}", component(wat::parse_str("(module)").unwrap()).unwrap_err());
        assert!(words.contains("alphorn:plugin/guest@0.1.0") && words.contains("`_start`"), "{words}");
    }

    /// As C, AssemblyScript or Go are compiled for wasm32-wasi.
    const MAIN_MODULE: &str = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 8) "hello\n")
        (func (export "_start")
            (i32.store (i32.const 0) (i32.const 8))
            (i32.store (i32.const 4) (i32.const 6))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"#;

    #[test]
    fn a_module_with_a_main_becomes_a_plain_program() {
        let wrapped = component(wat::parse_str(MAIN_MODULE).unwrap()).unwrap();
        assert!(matches!(wrapped, Wrapped::Program(_)), "{wrapped:?}");
        let engine = wasmtime::Engine::default();
        let component = wasmtime::component::Component::new(&engine, wrapped.bytes()).unwrap();
        let names: Vec<_> = component.component_type().exports(&engine).map(|(name, _)| name.to_owned()).collect();
        assert!(names.iter().any(|name| name.starts_with("wasi:cli/run@0.2.")), "{names:?}");
    }

    #[test]
    fn a_program_that_wants_more_than_wasi_is_told_so() {
        let text = MAIN_MODULE.replace("\"wasi_snapshot_preview1\" \"fd_write\"", "\"env\" \"draw\"");
        let words = format!("{:#}", component(wat::parse_str(text).unwrap()).unwrap_err());
        assert!(words.contains("wasm32-wasi") && words.contains("env"), "{words}");
    }
}
