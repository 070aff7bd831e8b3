//! Custom resources of an API server as the source of desired state, and where statuses go.

use super::witness::Teller;
use crate::cluster::{self, DataVersion, Told};
use crate::core::{Event, HubCore};
use crate::manifests::{InferenceWorkload, Manifests};
use crate::members::{self, Member, MemberDesired, MemberShare};
use crate::reconcile::{
    Change, Filter, FinalizerPatch, Interest, Kind, Reconciler, SeenState, Source, StatusPatch,
};
use kube::Client;
use shared::model::{NodeId, UnixMs};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Changes that wait for the loop, and statuses that wait to be written.
const WAITING_MAX: usize = 1024;

/// Events that wait to be told: what is beyond is in the hub's log alone.
const EVENTS_MAX: usize = 64;

/// Between something that happens and the look at the statuses: what happens together is one write.
const STATUS_DELAY: Duration = Duration::from_millis(20);

/// Looking at the statuses takes this part of the loop's time at most.
const STATUS_SHARE: u32 = 20;

/// See the module.
pub(super) struct Kubernetes {
    reconciler: Reconciler,
    members: Members,
    attached: AttachedWatches,
    patches: mpsc::Sender<StatusPatch>,
    finalizers: mpsc::Sender<FinalizerPatch>,
    /// Where Events go that are of no status.
    events: mpsc::Sender<Told>,
    /// When statuses are to be looked at.
    due: Option<Instant>,
    not_before: Instant,
}

/// The tasks that watch ConfigMaps and Secrets.
struct AttachedWatches {
    client: Client,
    changes: mpsc::Sender<Change>,
    version: DataVersion,
    running: BTreeMap<Source, Watch>,
}

/// One task; it ends with this.
struct Watch {
    filter: Filter,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AttachedWatches {
    fn watch(&mut self, interest: Interest) {
        self.running.retain(|source, watch| interest.get(source) == Some(&watch.filter));
        for (source, filter) in interest {
            let (client, changes) = (self.client.clone(), self.changes.clone());
            self.running.entry(source).or_insert_with_key(|source| {
                let (of, kept) = (source.clone(), filter.clone());
                let version = self.version.clone();
                let watch = cluster::watch_attached(client, of, kept, version, changes);
                let task = tokio::spawn(watch);
                Watch { filter, task }
            });
        }
    }
}

/// The tasks that keep member clusters.
struct Members {
    client: Client,
    changes: mpsc::Sender<Change>,
    kept: BTreeMap<String, Kept>,
}

/// One task; it ends with this.
struct Kept {
    member: Member,
    desired: watch::Sender<MemberDesired>,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Members {
    fn desire(&mut self, members: BTreeMap<String, (Member, Vec<MemberShare>)>) {
        self.kept.retain(|name, kept| {
            members.get(name).is_some_and(|(member, _)| *member == kept.member)
        });
        for (name, (member, workloads)) in members {
            let kept = self.kept.entry(name).or_insert_with(|| {
                let (desired, receiver) = watch::channel(None);
                let (client, changes) = (self.client.clone(), self.changes.clone());
                let task = tokio::spawn(members::keep(client, member.clone(), receiver, changes));
                Kept { member, desired, task }
            });
            kept.desired.send_if_modified(|held| {
                let differs = held.as_deref() != Some(&workloads);
                if differs {
                    *held = Some(Arc::new(workloads));
                }
                differs
            });
        }
    }
}

impl Kubernetes {
    /// Begins to watch and to write; what is seen comes out of the receiver. `earlier` are workloads as
    /// the hub's last start accepted them, `before` what it had seen.
    pub(super) fn start(
        client: Client,
        earlier: Vec<InferenceWorkload>,
        before: SeenState,
    ) -> (Self, mpsc::Receiver<Change>) {
        let (seen, changes) = mpsc::channel(WAITING_MAX);
        let (patches, to_write) = mpsc::channel(WAITING_MAX);
        let version = DataVersion::new();
        for kind in Kind::ALL {
            tokio::spawn(cluster::watch(client.clone(), kind, version.clone(), seen.clone()));
        }
        tokio::spawn(cluster::watch_version(client.clone(), version.clone(), seen.clone()));
        tokio::spawn(cluster::write(client.clone(), to_write, seen.clone()));
        let (finalizers, to_finalize) = mpsc::channel(WAITING_MAX);
        tokio::spawn(cluster::write_finalizers(client.clone(), to_finalize, seen.clone()));
        let (events, to_tell) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(cluster::tell_of(client.clone(), to_tell));
        let attached = AttachedWatches {
            client: client.clone(),
            changes: seen.clone(),
            version,
            running: BTreeMap::new(),
        };
        let members = Members { client, changes: seen, kept: BTreeMap::new() };
        let (reconciler, not_before) = (Reconciler::new(earlier, before), Instant::now());
        let due = None;
        let kubernetes =
            Self { reconciler, members, attached, patches, finalizers, events, due, not_before };
        (kubernetes, changes)
    }

