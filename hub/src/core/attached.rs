//! The ConfigMaps and Secrets that a node's workloads name, as items of its desired state.
//!
//! A Secret is sealed anew only where it is another, or the node's key is: otherwise the bytes are those that
//! the node was told before. They would be the same, since sealing is deterministic; but it takes a tenth of a
//! millisecond, and there are thousands of nodes. What the manifests do not have any more stays as it was told,
//! for as long as a workload of the node names it.

use super::NodeState;
use crate::manifests::{AttachedObject, AttachedObjects};
use shared::model::{NodeId, ObjectName, Workload, WorkloadKey};
use shared::trust::seal::seal_secret;
use shared::trust::session::SessionPublicKey;
use shared::trust::signature::SigningKey;
use shared::wire::encode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tracing::error;

/// What ConfigMaps are on the wire: each is encoded once, however many nodes are told it.
pub(super) type EncodedObjects = BTreeMap<ObjectName, Vec<u8>>;

/// What a Secret's item was sealed from, by the item's key.
pub(super) type SealedFrom = BTreeMap<String, (Arc<AttachedObject>, SessionPublicKey)>;

/// What these workloads name.
pub(super) fn named_by(workloads: &BTreeMap<WorkloadKey, Arc<Workload>>) -> BTreeSet<ObjectName> {
    let names = |(key, workload): (&WorkloadKey, &Arc<Workload>)| {
        let references = workload.template.references();
        references.map(|one| one.object(key.namespace())).collect::<Vec<_>>()
    };
    let naming = workloads.iter().filter(|(_, workload)| workload.template.names_objects());
    naming.flat_map(names).collect()
}

impl NodeState {
    /// The items of what is `named`.
    pub(super) fn attach(
        &mut self,
        id: &NodeId,
        named: &BTreeSet<ObjectName>,
        objects: Option<&AttachedObjects>,
        signing: &SigningKey,
        encoded: &mut EncodedObjects,
    ) -> BTreeMap<String, Vec<u8>> {
        let mut sealed = std::mem::take(&mut self.sealed);
        let mut items = BTreeMap::new();
        for name in named {
            let key = name.map_key();
            let told = self.desired.content().items().get(&key);
            let before = sealed.remove(&key);
            let item = match objects.and_then(|objects| objects.get(name)) {
                None => told.cloned(),
                Some(object) => {
                    let from = (Arc::clone(object), self.record.session_key);
                    let item = match told.filter(|_| before.as_ref() == Some(&from)) {
                        Some(told) => Some(told.clone()),
                        None => item_of(id, name, &from, signing, encoded),
                    };
                    if matches!(**object, AttachedObject::Secret { .. }) {
                        self.sealed.insert(key.clone(), from);
                    }
                    item
                }
            };
            items.extend(item.map(|item| (key, item)));
        }
        items
    }
}

fn item_of(
    id: &NodeId,
    name: &ObjectName,
    (object, key): &(Arc<AttachedObject>, SessionPublicKey),
    signing: &SigningKey,
    encoded: &mut EncodedObjects,
) -> Option<Vec<u8>> {
    if let Some(known) = encoded.get(name) {
        return Some(known.clone());
    }
    let item = match &**object {
        AttachedObject::ConfigMap(item) => encode("ConfigMap", item).map_err(|e| e.to_string()),
        AttachedObject::Secret { uid, data } => {
            let sealed = seal_secret(signing, (id, key), name, uid, data);
            let sealed = sealed.map_err(|error| error.to_string());
            sealed.and_then(|item| encode("Secret", &item).map_err(|error| error.to_string()))
        }
    };
    match item {
        Ok(item) => {
            if matches!(**object, AttachedObject::ConfigMap(_)) {
                encoded.insert(name.clone(), item.clone());
            }
            Some(item)
        }
        Err(error) => {
            error!(node = %id, object = %name, error, "can't be told to the node");
            None
        }
    }
}
