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
#[derive(Debug, Clone, Default)]
pub(crate) struct NewestSeen(Arc<AtomicU64>);

impl NewestSeen {
    /// Something came with this version.
    pub(crate) fn saw(&self, version: u64) {
        self.0.fetch_max(version, Ordering::SeqCst);
    }

    /// An object of the event came with its version.
    pub(crate) fn saw_event<K: Resource>(&self, event: &watcher::Event<K>) {
        let (watcher::Event::InitApply(object)
        | watcher::Event::Apply(object)
        | watcher::Event::Delete(object)) = event
        else {
            return;
        };
        if let Some(version) = object.resource_version().and_then(|text| text.parse().ok()) {
            self.saw(version);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn put_back(&self, version: u64) {
        self.0.store(version, Ordering::SeqCst);
    }
}

/// Notices that the data were put back to an older state: tells it, and then has everything listed anew through
/// `anew`. Ends when nobody listens any more.
pub(crate) async fn watch_version(
    client: Client,
    newest_seen: NewestSeen,
    anew: watch::Sender<()>,
    changes: mpsc::Sender<Change>,
) {
    loop {
        // Before the question: what is seen meanwhile may be newer than the answer.
        let before = newest_seen.get();
        if let Some(version) = newest(&client, Kind::Workload).await {
            if version < before {
                warn!(
                    version,
                    newest_seen = before,
                    "the API server was put back to an older state"
                );
                newest_seen.put_back(version);
                if changes.send(Change::Listing(version)).await.is_err() {
                    return;
                }
                anew.send_replace(());
            }
            newest_seen.saw(version);
        }
        tokio::select! {
            () = tokio::time::sleep(VERSION_INTERVAL) => {}
            () = changes.closed() => return,
        }
    }
}

/// The newest resource version of all data. Where nobody says, neither is there a list: it is asked again
/// when it is tried anew.
pub(super) async fn newest(client: &Client, kind: Kind) -> Option<u64> {
    let list = all(client, kind).list(&ListParams::default().limit(1)).await.ok()?;
    list.metadata.resource_version?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    #[test]
    fn the_newest_version_counts_whoever_saw_it_until_the_data_were_put_back() {
        let seen = NewestSeen::default();
        let other = seen.clone();
        let of_version = |version: &str| ConfigMap {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        other.saw_event(&watcher::Event::Delete(of_version("220")));
        seen.saw_event(&watcher::Event::Apply(of_version("no number")));
        seen.saw_event(&watcher::Event::<ConfigMap>::Init);
        seen.saw(204);
        assert_eq!(seen.get(), 220);
        seen.put_back(209);
        assert_eq!(other.get(), 209);
    }
}
