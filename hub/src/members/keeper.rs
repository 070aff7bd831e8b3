//! One member's objects: what is to be applied, repaired and pruned. Pure; the requests are `task`'s.

use super::MemberWorkload;
use super::applyset::{ApplySet, PART_OF_LABEL};
use super::build::{MemberKind, MemberObject, MemberObjectId, build};
use super::content::{Fingerprints, Live};
use super::drift::projection;
use super::scope::Scope;
use super::share::{MemberShare, Obstacle};
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

/// A workload that is to be there.
#[derive(Debug)]
struct Kept {
    /// The number of its pods, where nothing in the cluster decides that.
    fixed: Option<u32>,
    /// What it becomes; several workloads may share an object.
    objects: BTreeSet<MemberObjectId>,
    obstacle: Option<Obstacle>,
}

/// What was applied, and what the server made of it.
#[derive(Debug)]
struct Applied {
    body: Value,
    content: Fingerprints,
    shown: Value,
}

/// What the member did not take, and why.
#[derive(Debug)]
struct Refused {
    body: Value,
    content: Fingerprints,
    why: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    set: ApplySet,
    workloads: BTreeMap<WorkloadKey, Kept>,
    desired: BTreeMap<MemberObjectId, MemberObject>,
    /// What is left as it is where nothing is desired: what a workload names, or is while it waits.
    stays: BTreeSet<MemberObjectId>,
    /// What the member has of the hub's.
    live: BTreeMap<MemberObjectId, Live>,
    applied: BTreeMap<MemberObjectId, Applied>,
    refused: BTreeMap<MemberObjectId, Refused>,
    /// Where there may be something of the hub's, as the set's parent says.
    remembered: BTreeSet<Scope>,
    /// What the hub may not look at, and why.
    forbidden: BTreeMap<Scope, String>,
}

impl Keeper {
    pub(super) fn new(set: ApplySet) -> Self {
        Self {
            set,
            workloads: BTreeMap::new(),
            desired: BTreeMap::new(),
            stays: BTreeSet::new(),
            live: BTreeMap::new(),
            applied: BTreeMap::new(),
            refused: BTreeMap::new(),
            remembered: BTreeSet::new(),
            forbidden: BTreeMap::new(),
        }
    }

    /// The set's parent is there, and says this.
    pub(super) fn remember(&mut self, parent: &Value) {
        self.remembered = Scope::remembered(parent);
    }

    /// These workloads are to be there, and no others.
    pub(super) fn desire(&mut self, shares: &[MemberShare]) {
        self.workloads.clear();
        self.desired.clear();
        self.stays.clear();
        for share in shares {
            let workload = &share.workload;
            let is_fixed = workload.autoscaling.is_none();
            let kept = Kept {
                fixed: is_fixed.then(|| workload.replicas_in_a_cluster()),
                objects: self.desire_one(share),
                obstacle: share.obstacle.clone(),
            };
            self.workloads.insert(workload.key.clone(), kept);
        }
        self.refused.retain(|id, _| self.desired.contains_key(id));
    }

    /// What is to be applied of one workload.
    fn desire_one(&mut self, share: &MemberShare) -> BTreeSet<MemberObjectId> {
        if matches!(share.obstacle, Some(Obstacle::NoParameters(_))) {
            return BTreeSet::new();
        }
        let namespace = share.workload.key.namespace();
        let named = share.workload.template.references().map(|one| one.object(namespace));
        self.stays.extend(named.map(|name| MemberObjectId::of_attached(&name)));
        let objects = build(share, &self.set);
        let ids = objects.iter().map(|object| object.id.clone()).collect();
        if share.obstacle.is_some() {
            self.stays.extend(ids);
            return BTreeSet::new();
        }
        self.desired.extend(objects.into_iter().map(|object| (object.id.clone(), object)));
        ids
    }

    /// What is to be listed and watched.
    pub(super) fn scopes(&self) -> BTreeSet<Scope> {
        let objects = self.desired.keys().chain(&self.stays).chain(self.live.keys());
        let found = objects.map(Scope::of).chain(self.remembered.iter().cloned());
        Scope::of_all().chain(found).collect()
    }

    /// What the member has in one scope, all of it.
    pub(super) fn listed(&mut self, scope: &Scope, objects: BTreeMap<MemberObjectId, Live>) {
        self.live.retain(|id, _| Scope::of(id) != *scope);
        self.live.extend(objects);
        self.remembered.remove(scope);
        self.forbidden.remove(scope);
    }

    /// The hub may not look at what is there.
    pub(super) fn forbidden(&mut self, scope: Scope, why: String) {
        self.forbidden.insert(scope, why);
    }

    /// What it may not look at, as far as it has to.
    pub(super) fn unseen(&self) -> Vec<Scope> {
        let scopes = self.scopes();
        self.forbidden.keys().filter(|scope| scopes.contains(scope)).cloned().collect()
    }

    /// An object is there, or has changed.
    pub(super) fn seen(&mut self, id: MemberObjectId, object: Live) {
        self.live.insert(id, object);
    }

    /// An object is there no more.
    pub(super) fn gone(&mut self, id: &MemberObjectId) {
        self.live.remove(id);
    }

    /// It was applied, and this is what the server made of it.
    pub(super) fn applied(&mut self, object: MemberObject, answer: Live) {
        let shown = projection(&object.body, &answer.shown);
        let content = object.fingerprints();
        self.refused.remove(&object.id);
        self.applied.insert(object.id.clone(), Applied { body: object.body, content, shown });
        self.live.insert(object.id, answer);
    }

    /// It was not applied, or not deleted.
    pub(super) fn refused(&mut self, id: MemberObjectId, why: String) {
        let wanted =
            self.desired.get(&id).map(|object| (object.body.clone(), object.fingerprints()));
        let (body, content) = wanted.unwrap_or_default();
        self.refused.insert(id, Refused { body, content, why });
    }

