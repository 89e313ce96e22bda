//! How much memory a guest has, and may have.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use wasmtime::ResourceLimiter;

/// A page of a memory that does not say how large its own are, in bytes.
pub(super) const PAGE: usize = 64 * 1024;

/// Bytes of an entry of a table.
pub(super) const ENTRY: usize = size_of::<usize>();

/// All memories and tables of one guest together, its instances, and what the host holds for it:
/// messages, a hand-over.
pub(super) struct Memory {
    used: usize,
    /// The same, for whoever looks on while it runs.
    shown: Arc<AtomicUsize>,
    limit: usize,
    /// What it would have had with the last request over the limit, which was refused.
    pub(super) refused: Option<usize>,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(ENTRY)))
    }

    // What these take beside their bytes is counted before anything runs (`footprint.rs`), but for
    // code that was compiled elsewhere, which is trusted.
    fn instances(&self) -> usize {
        MOST_INSTANCES
    }

    fn tables(&self) -> usize {
        MOST_INSTANCES
    }

    fn memories(&self) -> usize {
        MOST_MEMORIES
    }
}

/// Core instances of a component, and tables. Those of Python have some sixty.
pub(super) const MOST_INSTANCES: usize = 1000;

/// Memories of a component: each reserves address space of its own.
pub(super) const MOST_MEMORIES: usize = 100;

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self { used: 0, shown: Arc::default(), limit, refused: None }
    }

    /// Shows the bytes it has.
    pub(super) fn gauge(&self) -> Arc<AtomicUsize> {
        self.shown.clone()
    }

    /// Bytes it has.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// The host holds so many bytes more for it.
    pub(super) fn take(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if self.grow(bytes) { Ok(()) } else { Err(wasmtime::Error::msg("no memory is left for another message")) }
    }

    /// It holds so many less.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
        self.shown.store(self.used, Relaxed);
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        if used > self.limit {
            self.refused = Some(used);
            return false;
        }
        self.used = used;
        self.shown.store(used, Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Instance, Module, Store};

    use super::*;

    /// Whether a module can be instantiated with so many bytes, and what its function `grow` says.
    fn grows(limit: usize, text: &str) -> Option<i32> {
        let engine = wasmtime::Engine::new(&super::super::engine::config()).unwrap();
        let memory = Memory::new(limit);
        let mut store = Store::new(&engine, memory);
        store.limiter(|memory| memory);
        store.set_epoch_deadline(1);
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).ok()?;
        let grow = instance.get_typed_func::<(), i32>(&mut store, "grow").unwrap();
        Some(grow.call(&mut store, ()).unwrap())
    }

    #[test]
    fn memories_and_tables_are_counted_together() {
        let two = r#"(module (memory $a 1) (memory $b 1) (table $t 1000 funcref)
            (func (export "grow") (result i32) (memory.grow $b (i32.const 1))))"#;
        let pages = |count: usize| count * 65536 + 1000 * size_of::<usize>();
        assert_eq!(grows(pages(3), two), Some(1));
        assert_eq!(grows(pages(3) - 1, two), Some(-1), "a third page is over the limit");
        assert_eq!(grows(pages(2) - 1, two), None, "it does not even start");
        let bomb = r#"(module (table $t 0 funcref)
            (func (export "grow") (result i32) (table.grow $t (ref.null func) (i32.const 10000000))))"#;
        assert_eq!(grows(16 * 1024 * 1024, bomb), Some(-1));
        assert_eq!(grows(16 * 1024 * 1024, "(module (table 100000000 funcref))"), None);
    }
}
