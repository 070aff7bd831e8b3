//! Desired state read strictly from a directory of YAML.

use shared::model::{NodeId, PodTemplate, Revision, Taint, Toleration, WorkloadKey};
use std::collections::BTreeMap;

/// The fleet's desired state; valid as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifests {
    /// Workloads by namespace and name.
    pub workloads: BTreeMap<WorkloadKey, InferenceWorkload>,
    /// What the manifests say of nodes.
    pub nodes: BTreeMap<NodeId, EdgeNode>,
}

/// How many pods a workload asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// So many on each node that it selects.
    PerNode(u32),
    /// So many over the fleet, spread over the nodes that it selects.
    Fleet(u32),
}

/// An `InferenceWorkload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceWorkload {
    /// Namespace and name.
    pub key: WorkloadKey,
    /// Names this content of `template`.
    pub revision: Revision,
    /// Higher goes first and may preempt lower.
    pub priority: i32,
    /// How many pods.
    pub replicas: Replicas,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// What each pod is.
    pub template: PodTemplate,
}

/// An `EdgeNode`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgeNode {
    /// Labels by which workloads select it.
    pub labels: BTreeMap<String, String>,
    /// Marks that keep workloads away.
    pub taints: Vec<Taint>,
}
