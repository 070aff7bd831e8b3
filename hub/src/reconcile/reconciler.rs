//! What is due: desired state once every object is known, and statuses that differ from the stored.

use super::attached::{Interest, Sight, Source};
use super::cluster_status::{InClusters, cluster_status, workload_in_clusters};
use super::deletion::{Deletions, FinalizerPatch, Remaining};
use super::events::{ObjectEvent, events_between};
use super::objects::{Held, Kind, Object, ObjectKey, Objects};
use super::pace::{Pace, key_of_node};
use super::regression::{Regression, SeenState};
use super::status::{
    deleted_workload_status, is_about, node_status, with_acceptance, workload_status,
};
use crate::core::{HubCore, WorkloadView};
use crate::manifests::{InferenceWorkload, Manifests, PROBLEMS_MAX};
use crate::members::{Member, MemberReport, MemberShare};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use shared::model::{NodeId, PodTemplate, UnixMs};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of the API server's objects.
#[derive(Debug)]
pub(crate) enum Change {
    /// An object is there, or has changed.
    Put(Box<Object>),
    /// An object is there no more.
    Removed(ObjectKey),
    /// Objects are about to be listed; the newest of everything has this resource version.
    Listing(u64),
    /// These are all objects of a kind: one that is not among them is gone.
    Listed(Kind, BTreeSet<ObjectKey>),
    /// A status was written, or there is nobody any more to write it for.
    Written(ObjectKey),
    /// A status was not written; in words, unless it was for want of room alone.
    NotWritten(ObjectKey, Option<String>),
    /// A finalizer was set, or taken away.
    Finalized(ObjectKey, bool),
    /// A finalizer was not written; in words, unless it was for want of room alone.
    NotFinalized(ObjectKey, Option<String>),
    /// Objects of a kind can't be watched, in words; or can be again.
    Watched(Kind, Result<(), String>),
    /// How a member cluster is.
    Member(Box<MemberReport>),
    /// What was seen of ConfigMaps or Secrets.
    Attached(Source, Sight),
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
    /// What is on its way, and what is looked at when.
    pace: Pace,
    /// What is known of each member cluster.
    members: BTreeMap<String, MemberReport>,
    /// Kinds whose objects can't be watched at present, and why.
    unwatched: BTreeMap<Kind, String>,
    /// Why the last status was not written; `None` where it was.
    unwritten: Option<String>,
    deletions: Deletions,
    regression: Regression,
    /// Why the last finalizer was not written; `None` where it was.
    unfinalized: Option<String>,
}

impl Reconciler {
    /// One that knows how workloads were accepted `earlier`, by the hub's last start, and what it had seen.
    pub(crate) fn new(earlier: Vec<InferenceWorkload>, seen: SeenState) -> Self {
        let regression = Regression::new(seen, earlier.iter());
        Self { objects: Objects::new(earlier.into_iter()), regression, ..Self::default() }
    }

    /// An older state of the API server counts from now on; whether there was one that did not.
    pub(crate) fn confirm_regression(&mut self) -> bool {
        let is_found = self.regression.is_found();
        self.regression.confirm();
        self.changed |= is_found;
        is_found
    }

    /// What is to be stored at once, before anything is taken over: that the API server was put back.
    pub(crate) fn take_put_back(&mut self) -> Option<SeenState> {
        self.regression.take_put_back()
    }

