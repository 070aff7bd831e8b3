//! What is due: desired state once every object is known, and statuses that differ from the stored.

use super::cluster_status::{InClusters, cluster_status, workload_in_clusters};
use super::events::{ObjectEvent, events_between};
use super::objects::{Kind, Object, ObjectKey, Objects};
use super::status::{node_status, with_acceptance, workload_status};
use crate::core::{HubCore, WorkloadView};
use crate::manifests::{InferenceWorkload, Manifests, PROBLEMS_MAX};
use crate::members::{Member, MemberReport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use shared::model::{NodeId, UnixMs};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of the API server's objects.
#[derive(Debug)]
pub(crate) enum Change {
    /// An object is there, or has changed.
    Put(Box<Object>),
    /// An object is there no more.
    Removed(ObjectKey),
    /// These are all objects of a kind: one that is not among them is gone.
    Listed(Kind, BTreeSet<ObjectKey>),
    /// A status was not written; in words, unless it was for want of room alone.
    NotWritten(ObjectKey, Option<String>),
    /// Objects of a kind can't be watched, in words; or can be again.
    Watched(Kind, Result<(), String>),
    /// How a member cluster is.
    Member(Box<MemberReport>),
}

/// A status to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StatusPatch {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) status: Value,
    /// What somebody should hear of once it is written.
    pub(crate) events: Vec<ObjectEvent>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    objects: Objects,
    listed: BTreeSet<Kind>,
    /// The desired state may be another than the one that was taken last.
    changed: bool,
    /// The desired state was taken since the start.
    taken: bool,
    /// Statuses on their way.
    sent: BTreeMap<ObjectKey, Value>,
    /// Objects whose status may have to be another.
    due: BTreeSet<ObjectKey>,
    /// What is known of each member cluster.
    members: BTreeMap<String, MemberReport>,
    /// Kinds whose objects can't be watched at present, and why.
    unwatched: BTreeMap<Kind, String>,
    /// Why the last status was not written; `None` where it was.
    unwritten: Option<String>,
}

impl Reconciler {
    /// One that knows how workloads were accepted `earlier`, by the hub's last start.
    pub(crate) fn new(earlier: impl Iterator<Item = InferenceWorkload>) -> Self {
        Self { objects: Objects::new(earlier), ..Self::default() }
    }

