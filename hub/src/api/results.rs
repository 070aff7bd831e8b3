//! What a workload says of its pods' results: which sink takes them, and what is left out.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where results of some topics go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResultRouteSpec {
    /// The topics it is for, as in `plates/gate-3`; a `*` at the end stands for whatever follows. The
    /// first route that matches takes a result.
    pub topic: String,
    /// The hub's sink of this name takes them; `default` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// What the node leaves out, to save bytes of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinning: Option<ThinningSpec>,
}

/// What a node leaves out of the results of a topic: one of these ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new(
    "(has(self.latestEverySeconds) ? 1 : 0) + (has(self.everyNth) ? 1 : 0) + (has(self.deadband) ? 1 : 0) == 1")
    .message("thinning: expected exactly one of latestEverySeconds, everyNth and deadband"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ThinningSpec {
    /// The latest result of so many seconds is sent, the others are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_every_seconds: Option<u32>,
    /// One result of so many is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_nth: Option<u32>,
    /// A result is sent when a number in it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadband: Option<DeadbandSpec>,
}

/// When a number has changed enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadbandSpec {
    /// Where in the result the number stands: a JSON pointer, as in `/celsius`.
    pub field: String,
    /// By how much it must differ from the one that was sent last.
    pub by: f64,
}
