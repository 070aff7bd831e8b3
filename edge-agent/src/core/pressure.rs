//! Which pods leave while the node runs out of memory, process ids or disk: samples to evictions, evictions to placement.

use super::AgentCore;
use super::uplink::condition;
use crate::pressure::{EvictionLimits, Pressure, PressureChange, Tenant};
use shared::model::{Condition, ConditionStatus, Now, PodId, PodPhase};
use shared::telemetry::Sample;

impl AgentCore {
    /// From now on pods leave at these.
    pub fn evict_at(&mut self, limits: EvictionLimits, now: Now) {
        self.pressure = Pressure::new(limits);
        self.evicts = true;
        self.watch_samples(now);
    }

    /// Evicts a pod, or lets one come back, as a sample has it.
    pub(super) fn watch_pressure(&mut self, sample: &Sample, now: Now) {
        // While pods are kept as they are none can leave.
        if !self.evicts || self.must_hold() {
            return;
        }
        let forgot = self.forget_evicted();
        let tenants: Vec<Tenant> = self.running().collect();
        let values = &sample.values;
        let of_disk = self.must_pods_make_room();
        let changes = self.pressure.look(values, of_disk, &tenants, now.monotonic);
        if changes.is_empty() {
            if forgot {
                self.provide(now);
            }
            return;
        }
        for change in changes {
            let (object, reason, message) = match change {
                PressureChange::Memory { holds, message } => {
                    let reason =
                        if holds { "NodeHasMemoryPressure" } else { "NodeHasNoMemoryPressure" };
                    ("node".to_owned(), reason, message)
                }
                PressureChange::Pids { holds, message } => {
                    let reason = if holds { "NodeHasPIDPressure" } else { "NodeHasNoPIDPressure" };
                    ("node".to_owned(), reason, message)
                }
                PressureChange::Evicted { pod, message } => (pod.to_string(), "Evicted", message),
                PressureChange::Back(pod) => {
                    (pod.to_string(), "Returns", "there is room for it again".to_owned())
                }
            };
            self.record_event(&object, reason, &message, now);
        }
        self.schedule_report(now.monotonic);
        self.provide(now);
    }

    /// What the node runs out of for which pods leave.
    pub(super) fn pressure_conditions(&self) -> impl Iterator<Item = Condition> + '_ {
        let memory = self.pressure.of_memory().then(|| {
            let message = "pods leave, those first that use more than they asked for";
            condition("MemoryPressure", ConditionStatus::True, "NodeHasMemoryPressure", message)
        });
        let pids = self.pressure.of_pids().then(|| {
            let message = "pods leave that have many processes and threads";
            condition("PIDPressure", ConditionStatus::True, "NodeHasPIDPressure", message)
        });
        memory.into_iter().chain(pids)
    }

    /// Of evicted pods keeps those that are wanted, with what they ask for now; whether any was forgotten.
    fn forget_evicted(&mut self) -> bool {
        let (workloads, pods) = (&self.workloads, &self.pods);
        let request = |pod: &PodId| {
            pods.status(pod)?;
            let workload = workloads.get(&pod.workload)?;
            Some(workload.template.resources().memory.bytes)
        };
        self.pressure.keep(request)
    }

    /// Pods that run or begin to, and those that stop.
    fn running(&self) -> impl Iterator<Item = Tenant> + '_ {
        self.pods.statuses().filter_map(|status| {
            let is_leaving = status.phase == PodPhase::Stopping;
            let runs = matches!(status.phase, PodPhase::Running | PodPhase::Starting);
            let workload = self.workloads.get(&status.pod.workload)?;
            let memory_request_bytes = workload.template.resources().memory.bytes;
            let (pod, priority) = (status.pod.clone(), workload.priority);
            (runs || is_leaving).then_some(Tenant {
                pod,
                priority,
                memory_request_bytes,
                is_leaving,
            })
        })
    }
}
