//! The custom resources of `hinterland.dev/v1alpha1`: what they may say, and what the hub says back.
//!
//! One definition of each kind: objects of the API server and documents of a directory are read by
//! the same types, and the definitions under `deploy/crds` are made of them (`hub crds`).
//!
//! Unlike the API server, which drops fields that it does not know, these types refuse them. The
//! schema of a pod template is the whole one of `core/v1`, so that nothing is dropped before it can be
//! refused: what lies outside the supported subset is named by a CEL rule where one can see it, and by
//! the reader of the object where none can.
//!
//! | file | what it holds |
//! |---|---|
//! | `workload`, `affinity`, `autoscaling`, `gpu`, `models`, `offline`, `results`, `rollout` | `InferenceWorkload` |
//! | `node` | `EdgeNode` |
//! | `cluster` | `EdgeCluster` |
//! | `schema` | what the derived schemas lack: quantities, taints, the pod template and its rules |
//! | `crds` | the definitions, as they are installed |

mod affinity;
mod autoscaling;
mod cluster;
mod crds;
mod gpu;
mod models;
mod node;
mod offline;
mod results;
mod rollout;
mod schema;
mod workload;

pub use affinity::{LabelExpression, LabelOperator, NodeAffinity, NodeSelectorTerm, PreferredTerm};
pub use autoscaling::{AutoscalingSpec, ScalingMetric};
pub use cluster::{
    ClusterRef, EdgeCluster, EdgeClusterSpec, EdgeClusterStatus, KubeconfigSecretRef,
};
pub use crds::{CrdError, crd_files, crds_yaml};
pub use gpu::GpuSpec;
pub use models::ModelSpec;
pub use node::{
    Approval, EdgeNode, EdgeNodeSpec, EdgeNodeStatus, LinkSpec, NodeIdentity, NodeResources,
    PodCounts,
};
pub use offline::{OfflinePolicySpec, RescheduleSpec};
pub use results::{DeadbandSpec, ResultRouteSpec, ThinningSpec};
pub use rollout::{OnFailure, RolloutSpec, RolloutStatus};
pub use workload::{
    ClusterCounts, InferenceWorkload, InferenceWorkloadSpec, InferenceWorkloadStatus,
    ParametersFromSpec, PlacementSpec, UnchosenNodes,
};

/// What every object and document says of itself.
pub const API_VERSION: &str = "hinterland.dev/v1alpha1";
