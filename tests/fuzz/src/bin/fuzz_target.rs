//! What libFuzzer drives: one target, named by `FUZZ_TARGET`.

#![no_main]
#![allow(
    unsafe_code,
    reason = "libFuzzer calls functions by unmangled names; see stack.rs as well"
)]

libfuzzer_sys::fuzz_target!(init: fuzz::prepare(), |data: &[u8]| {
    let target = fuzz::chosen();
    fuzz::memory::bounded(|| target(data));
});
