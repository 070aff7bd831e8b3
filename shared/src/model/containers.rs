//! The containers of one pod: which there are, in what order they start, and what they need together.
//!
//! As in Kubernetes: init containers one after the other, each to success; one with `restartPolicy: Always` is a
//! sidecar, which goes on beside what comes after it; then all others, side by side.

use super::ids::NodeId;
use super::pod::{Container, PodSpec, PodTemplate};
use super::quantity::{CpuQuantity, MemoryQuantity};
use super::workload::{GpuRequest, InvalidWorkload, PodResources, invalid};
use crate::limits::CONTAINERS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a container is within its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContainerRole {
    /// It runs to its success before what comes after it.
    Init,
    /// It has started before what comes after it, and runs until all others have ended.
    Sidecar,
    /// It is what the pod is for.
    Main,
}

/// A container and its place in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedContainer<'a> {
    /// The container.
    pub container: &'a Container,
    /// What it is there.
    pub role: ContainerRole,
    /// Its path within the template, as in `spec.initContainers[0]`.
    pub path: String,
}

impl PodSpec {
    /// All containers, in the order in which they start.
    pub fn in_order(&self) -> impl Iterator<Item = PlacedContainer<'_>> + Clone {
        let init = self.init_containers.iter().enumerate().map(|(index, container)| {
            let role = match container.restart_policy {
                Some(_) => ContainerRole::Sidecar,
                None => ContainerRole::Init,
            };
            PlacedContainer { container, role, path: format!("spec.initContainers[{index}]") }
        });
        let main = self.containers.iter().enumerate().map(|(index, container)| {
            let path = format!("spec.containers[{index}]");
            PlacedContainer { container, role: ContainerRole::Main, path }
        });
        init.chain(main)
    }

    /// Whether there is more than the one container that every pod has.
    #[must_use]
    pub fn has_several_containers(&self) -> bool {
        !self.init_containers.is_empty() || self.containers.len() > 1
    }
}

impl PodTemplate {
    /// The resources that placement counts: as much as the pod needs at any moment of its life.
    ///
    /// While an init container runs, the sidecars before it run too; later all sidecars and all other containers
    /// (Kubernetes KEP-753, "Resources calculation").
    #[must_use]
    pub fn resources(&self) -> PodResources {
        let (mut sidecars, mut most) = (PodResources::default(), PodResources::default());
        let mut all = PodResources::default();
        for PlacedContainer { container, role, .. } in self.spec.in_order() {
            let own = container.requested();
            match role {
                ContainerRole::Init => most = most.or_more(sidecars.and(own)),
                ContainerRole::Sidecar => (sidecars, all) = (sidecars.and(own), all.and(own)),
                ContainerRole::Main => all = all.and(own),
            }
            if most.gpu == GpuRequest::None {
                most.gpu = own.gpu;
            }
        }
        most.or_more(all)
    }

    /// Checks that it can be run where a pod is one container.
    ///
    /// # Errors
    /// The field that says more.
    pub fn check_one_container(&self) -> Result<(), InvalidWorkload> {
        let refused = |path: &str, expected: &str| {
            let problem = format!(
                "the process runtime runs one container: expected {expected}, or a node with `runtime = \"cri\"`"
            );
            Err(invalid(path, problem))
        };
        match (self.spec.init_containers.len(), self.spec.containers.len()) {
            (0, 0 | 1) => Ok(()),
            (0, _) => refused("spec.containers", "exactly 1"),
            _ => refused("spec.initContainers", "none"),
        }
    }
}

impl Container {
    /// What it asks for by itself: its requests, its limits where it has none.
    #[must_use]
    pub fn requested(&self) -> PodResources {
        let (requests, limits) = (&self.resources.requests, &self.resources.limits);
        let gpu = match (limits.gpu_count, limits.gpu_memory) {
            (Some(count), _) if count > 0 => GpuRequest::Whole(count),
            (_, Some(memory)) if memory.bytes > 0 => GpuRequest::SharedMemory(memory),
            _ => limits.mig.map_or(GpuRequest::None, GpuRequest::Mig),
        };
        PodResources {
            cpu: requests.cpu.or(limits.cpu).unwrap_or_default(),
            memory: requests.memory.or(limits.memory).unwrap_or_default(),
            gpu,
        }
    }
}

