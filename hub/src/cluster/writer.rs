//! Writes statuses, one after the other, by server-side apply, and the Events that go with them.

use super::{FIELD_MANAGER, resource};
use crate::api::API_VERSION;
use crate::reconcile::{Change, Kind, StatusPatch};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Between an attempt that failed and the next status: the API server has other worries.
const PAUSE: Duration = Duration::from_secs(1);

/// An Event is a sentence.
const EVENT_CHARACTERS_MAX: usize = 512;

/// Writes each status that comes; says which were not written. Ends when nobody sends any more.
pub(crate) async fn write(
    client: Client,
    mut patches: mpsc::Receiver<StatusPatch>,
    changes: mpsc::Sender<Change>,
) {
    let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER.to_owned()));
    while let Some(patch) = patches.recv().await {
        match apply(&client, &patch).await {
            Ok(()) => tell(&recorder, &patch).await,
            // Nobody needs the status of what was deleted meanwhile.
            Err(Error::Api(status)) if status.code == 404 => {
                debug!(object = ?patch.key, "its status was not written: it is gone");
            }
            Err(error) => {
                let error = shared::in_words(&error);
                warn!(object = ?patch.key, error, "a status was not written");
                tokio::time::sleep(PAUSE).await;
                if changes.send(Change::NotWritten(patch.key, Some(error))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Nothing depends on an Event: one that is not taken is logged.
async fn tell(recorder: &Recorder, patch: &StatusPatch) {
    let object = reference(patch);
    for event in &patch.events {
        let type_ = if event.is_warning { EventType::Warning } else { EventType::Normal };
        let published = Event {
            type_,
            reason: event.reason.clone(),
            // The API server takes 1 kB.
            note: Some(event.message.chars().take(EVENT_CHARACTERS_MAX).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&published, &object).await {
            let (object, error) = (&patch.key, shared::in_words(&error));
            warn!(?object, event = event.reason, error, "an Event was not written");
        }
    }
}

fn reference(patch: &StatusPatch) -> ObjectReference {
    let StatusPatch { key, uid, .. } = patch;
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(resource(key.kind).kind),
        name: Some(key.name.clone()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
        uid: Some(uid.clone()),
        ..ObjectReference::default()
    }
}

async fn apply(client: &Client, patch: &StatusPatch) -> Result<(), Error> {
    let StatusPatch { key, status, .. } = patch;
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
