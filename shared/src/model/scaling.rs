//! How many pods of a workload a node runs, by what they have to do.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use serde::{Deserialize, Serialize};

/// As many pods as it takes to keep a metric at its target. The fewest are
/// [`super::Workload::replicas`]; the node decides by itself, with or without a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autoscaling {
    /// Never more pods than these.
    pub max_replicas: u32,
    /// What is kept at the target.
    pub metric: ScalingMetric,
    /// What it is to be, as a mean over the pods; in the metric's unit, at least 1.
    pub target: u32,
    /// What the pod's own page calls it, where that is another name than the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_name: Option<String>,
    /// More pods must have been asked for all this time, in seconds, before there are more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scale_up_seconds: u32,
    /// Fewer pods must have been asked for all this time, in seconds, before there are fewer.
    pub scale_down_seconds: u32,
}

/// What the number of pods depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScalingMetric {
    /// CPU time, in per cent of what is requested.
    CpuUtilization,
    /// Time in which the GPUs that a pod holds compute, in per cent.
    GpuUtilization,
    /// Requests that a pod serves in a second: from a counter of its own page.
    RequestsPerSecond,
    /// Requests that wait in a pod: a gauge of its own page.
    QueueDepth,
    /// Milliseconds within which so many per cent of a pod's requests are answered: from a histogram of its
    /// own page.
    LatencyPercentile(u8),
}

impl ScalingMetric {
    /// Whether it is read from the pod's own page of metrics.
    #[must_use]
    pub fn is_of_page(self) -> bool {
        !matches!(self, Self::CpuUtilization | Self::GpuUtilization)
    }
}

// `serde` hands over a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
