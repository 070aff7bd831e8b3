//! What one member is to have of a workload: what its template names, and the member's own parameters. Pure.

use crate::fleet::{Parameters, parameters_in_cluster};
use crate::manifests::{AttachedObjects, InferenceWorkload, Lookup, Standing, standing};
use shared::model::ObjectName;
use std::collections::BTreeMap;

/// A workload as one member is to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberShare {
    pub(super) workload: InferenceWorkload,
    /// What its template names, as far as it is there.
    pub(super) objects: AttachedObjects,
    /// Environment variables that are the member's own.
    pub(super) parameters: Parameters,
    /// Why it is not to be applied.
    pub(super) obstacle: Option<Obstacle>,
}

/// Why a workload is not to be applied to a member, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Something that its template names is not there any more: what the member has stays as it is.
    MissingObject(String),
    /// The member has no parameters for it: nothing of it is to be there.
    NoParameters(String),
}

impl MemberShare {
    /// What a member with these labels is to have of `workload`; `all` is whatever workloads name.
    pub(crate) fn new(
        workload: &InferenceWorkload,
        labels: &BTreeMap<String, String>,
        all: &AttachedObjects,
    ) -> Self {
        let namespace = workload.key.namespace();
        let named = workload.template.references().filter_map(|reference| {
            let name = reference.object(namespace);
            all.get(&name).cloned().map(|object| (name, object))
        });
        let objects: AttachedObjects = named.collect();
        let found = parameters_in_cluster(workload, labels, all);
        let obstacle = match &found {
            Err(why) => Some(Obstacle::NoParameters(why.clone())),
            Ok(_) => missing(workload, &objects).map(Obstacle::MissingObject),
        };
        let parameters = found.unwrap_or_default();
        Self { workload: workload.clone(), objects, parameters, obstacle }
    }
}

fn missing(workload: &InferenceWorkload, objects: &AttachedObjects) -> Option<String> {
    let look = |name: &ObjectName| match objects.get(name) {
        Some(object) => Lookup::There(object),
        None => Lookup::Absent,
    };
    match standing(workload, look) {
        Standing::Lacks((path, problem)) => {
            Some(format!("{path}: {problem}; what is there stays as it is"))
        }
        Standing::Whole | Standing::NotRead => None,
    }
}
