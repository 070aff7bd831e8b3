//! How pods run.

pub mod process;
