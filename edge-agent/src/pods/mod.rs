//! The life of the pods of a node.
//!
//! Pure. Desired workloads, the node's resources and what the runtime says go in; actions come out in
//! the order in which they must be done: a record always before the start that depends on it. Nothing
//! here looks at the wall clock.
//!
//! | part | file |
//! |---|---|
//! | what survives a restart, and what is to be done | `record.rs` |
//! | what is wanted of one, with its ConfigMaps and Secrets | `wanted.rs`, `attached.rs` |
//! | one pod: its state, its probes, its backoff | `pod.rs`, `probes.rs`, `backoff.rs` |
//! | its containers, where it has several | `containers.rs` |
//! | all pods: desired state, placement, adoption | this file, `adopt.rs` |

mod adopt;
mod attached;
mod backoff;
mod containers;
mod pod;
mod probes;
mod record;
#[cfg(test)]
mod tests;
mod wanted;

pub use attached::NodeObjects;
pub use record::{PodAction, PodRecord};

use crate::placement::{Decision, MainShare, NodeResources, Placement, PodDemand, place};
use crate::ports::{InstanceId, RuntimeEvent};
use pod::Pod;
use shared::model::{ContainerPort, MonotonicMs, Now, PodId, PodStatus, Workload, WorkloadKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wanted::Wanted;

/// All pods of a node.
#[derive(Debug)]
pub struct Pods {
    seed: u64,
    starts: u64,
    pods: BTreeMap<PodId, Pod>,
    node: Option<NodeResources>,
    held: bool,
    /// Where pods were placed last, whether they run there yet or not.
    plan: BTreeMap<PodId, Placement>,
    /// Whether a pod of several containers can't be run.
    one_container: bool,
    /// ConfigMaps and Secrets of the desired state.
    objects: NodeObjects,
    /// Whether the driver lists GPUs.
    gpus_listed: bool,
    /// Whether it is known what should run. Before, nothing is stopped or started.
    assigned: bool,
    actions: VecDeque<PodAction>,
    statuses: BTreeMap<PodId, PodStatus>,
    changed: BTreeSet<PodId>,
}

impl Pods {
    /// No pods. `seed` is another at each start of the agent, so that no two starts of a pod are
    /// called the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            starts: 0,
            pods: BTreeMap::new(),
            node: None,
            held: false,
            plan: BTreeMap::new(),
            one_container: false,
            objects: NodeObjects::default(),
            gpus_listed: false,
            assigned: false,
            actions: VecDeque::new(),
            statuses: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// The ConfigMaps, Secrets and models that workloads name; in force with the next [`Self::assign`].
    pub fn attach(&mut self, objects: NodeObjects) {
        self.objects = objects;
    }

    /// From the next [`Self::assign`] on a pod of several containers is refused: the runtime runs none.
    pub fn refuse_several_containers(&mut self) {
        self.one_container = true;
    }

    /// What should run here. Until [`Self::provide`] was called nothing is started.
    pub fn assign(&mut self, workloads: &BTreeMap<WorkloadKey, Workload>, now: Now) {
        let wanted = workloads.values().flat_map(|workload| {
            let wanted = Wanted::of(workload, &self.objects, self.one_container);
            workload.pods().map(move |pod| (pod, wanted.clone()))
        });
        let mut wanted: BTreeMap<PodId, Wanted> = wanted.collect();
        self.assigned = true;
        for (id, pod) in &mut self.pods {
            match wanted.remove(id) {
                Some(wanted) => pod.want(Some(wanted), now.monotonic, &mut self.actions),
                // What is missing while held may only be unreadable.
                None if self.held => {}
                None => pod.want(None, now.monotonic, &mut self.actions),
            }
        }
        for (id, wanted) in wanted {
            self.pods.insert(id.clone(), Pod::new(id, wanted));
        }
        self.settle(now);
    }

    /// What pods may have of the node. Until `gpus_known` a pod that holds a GPU keeps it: what the
    /// driver does not say is not absent.
    pub fn provide(&mut self, node: NodeResources, gpus_known: bool, now: Now) {
        // A driver that lists none at all is being replaced, or broken; what runs on it may go on.
        self.gpus_listed = gpus_known && !node.gpus.is_empty();
        self.node = Some(node);
        self.settle(now);
    }

    /// While held, pods are kept as they are: none is stopped or replaced for the sake of desired
    /// state, none is started for the first time. One that crashes is started again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The runtime says something.
    pub fn handle_runtime(&mut self, event: RuntimeEvent, now: Now) {
        let (RuntimeEvent::Started { pod, instance, .. }
        | RuntimeEvent::Preparing { pod, instance, .. }
        | RuntimeEvent::Addressed { pod, instance, .. }
        | RuntimeEvent::StartFailed { pod, instance, .. }
        | RuntimeEvent::Exited { pod, instance, .. }
        | RuntimeEvent::NotAttached { pod, instance, .. }
        | RuntimeEvent::LastWords { pod, instance, .. }
        | RuntimeEvent::Probed { pod, instance, .. }
        | RuntimeEvent::Container { pod, instance, .. }) = &event
        else {
            return;
        };
        let Some(known) = self.pods.get_mut(pod).filter(|known| known.is_instance(*instance))
        else {
            return;
        };
        known.handle_runtime(event, now.monotonic, &mut self.actions);
        self.settle(now);
    }

    /// The moment of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        for pod in self.pods.values_mut() {
            pod.handle_timeout(now.monotonic, &mut self.actions);
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.pods.values().filter_map(Pod::poll_timeout).min()
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<PodAction> {
        self.actions.pop_front()
    }

    /// Places what waits, stops what should not run, starts what can, and notes what changed.
    fn settle(&mut self, now: Now) {
        if !self.assigned {
            return;
        }
        let decisions = self.decide();
        if !self.held {
            for (id, pod) in &mut self.pods {
                let is_out = self.node.as_ref().is_some_and(|node| node.evicted.contains_key(id));
                let keeps = !self.gpus_listed && pod.holds_gpus() && !is_out;
                let decision = decisions.get(id).filter(|_| !keeps);
                pod.stop_if_unwanted(decision, now.monotonic, &mut self.actions);
            }
        }
        let ids: Vec<PodId> = self.pods.keys().cloned().collect();
        ids.iter().for_each(|id| self.start_if_possible(id, &decisions, now.monotonic));
        self.pods.retain(|_, pod| !pod.is_gone());
        self.note_changes();
    }

    fn decide(&mut self) -> BTreeMap<PodId, Decision> {
        let Some(node) = &self.node else { return BTreeMap::new() };
        let demands = self.pods.values().filter_map(Pod::demand);
        let planned = |demand: &PodDemand| self.plan.get(&demand.pod).cloned();
        let demands: Vec<PodDemand> =
            demands.map(|demand| PodDemand { planned: planned(&demand), ..demand }).collect();
        let decisions = place(node, &demands);
        let placed = decisions.iter().filter_map(|(pod, decision)| match decision {
            Decision::Placed(placement) => Some((pod.clone(), placement.clone())),
            Decision::Unplaced { .. } => None,
        });
        self.plan = placed.collect();
        decisions
    }

    fn start_if_possible(
        &mut self,
        id: &PodId,
        decisions: &BTreeMap<PodId, Decision>,
        now: MonotonicMs,
    ) {
        let Some(decision) = decisions.get(id) else {
            // Why it can't be placed at all is the pod's own to say.
            if let Some(pod) = self.pods.get_mut(id) {
                pod.may_start(now, self.held, &mut self.actions);
            }
            return;
        };
        let asks = self.asks(id, decision);
        let lack = self.lack_now(id, asks, decisions);
        let mut pod = self.pods.get_mut(id);
        if !pod.as_mut().is_some_and(|pod| pod.may_start(now, self.held, &mut self.actions)) {
            return;
        }
        let lack = lack.or_else(|| self.lack_of_ports(id));
        let Some(pod) = self.pods.get_mut(id) else { return };
        match (decision, lack) {
            (Decision::Placed(placement), None) => {
                self.starts += 1;
                let instance = instance_id(self.seed, self.starts);
                pod.start(instance, placement.clone(), asks, now, &mut self.actions);
            }
            (Decision::Placed(_), Some((reason, message))) => pod.wait(reason, &message),
            (Decision::Unplaced { reason, message }, _) => pod.wait(reason, message),
        }
    }

    /// What a pod takes of CPU and main memory where it is placed.
    fn asks(&self, id: &PodId, decision: &Decision) -> MainShare {
        let (Decision::Placed(placement), Some(node)) = (decision, &self.node) else {
            return MainShare::default();
        };
        let demand = self.pods.get(id).and_then(Pod::demand);
        demand.map(|demand| node.main_share(&demand.resources, placement)).unwrap_or_default()
    }

    /// What of a decision has not really been left yet: a pod that is being stopped, or that must not be
    /// stopped now, holds its own until it has ended.
    fn lack_now(
        &self,
        id: &PodId,
        asks: MainShare,
        decisions: &BTreeMap<PodId, Decision>,
    ) -> Option<(&'static str, String)> {
        let Some(Decision::Placed(placement)) = decisions.get(id) else { return None };
        let others = || self.pods.iter().filter(|(other, _)| *other != id);
        let mut out_of_plan = others().filter_map(|(other, pod)| {
            let held = pod.placement()?;
            let planned = matches!(decisions.get(other), Some(Decision::Placed(p)) if p == held);
            (!planned).then_some(held)
        });
        if out_of_plan.any(|held| held.gpus.iter().any(|gpu| placement.gpus.contains(gpu))) {
            let message = "the GPU it gets is still held by a pod that stops";
            return Some(("WaitingForGpu", message.to_owned()));
        }
        let taken = others().filter_map(|(_, pod)| pod.taken()).fold(asks, MainShare::and);
        let fits = self.node.as_ref().is_some_and(|node| taken.fits(node));
        let message = "the room that it gets is still taken by a pod that stops";
        (!fits).then(|| ("WaitingForRoom", message.to_owned()))
    }

    /// A port of the node that is to lead to it, and leads to another pod.
    fn lack_of_ports(&self, id: &PodId) -> Option<(&'static str, String)> {
        let asked = self.pods.get(id)?.wanted_host_ports();
        let others = self.pods.iter().filter(|(other, _)| *other != id);
        { others }.find_map(|(other, pod)| {
            let is_taken = |port: &&ContainerPort| {
                pod.host_ports().iter().any(|held| port.takes_host_port_of(held))
            };
            let port = asked.iter().find(is_taken)?;
            let (number, protocol) = (port.host_port.unwrap_or_default(), port.protocol);
            let message = format!("the node's port {number}/{protocol} leads to the pod {other}");
            Some(("HostPortTaken", message))
        })
    }

    fn note_changes(&mut self) {
        let present: BTreeMap<PodId, PodStatus> =
            self.pods.iter().map(|(id, pod)| (id.clone(), pod.status())).collect();
        for (id, status) in &present {
            if self.statuses.get(id) != Some(status) {
                self.changed.insert(id.clone());
            }
        }
        let gone = self.statuses.keys().filter(|id| !present.contains_key(*id));
        self.changed.extend(gone.cloned());
        self.statuses = present;
    }

    /// Every pod's status, by pod.
    pub fn statuses(&self) -> impl Iterator<Item = &PodStatus> {
        self.statuses.values()
    }

    /// One pod's status.
    #[must_use]
    pub fn status(&self, pod: &PodId) -> Option<&PodStatus> {
        self.statuses.get(pod)
    }

    /// How many pods of a workload there are or are remembered, by the highest of their ordinals.
    #[must_use]
    pub fn count_of(&self, workload: &WorkloadKey) -> u32 {
        let own = self.pods.keys().filter(|pod| pod.workload == *workload);
        own.map(|pod| pod.ordinal.saturating_add(1)).max().unwrap_or(0)
    }

    /// UUIDs of the GPUs that a pod holds.
    #[must_use]
    pub fn gpus_of(&self, pod: &PodId) -> &[String] {
        self.pods.get(pod).and_then(Pod::placement).map_or(&[], |held| &held.gpus)
    }

    /// Pods whose status has changed, or that are gone, since the last call.
    pub fn take_changed(&mut self) -> Vec<PodId> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }
}

/// Names a start: unlike every other of this node, and not in sequence, so that a mistaken one does
/// not meet another by chance (SplitMix64, Steele et al. 2014, a bijection).
fn instance_id(seed: u64, number: u64) -> InstanceId {
    let mut mixed = (seed << 32).wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    InstanceId(mixed ^ (mixed >> 31))
}
