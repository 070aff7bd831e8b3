//! What is wanted of a pod: its template, and what it has of ConfigMaps, Secrets, models and its node.

use super::attached::{Attachments, Lack, NodeObjects, volumes_of};
use super::containers::Planned;
use crate::placement::MainShare;
use crate::ports::{NetworkRequest, StartRequest, VolumeContent, volumes_version};
use shared::model::{
    Container, ContainerPort, ContainerRole, GpuRequest, ObjectName, PodTemplate, Revision,
    SecretItem, Toleration, Workload,
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
    /// `one_container` where the node's runtime runs no more of a pod.
    pub(super) fn of(workload: &Workload, objects: &NodeObjects, one_container: bool) -> Self {
        let attached = Attachments::of(workload, objects);
        let template = &workload.template;
        let can_run = template.validate().and_then(|()| template.check_without_cluster());
        let can_run = can_run.and_then(|()| match one_container {
            true => template.check_one_container(),
            false => Ok(()),
        });
        Self {
            revision: workload.revision,
            parameters_id: workload.parameters_id(),
            priority: workload.priority,
            tolerations: workload.tolerations.clone(),
            template: workload.template.clone(),
            invalid: can_run.err().map(|error| error.to_string()),
            volumes_version: volumes_version(&attached.volumes),
            attached,
        }
    }

    /// The first container that is no init container, of the replica of this ordinal, each variable of its
    /// environment with its value.
    pub(super) fn container(&self, ordinal: u32) -> Container {
        let main = self.containers(ordinal).find(|(role, _)| *role == ContainerRole::Main);
        main.map(|(_, container)| container).unwrap_or_default()
    }

    /// All containers in the order of their start.
    fn containers(&self, ordinal: u32) -> impl Iterator<Item = (ContainerRole, Container)> {
        self.template.spec.in_order().zip(self.attached.envs_of(ordinal)).map(
            move |(placed, env)| {
                let container = Container { env, env_from: vec![], ..placed.container.clone() };
                (placed.role, self.template.container_of_replica(container, ordinal))
            },
        )
    }

    /// The containers of a start of the pod, where there are several; none else.
    pub(super) fn planned(&self, start: &StartRequest) -> Vec<Planned> {
        if !self.template.spec.has_several_containers() {
            return vec![];
        }
        let of_one = |(role, container): (ContainerRole, Container)| {
            let asked = container.requested();
            let has_gpus = asked.gpu != GpuRequest::None;
            let start = StartRequest {
                gpus: start.gpus.iter().filter(|_| has_gpus).cloned().collect(),
                gpu_memory_bytes: start.gpu_memory_bytes.filter(|_| has_gpus),
                taken: MainShare::of(&asked),
                volumes: volumes_of(&container, &start.volumes),
                containers: vec![],
                container,
                ..start.clone()
            };
            (role, start)
        };
        self.containers(start.pod.ordinal).map(of_one).collect()
    }

    /// What the replica of this ordinal asks of the network.
    pub(super) fn network(&self, ordinal: u32) -> NetworkRequest {
        let is_host = self.template.spec.host_network;
        let is_of_host = |port: &ContainerPort| port.host_port.is_some();
        let names_some = |container: &Container| container.ports.iter().any(is_of_host);
        if !self.template.spec.in_order().any(|placed| names_some(placed.container)) {
            return NetworkRequest { is_host, host_ports: vec![] };
        }
        let lasting = self.containers(ordinal).filter(|(role, _)| *role != ContainerRole::Init);
        let ports = lasting.flat_map(|(_, container)| container.ports);
        NetworkRequest { is_host, host_ports: ports.filter(is_of_host).collect() }
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
