//! What a component takes when it begins: its memories and tables, and its core instances beside
//! them. Pure.
//!
//! Each instance of a module has a place for every global, import, table and function that can be
//! referred to, and a component may instantiate one module as often as it likes, also by way of
//! components in it: half a megabyte of WebAssembly can ask for gigabytes. The engine limits how
//! many instances there are, not how large they are, so that is added up before anything runs.
//!
//! The sums are upper bounds: where it can't be told which module or component is meant (it comes
//! out of an instance), the largest there is counts. Only what memories and tables begin with is a
//! lower one, and such a module's count for nothing there: they are counted once more when they are
//! made, and until then nothing is refused that might do.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, ElementItems,
    ElementKind, Encoding, ExternalKind, Instance, MemoryType, Parser, Payload, TypeRef,
};

use super::{
    component::Footprint,
    memory::{ENTRY, PAGE},
};

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
        self.initial = self.initial.saturating_add(other.initial);
    }

    /// The largest of both, of whose memories and tables nothing is sure.
    fn most(self, other: Self) -> Self {
        Self {
            instances: self.instances.max(other.instances),
            memories: self.memories.max(other.memories),
            tables: self.tables.max(other.tables),
            bytes: self.bytes.max(other.bytes),
            initial: 0,
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
    initial: usize,
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
            // What is imported stands in another section: it counts where it is made.
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memories += 1;
                    self.begins_with(initial(memory.ok()?));
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    self.tables += 1;
                    self.referred += 1;
                    self.begins_with(in_bytes(table.ok()?.ty.initial).saturating_mul(ENTRY));
                }
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

    fn begins_with(&mut self, bytes: usize) {
        self.initial = self.initial.saturating_add(bytes);
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
        Footprint { instances: 1, memories: self.memories, tables: self.tables, bytes, initial: self.initial }
    }
}

/// Bytes a memory begins with. What is more than there are addresses is as many as there are.
fn initial(memory: MemoryType) -> usize {
    let page = match memory.page_size_log2 {
        Some(log2) => 1_usize.checked_shl(log2).unwrap_or(usize::MAX),
        None => PAGE,
    };
    in_bytes(memory.initial).saturating_mul(page)
}

fn in_bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
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
        assert_eq!(one.initial, PAGE + 10 * ENTRY, "the memory that both have counts once");
        assert_eq!(one.at_start(), one.bytes + one.initial);
    }

    #[test]
    fn memories_and_tables_count_as_often_as_they_are_made() {
        let initial = |modules: &str| of(&format!("(component {modules})")).initial;
        let module = "(core module $m (memory 3 100) (memory 2) (table 5 funcref) (table 7 9 externref))";
        assert_eq!(initial(module), 0, "a module that nobody makes an instance of");
        let once = 5 * PAGE + 12 * ENTRY;
        for times in 1..4 {
            let instances = "(core instance (instantiate $m))".repeat(times);
            assert_eq!(initial(&format!("{module} {instances}")), times * once);
        }
        // In components in it, too.
        let inner = format!("(component $c {module} (core instance (instantiate $m)))");
        assert_eq!(initial(&format!("{inner} (instance (instantiate $c)) (instance (instantiate $c))")), 2 * once);
    }

    #[test]
    fn each_kind_of_memory_counts_its_bytes() {
        let initial =
            |what: &str| of(&format!("(component (core module $m {what}) (core instance (instantiate $m)))")).initial;
        assert_eq!(initial("(memory i64 4)"), 4 * PAGE);
        assert_eq!(initial("(memory 4 8 shared)"), 4 * PAGE);
        assert_eq!(initial("(memory 1000 (pagesize 1))"), 1000);
        assert_eq!(initial("(table i64 1000 funcref)"), 1000 * ENTRY);
        assert_eq!(initial("(memory i64 0x1000000000000)"), usize::MAX);
        assert_eq!(initial("(table i64 0xffffffffffffffff funcref) (memory 1)"), usize::MAX);
    }

    #[test]
    fn nothing_is_counted_of_a_memory_that_may_not_be_made() {
        // It may be the one module or the other.
        let text = r#"(component
            (core module $large (memory 1000)) (core module $small (memory 1))
            (component $c (import "m" (core module $m)) (core instance (instantiate $m)))
            (instance (instantiate $c (with "m" (core module $small))))
            (core instance (instantiate $small)))"#;
        assert_eq!(of(text).initial, PAGE);
    }

    /// What is added up here is what the engine asks for there.
    #[cfg(feature = "compiler")]
    #[test]
    fn it_is_what_the_engine_asks_for() {
        use super::super::{engine::config, memory::Memory};
        let text = r#"(component
            (core module $libc (memory (export "m") 3) (table (export "t") 11 funcref))
            (core module $main (import "libc" "m" (memory 1)) (import "libc" "t" (table 1 funcref)) (memory i64 2))
            (core instance $libc (instantiate $libc))
            (core instance (instantiate $main (with "libc" (instance $libc))))
            (core instance (instantiate $main (with "libc" (instance $libc)))))"#;
        let engine = wasmtime::Engine::new(&config()).unwrap();
        let component = wasmtime::component::Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let initial = of(text).initial;
        for (limit, has_room) in [(initial, true), (initial - 1, false)] {
            let mut store = wasmtime::Store::new(&engine, Memory::new(limit));
            store.limiter(|memory| memory);
            store.set_epoch_deadline(1);
            let made = wasmtime::component::Linker::new(&engine).instantiate(&mut store, &component);
            assert_eq!(made.is_ok(), has_room);
        }
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
