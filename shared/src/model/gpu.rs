//! GPUs as the node sees them.

use serde::{Deserialize, Serialize};

/// Whether pods may be placed on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuHealth {
    /// Usable.
    Healthy,
    /// Not usable; the text says why, in words a person can act on.
    Unhealthy(String),
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuDevice {
    /// The identifier that survives reboots and re-enumeration (`GPU-…` as NVML gives it).
    pub uuid: String,
    /// The product's name.
    pub name: String,
    /// Whole memory of the device in bytes.
    pub memory_bytes: u64,
    /// Whether pods may be placed on it.
    pub health: GpuHealth,
}

/// Where an inventory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GpuSource {
    /// The machine has no NVML: a node without GPUs.
    #[default]
    Absent,
    /// Read from the driver through NVML.
    Nvml,
    /// Made up by an explicit flag, for trials and tests; status and logs say so.
    Simulated,
}

/// All GPUs of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuInventory {
    /// Where the list comes from.
    pub source: GpuSource,
    /// The devices, in the driver's order.
    pub devices: Vec<GpuDevice>,
}
