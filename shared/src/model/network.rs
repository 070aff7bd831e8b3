//! A pod's network: its node's, or one of its own, and the ports of the node that lead to it.

use super::containers::PlacedContainer;
use super::pod::{ContainerPort, EnvVar, PodTemplate, PortProtocol};
use super::pod_ports::PORT_OFFSET;
use super::volume::PodField;
use super::workload::{InvalidWorkload, invalid};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Where a pod looks up names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// Where its node does.
    Default,
    /// At the cluster's own server: in member clusters only.
    ClusterFirst,
    /// The same, also on the node's network.
    ClusterFirstWithHostNet,
}

impl ContainerPort {
    /// Whether the container can't have it by itself, on the node's network: something must lead there.
    #[must_use]
    pub fn needs_a_mapping(&self) -> bool {
        self.host_ip.is_some() || self.host_port.is_some_and(|port| port != self.container_port)
    }

    /// Whether the port of the node that leads here is also the other's.
    #[must_use]
    pub fn takes_host_port_of(&self, other: &Self) -> bool {
        let any = |port: &Self| port.host_address().is_none_or(|address| address.is_unspecified());
        let same_address = any(self) || any(other) || self.host_address() == other.host_address();
        let same_port = self.host_port.is_some() && self.host_port == other.host_port;
        same_port && self.protocol == other.protocol && same_address
    }

