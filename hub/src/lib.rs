//! The hub of Hinterland: holds what the fleet should run, and learns how it is doing.
//!
//! | module | what it holds |
//! |---|---|
//! | [`manifests`] | desired state read strictly from a directory of YAML |
//! | [`fleet`] | what runs where (pure) |
//! | [`broker`] | the embedded MQTT broker, and the connection to an external one |

pub mod broker;
pub mod fleet;
pub mod manifests;
