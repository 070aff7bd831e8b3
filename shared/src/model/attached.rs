//! ConfigMaps and Secrets that a pod template names: which, and how they travel beside the workloads.
//!
//! A ConfigMap's item is its content and nothing else, so that a change of its labels sends nothing. A
//! Secret's is sealed to the node ([`crate::trust::seal`]): what is in it, who holds the item can't read.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::containers::PlacedContainer;
use super::pod::PodTemplate;
use crate::limits::{NAME_BYTES_MAX, OBJECT_KEY_BYTES_MAX};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroize;

/// What a template may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// Which ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// What it is.
    pub kind: ObjectKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// The key of its item of desired state. Two slashes: that of a workload has one, and a policy's none.
    #[must_use]
    pub fn map_key(&self) -> String {
        let kind = match self.kind {
            ObjectKind::ConfigMap => 'c',
            ObjectKind::Secret => 's',
        };
        format!("{kind}/{}/{}", self.namespace, self.name)
    }

    /// What an item of desired state with this key is of; `None` where it is of something else.
    #[must_use]
    pub fn of_map_key(key: &str) -> Option<Self> {
        let mut parts = key.split('/');
        let kind = match parts.next()? {
            "c" => ObjectKind::ConfigMap,
            "s" => ObjectKind::Secret,
            _ => return None,
        };
        let (namespace, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        parts.next().is_none().then_some(Self { kind, namespace, name })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The item of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigItem {
    /// Its keys, texts and bytes alike.
    pub data: BTreeMap<String, ByteBuf>,
}

/// The item of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecretItem {
    /// Another Secret of the same name has another; empty where it comes from a file.
    pub uid: String,
    /// Names its content, and tells nobody what that is.
    pub version: ByteBuf,
    /// [`SecretData`], sealed to the node.
    pub sealed: ByteBuf,
}

/// What is in a Secret, by key.
pub type SecretData = BTreeMap<String, SecretBytes>;

/// Bytes that are never printed, and wiped when they are dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the file that they are written to.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByteBuf::deserialize(deserializer).map(|bytes| Self(bytes.into_vec()))
    }
}

/// The key of a Secret of the type `kubernetes.io/dockerconfigjson`.
pub const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";

/// One mention of a ConfigMap or Secret in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference<'a> {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name; it is in the workload's namespace.
    pub name: &'a str,
    /// The field's path within the template, as in `spec.volumes[0].configMap.name`.
    pub path: String,
    /// Whether the pod runs without it as well.
    pub optional: bool,
    /// Keys that it must have.
    pub keys: Vec<&'a str>,
}

impl Reference<'_> {
    /// What is named, by a workload in `namespace`.
    #[must_use]
    pub fn object(&self, namespace: &str) -> ObjectName {
        let (namespace, name) = (namespace.to_owned(), self.name.to_owned());
        ObjectName { kind: self.kind, namespace, name }
    }
}

impl PodTemplate {
    /// Whether it mentions any ConfigMap or Secret.
    #[must_use]
    pub fn names_objects(&self) -> bool {
        self.references().next().is_some()
    }

    /// Every mention of a ConfigMap or Secret, in the order of the fields.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let volumes = self.spec.volumes.iter().enumerate().flat_map(|(index, volume)| {
            let at = format!("spec.volumes[{index}]");
            let config = volume.config_map.as_ref().map(|source| Reference {
                kind: ObjectKind::ConfigMap,
                name: &source.name,
                path: format!("{at}.configMap.name"),
                optional: source.optional,
                keys: source.items.iter().map(|item| item.key.as_str()).collect(),
            });
            let secret = volume.secret.as_ref().map(|source| Reference {
                kind: ObjectKind::Secret,
                name: &source.secret_name,
                path: format!("{at}.secret.secretName"),
                optional: source.optional,
                keys: source.items.iter().map(|item| item.key.as_str()).collect(),
            });
            config.into_iter().chain(secret)
        });
        volumes.chain(self.pull_references()).chain(self.environment_references())
    }

    fn pull_references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.spec.image_pull_secrets.iter().enumerate().map(|(index, secret)| Reference {
            kind: ObjectKind::Secret,
            name: &secret.name,
            path: format!("spec.imagePullSecrets[{index}].name"),
            optional: false,
            keys: vec![DOCKER_CONFIG_KEY],
        })
    }

    fn environment_references(&self) -> impl Iterator<Item = Reference<'_>> {
        let kind = ObjectKind::ConfigMap;
        self.spec.in_order().flat_map(move |PlacedContainer { container, path: at, .. }| {
            let within = at.clone();
            let whole = container.env_from.iter().enumerate().filter_map(move |(index, source)| {
                let path = format!("{within}.envFrom[{index}].configMapRef.name");
                let source = source.config_map_ref.as_ref()?;
                let (name, optional) = (source.name.as_str(), source.optional);
                Some(Reference { kind, name, path, optional, keys: vec![] })
            });
            let one = container.env.iter().enumerate().filter_map(move |(index, variable)| {
                let path = format!("{at}.env[{index}].valueFrom.configMapKeyRef.name");
                let source = variable.value_from.as_ref()?.config_map_key_ref.as_ref()?;
                let (name, optional) = (source.name.as_str(), source.optional);
                Some(Reference { kind, name, path, optional, keys: vec![source.key.as_str()] })
            });
            whole.chain(one)
        })
    }
}

