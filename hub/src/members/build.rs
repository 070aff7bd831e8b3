//! A workload as objects of a member cluster.

use super::applyset::{ApplySet, PART_OF_LABEL};
use super::content::{Content, Fingerprints};
use super::environment::{environment_hash, variables};
use super::share::MemberShare;
use crate::api::{AutoscalingSpec, NodeAffinity, ScalingMetric};
use crate::manifests::InferenceWorkload;
use serde_json::{Map, Value, json};
use shared::model::{
    Container, CpuQuantity, MemoryQuantity, ObjectKind, ObjectName, Toleration, device_resource,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label by which a Deployment finds its pods, and a Service too.
const WORKLOAD_LABEL: &str = "hinterland.dev/workload";

/// The annotation of pods that changes with what their environment has of ConfigMaps, so that they are others then.
const ENVIRONMENT_ANNOTATION: &str = "hinterland.dev/environment-hash";

/// Nodes with GPUs are kept free for those who need them by a taint of this key.
const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// What a container has that says nothing: it is counted, and it is bounded.
const CPU_REQUEST: CpuQuantity = CpuQuantity { millicores: 100 };
const CPU_LIMIT: CpuQuantity = CpuQuantity { millicores: 1000 };
const MEMORY_REQUEST: MemoryQuantity = MemoryQuantity { bytes: 128 << 20 };
const MEMORY_LIMIT: MemoryQuantity = MemoryQuantity { bytes: 512 << 20 };

/// Seconds without progress after which a Deployment says so.
const PROGRESS_DEADLINE_SECONDS: u64 = 600;

/// The kinds that a workload becomes, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MemberKind {
    PriorityClass,
    ConfigMap,
    Secret,
    Service,
    PodDisruptionBudget,
    Deployment,
    HorizontalPodAutoscaler,
}

impl MemberKind {
    /// Those that any workload may become; ConfigMaps and Secrets are there for some only.
    pub(super) const OF_ALL: [Self; 5] = [
        Self::PriorityClass,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
    ];

    /// Its API version, kind and plural.
    pub(super) fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::PriorityClass => ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses"),
            Self::ConfigMap => ("v1", "ConfigMap", "configmaps"),
            Self::Secret => ("v1", "Secret", "secrets"),
            Self::Service => ("v1", "Service", "services"),
            Self::PodDisruptionBudget => {
                ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
            }
            Self::Deployment => ("apps/v1", "Deployment", "deployments"),
            Self::HorizontalPodAutoscaler => {
                ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
        }
    }

    /// What a template may name of this kind.
    pub(super) fn attached(self) -> Option<ObjectKind> {
        match self {
            Self::ConfigMap => Some(ObjectKind::ConfigMap),
            Self::Secret => Some(ObjectKind::Secret),
            _ => None,
        }
    }

    /// As in `Deployment.apps`.
    pub(super) fn group_kind(self) -> String {
        let (version, kind, _) = self.names();
        version.split_once('/').map_or(kind.to_owned(), |(group, _)| format!("{kind}.{group}"))
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberObjectId {
    pub(super) kind: MemberKind,
    /// `None` for those of the whole cluster.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl MemberObjectId {
    /// A ConfigMap or Secret has the name that templates call it by.
    pub(super) fn of_attached(name: &ObjectName) -> Self {
        let kind = match name.kind {
            ObjectKind::ConfigMap => MemberKind::ConfigMap,
            ObjectKind::Secret => MemberKind::Secret,
        };
        Self { kind, namespace: Some(name.namespace.clone()), name: name.name.clone() }
    }
}

/// An object as it is to be applied.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MemberObject {
    pub(super) id: MemberObjectId,
    /// All of it but its content.
    pub(super) body: Value,
    /// What is in it, of a ConfigMap or a Secret.
    pub(super) content: Option<Content>,
}