    /// Something was seen.
    pub(crate) fn handle(&mut self, change: Change) {
        match change {
            Change::Put(object) => {
                let key = object.key.clone();
                // The watch shows what was written, or what somebody else made of it.
                if self.sent.remove(&key).is_some() {
                    self.unwritten = None;
                }
                self.changed |= self.objects.put(*object);
                self.due.insert(key);
            }
            Change::Removed(key) => self.remove(&key),
            Change::Listed(kind, all) => {
                let gone: Vec<_> =
                    self.objects.keys(kind).filter(|key| !all.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
                self.changed |= self.listed.insert(kind);
            }
            Change::NotWritten(key, problem) => {
                self.sent.remove(&key);
                self.due.insert(key);
                self.unwritten = problem.or(self.unwritten.take());
            }
            Change::Watched(kind, Ok(())) => drop(self.unwatched.remove(&kind)),
            Change::Watched(kind, Err(problem)) => drop(self.unwatched.insert(kind, problem)),
            Change::Member(report) => self.members_told(*report),
        }
    }

    /// One that is not reached has what it had.
    fn members_told(&mut self, mut report: MemberReport) {
        let before = self.members.remove(&report.cluster);
        if report.facts.is_err() {
            report.workloads = before.map(|before| before.workloads).unwrap_or_default();
        }
        self.members.insert(report.cluster.clone(), report);
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.sent.remove(key);
        self.due.remove(key);
        if key.kind == Kind::Cluster {
            self.members.remove(&key.name);
        }
        self.changed |= self.objects.remove(key);
    }

    /// The desired state, where it may have changed and every object is known. The first one since the
    /// start waits until it would stop no pod for the sole reason that its workload is refused now.
    pub(crate) fn take_manifests(&mut self) -> Option<Manifests> {
        if !self.changed || !self.is_listed() || self.is_held_back() {
            return None;
        }
        (self.changed, self.taken) = (false, true);
        Some(self.objects.manifests())
    }

    /// Each member cluster with what it should have, once that is known.
    pub(crate) fn members(&self) -> Option<BTreeMap<String, (Member, Vec<InferenceWorkload>)>> {
        self.taken.then(|| self.objects.members())
    }

    fn is_listed(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    fn is_held_back(&self) -> bool {
        !self.taken && self.objects.unknown().next().is_some()
    }

    /// What people must mend, in words: at most [`PROBLEMS_MAX`].
    pub(crate) fn problems(&self) -> Vec<String> {
        let named = |key: &ObjectKey| match key.kind {
            Kind::Workload => format!("InferenceWorkload {}/{}", key.namespace, key.name),
            Kind::Node => format!("EdgeNode {}", key.name),
            Kind::Cluster => format!("EdgeCluster {}", key.name),
        };
        let unknown = self.objects.unknown().filter(|_| !self.taken).map(|key| {
            format!("{}: is refused, and what it was is not known: nobody is told anything before it is \
                mended or deleted, since its pods would be stopped", named(key))
        });
        let refused = self.objects.refused();
        let refused =
            refused.map(|(key, (path, problem))| format!("{}: {path}: {problem}", named(key)));
        let unwatched = self.unwatched.iter().map(|(kind, problem)| {
            format!("{kind:?}s can't be watched, and what was read last stays in force: {problem}")
        });
        let unwritten = self
            .unwritten
            .iter()
            .map(|problem| format!("statuses can't be written, and are tried again: {problem}"));
        let all = unwatched.chain(unwritten).chain(unknown).chain(refused);
        all.take(PROBLEMS_MAX).collect()
    }

    /// A node's status may have to be another.
    pub(crate) fn touch_node(&mut self, node: &NodeId) {
        let key = ObjectKey { kind: Kind::Node, namespace: String::new(), name: node.to_string() };
        if self.objects.get(&key).is_some() {
            self.due.insert(key);
        }
    }

    /// The statuses that differ from those that are stored or on their way. All workloads and clusters
    /// are looked at, and those nodes that were touched.
    pub(crate) fn take_statuses(&mut self, core: &HubCore, now: UnixMs) -> Vec<StatusPatch> {
        if !self.is_listed() {
            return vec![];
        }
        let now = time(now);
        let mut patches = vec![];
        let due = std::mem::take(&mut self.due);
        let views: BTreeMap<String, WorkloadView> =
            core.workload_views().map(|view| (view.workload.clone(), view)).collect();
        let workloads = self.objects.keys(Kind::Workload).chain(self.objects.keys(Kind::Cluster));
        let nodes = due.iter().filter(|key| key.kind == Kind::Node);
        for key in workloads.chain(nodes) {
            let Some(held) = self.objects.get(key) else { continue };
            let stored = self.sent.get(key).unwrap_or(held.status());
            let status = match key.kind {
                Kind::Workload if !self.taken => Ok(with_acceptance(stored, &held.verdict, &now)),
                Kind::Cluster => {
                    let report = self.members.get(&key.name);
                    serde_json::to_value(cluster_status(report, &held.verdict, stored, &now))
                }
                Kind::Workload if let Some(clusters) = self.objects.clusters_of(key) => {
                    let reports = InClusters { clusters, reports: &self.members };
                    serde_json::to_value(workload_in_clusters(
                        &reports,
                        key,
                        &held.verdict,
                        stored,
                        &now,
                    ))
                }
                Kind::Workload => {
                    let view = views.get(&format!("{}/{}", key.namespace, key.name));
                    serde_json::to_value(workload_status(view, &held.verdict, stored, &now))
                }
                Kind::Node => {
                    let view = NodeId::new(&key.name).ok().and_then(|id| core.node_view(&id));
                    let status =
                        node_status(view.as_ref(), held.node(), &held.verdict, stored, &now);
                    serde_json::to_value(status)
                }
            };
            let Ok(status) = status else { continue };
            if status != *stored {
                let events = events_between(stored, &status);
                let (key, uid) = (key.clone(), held.uid().to_owned());
                patches.push(StatusPatch { key, uid, status, events });
            }
        }
        let sent = patches.iter().map(|patch| (patch.key.clone(), patch.status.clone()));
        self.sent.extend(sent);
        patches
    }
}

/// Whole seconds, as the API server writes them.
fn time(now: UnixMs) -> Time {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}
