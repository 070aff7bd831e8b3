//! Faults that must be found. Each stands behind a number of 32 bits that chance does not meet: only
//! a fuzzer that sees comparisons gets there, so these fail where the instrumentation is missing.

use std::hint::black_box;

fn magic(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Panics.
///
/// # Panics
/// That is what it is for.
pub fn panic(data: &[u8]) {
    assert!(magic(data) != Some(0x5eed_cafe), "the planted panic was found");
}

/// Takes as much memory as the next bytes claim, up to 4 GiB.
pub fn memory(data: &[u8]) {
    if magic(data) == Some(0x0bad_a110) {
        let claimed = data.get(4..).and_then(magic).unwrap_or(0);
        drop(black_box(Vec::<u8>::with_capacity(usize::try_from(claimed).unwrap_or(0))));
    }
}

/// Recurses without end.
pub fn recursion(data: &[u8]) {
    fn deeper(depth: u64) -> u64 {
        let frame = black_box([depth; 8]);
        let below = if depth == u64::MAX { 0 } else { deeper(depth + 1) };
        black_box(below).wrapping_add(frame.iter().sum())
    }
    if magic(data) == Some(0xdeeb_dee9) {
        black_box(deeper(0));
    }
}
