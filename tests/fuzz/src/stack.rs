//! A second stack for the signal that a full one causes: without it libFuzzer can't keep the input.

#![allow(unsafe_code, reason = "signal handlers are set up by system calls that Rust can't check")]

use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// Bytes of the second stack; libFuzzer's handler writes a file on it.
const STACK_BYTES: usize = 256 * 1024;

/// Gives this thread a second stack for signals. libFuzzer, which sets its handlers later, leaves
/// them there.
pub(crate) fn give_signals_a_stack() {
    let stack = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
    let stack =
        libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_BYTES };
    // SAFETY: the memory is never freed, and a zeroed `sigaction` is the default action.
    unsafe {
        libc::sigaltstack(&raw const stack, null_mut());
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &raw const action, null_mut());
    }
}
