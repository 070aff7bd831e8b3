//! What happened on a node: the records of the events log.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::time::{ClockQuality, UnixMs};
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When, by the node's clock.
    pub at: UnixMs,
    /// How far that clock can be believed.
    pub quality: ClockQuality,
    /// What it happened to: a pod as `namespace/name-ordinal`, or `node`.
    pub object: String,
    /// A word for programs, as in `BackOff`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}
