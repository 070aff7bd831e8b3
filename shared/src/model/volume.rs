//! Volumes of a pod template and their mounts, and what its environment takes from ConfigMaps.
//!
//! Field names are those of `core/v1`. Secrets become files only: the environment of a process can be read
//! by whoever may see the process, and lands in dumps and logs.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::quantity::MemoryQuantity;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Files that come from somewhere, or a folder that the pod may write to. Exactly one source is given.
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
    /// A folder that is empty at first and lives as long as the pod stays on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolume>,
    /// A file or folder of the node. The node has to allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolume>,
    /// A folder of the node that outlives the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolume>,
}

/// A folder that is empty at first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmptyDirVolume {
    /// What it lies on.
    #[serde(default, skip_serializing_if = "EmptyDirMedium::is_disk")]
    pub medium: EmptyDirMedium,
    /// The bytes that fit in; for `Memory` only, where the kernel enforces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<MemoryQuantity>,
}

/// What an empty folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EmptyDirMedium {
    /// The disk with the agent's folder.
    #[default]
    #[serde(rename = "")]
    Disk,
    /// A file system in memory; what is in it counts as the pod's memory.
    Memory,
}

impl EmptyDirMedium {
    // `serde` hands over a reference.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_disk(&self) -> bool {
        *self == Self::Disk
    }
}

/// A file or folder of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostPathVolume {
    /// Where it lies on the node.
    pub path: String,
    /// What has to be there.
    #[serde(default, rename = "type", skip_serializing_if = "HostPathType::is_any")]
    pub kind: HostPathType,
}

/// What has to be at a path of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HostPathType {
    /// Anything.
    #[default]
    #[serde(rename = "")]
    Any,
    /// A folder.
    Directory,
    /// A folder, which is made where there is none.
    DirectoryOrCreate,
    /// A file.
    File,
}

impl HostPathType {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// A folder of the node that outlives the pod, by the claim's name in the workload's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PersistentVolumeClaimVolume {
    /// The claim.
    pub claim_name: String,
    /// Whether no mount of it can be written to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
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
    /// Whether the container can't write here. It never can to ConfigMaps and Secrets.
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
    /// A field of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<ObjectFieldSelector>,
}

/// A field of the pod: `metadata.name`, `metadata.namespace`, `spec.nodeName`, `status.podIP`,
/// `metadata.labels['KEY']`, or `metadata.annotations['KEY']`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectFieldSelector {
    /// Which.
    pub field_path: String,
    /// `v1`, where it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
}

/// A field that a variable may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodField<'a> {
    /// The pod's name.
    Name,
    /// Its namespace.
    Namespace,
    /// The node's name.
    NodeName,
    /// Its address, where it has a network of its own.
    PodIp,
    /// A label of the template.
    Label(&'a str),
    /// An annotation of the template.
    Annotation(&'a str),
}

impl ObjectFieldSelector {
    /// Which field it is; `None` for one that a variable can't have.
    #[must_use]
    pub fn field(&self) -> Option<PodField<'_>> {
        let key = |list: &str| {
            let key = self.field_path.strip_prefix(list)?.strip_prefix("['")?.strip_suffix("']")?;
            (!key.is_empty()).then_some(key)
        };
        Some(match self.field_path.as_str() {
            "metadata.name" => PodField::Name,
            "metadata.namespace" => PodField::Namespace,
            "spec.nodeName" => PodField::NodeName,
            "status.podIP" => PodField::PodIp,
            _ => match key("metadata.labels") {
                Some(key) => PodField::Label(key),
                None => PodField::Annotation(key("metadata.annotations")?),
            },
        })
    }
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
