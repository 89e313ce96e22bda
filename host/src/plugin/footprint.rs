//! What the core instances of a component take beside their memories and tables. Pure.
//!
//! Each instance of a module has a place for every global, import, table and function that can be
//! referred to, and a component may instantiate one module as often as it likes, also by way of
//! components in it: half a megabyte of WebAssembly can ask for gigabytes. The engine limits how
//! many instances there are, not how large they are, so that is added up before anything runs.
//!
//! The sums are upper bounds: where it can't be told which module or component is meant (it comes
//! out of an instance), the largest there is counts.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, ElementItems,
    ElementKind, Encoding, ExternalKind, Instance, Parser, Payload, TypeRef,
};

/// What a component takes when it is instantiated, or one instance of a module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Core instances.
    pub instances: usize,
    /// Memories.
    pub memories: usize,
    /// Tables.
    pub tables: usize,
    /// Bytes of all that, without what is in memories and tables.
    pub bytes: usize,
}

/// What is kept for an instance, a memory or a table, whatever is in it: measured at a few hundred bytes.
const INSTANCE: usize = 1024;
const MEMORY: usize = 512;
const TABLE: usize = 256;
/// An import, or a function that can be referred to: up to four pointers.
const IMPORT: usize = 32;
const FUNCTION: usize = 32;
const GLOBAL: usize = 16;
/// An element of a passive segment, and a segment of either kind.
const ELEMENT: usize = 16;
const SEGMENT: usize = 32;

impl Footprint {
    /// Of a component. It need not be valid: what can't be read is the compiler's to refuse.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut open: Vec<Open> = Vec::new();
        let mut largest = Largest::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.ok()? {
                Payload::Version { encoding: Encoding::Module, .. } => open.push(Open::Module(Module::default())),
                Payload::Version { encoding: Encoding::Component, .. } => {
                    open.push(Open::Component(Component::default()));
                }
                Payload::End(_) => match (open.pop()?, open.last_mut()) {
                    (Open::Component(component), None) => return Some(component.total),
                    (Open::Module(module), Some(Open::Component(outer))) => {
                        let footprint = module.footprint();
                        largest.module = largest.module.most(footprint);
                        outer.modules.push(Some(footprint));
                    }
                    (Open::Component(component), Some(Open::Component(outer))) => {
                        largest.component = largest.component.most(component.total);
                        outer.components.push(Some(component.total));
                    }
                    _ => return None,
                },
                payload => match open.last_mut()? {
                    Open::Module(module) => module.add(payload)?,
                    Open::Component(_) => in_component(&mut open, payload, &largest)?,
                },
            }
        }
        None
    }

    fn add(&mut self, other: Self) {
        self.instances = self.instances.saturating_add(other.instances);
        self.memories = self.memories.saturating_add(other.memories);
        self.tables = self.tables.saturating_add(other.tables);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn most(self, other: Self) -> Self {
        Self {
            instances: self.instances.max(other.instances),
            memories: self.memories.max(other.memories),
            tables: self.tables.max(other.tables),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

enum Open {
    Module(Module),
    Component(Component),
}

/// What has been read of a component.
#[derive(Default)]
struct Component {
    /// By index. None: any of those there are.
    modules: Vec<Option<Footprint>>,
    components: Vec<Option<Footprint>>,
    total: Footprint,
}

#[derive(Default)]
struct Largest {
    module: Footprint,
    component: Footprint,
}

/// What has been read of a module.
#[derive(Default)]
struct Module {
    imports: usize,
    functions: usize,
    /// Functions that can be referred to, some more than once.
    referred: usize,
    globals: usize,
    tags: usize,
    memories: usize,
    tables: usize,
    elements: usize,
    segments: usize,
}

impl Module {
    fn add(&mut self, payload: Payload<'_>) -> Option<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    self.imports += 1;
                    self.functions += usize::from(matches!(import.ok()?.ty, TypeRef::Func(_)));
                }
            }
            Payload::FunctionSection(section) => self.functions += section.count() as usize,
            Payload::GlobalSection(section) => {
                // Each may be made from a reference to a function.
                self.globals += section.count() as usize;
                self.referred += section.count() as usize;
            }
            Payload::TagSection(section) => self.tags += section.count() as usize,
            Payload::MemorySection(section) => self.memories += section.count() as usize,
            Payload::TableSection(section) => {
                self.tables += section.count() as usize;
                self.referred += section.count() as usize;
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.referred += usize::from(export.ok()?.kind == ExternalKind::Func);
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element.ok()?;
                    let items = match element.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    } as usize;
                    self.segments += 1;
                    self.referred += items;
                    self.elements += if matches!(element.kind, ElementKind::Passive) { items } else { 0 };
                }
            }
            Payload::DataSection(section) => self.segments += section.count() as usize,
            _ => {}
        }
        Some(())
    }

    fn footprint(&self) -> Footprint {
        let referred = self.referred.min(self.functions);
        let bytes = [
            (1, INSTANCE),
            (self.imports, IMPORT),
            (referred, FUNCTION),
            (self.globals + self.tags, GLOBAL),
            (self.memories, MEMORY),
            (self.tables, TABLE),
            (self.elements, ELEMENT),
            (self.segments, SEGMENT),
        ];
        let bytes = bytes.into_iter().fold(0, |sum: usize, (count, each)| sum.saturating_add(count * each));
        Footprint { instances: 1, memories: self.memories, tables: self.tables, bytes }
    }
}