impl PodResources {
    /// Both at once, without GPUs.
    fn and(self, other: Self) -> Self {
        let millicores = self.cpu.millicores.saturating_add(other.cpu.millicores);
        let bytes = self.memory.bytes.saturating_add(other.memory.bytes);
        Self { cpu: CpuQuantity { millicores }, memory: MemoryQuantity { bytes }, ..self }
    }

    /// One or the other, whichever is more; the GPUs are its own.
    fn or_more(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory), ..self }
    }
}

/// Checks which containers there are; what each of them says is checked elsewhere.
pub(super) fn validate_containers(spec: &PodSpec) -> Result<(), InvalidWorkload> {
    let found = spec.containers.len();
    if !(1..=CONTAINERS_MAX).contains(&found) {
        let problem = format!("expected 1 to {CONTAINERS_MAX}, found {found}");
        return Err(invalid("spec.containers", problem));
    }
    let found = spec.init_containers.len();
    if found > CONTAINERS_MAX {
        let problem = format!("expected at most {CONTAINERS_MAX}, found {found}");
        return Err(invalid("spec.initContainers", problem));
    }
    if spec.has_several_containers() {
        validate_names(spec)?;
        validate_one_has_gpus(spec)?;
    }
    spec.in_order().try_for_each(|placed| validate_role(&placed))
}

/// Names tell the containers of a pod apart, also in the names of files.
fn validate_names(spec: &PodSpec) -> Result<(), InvalidWorkload> {
    let mut names = BTreeSet::new();
    for PlacedContainer { container, path, .. } in spec.in_order() {
        let at = format!("{path}.name");
        NodeId::new(&container.name).map_err(|error| invalid(at.as_str(), error.to_string()))?;
        if !names.insert(&container.name) {
            let problem = format!("there is a container `{}` already", container.name);
            return Err(invalid(at, problem));
        }
    }
    Ok(())
}

fn validate_one_has_gpus(spec: &PodSpec) -> Result<(), InvalidWorkload> {
    let asks = |placed: &PlacedContainer<'_>| placed.container.requested().gpu != GpuRequest::None;
    let mut asking = spec.in_order().filter(asks);
    let (Some(first), Some(second)) = (asking.next(), asking.next()) else { return Ok(()) };
    let problem = format!(
        "`{}` asks for GPUs already: expected one container of the pod to do so",
        first.container.name
    );
    Err(invalid(format!("{}.resources.limits", second.path), problem))
}

