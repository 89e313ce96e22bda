//! Components no toolchain would make: a core module as text, in the plugins' world.

use std::{fmt::Write as _, path::Path};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{
    Resolve, WorldId, WorldItem,
    abi::{AbiVariant, WasmSignature, WasmType},
};

use super::{Context as _, Result};

/// The contract of plugins, as a core module sees it.
pub(crate) struct World {
    resolve: Resolve,
    id: WorldId,
}

/// A function of it: where it is, its name, and what it takes and gives.
pub(crate) struct Function {
    interface: String,
    name: String,
    signature: WasmSignature,
}

impl World {
    /// As it is.
    pub(crate) fn read() -> Result<Self> {
        Self::of_version("0.1.0")
    }

    /// As it may be one day.
    pub(crate) fn of_version(version: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut files = std::fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "wit"));
        // The file that names the package has to come first.
        files.sort_by_key(|path| !path.ends_with("world.wit"));
        let texts = files.iter().map(std::fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
        let mut resolve = Resolve::default();
        let package = resolve.push_source("wit", &texts.concat().replace("@0.1.0", &format!("@{version}")))?;
        let id = resolve.select_world(&[package], Some("plugin"))?;
        Ok(Self { resolve, id })
    }

    /// What plugins may call.
    pub(crate) fn imports(&self) -> Vec<Function> {
        let worlds = self.resolve.worlds.get(self.id);
        self.functions(worlds.iter().flat_map(|world| &world.imports), AbiVariant::GuestImport)
    }

    /// What plugins have to have.
    pub(crate) fn exports(&self) -> Vec<Function> {
        let worlds = self.resolve.worlds.get(self.id);
        self.functions(worlds.iter().flat_map(|world| &world.exports), AbiVariant::GuestExport)
    }

    fn functions<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a wit_parser::WorldKey, &'a WorldItem)>,
        variant: AbiVariant,
    ) -> Vec<Function> {
        let mut functions = Vec::new();
        for (key, item) in items {
            let WorldItem::Interface { id, .. } = item else { continue };
            for (name, function) in self.resolve.interfaces.get(*id).iter().flat_map(|interface| &interface.functions) {
                let signature = self.resolve.wasm_signature(variant, function);
                functions.push(Function { interface: self.resolve.name_world_key(key), name: name.clone(), signature });
            }
        }
        functions
    }

    /// A component whose `start` and `on-event` are these instructions; all other calls end at once and
    /// well. `imports` can be called as `$f0`, `$f1` …, `fields` go into the module.
    pub(crate) fn component(&self, imports: &[Function], fields: &str, start: &str, on_event: &str) -> Result<Vec<u8>> {
        let mut text = String::from("(module\n");
        for (index, import) in imports.iter().enumerate() {
            let Function { interface, name, signature } = import;
            writeln!(text, "(import \"{interface}\" \"{name}\" (func $f{index}{}))", types(signature))?;
        }
        text += fields;
        // Memory is taken and never given back; results are read from the first bytes, which stay 0.
        text += r#"
            (memory (export "memory") 4)
            (global $next (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $next (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
                (global.get $next)
                (global.set $next (i32.add (global.get $next) (local.get 3))))
        "#;
        for Function { interface, name, signature } in self.exports() {
            let body = match name.as_str() {
                "start" => start,
                "on-event" => on_event,
                _ => "",
            };
            let end = if signature.results.is_empty() { "" } else { "i32.const 0" };
            writeln!(text, "(func (export \"{interface}#{name}\"){} {body} {end})", types(&signature))?;
        }
        text += ")";
        let mut module = wat::parse_str(&text).with_context(|| text.clone())?;
        embed_component_metadata(&mut module, &self.resolve, self.id, StringEncoding::UTF8)?;
        ComponentEncoder::default().module(&module)?.encode()
    }
}

impl Function {
    /// What it takes.
    pub(crate) fn parameters(&self) -> &[WasmType] {
        &self.signature.params
    }

    /// How many values it gives.
    pub(crate) fn results(&self) -> usize {
        self.signature.results.len()
    }
}

/// The core type that stands for it.
pub(crate) fn core(kind: WasmType) -> &'static str {
    match kind {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}

fn types(signature: &WasmSignature) -> String {
    let list = |word: &str, types: &[WasmType]| match types {
        [] => String::new(),
        types => format!(" ({word} {})", types.iter().map(|kind| core(*kind)).collect::<Vec<_>>().join(" ")),
    };
    list("param", &signature.params) + &list("result", &signature.results)
}
