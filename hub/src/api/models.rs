//! What a workload says of the models that its pods need.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A model that each pod finds as a file. It is known by its content: a node runs the one that is meant, or
/// says that it has not got it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSpec {
    /// What people call it, as in `yolo-v8`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// SHA-256 of its file, as in `sha256:…`: what `sha256sum` says.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// The size of its file in bytes.
    #[schemars(range(min = 1))]
    pub size_bytes: u64,
    /// Where the pod finds the file, as in `/models/yolo.onnx`; below its own folder where pods are processes.
    pub path: String,
}
