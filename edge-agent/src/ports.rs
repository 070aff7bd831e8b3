//! The traits by which the agent's shell reaches its runtime, and the values that cross them.
//!
//! A call begins work and returns at once; the work ends as a [`RuntimeEvent`]. So an image pull or
//! a slow stop never holds up the core.

use crate::placement::{MainShare, Placement};
use serde::{Deserialize, Serialize};
use shared::model::{
    ConfigItem, Container, ContainerPort, ContainerRole, HostPathVolume, ImagePullPolicy,
    KeyToPath, LifecycleHandler, ObjectName, PodId, PodSecurityContext, Probe, Revision,
    SecretItem, UnixMs, WorkloadKey, visible_gpu_name,
};
use shared::wire::{Digest, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// One start of a pod. No two starts on a node share it; it names the start in the store, in the
/// runtime and in logs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Everything a runtime needs to start a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// Which pod.
    pub pod: PodId,
    /// Which start of it.
    pub instance: InstanceId,
    /// Which content of its template.
    pub revision: Revision,
    /// What to run; of several containers the first that is no init container.
    pub container: Container,
    /// Where there are several: all of them in the order of their start, images to be looked for before anything
    /// is started. None of them is started with the pod: each is asked for by [`Runtime::start_container`].
    pub containers: Vec<ContainerPlan>,
    /// UUIDs of the GPUs that placement gave it; empty means that it sees none.
    pub gpus: Vec<String>,
    /// Its share of a shared GPU's memory in bytes.
    pub gpu_memory_bytes: Option<u64>,
    /// What it takes of the node besides; kept with the start for [`Observation::taken`].
    pub taken: MainShare,
    /// Seconds between SIGTERM and SIGKILL, also for the shim to use when the agent is away.
    pub grace_seconds: u32,
    /// Names what in its environment is the node's own; kept with the start for
    /// [`Observation::parameters_id`]. 0 for nothing.
    pub parameters_id: u64,
    /// What it has of ConfigMaps, Secrets and models, and folders that it writes to.
    pub volumes: Vec<VolumeContent>,
    /// On what terms its images may be pulled.
    pub pull: PullTerms,
    /// As whom all its containers run.
    pub security: PodSecurityContext,
    /// Its network.
    pub network: NetworkRequest,
}

/// What a pod asks of the network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkRequest {
    /// Whether it is on the node's; where that is not said, the node's configuration says it.
    pub is_host: Option<bool>,
    /// Those ports of its containers that name a port of the node.
    pub host_ports: Vec<ContainerPort>,
}

impl StartRequest {
    /// Its GPUs as CUDA and NVIDIA's container runtime are told of them.
    #[must_use]
    pub fn visible_gpus(&self) -> String {
        let names: Vec<&str> = self.gpus.iter().map(|uuid| visible_gpu_name(uuid)).collect();
        names.join(",")
    }
}

/// On what terms the images of a pod may be pulled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullTerms {
    /// Whether the link has a budget of bytes.
    pub is_metered: bool,
    /// Credentials for registries, sealed to this node.
    pub secrets: Vec<(ObjectName, Arc<SecretItem>)>,
}

/// One of a pod's several containers, as far as the start of the pod has to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Its name.
    pub name: String,
    /// What it is in the pod.
    pub role: ContainerRole,
    /// Its image.
    #[serde(skip)]
    pub image: Option<String>,
    /// When that is pulled.
    #[serde(skip)]
    pub pulls: Option<ImagePullPolicy>,
    /// Whether it is privileged.
    #[serde(skip)]
    pub is_privileged: bool,
    /// Done before it is asked to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<LifecycleHandler>,
    /// Done once it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<LifecycleHandler>,
}

/// Everything a runtime needs to start one of a pod's several containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRequest {
    /// The pod's start, as this container has it: `container` is this one; GPUs and mounts are its own.
    pub start: StartRequest,
    /// How often it was started before within this start of the pod.
    pub attempt: u32,
}

/// What a pod has mounted: files of a ConfigMap, Secret or model, or a folder that it may write to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeContent {
    /// The volume's name.
    pub name: String,
    /// Where the pod finds it: paths below its own folder.
    pub mounts: Vec<String>,
    /// Those of them at which the pod may write.
    pub writable_mounts: Vec<String>,
    /// Whether it must not lie on a disk.
    pub is_secret: bool,
    /// What is in it.
    pub source: VolumeSource,
    /// Which keys, and their files; all of them by their own names when empty.
    pub items: Vec<KeyToPath>,
    /// Whether a key may be missing.
    pub optional: bool,
}

