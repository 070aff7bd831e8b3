//! Whether the API server's data are the same as before.
//!
//! A server whose data were put back to an older state does not end a watch: it waits until its version has
//! grown past the watch's, and what happens until then is never told. So the newest version is asked for again
//! and again, and where it is below what any watch has seen everything is listed anew.

use super::all;
use crate::reconcile::{Change, Kind};
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::warn;

/// Between two questions for the newest version.
const VERSION_INTERVAL: Duration = Duration::from_secs(10);

/// The newest version that anything came with from one API server. Its copies are one.
#[derive(Debug, Clone)]
pub(crate) struct DataVersion {
    newest_seen: Arc<AtomicU64>,
    anew: watch::Sender<()>,
}

impl DataVersion {
    /// Nothing was seen yet.
    pub(crate) fn new() -> Self {
        Self { newest_seen: Arc::default(), anew: watch::Sender::new(()) }
    }

    /// Tells when everything is to be listed anew.
    pub(super) fn begins_anew(&self) -> watch::Receiver<()> {
        self.anew.subscribe()
    }

    /// An object of the event came with its version.
    pub(super) fn saw_event<K: Resource>(&self, event: &watcher::Event<K>) {
        let (watcher::Event::InitApply(object)
        | watcher::Event::Apply(object)
        | watcher::Event::Delete(object)) = event
        else {
            return;
        };
        if let Some(version) = object.resource_version().and_then(|text| text.parse().ok()) {
            self.newest_seen.fetch_max(version, Ordering::SeqCst);
        }
    }

    /// Asks a list of `kind` for the newest version of all data. Where it is older than what was seen before,
    /// everything is listed anew. Where nobody says, neither is there a list: it is asked again when it is tried
    /// anew.
    pub(super) async fn look(&self, client: &Client, kind: Kind) -> Option<u64> {
        // Before the question: what is seen meanwhile may be newer than the answer.
        let before = self.newest_seen.load(Ordering::SeqCst);
        let list = all(client, kind).list(&ListParams::default().limit(1)).await.ok()?;
        let version = list.metadata.resource_version?.parse().ok()?;
        self.found(version, before);
        Some(version)
    }

    fn found(&self, version: u64, before: u64) {
        if version >= before {
            self.newest_seen.fetch_max(version, Ordering::SeqCst);
            return;
        }
        warn!(version, newest_seen = before, "the API server was put back to an older state");
        self.newest_seen.store(version, Ordering::SeqCst);
        self.anew.send_replace(());
    }
}

/// Looks for the newest version again and again. Ends when nobody listens any more.
pub(crate) async fn watch_version(
    client: Client,
    version: DataVersion,
    changes: mpsc::Sender<Change>,
) {
    loop {
        version.look(&client, Kind::Workload).await;
        tokio::select! {
            () = tokio::time::sleep(VERSION_INTERVAL) => {}
            () = changes.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    fn of_version(version: &str) -> ConfigMap {
        let resource_version = Some(version.to_owned());
        let metadata = ObjectMeta { resource_version, ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn what_is_older_than_what_anybody_saw_has_everything_listed_anew_once() {
        let version = DataVersion::new();
        let mut anew = version.begins_anew();
        let mut is_anew = || {
            std::mem::take(&mut anew.has_changed().unwrap())
                .then(|| anew.mark_unchanged())
                .is_some()
        };
        version.found(204, 0);
        version.clone().saw_event(&watcher::Event::Delete(of_version("220")));
        version.saw_event(&watcher::Event::Apply(of_version("no number")));
        version.saw_event(&watcher::Event::<ConfigMap>::Init);
        let before = version.newest_seen.load(Ordering::SeqCst);
        assert_eq!(before, 220);
        assert!(!is_anew());
        // Asked before somebody else saw something newer.
        version.found(219, 204);
        assert!(!is_anew());
        version.found(209, before);
        assert!(is_anew());
        version.found(210, 209);
        assert!(!is_anew());
    }
}
