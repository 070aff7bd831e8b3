//! The hub of Hinterland: holds what the fleet should run, and learns how it is doing.
//!
//! | module | what it holds |
//! |---|---|
//! | [`core`] | a session and two maps a node, and what all nodes should run (pure) |
//! | [`fleet`] | what runs where (pure) |
//! | [`api`] | the custom resources: their specs, their statuses, their schemas |
//! | [`manifests`] | desired state read strictly from a directory of YAML |
//! | `reconcile` | custom resources to desired state, and statuses back (pure) |
//! | [`cluster`] | the management cluster's API server |
//! | `leader` | which of several hubs leads |
//! | `members` | workloads in member k3s clusters |
//! | [`ports`] | what the core's effects need of the world, and `perform` |
//! | [`broker`] | the embedded MQTT broker, and the connection to an external one |
//! | [`shell`] | the loop that performs the core's effects; keys, CA, signing |
//! | [`admin`] | the HTTP API |
//! | `export` | the metrics |
//! | [`config`] | the configuration, parsed to valid values |
//! | [`cli`] | the commands |

pub mod admin;
pub mod api;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod core;
mod export;
pub mod fleet;
#[cfg(fuzzing)]
pub mod hostile;
mod leader;
pub mod manifests;
mod members;
pub mod ports;
mod reconcile;
pub mod shell;