/// The last of those that are open is a component, and this is in it.
fn in_component(open: &mut [Open], payload: Payload<'_>, largest: &Largest) -> Option<()> {
    let (Open::Component(component), outer) = open.split_last_mut()? else { return None };
    match payload {
        Payload::InstanceSection(section) => {
            for instance in section {
                if let Instance::Instantiate { module_index, .. } = instance.ok()? {
                    let module = component.modules.get(module_index as usize)?;
                    component.total.add(module.unwrap_or(largest.module));
                }
            }
        }
        Payload::ComponentInstanceSection(section) => {
            for instance in section {
                if let ComponentInstance::Instantiate { component_index, .. } = instance.ok()? {
                    let inner = component.components.get(component_index as usize)?;
                    component.total.add(inner.unwrap_or(largest.component));
                }
            }
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section {
                match alias.ok()? {
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                        component.modules.push(None);
                    }
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                        component.components.push(None);
                    }
                    ComponentAlias::Outer { kind, count, index } => {
                        let at = |count: u32| outer.len().checked_sub(count as usize);
                        let from = match count {
                            0 => &*component,
                            count => match outer.get(at(count)?)? {
                                Open::Component(from) => from,
                                Open::Module(_) => return None,
                            },
                        };
                        let index = index as usize;
                        match kind {
                            ComponentOuterAliasKind::CoreModule => {
                                let module = *from.modules.get(index)?;
                                component.modules.push(module);
                            }
                            ComponentOuterAliasKind::Component => {
                                let inner = *from.components.get(index)?;
                                component.components.push(inner);
                            }
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
        }
        Payload::ComponentImportSection(section) => {
            for import in section {
                match import.ok()?.ty {
                    ComponentTypeRef::Module(_) => component.modules.push(None),
                    ComponentTypeRef::Component(_) => component.components.push(None),
                    _ => {}
                }
            }
        }
        // What is exported has another index from there on.
        Payload::ComponentExportSection(section) => {
            for export in section {
                let export = export.ok()?;
                let index = export.index as usize;
                match export.kind {
                    ComponentExternalKind::Module => {
                        let module = *component.modules.get(index)?;
                        component.modules.push(module);
                    }
                    ComponentExternalKind::Component => {
                        let inner = *component.components.get(index)?;
                        component.components.push(inner);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Footprint {
        Footprint::of(&wat::parse_str(text).unwrap()).unwrap()
    }

    /// What independent testing did: many instances of a module with many globals.
    #[test]
    fn instances_of_many_globals_are_added_up() {
        let globals = "(global i64 (i64.const 0))".repeat(10_000);
        let instances = "(core instance (instantiate 0))".repeat(500);
        let all = of(&format!("(component (core module {globals}) {instances})"));
        assert_eq!((all.instances, all.memories, all.tables), (500, 0, 0));
        assert_eq!(all.bytes, 500 * (10_000 * GLOBAL + INSTANCE));
    }

    #[test]
    fn what_an_instance_has_is_counted() {
        let one = of(r#"(component
            (core module $libc (memory (export "m") 1) (func (export "f")))
            (core module $main
                (import "libc" "m" (memory 1))
                (import "libc" "f" (func))
                (table 10 funcref) (tag) (data "x")
                (func) (func) (func (export "g"))
                (elem funcref (ref.func 1) (ref.func 2) (ref.null func)))
            (core instance $libc (instantiate $libc))
            (core instance (instantiate $main (with "libc" (instance $libc))))
            (core instance (export "none" (func $libc "f"))))"#);
        assert_eq!((one.instances, one.memories, one.tables), (2, 1, 1));
        let libc = INSTANCE + MEMORY + FUNCTION;
        let main = INSTANCE + 2 * IMPORT + TABLE + GLOBAL + 2 * SEGMENT + 3 * ELEMENT + 4 * FUNCTION;
        assert_eq!(one.bytes, libc + main);
    }

    #[test]
    fn components_in_it_multiply() {
        // 10 to the 6th instances in a few hundred bytes.
        let mut text = "(component $c0 (core module (func)) (core instance (instantiate 0)))".to_owned();
        for depth in 1..=6 {
            let instances = "(instance (instantiate 0))".repeat(10);
            text = format!("(component $c{depth} {text} {instances})");
        }
        assert_eq!(of(&text).instances, 1_000_000);
    }

    #[test]
    fn what_is_meant_is_found_or_the_largest_counts() {
        let large = format!("(core module $large {})", "(global i64 (i64.const 0))".repeat(100));
        let bytes = INSTANCE + 100 * GLOBAL;
        let outer = format!(
            "(component {large} (component $c (alias outer 1 $large (core module $m)) (core instance (instantiate $m)))
                (instance (instantiate $c)) (instance (instantiate $c)))"
        );
        assert_eq!((of(&outer).instances, of(&outer).bytes), (2, 2 * bytes));
        let exported = format!(
            r#"(component {large} (core module $small)
                (component $c (import "m" (core module $m)) (core instance (instantiate $m)))
                (instance (instantiate $c (with "m" (core module $small))))
                (export $again "again" (core module $small)) (core instance (instantiate $again)))"#
        );
        assert_eq!(of(&exported).bytes, bytes + INSTANCE);
    }

    #[test]
    fn what_is_no_component_has_none() {
        for bytes in [&b""[..], b"\0asm", &wat::parse_str("(module)").unwrap()] {
            assert_eq!(Footprint::of(bytes), None);
        }
    }
}
