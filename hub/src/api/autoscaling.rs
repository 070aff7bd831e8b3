//! How many pods a workload has, by what they have to do.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use crate::manifests::{CLUSTER_REPLICAS_MAX, STABILIZATION_SECONDS_MAX};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// As many pods as it takes to keep a metric at its target: on each edge node, which decides it by itself,
/// with or without a connection; in each member cluster, by its HorizontalPodAutoscaler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("autoscaling.maxReplicas: expected at least minReplicas"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscalingSpec {
    /// Never fewer pods than these on one node, or in one member cluster.
    #[serde(default = "min_replicas")]
    #[schemars(range(min = 1, max = CLUSTER_REPLICAS_MAX))]
    pub min_replicas: u32,
    /// Never more pods than these.
    #[schemars(range(min = 1, max = CLUSTER_REPLICAS_MAX))]
    pub max_replicas: u32,
    /// What is kept at the target.
    pub metric: ScalingMetric,
    /// What it is to be, as a mean over the pods: per cent of the requested CPU or of a GPU, milliseconds, or a
    /// number.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub target: u32,
    /// What the metric is called, on the pod's own page or in the member cluster, where that is another name
    /// than the usual one; not of CPU, and not of GPUs on edge nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_name: Option<String>,
    /// Per cent of the requests that are answered in `target` milliseconds, for `LatencyPercentile`; 95 where
    /// nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub percentile: Option<u8>,
    /// More pods must have been asked for all this time, in seconds, before there are more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = STABILIZATION_SECONDS_MAX))]
    pub scale_up_stabilization_seconds: Option<u32>,
    /// Fewer pods must have been asked for all this time, in seconds, before there are fewer; 300 where nothing
    /// is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = STABILIZATION_SECONDS_MAX))]
    pub scale_down_stabilization_seconds: Option<u32>,
}

fn min_replicas() -> u32 {
    1
}

/// What the number of pods depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMetric {
    /// CPU time, in per cent of what is requested.
    CPUUtilization,
    /// Time in which the GPUs that the pod holds compute, in per cent: `DCGM_FI_DEV_GPU_UTIL`.
    GPUUtilization,
    /// Requests that a pod serves in a second: on edge nodes the rate of its first counter of requests, in member
    /// clusters `requests_per_second`.
    RequestsPerSecond,
    /// Requests that wait in a pod: `queue_depth`.
    QueueDepth,
    /// Milliseconds within which `percentile` per cent of a pod's requests are answered; in member clusters
    /// `request_latency_milliseconds`.
    LatencyPercentile,
}
