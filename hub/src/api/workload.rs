//! `InferenceWorkload`: a pod template, where it goes, and how many.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]
#![expect(clippy::duplicated_attributes, reason = "each column of a printer is one of its own")]

use super::affinity::NodeAffinity;
use super::autoscaling::AutoscalingSpec;
use super::gpu::GpuSpec;
use super::models::ModelSpec;
use super::offline::OfflinePolicySpec;
use super::results::ResultRouteSpec;
use super::rollout::{RolloutSpec, RolloutStatus};
use super::schema;
use crate::fleet::REASONS_MAX;
use crate::manifests::{FLEET_REPLICAS_MAX, PARAMETERS_FROM_MAX};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use shared::limits::{MODELS_MAX, REPLICAS_PER_NODE_MAX, RESULT_ROUTES_MAX};
use shared::model::{PodTemplate, Toleration};
use std::collections::BTreeMap;

/// Inference pods on edge nodes: what to run, where, and how many.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hinterland.dev",
    version = "v1alpha1",
    kind = "InferenceWorkload",
    plural = "inferenceworkloads",
    shortname = "iw",
    category = "hinterland",
    category = "all",
    namespaced,
    doc = "Inference pods on edge nodes: what to run, where, and how many. Nodes go on running it \
           with or without a connection.",
    status = "InferenceWorkloadStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.placement.replicas",
        status_replicas_path = ".status.assigned",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desired"),
    printcolumn(name = "Assigned", type_ = "integer", json_path = ".status.assigned"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updated"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Offline", type_ = "integer", json_path = ".status.offline", priority = 1),
    printcolumn(
        name = "Unschedulable",
        type_ = "integer",
        json_path = ".status.unschedulable",
        priority = 1
    ),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[x_kube(validation = Rule::new(
    "has(self.offlinePolicy) && has(self.offlinePolicy.reschedule) ? \
     has(self.placement) && has(self.placement.replicas) : true")
    .message("offlinePolicy.reschedule: only placement.replicas, which are over the fleet, can go elsewhere"))]
#[x_kube(validation = Rule::new(
    "has(self.autoscaling) && has(self.placement) ? \
     !has(self.placement.replicas) && !has(self.placement.replicasPerNode) : true")
    .message("autoscaling: it decides the number of pods: expected no replicas beside it"))]
#[x_kube(validation = Rule::new(
    "has(self.models) && has(self.placement) ? !has(self.placement.clusterSelector) : true")
    .message("models: edge nodes keep them; in a member cluster expected a volume or an image with the model"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InferenceWorkloadSpec {
    /// Which nodes run it, and how many pods of it.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// A pod of a higher priority goes first, and takes the place of one of a lower where both do not fit.
    #[serde(default)]
    pub priority: i32,
    /// What each pod is: a `core/v1` pod template. What Hinterland does not support is refused, never
    /// run in part.
    #[schemars(schema_with = "schema::pod_template")]
    pub template: PodTemplate,
    /// What each pod has of GPUs, where the template does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// Models that its pods find as files: each node that has them runs it, and one that has not says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MODELS_MAX))]
    pub models: Vec<ModelSpec>,
    /// How many pods each node, or each member cluster, has of it, by what they have to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Where results of its pods go; the first route that matches a topic takes it. Without routes all
    /// of them go to the sink `default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = RESULT_ROUTES_MAX))]
    pub results: Vec<ResultRouteSpec>,
    /// How a new template reaches the nodes; all of them at once where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
    /// What becomes of it where nodes are offline for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_policy: Option<OfflinePolicySpec>,
    /// Environment variables that are each node's or member cluster's own, from ConfigMaps that are found by
    /// a label of it: one workload serves sites that differ in a camera's address. Of several a later one wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = PARAMETERS_FROM_MAX))]
    pub parameters_from: Vec<ParametersFromSpec>,
}

/// A ConfigMap for each node or member cluster, in the workload's namespace, whose keys become environment
/// variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParametersFromSpec {
    /// The beginning of the ConfigMaps' names, as in `camera-`; the value of the label follows.
    pub config_map_prefix: String,
    /// The label of the node, or of the `EdgeCluster`, as in `hinterland.dev/site`.
    pub label: String,
    /// Whether a node or cluster without the label, or without its ConfigMap, runs the workload as well.
    #[serde(default)]
    pub optional: bool,
}

/// Which nodes run a workload, and how many pods of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.replicasPerNode))")
    .message("placement.replicas: expected replicas over the fleet or replicasPerNode, not both"))]
#[x_kube(validation = Rule::new("!(has(self.clusterSelector) && has(self.replicasPerNode))")
    .message("placement.replicasPerNode: a member cluster places pods itself: expected replicas"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementSpec {
    /// Labels that a node must have. Every node has `kubernetes.io/hostname`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Terms over labels: those that a node must match, and those that it had better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<NodeAffinity>,
    /// Labels that a member cluster must have (`{}`: all of them). With it the workload becomes a
    /// Deployment in each of these, and runs on no edge node of its own; `replicas` is then for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<BTreeMap<String, String>>,
    /// Taints of a node or its GPUs that the pods bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::tolerations")]
    pub tolerations: Vec<Toleration>,
    /// So many pods on each node that is selected; 1 where neither this nor `replicas` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = REPLICAS_PER_NODE_MAX))]
    pub replicas_per_node: Option<u32>,
    /// So many pods over the fleet, spread over the nodes that are selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = FLEET_REPLICAS_MAX))]
    pub replicas: Option<u32>,
}

/// How a workload is doing over the fleet. Numbers and bounded lists: never an entry a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceWorkloadStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the hub runs it as it is written. `Ready`: all of its pods on nodes that are
    /// online are ready, and have the present template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Pods that it asks for.
    #[serde(default)]
    pub desired: u32,
    /// Pods that are assigned to nodes, online or not.
    #[serde(default)]
    pub assigned: u32,
    /// Assigned pods that are ready, as their nodes reported.
    #[serde(default)]
    pub ready: u32,
    /// Assigned pods on nodes that have the present spec.
    #[serde(default)]
    pub updated: u32,
    /// Pods that nodes run beyond the fewest, by its autoscaling.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub autoscaled: u32,
    /// Nodes with pods of it that are offline.
    #[serde(default)]
    pub offline: u32,
    /// Pods that no node was chosen for.
    #[serde(default)]
    pub unschedulable: u32,
    /// Why nodes were not chosen, the commonest reasons first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = REASONS_MAX))]
    pub unchosen: Vec<UnchosenNodes>,
    /// How it is doing in member clusters; nothing without a `clusterSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterCounts>,
    /// How far its new template is; nothing while all nodes have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Labels of its pods, for those who scale it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

/// Member clusters of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCounts {
    /// Those that it selects.
    pub selected: u32,
    /// Those that have it as it is written, all of its pods ready.
    pub ready: u32,
    /// Those whose API server does not answer: what runs there goes on.
    pub unreachable: u32,
}

/// One reason for which nodes were not chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnchosenNodes {
    /// Why.
    pub reason: String,
    /// How many.
    pub nodes: u32,
}

// `serde` hands over a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
