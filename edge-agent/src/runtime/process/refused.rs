//! What of a template only a container can have. It is refused, never passed over.

use super::order::StartFailure;
use crate::ports::{StartRequest, VolumeContent, VolumeSource};
use crate::runtime::network::needs_own_network;
use shared::model::{Container, PodSecurityContext, SeccompProfileType, SecurityContext};

/// # Errors
/// The first field that this runtime can't keep.
pub(super) fn refuse_what_needs_a_container(request: &StartRequest) -> Result<(), StartFailure> {
    let field = needs_own_network(request)
        .or_else(|| of_pod(&request.security))
        .or_else(|| request.container.security_context.as_ref().and_then(of_context))
        .or_else(|| of_container(&request.container))
        .or_else(|| request.volumes.iter().find_map(of_volume));
    let Some(field) = field else { return Ok(()) };
    let message = format!(
        "{field} needs pods to be containers: expected `runtime = \"cri\"` in this node's configuration"
    );
    Err(StartFailure::new("NeedsContainer", message))
}

fn of_pod(said: &PodSecurityContext) -> Option<&'static str> {
    let PodSecurityContext { run_as_user, run_as_group, fs_group, supplemental_groups, .. } = said;
    let confined = said.seccomp_profile.map(|profile| profile.kind);
    first(&[
        ("runAsUser", run_as_user.is_some()),
        ("runAsGroup", run_as_group.is_some()),
        ("runAsNonRoot", said.run_as_non_root == Some(true)),
        ("fsGroup", fs_group.is_some()),
        ("supplementalGroups", !supplemental_groups.is_empty()),
        ("seccompProfile", confined == Some(SeccompProfileType::RuntimeDefault)),
    ])
}

fn of_context(said: &SecurityContext) -> Option<&'static str> {
    let confined = said.seccomp_profile.map(|profile| profile.kind);
    first(&[
        ("runAsUser", said.run_as_user.is_some()),
        ("runAsGroup", said.run_as_group.is_some()),
        ("runAsNonRoot", said.run_as_non_root == Some(true)),
        ("readOnlyRootFilesystem", said.read_only_root_filesystem == Some(true)),
        ("capabilities", said.capabilities.is_some()),
        ("seccompProfile", confined == Some(SeccompProfileType::RuntimeDefault)),
        ("allowPrivilegeEscalation: false", said.allow_privilege_escalation == Some(false)),
        ("privileged", said.privileged == Some(true)),
    ])
}

fn of_container(said: &Container) -> Option<&'static str> {
    first(&[
        ("lifecycle", said.lifecycle.is_some()),
        ("terminationMessagePath", said.termination_message_path.is_some()),
        ("terminationMessagePolicy", said.termination_message_policy.is_some()),
        ("a device", !said.resources.limits.devices.is_empty()),
    ])
}

fn of_volume(volume: &VolumeContent) -> Option<&'static str> {
    let is_written = volume.mounts.iter().all(|mount| volume.writable_mounts.contains(mount));
    match &volume.source {
        VolumeSource::HostPath(_) => Some("a hostPath"),
        VolumeSource::EmptyDir { is_in_memory: true, .. } => Some("an emptyDir in memory"),
        VolumeSource::EmptyDir { .. } | VolumeSource::Claim(_) if !is_written => {
            Some("a mount that is readOnly")
        }
        _ => None,
    }
}

fn first(fields: &[(&'static str, bool)]) -> Option<&'static str> {
    fields.iter().find(|(_, is_said)| *is_said).map(|(field, _)| *field)
}