    fn host_address(&self) -> Option<IpAddr> {
        self.host_ip.as_ref()?.parse().ok()
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl EnvVar {
    /// Whether its value is the pod's address, which nobody knows before the pod has one.
    #[must_use]
    pub fn is_pod_ip(&self) -> bool {
        let selector = self.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
        selector.and_then(|selector| selector.field()) == Some(PodField::PodIp)
    }
}

impl PodTemplate {
    /// Checks ports of the node, and what goes with a network.
    pub(super) fn validate_network(&self) -> Result<(), InvalidWorkload> {
        let offsets = self.metadata.annotations.contains_key(PORT_OFFSET);
        if offsets && self.spec.host_network == Some(false) {
            let problem = "with `hostNetwork: false` every replica has all ports to itself: expected no such \
                           annotation";
            return Err(invalid(format!("metadata.annotations[{PORT_OFFSET}]"), problem));
        }
        let mut earlier: Vec<&ContainerPort> = vec![];
        for PlacedContainer { container, path, .. } in self.spec.in_order() {
            for (index, port) in container.ports.iter().enumerate() {
                let at = format!("{path}.ports[{index}]");
                validate_port(port, &at)?;
                let is_bound = offsets || self.spec.host_network == Some(true);
                if is_bound && port.host_port.is_some_and(|host| host != port.container_port) {
                    let problem = "on the node's network, or with replicas that each have ports of their own: \
                                   expected the same as containerPort";
                    return Err(invalid(format!("{at}.hostPort"), problem));
                }
                if earlier.iter().any(|other| port.takes_host_port_of(other)) {
                    let problem = "leads to another port of this pod already";
                    return Err(invalid(format!("{at}.hostPort"), problem));
                }
                earlier.push(port);
            }
        }
        Ok(())
    }

    /// Checks what only a node that is in no cluster refuses.
    ///
    /// # Errors
    /// The first field that can't be there, with its path.
    pub fn check_without_cluster(&self) -> Result<(), InvalidWorkload> {
        if self.spec.dns_policy.is_some_and(|policy| policy != DnsPolicy::Default) {
            let problem = "an edge node has no DNS of a cluster: expected Default, or none";
            return Err(invalid("spec.dnsPolicy", problem));
        }
        if self.spec.host_network != Some(true) {
            return Ok(());
        }
        for PlacedContainer { container, path, .. } in self.spec.in_order() {
            if let Some(index) = container.env.iter().position(EnvVar::is_pod_ip) {
                let problem = "on the node's network a pod has no address of its own: expected another field, \
                               or `hostNetwork: false`";
                let at = format!("{path}.env[{index}].valueFrom.fieldRef.fieldPath");
                return Err(invalid(at, problem));
            }
        }
        Ok(())
    }
}

fn validate_port(port: &ContainerPort, at: &str) -> Result<(), InvalidWorkload> {
    if port.host_port == Some(0) {
        return Err(invalid(format!("{at}.hostPort"), "expected a port of 1 to 65535"));
    }
    if port.host_ip.is_none() {
        return Ok(());
    }
    if port.host_port.is_none() {
        return Err(invalid(format!("{at}.hostIP"), "is the address of a hostPort: expected one"));
    }
    if port.host_address().is_none() {
        return Err(invalid(format!("{at}.hostIP"), "expected an IP address, as in 10.0.0.7"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};
    use serde_json::{Value, json};

    fn template(spec: &Value, ports: &Value) -> PodTemplate {
        let mut template = json!({ "spec": { "containers": [
            { "name": "a", "command": ["a"], "ports": ports }] } });
        let fields = template["spec"].as_object_mut().unwrap();
        fields.extend(spec.as_object().unwrap().clone());
        serde_json::from_value(template).unwrap()
    }

    #[test]
    fn a_network_and_ports_of_the_node_survive_the_wire_as_kubernetes_says_them() {
        let ports = json!([{ "name": null, "containerPort": 80, "protocol": "TCP", "hostPort": 8080,
            "hostIP": "10.0.0.7" }]);
        let template = template(&json!({ "hostNetwork": false, "dnsPolicy": "Default" }), &ports);
        assert_eq!((template.validate(), template.check_without_cluster()), (Ok(()), Ok(())));
        assert_eq!(serde_json::to_value(&template.spec.containers[0].ports).unwrap(), ports);
        let bytes = encode("template", &template).unwrap();
        assert_eq!(decode::<PodTemplate>("template", &bytes, 4096).unwrap(), template);
    }

    #[test]
    fn ports_that_can_not_be_are_refused_with_their_paths() {
        let of_node = json!({ "hostNetwork": true });
        for (spec, ports, field) in [
            (json!({}), json!([{ "containerPort": 80, "hostPort": 0 }]), "[0].hostPort"),
            (json!({}), json!([{ "containerPort": 80, "hostIP": "10.0.0.7" }]), "[0].hostIP"),
            (
                json!({}),
                json!([{ "containerPort": 80, "hostPort": 80, "hostIP": "mast" }]),
                "[0].hostIP",
            ),
            (of_node, json!([{ "containerPort": 80, "hostPort": 8080 }]), "[0].hostPort"),
            (
                json!({}),
                json!([{ "containerPort": 80, "hostPort": 8080 },
                    { "containerPort": 81, "hostPort": 8080, "hostIP": "10.0.0.7" }]),
                "[1].hostPort",
            ),
        ] {
            let refused = template(&spec, &ports).validate().unwrap_err();
            assert_eq!(refused.path, format!("spec.containers[0].ports{field}"));
        }
        let apart = json!([{ "containerPort": 80, "hostPort": 53 },
            { "containerPort": 81, "hostPort": 53, "protocol": "UDP" },
            { "containerPort": 82, "hostPort": 54, "hostIP": "10.0.0.7" },
            { "containerPort": 83, "hostPort": 54, "hostIP": "10.0.0.8" }]);
        assert_eq!(template(&json!({}), &apart).validate(), Ok(()));
    }

    #[test]
    fn replicas_with_a_network_of_their_own_need_no_ports_of_their_own() {
        let mut template =
            template(&json!({}), &json!([{ "containerPort": 8000, "hostPort": 8000 }]));
        template.metadata.annotations.insert(PORT_OFFSET.to_owned(), "ordinal".to_owned());
        assert_eq!(template.validate(), Ok(()));
        let container = template.spec.containers[0].clone();
        let third = template.container_of_replica(container, 2);
        assert_eq!((third.ports[0].container_port, third.ports[0].host_port), (8002, Some(8002)));
        template.spec.host_network = Some(false);
        let refused = template.validate().unwrap_err();
        assert_eq!(refused.path, format!("metadata.annotations[{PORT_OFFSET}]"));
    }

    #[test]
    fn what_needs_a_cluster_or_an_address_of_its_own_is_refused_on_a_node() {
        let path = |spec: Value| {
            let template = template(&spec, &json!([]));
            assert_eq!(template.validate(), Ok(()));
            template.check_without_cluster().unwrap_err().path
        };
        assert_eq!(path(json!({ "dnsPolicy": "ClusterFirst" })), "spec.dnsPolicy");
        let env =
            json!([{ "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }]);
        let spec = json!({ "hostNetwork": true, "containers": [{ "name": "a", "command": ["a"], "env": env }] });
        assert_eq!(path(spec), "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath");
    }
}
