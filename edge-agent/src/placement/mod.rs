//! Which pod gets which GPUs, CPU and memory, and why not.
//!
//! Pure and deterministic: the same node and demands give the same decisions, in whatever order the
//! demands come. What runs stays where it is unless that has become impossible, or a pod of higher
//! priority needs the room; then as few as possible go, of the lowest priority first. What waits keeps the
//! place that it was given last: deciding again while nothing has changed but that pods were started gives
//! the same places, so that no pod is started and stopped in turn.
//!
//! Never sold twice: CPU and memory (by request), the memory of a shared GPU, a whole GPU, and a MIG
//! instance. A GPU in MIG mode goes to pods by its instances alone. Where a GPU has its memory of the node's, shares
//! of the one are taken of the other.

mod explain;
mod node;
#[cfg(test)]
mod tests;

pub use node::{Bar, NodeResources};

use explain::Explainer;
use node::Usage;
use serde::{Deserialize, Serialize};
use shared::model::{PodId, PodResources, Revision, Toleration};
use std::collections::{BTreeMap, BTreeSet};

/// The reason of a pod that is kept out since memory or disk run out.
pub const EVICTED: &str = "Evicted";

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
    /// Where it was placed last, if it does not run there yet.
    pub planned: Option<Placement>,
}

impl PodDemand {
    /// Where it is left if that is possible.
    fn place_so_far(&self) -> Option<&Placement> {
        self.held.as_ref().or(self.planned.as_ref())
    }

    /// Of equal priorities: what runs, then what has a place, then what has none.
    fn claim(&self) -> u8 {
        match (&self.held, &self.planned) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) => 2,
        }
    }
}

/// What a pod is given besides CPU and memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// UUIDs of its GPUs, or of its MIG instance.
    pub gpus: Vec<String>,
    /// Its share of a shared GPU's memory in bytes.
    pub gpu_memory_bytes: Option<u64>,
}

/// What a pod takes of a node's CPU and main memory.
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

/// Decides for all pods of a node at once.
#[must_use]
pub fn place(node: &NodeResources, demands: &[PodDemand]) -> BTreeMap<PodId, Decision> {
    // Higher priority first; of equal ones those that have a place, then by name.
    let is_out = |demand: &&PodDemand| node.evicted.contains_key(&demand.pod);
    let (out, mut ranked): (Vec<&PodDemand>, Vec<_>) = demands.iter().partition(is_out);
    ranked.sort_by(|a, b| {
        let by_priority = b.priority.cmp(&a.priority);
        let by_claim = || a.claim().cmp(&b.claim());
        by_priority.then_with(by_claim).then_with(|| a.pod.cmp(&b.pod))
    });
    let mut usage = Usage::of(node, &ranked);
    let mut waiting: BTreeSet<usize> = BTreeSet::new();
    for pod in 0..ranked.len() {
        if !usage.keep(pod) {
            waiting.insert(pod);
        }
    }
    let (mut preempted, mut unplaced) = (BTreeSet::new(), vec![]);
    let mut without_lower = WithoutLower::default();
    while let Some(pod) = waiting.pop_first() {
        if usage.add(pod)
            || make_room(&mut usage, pod, &mut without_lower, |victim| {
                preempted.insert(victim);
                waiting.insert(victim);
            })
        {
            without_lower.note(pod, &usage);
        } else {
            unplaced.push(pod);
        }
    }
    let (mut decisions, mut explainer) = (BTreeMap::new(), Explainer::new(&usage));
    for pod in unplaced {
        let Some(demand) = ranked.get(pod) else { continue };
        let decision =
            explainer.unplaced(pod, demand, demand.held.is_some() && preempted.contains(&pod));
        decisions.insert(demand.pod.clone(), decision);
    }
    for (pod, placement) in usage.into_placements() {
        let Some(demand) = ranked.get(pod) else { continue };
        decisions.insert(demand.pod.clone(), Decision::Placed(placement));
    }
    let evicted = out.into_iter().filter_map(|demand| {
        let (reason, message) = (EVICTED.to_owned(), node.evicted.get(&demand.pod)?.clone());
        Some((demand.pod.clone(), Decision::Unplaced { reason, message }))
    });
    decisions.extend(evicted);
    decisions
}

/// What is taken by pods of a priority and above it: where a pod of that priority does not even fit there, nobody
/// makes room for it.
#[derive(Default)]
struct WithoutLower<'a> {
    of: Option<(i32, Usage<'a>)>,
}

impl<'a> WithoutLower<'a> {
    fn fits(&mut self, usage: &Usage<'a>, pod: usize) -> bool {
        let Some(demand) = usage.demand(pod) else { return false };
        let is_known = self.of.as_ref().is_some_and(|(known, _)| *known == demand.priority);
        if !is_known {
            let mut higher = usage.clone();
            for lower in usage.lower_than(demand.priority) {
                higher.remove(lower);
            }
            self.of = Some((demand.priority, higher));
        }
        self.of.as_ref().is_some_and(|(_, higher)| higher.has_place(pod))
    }

    /// A pod was placed; pods are placed in the order of their priorities.
    fn note(&mut self, pod: usize, usage: &Usage<'a>) {
        let Some((priority, higher)) = &mut self.of else { return };
        if let Some((demand, placement)) = usage.placement(pod)
            && demand.priority >= *priority
        {
            higher.put(pod, placement.clone());
        }
    }
}

/// Takes away pods of lower priority until the pod fits, the lowest first, gives back those that were not in the
/// way, and gives the pod its place. Takes none, and says so, when even all of them are not enough.
fn make_room<'a>(
    usage: &mut Usage<'a>,
    pod: usize,
    without_lower: &mut WithoutLower<'a>,
    mut leaves: impl FnMut(usize),
) -> bool {
    let Some(demand) = usage.demand(pod) else { return false };
    if !without_lower.fits(usage, pod) {
        return false;
    }
    let mut victims = Vec::new();
    for candidate in usage.lower_than(demand.priority) {
        if let Some(placement) = usage.remove(candidate) {
            victims.push((candidate, placement));
        }
        if usage.has_place(pod) {
            break;
        }
    }
    // The last one taken was needed; of the others, the highest priorities are spared first.
    for (victim, placement) in victims.into_iter().rev() {
        usage.put(victim, placement);
        if !usage.has_place(pod) {
            usage.remove(victim);
            leaves(victim);
        }
    }
    usage.add(pod)
}
