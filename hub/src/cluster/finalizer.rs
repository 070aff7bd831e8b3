//! Sets the hub's finalizer and takes it away, by server-side apply: finalizers of others stay as they are.
//!
//! The hub's share of an object's metadata is this finalizer and nothing else. It has a field manager of its
//! own, so that a status that is applied takes nothing of it away.

use super::resource;
use crate::api::API_VERSION;
use crate::reconcile::{Change, FinalizerPatch, PODS_FINALIZER};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

const FIELD_MANAGER: &str = "hinterland-hub-finalizer";

/// After an attempt that failed: somebody must give a right, or the API server has other worries.
const PAUSE: Duration = Duration::from_secs(5);

/// Writes what comes, one after the other, and says of each what became of it. Ends when nobody sends any more.
pub(crate) async fn write_finalizers(
    client: Client,
    mut patches: mpsc::Receiver<FinalizerPatch>,
    changes: mpsc::Sender<Change>,
) {
    while let Some(patch) = patches.recv().await {
        let FinalizerPatch { key, holds, .. } = &patch;
        if let Some(unconfirmed) = &patch.unconfirmed {
            warn!(object = ?key, unconfirmed, "deleted: its time is over, and it is waited no longer");
        }
        let change = match apply(&client, &patch).await {
            Ok(()) => Change::Finalized(key.clone(), *holds),
            // Somebody else has let it go, or another one has its name.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => {
                debug!(object = ?key, code = status.code, "a finalizer was not written");
                Change::Finalized(key.clone(), *holds)
            }
            Err(error) => {
                let error = shared::in_words(&error);
                warn!(object = ?key, error, "a finalizer was not written");
                tokio::time::sleep(PAUSE).await;
                Change::NotFinalized(key.clone(), Some(error))
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

async fn apply(client: &Client, patch: &FinalizerPatch) -> Result<(), Error> {
    let FinalizerPatch { key, uid, holds, .. } = patch;
    let resource = resource(key.kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
    let finalizers = if *holds { vec![PODS_FINALIZER] } else { vec![] };
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": resource.kind,
        // With its uid it makes no new object where that one is gone.
        "metadata": { "name": key.name, "uid": uid, "finalizers": finalizers },
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&key.name, &parameters, &Patch::Apply(&object)).await.map(drop)
}
