//! An allocator that counts, for each thread by itself.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting.
pub(crate) struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// How often this thread has asked for memory.
pub(crate) fn calls() -> u64 {
    CALLS.with(Cell::get)
}

/// Bytes that this thread has asked for and not given back.
pub(crate) fn live() -> i64 {
    LIVE.with(Cell::get)
}

fn count(calls: u64, bytes: i64) {
    // A thread that ends frees memory after its counters are gone; nobody reads those any more.
    let _gone = CALLS.try_with(|cell| cell.set(cell.get() + calls));
    let _gone = LIVE.try_with(|cell| cell.set(cell.get() + bytes));
}

// SAFETY: every call goes to the system's allocator with the arguments that came; the counters are plain cells of the
// thread, set up without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: as above, and the pointer came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: as above, and the pointer came from the same allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
