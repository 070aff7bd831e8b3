//! What a pod asks of the network that it can't have on its node's.

use crate::ports::StartRequest;
use shared::model::EnvVar;

/// The first field that only a pod with a network of its own can have, if there is one.
pub(super) fn needs_own_network(request: &StartRequest) -> Option<&'static str> {
    let ports = &request.network.host_ports;
    if request.network.is_host == Some(false) {
        return Some("`hostNetwork: false`");
    }
    if ports.iter().any(|port| port.needs_a_mapping()) {
        return Some("a `hostPort` other than its containerPort, or with a hostIP,");
    }
    request.container.env.iter().any(EnvVar::is_pod_ip).then_some("`status.podIP`")
}
