//! Ports of pods that share their node's network, as processes do: with an annotation each replica has its own.

use super::containers::PlacedContainer;
use super::pod::{Container, ContainerPort, EnvVar, PodTemplate, Probe};
use super::port::Port;
use super::workload::{InvalidWorkload, invalid};
use crate::limits::REPLICAS_PER_NODE_MAX;

/// The annotation of a template, and the one value that it may have: the replica of ordinal n listens on each
/// of the container's `ports` plus n.
pub const PORT_OFFSET: &str = "hinterland.dev/port-offset";
const BY_ORDINAL: &str = "ordinal";

/// The variable that tells a replica the first of its ports, unless its template says it.
const PORT_VARIABLE: &str = "PORT";

impl PodTemplate {
    /// The port that the replica of this ordinal has in place of `port`.
    #[must_use]
    pub fn port_of_replica(&self, port: u16, ordinal: u32) -> u16 {
        let declared = self.spec.in_order().flat_map(|placed| &placed.container.ports);
        let is_declared = { declared }.any(|declared| declared.container_port == port);
        if !self.offsets_ports() || !is_declared {
            return port;
        }
        // Checked to be a port; a template that was not is run as it is.
        u16::try_from(ordinal).ok().and_then(|offset| port.checked_add(offset)).unwrap_or(port)
    }

    /// `container` with the ports of the replica of this ordinal, also in its probes, its hooks and its
    /// environment.
    #[must_use]
    pub fn container_of_replica(&self, mut container: Container, ordinal: u32) -> Container {
        if !self.offsets_ports() {
            return container;
        }
        let moved = |port: u16| self.port_of_replica(port, ordinal);
        let move_port = |port: &mut Port| {
            if let Port::Number(number) = port {
                *number = moved(*number);
            }
        };
        let move_probe = |probe: &mut Probe| {
            probe.http_get.iter_mut().for_each(|get| move_port(&mut get.port));
            probe.tcp_socket.iter_mut().for_each(|tcp| move_port(&mut tcp.port));
            probe.grpc.iter_mut().for_each(|grpc| grpc.port = moved(grpc.port));
        };
        let probes = [
            &mut container.startup_probe,
            &mut container.readiness_probe,
            &mut container.liveness_probe,
        ];
        probes.into_iter().flatten().for_each(move_probe);
        let hooks = container.lifecycle.iter_mut();
        let hooks = hooks.flat_map(|hooks| [&mut hooks.post_start, &mut hooks.pre_stop]).flatten();
        hooks.flat_map(|hook| &mut hook.http_get).for_each(|get| move_port(&mut get.port));
        for port in &mut container.ports {
            port.container_port = moved(port.container_port);
            // The same as that, where the port of the node is said.
            port.host_port = port.host_port.map(|_| port.container_port);
        }
        if let Some(first) = container.ports.first() {
            // What the template says of it stands later, and wins.
            let (name, value) = (PORT_VARIABLE.to_owned(), first.container_port.to_string());
            container.env.insert(0, EnvVar { name, value, value_from: None });
        }
        container
    }

    fn offsets_ports(&self) -> bool {
        self.metadata.annotations.get(PORT_OFFSET).is_some_and(|value| value == BY_ORDINAL)
    }

    /// # Errors
    /// When the annotation says something else, or some replica would have no port.
    pub(super) fn validate_port_offset(&self) -> Result<(), InvalidWorkload> {
        let path = format!("metadata.annotations[{PORT_OFFSET}]");
        match self.metadata.annotations.get(PORT_OFFSET).map(String::as_str) {
            None => return Ok(()),
            Some(BY_ORDINAL) => {}
            Some(_) => return Err(invalid(path, format!("expected `{BY_ORDINAL}`"))),
        }
        let mut ports: Vec<(u32, String)> = self.spec.in_order().flat_map(ports_of).collect();
        ports.sort_unstable();
        let Some((highest, of_highest)) = ports.last() else {
            return Err(invalid(path, "expected `ports` of the container"));
        };
        let apart = REPLICAS_PER_NODE_MAX;
        let mut pairs = ports.iter().zip(ports.iter().skip(1));
        if let Some(((low, _), (high, path))) = pairs.find(|(low, high)| high.0 - low.0 < apart) {
            let problem = format!(
                "{low} and {high} are ports of one replica and of another: expected them {apart} or more apart"
            );
            return Err(invalid(path, problem));
        }
        let last = u32::from(u16::MAX).saturating_sub(REPLICAS_PER_NODE_MAX - 1);
        if *highest > last {
            let problem = format!("{highest} is over {last}, beyond which replicas have no port");
            return Err(invalid(of_highest, problem));
        }
        Ok(())
    }
}

/// The ports of a container, each with the path of the list that it stands in.
fn ports_of(placed: PlacedContainer<'_>) -> impl Iterator<Item = (u32, String)> {
    let PlacedContainer { container, path, .. } = placed;
    let number = |port: &ContainerPort| u32::from(port.container_port);
    container.ports.iter().map(move |port| (number(port), format!("{path}.ports")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(annotation: &str, port: u16) -> PodTemplate {
        serde_json::from_value(json!({
            "metadata": { "annotations": { PORT_OFFSET: annotation } },
            "spec": { "containers": [{ "name": "a", "command": ["a"],
                "ports": [{ "containerPort": port }, { "containerPort": 9000 }],
                "readinessProbe": { "httpGet": { "port": port } },
                "startupProbe": { "grpc": { "port": 9000 } },
                "lifecycle": { "preStop": { "httpGet": { "port": port } } },
                "livenessProbe": { "tcpSocket": { "port": 22 } } }] },
        }))
        .unwrap()
    }

    #[test]
    fn each_replica_has_ports_of_its_own() {
        let template = template("ordinal", 8000);
        template.validate().unwrap();
        let [container] = template.spec.containers.as_slice() else { panic!() };
        let third = template.container_of_replica(container.clone(), 2);
        let ports: Vec<u16> = third.ports.iter().map(|port| port.container_port).collect();
        assert_eq!(ports, [8002, 9002]);
        assert_eq!(third.readiness_probe.unwrap().http_get.unwrap().port, Port::Number(8002));
        assert_eq!(third.startup_probe.unwrap().grpc.unwrap().port, 9002);
        let hook = third.lifecycle.unwrap().pre_stop.unwrap();
        assert_eq!(hook.http_get.unwrap().port, Port::Number(8002));
        let other = third.liveness_probe.unwrap().tcp_socket.unwrap().port;
        assert_eq!(other, Port::Number(22), "not its own");
        assert_eq!((third.env[0].name.as_str(), third.env[0].value.as_str()), ("PORT", "8002"));
        assert_eq!(
            (template.port_of_replica(9000, 5), template.port_of_replica(22, 5)),
            (9005, 22)
        );
    }

    #[test]
    fn what_can_t_be_is_refused() {
        let refused = |annotation, port| template(annotation, port).validate().unwrap_err().path;
        assert_eq!(refused("random", 8000), format!("metadata.annotations[{PORT_OFFSET}]"));
        assert_eq!(refused("ordinal", 65_281), "spec.containers[0].ports");
        assert_eq!(refused("ordinal", 9001), "spec.containers[0].ports");
        template("ordinal", 65_280).validate().unwrap();
        assert_eq!(template("", 8000).port_of_replica(8000, 3), 8000);
    }
}
