//! The agent's shell: one small loop that hands events to the core and performs its effects.
//!
//! Decides nothing. Everything runs on one thread; what takes long is begun here and ends as an
//! event.

mod perform;

pub use perform::{AgentPorts, perform};
