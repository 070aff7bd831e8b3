//! ConfigMaps and Secrets that workloads name: their content, and whether a workload has all of its own.
//!
//! Takes no more than one item of a node's map may hold. What is wrong with a Secret is said without a word of
//! what is in it.

use super::labels::Invalid;
use super::{InferenceWorkload, ParametersFrom};
use serde_bytes::ByteBuf;
use shared::limits::MAP_ITEM_BYTES_MAX;
use shared::model::{
    ConfigItem, ObjectKind, ObjectName, Reference, SecretBytes, SecretData, check_object_key,
};
use shared::trust::seal::SEALED_OVERHEAD_BYTES;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What frames one key and its value, at most.
const PAIR_FRAME_BYTES: usize = 8;

/// What frames a ConfigMap's item.
const CONFIG_FRAME_BYTES: usize = 16;

/// What frames a sealed Secret within its item: field numbers, lengths, uid and version.
const SECRET_FRAME_BYTES: usize = 128;

/// The content of a ConfigMap or a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachedObject {
    /// Of a ConfigMap.
    ConfigMap(ConfigItem),
    /// Of a Secret.
    Secret {
        /// Another Secret of the same name has another; empty where it comes from a file.
        uid: String,
        /// What is in it.
        data: SecretData,
    },
}

/// Contents by name.
pub type AttachedObjects = BTreeMap<ObjectName, Arc<AttachedObject>>;

impl AttachedObject {
    /// A ConfigMap with these texts and bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn config_map(
        texts: BTreeMap<String, String>,
        binary: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, String> {
        if let Some(key) = texts.keys().find(|key| binary.contains_key(*key)) {
            return Err(format!("`{key}` is in data and in binaryData"));
        }
        let texts = texts.into_iter().map(|(key, text)| (key, text.into_bytes()));
        let data = texts.chain(binary).map(|(key, bytes)| (key, ByteBuf::from(bytes))).collect();
        Self::ConfigMap(ConfigItem { data }).checked()
    }

    /// A Secret with this content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn secret(uid: String, data: BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let data = data.into_iter().map(|(key, bytes)| (key, SecretBytes::new(bytes))).collect();
        Self::Secret { uid, data }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        for key in self.keys() {
            check_object_key(key)?;
        }
        let bytes = self.item_bytes();
        if bytes > MAP_ITEM_BYTES_MAX {
            return Err(format!(
                "{bytes} bytes, as a node is sent them, are over the limit of {MAP_ITEM_BYTES_MAX}"
            ));
        }
        Ok(self)
    }

    fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::ConfigMap(item) => Box::new(item.data.keys().map(String::as_str)),
            Self::Secret { data, .. } => Box::new(data.keys().map(String::as_str)),
        }
    }

    fn has_key(&self, key: &str) -> bool {
        match self {
            Self::ConfigMap(item) => item.data.contains_key(key),
            Self::Secret { data, .. } => data.contains_key(key),
        }
    }

    /// The bytes of its item, as a node is sent it, at most.
    #[must_use]
    pub fn item_bytes(&self) -> usize {
        let pair = |key: &String, value: usize| key.len() + value + PAIR_FRAME_BYTES;
        match self {
            Self::ConfigMap(ConfigItem { data }) => {
                data.iter().map(|(key, value)| pair(key, value.len())).sum::<usize>()
                    + CONFIG_FRAME_BYTES
            }
            Self::Secret { data, .. } => {
                data.iter().map(|(key, value)| pair(key, value.reveal().len())).sum::<usize>()
                    + SEALED_OVERHEAD_BYTES
                    + SECRET_FRAME_BYTES
            }
        }
    }

    /// Its keys as environment variables; what can't be one is left out, as in Kubernetes.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        let data = match self {
            Self::ConfigMap(item) => Some(&item.data),
            Self::Secret { .. } => None,
        };
        let variable = |(key, value): (&String, &ByteBuf)| {
            let value = String::from_utf8(value.to_vec()).ok()?;
            (!value.contains('\0')).then(|| (key.clone(), value))
        };
        data.into_iter().flatten().filter_map(variable)
    }
}

