//! Which pods rest while a GPU is too hot or takes too much power: samples to bars, bars to placement.

use super::AgentCore;
use crate::heat::{GpuLimits, Heat, HeatChange, Tenant};
use shared::model::Now;
use shared::telemetry::Sample;

impl AgentCore {
    /// From now on GPUs may not exceed these.
    pub fn limit_gpus(&mut self, limits: GpuLimits, now: Now) {
        self.heat = Heat::new(limits);
        self.watch_samples(now);
    }

    /// Has samples looked at often enough for those who conclude something from them.
    pub(super) fn watch_samples(&mut self, now: Now) {
        let is_watched = self.scaling.is_needed() || self.heat.is_needed() || self.evicts;
        self.recorder.watch(is_watched, now.monotonic);
    }

    /// Lets pods rest, or come back, as a sample has it.
    pub(super) fn watch_heat(&mut self, sample: &Sample, now: Now) {
        // While pods are kept as they are none can rest.
        if !self.heat.is_needed() || self.must_hold() {
            return;
        }
        let tenants: Vec<Tenant> = self.tenants().collect();
        let gpus = &self.capacity.gpus.devices;
        let Some(changes) = self.heat.look(&sample.values, gpus, &tenants, now.monotonic) else {
            return;
        };
        for HeatChange { gpu, is_hot, message } in &changes {
            let reason = if *is_hot { "GpuTooHot" } else { "GpuCooledDown" };
            self.record_event(gpu, reason, message, now);
        }
        self.provide(now);
    }

    fn tenants(&self) -> impl Iterator<Item = Tenant> + '_ {
        self.pods.statuses().filter_map(|status| {
            let gpus = self.pods.gpus_of(&status.pod).to_vec();
            let workload = self.workloads.get(&status.pod.workload);
            let priority = workload.map_or(0, |workload| workload.priority);
            (!gpus.is_empty()).then(|| Tenant { pod: status.pod.clone(), priority, gpus })
        })
    }
}
