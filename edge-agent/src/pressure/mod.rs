//! Which pods leave while the node runs out of main memory, of process ids or of disk.
//!
//! Pure. As the kubelet evicts: those that use more than they asked for first, then the lowest priority, then those
//! that use most; one at a time, and time for the node to follow. Never one whose priority says that it is
//! critical. What was evicted comes back when there is room for what it asked for and some more, the highest
//! priority first, each time later: so none comes and goes in turn. Refuses to guess: a pod whose use is not known
//! is taken for one that uses nothing.

#[cfg(test)]
mod tests;

use shared::model::{MonotonicMs, PodId};
use shared::telemetry::{Series, Values};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Pods from this priority on are never evicted: `system-cluster-critical` of Kubernetes.
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Between two pods that leave: memory that a process gives back is seen at once, a disk's after a moment.
const STEP_MS: u64 = 20_000;

/// For so long a pod that leaves is waited for.
const LEAVE_MS: u64 = 60_000;

/// What a pod must have written for its end to help a disk: every container has a few files.
const DISK_USE_LEAST_BYTES: u64 = 16 << 20;

/// Processes and threads that a pod must have for its end to help: every pod has a few.
const PID_USE_LEAST: u64 = 32;

/// Until an evicted pod may come back: at first, and at most.
const WAIT_MS_MIN: u64 = 60_000;
const WAIT_MS_MAX: u64 = 3_600_000;

/// The pressure is over when so many per cent of the threshold are free.
const OVER_PERCENT: u64 = 150;

/// When pods leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvictionLimits {
    /// Below so many bytes of available main memory; 0 for never.
    pub memory_available_bytes: u64,
    /// Below so many process ids that are left; 0 for never.
    pub pids_available: PidAmount,
}

/// An amount of process ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidAmount {
    /// So many.
    Count(u64),
    /// So many per cent of those that there are.
    Percent(u8),
}

impl Default for PidAmount {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl PidAmount {
    fn of(self, all: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => all.saturating_mul(percent.into()) / 100,
        }
    }
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Which pod.
    pub pod: PodId,
    /// Its priority.
    pub priority: i32,
    /// Bytes of main memory that it asked for.
    pub memory_request_bytes: u64,
    /// Whether it is being stopped, for whatever reason.
    pub is_leaving: bool,
}

/// What a node runs out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Main memory.
    Memory,
    /// Process ids.
    Pids,
    /// Room on the disk.
    Disk,
}

/// What began or ended, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PressureChange {
    /// The node runs out of memory, or does not any more.
    Memory {
        /// Whether it does.
        holds: bool,
        /// How much is there, in words.
        message: String,
    },
    /// The node runs out of process ids, or does not any more.
    Pids {
        /// Whether it does.
        holds: bool,
        /// How many are left, in words.
        message: String,
    },
    /// A pod leaves.
    Evicted {
        /// Which.
        pod: PodId,
        /// Why, in words.
        message: String,
    },
    /// A pod may come back.
    Back(PodId),
}

/// The pressure, and who left for it.
#[derive(Debug, Default)]
pub struct Pressure {
    limits: EvictionLimits,
    memory: bool,
    pids: bool,
    evicted: BTreeMap<PodId, Evicted>,
    /// How often each pod was evicted that is not out any more.
    before: BTreeMap<PodId, u32>,
    stepped_at: Option<MonotonicMs>,
}

#[derive(Debug, Clone)]
struct Evicted {
    priority: i32,
    memory_request_bytes: u64,
    why: String,
    times: u32,
    until: MonotonicMs,
}

