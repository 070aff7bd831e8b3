//! What the hub says back of an object: its status, as it should stand now.
//!
//! Says what it knows and nothing else; times are of transitions only, so that a status that says the
//! same is the same, and nothing is written.

use super::deletion::Remaining;
use super::objects::Verdict;
use super::scheduling::{self, scheduling};
use crate::api::{
    EdgeNodeStatus, InferenceWorkloadStatus, NodeIdentity, NodeResources, PodCounts, RolloutStatus,
    UnchosenNodes,
};
use crate::core::{NodeView, RolloutView, WorkloadView};
use crate::manifests::EdgeNode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use shared::model::{ConditionStatus, NodeCapacity};
use std::collections::BTreeMap;

/// Characters of a condition's message: the API server takes 32 768, a person reads a sentence.
const MESSAGE_CHARACTERS_MAX: usize = 1024;

/// One aspect, before it is known since when it is so.
pub(super) struct Aspect {
    kind: String,
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl Aspect {
    pub(super) fn new(
        kind: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        let (kind, reason) = (kind.to_owned(), reason.to_owned());
        Self { kind, status, reason, message: message.into() }
    }

    /// The condition; the time is the one of `before` where the status is the same.
    fn since(self, before: &[Condition], generation: i64, now: Time) -> Condition {
        let status = format!("{:?}", self.status);
        let earlier = before.iter().find(|c| c.type_ == self.kind && c.status == status);
        Condition {
            last_transition_time: earlier.map_or(now, |c| c.last_transition_time.clone()),
            message: self.message.chars().take(MESSAGE_CHARACTERS_MAX).collect(),
            observed_generation: Some(generation),
            reason: self.reason,
            status,
            type_: self.kind,
        }
    }
}

pub(super) fn conditions(
    aspects: Vec<Aspect>,
    before: &Value,
    generation: i64,
    now: &Time,
) -> Vec<Condition> {
    let before = before.get("conditions").cloned().unwrap_or_default();
    let before: Vec<Condition> = serde_json::from_value(before).unwrap_or_default();
    aspects.into_iter().map(|aspect| aspect.since(&before, generation, now.clone())).collect()
}

/// The status of a workload: `view` is how it is doing, `before` its status as it is stored.
pub(crate) fn workload_status(
    view: Option<&WorkloadView>,
    verdict: &Verdict,
    before: &Value,
    now: &Time,
) -> InferenceWorkloadStatus {
    let aspects = vec![acceptance(verdict), readiness(view)];
    let none = WorkloadView::default();
    let view = view.unwrap_or(&none);
    let reason =
        |(reason, nodes): &(String, u32)| UnchosenNodes { reason: reason.clone(), nodes: *nodes };
    InferenceWorkloadStatus {
        observed_generation: Some(verdict.generation),
        conditions: conditions(aspects, before, verdict.generation, now),
        desired: view.desired,
        assigned: view.assigned,
        ready: view.ready,
        autoscaled: view.autoscaled,
        updated: view.updated,
        offline: view.nodes_offline,
        unschedulable: view.desired.saturating_sub(view.assigned),
        unchosen: view.reasons.iter().map(reason).collect(),
        clusters: None,
        rollout: view.rollout.as_ref().map(rollout_status),
        selector: String::new(),
    }
}

/// The status of a workload that is deleted, while its object is held.
pub(super) fn deleted_workload_status(
    remaining: Remaining,
    verdict: &Verdict,
    before: &Value,
    now: &Time,
) -> InferenceWorkloadStatus {
    let deleting = Aspect::new("Ready", ConditionStatus::False, "Deleting", remaining.in_words());
    let aspects = vec![acceptance(verdict), deleting];
    InferenceWorkloadStatus {
        observed_generation: Some(verdict.generation),
        conditions: conditions(aspects, before, verdict.generation, now),
        offline: remaining.offline,
        ..InferenceWorkloadStatus::default()
    }
}

fn rollout_status(view: &RolloutView) -> RolloutStatus {
    RolloutStatus {
        phase: view.phase.clone(),
        wave: view.wave,
        waves: view.waves,
        through: view.through.clone(),
        target_revision: view.target.clone(),
        stable_revision: view.stable.clone(),
        message: view.message.clone(),
    }
}

pub(super) fn acceptance(verdict: &Verdict) -> Aspect {
    match &verdict.refused {
        None => Aspect::new("Accepted", ConditionStatus::True, "Valid", ""),
        Some((path, problem)) => {
            let message = format!("{path}: {problem}");
            let reason = if verdict.awaits { "MissingObjects" } else { "Invalid" };
            Aspect::new("Accepted", ConditionStatus::False, reason, message)
        }
    }
}

/// `stored` with what is new of whether the object is accepted. All that it says of pods stays: a hub that
/// has just started knows nothing of them.
pub(super) fn with_acceptance(stored: &Value, verdict: &Verdict, now: &Time) -> Value {
    let told = stored.get("conditions").and_then(Value::as_array);
    let mut told = told.cloned().unwrap_or_default();
    let accepted = conditions(vec![acceptance(verdict)], stored, verdict.generation, now);
    for accepted in accepted.iter().map(|condition| json!(condition)) {
        match told.iter_mut().find(|condition| condition.get("type") == accepted.get("type")) {
            Some(condition) => *condition = accepted,
            None => told.insert(0, accepted),
        }
    }
    let mut status = stored.as_object().cloned().unwrap_or_default();
    status.insert("conditions".to_owned(), Value::Array(told));
    Value::Object(status)
}

/// Whether a status is about the spec as it is now.
pub(super) fn is_about(status: &Value, verdict: &Verdict) -> bool {
    status.get("observedGeneration").and_then(Value::as_i64) == Some(verdict.generation)
}

/// Whether a workload ran when its status was written.
pub(super) fn has_run(status: &Value) -> bool {
    status.get("assigned").and_then(Value::as_u64).is_some_and(|pods| pods > 0)
}

/// Whether all pods of a workload are ready, as far as one can know: those of nodes that are offline go
/// on without the hub.
fn readiness(view: Option<&WorkloadView>) -> Aspect {
    let ready = |status, reason, message: String| Aspect::new("Ready", status, reason, message);
    let Some(view) = view else {
        let message = "nothing of it was accepted: it runs nowhere";
        return ready(ConditionStatus::False, "NotAccepted", message.to_owned());
    };
    let missing = view.desired.saturating_sub(view.assigned);
    if missing > 0 {
        let reasons = view.reasons.iter().map(|(reason, nodes)| format!("{nodes} {reason}"));
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        let message = format!("no node for {missing} of {} pods: {reasons}", view.desired);
        return ready(ConditionStatus::False, "Unschedulable", message);
    }
    let online = view.assigned.saturating_sub(view.assigned_offline);
    let message =
        format!("{} of {online} pods on nodes that are online are ready", view.ready_online);
    if let Some(rollout) = &view.rollout {
        let reason = if rollout.phase == "Progressing" { "RollingOut" } else { &rollout.phase };
        let (wave, waves) = (rollout.wave, rollout.waves);
        let why = if rollout.message.is_empty() { "" } else { ": " };
        let message = format!(
            "{} of {} pods have template {}, in wave {wave} of {waves}{why}{}",
            view.updated, view.assigned, rollout.target, rollout.message
        );
        return ready(ConditionStatus::False, reason, message);
    }
    if view.ready_online < online {
        return ready(ConditionStatus::False, "Progressing", message);
    }
    if view.updated_online < online {
        let message = format!(
            "{} of {online} pods on nodes that are online have the present template",
            view.updated_online
        );
        return ready(ConditionStatus::False, "Updating", message);
    }
    match (view.assigned, view.nodes_offline) {
        (0, _) => ready(ConditionStatus::True, "NoPods", "no pods are asked for".to_owned()),
        (_, 0) => ready(ConditionStatus::True, "AllReady", message),
        (_, nodes) => ready(
            ConditionStatus::True,
            "NodesOffline",
            format!("{message}; {nodes} nodes are offline"),
        ),
    }
}

/// The status of a node: `view` is what the hub knows of it, `said` what is in force of its object, `before`
/// its status as it is stored.
pub(crate) fn node_status(
    view: Option<&NodeView>,
    said: Option<&EdgeNode>,
    verdict: &Verdict,
    before: &Value,
    now: &Time,
) -> EdgeNodeStatus {
    let mut aspects = vec![presence(view)];
    aspects.push(acceptance(verdict));
    let disabled = said.and_then(|said| scheduling(said, view, before));
    aspects.extend(disabled.map(|(reason, message)| {
        Aspect::new(scheduling::KIND, ConditionStatus::True, reason, message)
    }));
    let reported = view.and_then(|view| view.status.as_ref());
    let told = reported.into_iter().flat_map(|status| &status.conditions);
    aspects.extend(told.map(|c| Aspect::new(&c.kind, c.status, &c.reason, c.message.clone())));
    let capacity = reported.map(|status| resources(&status.capacity)).unwrap_or_default();
    let allocatable = reported.map(|status| resources(&status.allocatable()));
    let identity = view.map(|view| NodeIdentity { session_key: view.session_key.clone() });
    EdgeNodeStatus {
        observed_generation: Some(verdict.generation),
        conditions: conditions(aspects, before, verdict.generation, now),
        agent_version: view.map(|view| view.agent_version.clone()).unwrap_or_default(),
        identity,
        capacity,
        allocatable: allocatable.unwrap_or_default(),
        pods: view.map(pod_counts).unwrap_or_default(),
    }
}

fn presence(view: Option<&NodeView>) -> Aspect {
    let ready = |status, reason, message: String| Aspect::new("Ready", status, reason, message);
    match view.map(|view| (view.state.as_str(), view)) {
        None => {
            let message = "no node of this name is enrolled";
            ready(ConditionStatus::False, "NotEnrolled", message.to_owned())
        }
        Some(("Online", view)) if view.in_sync => ready(
            ConditionStatus::True,
            "Online",
            "in session, and has what it should run".to_owned(),
        ),
        Some(("Online", _)) => ready(
            ConditionStatus::True,
            "Syncing",
            "in session; it is being told what to run".to_owned(),
        ),
        Some(("Offline", view)) => {
            let at = view.last_seen.and_then(|at| i64::try_from(at.0 / 1000).ok());
            let at = at.and_then(|seconds| Timestamp::from_second(seconds).ok());
            let seen = at.map(|at| format!(", last seen at {at}")).unwrap_or_default();
            let message = format!("offline{seen}: its pods go on without the hub");
            ready(ConditionStatus::Unknown, "Offline", message)
        }
        Some(("Revoked", _)) => {
            let message = "its certificate was revoked: it can't connect".to_owned();
            ready(ConditionStatus::False, "Revoked", message)
        }
        Some(("Denied", view)) => {
            let message = format!("{}: what it runs goes on", view.kept_out);
            ready(ConditionStatus::False, "Denied", message)
        }
        Some((state, _)) => {
            ready(ConditionStatus::Unknown, state, "enrolled, and not seen yet".to_owned())
        }
    }
}

fn resources(capacity: &NodeCapacity) -> NodeResources {
    let gpu_bytes =
        capacity.gpus.gpus().fold(0u64, |sum, gpu| sum.saturating_add(gpu.memory_bytes));
    let instances = capacity.gpus.mig_instances().into_iter();
    NodeResources {
        cpu: format!("{}m", capacity.cpu_millicores),
        memory: capacity.memory_bytes.to_string(),
        gpus: u32::try_from(capacity.gpus.gpus().count()).unwrap_or(u32::MAX),
        gpu_memory: gpu_bytes.to_string(),
        mig: instances.map(|(profile, count)| (profile.to_owned(), count)).collect(),
    }
}

fn pod_counts(view: &NodeView) -> PodCounts {
    let mut by_phase: BTreeMap<String, u32> = BTreeMap::new();
    for pod in &view.pods {
        *by_phase.entry(format!("{:?}", pod.phase)).or_default() += 1;
    }
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    PodCounts {
        total: count(view.pods.len()),
        ready: count(view.pods.iter().filter(|pod| pod.ready).count()),
        by_phase,
    }
}
