//! What survives a restart of the agent, and what is to be done.

use crate::placement::{MainShare, Placement};
use crate::ports::{ContainerRequest, InstanceId, ProbeRequest, StartRequest, VolumeContent};
use serde::{Deserialize, Serialize};
use shared::model::{PodId, Revision};

/// What must be known of a pod after a restart of the agent.
///
/// Store format (packed CBOR, fields by position): fields are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Which pod.
    pub pod: PodId,
    /// The content of its template.
    pub revision: Revision,
    /// Its last start.
    pub instance: InstanceId,
    /// What it was given.
    pub placement: Placement,
    /// How often it was started again with this revision.
    pub restarts: u32,
    /// How often in a row it ended soon: the level of its backoff.
    pub backoff_level: u32,
    /// The status with which it ended last.
    pub last_exit_code: Option<i32>,
    /// Whether it came to its end and is not started again: `Some(true)` for success.
    pub completed: Option<bool>,
    /// What it takes besides GPUs; `None` in a record of an earlier version.
    #[serde(default)]
    pub taken: Option<MainShare>,
    /// Names what in its environment is the node's own; 0 for nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parameters_id: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Something to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodAction {
    /// Make this durable.
    Record(PodRecord),
    /// Remove the pod's record.
    Forget(PodId),
    /// Begin to start a pod; comes after its record.
    Start(StartRequest),
    /// Begin to stop a pod.
    Stop {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// Let the runtime forget an ended start.
    Remove {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Whether its logs are kept.
        keep_logs: bool,
    },
    /// Begin to replace the files of a running pod's volumes.
    Attach {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// All of them, as they should be.
        volumes: Vec<VolumeContent>,
    },
    /// Begin a probe.
    Probe(ProbeRequest),
    /// Begin to start one of a pod's several containers.
    StartContainer(ContainerRequest),
    /// Begin to stop one of a pod's several containers.
    StopContainer {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Which container.
        container: String,
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
}

impl PodAction {
    /// The pod that it is about.
    #[must_use]
    pub fn pod(&self) -> &PodId {
        match self {
            Self::Record(record) => &record.pod,
            Self::Start(request) => &request.pod,
            Self::Probe(request) => &request.pod,
            Self::StartContainer(request) => &request.start.pod,
            Self::Forget(pod)
            | Self::StopContainer { pod, .. }
            | Self::Stop { pod, .. }
            | Self::Remove { pod, .. }
            | Self::Attach { pod, .. } => pod,
        }
    }
}
