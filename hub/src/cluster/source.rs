//! Watches the custom resources of one kind.

use super::all;
use super::version::DataVersion;
use crate::reconcile::{Change, Kind, Object, ObjectKey, PODS_FINALIZER};
use futures_util::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::Value;
use shared::model::UnixMs;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Attempts are at most half as far apart: a watch that has not failed for so long is well, though nothing
/// has changed and so nothing has come of it.
const CALM: Duration = Duration::from_secs(60);

/// Tells every change of the objects of `kind`, beginning with all that are there, and that they can't be
/// watched; begins anew when the data were put back. Ends when nobody listens any more.
pub(crate) async fn watch(
    client: Client,
    kind: Kind,
    version: DataVersion,
    changes: mpsc::Sender<Change>,
) {
    let mut anew = version.begins_anew();
    // The same complaint again and again is said once.
    let mut complaint = String::new();
    loop {
        tokio::select! {
            () = watch_on(&client, kind, &version, &changes, &mut complaint) => return,
            _ = anew.changed() => {}
            () = changes.closed() => return,
        }
    }
}

async fn watch_on(
    client: &Client,
    kind: Kind,
    version: &DataVersion,
    changes: &mpsc::Sender<Change>,
    complaint: &mut String,
) {
    let events = watcher(all(client, kind), watcher::Config::default()).default_backoff();
    let mut events = pin!(events);
    let mut listed = BTreeSet::new();
    loop {
        let next = match complaint.is_empty() {
            true => Ok(events.next().await),
            false => tokio::time::timeout(CALM, events.next()).await,
        };
        if let Ok(Some(Ok(event))) = &next {
            version.saw_event(event);
        }
        let (is_well, change) = match next {
            Ok(None) => return,
            Ok(Some(Err(error))) => (false, complain(kind, &error, complaint)),
            // The beginning of a list is sent before anybody was asked.
            Ok(Some(Ok(watcher::Event::Init))) => {
                listed.clear();
                (false, version.look(client, kind).await.map(Change::Listing))
            }
            Ok(Some(Ok(event))) => (true, change_of(kind, event, &mut listed)),
            Err(_) => (true, None),
        };
        let is_mended = is_well && !std::mem::take(complaint).is_empty();
        let mended = is_mended.then_some(Change::Watched(kind, Ok(())));
        for change in mended.into_iter().chain(change) {
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

fn complain(kind: Kind, error: &watcher::Error, complaint: &mut String) -> Option<Change> {
    let words = shared::in_words(error);
    if *complaint == words {
        debug!(?kind, error = words, "custom resources still can't be watched");
        return None;
    }
    warn!(
        ?kind,
        error = words,
        "custom resources can't be watched: what was read last stays in force"
    );
    complaint.clone_from(&words);
    Some(Change::Watched(kind, Err(words)))
}

fn change_of(
    kind: Kind,
    event: watcher::Event<DynamicObject>,
    listed: &mut BTreeSet<ObjectKey>,
) -> Option<Change> {
    match event {
        watcher::Event::Init => None,
        watcher::Event::InitApply(object) => {
            let object = object_of(kind, &object);
            listed.insert(object.key.clone());
            Some(Change::Put(Box::new(object)))
        }
        watcher::Event::InitDone => Some(Change::Listed(kind, std::mem::take(listed))),
        watcher::Event::Apply(object) => Some(Change::Put(Box::new(object_of(kind, &object)))),
        watcher::Event::Delete(object) => Some(Change::Removed(key_of(kind, &object))),
    }
}

fn key_of(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let namespace = object.namespace().unwrap_or_default();
    ObjectKey { kind, namespace, name: object.name_any() }
}

fn object_of(kind: Kind, object: &DynamicObject) -> Object {
    let part = |name: &str| object.data.get(name).cloned().unwrap_or(Value::Null);
    Object {
        key: key_of(kind, object),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        revision: object.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0),
        labels: object.labels().clone(),
        annotations: object.annotations().clone(),
        deletion: object.meta().deletion_timestamp.as_ref().map(deleted_at),
        is_held: object.finalizers().iter().any(|finalizer| finalizer == PODS_FINALIZER),
        spec: part("spec"),
        status: part("status"),
    }
}

fn deleted_at(time: &Time) -> UnixMs {
    UnixMs(u64::try_from(time.0.as_millisecond()).unwrap_or(0))
}
