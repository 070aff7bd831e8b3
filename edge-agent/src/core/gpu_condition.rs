//! What of the GPUs a person should know though pods go on: samples to events and the node's conditions.

use super::AgentCore;
use crate::gpu::GpuConditionChange;
use shared::model::Now;
use shared::telemetry::Sample;

impl AgentCore {
    /// Tells what began or ended at a GPU, as a sample has it.
    pub(super) fn watch_gpus(&mut self, sample: &Sample, now: Now) {
        let gpus = &self.capacity.gpus.devices;
        let changes = self.gpu_conditions.look(&sample.values, gpus, now.monotonic);
        if changes.is_empty() {
            return;
        }
        for GpuConditionChange { gpu, reason, message } in changes {
            self.record_event(&gpu, reason, &message, now);
        }
        self.schedule_report(now.monotonic);
    }
}