/// Whether a ConfigMap or Secret of this name can be named: a name of Kubernetes that is no longer than a
/// label, since it becomes part of a key of a node's map.
///
/// # Errors
/// What is wrong with it.
pub fn check_object_name(name: &str) -> Result<(), String> {
    let end = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let inner = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || [b'-', b'.'].contains(byte)
    };
    let bytes = name.as_bytes();
    let valid = bytes.len() <= NAME_BYTES_MAX
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(inner);
    let expected = || {
        let name: String = name.chars().take(80).collect();
        format!(
            "`{name}` is not a name: expected 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, `-` and `.`, \
             beginning and ending with a letter or digit"
        )
    };
    valid.then_some(()).ok_or_else(expected)
}

/// Whether a ConfigMap or Secret may have this key: it is a file's name.
///
/// # Errors
/// What is wrong with it.
pub fn check_object_key(key: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || [b'-', b'_', b'.'].contains(&byte);
    let valid = (1..=OBJECT_KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(known)
        && key != "."
        && !key.starts_with("..");
    let expected = || {
        let key: String = key.chars().take(80).collect();
        format!(
            "`{key}` is not a key: expected 1 to {OBJECT_KEY_BYTES_MAX} letters, digits, `-`, `_` and `.`, \
             not beginning with `..`"
        )
    };
    valid.then_some(()).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};
    use proptest::prelude::*;

    #[test]
    fn a_key_of_a_map_names_one_object_and_no_workload_or_policy() {
        for kind in [ObjectKind::ConfigMap, ObjectKind::Secret] {
            let (namespace, name) = ("default".to_owned(), "kube-root-ca.crt".to_owned());
            let object = ObjectName { kind, namespace, name };
            assert_eq!(ObjectName::of_map_key(&object.map_key()), Some(object));
        }
        for other in ["node", "default/ocr", "c/ocr", "s/ocr", "x/a/b", "c/a/b/c", ""] {
            assert_eq!(ObjectName::of_map_key(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_secret_is_not_printed() {
        let data = SecretData::from([("password".to_owned(), SecretBytes::new(b"hunter2".into()))]);
        assert_eq!(format!("{data:?}"), "{\"password\": SecretBytes(..)}");
        let bytes = encode("secret", &data).unwrap();
        assert_eq!(decode::<SecretData>("secret", &bytes, 256).unwrap(), data);
    }

    #[test]
    fn names_and_keys_that_would_leave_their_folder_are_refused() {
        for key in ["", ".", "..", "..data", "a/b", "a b", "a\0", &"k".repeat(254)] {
            assert!(check_object_key(key).is_err(), "{key}");
        }
        for name in ["", "-a", "a-", "A", "a/b", "a_b", &"n".repeat(64)] {
            assert!(check_object_name(name).is_err(), "{name}");
        }
        assert!(check_object_key("tls.crt").is_ok() && check_object_key(".dockercfg").is_ok());
        assert!(check_object_name("kube-root-ca.crt").is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<ConfigItem>("ConfigMap", &bytes, 300);
            let _ = decode::<SecretItem>("Secret", &bytes, 300);
            let _ = decode::<SecretData>("Secret's data", &bytes, 300);
        }
    }
}
