//! Templates on their way to the nodes: what each workload's nodes run, and how far a new one is.
//!
//! What is decided is made durable before any node is told of it: a hub that is killed at any moment goes
//! on where it was, and no node that has a new template is handed the one before it back. Where several hubs
//! take turns it is shared with them first.

use super::commit::GroupCommit;
use super::{Effect, HubCore, NodeState};
use crate::fleet::rollout::{
    NodeHealth, RolloutNode, RolloutPhase, RolloutState, RolloutStep, RolloutWatch, step,
};
use crate::fleet::{OlderTemplate, OlderTemplates};
use crate::manifests::{InferenceWorkload, Manifests, Replicas};
use serde::{Deserialize, Serialize};
use shared::model::{MonotonicMs, NodeId, Now, PodPhase, PodTemplate, Revision, WorkloadKey};
use shared::wire::{decode, encode};
use std::collections::BTreeMap;
use tracing::{info, warn};

/// Between something that a node says and the look at the rollouts: many say something together.
const LOOK_DELAY_MS: u64 = 100;

/// A template and a rollout of it.
const TEMPLATES_BYTES_MAX: usize = 1 << 20;

/// What the nodes of a workload run. Fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Templates {
    /// What all of them run, or those that the rollout has not reached.
    revision: Revision,
    template: PodTemplate,
    /// The new template on its way.
    rollout: Option<RolloutState>,
    /// The workload as it was accepted last.
    accepted: InferenceWorkload,
    /// What nodes hold of it that can't be concluded from the manifests.
    #[serde(default)]
    kept: BTreeMap<NodeId, u32>,
}

impl Templates {
    fn all_at_once(workload: &InferenceWorkload, kept: BTreeMap<NodeId, u32>) -> Self {
        let (revision, template) = (workload.revision, workload.template.clone());
        Self { revision, template, rollout: None, accepted: workload.clone(), kept }
    }

    /// What they are once `workload` is what it is to be.
    fn with(&self, workload: &InferenceWorkload) -> Self {
        if workload.rollout.is_none() || workload.revision == self.revision {
            return Self::all_at_once(workload, self.kept.clone());
        }
        let known = |rollout: &&RolloutState| rollout.target == workload.revision;
        let rollout = self.rollout.as_ref().filter(known).cloned();
        let rollout = rollout.unwrap_or_else(|| RolloutState::new(workload.revision));
        Self { rollout: Some(rollout), accepted: workload.clone(), ..self.clone() }
    }

    /// As `workload` has it, and what some of its nodes still run.
    fn older(&self, workload: &InferenceWorkload) -> Option<OlderTemplate> {
        if workload.rollout.is_none() || workload.revision == self.revision {
            return None;
        }
        let rollout = self.rollout.as_ref().filter(|rollout| {
            rollout.target == workload.revision && rollout.phase != RolloutPhase::RolledBack
        });
        let through = rollout.and_then(|rollout| rollout.through.clone());
        Some(OlderTemplate { revision: self.revision, template: self.template.clone(), through })
    }

    /// From the store.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<(WorkloadKey, Self), String> {
        let name = String::from_utf8(key.to_vec()).map_err(|error| error.to_string())?;
        let key: WorkloadKey = name.parse().map_err(|_| format!("`{name}` names no workload"))?;
        let templates = decode("templates", value, TEMPLATES_BYTES_MAX);
        templates.map(|read| (key, read)).map_err(|error| format!("{name}: {error}"))
    }
}

/// Templates by workload, as they are stored; `None` for a workload that is gone.
pub type SharedTemplates = BTreeMap<String, Option<Vec<u8>>>;

/// What must be shared before it becomes durable here.
#[derive(Debug, Default)]
struct Sharing {
    /// On its way; empty where nothing is.
    sent: SharedTemplates,
    /// To be sent once that has arrived.
    next: SharedTemplates,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    /// As it is durable.
    durable: BTreeMap<WorkloadKey, Templates>,
    /// On its way to the disk.
    next: BTreeMap<WorkloadKey, Templates>,
    watches: BTreeMap<WorkloadKey, RolloutWatch>,
    due: Option<MonotonicMs>,
    /// Where other hubs may take over.
    sharing: Option<Sharing>,
}

