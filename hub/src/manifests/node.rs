//! What an `EdgeNode` may say: labels, taints, whether it is cordoned, what its link may carry, and whether a
//! node of this name is let in.
//!
//! A node is who its certificate says, whether or not a manifest names it: a manifest may only narrow that
//! down, to a key.

use super::EdgeNode;
use super::labels::{Invalid, check_annotations, check_labels, check_taints};
use super::yaml::{self, Refusal, below};
use crate::api::{Approval, EdgeNodeSpec, LinkSpec};
use serde::Deserialize;
use serde::de::IgnoredAny;
use shared::model::{LinkBudget, MemoryQuantity, NodeId, Taint, TaintEffect};
use shared::trust::session::SessionPublicKey;
use std::collections::BTreeMap;

/// The least that a day may have: two connections in full, a few alarms, and a batch by the hour.
const BYTES_PER_DAY_MIN: u64 = 20_000;

/// The least that a second may have: 4 kbit/s, on which connecting takes ten seconds.
const BYTES_PER_SECOND_MIN: u64 = 500;

/// The label that every node has without a manifest; its value is the node's name.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// The key of the taint, with the effect `NoExecute`, that drains a node: what does not bear it stops there,
/// and replicas over the fleet go elsewhere.
pub const DRAIN_TAINT: &str = "hinterland.dev/drain";

impl EdgeNode {
    /// Whether what does not bear [`DRAIN_TAINT`] is to stop there.
    #[must_use]
    pub fn is_to_drain(&self) -> bool {
        let drains =
            |taint: &Taint| taint.key == DRAIN_TAINT && taint.effect == TaintEffect::NoExecute;
        self.taints.iter().any(drains)
    }

    /// Why nothing new comes to it, in a word: `Cordoned`, `Draining`, or empty where it does.
    #[must_use]
    pub fn scheduling_word(&self) -> &'static str {
        match (self.is_to_drain(), self.unschedulable) {
            (true, _) => "Draining",
            (false, true) => "Cordoned",
            (false, false) => "",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: NodeMetadata,
    #[serde(default)]
    spec: EdgeNodeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeMetadata {
    name: String,
    /// Here to be refused in words: a node belongs to no namespace.
    #[serde(default)]
    namespace: Option<IgnoredAny>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads one document of this kind.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read(text: &str) -> Result<(NodeId, EdgeNode), Refusal> {
    let document: NodeDocument = yaml::read(text)?;
    build(document).map_err(|(path, problem)| {
        let line = yaml::line_of(text, &path).unwrap_or(0);
        Refusal { line, path, problem }
    })
}

fn build(document: NodeDocument) -> Result<(NodeId, EdgeNode), Invalid> {
    let NodeMetadata { name, namespace, labels, annotations } = document.metadata;
    if namespace.is_some() {
        let problem = "an EdgeNode belongs to no namespace, expected none";
        return Err(("metadata.namespace".to_owned(), problem.to_owned()));
    }
    edge_node(&name, &labels, &annotations, document.spec)
}

/// What an object or a document says of a node.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn edge_node(
    name: &str,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    spec: EdgeNodeSpec,
) -> Result<(NodeId, EdgeNode), Invalid> {
    let id = NodeId::new(name).map_err(|error| ("metadata.name".to_owned(), error.to_string()))?;
    check_labels("metadata.labels", labels)?;
    if labels.get(HOSTNAME_LABEL).is_some_and(|value| value != name) {
        let problem = format!("is always the node's name, expected `{name}` or nothing");
        return Err((below("metadata.labels", HOSTNAME_LABEL), problem));
    }
    check_annotations("metadata.annotations", annotations)?;
    let EdgeNodeSpec { identity, approval, taints, unschedulable, link } = spec;
    check_taints("spec.taints", &taints)?;
    let link = budget(&link)?;
    let session_key = identity.map(|identity| identity.session_key.parse::<SessionPublicKey>());
    let session_key = session_key
        .transpose()
        .map_err(|error| ("spec.identity.sessionKey".to_owned(), error.to_string()))?;
    let (labels, is_denied) = (labels.clone(), approval == Approval::Denied);
    Ok((id, EdgeNode { labels, taints, unschedulable, link, session_key, is_denied }))
}

fn budget(spec: &LinkSpec) -> Result<LinkBudget, Invalid> {
    let at_least = |field: &str, quantity: Option<MemoryQuantity>, least: u64| match quantity {
        Some(MemoryQuantity { bytes }) if bytes < least => {
            let problem =
                format!("`{bytes}` is too little to connect at all, expected at least {least}");
            Err((format!("spec.link.{field}"), problem))
        }
        quantity => Ok(quantity.map(|quantity| quantity.bytes)),
    };
    Ok(LinkBudget {
        bytes_per_day: at_least("bytesPerDay", spec.bytes_per_day, BYTES_PER_DAY_MIN)?,
        bytes_per_second: at_least("bytesPerSecond", spec.bytes_per_second, BYTES_PER_SECOND_MIN)?,
    })
}
