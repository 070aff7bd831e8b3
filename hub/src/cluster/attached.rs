//! Watches ConfigMaps of a namespace, or one Secret, for those that workloads name.

use super::version::DataVersion;
use crate::manifests::AttachedObject;
use crate::reconcile::{Change, Contents, Filter, Sight, Source};
use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use shared::model::ObjectKind;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Tells what is there of `source` as far as `filter` takes it, and that it can't be read; begins anew when the
/// data were put back. Ends when nobody listens any more.
pub(crate) async fn watch_attached(
    client: Client,
    source: Source,
    filter: Filter,
    version: DataVersion,
    changes: mpsc::Sender<Change>,
) {
    let mut anew = version.begins_anew();
    loop {
        let (client, source, filter) = (client.clone(), source.clone(), filter.clone());
        tokio::select! {
            () = watch_on(client, source, filter, &version, changes.clone()) => return,
            _ = anew.changed() => {}
            () = changes.closed() => return,
        }
    }
}

async fn watch_on(
    client: Client,
    source: Source,
    filter: Filter,
    version: &DataVersion,
    changes: mpsc::Sender<Change>,
) {
    match source.kind {
        ObjectKind::ConfigMap => {
            watch_all(client, source, filter, version, changes, content_of_config_map).await;
        }
        ObjectKind::Secret => {
            watch_all(client, source, filter, version, changes, content_of_secret).await;
        }
    }
}

fn content_of_config_map(object: ConfigMap) -> Result<AttachedObject, String> {
    let binary = object.binary_data.unwrap_or_default().into_iter();
    let binary = binary.map(|(key, bytes)| (key, bytes.0)).collect();
    AttachedObject::config_map(object.data.unwrap_or_default(), binary)
}

fn content_of_secret(object: Secret) -> Result<AttachedObject, String> {
    let uid = object.metadata.uid.unwrap_or_default();
    let data = object.data.unwrap_or_default().into_iter();
    AttachedObject::secret(uid, data.map(|(key, bytes)| (key, bytes.0)).collect())
}

async fn watch_all<K>(
    client: Client,
    source: Source,
    filter: Filter,
    version: &DataVersion,
    changes: mpsc::Sender<Change>,
    content: fn(K) -> Result<AttachedObject, String>,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + 'static,
{
    let mut config = watcher::Config::default();
    if let Some(name) = &source.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let objects: Api<K> = Api::namespaced(client, &source.namespace);
    let mut events = pin!(watcher(objects, config).default_backoff());
    let mut contents = Contents::new();
    // The same complaint again and again is said once.
    let mut complaint = String::new();
    while let Some(event) = events.next().await {
        if let Ok(event) = &event {
            version.saw_event(event);
        }
        let is_whole = match event {
            Err(error) => {
                let sight = complain(&source, &filter, &error, &mut complaint);
                let Some(sight) = sight else { continue };
                if changes.send(Change::Attached(source.clone(), sight)).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(watcher::Event::Init) => {
                contents.clear();
                false
            }
            Ok(watcher::Event::InitApply(object)) => {
                keep(&mut contents, &filter, object, content);
                false
            }
            Ok(watcher::Event::InitDone) => true,
            Ok(watcher::Event::Apply(object)) => keep(&mut contents, &filter, object, content),
            Ok(watcher::Event::Delete(object)) => contents.remove(&object.name_any()).is_some(),
        };
        if is_whole {
            complaint.clear();
            let sight = Sight::All(filter.clone(), contents.clone());
            if changes.send(Change::Attached(source.clone(), sight)).await.is_err() {
                return;
            }
        }
    }
}

/// Keeps what the filter takes; whether it is another now.
fn keep<K: Resource<DynamicType = ()>>(
    contents: &mut Contents,
    filter: &Filter,
    object: K,
    content: fn(K) -> Result<AttachedObject, String>,
) -> bool {
    let name = object.name_any();
    if !filter.takes(&name) {
        return false;
    }
    let content = content(object).map(Arc::new);
    contents.insert(name, content.clone()) != Some(content)
}

fn complain(
    source: &Source,
    filter: &Filter,
    error: &watcher::Error,
    complaint: &mut String,
) -> Option<Sight> {
    let words = words_of(error);
    if *complaint == words {
        debug!(%source, error = words, "still can't be read");
        return None;
    }
    warn!(%source, error = words, "can't be read: what was read last stays in force");
    complaint.clone_from(&words);
    Some(match is_forbidden(error) {
        true => Sight::Forbidden(filter.clone(), words),
        false => Sight::Away(words),
    })
}

fn status_of(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether the API server said that this is not permitted.
pub(crate) fn is_forbidden(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 403)
}

/// The words of the API server, where it was it that said no.
pub(crate) fn words_of(error: &watcher::Error) -> String {
    match status_of(error) {
        Some(status) if !status.message.is_empty() => status.message.clone(),
        _ => shared::in_words(error),
    }
}
