//! What is in the ConfigMaps and Secrets of a member: how it is sent, and what is kept of it to be compared.
//!
//! Nothing that a member shows of a Secret is held: a fingerprint of each value tells whether it is still the
//! one that was applied. A fingerprint is not printed either, since of a short value one could guess it.

use super::build::MemberObjectId;
use crate::manifests::AttachedObject;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use shared::model::{ConfigItem, DOCKER_CONFIG_KEY, ObjectKind};
use shared::wire::Digest;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Tells one value from another, and nobody what it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(Digest);

impl Fingerprint {
    fn of(bytes: &[u8]) -> Self {
        Self(Digest::of(bytes))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

/// Of the values of a ConfigMap or a Secret, by key.
pub(super) type Fingerprints = BTreeMap<String, Fingerprint>;

/// A kubelet takes credentials for registries from Secrets of their own type alone.
fn data_is_for_pulls(object: &AttachedObject) -> bool {
    match object {
        AttachedObject::Secret { data, .. } => data.contains_key(DOCKER_CONFIG_KEY),
        AttachedObject::ConfigMap(_) => false,
    }
}

/// What is to be in a ConfigMap or a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    object: Arc<AttachedObject>,
    pub(super) fingerprints: Fingerprints,
}

impl Content {
    pub(super) fn of(object: Arc<AttachedObject>) -> Self {
        let of = |key: &String, value: &[u8]| (key.clone(), Fingerprint::of(value));
        let fingerprints = match &*object {
            AttachedObject::ConfigMap(ConfigItem { data }) => {
                data.iter().map(|(key, value)| of(key, value)).collect()
            }
            AttachedObject::Secret { data, .. } => {
                data.iter().map(|(key, value)| of(key, value.reveal())).collect()
            }
        };
        Self { object, fingerprints }
    }

    /// The object with this content, as the API server is sent it.
    pub(super) fn sent(&self, body: &Value) -> Value {
        let mut sent = body.clone();
        let encoded = |bytes: &[u8]| json!(BASE64_STANDARD.encode(bytes));
        let (mut data, mut binary) = (Map::new(), Map::new());
        match &*self.object {
            AttachedObject::ConfigMap(item) => {
                for (key, value) in &item.data {
                    match std::str::from_utf8(value) {
                        Ok(text) => data.insert(key.clone(), json!(text)),
                        Err(_) => binary.insert(key.clone(), encoded(value)),
                    };
                }
            }
            AttachedObject::Secret { data: secret, .. } => {
                data.extend(secret.iter().map(|(key, v)| (key.clone(), encoded(v.reveal()))));
            }
        }
        if let Some(fields) = sent.as_object_mut() {
            fields.insert("data".to_owned(), Value::Object(data));
            if data_is_for_pulls(&self.object) {
                fields.insert("type".to_owned(), json!("kubernetes.io/dockerconfigjson"));
            }
            if !binary.is_empty() {
                fields.insert("binaryData".to_owned(), Value::Object(binary));
            }
        }
        sent
    }
}

/// What a member shows of an object, as far as it is looked at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Live {
    /// All of it; of a ConfigMap or a Secret neither what is in it nor what may repeat that.
    pub(super) shown: Value,
    /// What is in it.
    pub(super) content: Fingerprints,
}

impl Live {
    pub(super) fn of(id: &MemberObjectId, mut shown: Value) -> Self {
        let Some(kind) = id.kind.attached() else {
            return Self { shown, content: Fingerprints::new() };
        };
        let content = fingerprints_in(kind, &shown);
        // kubectl writes all that it applied into an annotation.
        let of = shown.get("metadata");
        let kept = |field: &str| Some((field.to_owned(), of?.get(field)?.clone()));
        let metadata = ["name", "namespace", "labels"].into_iter().filter_map(kept);
        let metadata: Map<_, _> = metadata.collect();
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|field, _| ["apiVersion", "kind"].contains(&field.as_str()));
            fields.insert("metadata".to_owned(), Value::Object(metadata));
        }
        Self { shown, content }
    }
}

fn fingerprints_in(kind: ObjectKind, object: &Value) -> Fingerprints {
    let of = |field: &str, is_encoded: bool| -> Fingerprints {
        let values = object.get(field).and_then(Value::as_object).into_iter().flatten();
        let texts = values.filter_map(|(key, value)| Some((key, value.as_str()?)));
        let decoded = |text: &str| BASE64_STANDARD.decode(text).ok().filter(|_| is_encoded);
        let bytes = |text: &str| decoded(text).unwrap_or_else(|| text.as_bytes().to_vec());
        texts.map(|(key, text)| (key.clone(), Fingerprint::of(&bytes(text)))).collect()
    };
    let mut found = of("data", kind == ObjectKind::Secret);
    found.extend(of("binaryData", true));
    found
}
