//! The subset of `core/v1` PodTemplateSpec that Hinterland runs.
//!
//! Field names and defaults are those of the Kubernetes API reference. What is not here is refused
//! where it is read (`deny_unknown_fields`), so that a template is never run in part.
//!
//! These types are also the wire format (packed CBOR, fields by position): fields are only ever
//! appended, never removed, renamed in meaning or reordered.

use super::inference_model::ModelMount;
use super::lifecycle::{Lifecycle, TerminationMessagePolicy};
use super::network::DnsPolicy;
use super::port::Port;
use super::resource_list::ResourceList;
use super::security::{PodSecurityContext, SecurityContext};
use super::volume::{EnvFromSource, EnvVarSource, Volume, VolumeMount};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A pod's metadata and specification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodTemplate {
    /// Labels and annotations of the pod.
    #[serde(default)]
    pub metadata: PodMetadata,
    /// What to run.
    pub spec: PodSpec,
}

/// Labels and annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMetadata {
    /// Identifying pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Free pairs.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// What runs side by side: 1 to [`crate::limits::CONTAINERS_MAX`], with the process runtime one.
    pub containers: Vec<Container>,
    /// Whether a container that ended is started again.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(default = "default_grace_seconds")]
    pub termination_grace_period_seconds: u32,
    /// Files and folders that its container mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Models that its container finds as files. Not of `core/v1`: a workload says them in `spec.models`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelMount>,
    /// What runs before: one after the other, each to success, or for as long as the pod runs where its
    /// `restartPolicy` is `Always`. At most [`crate::limits::CONTAINERS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// Secrets of the type `kubernetes.io/dockerconfigjson`, for registries that ask who pulls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// As whom its containers run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Whether it is on its node's network. Where it does not say so, the node's configuration does; in a cluster
    /// it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    /// Where it looks up names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_policy: Option<DnsPolicy>,
}

/// Something of the same namespace, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalObjectReference {
    /// Its name.
    pub name: String,
}

/// When an image is pulled. With `Always` a registry would have to answer before each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// When it is not on the node.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
    /// Refused by [`PodTemplate::validate`], which says what to do instead.
    Always,
}

fn default_grace_seconds() -> u32 {
    30
}

/// What makes an init container a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerRestartPolicy {
    /// It runs beside what comes after it, and is started again whatever its exit status.
    Always,
}

/// Whether a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever the exit status.
    #[default]
    Always,
    /// After a failure only.
    OnFailure,
    /// Never.
    Never,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// The container's name within the pod.
    pub name: String,
    /// The image; the process runtime does not use it.
    #[serde(default)]
    pub image: Option<String>,
    /// The program and its first arguments; the process runtime needs at least the program.
    #[serde(default)]
    pub command: Vec<String>,
    /// Further arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// The folder to start in; the pod's own folder when absent.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Requests and limits.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Ports, for probes by name and for people.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    /// Holds the other probes back until it succeeds.
    #[serde(default)]
    pub startup_probe: Option<Probe>,
    /// Whether the pod can serve.
    #[serde(default)]
    pub readiness_probe: Option<Probe>,
    /// Whether the pod must be restarted.
    #[serde(default)]
    pub liveness_probe: Option<Probe>,
    /// ConfigMaps whose keys become environment variables; a later one wins, `env` over all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    /// Where the pod finds its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Of an init container alone: it is a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<ContainerRestartPolicy>,
    /// When its image is pulled; `IfNotPresent` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// As whom it runs, and what it may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// What is done at its start and before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// The file to which it may write the words with which it ends; `/dev/termination-log` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_message_path: Option<String>,
    /// Where these words come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_message_policy: Option<TerminationMessagePolicy>,
}

/// An environment variable: a literal value, or that of a key of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// The variable's name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
    /// Where its value comes from instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// What a container asks for and may use at most. GPUs are given in `limits`, as in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRequirements {
    /// What placement counts.
    #[serde(default)]
    pub requests: ResourceList,
    /// What the kernel enforces where it is permitted to.
    #[serde(default)]
    pub limits: ResourceList,
}

/// A port that the container listens on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// A name that probes may use.
    #[serde(default)]
    pub name: Option<String>,
    /// The port, 1 to 65535.
    pub container_port: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The port of the node that leads to it, 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The address of the node at which `host_port` is; all of them when absent.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
}

/// A port's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A check that is repeated while the container runs. Exactly one of the four actions is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Runs a command; exit status 0 is success.
    #[serde(default)]
    pub exec: Option<ExecAction>,
    /// Asks by HTTP; a status of 200 to 399 is success.
    #[serde(default)]
    pub http_get: Option<HttpGetAction>,
    /// Opens a TCP connection; that it opens is success.
    #[serde(default)]
    pub tcp_socket: Option<TcpSocketAction>,
    /// Seconds from the container's start to the first check.
    #[serde(default)]
    pub initial_delay_seconds: u32,
    /// Seconds between checks; at least 1.
    #[serde(default = "default_period_seconds")]
    pub period_seconds: u32,
    /// Seconds after which a check has failed; at least 1.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u32,
    /// Successes in a row that turn failure into success; 1 for liveness and startup.
    #[serde(default = "default_success_threshold")]
    pub success_threshold: u32,
    /// Failures in a row that turn success into failure.
    #[serde(default = "default_failure_threshold")]
    pub failure_threshold: u32,
    /// Asks a gRPC server for its health; that it serves is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAction>,
}

fn default_period_seconds() -> u32 {
    10
}
fn default_timeout_seconds() -> u32 {
    1
}
fn default_success_threshold() -> u32 {
    1
}
fn default_failure_threshold() -> u32 {
    3
}

/// Runs a command in the pod's environment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecAction {
    /// The program and its arguments; no shell is added.
    pub command: Vec<String>,
}

/// Asks by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGetAction {
    /// The path, beginning with `/`.
    #[serde(default = "default_path")]
    pub path: String,
    /// The port.
    pub port: Port,
    /// The host; the pod itself when absent.
    #[serde(default)]
    pub host: Option<String>,
    /// The scheme.
    #[serde(default)]
    pub scheme: UriScheme,
    /// Further request headers.
    #[serde(default)]
    pub http_headers: Vec<HttpHeader>,
}

fn default_path() -> String {
    "/".to_owned()
}

/// The scheme of an HTTP check. HTTPS checks are refused for now rather than done without a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UriScheme {
    /// Plain HTTP.
    #[default]
    Http,
}

/// One request header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    /// The header's name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Opens a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocketAction {
    /// The port.
    pub port: Port,
    /// The host; the pod itself when absent.
    #[serde(default)]
    pub host: Option<String>,
}

/// Asks a server of the node by `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcAction {
    /// The port, 1 to 65535; a number, as in Kubernetes.
    pub port: u16,
    /// Whose health is asked for; the server's own when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}
