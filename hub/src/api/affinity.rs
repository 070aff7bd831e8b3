//! Which nodes a workload must have and would rather have, by expressions over their labels.
//!
//! The terms are those of `core/v1` node affinity. The fields around them have names of their own, since
//! what is required here is required for as long as a pod runs: a node whose labels no longer match loses it,
//! as with `nodeSelector`.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct within a function")]

use crate::manifests::{EXPRESSION_VALUES_MAX, TERM_EXPRESSIONS_MAX, TERMS_MAX};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which nodes a workload must have and would rather have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeAffinity {
    /// A node must match one of these terms, beside the `nodeSelector`. Without any, every node does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = TERMS_MAX))]
    pub required: Vec<NodeSelectorTerm>,
    /// Replicas over the fleet go first to the nodes with the greatest sum of weights of the terms that they
    /// match, among those that have as few replicas. What runs is not moved for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = TERMS_MAX))]
    pub preferred: Vec<PreferredTerm>,
}

/// A term that some nodes match, and how much that is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferredTerm {
    /// 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
    /// What a node must match for it.
    pub preference: NodeSelectorTerm,
}

/// A node matches it when it matches every expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSelectorTerm {
    /// Expressions over the node's labels, at least one.
    #[schemars(length(min = 1, max = TERM_EXPRESSIONS_MAX))]
    pub match_expressions: Vec<LabelExpression>,
}

/// What a label of a node must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new(
    "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : true")
    .message("values: expected at least one with operators In and NotIn"))]
#[x_kube(validation = Rule::new(
    "self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || self.values.size() == 0 : true")
    .message("values: expected none with operators Exists and DoesNotExist"))]
#[x_kube(validation = Rule::new(
    "self.operator in ['Gt', 'Lt'] ? has(self.values) && self.values.size() == 1 : true")
    .message("values: expected one whole number with operators Gt and Lt"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: LabelOperator,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = EXPRESSION_VALUES_MAX))]
    pub values: Vec<String>,
}

/// How a label's value is compared.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum LabelOperator {
    /// It is one of the values.
    In,
    /// It is none of the values, or there is no such label.
    NotIn,
    /// There is such a label.
    Exists,
    /// There is no such label.
    DoesNotExist,
    /// It is a whole number above the value.
    Gt,
    /// It is a whole number below the value.
    Lt,
}
