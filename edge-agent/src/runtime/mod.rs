//! How pods run.
//!
//! | module | what it holds |
//! |---|---|
//! | [`process`] | pods as plain processes, each under a shim |
//! | [`cri`] | pods as containers of containerd or CRI-O |
//! | `either` | the one that the configuration names |
//! | `folder` | the folder of one pod |
//! | `volumes`, `secrets` | the files that a pod has of ConfigMaps, Secrets and models |
//! | `access` | whose these files are |
//! | `storage`, `memory` | folders that a pod writes to, and files of the node |
//! | `allowed` | what of the node pods may have |
//! | `log` | rotated logs and their tail |
//! | `exec` | a command in a pod, and what is kept of its output |
//! | `probe`, `health` | checks by HTTP and TCP, and by gRPC |
//! | `grpc` | calls of one request and one answer |
//! | `network` | what only a pod with a network of its own can have |
//! | `layers` | errors that say what was attempted |

mod access;
mod allowed;
pub mod cri;
mod either;
mod exec;
mod folder;
mod grpc;
mod health;
mod layers;
mod log;
mod memory;
mod network;
mod probe;
pub mod process;
mod secrets;
mod storage;
mod volumes;

pub use allowed::Allowed;
pub use either::{AnyRuntime, Running};
pub use exec::ExecOrder;
pub use log::{read_page, tail_log};
pub use secrets::Secrets;

use serde::{Deserialize, Serialize};
use shared::model::PodId;
use shared::telemetry::Series;

/// Why nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StartFailure {
    /// A word for programs.
    pub(super) reason: String,
    /// A sentence for people.
    pub(super) message: String,
}

impl StartFailure {
    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// A series of a pod, named as cAdvisor names it.
fn pod_series(pod: &PodId, name: &str) -> Series {
    Series::new(name).with("namespace", pod.workload.namespace()).with("pod", &pod.name())
}

/// What a pod has written to its own file system.
fn disk_series(pod: &PodId, bytes: u64) -> (Series, f64) {
    // Past 2^53 the last digits are lost.
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    (pod_series(pod, "container_fs_usage_bytes"), bytes)
}

/// Processes and threads of a pod.
fn threads_series(pod: &PodId, count: u64) -> (Series, f64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    (pod_series(pod, "container_threads"), f64::from(count))
}

/// CPU time and memory of a pod.
fn usage_series(pod: &PodId, cpu_usec: u64, memory_bytes: u64) -> [(Series, f64); 2] {
    let series = |name| pod_series(pod, name);
    // Past 2^53 (285 years of CPU time, 9 petabytes) the last digits are lost.
    #[allow(clippy::cast_precision_loss)]
    let number = |value: u64| value as f64;
    [
        (series("container_cpu_usage_seconds_total"), number(cpu_usec) / 1e6),
        (series("container_memory_working_set_bytes"), number(memory_bytes)),
    ]
}