impl Rollouts {
    /// Whether something is not shared yet.
    pub(super) fn is_sharing(&self) -> bool {
        self.sharing.as_ref().is_some_and(|s| !s.sent.is_empty() || !s.next.is_empty())
    }

    pub(super) fn restore(stored: BTreeMap<WorkloadKey, Templates>) -> Self {
        Self { durable: stored, ..Self::default() }
    }

    /// Every workload as it was accepted last, as it is durable.
    pub(super) fn accepted(&self) -> impl Iterator<Item = &InferenceWorkload> {
        self.durable.values().map(|templates| &templates.accepted)
    }

    /// What nodes hold that can't be concluded from the manifests, as it was decided last.
    pub(super) fn kept(&self) -> BTreeMap<&NodeId, Vec<(&WorkloadKey, u32)>> {
        let mut kept: BTreeMap<&NodeId, Vec<_>> = BTreeMap::new();
        for (key, templates) in &self.durable {
            for (node, replicas) in &templates.kept {
                kept.entry(node).or_default().push((key, *replicas));
            }
        }
        kept
    }

    /// Whether it was decided which nodes have the replicas of a fleet: then what others reported once is past.
    pub(super) fn knows_where_replicas_are(&self, key: &WorkloadKey) -> bool {
        let of_fleet = |known: &&Templates| matches!(known.accepted.replicas, Replicas::Fleet(_));
        self.durable.get(key).filter(of_fleet).is_some_and(|known| !known.kept.is_empty())
    }

    /// When they are to be looked at.
    pub(super) fn due(&self) -> Option<MonotonicMs> {
        self.due
    }

    /// What some nodes still run.
    pub(super) fn older(&self, manifests: &Manifests) -> OlderTemplates {
        let of = |(key, templates): (&WorkloadKey, &Templates)| {
            let older = templates.older(manifests.workloads.get(key)?)?;
            Some((key.clone(), older))
        };
        self.durable.iter().filter_map(of).collect()
    }

    /// The rollout of a workload, as it is durable, with what nodes run that it has not reached.
    pub(super) fn of(&self, workload: &InferenceWorkload) -> Option<(&RolloutState, Revision)> {
        let templates = self.durable.get(&workload.key)?;
        let rollout = templates.rollout.as_ref()?;
        let is_its = rollout.target == workload.revision && workload.rollout.is_some();
        is_its.then_some((rollout, templates.revision))
    }

    fn active(&self) -> bool {
        let progresses = |templates: &Templates| {
            templates.rollout.as_ref().is_some_and(|r| r.phase == RolloutPhase::Progressing)
        };
        self.durable.values().any(progresses)
    }
}

impl HubCore {
    /// Every workload as it was accepted last: before the first manifests, by the hub's last start.
    pub fn accepted_workloads(&self) -> impl Iterator<Item = &InferenceWorkload> {
        self.rollouts.accepted()
    }

