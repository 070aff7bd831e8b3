//! The agent's configuration: one TOML file, parsed to valid values before anything is opened.
//!
//! Every option has a default. An unknown key, a wrong type or a value out of bounds is refused with
//! the file's name, the key and what was expected. Secrets are files of their own.

mod containers;
mod eviction;
#[cfg(test)]
mod tests;

pub use containers::{CriConfig, ImagesConfig, PodNetwork, PullPolicy};
pub use eviction::EvictionConfig;

use crate::core::{RecorderOptions, RemotePolicy, Reserved};
use crate::heat::GpuLimits;
use crate::pressure::EvictionLimits;
use crate::runtime::Allowed;
use serde::Deserialize;
use shared::model::{CpuQuantity, MemoryQuantity, RemoteAccess, check_device_name};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where the agent keeps everything, unless it is told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/hinterland";

/// The admin port: health and metrics, on loopback only.
const DEFAULT_ADMIN_PORT: u16 = 7071;

/// The port to which pods post their results, on loopback only.
const DEFAULT_RESULTS_PORT: u16 = 7072;

/// A container has a few before its program has any.
const PID_LIMIT_MIN: u64 = 16;

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of keys, store, pods and the admin socket.
    pub state_dir: PathBuf,
    /// Where health and metrics are served; must be a loopback address.
    pub admin: SocketAddr,
    /// Where pods post their results, besides their sockets; must be a loopback address with a port,
    /// which pods that run know.
    pub results: SocketAddr,
    /// What pods may not have.
    pub reserved: ReservedConfig,
    /// How often is sampled and sent.
    pub telemetry: TelemetryConfig,
    /// Rotation of pods' logs.
    pub pod_logs: PodLogConfig,
    /// What of the node pods may have.
    pub pods: PodsConfig,
    /// Devices of the node that pods may have, by name.
    pub devices: BTreeMap<String, DeviceConfig>,
    /// How pods run: `process` or `cri`.
    pub runtime: RuntimeKind,
    /// The container runtime, for `runtime = "cri"`.
    pub cri: CriConfig,
    /// Images that are not on the node.
    pub images: ImagesConfig,
    /// GPUs that are made up, as in `2x8Gi`; for trials only, and said so in status and logs.
    pub simulate_gpus: Option<String>,
    /// NVIDIA's library `libnvidia-ml.so.1`, where it is not where drivers install it.
    pub nvml_library: Option<PathBuf>,
    /// What others may do from afar.
    pub remote_access: RemoteAccessConfig,
    /// What GPUs may not exceed.
    pub gpu_limits: GpuLimitsConfig,
    /// When pods leave since the node runs out of something.
    pub eviction: EvictionConfig,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// The file itself, where there is one.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// What others may do from afar, through the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteAccessConfig {
    /// Whether they may read logs of pods.
    pub logs: bool,
    /// Whether they may run commands in pods.
    pub exec: bool,
}

/// What GPUs may not exceed: over it the pods of the lowest priority rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuLimitsConfig {
    /// Degrees Celsius; 30 to 120.
    pub celsius: Option<u32>,
    /// Watts of one GPU; at least 10.
    pub watts: Option<u32>,
}

/// What the operating system and the agent keep for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReservedConfig {
    /// Cores.
    pub cpu: CpuQuantity,
    /// Main memory.
    pub memory: MemoryQuantity,
}

/// How often is sampled and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Milliseconds between samples; at least 100.
    pub sample_interval_ms: u64,
    /// Samples in one batch; 1 to 60.
    pub samples_per_batch: usize,
}

/// Rotation of pods' logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodLogConfig {
    /// The size at which a log is rotated.
    pub max_size: MemoryQuantity,
    /// Files kept of each pod, the one being written included; at least 1.
    pub max_files: u32,
}

/// What of the node pods may have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodsConfig {
    /// Whether containers may be privileged, or add capabilities beyond the usual ones.
    pub allow_privileged: bool,
    /// Files and folders that `hostPath` volumes may be of, with all that lies below.
    pub host_paths: Vec<PathBuf>,
    /// Processes and threads that each pod may have; at least 16.
    pub pid_limit: Option<u64>,
}

