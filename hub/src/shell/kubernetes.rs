//! Custom resources of an API server as the source of desired state, and where statuses go.

use crate::cluster::{self, ClusterError};
use crate::config::KubernetesConfig;
use crate::core::{Event, HubCore};
use crate::manifests::{InferenceWorkload, Manifests};
use crate::reconcile::{Change, Kind, Reconciler, StatusPatch};
use shared::model::UnixMs;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes that wait for the loop, and statuses that wait to be written.
const WAITING_MAX: usize = 1024;

/// Between something that happens and the look at the statuses: what happens together is one write.
const STATUS_DELAY: Duration = Duration::from_millis(20);

/// Looking at the statuses takes this part of the loop's time at most.
const STATUS_SHARE: u32 = 20;

/// See the module.
pub(super) struct Kubernetes {
    reconciler: Reconciler,
    patches: mpsc::Sender<StatusPatch>,
    /// When statuses are to be looked at.
    due: Option<Instant>,
    not_before: Instant,
}

impl Kubernetes {
    /// Begins to watch and to write; what is seen comes out of the receiver. `earlier` are workloads as
    /// the hub's last start accepted them.
    ///
    /// # Errors
    /// [`ClusterError`]; not when the API server does not answer.
    pub(super) async fn start(
        config: &KubernetesConfig,
        earlier: Vec<InferenceWorkload>,
    ) -> Result<(Self, mpsc::Receiver<Change>), ClusterError> {
        let client = cluster::connect(config.kubeconfig.as_deref()).await?;
        let (seen, changes) = mpsc::channel(WAITING_MAX);
        let (patches, to_write) = mpsc::channel(WAITING_MAX);
        for kind in [Kind::Workload, Kind::Node] {
            tokio::spawn(cluster::watch(client.clone(), kind, seen.clone()));
        }
        tokio::spawn(cluster::write(client, to_write, seen));
        let (reconciler, not_before) = (Reconciler::new(earlier.into_iter()), Instant::now());
        Ok((Self { reconciler, patches, due: None, not_before }, changes))
    }

    /// Something was seen; the desired state, where it may be another now.
    pub(super) fn handle(&mut self, change: Change) -> Option<Manifests> {
        self.reconciler.handle(change);
        self.schedule();
        self.reconciler.take_manifests()
    }

    /// The core was told of something.
    pub(super) fn note(&mut self, event: &Event) {
        event.node().into_iter().for_each(|node| self.reconciler.touch_node(node));
        self.schedule();
    }

    /// Statuses may have to be others.
    pub(super) fn schedule(&mut self) {
        let soon = (Instant::now() + STATUS_DELAY).max(self.not_before);
        self.due.get_or_insert(soon);
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
                self.reconciler.handle(Change::NotWritten(key));
                self.schedule();
            }
        }
        self.not_before = Instant::now() + begin.elapsed() * STATUS_SHARE;
        self.reconciler.problems()
    }
}