impl MemberObject {
    /// As the API server is sent it.
    pub(super) fn sent(&self) -> Value {
        self.content.as_ref().map_or_else(|| self.body.clone(), |content| content.sent(&self.body))
    }

    /// Of what is in it.
    pub(super) fn fingerprints(&self) -> Fingerprints {
        self.content.as_ref().map(|content| content.fingerprints.clone()).unwrap_or_default()
    }
}

/// The objects that a workload becomes, in the order in which they are applied. Several workloads may have
/// the same class, ConfigMap or Secret.
pub(super) fn build(share: &MemberShare, set: &ApplySet) -> Vec<MemberObject> {
    let workload = &share.workload;
    let builder = Builder { share, workload, set };
    let priority = (workload.priority != 0).then(|| builder.priority_class());
    let parts = [
        builder.service(),
        Some(builder.disruption_budget()),
        Some(builder.deployment()),
        workload.autoscaling.as_ref().map(|said| builder.autoscaler(said)),
    ];
    priority.into_iter().chain(builder.attached()).chain(parts.into_iter().flatten()).collect()
}

struct Builder<'a> {
    share: &'a MemberShare,
    workload: &'a InferenceWorkload,
    set: &'a ApplySet,
}

impl Builder<'_> {
    fn object(&self, kind: MemberKind, name: &str, rest: &Value) -> MemberObject {
        let key = &self.workload.key;
        let (api_version, kind_name, _) = kind.names();
        let is_of_cluster = kind == MemberKind::PriorityClass;
        let namespace = (!is_of_cluster).then(|| key.namespace().to_owned());
        let mut labels = json!({
            "app.kubernetes.io/managed-by": "hinterland",
            PART_OF_LABEL: self.set.id,
        });
        let mut metadata = json!({ "name": name });
        if let Some(namespace) = &namespace {
            set(&mut metadata, "namespace", json!(namespace));
            let is_alone = kind.attached().is_none();
            set_if(&mut labels, "app.kubernetes.io/name", is_alone, json!(key.name()));
        }
        set(&mut metadata, "labels", labels);
        let mut body =
            json!({ "apiVersion": api_version, "kind": kind_name, "metadata": metadata });
        for (field, value) in rest.as_object().into_iter().flatten() {
            set(&mut body, field, value.clone());
        }
        let id = MemberObjectId { kind, namespace, name: name.to_owned() };
        MemberObject { id, body, content: None }
    }

    fn of_workload(&self, kind: MemberKind, spec: &Value) -> MemberObject {
        self.object(kind, self.workload.key.name(), &json!({ "spec": spec }))
    }

    fn selector(&self) -> Value {
        json!({ WORKLOAD_LABEL: self.workload.key.name() })
    }

    fn priority_class(&self) -> MemberObject {
        let value = self.workload.priority;
        let description = "Of workloads that a hub keeps here.";
        let rest = json!({ "value": value, "globalDefault": false, "description": description });
        self.object(MemberKind::PriorityClass, &priority_name(value), &rest)
    }

    fn attached(&self) -> impl Iterator<Item = MemberObject> {
        self.share.objects.iter().map(|(name, object)| {
            let kind = MemberObjectId::of_attached(name).kind;
            let content = Some(Content::of(Arc::clone(object)));
            MemberObject { content, ..self.object(kind, &name.name, &json!({})) }
        })
    }

    fn service(&self) -> Option<MemberObject> {
        let ports = self.workload.template.spec.in_order().flat_map(|one| &one.container.ports);
        let ports: Vec<Value> = ports
            .map(|port| {
                let number = port.container_port;
                let name = port.name.clone().unwrap_or_else(|| format!("port-{number}"));
                let protocol = json!(port.protocol);
                json!({ "name": name, "port": number, "targetPort": number, "protocol": protocol })
            })
            .collect();
        if ports.is_empty() {
            return None;
        }
        let spec = json!({ "selector": self.selector(), "ports": ports });
        Some(self.of_workload(MemberKind::Service, &spec))
    }

    fn disruption_budget(&self) -> MemberObject {
        let spec = json!({ "maxUnavailable": 1, "selector": { "matchLabels": self.selector() } });
        self.of_workload(MemberKind::PodDisruptionBudget, &spec)
    }

    fn autoscaler(&self, said: &AutoscalingSpec) -> MemberObject {
        let usual = match said.metric {
            ScalingMetric::CPUUtilization => "cpu",
            ScalingMetric::GPUUtilization => "DCGM_FI_DEV_GPU_UTIL",
            ScalingMetric::RequestsPerSecond => "requests_per_second",
            ScalingMetric::QueueDepth => "queue_depth",
            ScalingMetric::LatencyPercentile => "request_latency_milliseconds",
        };
        let name = said.metric_name.as_deref().unwrap_or(usual);
        let metric = match said.metric {
            ScalingMetric::CPUUtilization => {
                let target = json!({ "type": "Utilization", "averageUtilization": said.target });
                json!({ "type": "Resource", "resource": { "name": name, "target": target } })
            }
            _ => {
                let target =
                    json!({ "type": "AverageValue", "averageValue": said.target.to_string() });
                let pods = json!({ "metric": { "name": name }, "target": target });
                json!({ "type": "Pods", "pods": pods })
            }
        };
        let (api_version, kind, _) = MemberKind::Deployment.names();
        let name = self.workload.key.name();
        let mut spec = json!({
            "scaleTargetRef": { "apiVersion": api_version, "kind": kind, "name": name },
            "minReplicas": said.min_replicas,
            "maxReplicas": said.max_replicas,
            "metrics": [metric],
        });
        let windows = [
            ("scaleUp", said.scale_up_stabilization_seconds),
            ("scaleDown", said.scale_down_stabilization_seconds),
        ];
        let windows: Map<String, Value> = windows
            .into_iter()
            .filter_map(|(way, seconds)| {
                Some((way.to_owned(), json!({ "stabilizationWindowSeconds": seconds? })))
            })
            .collect();
        if !windows.is_empty() {
            set(&mut spec, "behavior", Value::Object(windows));
        }
        self.of_workload(MemberKind::HorizontalPodAutoscaler, &spec)
    }

    fn deployment(&self) -> MemberObject {
        let policy = self.workload.rollout.as_ref();
        let seconds = |ms: u64| ms / 1000;
        let deadline = policy.map(|policy| seconds(policy.progress_deadline_ms));
        // A GPU that is taken can't be given to a second pod before the first has ended.
        let surge = if self.needs_gpu() { json!(0) } else { json!("25%") };
        let mut spec = json!({
            "revisionHistoryLimit": 3,
            "minReadySeconds": policy.map_or(0, |policy| seconds(policy.min_ready_ms)),
            "progressDeadlineSeconds": deadline.unwrap_or(PROGRESS_DEADLINE_SECONDS),
            "paused": policy.is_some_and(|policy| policy.paused),
            "selector": { "matchLabels": self.selector() },
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": surge },
            },
            "template": { "metadata": self.pod_metadata(), "spec": self.pod() },
        });
        // What decides their number writes it itself.
        let is_fixed = self.workload.autoscaling.is_none();
        let replicas = self.workload.replicas_in_a_cluster();
        set_if(&mut spec, "replicas", is_fixed, json!(replicas));
        self.of_workload(MemberKind::Deployment, &spec)
    }

    fn needs_gpu(&self) -> bool {
        let mut containers = self.workload.template.spec.in_order();
        self.workload.mig.is_some() || containers.any(|one| gpus_of(one.container) > 0)
    }

    fn pod_metadata(&self) -> Value {
        let said = &self.workload.template.metadata;
        let mut labels: BTreeMap<_, _> = said.labels.clone();
        labels.insert(WORKLOAD_LABEL.to_owned(), self.workload.key.name().to_owned());
        let mut annotations = said.annotations.clone();
        let hash = environment_hash(self.share);
        annotations.extend(hash.map(|hash| (ENVIRONMENT_ANNOTATION.to_owned(), hash)));
        let mut metadata = json!({ "labels": labels });
        set_if(&mut metadata, "annotations", !annotations.is_empty(), json!(annotations));
        metadata
    }

    fn pod(&self) -> Value {
        let InferenceWorkload { template, tolerations, node_selector, priority, .. } =
            self.workload;
        let mut borne: Vec<Value> = tolerations.iter().map(toleration).collect();
        if self.needs_gpu() {
            let bears =
                json!({ "key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule" });
            borne.push(bears);
        }
        // The MIG instance, if there is one, is the first container's.
        let mut mig = self.workload.mig.as_deref();
        let containers = template.spec.containers.iter();
        let containers: Vec<_> = containers.map(|one| self.container(one, mig.take())).collect();
        let init = template.spec.init_containers.iter();
        let init: Vec<_> = init.map(|one| self.container(one, None)).collect();
        let mut pod = json!({
            "containers": containers,
            "terminationGracePeriodSeconds": template.spec.termination_grace_period_seconds,
            // It is inference: it has no business with the API server.
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
        });
        set_if(&mut pod, "initContainers", !init.is_empty(), json!(init));
        let network = &template.spec.host_network;
        set_if(&mut pod, "hostNetwork", network.is_some(), json!(network));
        let dns = &template.spec.dns_policy;
        set_if(&mut pod, "dnsPolicy", dns.is_some(), json!(dns));
        let security = &template.spec.security_context;
        set_if(&mut pod, "securityContext", security.is_some(), json!(security));
        let volumes = &template.spec.volumes;
        set_if(&mut pod, "volumes", !volumes.is_empty(), json!(volumes));
        let pulls_as = &template.spec.image_pull_secrets;
        set_if(&mut pod, "imagePullSecrets", !pulls_as.is_empty(), json!(pulls_as));
        set_if(&mut pod, "nodeSelector", !node_selector.is_empty(), json!(node_selector));
        if let Some(affinity) = &self.workload.affinity {
            set(&mut pod, "affinity", json!({ "nodeAffinity": node_affinity(affinity) }));
        }
        set_if(&mut pod, "tolerations", !borne.is_empty(), json!(borne));
        set_if(&mut pod, "priorityClassName", *priority != 0, json!(priority_name(*priority)));
        pod
    }

    fn container(&self, said: &Container, mig: Option<&str>) -> Value {
        let mut written = container(said, mig);
        let Container { env_from, volume_mounts, restart_policy, image_pull_policy: pulls, .. } =
            said;
        set_if(&mut written, "restartPolicy", restart_policy.is_some(), json!(restart_policy));
        let Container { lifecycle, termination_message_path, termination_message_policy, .. } =
            said;
        let security_context = &said.security_context;
        set_if(&mut written, "lifecycle", lifecycle.is_some(), without_nothing(json!(lifecycle)));
        let path = termination_message_path;
        set_if(&mut written, "terminationMessagePath", path.is_some(), json!(path));
        let policy = termination_message_policy;
        set_if(&mut written, "terminationMessagePolicy", policy.is_some(), json!(policy));
        let is_said = security_context.is_some();
        set_if(&mut written, "securityContext", is_said, json!(security_context));
        let env = variables(said, &self.share.parameters);
        set_if(&mut written, "env", !env.is_empty(), json!(env));
        set_if(&mut written, "envFrom", !env_from.is_empty(), json!(env_from));
        set_if(&mut written, "imagePullPolicy", pulls.is_some(), json!(pulls));
        set_if(&mut written, "volumeMounts", !volume_mounts.is_empty(), json!(volume_mounts));
        written
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn set_if(object: &mut Value, field: &str, is_there: bool, value: Value) {
    if is_there {
        set(object, field, value);
    }
}

fn priority_name(value: i32) -> String {
    let sign = if value < 0 { "minus-" } else { "" };
    format!("hinterland-{sign}{}", value.unsigned_abs())
}

fn gpus_of(container: &Container) -> u32 {
    container.resources.limits.gpu_count.unwrap_or(0)
}

/// Of running pods a cluster asks for no affinity; when the terms change, its pods are others anyway.
fn node_affinity(affinity: &NodeAffinity) -> Value {
    let mut written = json!({});
    let terms = json!({ "nodeSelectorTerms": affinity.required });
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    set_if(&mut written, required, !affinity.required.is_empty(), terms);
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    set_if(&mut written, preferred, !affinity.preferred.is_empty(), json!(affinity.preferred));
    written
}

fn toleration(toleration: &Toleration) -> Value {
    // As it is written, without what is empty.
    let written = json!(toleration);
    let fields = written.as_object().into_iter().flatten();
    let said = fields.filter(|(_, value)| !value.is_null() && **value != json!(""));
    Value::Object(said.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn container(container: &Container, mig: Option<&str>) -> Value {
    let mut written = json!({
        "name": container.name,
        "image": container.image,
        "resources": resources(container, mig),
    });
    let Container { command, args, working_dir, .. } = container;
    set_if(&mut written, "command", !command.is_empty(), json!(command));
    set_if(&mut written, "args", !args.is_empty(), json!(args));
    set_if(&mut written, "workingDir", working_dir.is_some(), json!(working_dir));
    let port = |port: &shared::model::ContainerPort| {
        let mut written =
            json!({ "containerPort": port.container_port, "protocol": port.protocol });
        set_if(&mut written, "name", port.name.is_some(), json!(port.name));
        set_if(&mut written, "hostPort", port.host_port.is_some(), json!(port.host_port));
        set_if(&mut written, "hostIP", port.host_ip.is_some(), json!(port.host_ip));
        written
    };
    let ports: Vec<Value> = container.ports.iter().map(port).collect();
    set_if(&mut written, "ports", !ports.is_empty(), json!(ports));
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    for (field, asked) in probes {
        if let Some(asked) = asked {
            set(&mut written, field, without_nothing(json!(asked)));
        }
    }
    written
}

/// Without what is not said: a probe has one action.
fn without_nothing(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let said_nothing = |value: &Value| value.is_null() || *value == json!([]);
    let fields = fields.into_iter().filter(|(_, value)| !said_nothing(value));
    Value::Object(fields.map(|(key, value)| (key, without_nothing(value))).collect::<Map<_, _>>())
}

/// Requests and limits, both always.
fn resources(container: &Container, mig: Option<&str>) -> Value {
    let (asked, bound) = (&container.resources.requests, &container.resources.limits);
    let cpu_request = asked.cpu.or(bound.cpu).unwrap_or(CPU_REQUEST);
    let memory_request = asked.memory.or(bound.memory).unwrap_or(MEMORY_REQUEST);
    let cpu_limit = bound.cpu.unwrap_or(CPU_LIMIT.max(cpu_request));
    let memory_limit = bound.memory.unwrap_or(MEMORY_LIMIT.max(memory_request));
    let mut requests =
        json!({ "cpu": cpu_request.to_string(), "memory": memory_request.to_string() });
    let mut limits = json!({ "cpu": cpu_limit.to_string(), "memory": memory_limit.to_string() });
    let gpus = gpus_of(container);
    for list in [&mut requests, &mut limits] {
        set_if(list, GPU_RESOURCE, gpus > 0, json!(gpus.to_string()));
        for name in &bound.devices {
            set(list, &device_resource(name), json!("1"));
        }
        if let Some(profile) = mig {
            set(list, &format!("nvidia.com/mig-{profile}"), json!("1"));
        }
    }
    json!({ "requests": requests, "limits": limits })
}