    /// Every template that nodes may run, with its workload's namespace; also one that is being replaced.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &PodTemplate)> {
        let all = self.rollouts.durable.iter().chain(&self.rollouts.next);
        all.map(|(key, templates)| (key.namespace(), &templates.template))
    }

    /// The manifests are others: rollouts begin, and some are not needed any more.
    pub(super) fn handle_templates(&mut self, now: Now) {
        let Some(manifests) = &self.manifests else { return };
        let mut changed = BTreeMap::new();
        for (key, workload) in &manifests.workloads {
            let before = self.rollouts.next.get(key).or_else(|| self.rollouts.durable.get(key));
            let after = match before {
                Some(before) => before.with(workload),
                None => Templates::all_at_once(workload, BTreeMap::new()),
            };
            if before != Some(&after) {
                changed.insert(key.clone(), after);
            }
        }
        let known = self.rollouts.durable.keys().chain(self.rollouts.next.keys());
        let gone = known.filter(|key| !manifests.workloads.contains_key(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.store(key.to_string(), None, now.monotonic);
            self.rollouts.durable.remove(&key);
            self.rollouts.next.remove(&key);
            self.rollouts.watches.remove(&key);
        }
        self.store_templates(changed, now);
    }

    /// What was decided is known to the hub's next start, and to other hubs.
    pub(super) fn note_kept(&mut self, now: Now) {
        let mut changed = BTreeMap::new();
        for (key, kept) in &self.assignment.kept {
            let known = self.rollouts.next.get(key).or_else(|| self.rollouts.durable.get(key));
            if let Some(known) = known.filter(|known| known.kept != *kept) {
                changed.insert(key.clone(), Templates { kept: kept.clone(), ..known.clone() });
            }
        }
        self.store_templates(changed, now);
    }

    /// Every template that is stored is shared from now on; those that are there already as well, if `all`.
    pub(super) fn begin_to_share(&mut self, all: bool) {
        let stored = |(key, templates): (&WorkloadKey, &Templates)| {
            Some((key.to_string(), Some(encode("templates", templates).ok()?)))
        };
        let next = self.rollouts.durable.iter().filter(|_| all).filter_map(stored).collect();
        self.rollouts.sharing = Some(Sharing { sent: BTreeMap::new(), next });
    }

    /// To be called when an event was handled.
    pub(super) fn share_next(&mut self) {
        if let Some(sharing) = &mut self.rollouts.sharing
            && sharing.sent.is_empty()
            && !sharing.next.is_empty()
        {
            sharing.sent = std::mem::take(&mut sharing.next);
            self.effects.push_back(Effect::Share(sharing.sent.clone()));
        }
    }

    /// What was sent is where other hubs find it.
    pub(super) fn handle_templates_shared(&mut self, now: Now) {
        let Some(sharing) = &mut self.rollouts.sharing else { return };
        for (key, value) in std::mem::take(&mut sharing.sent) {
            // What is another already is stored once that is shared.
            if !sharing.next.contains_key(&key) {
                store(&mut self.commit, key, value, now.monotonic);
            }
        }
    }

    /// Stores it, at once or once it is shared.
    fn store(&mut self, key: String, value: Option<Vec<u8>>, now: MonotonicMs) {
        match &mut self.rollouts.sharing {
            Some(sharing) => drop(sharing.next.insert(key, value)),
            None => store(&mut self.commit, key, value, now),
        }
    }

    fn store_templates(&mut self, changed: BTreeMap<WorkloadKey, Templates>, now: Now) {
        for (key, templates) in changed {
            match encode("templates", &templates) {
                Ok(value) => {
                    self.store(key.to_string(), Some(value), now.monotonic);
                    self.rollouts.next.insert(key, templates);
                }
                Err(error) => {
                    warn!(workload = %key, error = %error, "its templates can't be stored");
                }
            }
        }
    }

    /// What was decided is durable: nodes are told.
    pub(super) fn handle_templates_stored(&mut self, now: Now) {
        let stored = std::mem::take(&mut self.rollouts.next);
        let Some(manifests) = &self.manifests else { return };
        let older = self.rollouts.older(manifests);
        for (key, templates) in stored {
            let rollout = templates.rollout.as_ref();
            if let Some(rollout) = rollout {
                let RolloutState { phase, wave, through, message, .. } = rollout;
                info!(workload = %key, target = %rollout.target, phase = phase.name(), wave = wave + 1,
                    through = through.as_ref().map(NodeId::as_str), message, "a rollout");
            }
            if rollout.is_none_or(|rollout| rollout.phase != RolloutPhase::Progressing) {
                self.rollouts.watches.remove(&key);
            }
            self.rollouts.durable.insert(key, templates);
        }
        if self.rollouts.older(manifests) != older {
            self.reassign(now);
        }
        self.look_at_rollouts(now.monotonic);
    }

    /// Something that a rollout may wait for has happened.
    pub(super) fn look_at_rollouts(&mut self, now: MonotonicMs) {
        if self.rollouts.active() {
            let soon = now.plus_ms(LOOK_DELAY_MS);
            let due = self.rollouts.due.get_or_insert(soon);
            *due = (*due).min(soon);
        }
    }

    /// Looks at every rollout that is under way.
    pub(super) fn step_rollouts(&mut self, now: Now) {
        self.rollouts.due = None;
        // Nothing is decided on what is not durable yet; once it is, this is done again.
        if !self.rollouts.next.is_empty() {
            return;
        }
        let Some(manifests) = &self.manifests else { return };
        let mut changed = BTreeMap::new();
        let mut due: Option<MonotonicMs> = None;
        let mut watches = std::mem::take(&mut self.rollouts.watches);
        for (key, templates) in &self.rollouts.durable {
            let Some(workload) = manifests.workloads.get(key) else { continue };
            let Some((state, policy)) = templates.rollout.as_ref().zip(workload.rollout.as_ref())
            else {
                continue;
            };
            let nodes = self.rollout_nodes(workload, state);
            let watch = watches.entry(key.clone());
            let watch = watch.or_insert_with(|| RolloutWatch::new(now.monotonic));
            match step(state, policy, watch, &nodes, now.monotonic) {
                RolloutStep::Wait(at) => due = [due, at].into_iter().flatten().min(),
                RolloutStep::Move(state) => {
                    let rollout = Some(state);
                    changed.insert(key.clone(), Templates { rollout, ..templates.clone() });
                }
                RolloutStep::Complete => {
                    info!(workload = %key, revision = %workload.revision, "every node has it");
                    let kept = templates.kept.clone();
                    changed.insert(key.clone(), Templates::all_at_once(workload, kept));
                }
            }
        }
        (self.rollouts.due, self.rollouts.watches) = (due, watches);
        self.store_templates(changed, now);
    }

    fn rollout_nodes(
        &self,
        workload: &InferenceWorkload,
        state: &RolloutState,
    ) -> Vec<RolloutNode<'_>> {
        let restarts_max = workload.rollout.as_ref().map_or(0, |policy| policy.restarts_max);
        let node = |(id, told): (&_, &BTreeMap<WorkloadKey, _>)| {
            let told: &std::sync::Arc<shared::model::Workload> = told.get(&workload.key)?;
            let (id, node) = self.nodes.get_key_value(id)?;
            let health = match state.covers(id) {
                true => health(node, told, state.target, restarts_max),
                false => NodeHealth::Pending,
            };
            Some(RolloutNode { id, online: node.is_online(), health })
        };
        self.assignment.per_node.iter().filter_map(node).collect()
    }
}

fn store(commit: &mut GroupCommit, key: String, value: Option<Vec<u8>>, now: MonotonicMs) {
    match value {
        Some(value) => commit.put_templates(key, value, now),
        None => commit.delete_templates(key, now),
    }
}

/// How the pods of the new template are on a node, as it reported them.
fn health(
    node: &NodeState,
    told: &shared::model::Workload,
    target: Revision,
    restarts_max: u32,
) -> NodeHealth {
    let mut health = NodeHealth::Ready;
    for pod in told.pods() {
        let status = node.pods.get(&pod.to_string()).filter(|status| status.revision == target);
        let Some(status) = status else {
            health = NodeHealth::Pending;
            continue;
        };
        if status.phase == PodPhase::Failed || status.restarts > restarts_max {
            let (reason, restarts) = (&status.reason, status.restarts);
            let why = format!("pod {pod}: {:?} after {restarts} restarts", status.phase);
            let reason = if reason.is_empty() { String::new() } else { format!(", {reason}") };
            return NodeHealth::Failing(format!("{why}{reason}"));
        }
        if !status.ready {
            health = NodeHealth::Pending;
        }
    }
    health
}
