//! Writes statuses, one after the other, by server-side apply.

use super::{FIELD_MANAGER, resource};
use crate::api::API_VERSION;
use crate::reconcile::{Change, Kind, StatusPatch};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Between an attempt that failed and the next status: the API server has other worries.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes each status that comes; says which were not written. Ends when nobody sends any more.
pub(crate) async fn write(
    client: Client,
    mut patches: mpsc::Receiver<StatusPatch>,
    changes: mpsc::Sender<Change>,
) {
    while let Some(patch) = patches.recv().await {
        match apply(&client, &patch).await {
            Ok(()) => {}
            // Nobody needs the status of what was deleted meanwhile.
            Err(Error::Api(status)) if status.code == 404 => {
                debug!(object = ?patch.key, "its status was not written: it is gone");
            }
            Err(error) => {
                warn!(object = ?patch.key, error = shared::in_words(&error), "a status was not written");
                tokio::time::sleep(PAUSE).await;
                if changes.send(Change::NotWritten(patch.key)).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn apply(client: &Client, patch: &StatusPatch) -> Result<(), Error> {
    let StatusPatch { key, status } = patch;
    let resource = resource(key.kind);
    let api: Api<DynamicObject> = match key.kind {
        Kind::Workload => Api::namespaced_with(client.clone(), &key.namespace, &resource),
        Kind::Node | Kind::Cluster => Api::all_with(client.clone(), &resource),
    };
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": resource.kind,
        "metadata": { "name": key.name },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&key.name, &parameters, &Patch::Apply(&object)).await.map(drop)
}