    /// Something was seen.
    pub(crate) fn handle(&mut self, change: Change) {
        match change {
            Change::Put(object) => {
                let before = self.objects.get(&object.key);
                let is_another = before.is_some_and(|held| held.uid() != object.uid);
                self.pace.shown(&object.key, &object.status, is_another);
                self.regression.saw(object.revision);
                self.changed |= self.objects.put(*object);
            }
            Change::Removed(key) => self.remove(&key),
            Change::Listing(revision) => self.regression.lists_at(revision),
            Change::Listed(kind, all) => {
                let gone: Vec<_> =
                    self.objects.keys(kind).filter(|key| !all.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
                self.regression.listed(kind);
                self.changed |= self.listed.insert(kind) || self.regression.is_found();
            }
            Change::Written(key) => {
                self.unwritten = None;
                self.pace.written(&key);
            }
            Change::NotWritten(key, problem) => {
                self.unwritten = problem.or(self.unwritten.take());
                self.pace.not_written(&key);
            }
            Change::Finalized(key, holds) => {
                self.unfinalized = None;
                self.objects.set_held(&key, holds);
                self.deletions.ended(&key);
            }
            Change::NotFinalized(key, problem) => {
                self.unfinalized = problem.or(self.unfinalized.take());
                self.deletions.ended(&key);
            }
            Change::Watched(kind, Ok(())) => drop(self.unwatched.remove(&kind)),
            Change::Watched(kind, Err(problem)) => drop(self.unwatched.insert(kind, problem)),
            Change::Member(report) => self.members_told(*report),
            Change::Attached(source, sight) => {
                self.objects.handle_attached(source, sight);
                self.changed = true;
            }
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
        self.pace.gone(key);
        self.deletions.ended(key);
        if key.kind == Kind::Cluster {
            self.members.remove(&key.name);
        }
        self.changed |= self.objects.remove(key);
    }

    /// The desired state, where it may have changed and every object is known. The first one since the
    /// start waits until it would stop no pod for the sole reason that its workload is refused now.
    pub(crate) fn take_manifests(&mut self) -> Option<(Manifests, SeenState)> {
        if !self.changed || !self.is_listed() || self.is_held_back() {
            return None;
        }
        let manifests = self.objects.manifests();
        if self.regression.is_found() {
            if !self.regression.makes_no_difference(&manifests) {
                return None;
            }
            self.regression.confirm();
        }
        (self.changed, self.taken) = (false, true);
        let seen = self.regression.take_over(&manifests);
        Some((manifests, seen))
    }

    /// The ConfigMaps and Secrets that are to be watched from now on, once every workload is known and where
    /// they are others than before. `templates` are those that nodes may run, with their namespaces.
    pub(crate) fn take_interest<'a>(
        &mut self,
        templates: impl Iterator<Item = (&'a str, &'a PodTemplate)>,
    ) -> Option<Interest> {
        if !self.is_listed() {
            return None;
        }
        self.objects.take_interest(templates)
    }

    /// Each member cluster with what it should have, once that is known.
    pub(crate) fn members(&self) -> Option<BTreeMap<String, (Member, Vec<MemberShare>)>> {
        self.taken.then(|| self.objects.members())
    }

    fn is_listed(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    fn is_held_back(&self) -> bool {
        let is_known =
            || self.objects.is_attached_read() && self.objects.unknown().next().is_none();
        !self.taken && !is_known()
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
        let unfinalized = self.unfinalized.iter().map(|problem| {
            format!("a workload that is deleted can't be held until its pods are gone: {problem}")
        });
        let is_put_back = self.regression.is_found() && self.is_listed();
        let put_back = is_put_back.then(|| self.regression.in_words(&self.objects.manifests()));
        let put_back = put_back.flatten().into_iter();
        let of_watches = put_back.chain(unwatched).chain(self.objects.unread());
        let all = of_watches.chain(unwritten).chain(unfinalized).chain(unknown).chain(refused);
        all.take(PROBLEMS_MAX).collect()
    }

    /// The object of a node and its uid, where it has one.
    pub(crate) fn object_of(&self, node: &NodeId) -> Option<(ObjectKey, String)> {
        let key = key_of_node(node);
        let uid = self.objects.get(&key)?.uid().to_owned();
        Some((key, uid))
    }

    /// A node's status may have to be another.
    pub(crate) fn touch_node(&mut self, node: &NodeId) {
        let key = key_of_node(node);
        if self.objects.get(&key).is_some() {
            self.pace.touch(key);
        }
    }

    /// The statuses that differ from those that are stored or on their way. All workloads and clusters
    /// are looked at, and those nodes that were touched a moment ago.
    pub(crate) fn take_statuses(&mut self, core: &HubCore, now: UnixMs) -> Vec<StatusPatch> {
        if !self.is_listed() {
            return vec![];
        }
        let mut keys = self.pace.begin_look(now);
        for kind in [Kind::Workload, Kind::Cluster] {
            keys.extend(self.objects.keys(kind).cloned());
        }
        let views = core.workload_views().map(|view| (view.workload.clone(), view)).collect();
        let mut patches = vec![];
        for key in keys {
            let Some(held) = self.objects.get(&key).filter(|held| !held.verdict.reading) else {
                continue;
            };
            let stored = self.pace.status(&key).cloned().unwrap_or_else(|| held.status());
            let (status, is_held_back) = self.status_of(&key, held, &stored, core, &views, now);
            let differs = status.filter(|status| *status != stored);
            let differs = differs.map(|status| (events_between(&stored, &status), status));
            if is_held_back {
                self.pace.await_return(&key);
            }
            let Some((events, status)) = differs else { continue };
            if self.pace.may_hand_out(&key) {
                self.pace.handed_out(&key, status.clone(), now);
                let uid = held.uid().to_owned();
                patches.push(StatusPatch { key, uid, status, events });
            }
        }
        patches
    }

    /// The finalizers that are to be set or taken away.
    pub(crate) fn take_finalizers(&mut self, core: &HubCore, now: UnixMs) -> Vec<FinalizerPatch> {
        if !self.taken || self.regression.is_found() {
            return vec![];
        }
        let Self { objects, deletions, members, .. } = self;
        let workloads =
            objects.keys(Kind::Workload).filter_map(|key| Some((key, objects.get(key)?)));
        let patch = |(key, held): (&ObjectKey, &Held)| {
            deletions.patch(key, held, || Remaining::of(key, core, members), now)
        };
        workloads.filter_map(patch).collect()
    }

    /// Milliseconds until statuses must be looked at again, though nothing happens.
    pub(crate) fn wait_ms(&self, now: UnixMs) -> Option<u64> {
        let workloads = self.objects.keys(Kind::Workload).filter_map(|key| self.objects.get(key));
        let deadline = |held: &Held| {
            let since = held.deletion().filter(|_| held.is_held())?;
            since.0.saturating_add(held.deletion_deadline_ms()).checked_sub(now.0)
        };
        let deadlines = workloads.filter_map(deadline).filter(|wait_ms| *wait_ms > 0);
        deadlines.chain(self.pace.wait_ms(now)).min()
    }

    /// The status of an object as it should be, and whether it leaves out what a hub that has just started
    /// does not know yet.
    fn status_of(
        &self,
        key: &ObjectKey,
        held: &Held,
        stored: &Value,
        core: &HubCore,
        views: &BTreeMap<String, WorkloadView>,
        now: UnixMs,
    ) -> (Option<Value>, bool) {
        let (verdict, at) = (&held.verdict, time(now));
        let unchanged = || Some(with_acceptance(stored, verdict, &at));
        let status = match key.kind {
            Kind::Workload if !self.taken => return (unchanged(), false),
            Kind::Workload if held.deletion().is_some() => {
                let remaining = Remaining::of(key, core, &self.members);
                serde_json::to_value(deleted_workload_status(remaining, verdict, stored, &at))
            }
            Kind::Cluster => {
                let report = self.members.get(&key.name);
                serde_json::to_value(cluster_status(report, verdict, stored, &at))
            }
            Kind::Workload if let Some(clusters) = self.objects.clusters_of(key) => {
                let reports = InClusters { clusters, reports: &self.members };
                serde_json::to_value(workload_in_clusters(&reports, key, verdict, stored, &at))
            }
            Kind::Workload => {
                let view = views.get(&format!("{}/{}", key.namespace, key.name));
                let misses_nodes = view.is_some_and(|view| view.nodes_unheard > 0);
                if misses_nodes && self.pace.is_returning(now) && is_about(stored, verdict) {
                    return (unchanged(), true);
                }
                serde_json::to_value(workload_status(view, verdict, stored, &at))
            }
            Kind::Node => {
                let view = NodeId::new(&key.name).ok().and_then(|id| core.node_view(&id));
                let is_away = view.as_ref().is_some_and(|view| view.state == "Offline");
                if is_away && self.pace.is_awaited(key, now) && !stored.is_null() {
                    return (unchanged(), true);
                }
                serde_json::to_value(node_status(view.as_ref(), held.node(), verdict, stored, &at))
            }
        };
        (status.ok(), false)
    }
}

/// Whole seconds, as the API server writes them.
fn time(now: UnixMs) -> Time {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}
