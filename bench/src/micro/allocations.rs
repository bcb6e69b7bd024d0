//! How often the heap is asked for memory.
//!
//! A program that wants to know makes [`Counting`] its global allocator; [`count`] then tells what a piece of
//! work asked for, on the thread that does it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ASKED: Cell<Allocations> = const { Cell::new(Allocations { calls: 0, bytes: 0 }) };
}

/// What the heap was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Allocations {
    /// Calls that allocated or made an allocation larger.
    pub calls: u64,
    /// Bytes asked for by them.
    pub bytes: u64,
}

/// The system's allocator, with counts by thread.
#[derive(Debug)]
pub struct Counting;

fn note(bytes: usize) {
    // While a thread ends its counts may be gone; what it does then is nobody's work.
    let _ = ASKED.try_with(|asked| {
        let Allocations { calls, bytes: before } = asked.get();
        asked.set(Allocations { calls: calls + 1, bytes: before + bytes as u64 });
    });
}

// SAFETY: every call goes to the system's allocator with the arguments as they came; counting touches a thread-local of
// plain numbers, which neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promise about pointer and layout is passed on; both came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about pointer and layout is passed on; both came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What a piece of work asks the heap for, on this thread: nothing at all unless [`Counting`] is the global allocator.
pub fn count<T>(work: impl FnOnce() -> T) -> (T, Allocations) {
    let before = ASKED.get();
    let result = work();
    let after = ASKED.get();
    (result, Allocations { calls: after.calls - before.calls, bytes: after.bytes - before.bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn what_is_asked_for_is_counted() {
        let (kept, asked) = count(|| vec![0u8; 1_000]);
        assert_eq!((asked, kept.len()), (Allocations { calls: 1, bytes: 1_000 }, 1_000));
        let (_, asked) = count(|| drop(kept));
        assert_eq!(asked.calls, 0);
    }
}
