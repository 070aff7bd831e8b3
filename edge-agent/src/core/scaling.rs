//! How many pods a workload has, by what they have to do: samples to the numbers, the numbers to the pods.

use super::AgentCore;
use crate::scaling::{Scaled, ScaledPod};
use shared::model::Now;
use shared::telemetry::Sample;

impl AgentCore {
    /// Gives each workload of the desired state as many pods as it should have now.
    pub(super) fn assign_scaling(&mut self, now: Now) {
        let pods = &self.pods;
        self.scaling.assign(&self.workloads, |key| pods.count_of(key), now.monotonic);
        for workload in self.workloads.values_mut() {
            workload.replicas = self.scaling.replicas(workload);
        }
        self.watch_samples(now);
    }

    /// Looks at what the pods have to do. While pods are kept as they are, nothing is concluded.
    pub(super) fn scale(&mut self, sample: &Sample, now: Now) {
        if !self.scaling.is_due(now.monotonic) || self.must_hold() {
            return;
        }
        let pods: Vec<ScaledPod> = self.scaled_pods().collect();
        let scaled = self.scaling.look(&sample.values, &pods, now.monotonic);
        for Scaled { workload, is_up, message } in &scaled {
            let reason = if *is_up { "ScaledUp" } else { "ScaledDown" };
            self.record_event(&workload.to_string(), reason, message, now);
        }
        if !scaled.is_empty() {
            self.assign(now);
        }
    }

    fn scaled_pods(&self) -> impl Iterator<Item = ScaledPod> + '_ {
        let own = self.pods.statuses().filter(|status| self.scaling.decides(&status.pod.workload));
        own.filter_map(|status| {
            let workload = self.workloads.get(&status.pod.workload)?;
            // One that is on its way out does not count.
            (status.pod.ordinal < workload.replicas).then(|| ScaledPod {
                pod: status.pod.clone(),
                is_ready: status.ready,
                gpus: self.pods.gpus_of(&status.pod).to_vec(),
                cpu_millicores: workload.template.resources().cpu.millicores,
            })
        })
    }
}
