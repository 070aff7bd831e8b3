//! The hub's shell: one small loop that hands events to the core and performs its effects.
//!
//! | file | what it holds |
//! |---|---|
//! | `boot` | opens everything in order, runs, closes |
//! | `hub` | the loop, and answers to the API's questions |
//! | `world` | store, broker, admissions, calls: what effects reach |
//! | `witness` | says who reads logs and runs commands |
//! | `brokers` | starts the embedded broker, or the connection to an external one |
//! | `signing` | requests in, enrolments out; serial numbers |
//! | `kubernetes` | custom resources as the source of desired state, and where statuses go |
//! | `keys` | the CA and the hub's keys in files |
//! | `admission` | whom the broker lets in |
//! | `replica` | waits until this hub leads, where there are several, and shares with the others |
//! | `registry` | who is enrolled, beside the store |
//! | `sinks` | starts the tasks of the sinks, hands them what is to be delivered |

mod admission;
mod boot;
mod brokers;
mod hub;
pub(crate) mod keys;
mod kubernetes;
mod registry;
mod replica;
mod signing;
mod sinks;
#[cfg(test)]
pub(crate) mod testing;
mod witness;
mod world;

pub use boot::{BootError, run};
pub use keys::KeysError;
pub use signing::SignError;
pub use sinks::SinkError;

/// Whether `bytes` are a file of the registry of enrolments.
#[cfg(fuzzing)]
pub(crate) fn is_enrolment(bytes: &[u8]) -> bool {
    registry::is_entry(bytes)
}
