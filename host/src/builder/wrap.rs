//! From a core module, as C and most compilers make it, to a component.

use anyhow::Context;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::wit;

/// What every WebAssembly file begins with.
const MAGIC: &[u8] = b"\0asm";
/// What follows in a core module.
const CORE: &[u8] = &[1, 0, 0, 0];

/// The module as a component of the world `plugin`; a component as it is. What the module
/// wants of WASI 0.1 is put on WASI 0.2; one that wants nothing of it gets nothing.
pub(super) fn component(mut bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let is_core = bytes.strip_prefix(MAGIC).is_some_and(|rest| rest.starts_with(CORE));
    if !is_core {
        return Ok(bytes);
    }
    let (resolve, world) = wit::resolve()?;
    embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8)?;
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&bytes).context("the module can't be read")?;
    encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    encoder.encode().context("the module is no plugin: it has to export and import what the WIT package says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_left_as_it_is() {
        let bytes = wat::parse_str("(component)").unwrap();
        assert_eq!(component(bytes.clone()).unwrap(), bytes);
    }

    #[test]
    fn a_module_that_is_no_plugin_is_refused_with_what_it_lacks() {
        let words = format!("{:#}", component(wat::parse_str("(module)").unwrap()).unwrap_err());
        assert!(words.contains("alphorn:plugin/guest@0.1.0"), "{words}");
    }
}