fn validate_role(placed: &PlacedContainer<'_>) -> Result<(), InvalidWorkload> {
    let PlacedContainer { container, role, path } = placed;
    match role {
        ContainerRole::Main if container.restart_policy.is_some() => {
            let problem = "only an init container has one; for the others expected it in `spec`";
            Err(invalid(format!("{path}.restartPolicy"), problem))
        }
        ContainerRole::Init => {
            let probes = [
                ("startupProbe", &container.startup_probe),
                ("readinessProbe", &container.readiness_probe),
                ("livenessProbe", &container.liveness_probe),
            ];
            let Some((name, _)) = probes.iter().find(|(_, probe)| probe.is_some()) else {
                return Ok(());
            };
            let problem = "an init container is to end: expected `restartPolicy: Always`, or none";
            Err(invalid(format!("{path}.{name}"), problem))
        }
        ContainerRole::Main | ContainerRole::Sidecar => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};
    use serde_json::{Value, json};

    fn template(init: &Value, containers: &Value) -> PodTemplate {
        let spec = json!({ "initContainers": init, "containers": containers });
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    /// A container that asks for so much CPU and as many MiB of memory.
    fn container(name: &str, millicores: u64, mebibytes: u64) -> Value {
        let requests =
            json!({ "cpu": format!("{millicores}m"), "memory": format!("{mebibytes}Mi") });
        json!({ "name": name, "command": ["a"], "resources": { "requests": requests } })
    }

    fn with(mut container: Value, field: &str, value: Value) -> Value {
        container[field] = value;
        container
    }

    fn sidecar(name: &str, millicores: u64, mebibytes: u64) -> Value {
        with(container(name, millicores, mebibytes), "restartPolicy", json!("Always"))
    }

    /// CPU in millicores and memory in MiB.
    fn needs(init: &Value, containers: &Value) -> (u64, u64) {
        let template = template(init, containers);
        assert_eq!(template.validate(), Ok(()));
        let resources = template.resources();
        (resources.cpu.millicores, resources.memory.bytes >> 20)
    }

    #[test]
    fn a_pod_needs_what_it_needs_most_at_any_moment() {
        let main = json!([container("a", 100, 10), container("b", 200, 20)]);
        assert_eq!(needs(&json!([]), &main), (300, 30));
        let small = json!([container("i", 250, 5), container("j", 100, 25)]);
        assert_eq!(needs(&small, &main), (300, 30), "one after the other");
        let large = json!([container("i", 500, 5), container("j", 100, 64)]);
        assert_eq!(needs(&large, &main), (500, 64), "each by itself");
        let beside = json!([sidecar("s", 50, 5), container("i", 500, 5), sidecar("t", 7, 1)]);
        assert_eq!(needs(&beside, &main), (550, 36), "with the sidecars before it alone");
        let last = json!([container("i", 300, 5), sidecar("s", 50, 5)]);
        assert_eq!(needs(&last, &main), (350, 35));
    }

    fn gpu(name: &str) -> Value {
        with(container(name, 1, 1), "resources", json!({ "limits": { "nvidia.com/gpu": 2 } }))
    }

    #[test]
    fn one_container_has_the_gpus_whichever_it_is() {
        let one = template(&json!([]), &json!([container("a", 1, 1), gpu("b")]));
        assert_eq!((one.validate(), one.resources().gpu), (Ok(()), GpuRequest::Whole(2)));
        let init = template(&json!([gpu("b")]), &json!([container("a", 1, 1)]));
        assert_eq!((init.validate(), init.resources().gpu), (Ok(()), GpuRequest::Whole(2)));
        let two = template(&json!([gpu("a")]), &json!([gpu("b")])).validate().unwrap_err();
        assert_eq!(two.path, "spec.containers[0].resources.limits");
        assert!(two.problem.contains("`a` asks for GPUs already"), "{}", two.problem);
    }

    #[test]
    fn what_can_t_be_is_refused_with_its_path() {
        let probe = json!({ "tcpSocket": { "port": 1 } });
        let (a, b) = (container("a", 1, 1), container("b", 1, 1));
        let many: Vec<Value> = (0..17).map(|n| container(&format!("c{n}"), 1, 1)).collect();
        let probed = with(b.clone(), "readinessProbe", probe.clone());
        let zero = with(b.clone(), "command", json!([]));
        let mount = with(b.clone(), "volumeMounts", json!([{ "name": "v", "mountPath": "/v" }]));
        let from = with(b.clone(), "envFrom", json!([{}]));
        for (init, main, path) in [
            (json!([]), json!([]), "spec.containers"),
            (json!([]), json!(many), "spec.containers"),
            (json!(many), json!([a]), "spec.initContainers"),
            (json!([a]), json!([a]), "spec.containers[0].name"),
            (json!([]), json!([a, container("../b", 1, 1)]), "spec.containers[1].name"),
            (json!([]), json!([sidecar("a", 1, 1)]), "spec.containers[0].restartPolicy"),
            (json!([probed]), json!([a]), "spec.initContainers[0].readinessProbe"),
            (json!([zero]), json!([a]), "spec.initContainers[0].command"),
            (json!([]), json!([a, mount]), "spec.containers[1].volumeMounts[0].name"),
            (json!([from]), json!([a]), "spec.initContainers[0].envFrom[0]"),
        ] {
            assert_eq!(template(&init, &main).validate().unwrap_err().path, path);
        }
        let probed = with(sidecar("s", 1, 1), "startupProbe", probe);
        assert_eq!(template(&json!([probed]), &json!([a, b])).validate(), Ok(()));
    }

    #[test]
    fn init_containers_and_sidecars_survive_the_wire() {
        let init = json!([container("i", 1, 1), sidecar("s", 1, 1)]);
        let template = template(&init, &json!([container("a", 1, 1)]));
        let bytes = encode("template", &template).unwrap();
        assert_eq!(decode::<PodTemplate>("template", &bytes, 4096).unwrap(), template);
    }

    #[test]
    fn a_process_is_one_container() {
        let (a, b) = (container("a", 1, 1), container("b", 1, 1));
        let checked = |init: &Value, main: &Value| {
            template(init, main).check_one_container().map_err(|invalid| invalid.path)
        };
        assert_eq!(checked(&json!([]), &json!([a])), Ok(()));
        assert_eq!(checked(&json!([]), &json!([a, b])), Err("spec.containers".to_owned()));
        assert_eq!(checked(&json!([a]), &json!([b])), Err("spec.initContainers".to_owned()));
    }
}