/// Where what is in a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum VolumeSource {
    /// Nothing: it is optional, and not there.
    #[default]
    Nothing,
    /// A ConfigMap.
    ConfigMap(Arc<ConfigItem>),
    /// A Secret, sealed to this node.
    Secret(ObjectName, Arc<SecretItem>),
    /// A model: the file that lies here. Its mounts are files.
    Model(PathBuf),
    /// A folder that is empty when the pod comes to the node.
    EmptyDir {
        /// Whether it is to lie in memory.
        is_in_memory: bool,
        /// What fits into memory, where that is said.
        bytes_max: Option<u64>,
    },
    /// A file or folder of the node.
    HostPath(HostPathVolume),
    /// A folder that outlives the pod, by the name of its claim in the pod's namespace.
    Claim(String),
}

impl VolumeSource {
    /// Whether it is made of files that the agent writes or keeps.
    #[must_use]
    pub fn is_of_files(&self) -> bool {
        !matches!(self, Self::EmptyDir { .. } | Self::HostPath(_) | Self::Claim(_))
    }
}

impl VolumeContent {
    /// Names its content: the same where nothing of it is another. Of a Secret it tells nothing.
    #[must_use]
    pub fn version(&self) -> Digest {
        let source = match &self.source {
            VolumeSource::Nothing
            | VolumeSource::EmptyDir { .. }
            | VolumeSource::HostPath(_)
            | VolumeSource::Claim(_) => Ok(vec![]),
            VolumeSource::ConfigMap(item) => encode("ConfigMap", item.as_ref()),
            VolumeSource::Secret(_, item) => encode("Secret", item.as_ref()),
            VolumeSource::Model(file) => encode("model", file),
        };
        let rest = (&self.name, &self.mounts, &self.items, source.unwrap_or_default());
        Digest::of(&encode("volume", &rest).unwrap_or_default())
    }
}

/// Names the content of all volumes of a pod together.
#[must_use]
pub fn volumes_version(volumes: &[VolumeContent]) -> u64 {
    let versions: Vec<u8> = volumes.iter().flat_map(|volume| volume.version().0).collect();
    let Digest([a, b, c, d, e, f, g, h, ..]) = Digest::of(&versions);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What a runtime found of a pod's start when the agent came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Which pod.
    pub pod: PodId,
    /// Which start of it.
    pub instance: InstanceId,
    /// Which content of its template.
    pub revision: Revision,
    /// How it is.
    pub state: ObservedState,
    /// What it was given, as its start was told; for when the store does not know.
    pub placement: Placement,
    /// What it takes besides GPUs, as its start was told, for the same; `None` where an earlier version
    /// started it.
    pub taken: Option<MainShare>,
    /// What in its environment is the node's own, by name, as its start was told.
    pub parameters_id: u64,
    /// Its containers that were ever started, where it runs and has several.
    pub containers: Vec<ObservedContainer>,
    /// Its address, where it runs and has a network of its own.
    pub pod_ip: Option<IpAddr>,
}

/// What a runtime found of one of a pod's several containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedContainer {
    /// Its name.
    pub name: String,
    /// How often it was started before.
    pub attempt: u32,
    /// How it is; `Lost` if nobody saw its end.
    pub state: ObservedState,
}

/// How an observed start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedState {
    /// It runs, since then.
    Running {
        /// When its process started.
        started_at: UnixMs,
    },
    /// It ended with this status: an exit code, or 128 + the signal's number.
    Exited {
        /// See above.
        code: i32,
    },
    /// It was begun, does not run and left no status: the power went, or its shim was killed.
    Lost,
}

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Holds the others back until it succeeds.
    Startup,
    /// Whether the pod can serve.
    Readiness,
    /// Whether the pod must be restarted.
    Liveness,
}

/// One run of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Which pod.
    pub pod: PodId,
    /// Which start of it.
    pub instance: InstanceId,
    /// Which of the pod's containers, where there are several.
    pub container: Option<String>,
    /// Which probe.
    pub kind: ProbeKind,
    /// What to check and for how long at most.
    pub probe: Probe,
}

/// A pod whose own metrics are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeTarget {
    /// Which pod.
    pub pod: PodId,
    /// Where it listens: its own address, or loopback.
    pub host: IpAddr,
    /// At this port.
    pub port: u16,
    /// The path, beginning with `/`.
    pub path: String,
    /// Which metrics: names of counters, gauges and histograms. Empty: the first counter of requests
    /// and the first histogram of their latency.
    pub metrics: Vec<String>,
    /// What else is wanted, besides those.
    pub besides: Option<String>,
}

