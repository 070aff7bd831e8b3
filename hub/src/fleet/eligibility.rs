//! Whether a node may run a workload, and why not.
//!
//! Labels and taints only, as Kubernetes decides them, with one exception: a node whose labels no
//! longer match loses what it holds, since re-selecting is how workloads are moved.
//!
//! A node that is cordoned keeps the pods that it holds, with whatever template their workload has, and is
//! given no further one. What it holds is what was assigned to it, which the store has and other hubs
//! find; after a restart of the hub also what it reported last. No toleration bears this, unlike in Kubernetes, where pods of a
//! `DaemonSet` come to a cordoned node: who cordons one wants nothing new there. To take away what it has is
//! a taint's affair: [`crate::manifests::DRAIN_TAINT`].

use super::Site;
use super::affinity::{label, unmet};
use crate::api::LabelExpression;
use crate::manifests::InferenceWorkload;
use shared::model::{Taint, TaintEffect};
use std::fmt;

/// Whether a node may run a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eligibility {
    /// It may hold what it holds and be given more.
    Schedulable,
    /// It may hold what it holds.
    KeepsOnly,
}

/// Why a node was not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason<'a> {
    /// A label of the node selector is missing, or has another value.
    Label(&'a str, &'a str),
    /// No term of the affinity matches; this expression is what the first lacks.
    Affinity(&'a LabelExpression),
    /// A taint is not tolerated.
    Taint(&'a Taint),
    /// The node is cordoned, and holds none.
    Cordoned,
    /// The node's desired or reported state has no room for it.
    Full,
    /// Other nodes hold all the replicas.
    NotNeeded,
    /// It does not have the label by which its parameters are found.
    NoParameterLabel(&'a str),
    /// There is no ConfigMap that begins so and ends with its value of this label.
    NoParameters(&'a str, &'a str),
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key, value) => {
                write!(f, "node selector does not match: no label `{key}={value}`")
            }
            Self::Affinity(LabelExpression { key, operator, values }) => {
                let values = values.join(", ");
                let space = if values.is_empty() { "" } else { " " };
                write!(f, "affinity does not match: `{key} {operator:?}{space}{values}`")
            }
            Self::Taint(taint) => {
                let Taint { key, value, effect } = taint;
                let equals = if value.is_empty() { "" } else { "=" };
                write!(f, "taint `{key}{equals}{value}:{effect:?}` is not tolerated")
            }
            Self::Cordoned => f.write_str("cordoned: nothing new comes there"),
            Self::Full => f.write_str("as many pods or bytes as one node can be assigned"),
            Self::NotNeeded => f.write_str("not needed: other nodes hold all replicas"),
            Self::NoParameterLabel(label) => {
                write!(f, "no label `{label}`, by which its parameters are found")
            }
            Self::NoParameters(prefix, label) => {
                write!(f, "no ConfigMap `{prefix}…` for its label `{label}`")
            }
        }
    }
}

/// Decides for one workload and one node that holds `held` pods of it.
pub(super) fn judge<'a>(
    workload: &'a InferenceWorkload,
    site: &Site<'a>,
    held: u32,
) -> Result<Eligibility, Reason<'a>> {
    if let Some(reason) = missing_label(workload, site) {
        return Err(reason);
    }
    if let Some(expression) = unmet(workload, site) {
        return Err(Reason::Affinity(expression));
    }
    let not_borne = |effect| {
        let mut taints = site.said.iter().flat_map(|said| &said.taints);
        taints.find(|taint| taint.effect == effect && !bears(workload, taint))
    };
    if let Some(taint) = not_borne(TaintEffect::NoExecute) {
        return Err(Reason::Taint(taint));
    }
    let is_cordoned = site.said.is_some_and(|said| said.unschedulable);
    match not_borne(TaintEffect::NoSchedule) {
        None if !is_cordoned => Ok(Eligibility::Schedulable),
        _ if held > 0 => Ok(Eligibility::KeepsOnly),
        Some(taint) => Err(Reason::Taint(taint)),
        None => Err(Reason::Cordoned),
    }
}

fn missing_label<'a>(workload: &'a InferenceWorkload, site: &Site<'a>) -> Option<Reason<'a>> {
    let has = |key: &str, value: &str| label(site, key) == Some(value);
    let mut wanted = workload.node_selector.iter();
    wanted.find(|(key, value)| !has(key, value)).map(|(key, value)| Reason::Label(key, value))
}

fn bears(workload: &InferenceWorkload, taint: &Taint) -> bool {
    workload.tolerations.iter().any(|toleration| toleration.tolerates(taint))
}
