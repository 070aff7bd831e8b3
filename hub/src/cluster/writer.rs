//! Writes statuses by server-side apply, a few at a time, and the Events that go with them.
//!
//! Of one object it writes one after the other, in their order. It decides nothing: what stands in a status, and
//! when it is due, is `reconcile`'s.

use super::{FIELD_MANAGER, resource};
use crate::api::API_VERSION;
use crate::reconcile::{Change, Kind, ObjectEvent, ObjectKey, StatusPatch};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use serde_json::json;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Writes on their way at once. A write is a few milliseconds of waiting, and a fleet that changes
/// together is thousands of them; more at once would crowd out others at a small API server.
const WRITES_MAX: usize = 8;

/// An attempt that failed keeps its place among [`WRITES_MAX`] for so long: the API server has other
/// worries.
const PAUSE: Duration = Duration::from_secs(1);

/// An Event is a sentence.
const EVENT_CHARACTERS_MAX: usize = 512;

/// Writes each status that comes, and says of each what became of it. Ends when nobody sends any more.
pub(crate) async fn write(
    client: Client,
    mut patches: mpsc::Receiver<StatusPatch>,
    changes: mpsc::Sender<Change>,
) {
    let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER.to_owned()));
    let mut queue = Queue::default();
    let mut writes = FuturesUnordered::new();
    loop {
        while writes.len() < WRITES_MAX
            && let Some(patch) = queue.take()
        {
            writes.push(write_one(&client, &recorder, patch));
        }
        tokio::select! {
            patch = patches.recv() => match patch {
                Some(patch) => queue.put(patch),
                None => return,
            },
            Some((key, change)) = writes.next() => {
                queue.end(&key);
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Statuses that wait, the oldest first. At most one of an object is on its way.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<StatusPatch>,
    writing: BTreeSet<ObjectKey>,
}

impl Queue {
    fn put(&mut self, patch: StatusPatch) {
        self.waiting.push_back(patch);
    }

    /// The next to be written.
    fn take(&mut self) -> Option<StatusPatch> {
        let free = |patch: &StatusPatch| !self.writing.contains(&patch.key);
        let at = self.waiting.iter().position(free)?;
        let patch = self.waiting.remove(at)?;
        self.writing.insert(patch.key.clone());
        Some(patch)
    }

    /// A write has come to its end.
    fn end(&mut self, key: &ObjectKey) {
        self.writing.remove(key);
    }
}

async fn write_one(
    client: &Client,
    recorder: &Recorder,
    patch: StatusPatch,
) -> (ObjectKey, Change) {
    match apply(client, &patch).await {
        Ok(()) => tell(recorder, &patch).await,
        // Nobody needs the status of what was deleted meanwhile.
        Err(Error::Api(status)) if status.code == 404 => {
            debug!(object = ?patch.key, "its status was not written: it is gone");
        }
        Err(error) => {
            let error = shared::in_words(&error);
            warn!(object = ?patch.key, error, "a status was not written");
            tokio::time::sleep(PAUSE).await;
            return (patch.key.clone(), Change::NotWritten(patch.key, Some(error)));
        }
    }
    (patch.key.clone(), Change::Written(patch.key))
}

/// Something to be told of an object, whatever its status.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) event: ObjectEvent,
}

/// Tells each that comes. Ends when nobody sends any more.
pub(crate) async fn tell_of(client: Client, mut told: mpsc::Receiver<Told>) {
    let recorder = Recorder::new(client, Reporter::from(FIELD_MANAGER.to_owned()));
    while let Some(Told { key, uid, event }) = told.recv().await {
        let action = event.reason.clone();
        publish(&recorder, &key, &reference(&key, &uid), &event, &action).await;
    }
}

async fn tell(recorder: &Recorder, patch: &StatusPatch) {
    let object = reference(&patch.key, &patch.uid);
    for event in &patch.events {
        publish(recorder, &patch.key, &object, event, "Reconcile").await;
    }
}

/// Nothing depends on an Event: one that is not taken is logged.
async fn publish(
    recorder: &Recorder,
    key: &ObjectKey,
    object: &ObjectReference,
    event: &ObjectEvent,
    action: &str,
) {
    let type_ = if event.is_warning { EventType::Warning } else { EventType::Normal };
    let published = Event {
        type_,
        reason: event.reason.clone(),
        // The API server takes 1 kB.
        note: Some(event.message.chars().take(EVENT_CHARACTERS_MAX).collect()),
        action: action.to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&published, object).await {
        let error = shared::in_words(&error);
        warn!(object = ?key, event = event.reason, error, "an Event was not written");
    }
}

fn reference(key: &ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(resource(key.kind).kind),
        name: Some(key.name.clone()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
        uid: Some(uid.to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(name: &str, number: u64) -> StatusPatch {
        let key = ObjectKey { kind: Kind::Node, namespace: String::new(), name: name.to_owned() };
        StatusPatch { key, uid: String::new(), status: json!(number), events: vec![] }
    }

    #[test]
    fn of_one_object_they_are_written_one_after_the_other_and_nobody_waits_for_another() {
        let mut queue = Queue::default();
        [patch("a", 1), patch("a", 2), patch("b", 3)].into_iter().for_each(|p| queue.put(p));
        assert_eq!(queue.take(), Some(patch("a", 1)));
        assert_eq!(queue.take(), Some(patch("b", 3)));
        assert_eq!(queue.take(), None);
        queue.end(&patch("a", 1).key);
        assert_eq!(queue.take(), Some(patch("a", 2)));
        assert_eq!(queue.take(), None);
    }
}
