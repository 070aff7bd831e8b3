//! Desired state read strictly from a directory of YAML.
//!
//! A directory is valid as a whole or refused as a whole, with every problem that was found: file,
//! line and field. Whoever watches it keeps the last good state in force meanwhile. The same YAML is
//! what the custom resources of the same names take.
//!
//! | file | what it holds |
//! |---|---|
//! | `directory` | the files of a directory, within their limits |
//! | `documents` | the documents of a file, and the kinds that there are |
//! | `core_v1`, `attached` | ConfigMaps and Secrets, and whether a workload has those that it names |
//! | `workload`, `affinity`, `autoscaling`, `gpu`, `offline`, `results`, `rollout`, `node`, `labels` | what each kind may say |
//! | `yaml` | one strict YAML document, and where in it a field stands |
//! | `ports` | ports that a template calls by their names |
//! | `problem` | what was wrong, in words |
//! | `watcher` | changes, without a restart |

mod affinity;
mod attached;
mod autoscaling;
mod core_v1;
mod directory;
mod documents;
mod gpu;
mod labels;
mod models;
mod node;
mod offline;
mod parameters;
mod ports;
mod problem;
mod results;
mod rollout;
#[cfg(test)]
mod tests;
mod watcher;

mod workload;
mod yaml;

pub(crate) use affinity::{EXPRESSION_VALUES_MAX, TERM_EXPRESSIONS_MAX, TERMS_MAX};
pub use attached::{AttachedObject, AttachedObjects};
pub(crate) use attached::{Lookup, Standing, standing};
pub(crate) use autoscaling::{CLUSTER_REPLICAS_MAX, STABILIZATION_SECONDS_MAX, autoscaling_of};
pub use directory::{DIRECTORY_BYTES_MAX, FILE_BYTES_MAX, FILES_MAX, read_directory};
pub use documents::{DOCUMENTS_MAX, parse_documents};
pub(crate) use labels::Invalid;
pub(crate) use node::edge_node;
pub use node::{DRAIN_TAINT, HOSTNAME_LABEL};
pub use offline::OfflinePolicy;
pub(crate) use offline::{DELETION_DEADLINE_SECONDS, OFFLINE_SECONDS_MAX};
pub(crate) use parameters::PARAMETERS_FROM_MAX;
pub use problem::{ManifestProblem, ManifestProblems, PROBLEMS_MAX};
pub(crate) use rollout::WAVES_MAX;

pub use watcher::{ReadManifests, Watcher};
pub(crate) use workload::inference_workload;
pub use workload::{FLEET_REPLICAS_MAX, WORKLOADS_MAX};
pub(crate) use yaml::written_path;

use crate::api::{AutoscalingSpec, NodeAffinity};
use crate::fleet::rollout::RolloutPolicy;
use serde::{Deserialize, Serialize};
use shared::model::{
    LinkBudget, NodeId, PodTemplate, ResultRoute, Revision, Taint, Toleration, WorkloadKey,
};
use shared::trust::session::SessionPublicKey;
use std::collections::BTreeMap;

/// The fleet's desired state; valid as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifests {
    /// Workloads by namespace and name.
    pub workloads: BTreeMap<WorkloadKey, InferenceWorkload>,
    /// What the manifests say of nodes.
    pub nodes: BTreeMap<NodeId, EdgeNode>,
    /// ConfigMaps and Secrets that workloads name.
    pub objects: AttachedObjects,
}

/// How many pods a workload asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replicas {
    /// So many on each node that it selects.
    PerNode(u32),
    /// So many over the fleet, spread over the nodes that it selects.
    Fleet(u32),
}

/// An `InferenceWorkload`. Fields are only appended: the hub stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Where the pods' results go.
    pub results: Vec<ResultRoute>,
    /// How a new template reaches the nodes; all of them at once without.
    pub rollout: Option<RolloutPolicy>,
    /// Labels of the member clusters that it goes to, instead of edge nodes.
    pub cluster_selector: Option<BTreeMap<String, String>>,
    /// Terms over labels of nodes.
    #[serde(default)]
    pub affinity: Option<NodeAffinity>,
    /// What becomes of it where nodes are offline.
    #[serde(default)]
    pub offline: OfflinePolicy,
    /// The profile of the MIG instance that each pod has in member clusters; on edge nodes the template says
    /// it.
    #[serde(default)]
    pub mig: Option<String>,
    /// How many pods each node, or each member cluster, has of it, by what they have to do.
    #[serde(default)]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Where each node's or member cluster's own environment variables come from; of several, a later one wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters_from: Vec<ParametersFrom>,
}

/// A ConfigMap for each node or member cluster, found by a label of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParametersFrom {
    /// The beginning of the ConfigMaps' names; the label's value follows.
    pub prefix: String,
    /// The label.
    pub label: String,
    /// Whether one without the label, or without its ConfigMap, may run the workload as well.
    pub optional: bool,
}

impl InferenceWorkload {
    /// Whether it goes to a member cluster with these labels.
    pub(crate) fn selects_cluster(&self, labels: &BTreeMap<String, String>) -> bool {
        let selector = self.cluster_selector.as_ref();
        selector
            .is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    /// Pods that it asks for in each member cluster.
    pub(crate) fn replicas_in_a_cluster(&self) -> u32 {
        match self.replicas {
            Replicas::Fleet(count) => count,
            Replicas::PerNode(_) => 1,
        }
    }
}

/// An `EdgeNode`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct EdgeNode {
    /// Labels by which workloads select it.
    pub labels: BTreeMap<String, String>,
    /// Marks that keep workloads away.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned: nothing new comes to it.
    pub unschedulable: bool,
    /// What its link may carry.
    pub link: LinkBudget,
    /// The key that it must have, where one is named.
    pub session_key: Option<SessionPublicKey>,
    /// Whether it may neither be enrolled nor let in.
    pub is_denied: bool,
}

impl EdgeNode {
    /// Why a node of this name that has `key` is neither enrolled nor let in, in words.
    pub(crate) fn why_kept_out(&self, key: &SessionPublicKey) -> Option<&'static str> {
        let is_another = self.session_key.as_ref().is_some_and(|named| named != key);
        match (self.is_denied, is_another) {
            (true, _) => Some("its EdgeNode denies it (spec.approval)"),
            (false, true) => Some("its EdgeNode names another key (spec.identity.sessionKey)"),
            (false, false) => None,
        }
    }
}
