//! What of a pod template names ConfigMaps and Secrets: volumes, their mounts, and the environment.
//!
//! Field names are those of `core/v1`. Secrets become files only: the environment of a process can be read
//! by whoever may see the process, and lands in dumps and logs.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A ConfigMap or a Secret whose keys become files. Exactly one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// What mounts call it.
    pub name: String,
    /// Its files are the keys of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolume>,
    /// Its files are the keys of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolume>,
}

/// A ConfigMap as files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapVolume {
    /// The ConfigMap, in the workload's namespace.
    pub name: String,
    /// Which keys, and what their files are called; all of them by their own names when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<KeyToPath>,
    /// Whether the pod runs without it as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// A Secret as files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretVolume {
    /// The Secret, in the workload's namespace.
    pub secret_name: String,
    /// Which keys, and what their files are called; all of them by their own names when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<KeyToPath>,
    /// Whether the pod runs without it as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// One key and its file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyToPath {
    /// The key.
    pub key: String,
    /// The file's path within the volume.
    pub path: String,
}

/// Where the pod finds a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// The folder, beginning with `/`. The process runtime has no file system for each pod: there it stands
    /// below the pod's own folder, so that `/etc/ocr` is `$HOME/etc/ocr`.
    pub mount_path: String,
    /// As in Kubernetes it changes nothing: what is written here is replaced with the next change.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

/// Where the value of an environment variable comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVarSource {
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeySelector>,
    /// Refused, with words that say what to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<FilesOnly>,
}

/// A key of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeySelector {
    /// The ConfigMap, in the workload's namespace.
    pub name: String,
    /// The key.
    pub key: String,
    /// Whether the pod runs without it as well; the variable is not set then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// A ConfigMap whose keys become environment variables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvFromSource {
    /// The ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapRef>,
    /// Stands before each key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Refused, with words that say what to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<FilesOnly>,
}

/// A whole ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapRef {
    /// The ConfigMap, in the workload's namespace.
    pub name: String,
    /// Whether the pod runs without it as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// What there is none of: a Secret in the environment. Reading one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesOnly {}

impl<'de> Deserialize<'de> for FilesOnly {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        let problem = "a Secret reaches a pod as files only, never in its environment: expected a volume \
                       with `secret` and a mount of it";
        Err(D::Error::custom(problem))
    }
}

impl Serialize for FilesOnly {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

// `serde` hands over a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !*value
}
