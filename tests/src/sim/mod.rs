//! The simulated world: the production cores and the production `perform` of agent and hub, on
//! stores, a runtime, a link and a clock in memory.
//!
//! One seed decides everything: what is dropped, repeated, reordered or delayed, who crashes between
//! which two effects, when the link is cut, when a disk is full, what the fleet should run. After
//! each event the invariants are checked; at the end everything is healed and the world must come to
//! rest with equal digests. A failing seed prints itself and its event log, and replays alone.
//!
//! | file | what it holds |
//! |---|---|
//! | `disk.rs` | a store in memory that can be full |
//! | `clock.rs` | a node's wall clock, which may be wrong |
//! | `runtime.rs` | pods in memory that outlive their agent |
//! | `link.rs` | a broker that drops, repeats, reorders and forgets |
//! | `agent.rs`, `hub.rs` | one core each, its ports, and its crashes |
//! | `scene.rs` | nodes, GPUs, workloads and samples |
//! | `world.rs`, `world/` | time and the order of everything, what runs, who is connected, what breaks |
//! | `accounts/` | each record that was made, and what became of it |
//! | `setup.rs`, `runs.rs` | what a world begins with; many worlds, and one that failed |
//! | `thief.rs` | who hands one node what was signed for another |
//! | `scenarios.rs` | worlds with a plot |
//! | `invariants.rs` | what else must hold after every event, and at the end |

mod accounts;
mod agent;
mod clock;
mod disk;
mod hub;
mod invariants;
mod link;
mod runs;
mod runtime;
pub mod scenarios;
mod scene;
mod setup;
mod thief;
mod world;

pub use runs::{Failure, run_seed, run_seed_with_log, run_seeds};
pub use setup::Options;
pub use world::{Report, World};
