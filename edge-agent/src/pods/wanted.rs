//! What is wanted of a pod: its template, and what it has of ConfigMaps, Secrets, models and its node.

use super::attached::{Attachments, Lack, NodeObjects};
use crate::ports::{VolumeContent, volumes_version};
use shared::model::{
    Container, ObjectName, PodTemplate, Revision, SecretItem, Toleration, Workload,
};
use std::sync::Arc;

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) revision: Revision,
    /// Names what is the node's own; 0 for nothing.
    pub(super) parameters_id: u64,
    pub(super) priority: i32,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) template: PodTemplate,
    /// Why the template can't be run.
    pub(super) invalid: Option<String>,
    attached: Attachments,
    /// Names what its volumes hold.
    pub(super) volumes_version: u64,
}

impl Wanted {
    pub(super) fn of(workload: &Workload, objects: &NodeObjects) -> Self {
        let attached = Attachments::of(workload, objects);
        Self {
            revision: workload.revision,
            parameters_id: workload.parameters_id(),
            priority: workload.priority,
            tolerations: workload.tolerations.clone(),
            template: workload.template.clone(),
            invalid: workload.template.validate().err().map(|error| error.to_string()),
            volumes_version: volumes_version(&attached.volumes),
            attached,
        }
    }

    /// The container of the replica of this ordinal, each variable of its environment with its value.
    pub(super) fn container(&self, ordinal: u32) -> Container {
        let container = self.template.spec.containers.first().cloned().unwrap_or_default();
        let container = Container { env: self.attached.env.clone(), env_from: vec![], ..container };
        self.template.container_of_replica(container, ordinal)
    }

    pub(super) fn volumes(&self) -> &[VolumeContent] {
        &self.attached.volumes
    }

    /// Credentials for registries.
    pub(super) fn pull_secrets(&self) -> &[(ObjectName, Arc<SecretItem>)] {
        &self.attached.pull_secrets
    }

    /// What is not there, so that it can't be started.
    pub(super) fn lacks(&self) -> Option<&Lack> {
        self.attached.lacks.as_ref()
    }

    pub(super) fn grace_seconds(&self) -> u32 {
        self.template.spec.termination_grace_period_seconds
    }

    /// Whether a start with these is what is wanted.
    pub(super) fn is(&self, revision: Revision, parameters_id: u64) -> bool {
        (self.revision, self.parameters_id) == (revision, parameters_id)
    }
}
