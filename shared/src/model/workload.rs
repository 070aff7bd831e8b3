//! A workload as one node is to run it, and what its pods ask for.

use super::containers::{PlacedContainer, validate_containers};
use super::ids::{PodId, Revision, WorkloadKey};
use super::mig::MigProfile;
use super::pod::{Container, ImagePullPolicy, PodTemplate, Probe};
use super::port::Port;
use super::quantity::{CpuQuantity, MemoryQuantity};
use super::resource_list::{ResourceList, device_resource};
use super::result::ResultRoute;
use super::scaling::Autoscaling;
use super::volume_check::{check_absolute, validate_volumes};
use crate::limits::{self, DEVICES_MAX};
use crate::wire::{Digest, encode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// What a node is to run of one workload: an item of desired state.
///
/// Wire format (packed CBOR, fields by position): fields are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Namespace and name.
    pub key: WorkloadKey,
    /// Names this content of `template`.
    pub revision: Revision,
    /// How many pods this node runs.
    pub replicas: u32,
    /// Higher goes first and may preempt lower.
    pub priority: i32,
    /// Taints of the node or its GPUs that the pods bear.
    pub tolerations: Vec<Toleration>,
    /// What each pod is.
    pub template: PodTemplate,
    /// Where the pods' results go; see [`super::route`]. Changing it restarts nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ResultRoute>,
    /// Environment variables that are this node's own, as its camera's address. Changing them restarts the
    /// pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// More pods than `replicas`, by what they have to do. Changing it restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

impl Workload {
    /// The pods that this workload asks for, in order of their ordinals; at most
    /// [`limits::REPLICAS_PER_NODE_MAX`], whatever it says.
    pub fn pods(&self) -> impl Iterator<Item = PodId> + '_ {
        (0..self.replicas.min(limits::REPLICAS_PER_NODE_MAX))
            .map(|ordinal| PodId { workload: self.key.clone(), ordinal })
    }

    /// Names this content of `parameters`: 0 where there are none, and never where there are some.
    #[must_use]
    pub fn parameters_id(&self) -> u64 {
        if self.parameters.is_empty() {
            return 0;
        }
        // Texts are always encoded.
        let bytes = encode("parameters", &self.parameters).unwrap_or_default();
        let Digest([a, b, c, d, e, f, g, h, ..]) = Digest::of(&bytes);
        u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
    }
}

/// A mark on a node or GPU that keeps pods away unless they tolerate it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// The taint's name.
    pub key: String,
    /// Its value, often empty.
    #[serde(default)]
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaintEffect {
    /// New pods are kept away.
    NoSchedule,
    /// New pods are kept away and running ones are stopped.
    NoExecute,
}

/// A taint that a pod bears.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// The taint's name; absent with `Exists` tolerates every taint.
    #[serde(default)]
    pub key: Option<String>,
    /// How `value` is compared.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The taint's value, for `Equal`.
    #[serde(default)]
    pub value: String,
    /// The effect; absent means every effect.
    #[serde(default)]
    pub effect: Option<TaintEffect>,
}

/// How a toleration's value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TolerationOperator {
    /// The values are the same.
    #[default]
    Equal,
    /// Any value.
    Exists,
}

impl Toleration {
    /// Whether `taint` is borne, as Kubernetes decides it.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_none_or(|effect| effect == taint.effect);
        let key = match &self.key {
            Some(key) => *key == taint.key,
            None => self.operator == TolerationOperator::Exists,
        };
        let value = self.operator == TolerationOperator::Exists || self.value == taint.value;
        effect && key && value
    }
}

/// What a pod asks of the node's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuRequest {
    /// No GPU.
    #[default]
    None,
    /// So many whole GPUs, shared with nobody.
    Whole(u32),
    /// So many bytes of one GPU that others share.
    SharedMemory(MemoryQuantity),
    /// One MIG instance of this profile, shared with nobody.
    Mig(MigProfile),
}

/// What placement counts for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodResources {
    /// Requested CPU; the limit where no request is given, as in Kubernetes.
    pub cpu: CpuQuantity,
    /// Requested main memory; the limit where no request is given.
    pub memory: MemoryQuantity,
    /// Requested GPUs.
    pub gpu: GpuRequest,
}

/// Why a pod template can't be run. `path` is the field's path within the template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: {problem}")]
pub struct InvalidWorkload {
    /// As in `spec.containers[0].livenessProbe.periodSeconds`.
    pub path: String,
    /// What was wrong and what was expected.
    pub problem: String,
}

pub(super) fn invalid(path: impl Into<String>, problem: impl Into<String>) -> InvalidWorkload {
    InvalidWorkload { path: path.into(), problem: problem.into() }
}

