//! What every hub that may lead must know, beside its own store: who is enrolled, and what the nodes of a
//! workload run. One ConfigMap a record, in the hub's own namespace.
//!
//! Holds no secret: what is in it is in the custom resources or in certificates.

use super::FIELD_MANAGER;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use tracing::warn;

/// The label that says what a record is.
const RECORD_LABEL: &str = "hinterland.dev/hub-record";

/// Records in one answer.
const PAGE: u32 = 500;

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// An enrolment; the key is the node.
    Node,
    /// What a workload's nodes run; the key is `namespace/name`.
    Templates,
}

impl RecordKind {
    const ALL: [Self; 2] = [Self::Node, Self::Templates];

    fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Templates => "templates",
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedRecord {
    pub(crate) kind: RecordKind,
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

/// The records, in the API server.
#[derive(Clone)]
pub(crate) struct SharedRecords {
    api: Api<ConfigMap>,
}

impl SharedRecords {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// All of them. One that is not as it was written is passed over with a warning.
    ///
    /// # Errors
    /// When the API server does not say.
    pub(crate) async fn read_all(&self) -> Result<Vec<SharedRecord>, Error> {
        let mut parameters = ListParams::default().labels(RECORD_LABEL).limit(PAGE);
        let mut records = Vec::new();
        loop {
            let page = self.api.list(&parameters).await?;
            records.extend(page.items.iter().filter_map(record_in));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(records),
            }
        }
    }

    /// Writes one.
    ///
    /// # Errors
    /// When it is not there afterwards, as far as is known.
    pub(crate) async fn put(&self, record: &SharedRecord) -> Result<(), Error> {
        let name = name(record.kind, &record.key);
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name, "labels": { RECORD_LABEL: record.kind.word() } },
            "data": { "key": record.key },
            "binaryData": { "value": BASE64_STANDARD.encode(&record.value) },
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api.patch(&name, &parameters, &Patch::Apply(&object)).await.map(drop)
    }

    /// Takes one away; that it is not there is as good.
    ///
    /// # Errors
    /// When it may still be there.
    pub(crate) async fn delete(&self, kind: RecordKind, key: &str) -> Result<(), Error> {
        match self.api.delete(&name(kind, key), &DeleteParams::default()).await {
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Neither nodes nor namespaces nor workloads have an underscore, and namespaces have no point.
fn name(kind: RecordKind, key: &str) -> String {
    format!("hub-{}-{}", kind.word(), key.replacen('/', ".", 1))
}

fn record_in(object: &ConfigMap) -> Option<SharedRecord> {
    let word = object.metadata.labels.as_ref()?.get(RECORD_LABEL)?;
    let kind = RecordKind::ALL.into_iter().find(|kind| kind.word() == word);
    let key = object.data.as_ref().and_then(|data| data.get("key"));
    let value = object.binary_data.as_ref().and_then(|data| data.get("value"));
    let (Some(kind), Some(key), Some(value)) = (kind, key, value) else {
        warn!(
            object = object.metadata.name,
            "passed over a record of the hubs: it has another form"
        );
        return None;
    };
    Some(SharedRecord { kind, key: key.clone(), value: value.0.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn each_record_has_a_name_of_its_own() {
        assert_eq!(name(RecordKind::Node, "mast-17"), "hub-node-mast-17");
        assert_eq!(name(RecordKind::Templates, "default/ocr.v2"), "hub-templates-default.ocr.v2");
    }

    #[test]
    fn what_somebody_else_made_of_a_record_is_passed_over() {
        let object = |word: &str, key: Option<&str>, value: Option<&[u8]>| ConfigMap {
            metadata: ObjectMeta {
                labels: Some([(RECORD_LABEL.to_owned(), word.to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: key.map(|key| [("key".to_owned(), key.to_owned())].into()),
            binary_data: value.map(|v| [("value".to_owned(), ByteString(v.to_vec()))].into()),
            ..ConfigMap::default()
        };
        let whole = record_in(&object("node", Some("mast-17"), Some(b"x"))).unwrap();
        let (kind, key, value) = (RecordKind::Node, "mast-17".to_owned(), b"x".to_vec());
        assert_eq!(whole, SharedRecord { kind, key, value });
        assert_eq!(record_in(&object("other", Some("a"), Some(b"x"))), None);
        assert_eq!(record_in(&object("node", None, Some(b"x"))), None);
        assert_eq!(record_in(&object("node", Some("a"), None)), None);
        assert_eq!(record_in(&ConfigMap::default()), None);
    }
}