/// What is known of an object that a workload names.
#[derive(Debug)]
pub(crate) enum Lookup<'a> {
    /// Its content.
    There(&'a AttachedObject),
    /// There is none.
    Absent,
    /// It is of no use, and why.
    Useless(&'a str),
    /// Nobody has looked yet.
    NotRead,
}

/// Whether a workload has all that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has.
    Whole,
    /// It is not known yet.
    NotRead,
    /// It has not: which field names what.
    Lacks(Invalid),
}

/// Looks at all that `workload` names.
pub(crate) fn standing<'a>(
    workload: &InferenceWorkload,
    look: impl Fn(&ObjectName) -> Lookup<'a>,
) -> Standing {
    let mut lacks = None;
    for reference in workload.template.references() {
        let name = reference.object(workload.key.namespace());
        match problem_of(&reference, &name, &look(&name)) {
            Ok(None) => {}
            Ok(Some(problem)) => {
                let path = format!("spec.template.{}", reference.path);
                lacks.get_or_insert((path, problem));
            }
            Err(NotRead) => return Standing::NotRead,
        }
    }
    lacks.map_or(Standing::Whole, Standing::Lacks)
}

/// Nobody has looked yet.
struct NotRead;

fn problem_of(
    reference: &Reference<'_>,
    name: &ObjectName,
    found: &Lookup<'_>,
) -> Result<Option<String>, NotRead> {
    let needed = |problem: String| (!reference.optional).then_some(problem);
    Ok(match found {
        Lookup::NotRead => return Err(NotRead),
        Lookup::Absent => needed(format!("there is no {name}")),
        Lookup::Useless(why) => needed(format!("{name} can't be used: {why}")),
        Lookup::There(object) => {
            let absent = reference.keys.iter().find(|key| !object.has_key(key));
            absent.and_then(|key| needed(format!("{name} has no key `{key}`")))
        }
    })
}

impl ParametersFrom {
    /// The ConfigMap for a node with this value of the label.
    #[must_use]
    pub fn object(&self, namespace: &str, value: &str) -> ObjectName {
        let (namespace, name) = (namespace.to_owned(), format!("{}{value}", self.prefix));
        ObjectName { kind: ObjectKind::ConfigMap, namespace, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::model::{NodeId, ObjectKind};
    use shared::trust::seal::seal_secret;
    use shared::trust::session::SessionPrivateKey;
    use shared::trust::signature::SigningKey;
    use shared::wire::encode;

    proptest! {
        #[test]
        fn an_item_has_no_more_bytes_than_are_counted(
            data in proptest::collection::btree_map("[a-z]{1,40}", "[a-z]{0,400}", 0..20)
        ) {
            let map = AttachedObject::config_map(data.clone(), BTreeMap::new()).unwrap();
            let AttachedObject::ConfigMap(item) = &map else { panic!("a ConfigMap") };
            prop_assert!(encode("ConfigMap", item).unwrap().len() <= map.item_bytes());
            let data = data.into_iter().map(|(key, text)| (key, text.into_bytes())).collect();
            let uid = "0e2b7f3c-9a51-4c1e-8f60-2d9a4b7c1e55".to_owned();
            let secret = AttachedObject::secret(uid, data).unwrap();
            let AttachedObject::Secret { uid, data } = &secret else { panic!("a Secret") };
            let (kind, namespace) = (ObjectKind::Secret, "default".to_owned());
            let name = ObjectName { kind, namespace, name: "keys".to_owned() };
            let (node, to) = (NodeId::new("a").unwrap(), SessionPrivateKey::generate([1; 32]).public());
            let item = seal_secret(&SigningKey::generate([2; 32]), (&node, &to), &name, uid, data);
            prop_assert!(encode("Secret", &item.unwrap()).unwrap().len() <= secret.item_bytes());
        }
    }
}
