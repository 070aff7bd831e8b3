//! How the runtime is set up.

use crate::config::{PodNetwork, PullPolicy};
use crate::runtime::Allowed;
use std::path::PathBuf;

/// Where containerd listens.
pub const DEFAULT_SOCKET: &str = "/run/containerd/containerd.sock";

/// The cgroup below which those of pods lie.
pub const DEFAULT_CGROUP_PARENT: &str = "/hinterland";

/// How the runtime is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriOptions {
    /// The Unix socket of the container runtime.
    pub socket: PathBuf,
    /// The folder of all pods; made when it is not there.
    pub folder: PathBuf,
    /// The size at which a pod's log is rotated, in bytes.
    pub log_max_bytes: u64,
    /// Log files kept of each pod, the one being written included.
    pub log_max_files: u32,
    /// The cgroup below which those of pods lie; `NAME.slice` where the runtime leaves cgroups to systemd.
    pub cgroup_parent: String,
    /// Whether GPUs are handed over as CDI devices `nvidia.com/gpu=UUID`.
    pub cdi: bool,
    /// The runtime handler of pods that have GPUs, as in `nvidia`.
    pub gpu_runtime_handler: Option<String>,
    /// Whether images are pulled that are not on the node.
    pub pulls: PullPolicy,
    /// What of the node pods may have.
    pub allowed: Allowed,
    /// Processes and threads that a pod may have; as many as the node has without.
    pub pids_max: Option<u64>,
    /// The network of pods that do not say theirs.
    pub network: PodNetwork,
}

impl CriOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(socket: PathBuf, folder: PathBuf) -> Self {
        Self {
            socket,
            folder,
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            cgroup_parent: DEFAULT_CGROUP_PARENT.to_owned(),
            cdi: false,
            gpu_runtime_handler: None,
            pulls: PullPolicy::default(),
            allowed: Allowed::default(),
            pids_max: None,
            network: PodNetwork::default(),
        }
    }
}
