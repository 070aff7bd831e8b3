//! A library with NVML's C interface that replays a recording, for tests of the agent's real adapter.
//!
//! It is loaded in place of NVIDIA's by `nvml_library` in the agent's configuration. Beside it lies
//! `recording.json`, which it reads anew at every call, so that a test changes what the driver says by
//! writing that file: a GPU that falls off the bus, a driver that comes later. Each copy of the library
//! in a folder of its own has a recording of its own.
//!
//! | file | holds |
//! |---|---|
//! | `recording.rs` | what a driver says and which calls fail |
//! | `handle.rs` | which GPU or MIG instance a C handle stands for |
//! | `place.rs` | where the library lies, and so its recording |
//! | `events.rs` | sets of events |
//! | `answer.rs` | what a C function answers, through the caller's pointers |
//! | `exports.rs`, `exports/` | the C functions |
//!
//! It knows the functions that the agent calls and no other; computes nothing; changes no recording.

mod answer;
mod events;
mod exports;
mod handle;
mod place;
mod recording;

pub use recording::{
    Clocks, Ecc, Failures, Gpu, Instance, Memory, Mig, Process, Processes, Recording, RemappedRows,
    RetiredPages, Throughput, Utilization, XidEvent,
};
