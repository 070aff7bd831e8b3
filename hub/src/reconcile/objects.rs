//! Objects as the API server has them, and the desired state that they make.

use super::attached::{Attached, Interest, Sight, Source, add_template, add_workload, names_some};
use super::status;
use crate::api::{EdgeClusterSpec, EdgeNodeSpec, InferenceWorkloadSpec};
use crate::manifests::{
    EdgeNode, InferenceWorkload, Invalid, Manifests, Standing, WORKLOADS_MAX, edge_node,
    inference_workload, written_path,
};
use crate::members::{Member, MemberShare, member_access};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::model::{NodeId, PodTemplate, UnixMs, WorkloadKey};
use shared::wire::Digest;
use std::collections::BTreeMap;

/// The kinds that say what the fleet should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `InferenceWorkload`.
    Workload,
    /// `EdgeNode`.
    Node,
    /// `EdgeCluster`.
    Cluster,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Workload, Self::Node, Self::Cluster];
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectKey {
    pub(crate) kind: Kind,
    /// Empty for a node and a cluster.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// An object, as far as the hub looks at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) key: ObjectKey,
    /// Another one of the same name has another.
    pub(crate) uid: String,
    /// Changes with the spec.
    pub(crate) generation: i64,
    /// Grows with every change of anything; 0 where it is no number.
    pub(crate) revision: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// When somebody deleted it, where somebody has: finalizers hold it.
    pub(crate) deletion: Option<UnixMs>,
    /// Whether the hub's finalizer is among them.
    pub(crate) is_held: bool,
    /// As it is stored: nothing of it is believed yet.
    pub(crate) spec: Value,
    /// As it is stored.
    pub(crate) status: Value,
}

/// Whether an object is in force as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    /// The generation that was looked at.
    pub(crate) generation: i64,
    /// The field's path and what was wrong with it.
    pub(crate) refused: Option<Invalid>,
    /// Nothing is wrong with it but that it names what is not there.
    pub(crate) awaits: bool,
    /// It is not known yet whether all that it names is there.
    pub(crate) reading: bool,
}

/// What an object says, once it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Workload(Box<InferenceWorkload>),
    Node(NodeId, EdgeNode),
    Cluster(Member),
}

/// One object with what was read of it. Of a fleet there are thousands: its status is held as text, which takes
/// a tenth of the memory of values, and is read when it is looked at; all else is only compared.
#[derive(Debug)]
pub(super) struct Held {
    uid: String,
    generation: i64,
    /// Of a cluster: workloads select it by them. Of what else there is they were read.
    labels: BTreeMap<String, String>,
    deletion: Option<UnixMs>,
    is_held: bool,
    /// Of its spec, labels and annotations.
    content: Digest,
    /// As JSON.
    status: Box<str>,
    /// Whether it ran when its status was written.
    has_run: bool,
    pub(super) verdict: Verdict,
    /// What is in force: the newest that was accepted.
    accepted: Option<Said>,
    /// What is written, while it waits for what it names.
    written: Option<Box<InferenceWorkload>>,
}

impl Held {
    fn new(object: Object, verdict: Verdict, accepted: Option<Said>) -> Self {
        let content = content_of(&object);
        let Object { key, uid, generation, labels, deletion, is_held, status, .. } = object;
        let labels = if key.kind == Kind::Cluster { labels } else { BTreeMap::new() };
        Self {
            uid,
            generation,
            labels,
            deletion,
            is_held,
            content,
            status: text_of(&status),
            has_run: status::has_run(&status),
            verdict,
            accepted,
            written: None,
        }
    }

    fn workloads(&self) -> impl Iterator<Item = &InferenceWorkload> {
        let accepted = match &self.accepted {
            Some(Said::Workload(workload)) => Some(workload.as_ref()),
            _ => None,
        };
        self.written.as_deref().into_iter().chain(accepted)
    }

    /// Whether it names ConfigMaps or Secrets, as it is written or as it is in force.
    fn names_some(&self) -> bool {
        self.workloads().any(names_some)
    }

