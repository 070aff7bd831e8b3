//! What runs where.
//!
//! Pure and deterministic: the same manifests and nodes give the same assignment. A node that is
//! offline is offline, not dead: what it holds stays assigned to it.

use crate::manifests::Manifests;
use shared::model::{NodeId, Workload, WorkloadKey};
use std::collections::{BTreeMap, BTreeSet};

/// A node, as far as the assignment looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetNode {
    /// Whether it is in session.
    pub online: bool,
    /// Workloads that are assigned to it now.
    pub previous: BTreeSet<WorkloadKey>,
}

/// What runs where, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// What each node should run.
    pub per_node: BTreeMap<NodeId, BTreeMap<WorkloadKey, Workload>>,
    /// Each workload over the fleet.
    pub workloads: BTreeMap<WorkloadKey, WorkloadSummary>,
}

/// One workload over the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkloadSummary {
    /// Pods that it asks for.
    pub desired: u32,
    /// Pods that are assigned to nodes.
    pub assigned: u32,
    /// Why nodes were not chosen, the commonest first, with the number of nodes.
    pub reasons: Vec<(String, u32)>,
}

/// Decides for all workloads at once.
#[must_use]
pub fn assign(manifests: &Manifests, nodes: &BTreeMap<NodeId, FleetNode>) -> Assignment {
    let _ = (manifests, nodes);
    Assignment::default()
}
