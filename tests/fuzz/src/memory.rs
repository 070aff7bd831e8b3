//! A bound on the memory of one execution, which libFuzzer has only with a sanitizer.
//!
//! Counts what Rust's allocator hands out. Past the bound the process ends, so that libFuzzer keeps
//! the input; it is not an error that a decoder could catch.

#![allow(unsafe_code, reason = "an allocator can't be written without; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that one execution may hold at once. The largest thing that is decoded is a map update of
/// 4 MiB, held as chunks, as a whole and as items; inputs here are far smaller.
pub const BYTES_MAX: usize = 64 << 20;

/// Bytes that are held now.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes at which the process ends.
static BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed).saturating_add(bytes);
    if held > BOUND.load(Relaxed) {
        // To print allocates as well.
        BOUND.store(usize::MAX, Relaxed);
        let line = format!("one execution holds more than {BYTES_MAX} bytes: {bytes} more asked\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        std::process::abort();
    }
}

// SAFETY: hands every request to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are the system allocator's demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `execution` within [`BYTES_MAX`] beyond what is held before it.
pub fn bounded(execution: impl FnOnce()) {
    BOUND.store(HELD.load(Relaxed).saturating_add(BYTES_MAX), Relaxed);
    execution();
    BOUND.store(usize::MAX, Relaxed);
}
