//! What a node is told about itself: how much its link may carry.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use serde::{Deserialize, Serialize};

/// The key of the node's own item of desired state; those of workloads hold a `/`.
pub const NODE_POLICY_KEY: &str = "node";

/// The node's own item of desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodePolicy {
    /// What the link may carry.
    pub link: LinkBudget,
}

/// Bytes as they are on the wire, both ways together: TLS, TCP and IP headers, handshakes and
/// acknowledgements included. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkBudget {
    /// Bytes in any 24 hours.
    pub bytes_per_day: Option<u64>,
    /// Bytes in a second, as a mean over some seconds.
    pub bytes_per_second: Option<u64>,
}