impl PodTemplate {
    /// Checks what the types alone can't say. The hub refuses a manifest by it and the agent checks
    /// again, since a store or a newer hub may hold something else.
    ///
    /// # Errors
    /// The first field that is out of bounds, with its path.
    pub fn validate(&self) -> Result<(), InvalidWorkload> {
        validate_containers(&self.spec)?;
        let grace = self.spec.termination_grace_period_seconds;
        if grace > limits::GRACE_PERIOD_SECONDS_MAX {
            return Err(invalid(
                "spec.terminationGracePeriodSeconds",
                format!("{grace} is over {}", limits::GRACE_PERIOD_SECONDS_MAX),
            ));
        }
        for PlacedContainer { container, path, .. } in self.spec.in_order() {
            validate_container(container, &path)?;
        }
        self.validate_security()?;
        self.validate_port_offset()?;
        self.validate_network()?;
        validate_volumes(&self.spec)
    }

    fn validate_security(&self) -> Result<(), InvalidWorkload> {
        let pod = self.spec.security_context.clone().unwrap_or_default();
        pod.validate()?;
        self.spec.in_order().try_for_each(|PlacedContainer { container, path, .. }| {
            let at = format!("{path}.securityContext");
            container.security_context.iter().try_for_each(|own| own.validate(&at, &pod))
        })
    }
}

/// `path` is the container's, as in `spec.containers[0]`.
fn validate_container(container: &Container, path: &str) -> Result<(), InvalidWorkload> {
    let at = |field: &str| format!("{path}.{field}");
    if container.command.is_empty() && container.image.is_none() {
        return Err(invalid(at("command"), "expected a command, an image, or both"));
    }
    if container.image_pull_policy == Some(ImagePullPolicy::Always) {
        let problem = "with `Always` no pod would start while the registry is out of reach: expected \
                       IfNotPresent or Never, and an image that is named by its digest or has a tag of its own";
        return Err(invalid(at("imagePullPolicy"), problem));
    }
    let strings = container.command.iter().chain(&container.args);
    if strings.clone().any(|text| text.contains('\0')) {
        return Err(invalid(at("command"), "a NUL character can't be passed to a program"));
    }
    for (index, variable) in container.env.iter().enumerate() {
        let name = &variable.name;
        let bad = name.is_empty() || name.contains(['=', '\0']) || variable.value.contains('\0');
        if bad {
            let path = at(&format!("env[{index}]"));
            return Err(invalid(path, "expected a name without `=` and no NUL character"));
        }
    }
    validate_resources(container, path)?;
    container.lifecycle.iter().try_for_each(|lifecycle| lifecycle.validate(&at("lifecycle")))?;
    if let Some(path) = &container.termination_message_path {
        let problem = |problem| invalid(at("terminationMessagePath"), problem);
        check_absolute(path).map_err(problem)?;
    }
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            validate_probe(&at(name), probe, name == "readinessProbe")?;
        }
    }
    Ok(())
}

fn validate_resources(container: &Container, path: &str) -> Result<(), InvalidWorkload> {
    let at = |field: &str| format!("{path}.resources.{field}");
    let (requests, limits) = (&container.resources.requests, &container.resources.limits);
    if limits.gpu_count.unwrap_or(0) > 0 && limits.gpu_memory.is_some() {
        let problem = "expected whole GPUs or shared GPU memory, not both";
        return Err(invalid(at("limits[hinterland.dev/gpu-memory]"), problem));
    }
    if requests.gpu_count.is_some() && requests.gpu_count != limits.gpu_count {
        let problem = "GPUs can't be overcommitted: expected the same number as in limits";
        return Err(invalid(at("requests[nvidia.com/gpu]"), problem));
    }
    if requests.gpu_memory.is_some() && requests.gpu_memory != limits.gpu_memory {
        let problem = "GPU memory can't be overcommitted: expected the same amount as in limits";
        return Err(invalid(at("requests[hinterland.dev/gpu-memory]"), problem));
    }
    if let Some(name) = requests.devices.difference(&limits.devices).next() {
        let path = at(&format!("requests[{}]", device_resource(name)));
        return Err(invalid(path, "expected it in limits as well"));
    }
    if limits.devices.len() > DEVICES_MAX {
        return Err(invalid(at("limits"), format!("expected at most {DEVICES_MAX} devices")));
    }
    validate_mig(requests, limits).map_err(|(path, problem)| invalid(at(&path), problem))?;
    if limits.cpu.is_some_and(|limit| requests.cpu.is_some_and(|request| request > limit)) {
        return Err(invalid(at("requests.cpu"), "is over limits.cpu"));
    }
    if limits.memory.is_some_and(|limit| requests.memory.is_some_and(|request| request > limit)) {
        return Err(invalid(at("requests.memory"), "is over limits.memory"));
    }
    Ok(())
}