    /// Something was seen; the desired state, where it may be another now.
    pub(super) fn handle(
        &mut self,
        change: Change,
        core: &HubCore,
    ) -> Option<(Manifests, SeenState)> {
        self.reconciler.handle(change);
        if let Some(interest) = self.reconciler.take_interest(core.templates()) {
            self.attached.watch(interest);
        }
        self.take_over()
    }

    /// What is to be stored at once: that the API server was put back, which a hub that starts now must know.
    pub(super) fn take_put_back(&mut self) -> Option<SeenState> {
        self.reconciler.take_put_back()
    }

    /// An older state of the API server counts from now on: the desired state, where it may be another then;
    /// `None` where there was no such state.
    pub(super) fn confirm_regression(&mut self) -> Option<Option<(Manifests, SeenState)>> {
        self.reconciler.confirm_regression().then(|| self.take_over())
    }

    fn take_over(&mut self) -> Option<(Manifests, SeenState)> {
        self.schedule();
        let manifests = self.reconciler.take_manifests();
        if manifests.is_some()
            && let Some(members) = self.reconciler.members()
        {
            self.members.desire(members);
        }
        manifests
    }

    /// Where an Event on a node goes; `None` where the node has no object.
    pub(super) fn teller(&self, node: &NodeId) -> Option<Teller> {
        let (key, uid) = self.reconciler.object_of(node)?;
        Some(Teller { events: self.events.clone(), key, uid })
    }

    /// The core was told of something.
    pub(super) fn note(&mut self, event: &Event) {
        event.node().into_iter().for_each(|node| self.reconciler.touch_node(node));
        self.schedule();
    }

    /// Statuses may have to be others.
    pub(super) fn schedule(&mut self) {
        let soon = (Instant::now() + STATUS_DELAY).max(self.not_before);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// When [`Self::write_statuses`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Hands the statuses that are others now to who writes them; what people must mend.
    pub(super) fn write_statuses(&mut self, core: &HubCore, now: UnixMs) -> Vec<String> {
        let begin = Instant::now();
        self.due = None;
        for patch in self.reconciler.take_statuses(core, now) {
            let key = patch.key.clone();
            if self.patches.try_send(patch).is_err() {
                self.reconciler.handle(Change::NotWritten(key, None));
                self.schedule();
            }
        }
        for patch in self.reconciler.take_finalizers(core, now) {
            let key = patch.key.clone();
            if self.finalizers.try_send(patch).is_err() {
                self.reconciler.handle(Change::NotFinalized(key, None));
            }
        }
        self.not_before = Instant::now() + begin.elapsed() * STATUS_SHARE;
        if let Some(wait_ms) = self.reconciler.wait_ms(now) {
            let later = (Instant::now() + Duration::from_millis(wait_ms)).max(self.not_before);
            self.due = Some(self.due.map_or(later, |due| due.min(later)));
        }
        self.reconciler.problems()
    }
}
