//! The agent's shell: one small loop that hands events to the core and performs its effects.
//!
//! Decides nothing. Everything runs on one thread; what takes long is begun here and ends as an
//! event.
//!
//! | file | what it does |
//! |---|---|
//! | `boot.rs` | keys, ledger, store, runtime: from files to a core, with no network |
//! | `run.rs` | the loop |
//! | `perform.rs` | performs one effect; the simulation compiles the same |
//! | `outside.rs` | the ports of `perform` on real things |
//! | `calls.rs` | answers calls |
//! | `link.rs` | MQTT as events |
//! | `scrape.rs` | the metrics pages of pods |
//! | `admin.rs` | health, metrics, status, logs |
//! | `models.rs`, `look.rs` | the models on this node, and what may change behind the agent's back |
//! | `system.rs` | what the operating system says of this node |

mod admin;
mod boot;
mod calls;
mod link;
mod look;
mod models;
mod outside;
mod perform;
mod run;
mod scrape;
mod system;

#[cfg(fuzzing)]
pub use scrape::series_of_page;

pub use admin::Query;
pub use boot::{BootError, open_store_to_verify, read_session_key};
pub use perform::{AgentPorts, perform};
pub use run::run;
