//! `EdgeNode`: what the hub is told of a node besides its certificate.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]
#![expect(clippy::duplicated_attributes, reason = "each column of a printer is one of its own")]

use super::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::model::{MemoryQuantity, Taint};
use std::collections::BTreeMap;

/// What the hub is told of a node besides its certificate.
#[derive(Debug, Clone, PartialEq, Default, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hinterland.dev",
    version = "v1alpha1",
    kind = "EdgeNode",
    plural = "edgenodes",
    shortname = "en",
    category = "hinterland",
    doc = "A node of the fleet: labels by which workloads select it (its metadata's), marks that keep \
           workloads away, and what its link may carry. Its name is the one in its certificate.",
    status = "EdgeNodeStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Scheduling",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="SchedulingDisabled")].reason"#
    ),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods.total"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.pods.ready"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.capacity.gpus"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeNodeSpec {
    /// Who it must be, where that is known beforehand: a node with another key is neither enrolled by this
    /// name nor let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<NodeIdentity>,
    /// Whether it may be enrolled and let in. One that is denied is thrown out at once, and comes back when it
    /// is approved again; what it runs goes on meanwhile.
    #[serde(default)]
    pub approval: Approval,
    /// Marks that keep workloads away unless they bear them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::taints")]
    pub taints: Vec<Taint>,
    /// Cordoned: nothing new comes to it, whatever a workload bears; what it has stays and is updated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unschedulable: bool,
    /// What its link may carry; no limit where nothing is said.
    #[serde(default)]
    pub link: LinkSpec,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeIdentity {
    /// Its key for sessions in hexadecimal, as `edge-agent` shows it.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub session_key: String,
}

/// Whether a node may be enrolled and let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    /// It may.
    #[default]
    Approved,
    /// It may not.
    Denied,
}

/// What a node's link may carry, counted as it is on the wire, both ways.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkSpec {
    /// Bytes of any 24 hours, at least 20 000, as in `1Mi` or `250k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub bytes_per_day: Option<MemoryQuantity>,
    /// Bytes of any second, at least 500, as in `8k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub bytes_per_second: Option<MemoryQuantity>,
}

/// How a node is doing. Written when something changes, and never for a heartbeat.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: it is in session, and `Unknown` while it is offline, since its pods go on without the
    /// hub. `SchedulingDisabled`, where nothing new comes to it: `Cordoned`, `Draining`, `Drained`. Further
    /// ones as the node reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent_version: String,
    /// Who is enrolled by this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<NodeIdentity>,
    /// What the machine has.
    #[serde(default)]
    pub capacity: NodeResources,
    /// What of it pods may have: without the share of the system, and without GPUs and MIG instances that
    /// are not healthy.
    #[serde(default)]
    pub allocatable: NodeResources,
    /// Its pods.
    #[serde(default)]
    pub pods: PodCounts,
}

/// Amounts of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeResources {
    /// Cores, as in `4` or `500m`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpu: String,
    /// Main memory, as in `8Gi`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub memory: String,
    /// GPUs. What pods may have is without those in MIG mode: of these they get instances.
    #[serde(default)]
    pub gpus: u32,
    /// Memory of these GPUs together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gpu_memory: String,
    /// MIG instances by profile, as in `1g.10gb: 7`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mig: BTreeMap<String, u32>,
}

/// How many pods a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// All that it reports.
    #[serde(default)]
    pub total: u32,
    /// Those that are ready.
    #[serde(default)]
    pub ready: u32,
    /// All of them by phase.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_phase: BTreeMap<String, u32>,
}
