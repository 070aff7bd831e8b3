//! Which pod gets which GPUs, CPU and memory, and why not.
//!
//! Pure and deterministic: the same node and demands give the same decisions, in whatever order the
//! demands come. What runs stays where it is unless that has become impossible, or a pod of higher
//! priority needs the room; then as few as possible go, of the lowest priority first.
//!
//! Never sold twice: CPU and memory (by request), the memory of a shared GPU, a whole GPU, and a MIG
//! instance. A GPU in MIG mode goes to pods by its instances alone.

mod explain;
mod node;
#[cfg(test)]
mod tests;

pub use node::NodeResources;

use node::Usage;
use serde::{Deserialize, Serialize};
use shared::model::{PodId, PodResources, Revision, Toleration};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What one pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDemand {
    /// Which pod.
    pub pod: PodId,
    /// Which content of its template.
    pub revision: Revision,
    /// Higher goes first and may take the place of lower.
    pub priority: i32,
    /// What it asks for.
    pub resources: PodResources,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// What it runs on now.
    pub held: Option<Placement>,
}

/// What a pod is given besides CPU and memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// UUIDs of its GPUs, or of its MIG instance.
    pub gpus: Vec<String>,
    /// Its share of a shared GPU's memory in bytes.
    pub gpu_memory_bytes: Option<u64>,
}

/// What a pod takes of a node besides GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MainShare {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// Bytes of main memory.
    pub memory_bytes: u64,
}

impl MainShare {
    /// What a pod with these requests takes.
    #[must_use]
    pub fn of(resources: &PodResources) -> Self {
        Self { cpu_millicores: resources.cpu.millicores, memory_bytes: resources.memory.bytes }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.saturating_add(other.cpu_millicores),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    /// Whether a node has as much for pods.
    #[must_use]
    pub fn fits(self, node: &NodeResources) -> bool {
        self.cpu_millicores <= node.cpu_millicores && self.memory_bytes <= node.memory_bytes
    }
}

/// What was decided for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may run here.
    Placed(Placement),
    /// It can't run now.
    Unplaced {
        /// A word for programs, as in `InsufficientGpuMemory`.
        reason: String,
        /// A sentence for people.
        message: String,
    },
}

/// Higher priority first; of equal ones those that run, then by name.
type Rank = (Reverse<i32>, bool, PodId);

fn rank(demand: &PodDemand) -> Rank {
    (Reverse(demand.priority), demand.held.is_none(), demand.pod.clone())
}

/// Decides for all pods of a node at once.
#[must_use]
pub fn place(node: &NodeResources, demands: &[PodDemand]) -> BTreeMap<PodId, Decision> {
    let ranked: BTreeMap<Rank, &PodDemand> = demands.iter().map(|d| (rank(d), d)).collect();
    let mut usage = Usage::of(node);
    let mut waiting: BTreeMap<Rank, &PodDemand> = BTreeMap::new();
    for (rank, demand) in ranked {
        if !usage.keep(demand) {
            waiting.insert(rank, demand);
        }
    }
    let mut preempted = BTreeSet::new();
    let mut decisions = BTreeMap::new();
    while let Some((_, demand)) = waiting.pop_first() {
        if !usage.add(demand) {
            for victim in make_room(&mut usage, demand) {
                preempted.insert(victim.pod.clone());
                waiting.insert(rank(victim), victim);
            }
            if !usage.add(demand) {
                let by_priority = preempted.contains(&demand.pod);
                let decision = explain::unplaced(&usage, demand, by_priority);
                decisions.insert(demand.pod.clone(), decision);
            }
        }
    }
    let placed = usage.into_placements();
    decisions.extend(placed.into_iter().map(|(pod, p)| (pod, Decision::Placed(p))));
    decisions
}

/// Takes away pods of lower priority until `demand` fits: the lowest first, and then gives back
/// those that were not in the way. Takes none when even all of them are not enough.
fn make_room<'a>(usage: &mut Usage<'a>, demand: &PodDemand) -> Vec<&'a PodDemand> {
    let mut victims = Vec::new();
    for candidate in usage.lower_than(demand.priority) {
        usage.remove(&candidate.0.pod);
        victims.push(candidate);
        if usage.fits(demand).is_ok() {
            break;
        }
    }
    if usage.fits(demand).is_err() {
        victims.iter().for_each(|(victim, placement)| usage.put(victim, placement.clone()));
        return vec![];
    }
    // The last one taken was needed; of the others, the highest priorities are spared first.
    victims.reverse();
    victims.retain(|(victim, placement)| {
        usage.put(victim, placement.clone());
        let in_the_way = usage.fits(demand).is_err();
        if in_the_way {
            usage.remove(&victim.pod);
        }
        in_the_way
    });
    victims.into_iter().map(|(victim, _)| victim).collect()
}