/// The path within the resources and what is wrong there.
fn validate_mig(requests: &ResourceList, limits: &ResourceList) -> Result<(), (String, String)> {
    let has_more = limits.gpu_count.unwrap_or(0) > 0 || limits.gpu_memory.is_some();
    if let Some(profile) = limits.mig.filter(|_| has_more) {
        let problem = "expected a MIG instance, whole GPUs or shared GPU memory: one of the three";
        return Err((format!("limits[{}]", profile.resource_name()), problem.to_owned()));
    }
    match requests.mig.filter(|profile| limits.mig != Some(*profile)) {
        Some(profile) => {
            let problem = "GPUs can't be overcommitted: expected the same profile as in limits";
            Err((format!("requests[{}]", profile.resource_name()), problem.to_owned()))
        }
        None => Ok(()),
    }
}

fn validate_probe(path: &str, probe: &Probe, readiness: bool) -> Result<(), InvalidWorkload> {
    let Probe { exec, http_get, tcp_socket, grpc, .. } = probe;
    let actions = [exec.is_some(), http_get.is_some(), tcp_socket.is_some(), grpc.is_some()];
    if actions.iter().filter(|given| **given).count() != 1 {
        return Err(invalid(path, "expected exactly one of exec, grpc, httpGet and tcpSocket"));
    }
    let counts = [
        ("periodSeconds", probe.period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return Err(invalid(format!("{path}.{name}"), "expected at least 1"));
    }
    if !readiness && probe.success_threshold != 1 {
        return Err(invalid(format!("{path}.successThreshold"), "expected 1 for this probe"));
    }
    if exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
        return Err(invalid(format!("{path}.exec.command"), "expected a program"));
    }
    let at = |action: &str| format!("{path}.{action}.port");
    http_get.iter().try_for_each(|get| get.port.validate(&at("httpGet")))?;
    tcp_socket.iter().try_for_each(|tcp| tcp.port.validate(&at("tcpSocket")))?;
    grpc.iter().try_for_each(|grpc| Port::Number(grpc.port).validate(&at("grpc")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ScalingMetric, Thinning};
    use crate::wire::{decode, encode};

    #[test]
    fn a_workload_without_routes_is_written_as_before_there_were_any() {
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct Earlier {
            key: WorkloadKey,
            revision: Revision,
            replicas: u32,
            priority: i32,
            tolerations: Vec<Toleration>,
            template: PodTemplate,
        }
        let earlier = Earlier {
            key: "default/ocr".parse().unwrap(),
            revision: Revision(7),
            replicas: 1,
            priority: 0,
            tolerations: vec![],
            template: PodTemplate::default(),
        };
        let bytes = encode("workload", &earlier).unwrap();
        let mut workload: Workload = decode("workload", &bytes, 4096).unwrap();
        assert!(workload.results.is_empty());
        assert_eq!(workload.parameters_id(), 0);
        assert_eq!(encode("workload", &workload).unwrap(), bytes);
        workload.results = vec![ResultRoute {
            topic: "*".to_owned(),
            sink: "default".to_owned(),
            thinning: Some(Thinning::Deadband { field: "/value".to_owned(), by_millionths: 5 }),
        }];
        workload.autoscaling = Some(Autoscaling {
            max_replicas: 4,
            metric: ScalingMetric::LatencyPercentile(95),
            target: 50,
            metric_name: None,
            scale_up_seconds: 0,
            scale_down_seconds: 300,
        });
        workload.parameters = BTreeMap::from([("CAMERA".to_owned(), "10.0.0.7".to_owned())]);
        let bytes = encode("workload", &workload).unwrap();
        assert_eq!(decode::<Workload>("workload", &bytes, 4096).unwrap(), workload);
        assert_ne!(workload.parameters_id(), 0);
        // An earlier agent passes over what it does not know.
        assert_eq!(decode::<Earlier>("workload", &bytes, 4096).unwrap(), earlier);
    }

    #[test]
    fn a_mig_instance_is_what_placement_counts_and_stands_alone() {
        let mut container = Container { command: vec!["/x".to_owned()], ..Container::default() };
        let mut check = |change: fn(&mut ResourceList, &mut ResourceList)| {
            let resources = &mut container.resources;
            change(&mut resources.requests, &mut resources.limits);
            let mut template = PodTemplate::default();
            template.spec.containers.push(container.clone());
            let refused = template.validate().err();
            (template.resources().gpu, refused.map(|error| error.path))
        };
        let profile = MigProfile { slices: 1, memory_gb: 10 };
        let at = |path: &str| Some(format!("spec.containers[0].resources.{path}"));
        let asked = check(|_, limits| limits.mig = "1g.10gb".parse().ok());
        assert_eq!(asked, (GpuRequest::Mig(profile), None));
        let other = check(|requests, _| requests.mig = "2g.20gb".parse().ok());
        assert_eq!(other.1, at("requests[nvidia.com/mig-2g.20gb]"));
        let two = check(|requests, limits| {
            (requests.mig, limits.gpu_memory) = (limits.mig, Some(MemoryQuantity { bytes: 1 }));
        });
        assert_eq!(two.1, at("limits[nvidia.com/mig-1g.10gb]"));
    }
}
