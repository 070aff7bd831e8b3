//! Whether the API server was put back to an older state, as by a backup that is restored.
//!
//! What it holds then is not what people want: workloads that are newer than the backup are not in it, and their
//! pods would be stopped; what was deleted since would come back. So nothing of it is taken over before somebody
//! confirms it, or where it makes no difference; what was in force stays so.
//!
//! The evidence is the resource version: within one API server's data it only grows, and that of a list is the
//! newest there is (Kubernetes documentation, "API concepts", "Resource versions"). A list that is older than
//! something that was seen before comes from other data. The greatest one that was seen is in the hub's store.

use super::Kind;
use crate::manifests::{InferenceWorkload, Manifests};
use serde::{Deserialize, Serialize};
use shared::model::WorkloadKey;
use shared::wire::{Digest, encode};
use std::collections::{BTreeMap, BTreeSet};

/// Workloads that a sentence names.
const NAMED_MAX: usize = 5;

/// What is stored of the newest state that was taken over, and whether it was put back since. Fields are only
/// appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct SeenState {
    /// The greatest resource version that was seen.
    pub(crate) revision: u64,
    /// Of what was said of nodes.
    pub(crate) nodes: Digest,
    /// The version that the data were put back to, until that is confirmed.
    #[serde(default)]
    pub(crate) put_back_to: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Regression {
    seen: SeenState,
    /// It was put back, and that is not stored yet.
    unstored: bool,
    /// Kinds whose objects are those of before it was put back: they were not listed since.
    stale: BTreeSet<Kind>,
    /// Digests of the workloads that are in force.
    in_force: BTreeMap<WorkloadKey, Digest>,
}

/// What would become of workloads, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Consequences {
    stop: Vec<String>,
    come_back: Vec<String>,
    change: Vec<String>,
    nodes: bool,
}

impl Regression {
    /// What the hub's last start had seen, and what was in force then.
    pub(super) fn new<'a>(
        seen: SeenState,
        in_force: impl Iterator<Item = &'a InferenceWorkload>,
    ) -> Self {
        let in_force = in_force.map(|workload| (workload.key.clone(), digest_of(workload)));
        Self { seen, in_force: in_force.collect(), ..Self::default() }
    }

    /// An object of this resource version was seen.
    pub(super) fn saw(&mut self, revision: u64) {
        self.seen.revision = self.seen.revision.max(revision);
    }

    /// Objects are about to be listed, and the newest of all has this resource version.
    pub(super) fn lists_at(&mut self, revision: u64) {
        if revision < self.seen.revision {
            if !self.is_found() {
                self.stale = Kind::ALL.into();
            }
            self.unstored |= self.seen.put_back_to != Some(revision);
            self.seen.put_back_to = Some(revision);
        }
        self.saw(revision);
    }

    /// All objects of a kind were listed.
    pub(super) fn listed(&mut self, kind: Kind) {
        self.stale.remove(&kind);
    }

    /// What is to be stored at once, before anything is taken over.
    pub(super) fn take_put_back(&mut self) -> Option<SeenState> {
        std::mem::take(&mut self.unstored).then_some(self.seen)
    }

    /// Whether the data are older than what was seen, and nobody has confirmed that they count.
    pub(super) fn is_found(&self) -> bool {
        self.seen.put_back_to.is_some()
    }

    /// They count from now on.
    pub(super) fn confirm(&mut self) {
        if let Some(revision) = self.seen.put_back_to.take() {
            self.seen.revision = revision;
            self.unstored = false;
        }
    }

    /// These are in force from now on; what is to be stored.
    pub(super) fn take_over(&mut self, manifests: &Manifests) -> SeenState {
        let workloads = manifests.workloads.values();
        self.in_force =
            workloads.map(|workload| (workload.key.clone(), digest_of(workload))).collect();
        self.seen.nodes = nodes_digest(manifests);
        self.seen
    }

    /// Whether taking `offered` over would change nothing. Nobody knows before all was listed again.
    pub(super) fn makes_no_difference(&self, offered: &Manifests) -> bool {
        self.stale.is_empty() && self.consequences(offered) == Consequences::default()
    }

    /// What a person should know before it is confirmed.
    pub(super) fn in_words(&self, offered: &Manifests) -> Option<String> {
        let found = self.seen.put_back_to?;
        let Consequences { stop, come_back, change, nodes } = self.consequences(offered);
        let mut parts = vec![];
        for (what, workloads) in
            [("would stop", stop), ("would come back", come_back), ("would change", change)]
        {
            if !workloads.is_empty() {
                parts.push(format!("{} {what} ({})", workloads.len(), named(&workloads)));
            }
        }
        if nodes {
            parts.push("what is said of nodes would change".to_owned());
        }
        let what = match (self.stale.is_empty(), parts.is_empty()) {
            (false, _) => "What would change is not known before all of it was read".to_owned(),
            (true, true) => "Of workloads, none would change".to_owned(),
            (true, false) => format!("Of workloads, {}", parts.join(", ")),
        };
        let seen = self.seen.revision;
        Some(format!(
            "the API server was put back to an older state (version {found}, and {seen} was seen): what was in \
             force stays so until somebody confirms it by `hub confirm-regression`. {what}"
        ))
    }

    fn consequences(&self, offered: &Manifests) -> Consequences {
        let mut found = Consequences::default();
        for key in self.in_force.keys().filter(|key| !offered.workloads.contains_key(*key)) {
            found.stop.push(key.to_string());
        }
        for (key, workload) in &offered.workloads {
            match self.in_force.get(key) {
                None => found.come_back.push(key.to_string()),
                Some(digest) if *digest != digest_of(workload) => {
                    found.change.push(key.to_string());
                }
                Some(_) => {}
            }
        }
        found.nodes = self.seen.nodes != nodes_digest(offered);
        found
    }
}

fn named(workloads: &[String]) -> String {
    let others = workloads.len().saturating_sub(NAMED_MAX);
    let named = workloads.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if others > 0 { format!("{named} and {others} more") } else { named }
}

/// What can't be encoded is like nothing else.
fn digest_of(workload: &InferenceWorkload) -> Digest {
    encode("workload", workload).map(|bytes| Digest::of(&bytes)).unwrap_or_default()
}

fn nodes_digest(manifests: &Manifests) -> Digest {
    encode("nodes", &manifests.nodes).map(|bytes| Digest::of(&bytes)).unwrap_or_default()
}