/// A device of the node that pods may have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Where it is found, as in `/dev/serial/by-id/…`; links are followed at each start of a pod.
    pub path: PathBuf,
}

/// How pods run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// As plain processes.
    #[default]
    Process,
    /// As containers.
    Cri,
}

/// How the agent writes its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_ADMIN_PORT)),
            results: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_RESULTS_PORT)),
            reserved: ReservedConfig::default(),
            telemetry: TelemetryConfig::default(),
            pod_logs: PodLogConfig::default(),
            pods: PodsConfig::default(),
            devices: BTreeMap::new(),
            runtime: RuntimeKind::default(),
            cri: CriConfig::default(),
            images: ImagesConfig::default(),
            simulate_gpus: None,
            nvml_library: None,
            remote_access: RemoteAccessConfig::default(),
            gpu_limits: GpuLimitsConfig::default(),
            eviction: EvictionConfig::default(),
            log_format: LogFormat::default(),
            file: None,
        }
    }
}

impl Default for RemoteAccessConfig {
    /// Logs may be read, commands may not be run.
    fn default() -> Self {
        let RemoteAccess { logs, exec } = RemotePolicy::default().access;
        Self { logs, exec }
    }
}

impl Default for ReservedConfig {
    /// A tenth of a core and 128 MiB: an idle Debian with the agent.
    fn default() -> Self {
        let (cpu, memory) = (CpuQuantity { millicores: 100 }, MemoryQuantity { bytes: 128 << 20 });
        Self { cpu, memory }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        let RecorderOptions { sample_interval_ms, samples_per_batch } = RecorderOptions::default();
        Self { sample_interval_ms, samples_per_batch }
    }
}

impl Default for PodLogConfig {
    /// As the kubelet: 10 MiB, five files.
    fn default() -> Self {
        Self { max_size: MemoryQuantity { bytes: 10 << 20 }, max_files: 5 }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("could not read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or not the expected keys and types.
    #[error("could not parse the configuration {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, key and what was expected.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value out of bounds.
    #[error("{path}: `{key}`: {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What was wrong and what was expected.
        problem: String,
    },
}

impl Config {
    /// The configuration in `path`, or the default one where `path` is `None`.
    ///
    /// # Errors
    /// [`ConfigError`], which names file, key and what was expected.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config.check(path)?;
        config.file = Some(path.to_owned());
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refused = |key, problem: &str| {
            Err(ConfigError::Value { path: path.to_owned(), key, problem: problem.to_owned() })
        };
        if !self.admin.ip().is_loopback() {
            return refused("admin", "expected a loopback address, as in 127.0.0.1:7071");
        }
        if !self.results.ip().is_loopback() || self.results.port() == 0 {
            return refused("results", "expected a loopback address, as in 127.0.0.1:7072");
        }
        if self.nvml_library.as_ref().is_some_and(|library| !library.is_absolute()) {
            return refused("nvml_library", "expected an absolute path");
        }
        if !self.cri.socket.is_absolute() {
            return refused(
                "cri.socket",
                "expected an absolute path, as in /run/containerd/containerd.sock",
            );
        }
        if self.pods.host_paths.iter().any(|path| !path.is_absolute()) {
            return refused("pods.host_paths", "expected absolute paths, as in /srv/media");
        }
        if self.pods.pid_limit.is_some_and(|limit| limit < PID_LIMIT_MIN) {
            return refused("pods.pid_limit", "expected at least 16 processes and threads");
        }
        let is_slice =
            self.runtime == RuntimeKind::Cri && self.cri.cgroup_parent.ends_with(".slice");
        if self.pods.pid_limit.is_some() && is_slice {
            return refused(
                "pods.pid_limit",
                "expected none where `cri.cgroup_parent` is a slice of systemd",
            );
        }
        for (name, device) in &self.devices {
            let refused = |problem| refused("devices", &format!("`{name}`: {problem}"));
            check_device_name(name).or_else(refused)?;
            if !device.path.is_absolute() {
                let problem =
                    "expected an absolute path, as in /dev/serial/by-id/usb-FTDI".to_owned();
                return refused(problem);
            }
        }
        if self.cri.cgroup_parent.trim_matches('/').is_empty() {
            return refused("cri.cgroup_parent", "expected a cgroup, as in /hinterland");
        }
        if self.gpu_limits.celsius.is_some_and(|celsius| !(30..=120).contains(&celsius)) {
            return refused("gpu_limits.celsius", "expected 30 to 120 degrees Celsius");
        }
        if self.gpu_limits.watts.is_some_and(|watts| watts < 10) {
            return refused("gpu_limits.watts", "expected at least 10 watts");
        }
        if self.telemetry.sample_interval_ms < 100 {
            return refused("telemetry.sample_interval_ms", "expected at least 100");
        }
        if !(1..=60).contains(&self.telemetry.samples_per_batch) {
            return refused("telemetry.samples_per_batch", "expected 1 to 60");
        }
        if self.pod_logs.max_files == 0 || self.pod_logs.max_size.bytes < 4096 {
            return refused(
                "pod_logs",
                "expected max_files of at least 1, max_size of at least 4Ki",
            );
        }
        Ok(())
    }

