//! A workload that is deleted: its object stays until those who run it have confirmed that they do not, or for
//! as long as its policy says.
//!
//! Nodes are told at once that they should not run it. One that is offline is told when it is back, whether
//! or not its object is still there: what is waited for is only that a person who deletes it can see that it is
//! gone. A node that is revoked is not waited for.

use super::objects::{Held, ObjectKey};
use crate::core::HubCore;
use crate::members::MemberReport;
use shared::model::{UnixMs, WorkloadKey};
use std::collections::{BTreeMap, BTreeSet};

/// What holds the object of a workload until its pods are gone.
pub(crate) const PODS_FINALIZER: &str = "hinterland.dev/pods";

/// The hub's finalizer of an object is to be set, or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FinalizerPatch {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    /// Whether the object is to be held.
    pub(crate) holds: bool,
    /// Who has not confirmed when it is let go since its time is over.
    pub(crate) unconfirmed: Option<String>,
}

/// Who has not confirmed yet that a workload is gone there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Remaining {
    /// Edge nodes.
    pub(super) nodes: u32,
    /// Those of them that are offline.
    pub(super) offline: u32,
    /// Member clusters.
    pub(super) clusters: u32,
}

impl Remaining {
    pub(super) fn of(
        key: &ObjectKey,
        core: &HubCore,
        members: &BTreeMap<String, MemberReport>,
    ) -> Self {
        let Ok(key) = WorkloadKey::new(&key.namespace, &key.name) else { return Self::default() };
        let (nodes, offline) = core.holders_of(&key);
        let clusters = members.values().filter(|report| report.workloads.contains_key(&key));
        Self { nodes, offline, clusters: u32::try_from(clusters.count()).unwrap_or(u32::MAX) }
    }

    fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What a person should know of a deletion that takes a while.
    pub(super) fn in_words(self) -> String {
        let Self { nodes, offline, clusters } = self;
        let mut parts = vec![];
        if nodes > 0 {
            parts.push(format!("{nodes} nodes have not confirmed that its pods are gone"));
        }
        if offline > 0 {
            parts.push(format!("{offline} of them are offline and stop them when they are back"));
        }
        if clusters > 0 {
            parts.push(format!("{clusters} member clusters still have it"));
        }
        if parts.is_empty() {
            parts.push("its pods are gone".to_owned());
        }
        parts.join("; ")
    }
}

/// Finalizers on their way.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    sent: BTreeSet<ObjectKey>,
}

impl Deletions {
    /// What was handed out has come to its end, well or not.
    pub(super) fn ended(&mut self, key: &ObjectKey) {
        self.sent.remove(key);
    }

    /// Whether the finalizer of an object should be another: it is held once it is accepted, and let go once
    /// nobody has it any more, or when its time is over.
    pub(super) fn patch(
        &mut self,
        key: &ObjectKey,
        held: &Held,
        remaining: impl FnOnce() -> Remaining,
        now: UnixMs,
    ) -> Option<FinalizerPatch> {
        if self.sent.contains(key) {
            return None;
        }
        let mut unconfirmed = None;
        let holds = match held.deletion() {
            None => held.workload().is_some(),
            Some(_) if !held.is_held() => return None,
            Some(since) => {
                let deadline = UnixMs(since.0.saturating_add(held.deletion_deadline_ms()));
                let remaining = remaining();
                let is_over = deadline <= now;
                unconfirmed = (is_over && !remaining.is_none()).then(|| remaining.in_words());
                !is_over && !remaining.is_none()
            }
        };
        if holds == held.is_held() {
            return None;
        }
        self.sent.insert(key.clone());
        Some(FinalizerPatch { key: key.clone(), uid: held.uid().to_owned(), holds, unconfirmed })
    }
}
