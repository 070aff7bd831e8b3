//! Whether a node's labels match the terms of a workload's affinity.
//!
//! As Kubernetes decides it: `NotIn` matches a node without the label, and `Gt` and `Lt` match none whose
//! label is no whole number. Source: the Kubernetes API reference, `NodeSelectorRequirement`.

use super::Site;
use crate::api::{LabelExpression, LabelOperator, NodeSelectorTerm};
use crate::manifests::{HOSTNAME_LABEL, InferenceWorkload};
use std::cmp::Ordering;

/// The expression that keeps the node from the first of the terms of which it must match one; none where it
/// matches one of them.
pub(super) fn unmet<'a>(
    workload: &'a InferenceWorkload,
    site: &Site<'_>,
) -> Option<&'a LabelExpression> {
    let terms = &workload.affinity.as_ref()?.required;
    if terms.is_empty() || terms.iter().any(|term| matches_term(term, site)) {
        return None;
    }
    terms.first()?.match_expressions.iter().find(|expression| !matches(expression, site))
}

/// How much a node is preferred: the sum of the weights of the terms that it matches.
pub(super) fn preference(workload: &InferenceWorkload, site: &Site<'_>) -> u32 {
    let terms = workload.affinity.iter().flat_map(|affinity| &affinity.preferred);
    terms.filter(|term| matches_term(&term.preference, site)).map(|term| term.weight).sum()
}

fn matches_term(term: &NodeSelectorTerm, site: &Site<'_>) -> bool {
    term.match_expressions.iter().all(|expression| matches(expression, site))
}

fn matches(expression: &LabelExpression, site: &Site<'_>) -> bool {
    let LabelExpression { key, operator, values } = expression;
    let label = label(site, key);
    let is_among = label.is_some_and(|label| values.iter().any(|value| value == label));
    match operator {
        LabelOperator::In => is_among,
        LabelOperator::NotIn => !is_among,
        LabelOperator::Exists => label.is_some(),
        LabelOperator::DoesNotExist => label.is_none(),
        LabelOperator::Gt => compared(label, values) == Some(Ordering::Greater),
        LabelOperator::Lt => compared(label, values) == Some(Ordering::Less),
    }
}

fn compared(label: Option<&str>, values: &[String]) -> Option<Ordering> {
    let number = |text: &str| text.parse::<i64>().ok();
    Some(number(label?)?.cmp(&number(values.first()?)?))
}

/// What a node's label says. Every node has its name for one.
pub(super) fn label<'a>(site: &Site<'a>, key: &str) -> Option<&'a str> {
    if key == HOSTNAME_LABEL {
        return Some(site.id.as_str());
    }
    site.said.and_then(|said| said.labels.get(key)).map(String::as_str)
}
