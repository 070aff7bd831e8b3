//! The GPUs of this node: through NVML, of a Jetson from the kernel's files, or made up by an explicit flag.
//!
//! A machine without either is a node without GPUs: said once, not an error. Places nothing and
//! changes no setting of a device.

mod condition;
mod jetson;
mod node;
mod nvml;
mod simulated;
mod watch;
mod xid;

pub use condition::{GpuConditionChange, GpuConditions};
pub use jetson::JetsonGpus;
pub use nvml::NvmlGpus;
pub use simulated::{SimulatedGpus, SimulationError};
pub use watch::Gpus;

use shared::model::GpuInventory;

/// One reading of one GPU. The metrics are named as NVIDIA's DCGM exporter names them, in its units.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuSample {
    /// Which GPU.
    pub uuid: String,
    /// Which metric; see [`metrics`].
    pub name: &'static str,
    /// Its value in the metric's unit.
    pub value: f64,
}

/// Memory of one GPU that one process uses.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuProcess {
    /// Which GPU.
    pub uuid: String,
    /// Which process, by its number.
    pub pid: i32,
    /// How much, in bytes.
    pub bytes: f64,
}

/// Names of the metrics, as in NVIDIA's `dcgm-exporter`.
pub mod metrics {
    /// Time in which the GPU computed, in percent.
    pub const UTILIZATION_PERCENT: &str = "DCGM_FI_DEV_GPU_UTIL";
    /// Time in which its memory was read or written, in percent.
    pub const MEMORY_UTILIZATION_PERCENT: &str = "DCGM_FI_DEV_MEM_COPY_UTIL";
    /// Memory in use, in MiB.
    pub const MEMORY_USED_MIB: &str = "DCGM_FI_DEV_FB_USED";
    /// Memory that is free, in MiB.
    pub const MEMORY_FREE_MIB: &str = "DCGM_FI_DEV_FB_FREE";
    /// Temperature in degrees Celsius.
    pub const TEMPERATURE_CELSIUS: &str = "DCGM_FI_DEV_GPU_TEMP";
    /// Power draw in watts.
    pub const POWER_WATTS: &str = "DCGM_FI_DEV_POWER_USAGE";
    /// Clock of the multiprocessors in MHz.
    pub const SM_CLOCK_MHZ: &str = "DCGM_FI_DEV_SM_CLOCK";
    /// Clock of the memory in MHz.
    pub const MEMORY_CLOCK_MHZ: &str = "DCGM_FI_DEV_MEM_CLOCK";
    /// Errors of one bit that were mended, since the driver was loaded.
    pub const ECC_SINGLE_BIT: &str = "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL";
    /// Errors of two bits, which can't be mended, since the driver was loaded.
    pub const ECC_DOUBLE_BIT: &str = "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL";
    /// Why the clocks are lower than they could be, as the bits of NVML's
    /// `nvmlClocksEventReasons…`.
    pub const CLOCK_REASONS: &str = "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS";
    /// Pages of memory that are out of use after errors of one bit.
    pub const RETIRED_SINGLE_BIT: &str = "DCGM_FI_DEV_RETIRED_SBE";
    /// Pages of memory that are out of use after errors of two bits.
    pub const RETIRED_DOUBLE_BIT: &str = "DCGM_FI_DEV_RETIRED_DBE";
    /// Whether pages are to be taken out of use by the next reset: 1 or 0.
    pub const RETIRED_PENDING: &str = "DCGM_FI_DEV_RETIRED_PENDING";
    /// Rows of memory that were replaced after errors that were mended.
    pub const REMAPPED_CORRECTABLE: &str = "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS";
    /// Rows of memory that were replaced after errors that were not.
    pub const REMAPPED_UNCORRECTABLE: &str = "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS";
    /// Whether rows are to be replaced by the next reset: 1 or 0.
    pub const REMAP_PENDING: &str = "DCGM_FI_DEV_ROW_REMAP_PENDING";
    /// Whether a row could not be replaced: 1 or 0.
    pub const REMAP_FAILURE: &str = "DCGM_FI_DEV_ROW_REMAP_FAILURE";
    /// What the GPU sent over PCIe, in KB a second.
    pub const PCIE_SENT_KB_S: &str = "DCGM_FI_DEV_PCIE_TX_THROUGHPUT";
    /// What it received, in KB a second.
    pub const PCIE_RECEIVED_KB_S: &str = "DCGM_FI_DEV_PCIE_RX_THROUGHPUT";
}

/// Where inventory and readings of GPUs come from. Calls take milliseconds; a driver that hangs
/// blocks them, so they belong on a thread that may wait.
pub trait GpuSource: Send {
    /// The GPUs that there are now; `None` when the driver does not say. One that can't be read is
    /// `Unhealthy` with the reason.
    fn inventory(&mut self) -> Option<GpuInventory>;

    /// Whether the inventory may have changed since it was taken last, as far as the driver told of it.
    fn has_news(&mut self) -> bool {
        false
    }

    /// Readings of all GPUs; what a device does not offer is left out.
    fn samples(&mut self) -> Vec<GpuSample>;

    /// Which processes use how much memory of which GPU, as far as the driver says.
    fn processes(&mut self) -> Vec<GpuProcess>;
}
