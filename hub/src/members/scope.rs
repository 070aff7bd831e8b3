//! What of a member is listed and watched together. Pure.
//!
//! ConfigMaps and Secrets are looked at only in namespaces where the hub keeps some, or did as the set's parent
//! says: it needs no right to any other, and one that it lacks there holds up nothing else.

use super::build::{MemberKind, MemberObjectId};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// The parent's annotations that say which kinds the set may contain, and where.
pub(super) const KINDS_ANNOTATION: &str = "applyset.kubernetes.io/contains-group-kinds";
pub(super) const NAMESPACES_ANNOTATION: &str = "applyset.kubernetes.io/additional-namespaces";

/// One watch is a request that stays open; of one member there are no more.
pub(super) const SCOPES_MAX: usize = 512;

/// Which objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) kind: MemberKind,
    /// `None` for the whole cluster.
    pub(super) namespace: Option<String>,
}

impl Scope {
    /// The one in which an object is.
    pub(super) fn of(id: &MemberObjectId) -> Self {
        let namespace = id.namespace.clone().filter(|_| id.kind.attached().is_some());
        Self { kind: id.kind, namespace }
    }

    /// Those in which there may be something of any workload.
    pub(super) fn of_all() -> impl Iterator<Item = Self> {
        MemberKind::OF_ALL.into_iter().map(|kind| Self { kind, namespace: None })
    }

    /// Those of ConfigMaps and Secrets that the set's parent tells of.
    pub(super) fn remembered(parent: &Value) -> BTreeSet<Self> {
        let words = |annotation: &str| {
            let annotations = parent.pointer("/metadata/annotations");
            let said = annotations.and_then(|all| all.get(annotation)?.as_str());
            said.unwrap_or_default().split(',').filter(|word| !word.is_empty())
        };
        let attached = [MemberKind::ConfigMap, MemberKind::Secret];
        let contains = |kind: &MemberKind| words(KINDS_ANNOTATION).any(|k| k == kind.group_kind());
        let namespaces = words(NAMESPACES_ANNOTATION).take(SCOPES_MAX);
        let scopes = namespaces.flat_map(|namespace| {
            let namespace = Some(namespace.to_owned());
            let kinds = attached.into_iter().filter(contains);
            kinds.map(move |kind| Self { kind, namespace: namespace.clone() })
        });
        scopes.collect()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, _, plural) = self.kind.names();
        match &self.namespace {
            Some(namespace) => write!(f, "{plural} in {namespace}"),
            None => f.write_str(plural),
        }
    }
}
