//! The hub of Hinterland: holds what the fleet should run, and learns how it is doing.
//!
//! | module | what it holds |
//! |---|---|
//! | [`core`] | a session and two maps a node, and what all nodes should run (pure) |
//! | [`fleet`] | what runs where (pure) |
//! | [`manifests`] | desired state read strictly from a directory of YAML |
//! | [`ports`] | what the core's effects need of the world, and `perform` |
//! | [`broker`] | the embedded MQTT broker, and the connection to an external one |

pub mod broker;
pub mod core;
pub mod fleet;
pub mod manifests;
pub mod ports;