    /// What pods may not have.
    #[must_use]
    pub fn reserved(&self) -> Reserved {
        Reserved {
            cpu_millicores: self.reserved.cpu.millicores,
            memory_bytes: self.reserved.memory.bytes,
        }
    }

    /// What of the node pods may have.
    #[must_use]
    pub fn allowed(&self) -> Allowed {
        let PodsConfig { allow_privileged: privileged, host_paths, .. } = self.pods.clone();
        let device = |(name, device): (&String, &DeviceConfig)| (name.clone(), device.path.clone());
        Allowed { privileged, host_paths, devices: self.devices.iter().map(device).collect() }
    }

    /// What GPUs may not exceed.
    #[must_use]
    pub fn gpu_limits(&self) -> GpuLimits {
        let GpuLimitsConfig { celsius, watts } = self.gpu_limits;
        GpuLimits { celsius, watts }
    }

    /// When pods leave.
    #[must_use]
    pub fn eviction_limits(&self) -> EvictionLimits {
        self.eviction.limits()
    }

    /// What others may do from afar.
    #[must_use]
    pub fn remote_policy(&self) -> RemotePolicy {
        let RemoteAccessConfig { logs, exec } = self.remote_access;
        RemotePolicy { access: RemoteAccess { logs, exec }, file: self.file.clone() }
    }

    /// How often is sampled, and how many samples make a batch.
    #[must_use]
    pub fn recorder(&self) -> RecorderOptions {
        let TelemetryConfig { sample_interval_ms, samples_per_batch } = self.telemetry;
        RecorderOptions { sample_interval_ms, samples_per_batch }
    }

    /// The places in the state folder.
    #[must_use]
    pub fn places(&self) -> Places {
        Places::new(&self.state_dir)
    }
}

/// Every file and folder of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The folder of everything.
    pub state_dir: PathBuf,
    /// The private key of the node's certificate.
    pub tls_key: PathBuf,
    /// The private key of sessions.
    pub session_key: PathBuf,
    /// The wrapping key of the store, unless the service manager hands one in.
    pub store_key: PathBuf,
    /// The request for a certificate.
    pub request: PathBuf,
    /// The key of the tokens by which pods post their results.
    pub results_key: PathBuf,
    /// What the hub answered to it.
    pub enrollment: PathBuf,
    /// The sealed store.
    pub store: PathBuf,
    /// The ledger beside it.
    pub ledger: PathBuf,
    /// The folders of pods.
    pub pods: PathBuf,
    /// The models of this node.
    pub models: PathBuf,
    /// Where the commands ask the running agent.
    pub admin_socket: PathBuf,
}

impl Places {
    fn new(state_dir: &Path) -> Self {
        let at = |name: &str| state_dir.join(name);
        Self {
            state_dir: state_dir.to_owned(),
            tls_key: at("keys/node.key"),
            session_key: at("keys/session.key"),
            store_key: at("keys/store.key"),
            results_key: at("keys/results.key"),
            request: at("node.csr"),
            enrollment: at("enrollment.json"),
            store: at("store"),
            ledger: at("ledger"),
            pods: at("pods"),
            models: at("models"),
            admin_socket: at("admin.sock"),
        }
    }
}
