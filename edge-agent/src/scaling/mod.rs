//! How many pods of a workload there should be, by what they have to do.
//!
//! Pure, and decided here alone: with or without a connection. The rules are those of Kubernetes'
//! HorizontalPodAutoscaler (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, "Algorithm
//! details"): the mean over the pods is held against the target, with a tolerance; pods that say nothing
//! count so that less happens; what was recommended within a window of time holds a change back.
//!
//! | part | file |
//! |---|---|
//! | all workloads, and when they are looked at | this file |
//! | what a sample says of each pod | `load.rs` |
//! | how many pods that asks for | `scaler.rs` |

mod load;
mod scaler;
#[cfg(test)]
mod tests;

pub use load::QUEUE_DEPTH;

use load::Meter;
use scaler::{Load, Scaler};
use serde::{Deserialize, Serialize};
use shared::model::{MonotonicMs, PodId, Workload, WorkloadKey};
use shared::telemetry::Values;
use std::collections::BTreeMap;

/// Between two looks at what the pods do.
pub const LOOK_INTERVAL_MS: u64 = 10_000;

/// Samples come when their timer is due, and never on the millisecond.
const SLACK_MS: u64 = 1_000;

/// A pod whose load counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaledPod {
    /// Which pod.
    pub pod: PodId,
    /// Whether it is ready.
    pub is_ready: bool,
    /// UUIDs of the GPUs that it holds.
    pub gpus: Vec<String>,
    /// The CPU that it requests, in thousandths of a core.
    pub cpu_millicores: u64,
}

/// Another number of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaled {
    /// Of which workload.
    pub workload: WorkloadKey,
    /// Whether there are more.
    pub is_up: bool,
    /// Why, in words.
    pub message: String,
}

/// How many pods of a workload there are, as `edge-agent status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingStatus {
    /// Namespace and name.
    pub workload: String,
    /// Pods that there should be now.
    pub replicas: u32,
    /// The fewest.
    pub min_replicas: u32,
    /// The most.
    pub max_replicas: u32,
    /// What the last look saw, in words.
    pub seen: String,
}

/// The workloads whose number of pods is decided here.
#[derive(Debug, Default)]
pub struct Scaling {
    scalers: BTreeMap<WorkloadKey, Scaler>,
    meter: Meter,
    looked_at: Option<MonotonicMs>,
}

impl Scaling {
    /// What should run here. `present` tells how many pods of a workload there are, where that was decided by
    /// an earlier start of the agent.
    pub fn assign(
        &mut self,
        workloads: &BTreeMap<WorkloadKey, Workload>,
        present: impl Fn(&WorkloadKey) -> u32,
        now: MonotonicMs,
    ) {
        self.scalers.retain(|key, _| workloads.get(key).is_some_and(|w| w.autoscaling.is_some()));
        for (key, workload) in workloads {
            let Some(said) = &workload.autoscaling else { continue };
            match self.scalers.get_mut(key) {
                Some(scaler) => scaler.want(said, workload.replicas),
                None => {
                    let scaler = Scaler::new(said, workload.replicas, present(key), now);
                    self.scalers.insert(key.clone(), scaler);
                }
            }
        }
    }

    /// Whether any workload's pods are to be looked at.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.scalers.is_empty()
    }

    /// How many pods of `workload` there should be.
    #[must_use]
    pub fn replicas(&self, workload: &Workload) -> u32 {
        self.scalers.get(&workload.key).map_or(workload.replicas, Scaler::replicas)
    }

    /// Whether `workload`'s pods are counted here.
    #[must_use]
    pub fn decides(&self, workload: &WorkloadKey) -> bool {
        self.scalers.contains_key(workload)
    }

    /// Whether it is time for a look.
    #[must_use]
    pub fn is_due(&self, now: MonotonicMs) -> bool {
        let passed = |at| now.since_ms(at) >= LOOK_INTERVAL_MS - SLACK_MS;
        self.is_needed() && self.looked_at.is_none_or(passed)
    }

    /// Looks at what `pods` do, as a sample tells it; what that changes.
    pub fn look(&mut self, values: &Values, pods: &[ScaledPod], now: MonotonicMs) -> Vec<Scaled> {
        self.looked_at = Some(now);
        self.meter.take(values, pods, now);
        let mut scaled = Vec::new();
        for (key, scaler) in &mut self.scalers {
            let own = pods.iter().filter(|pod| pod.pod.workload == *key);
            let loads: Vec<Load> = own
                .map(|pod| Load {
                    is_ready: pod.is_ready,
                    value: self.meter.load(pod, scaler.metric(), scaler.metric_name()),
                })
                .collect();
            if let Some((is_up, message)) = scaler.look(&loads, now) {
                scaled.push(Scaled { workload: key.clone(), is_up, message });
            }
        }
        scaled
    }

    /// Every workload whose number of pods is decided here.
    pub fn statuses(&self) -> impl Iterator<Item = ScalingStatus> + '_ {
        self.scalers.iter().map(|(key, scaler)| ScalingStatus {
            workload: key.to_string(),
            replicas: scaler.replicas(),
            min_replicas: scaler.min_replicas(),
            max_replicas: scaler.max_replicas(),
            seen: scaler.seen().to_owned(),
        })
    }
}
