//! The agent's shell: one small loop that hands events to the core and performs its effects.
//!
//! Decides nothing. Everything runs on one thread; what takes long is begun here and ends as an
//! event.

mod admin;
mod boot;
mod link;
mod perform;
mod system;

pub use admin::Query;
pub use boot::{BootError, run};
pub use perform::{AgentPorts, perform};