impl Pressure {
    /// There is none yet.
    #[must_use]
    pub fn new(limits: EvictionLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether the node runs out of main memory.
    #[must_use]
    pub fn of_memory(&self) -> bool {
        self.memory
    }

    /// Whether the node runs out of process ids.
    #[must_use]
    pub fn of_pids(&self) -> bool {
        self.pids
    }

    /// Pods that are not to run, and why.
    #[must_use]
    pub fn evicted(&self) -> BTreeMap<PodId, String> {
        self.evicted.iter().map(|(pod, evicted)| (pod.clone(), evicted.why.clone())).collect()
    }

    /// Forgets pods that are not wanted any more; of the others `request` says the bytes of main memory that they ask
    /// for now. Whether an evicted one was forgotten.
    pub fn keep(&mut self, request: impl Fn(&PodId) -> Option<u64>) -> bool {
        let before = self.evicted.len();
        self.evicted.retain(|pod, evicted| {
            let asked = request(pod);
            evicted.memory_request_bytes = asked.unwrap_or_default();
            asked.is_some()
        });
        self.before.retain(|pod, _| request(pod).is_some());
        self.evicted.len() != before
    }

    /// Looks at what a sample says of the node, on which `tenants` run; `of_disk` is whether it runs out of disk.
    pub fn look(
        &mut self,
        values: &Values,
        of_disk: bool,
        tenants: &[Tenant],
        now: MonotonicMs,
    ) -> Vec<PressureChange> {
        let mut changes = Vec::new();
        let available = bytes(values.get(&Series::new("node_memory_MemAvailable_bytes")));
        changes.extend(available.and_then(|available| self.judge_memory(available)));
        changes.extend(self.judge_pids(values));
        // One that is still on its way out still takes its part: it is waited for, but not for ever.
        let since_ms = self.stepped_at.map_or(u64::MAX, |at| now.since_ms(at));
        let is_out = |tenant: &Tenant| tenant.is_leaving || self.evicted.contains_key(&tenant.pod);
        let leaves = since_ms < LEAVE_MS && tenants.iter().any(is_out);
        let is_time = since_ms >= STEP_MS && !leaves;
        if !is_time {
            return changes;
        }
        // A node without process ids can't even end what uses its memory.
        let step = match (self.pids, self.memory, of_disk) {
            (true, _, _) => self.evict(Scarce::Pids, values, tenants, now),
            (_, true, _) => self.evict(Scarce::Memory, values, tenants, now),
            (_, _, true) => self.evict(Scarce::Disk, values, tenants, now),
            _ => available.and_then(|available| self.take_back(available, now)),
        };
        if step.is_some() {
            self.stepped_at = Some(now);
        }
        changes.extend(step);
        changes
    }

    fn judge_memory(&mut self, available: u64) -> Option<PressureChange> {
        let holds = holds(self.memory, available, self.limits.memory_available_bytes);
        if holds == self.memory {
            return None;
        }
        self.memory = holds;
        let message = format!("{available} bytes of main memory are available");
        Some(PressureChange::Memory { holds, message })
    }

    fn judge_pids(&mut self, values: &Values) -> Option<PressureChange> {
        let of_node = |name| bytes(values.get(&Series::new(name)));
        let all = of_node("node_processes_max_processes")?;
        let left = all.saturating_sub(of_node("node_processes_threads")?);
        let holds = holds(self.pids, left, self.limits.pids_available.of(all));
        if holds == self.pids {
            return None;
        }
        self.pids = holds;
        let message = format!("{left} of {all} process ids are left");
        Some(PressureChange::Pids { holds, message })
    }

    fn evict(
        &mut self,
        scarce: Scarce,
        values: &Values,
        tenants: &[Tenant],
        now: MonotonicMs,
    ) -> Option<PressureChange> {
        let used = |tenant: &Tenant| use_of(scarce, values, &tenant.pod);
        let asked = |tenant: &Tenant| match scarce {
            Scarce::Memory => tenant.memory_request_bytes,
            Scarce::Pids | Scarce::Disk => 0,
        };
        let least = match scarce {
            Scarce::Memory => 0,
            Scarce::Pids => PID_USE_LEAST,
            Scarce::Disk => DISK_USE_LEAST_BYTES,
        };
        let may_go = |tenant: &&Tenant| {
            let helps = used(tenant) >= least;
            let is_out = tenant.is_leaving || self.evicted.contains_key(&tenant.pod);
            tenant.priority < CRITICAL_PRIORITY && helps && !is_out
        };
        let rank = |tenant: &&Tenant| {
            let over = used(tenant).saturating_sub(asked(tenant));
            (over == 0, tenant.priority, Reverse(over), Reverse(tenant.pod.clone()))
        };
        let victim = tenants.iter().filter(may_go).min_by_key(rank)?;
        let (used, asked) = (used(victim), asked(victim));
        let of_bytes = |what| {
            format!("the node runs out of {what}: it used {used} bytes and asked for {asked}")
        };
        let why = match scarce {
            Scarce::Memory => of_bytes("main memory"),
            Scarce::Disk => of_bytes("disk"),
            Scarce::Pids => {
                format!("the node runs out of process ids: it had {used} processes and threads")
            }
        };
        let pod = victim.pod.clone();
        let times = self.before.remove(&pod).unwrap_or(0) + 1;
        let wait_ms = (WAIT_MS_MIN << (times - 1).min(6)).min(WAIT_MS_MAX);
        let evicted = Evicted {
            priority: victim.priority,
            memory_request_bytes: victim.memory_request_bytes,
            why: why.clone(),
            times,
            until: now.plus_ms(wait_ms),
        };
        self.evicted.insert(pod.clone(), evicted);
        Some(PressureChange::Evicted { pod, message: why })
    }

    /// The highest priority whose time has come, if there is room for what it asked for.
    fn take_back(&mut self, available: u64, now: MonotonicMs) -> Option<PressureChange> {
        let over = self.limits.memory_available_bytes.saturating_mul(OVER_PERCENT) / 100;
        let due = self.evicted.iter().filter(|(_, evicted)| {
            evicted.until <= now && available >= over.saturating_add(evicted.memory_request_bytes)
        });
        let first = due.max_by_key(|(pod, evicted)| (evicted.priority, Reverse(*pod)));
        let pod = first.map(|(pod, _)| pod.clone())?;
        let times = self.evicted.remove(&pod).map_or(0, |evicted| evicted.times);
        self.before.insert(pod.clone(), times);
        Some(PressureChange::Back(pod))
    }
}

/// Whether there is pressure, when there is so much left and it may be no less than so much.
fn holds(held: bool, left: u64, least: u64) -> bool {
    let over = least.saturating_mul(OVER_PERCENT) / 100;
    if held { left < over } else { left < least }
}

fn use_of(scarce: Scarce, values: &Values, pod: &PodId) -> u64 {
    let name = match scarce {
        Scarce::Memory => "container_memory_working_set_bytes",
        Scarce::Pids => "container_threads",
        Scarce::Disk => "container_fs_usage_bytes",
    };
    let series = Series::new(name).with("namespace", pod.workload.namespace());
    bytes(values.get(&series.with("pod", &pod.name()))).unwrap_or(0)
}

fn bytes(value: Option<f64>) -> Option<u64> {
    // A measure is no more than 2^63.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    value.filter(|value| value.is_finite() && *value >= 0.0).map(|value| value as u64)
}
