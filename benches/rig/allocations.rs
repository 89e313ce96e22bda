//! Counts what is allocated: of one thread, or of the whole process.
//!
//! A program that uses it puts [`Counting`] in place as its global allocator:
//!
//! ```ignore
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//! ```
//!
//! The counter of a thread always runs and costs about a nanosecond. Those of the process are
//! shared by its threads and would disturb a measurement of time, so they run only within
//! [`of_process`].

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ops::{Add, Sub},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// The system's allocator, which counts.
pub(crate) struct Counting;

/// What was asked for. Growing something counts as one, with its new size.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Allocated {
    pub(crate) times: u64,
    pub(crate) bytes: u64,
}

thread_local! {
    // Const and without a destructor, so reaching it allocates nothing.
    static OF_THREAD: Cell<Allocated> = const { Cell::new(Allocated { times: 0, bytes: 0 }) };
    static IS_APART: Cell<bool> = const { Cell::new(false) };
}

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static TIMES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What this thread has asked for so far.
pub(crate) fn of_thread() -> Allocated {
    OF_THREAD.get()
}

/// What all threads ask for while something is done.
pub(crate) fn of_process<R>(what: impl FnOnce() -> R) -> (R, Allocated) {
    let now = || Allocated { times: TIMES.load(Relaxed), bytes: BYTES.load(Relaxed) };
    let before = now();
    IS_COUNTING.store(true, Relaxed);
    let result = what();
    IS_COUNTING.store(false, Relaxed);
    (result, now() - before)
}

/// Does something whose allocations are the measurement's own and not counted.
pub(crate) fn apart<R>(what: impl FnOnce() -> R) -> R {
    let was_apart = IS_APART.replace(true);
    let result = what();
    IS_APART.set(was_apart);
    result
}

fn count(bytes: usize) {
    if IS_APART.get() {
        return;
    }
    let one = Allocated { times: 1, bytes: bytes as u64 };
    OF_THREAD.set(OF_THREAD.get() + one);
    if IS_COUNTING.load(Relaxed) {
        TIMES.fetch_add(1, Relaxed);
        BYTES.fetch_add(one.bytes, Relaxed);
    }
}

#[allow(unsafe_code, reason = "an allocator can't be written without; each call is passed on as it came")]
// SAFETY: all of it is the system's allocator; counting allocates nothing and does not unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

impl Add for Allocated {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { times: self.times + other.times, bytes: self.bytes + other.bytes }
    }
}

impl Sub for Allocated {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { times: self.times - other.times, bytes: self.bytes - other.bytes }
    }
}