    /// What is written, as far as it is a workload that something may be missing of.
    fn in_question(&self) -> Option<&InferenceWorkload> {
        let is_as_written = self.verdict.refused.is_none() || self.verdict.awaits;
        let workload = match (&self.written, &self.accepted) {
            (Some(written), _) => Some(written),
            (None, Some(Said::Workload(accepted))) if is_as_written => Some(accepted),
            _ => None,
        };
        workload.map(Box::as_ref).filter(|workload| names_some(workload))
    }

    /// Looks again whether all is there that is named; whether something else is in force now.
    fn review(&mut self, attached: &Attached) -> bool {
        let Some(standing) = self.in_question().map(|workload| attached.standing(workload)) else {
            return false;
        };
        let generation = self.verdict.generation;
        self.verdict = Verdict { generation, ..Verdict::default() };
        match standing {
            Standing::Whole => {
                let written = self.written.take();
                let accepts = written.is_some();
                self.accepted = written.map(Said::Workload).or(self.accepted.take());
                return accepts;
            }
            Standing::NotRead => self.verdict.reading = true,
            Standing::Lacks(what) => {
                (self.verdict.refused, self.verdict.awaits) = (Some(what), true);
            }
        }
        false
    }

    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    /// What is in force of a node.
    pub(super) fn node(&self) -> Option<&EdgeNode> {
        match &self.accepted {
            Some(Said::Node(_, node)) => Some(node),
            _ => None,
        }
    }

    /// What is in force of a workload, or was until it was deleted.
    pub(super) fn workload(&self) -> Option<&InferenceWorkload> {
        match &self.accepted {
            Some(Said::Workload(workload)) => Some(workload),
            _ => None,
        }
    }

    /// When somebody deleted it, where somebody has.
    pub(super) fn deletion(&self) -> Option<UnixMs> {
        self.deletion
    }

    /// Whether the hub's finalizer holds it.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// For how long its deletion waits.
    pub(super) fn deletion_deadline_ms(&self) -> u64 {
        let policy = self.workload().map(|workload| workload.offline).unwrap_or_default();
        policy.deletion_deadline_ms
    }

    /// The status as it is stored.
    pub(super) fn status(&self) -> Value {
        // It was written from a value.
        serde_json::from_str(&self.status).unwrap_or_default()
    }

    fn set_status(&mut self, status: &Value) {
        (self.status, self.has_run) = (text_of(status), status::has_run(status));
    }
}

fn text_of(value: &Value) -> Box<str> {
    value.to_string().into_boxed_str()
}

/// Every object of the kinds that say what the fleet should run.
#[derive(Debug, Default)]
pub(super) struct Objects {
    held: BTreeMap<ObjectKey, Held>,
    /// Workloads as the hub's last start accepted them: they stay in force where what is written now is
    /// refused.
    earlier: BTreeMap<WorkloadKey, InferenceWorkload>,
    /// The ConfigMaps and Secrets that they name.
    attached: Attached,
    /// Others may be named now than are watched.
    names_changed: bool,
    /// What is named was asked for once.
    asked: bool,
}

impl Objects {
    pub(super) fn new(earlier: impl Iterator<Item = InferenceWorkload>) -> Self {
        let earlier = earlier.map(|workload| (workload.key.clone(), workload)).collect();
        Self { earlier, ..Self::default() }
    }

    /// An object that is there, or has changed; whether that may change the desired state.
    pub(super) fn put(&mut self, object: Object) -> bool {
        let same = |held: &&mut Held| held.says_the_same(&object);
        if let Some(held) = self.held.get_mut(&object.key).filter(same) {
            // Only its status is another, as after each of the hub's own writes.
            held.set_status(&object.status);
            held.is_held = object.is_held;
            return false;
        }
        let earlier = match self.held.remove(&object.key) {
            Some(held) => {
                self.names_changed |= held.names_some();
                held.accepted
            }
            None => self.accepted_earlier(&object),
        };
        let (accepted, written, refused) = match self.read(&object) {
            // Something may be missing of it.
            Ok(Said::Workload(written)) if names_some(&written) => (earlier, Some(written), None),
            Ok(said) => (Some(said), None, None),
            Err(refused) => (earlier, None, Some(refused)),
        };
        let verdict = Verdict { generation: object.generation, refused, ..Verdict::default() };
        let key = object.key.clone();
        let mut held = Held { written, ..Held::new(object, verdict, accepted) };
        self.names_changed |= held.names_some();
        held.review(&self.attached);
        self.held.insert(key, held);
        true
    }

