//! How pods run as containers: by which runtime, on which network, and whence their images.

use crate::runtime::cri::{DEFAULT_CGROUP_PARENT, DEFAULT_SOCKET};
use serde::Deserialize;
use std::path::PathBuf;

/// The container runtime.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriConfig {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The cgroup below which those of pods lie; `NAME.slice` where it leaves cgroups to systemd.
    pub cgroup_parent: String,
    /// Whether GPUs are handed over as CDI devices `nvidia.com/gpu=UUID`.
    pub cdi: bool,
    /// The runtime handler of pods that have GPUs, as in `nvidia`; the default one when absent.
    pub gpu_runtime_handler: Option<String>,
    /// The network of pods that do not say theirs by `hostNetwork`.
    pub network: PodNetwork,
}

/// The network of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodNetwork {
    /// The node's.
    #[default]
    Host,
    /// One of their own, by the container runtime's CNI configuration.
    Pod,
}

/// Images that are not on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// Whether the container runtime may be asked to bring them.
    pub pull: PullPolicy,
}

/// Whether images are pulled that are not on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Only while the link has no budget of bytes.
    #[default]
    Unmetered,
    /// Whatever the link costs: what is pulled is not counted in its budget.
    Always,
    /// They are imported by hand.
    Never,
}

impl Default for CriConfig {
    /// containerd as Debian installs it.
    fn default() -> Self {
        Self {
            socket: PathBuf::from(DEFAULT_SOCKET),
            cgroup_parent: DEFAULT_CGROUP_PARENT.to_owned(),
            cdi: false,
            gpu_runtime_handler: None,
            network: PodNetwork::default(),
        }
    }
}
