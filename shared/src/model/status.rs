//! What a node reports of its pods and of itself: the items of reported state.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::gpu::{GpuDevice, GpuHealth, GpuInventory};
use super::ids::{PodId, Revision};
use super::mig::MigRole;
use super::time::UnixMs;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PodPhase {
    /// Not started; `reason` says why.
    Pending,
    /// The runtime was asked to start it.
    Starting,
    /// It runs; `ready` says whether it can serve.
    Running,
    /// It ended and is started again when its backoff is over.
    BackingOff,
    /// It was asked to stop.
    Stopping,
    /// It ended with status 0 and is not started again.
    Succeeded,
    /// It ended with a failure and is not started again.
    Failed,
}

/// The state of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Which pod.
    pub pod: PodId,
    /// The revision that runs, or that is to run.
    pub revision: Revision,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// Whether it can serve.
    pub ready: bool,
    /// A word for programs, as in `InsufficientGpuMemory`; empty when there is nothing to say.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// How often it was started again since this revision was assigned.
    pub restarts: u32,
    /// When its process started, by the node's clock.
    pub started_at: Option<UnixMs>,
    /// The status with which it last ended: an exit code, or 128 + the signal's number.
    pub last_exit_code: Option<i32>,
    /// UUIDs of the GPUs that it was given.
    pub gpus: Vec<String>,
    /// Its containers in the order of their start, while it runs; none where it is one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerStatus>,
    /// Its address, while it has a network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<IpAddr>,
}

/// The state of one of a pod's several containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Whether it can serve; of an init container whether it has succeeded.
    pub ready: bool,
    /// How often it was started again since the pod was.
    pub restarts: u32,
    /// A word for programs, as in `CrashLoopBackOff`; empty when there is nothing to say.
    pub reason: String,
    /// The status with which it last ended: an exit code, or 128 + the signal's number.
    pub last_exit_code: Option<i32>,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows.
    Unknown,
}

/// One aspect of a node's state, as in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The aspect, as in `StoreWritable`.
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// What a node has to give.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeCapacity {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// GPUs.
    pub gpus: GpuInventory,
}

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The agent's version.
    pub agent_version: String,
    /// What the node has to give.
    pub capacity: NodeCapacity,
    /// Conditions, by kind.
    pub conditions: Vec<Condition>,
    /// The (term, generation) of desired state that is in force.
    pub observed_term: u64,
    /// See `observed_term`.
    pub observed_generation: u64,
    /// What of the capacity pods may not have: the operating system's and the agent's share.
    #[serde(default, skip_serializing_if = "ReservedResources::is_none")]
    pub reserved: ReservedResources,
    /// What the node lets others do from afar; absent where its agent is older than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_access: Option<RemoteAccess>,
}

/// What a node lets others do from afar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteAccess {
    /// Whether logs of pods may be read.
    pub logs: bool,
    /// Whether commands may be run in pods.
    pub exec: bool,
}

/// Amounts that are kept from pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReservedResources {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// Bytes of main memory.
    pub memory_bytes: u64,
}

impl ReservedResources {
    /// Whether nothing is kept from them.
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl NodeStatus {
    /// What pods may have: the capacity without what is reserved, without GPUs that are not healthy, and
    /// without those in MIG mode, whose instances are what pods get of them.
    #[must_use]
    pub fn allocatable(&self) -> NodeCapacity {
        let NodeCapacity { cpu_millicores, memory_bytes, gpus } = &self.capacity;
        let is_given_out =
            |gpu: &&GpuDevice| gpu.health == GpuHealth::Healthy && gpu.mig != MigRole::Parent;
        let given_out = gpus.devices.iter().filter(is_given_out);
        NodeCapacity {
            cpu_millicores: cpu_millicores.saturating_sub(self.reserved.cpu_millicores),
            memory_bytes: memory_bytes.saturating_sub(self.reserved.memory_bytes),
            gpus: GpuInventory { source: gpus.source, devices: given_out.cloned().collect() },
        }
    }
}
