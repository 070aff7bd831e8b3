//! Names of nodes, workloads and pods, valid by construction.
//!
//! The forms are those of Kubernetes (RFC 1123 labels), so that a name is safe in an MQTT topic, a
//! certificate's common name, a path and a metric label.

use crate::limits::NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not an RFC 1123 label.
    #[error(
        "`{0}` is not a valid name: expected 1 to {NAME_BYTES_MAX} characters of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    NotALabel(String),
    /// Not `namespace/name`.
    #[error("`{0}` is not a workload: expected `namespace/name`")]
    NotAWorkload(String),
    /// Not `namespace/name-ordinal`.
    #[error("`{0}` is not a pod: expected `namespace/name-ordinal`, as in `default/ocr-0`")]
    NotAPod(String),
}

fn checked_label(text: &str) -> Result<(), IdError> {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-');
    if valid { Ok(()) } else { Err(IdError::NotALabel(text.chars().take(80).collect())) }
}

/// The name of an edge node: its certificate's common name, its MQTT client id and its topic level.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// # Errors
    /// [`IdError::NotALabel`] when `name` is not an RFC 1123 label.
    pub fn new(name: &str) -> Result<Self, IdError> {
        checked_label(name)?;
        Ok(Self(name.to_owned()))
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl TryFrom<String> for NodeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

/// A workload's namespace and name; written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadKey {
    namespace: String,
    name: String,
}

impl WorkloadKey {
    /// # Errors
    /// [`IdError::NotALabel`] when either part is not an RFC 1123 label.
    pub fn new(namespace: &str, name: &str) -> Result<Self, IdError> {
        checked_label(namespace)?;
        checked_label(name)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for WorkloadKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| IdError::NotAWorkload(text.chars().take(160).collect()))?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for WorkloadKey {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<WorkloadKey> for String {
    fn from(key: WorkloadKey) -> Self {
        key.to_string()
    }
}

/// One pod of a workload on this node; written `namespace/name-ordinal`.
///
/// The name is stable over restarts and revisions, as in a Kubernetes StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodId {
    /// The workload that the pod belongs to.
    pub workload: WorkloadKey,
    /// 0 … replicas − 1.
    pub ordinal: u32,
}

impl PodId {
    /// The pod's name without its namespace: `name-ordinal`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.workload.name(), self.ordinal)
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.workload, self.ordinal)
    }
}

impl FromStr for PodId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let refused = || IdError::NotAPod(text.chars().take(160).collect());
        let (workload, ordinal) = text.rsplit_once('-').ok_or_else(refused)?;
        let canonical = ordinal == "0" || !ordinal.starts_with(['0', '+']);
        let ordinal = ordinal.parse().map_err(|_| refused())?;
        if !canonical {
            return Err(refused());
        }
        Ok(Self { workload: workload.parse()?, ordinal })
    }
}

impl TryFrom<String> for PodId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<PodId> for String {
    fn from(id: PodId) -> Self {
        id.to_string()
    }
}

/// Eight bytes that name one content of a pod template: equal content, equal revision.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_id_survives_printing_and_parsing() {
        let id: PodId = "default/ocr-line-10".parse().unwrap();
        assert_eq!(id.workload.to_string(), "default/ocr-line");
        assert_eq!(id.ordinal, 10);
        assert_eq!(id.to_string(), "default/ocr-line-10");
    }

    #[test]
    fn names_that_would_escape_a_topic_or_a_path_are_refused() {
        for name in ["", "a/b", "+", "#", "..", "-a", "a-", "A", "é", "a b", &"a".repeat(64)] {
            assert!(NodeId::new(name).is_err(), "`{name}` was accepted");
        }
        for pod in ["default/ocr", "ocr-0", "default/ocr-00", "default/ocr-+1", "default/../x-0"] {
            assert!(pod.parse::<PodId>().is_err(), "`{pod}` was accepted");
        }
    }
}
