//! How many pods a workload has, by what they have to do.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use crate::manifests::CLUSTER_REPLICAS_MAX;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// As many pods as it takes to keep a metric at its target: in each member cluster, by its
/// HorizontalPodAutoscaler. Edge nodes do not decide it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("autoscaling.maxReplicas: expected at least minReplicas"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscalingSpec {
    /// Never fewer pods than these.
    #[serde(default = "min_replicas")]
    #[schemars(range(min = 1, max = CLUSTER_REPLICAS_MAX))]
    pub min_replicas: u32,
    /// Never more pods than these.
    #[schemars(range(min = 1, max = CLUSTER_REPLICAS_MAX))]
    pub max_replicas: u32,
    /// What is kept at the target.
    pub metric: ScalingMetric,
    /// What it is to be, as a mean over the pods: per cent of the requested CPU or of a GPU, or a number.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub target: u32,
    /// The cluster's name of the metric, where that is another than the usual one; not of CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_name: Option<String>,
}

fn min_replicas() -> u32 {
    1
}

/// What the number of pods depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMetric {
    /// CPU time, in per cent of what is requested.
    CPUUtilization,
    /// Time in which the pod's GPU computes, in per cent: `DCGM_FI_DEV_GPU_UTIL`, as dcgm-exporter has it.
    GPUUtilization,
    /// Requests that a pod serves in a second: `requests_per_second`.
    RequestsPerSecond,
    /// Requests that wait in a pod: `queue_depth`.
    QueueDepth,
}