    /// What was refused may be tried again.
    pub(super) fn try_again(&mut self) -> bool {
        !std::mem::take(&mut self.refused).is_empty()
    }

    /// What is to be done, in order: what is used before who uses it, and it goes after them.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut order: Vec<&MemberObject> = self.desired.values().collect();
        order.sort_by_key(|object| object.id.kind);
        let apply = order.into_iter().filter(|object| self.is_due(object)).map(|object| {
            let is_new = !self.live.contains_key(&object.id);
            Action::Apply { object: object.clone(), is_new }
        });
        let is_wanted =
            |id: &MemberObjectId| self.desired.contains_key(id) || self.stays.contains(id);
        let unwanted = self.live.keys().rev().filter(|id| !is_wanted(id));
        let unwanted = unwanted.filter(|id| self.why_not(id).is_none() && !self.is_in_use(id));
        apply.chain(unwanted.cloned().map(Action::Prune)).collect()
    }

    fn is_due(&self, object: &MemberObject) -> bool {
        let refused = self.refused.get(&object.id);
        let is_refused = refused.is_some_and(|refused| {
            refused.body == object.body && refused.content == object.fingerprints()
        });
        let is_forbidden = self.forbidden.contains_key(&Scope::of(&object.id));
        if is_refused || is_forbidden || self.awaits(&object.id) {
            return false;
        }
        let as_applied = self.applied.get(&object.id).zip(self.live.get(&object.id));
        !as_applied.is_some_and(|(applied, live)| {
            let content = object.fingerprints();
            // What others add is theirs.
            let holds = content.iter().all(|(key, value)| live.content.get(key) == Some(value));
            applied.body == object.body
                && projection(&applied.body, &live.shown) == applied.shown
                && applied.content == content
                && holds
        })
    }

    fn why_not(&self, id: &MemberObjectId) -> Option<&str> {
        let forbidden = || self.forbidden.get(&Scope::of(id)).map(String::as_str);
        self.refused.get(id).map(|refused| refused.why.as_str()).or_else(forbidden)
    }

    /// Whether it is a Deployment that waits for what its template names: with an object of others in the place
    /// of the hub's it would run otherwise than it is written.
    pub(super) fn awaits(&self, id: &MemberObjectId) -> bool {
        let key = || WorkloadKey::new(id.namespace.as_deref().unwrap_or_default(), &id.name).ok();
        let kept = (id.kind == MemberKind::Deployment).then(key).flatten();
        let kept = kept.and_then(|key| self.workloads.get(&key));
        let mut named = kept.iter().flat_map(|kept| &kept.objects);
        named.any(|id| id.kind.attached().is_some() && self.why_not(id).is_some())
    }

    /// Whether it is a ConfigMap or Secret that pods of an earlier template may still need, since the present
    /// one could not be applied, or not all pods have it yet.
    pub(super) fn is_in_use(&self, id: &MemberObjectId) -> bool {
        let mut deployments = self.desired.keys().filter(|other| {
            other.kind == MemberKind::Deployment && other.namespace == id.namespace
        });
        let is_held_up =
            |id| self.refused.contains_key(id) || self.awaits(id) || self.is_rolling(id);
        id.kind.attached().is_some() && deployments.any(is_held_up)
    }

    /// Whether pods of a Deployment have an earlier template still, as far as its controller says anything.
    fn is_rolling(&self, id: &MemberObjectId) -> bool {
        let Some(live) = self.live.get(id) else { return false };
        let number = |path: &str| live.shown.pointer(path).and_then(Value::as_u64);
        let Some(observed) = number("/status/observedGeneration") else { return false };
        let updated = number("/status/updatedReplicas").unwrap_or(0);
        let is_unseen =
            number("/metadata/generation").is_some_and(|generation| observed < generation);
        is_unseen || number("/status/replicas").is_some_and(|replicas| updated < replicas)
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
        let scopes = self.scopes();
        let mut namespaces = self.namespaces();
        namespaces.extend(scopes.iter().filter_map(|scope| scope.namespace.clone()));
        self.set.parent_object(&scopes, &namespaces)
    }

    /// How each workload is.
    pub(super) fn workloads(&self) -> BTreeMap<WorkloadKey, MemberWorkload> {
        let of = |(key, kept): (&WorkloadKey, &Kept)| (key.clone(), self.workload(key, kept));
        self.workloads.iter().map(of).collect()
    }

    fn problem(&self, kept: &Kept) -> Option<String> {
        let not_applied = kept.objects.iter().find_map(|id| Some((id, self.why_not(id)?)));
        match (&kept.obstacle, not_applied) {
            (Some(Obstacle::MissingObject(why) | Obstacle::NoParameters(why)), _) => {
                Some(why.clone())
            }
            (None, Some((id, why))) => {
                let (_, kind, _) = id.kind.names();
                Some(format!("{kind} {}: {why}", id.name))
            }
            (None, None) => None,
        }
    }

    fn workload(&self, key: &WorkloadKey, kept: &Kept) -> MemberWorkload {
        let problem = self.problem(kept);
        if let Some(Obstacle::NoParameters(_)) = kept.obstacle {
            return MemberWorkload { problem, ..MemberWorkload::default() };
        }
        let id = MemberObjectId {
            kind: MemberKind::Deployment,
            namespace: Some(key.namespace().to_owned()),
            name: key.name().to_owned(),
        };
        let Some(live) = self.live.get(&id).map(|live| &live.shown) else {
            let wanted = kept.fixed.unwrap_or(1);
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
            wanted: kept.fixed.unwrap_or_else(|| number("/spec/replicas")),
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
