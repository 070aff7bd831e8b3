//! How a new template reaches the nodes: in waves, each of which must prove itself.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use super::schema;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a new template reaches the nodes. Nodes are taken in the order of their names; those that are
/// offline are passed over, count for nothing, and get the new template when they are back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutSpec {
    /// How many nodes have the new template after each wave, as in `1` or `10%`, each more than the one
    /// before. A last wave of all nodes follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::waves")]
    pub waves: Vec<IntOrString>,
    /// How many nodes may be without ready pods of the new template at a time, as in `1` or `10%`.
    #[serde(default = "max_unavailable")]
    #[schemars(schema_with = "schema::node_share")]
    pub max_unavailable: IntOrString,
    /// No further node is given the new template; those that have it keep it.
    #[serde(default)]
    pub paused: bool,
    /// Every pod of a wave must be ready for so long before the next wave begins.
    #[serde(default = "min_ready_seconds")]
    #[schemars(range(max = 604_800))]
    pub min_ready_seconds: u32,
    /// A pod of the new template that was started again more often than this fails the rollout.
    #[serde(default = "max_restarts")]
    #[schemars(range(max = 1_000))]
    pub max_restarts: u32,
    /// A rollout that gets no further for so long has failed.
    #[serde(default = "progress_deadline_seconds")]
    #[schemars(range(min = 1, max = 604_800))]
    pub progress_deadline_seconds: u32,
    /// What becomes of the nodes that have a new template which failed.
    #[serde(default)]
    pub on_failure: OnFailure,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            waves: vec![],
            max_unavailable: max_unavailable(),
            paused: false,
            min_ready_seconds: min_ready_seconds(),
            max_restarts: max_restarts(),
            progress_deadline_seconds: progress_deadline_seconds(),
            on_failure: OnFailure::default(),
        }
    }
}

fn max_unavailable() -> IntOrString {
    IntOrString::String("25%".to_owned())
}

fn min_ready_seconds() -> u32 {
    10
}

fn max_restarts() -> u32 {
    2
}

fn progress_deadline_seconds() -> u32 {
    600
}

/// What becomes of the nodes that have a new template which failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// They get the one before it back.
    #[default]
    Rollback,
    /// They keep it, and no further node gets it.
    Pause,
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// `Progressing`, `Paused`, `Failed` or `RolledBack`.
    pub phase: String,
    /// The wave that is under way, counted from 1, and the last one's number.
    pub wave: u32,
    /// How many waves there are.
    pub waves: u32,
    /// Nodes up to this one, in the order of names, have the new template.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub through: String,
    /// The new template.
    pub target_revision: String,
    /// The one that all other nodes run.
    pub stable_revision: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
