//! `EdgeCluster`: a member k3s cluster into which workloads are reconciled.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]
#![expect(clippy::duplicated_attributes, reason = "each column of a printer is one of its own")]

use super::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A member cluster: how its API server is reached.
#[derive(Debug, Clone, PartialEq, Default, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hinterland.dev",
    version = "v1alpha1",
    kind = "EdgeCluster",
    plural = "edgeclusters",
    shortname = "ec",
    category = "hinterland",
    doc = "A member k3s cluster: workloads with a `clusterSelector` that selects it (by its metadata's \
           labels) are reconciled into it.",
    status = "EdgeClusterStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Workloads", type_ = "integer", json_path = ".status.workloads"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[x_kube(validation = Rule::new("has(self.kubeconfigSecretRef) != has(self.clusterRef)")
    .message("spec: expected exactly one of kubeconfigSecretRef and clusterRef"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeClusterSpec {
    /// A Secret in the hub's own namespace that holds a kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret_ref: Option<KubeconfigSecretRef>,
    /// A `Cluster` of Cluster API, whose Secret `<name>-kubeconfig` holds a kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<ClusterRef>,
}

/// A Secret in the hub's own namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigSecretRef {
    /// Its name.
    pub name: String,
    /// The key of its data that holds the kubeconfig.
    #[serde(default = "kubeconfig_key")]
    pub key: String,
}

fn kubeconfig_key() -> String {
    "kubeconfig".to_owned()
}

/// A `Cluster` of Cluster API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterRef {
    /// Its name.
    pub name: String,
    /// Its namespace, in which the hub must be allowed to read that Secret.
    pub namespace: String,
}

/// How a member cluster is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeClusterStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the spec is one. `Ready`: its API server answers, and has what it should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The version of its API server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its nodes.
    #[serde(default)]
    pub nodes: u32,
    /// GPUs that its nodes have for pods.
    #[serde(default)]
    pub gpus: u32,
    /// Workloads that select it.
    #[serde(default)]
    pub workloads: u32,
}
