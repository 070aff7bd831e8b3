//! What the agent and the hub of Hinterland have in common.
//!
//! Without the feature `io` this crate is pure: it never opens a socket or a file, never asks for
//! the time and never asks for entropy; all three are given to it. The simulation relies on that.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the words of the domain: nodes, workloads, pods, GPUs, resources, time |
//! | [`limits`] | every limit, named, with its unit and its reason |
//! | [`wire`] | the only place that encodes or decodes what crosses the link or enters the store |
//! | [`wire_cost`] | what a message costs on the wire |
//! | [`trust`] | signatures, sealed sessions, sealed records, certificates; no sockets |
//! | [`sync`] | the map, the log and the call, and one session machine a side |
//! | [`telemetry`] | samples, batches and the seam for their codec |
//! | [`wire_cost`] | what a message and a connection cost on the wire, before they are sent |
//! | [`ports`] | the traits by which a core reaches the world |
//! | `io` | (feature `io`) MQTT client, sled store, clocks, keys |

pub mod limits;
pub mod model;
pub mod ports;
pub mod sync;
pub mod telemetry;
pub mod trust;
pub mod wire;
pub mod wire_cost;
mod words;

pub use words::in_words;

#[cfg(feature = "io")]
pub mod io;
