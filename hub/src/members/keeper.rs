//! One member's objects: what is to be applied, repaired and pruned. Pure; the requests are `task`'s.

use super::MemberWorkload;
use super::applyset::{ApplySet, PART_OF_LABEL};
use super::build::{MemberKind, MemberObject, MemberObjectId, build};
use super::drift::projection;
use crate::manifests::InferenceWorkload;
use serde_json::Value;
use shared::model::WorkloadKey;
use std::collections::{BTreeMap, BTreeSet};

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Apply it; `is_new` when the member has none of the hub's by this name.
    Apply { object: MemberObject, is_new: bool },
    /// Delete it: no workload has it any more.
    Prune(MemberObjectId),
}

/// What was applied, and what the server made of it.
#[derive(Debug)]
struct Applied {
    body: Value,
    shown: Value,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    set: ApplySet,
    workloads: BTreeMap<WorkloadKey, InferenceWorkload>,
    desired: BTreeMap<MemberObjectId, MemberObject>,
    /// What the member has of the hub's.
    live: BTreeMap<MemberObjectId, Value>,
    applied: BTreeMap<MemberObjectId, Applied>,
    /// What the member did not take, and why.
    refused: BTreeMap<MemberObjectId, (Value, String)>,
}

impl Keeper {
    pub(super) fn new(set: ApplySet) -> Self {
        Self {
            set,
            workloads: BTreeMap::new(),
            desired: BTreeMap::new(),
            live: BTreeMap::new(),
            applied: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// These workloads are to be there, and no others.
    pub(super) fn desire(&mut self, workloads: &[InferenceWorkload]) {
        let objects = workloads.iter().flat_map(|workload| build(workload, &self.set));
        self.desired = objects.map(|object| (object.id.clone(), object)).collect();
        self.workloads = workloads.iter().map(|w| (w.key.clone(), w.clone())).collect();
        self.refused.retain(|id, _| self.desired.contains_key(id));
    }

    /// What the member has of one kind, all of it.
    pub(super) fn listed(&mut self, kind: MemberKind, objects: BTreeMap<MemberObjectId, Value>) {
        self.live.retain(|id, _| id.kind != kind);
        self.live.extend(objects);
    }

    /// An object is there, or has changed.
    pub(super) fn seen(&mut self, id: MemberObjectId, object: Value) {
        self.live.insert(id, object);
    }

    /// An object is there no more.
    pub(super) fn gone(&mut self, id: &MemberObjectId) {
        self.live.remove(id);
    }

    /// It was applied, and this is what the server made of it.
    pub(super) fn applied(&mut self, object: MemberObject, answer: Value) {
        let shown = projection(&object.body, &answer);
        self.refused.remove(&object.id);
        self.applied.insert(object.id.clone(), Applied { body: object.body, shown });
        self.live.insert(object.id, answer);
    }

    /// It was not applied, or not deleted.
    pub(super) fn refused(&mut self, id: MemberObjectId, why: String) {
        let body = self.desired.get(&id).map(|object| object.body.clone()).unwrap_or_default();
        self.refused.insert(id, (body, why));
    }

    /// What was refused may be tried again.
    pub(super) fn try_again(&mut self) -> bool {
        !std::mem::take(&mut self.refused).is_empty()
    }

    /// What is to be done, in order.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut order: Vec<&MemberObject> = self.desired.values().collect();
        order.sort_by_key(|object| object.id.kind);
        let apply = order.into_iter().filter(|object| self.is_due(object)).map(|object| {
            let is_new = !self.live.contains_key(&object.id);
            Action::Apply { object: object.clone(), is_new }
        });
        let unwanted = self.live.keys().filter(|id| !self.desired.contains_key(*id));
        let unwanted = unwanted.filter(|id| !self.refused.contains_key(*id));
        apply.chain(unwanted.cloned().map(Action::Prune)).collect()
    }

    fn is_due(&self, object: &MemberObject) -> bool {
        if self.refused.get(&object.id).is_some_and(|(body, _)| *body == object.body) {
            return false;
        }
        let as_applied = self.applied.get(&object.id).zip(self.live.get(&object.id));
        !as_applied.is_some_and(|(applied, live)| {
            applied.body == object.body && projection(&applied.body, live) == applied.shown
        })
    }

    /// Whether an object with these labels is one of the hub's.
    pub(super) fn is_ours(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(PART_OF_LABEL) == Some(&self.set.id)
    }

    /// The namespaces in which something is to be.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.desired.keys().filter_map(|id| id.namespace.clone()).collect()
    }

    /// The parent of everything that is to be there.
    pub(super) fn parent(&self) -> Value {
        let objects: Vec<MemberObject> = self.desired.values().cloned().collect();
        self.set.parent_object(&objects)
    }

    /// How each workload is.
    pub(super) fn workloads(&self) -> BTreeMap<WorkloadKey, MemberWorkload> {
        let of = |(key, workload): (&WorkloadKey, &InferenceWorkload)| {
            let fixed = workload.replicas_in_a_cluster();
            (key.clone(), self.workload(key, workload.autoscaling.is_none().then_some(fixed)))
        };
        self.workloads.iter().map(of).collect()
    }

    /// `fixed` is the number of its pods, where nothing in the cluster decides that.
    fn workload(&self, key: &WorkloadKey, fixed: Option<u32>) -> MemberWorkload {
        let refused = self
            .refused
            .iter()
            .find(|(id, _)| self.desired.get(*id).is_some_and(|object| object.workload == *key));
        let problem = refused.map(|(id, (_, why))| {
            let (_, kind, _) = id.kind.names();
            format!("{kind} {}: {why}", id.name)
        });
        let id = MemberObjectId {
            kind: MemberKind::Deployment,
            namespace: Some(key.namespace().to_owned()),
            name: key.name().to_owned(),
        };
        let Some(live) = self.live.get(&id) else {
            let wanted = fixed.unwrap_or(1);
            return MemberWorkload { wanted, problem, ..MemberWorkload::default() };
        };
        let number = |path: &str| {
            let found = live.pointer(path).and_then(Value::as_u64).unwrap_or(0);
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        // What the status says of an earlier spec is of no use.
        let current = number("/status/observedGeneration") >= number("/metadata/generation");
        let of_current = |path: &str| if current { number(path) } else { 0 };
        let problem = problem.or_else(|| stuck(live).filter(|_| current));
        MemberWorkload {
            wanted: fixed.unwrap_or_else(|| number("/spec/replicas")),
            ready: number("/status/readyReplicas"),
            updated: of_current("/status/updatedReplicas"),
            problem,
        }
    }
}

/// What a Deployment says that gets no further.
fn stuck(live: &Value) -> Option<String> {
    let conditions = live.pointer("/status/conditions")?.as_array()?;
    let failed = conditions.iter().find(|condition| {
        let is = |field: &str, word: &str| condition.get(field).is_some_and(|w| w == word);
        (is("type", "Progressing") && is("status", "False"))
            || (is("type", "ReplicaFailure") && is("status", "True"))
    })?;
    let word = |field: &str| failed.get(field).and_then(Value::as_str).unwrap_or_default();
    Some(format!("{}: {}", word("reason"), word("message")))
}
