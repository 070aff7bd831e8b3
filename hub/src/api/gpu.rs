//! What each pod has of its node's GPUs, in one place of its own.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use super::schema;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use shared::model::MemoryQuantity;

/// What each pod has of GPUs: one of these. It is the same as the resource of the template's container, and
/// stands in one of the two places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new(
    "(has(self.whole) ? 1 : 0) + (has(self.sharedMemory) ? 1 : 0) + (has(self.mig) ? 1 : 0) == 1")
    .message("gpu: expected exactly one of whole, sharedMemory and mig"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GpuSpec {
    /// So many whole GPUs, shared with nobody: `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub whole: Option<u32>,
    /// So much memory of one GPU that others share, as in `8Gi`: `hinterland.dev/gpu-memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub shared_memory: Option<MemoryQuantity>,
    /// One MIG instance of this profile, shared with nobody: `nvidia.com/mig-1g.10gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]*g\.[1-9][0-9]*gb$"))]
    pub mig: Option<String>,
}
