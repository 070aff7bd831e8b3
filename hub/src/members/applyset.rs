//! The marks by which the objects of a hub are found in a member, and pruned: an ApplySet.
//!
//! Source: the Kubernetes enhancement KEP-3659, "ApplySet: kubectl apply --prune redesign".

use super::scope::{KINDS_ANNOTATION, NAMESPACES_ANNOTATION, Scope};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// The label of every object of a set; its value is the set's id.
pub(super) const PART_OF_LABEL: &str = "applyset.kubernetes.io/part-of";

/// The namespace of the set's parent, in each member.
pub(super) const PARENT_NAMESPACE: &str = "hinterland";

/// The objects that one `EdgeCluster` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApplySet {
    /// The name of the parent.
    pub(super) parent: String,
    /// Names the set in labels.
    pub(super) id: String,
}

impl ApplySet {
    pub(super) fn of_cluster(cluster: &str) -> Self {
        let parent = format!("hinterland-{cluster}");
        let name = format!("{parent}.{PARENT_NAMESPACE}.ConfigMap.");
        let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(name));
        Self { parent, id: format!("applyset-{digest}-v1") }
    }

    /// The selector of all objects of the set.
    pub(super) fn selector(&self) -> String {
        format!("{PART_OF_LABEL}={}", self.id)
    }

    /// The parent, which tells other tools, and the hub that comes next, what the set may contain.
    pub(super) fn parent_object(
        &self,
        scopes: &BTreeSet<Scope>,
        namespaces: &BTreeSet<String>,
    ) -> Value {
        let kinds: BTreeSet<String> = scopes.iter().map(|scope| scope.kind.group_kind()).collect();
        let join = |words: &BTreeSet<String>| {
            words.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.parent,
                "namespace": PARENT_NAMESPACE,
                "labels": { "applyset.kubernetes.io/id": self.id },
                "annotations": {
                    "applyset.kubernetes.io/tooling": concat!("hinterland/v", env!("CARGO_PKG_VERSION")),
                    KINDS_ANNOTATION: join(&kinds),
                    NAMESPACES_ANNOTATION: join(namespaces),
                },
            },
        })
    }
}