    /// What is to be watched of ConfigMaps and Secrets, where it is something else than before: what workloads
    /// name as they are written and as they are in force, and what templates name that nodes run.
    pub(super) fn take_interest<'a>(
        &mut self,
        templates: impl Iterator<Item = (&'a str, &'a PodTemplate)>,
    ) -> Option<Interest> {
        // At first what nodes run may name what no workload does any more.
        if !std::mem::take(&mut self.names_changed) && std::mem::replace(&mut self.asked, true) {
            return None;
        }
        self.asked = true;
        let mut interest = Interest::new();
        for held in self.held.values() {
            held.workloads().for_each(|workload| add_workload(&mut interest, workload));
        }
        templates
            .for_each(|(namespace, template)| add_template(&mut interest, namespace, template));
        self.attached.watch(interest)
    }

    /// Something was seen of ConfigMaps or Secrets.
    pub(super) fn handle_attached(&mut self, source: Source, sight: Sight) {
        self.attached.handle(source, sight);
        for held in self.held.values_mut() {
            // What was accepted before may name what nothing names any more.
            self.names_changed |= held.review(&self.attached);
        }
    }

    /// Whether all is known of ConfigMaps and Secrets that there is to know.
    pub(super) fn is_attached_read(&self) -> bool {
        !self.names_changed && self.attached.is_read()
    }

    /// ConfigMaps and Secrets that can't be read, in words.
    pub(super) fn unread(&self) -> impl Iterator<Item = String> {
        self.attached.problems()
    }

    /// Not for one that never ran: then it is another one of the same name.
    fn accepted_earlier(&mut self, object: &Object) -> Option<Said> {
        let is_known = object.key.kind == Kind::Workload && status::has_run(&object.status);
        let key = is_known.then_some(&object.key)?;
        let key = WorkloadKey::new(&key.namespace, &key.name).ok()?;
        Some(Said::Workload(Box::new(self.earlier.remove(&key)?)))
    }

    /// The hub's finalizer of an object was set or taken away: the watch shows it later.
    pub(super) fn set_held(&mut self, key: &ObjectKey, is_held: bool) {
        if let Some(held) = self.held.get_mut(key) {
            held.is_held = is_held;
        }
    }

    /// An object that is there no more; whether it was there.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let removed = self.held.remove(key);
        self.names_changed |= removed.as_ref().is_some_and(Held::names_some);
        removed.is_some()
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Held> {
        self.held.get(key)
    }

    pub(super) fn keys(&self, kind: Kind) -> impl Iterator<Item = &ObjectKey> {
        self.held.keys().filter(move |key| key.kind == kind)
    }

    /// What is not in force as it is written, and why.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&ObjectKey, &Invalid)> {
        self.held.iter().filter_map(|(key, held)| Some((key, held.verdict.refused.as_ref()?)))
    }

    /// Workloads that ran, as their statuses say, and of which nothing that was accepted is known:
    /// without them the desired state would stop their pods.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &ObjectKey> {
        let unknown =
            |held: &Held| held.accepted.is_none() && held.has_run && held.deletion.is_none();
        let workloads = self.held.iter().filter(|(key, _)| key.kind == Kind::Workload);
        workloads.filter(move |(_, held)| unknown(held)).map(|(key, _)| key)
    }

    /// The desired state of the fleet.
    pub(super) fn manifests(&self) -> Manifests {
        let mut manifests = Manifests { objects: self.attached.objects(), ..Manifests::default() };
        let wanted = self.held.values().filter(|held| held.deletion.is_none());
        for said in wanted.filter_map(|held| held.accepted.clone()) {
            match said {
                Said::Workload(workload) => {
                    manifests.workloads.insert(workload.key.clone(), *workload);
                }
                Said::Node(id, node) => drop(manifests.nodes.insert(id, node)),
                Said::Cluster(_) => {}
            }
        }
        manifests
    }

    /// Each member cluster, with what it is to have of the workloads that select it.
    pub(super) fn members(&self) -> BTreeMap<String, (Member, Vec<MemberShare>)> {
        let named = self.attached.objects();
        let cluster = |held: &Held| match &held.accepted {
            Some(Said::Cluster(member)) => {
                let selecting = self.selecting(&held.labels);
                let share = |workload| MemberShare::new(workload, &held.labels, &named);
                Some((member.clone(), selecting.map(share).collect()))
            }
            _ => None,
        };
        let found = self.held.values().filter_map(cluster);
        found.map(|(member, workloads)| (member.name.clone(), (member, workloads))).collect()
    }

    fn selecting(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &InferenceWorkload> {
        let wanted = self.held.values().filter(|held| held.deletion.is_none());
        wanted.filter_map(Held::workload).filter(move |workload| workload.selects_cluster(labels))
    }

    /// The member clusters that a workload selects; `None` when it is one for edge nodes.
    pub(super) fn clusters_of(&self, key: &ObjectKey) -> Option<(u32, Vec<&str>)> {
        let Some(Said::Workload(workload)) = &self.held.get(key)?.accepted else { return None };
        workload.cluster_selector.as_ref()?;
        let clusters = self.held.iter().filter(|(_, held)| {
            matches!(held.accepted, Some(Said::Cluster(_)))
                && workload.selects_cluster(&held.labels)
        });
        let names = clusters.map(|(key, _)| key.name.as_str()).collect();
        Some((workload.replicas_in_a_cluster(), names))
    }

    fn read(&self, object: &Object) -> Result<Said, Invalid> {
        let Object { key, labels, annotations, spec, .. } = object;
        match key.kind {
            Kind::Workload if self.keys(Kind::Workload).count() >= WORKLOADS_MAX => {
                Err((String::new(), format!("there are {WORKLOADS_MAX} workloads already")))
            }
            Kind::Workload => {
                let spec = read_spec::<InferenceWorkloadSpec>(spec)?;
                let built =
                    inference_workload(&key.namespace, &key.name, labels, annotations, spec)?;
                Ok(Said::Workload(Box::new(built)))
            }
            Kind::Cluster => {
                let spec = read_spec::<EdgeClusterSpec>(spec)?;
                let access = member_access(spec)?;
                Ok(Said::Cluster(Member { name: key.name.clone(), access }))
            }
            Kind::Node => {
                let spec = read_spec::<EdgeNodeSpec>(spec)?;
                edge_node(&key.name, labels, annotations, spec)
                    .map(|(id, node)| Said::Node(id, node))
            }
        }
    }
}

impl Held {
    fn says_the_same(&self, object: &Object) -> bool {
        self.uid == object.uid
            && self.generation == object.generation
            && self.deletion == object.deletion
            && self.content == content_of(object)
    }
}

/// What tells one content of an object from another.
fn content_of(object: &Object) -> Digest {
    let Object { spec, labels, annotations, .. } = object;
    Digest::of(json!([spec, labels, annotations]).to_string().as_bytes())
}

/// Strict: a field that is not known is refused, though the API server has kept it.
fn read_spec<T: DeserializeOwned>(spec: &Value) -> Result<T, Invalid> {
    // No spec at all is one without fields.
    let none = Value::Object(serde_json::Map::new());
    let spec = if spec.is_null() { &none } else { spec };
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = written_path(error.path());
        let path = if path.is_empty() { "spec".to_owned() } else { format!("spec.{path}") };
        (path, error.inner().to_string())
    })
}
