//! What becomes of a workload where nodes are offline for long.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use crate::manifests::{DELETION_DEADLINE_SECONDS, OFFLINE_SECONDS_MAX};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a workload where nodes are offline. An offline node is not dead: without this, what it
/// runs stays assigned to it for as long as it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfflinePolicySpec {
    /// Replicas over the fleet of nodes that stay offline go to nodes in session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reschedule: Option<RescheduleSpec>,
    /// When it is deleted, nodes have so long to confirm that its pods are gone; then the object goes all
    /// the same, and the nodes that were offline stop its pods when they are back. 0 waits for nobody.
    #[serde(default = "deletion_deadline_seconds")]
    #[schemars(range(max = OFFLINE_SECONDS_MAX))]
    pub deletion_deadline_seconds: u32,
}

impl Default for OfflinePolicySpec {
    fn default() -> Self {
        Self { reschedule: None, deletion_deadline_seconds: deletion_deadline_seconds() }
    }
}

fn deletion_deadline_seconds() -> u32 {
    DELETION_DEADLINE_SECONDS
}

/// When replicas go elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RescheduleSpec {
    /// A node that has been offline for so long loses its replicas to nodes in session, as far as these may
    /// have them. Its pods run meanwhile beside the new ones, and it stops them when it is back.
    #[schemars(range(min = 1, max = OFFLINE_SECONDS_MAX))]
    pub after_seconds: u32,
}
