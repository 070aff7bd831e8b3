//! The ids of the containers of a pod that runs.

use shared::model::PodId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The containers of one start that were made and have not ended, by name. The only one of a pod has none.
#[derive(Debug, Default)]
pub(super) struct ContainerIds(Mutex<BTreeMap<String, String>>);

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) pod: PodId,
    /// Empty for the only one of its pod.
    pub(super) name: String,
    pub(super) id: String,
}

impl ContainerIds {
    pub(super) fn add(&self, name: &str, id: &str) {
        self.by_name().insert(name.to_owned(), id.to_owned());
    }

    pub(super) fn remove(&self, name: &str) {
        self.by_name().remove(name);
    }

    pub(super) fn of(&self, name: &str) -> Option<String> {
        self.by_name().get(name).cloned()
    }

    /// All of them, as those of `pod`.
    pub(super) fn running(&self, pod: &PodId) -> Vec<Running> {
        let of_pod = |(name, id): (&String, &String)| Running {
            pod: pod.clone(),
            name: name.clone(),
            id: id.clone(),
        };
        self.by_name().iter().map(of_pod).collect()
    }

    pub(super) fn any(&self, is_it: impl Fn(&str) -> bool) -> bool {
        self.by_name().values().any(|id| is_it(id))
    }

    fn by_name(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // Nothing is left half done by a panic: entries are put and taken whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