/// What a runtime says, some time after it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The pod's process runs.
    Started {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// When its process started, by the node's clock.
        started_at: UnixMs,
    },
    /// The start takes its time, for a reason that people should know; said again every 30 s.
    Preparing {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// A word for programs, as in `ImagePulling`.
        reason: String,
        /// A sentence for people.
        message: String,
    },
    /// The pod that is being started has a network of its own, and this address there.
    Addressed {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Its address.
        pod_ip: IpAddr,
    },
    /// The pod could not be started; nothing of this start runs.
    StartFailed {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// A word for programs, as in `ProgramNotFound`.
        reason: String,
        /// A sentence for people.
        message: String,
    },
    /// The pod ended, with all its descendants.
    Exited {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Exit code, or 128 + the signal's number.
        code: i32,
    },
    /// The words that the pod left when it ended; its end comes next.
    LastWords {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// What it wrote; at most 4 KiB.
        message: String,
    },
    /// A probe came to its end.
    Probed {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Which of the pod's containers, where there are several.
        container: Option<String>,
        /// Which probe.
        kind: ProbeKind,
        /// Success, or a sentence that says what failed.
        result: Result<(), String>,
    },
    /// Something became of one of a pod's several containers.
    Container {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Which container.
        container: String,
        /// What.
        event: ContainerEvent,
    },
    /// What became of [`Runtime::remove_image`].
    ImageRemoved {
        /// The image that is gone; `None` when none can go; why neither is known.
        image: Result<Option<String>, String>,
    },
    /// The files of a pod's volumes could not be replaced: they are as they were.
    NotAttached {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// A sentence for people.
        message: String,
    },
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEvent {
    /// Its process runs.
    Started {
        /// When it started, by the node's clock.
        started_at: UnixMs,
    },
    /// It could not be started; nothing of it runs.
    StartFailed {
        /// A word for programs.
        reason: String,
        /// A sentence for people.
        message: String,
    },
    /// It ended.
    Exited {
        /// Exit code, or 128 + the signal's number.
        code: i32,
    },
}

/// Images that each workload names, as its template has them.
pub type NamedImages = BTreeMap<WorkloadKey, BTreeSet<String>>;

/// Why a runtime can't say what runs.
#[derive(Debug, Error)]
#[error("could not {attempted}")]
pub struct RuntimeError {
    /// What was attempted, as in `read the pod folder default_ocr-0`.
    pub attempted: String,
    /// What the layer below said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Runs pods. Never starts a second copy of a pod: the lock is the pod's, not the start's.
pub trait Runtime {
    /// What is there when the agent comes up. Pods that run are watched from then on, so that their
    /// end arrives as [`RuntimeEvent::Exited`].
    ///
    /// # Errors
    /// When the runtime itself can't be asked; a single unreadable pod is [`ObservedState::Lost`].
    fn observe(&mut self) -> Result<Vec<Observation>, RuntimeError>;

    /// Begins a start; ends as `Started` or `StartFailed`. A pod of several containers has started when they
    /// may be.
    fn start(&mut self, request: StartRequest);

    /// Begins to start one of the several containers of a pod that has started; ends as `Started` or
    /// `StartFailed` of the container. Never beside one of the same name.
    ///
    /// A runtime whose pods are one container is not asked.
    fn start_container(&mut self, _request: ContainerRequest) {}

    /// Begins to stop one of a pod's several containers, as [`Self::stop`] does a pod; ends as `Exited` of the
    /// container.
    ///
    /// A runtime whose pods are one container is not asked.
    fn stop_container(
        &mut self,
        _pod: &PodId,
        _instance: InstanceId,
        _container: &str,
        _grace_ms: u64,
    ) {
    }

    /// Begins a stop: SIGTERM to the pod, SIGKILL to all of it after the grace; ends as `Exited`. Of several
    /// containers sidecars come last, in the reverse order of their start.
    /// A stop of what does not run ends as `Exited` too.
    fn stop(&mut self, pod: &PodId, instance: InstanceId, grace_ms: u64);

    /// Forgets an ended start, when its end has been recorded. Its logs are kept until the pod's
    /// next start, or for good-bye when the pod is no longer wanted (`keep_logs` false).
    fn forget(&mut self, pod: &PodId, instance: InstanceId, keep_logs: bool);

    /// Begins to replace the files of a running pod's volumes where they are others now. Ends without a word,
    /// or as `NotAttached`.
    fn attach(&mut self, pod: &PodId, instance: InstanceId, volumes: Vec<VolumeContent>);

    /// Begins a probe; ends as `Probed`, in time also when what is probed hangs.
    fn probe(&mut self, request: ProbeRequest);

    /// From now on these images are needed, and those that each of the workloads named before.
    ///
    /// A runtime without images passes over it.
    fn keep_images(&mut self, _named: NamedImages) {}

    /// Begins to remove the oldest image that this agent has pulled and nothing needs; ends as `ImageRemoved`.
    /// False where there are no images: then nothing follows.
    fn remove_image(&mut self) -> bool {
        false
    }
}
