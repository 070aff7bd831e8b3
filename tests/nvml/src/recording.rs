//! What a driver says, and which of its calls fail.
//!
//! A value that is absent is one that the device does not offer: the call answers `NOT_SUPPORTED`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Return codes by the names of the functions that fail; `*` stands for all others. Source of the
/// codes: `nvmlReturn_t` in NVIDIA's `nvml.h`.
pub type Failures = BTreeMap<String, u32>;

/// The driver and its GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recording {
    /// Where the values are from, for people.
    pub note: String,
    /// The driver's version.
    pub driver: String,
    /// Functions that fail whatever the device.
    pub fails: Failures,
    /// The GPUs, in the driver's order.
    pub gpus: Vec<Gpu>,
    /// XID errors that the driver tells of to whoever waits, from the first on; new ones come to the end.
    pub xids: Vec<XidEvent>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// As in `GPU-…`.
    pub uuid: String,
    /// The product.
    pub name: String,
    /// Functions that fail for this GPU; those of its instances too.
    pub fails: Failures,
    /// Its memory.
    pub memory: Option<Memory>,
    /// Whether it is in MIG mode, where it knows one.
    pub mig: Option<Mig>,
    /// How busy it is.
    pub utilization: Option<Utilization>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Milliwatts.
    pub power_milliwatts: Option<u32>,
    /// Its clocks.
    pub clocks: Option<Clocks>,
    /// Its counts of memory errors.
    pub ecc: Option<Ecc>,
    /// Bits of `nvmlClocksEventReasons…`.
    pub clock_reasons: Option<u64>,
    /// Its pages of memory that are out of use.
    pub retired_pages: Option<RetiredPages>,
    /// Its rows of memory that were replaced.
    pub remapped_rows: Option<RemappedRows>,
    /// What goes over PCIe.
    pub pcie: Option<Throughput>,
    /// Who uses it.
    pub processes: Processes,
}

/// Amounts of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What pods and others use.
    pub used: u64,
    /// What the driver keeps for itself.
    pub reserved: u64,
}

/// The MIG mode of a GPU, and its instances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mig {
    /// Whether it is in the mode.
    pub is_enabled: bool,
    /// Instances by their index; `null` where there is none.
    pub instances: Vec<Option<Instance>>,
}

/// One MIG instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Instance {
    /// As in `MIG-…`.
    pub uuid: String,
    /// The product with the profile, as in `… MIG 1g.10gb`.
    pub name: String,
    /// Slices of the GPU.
    pub slices: u32,
    /// Its memory.
    pub memory: Option<Memory>,
    /// Who uses it.
    pub processes: Processes,
}

/// Time in use, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Utilization {
    /// In which it computed.
    pub gpu: u32,
    /// In which its memory was read or written.
    pub memory: u32,
}

/// Clocks in MHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// Of the multiprocessors.
    pub sm: u32,
    /// Of the memory.
    pub memory: u32,
}

/// Memory errors since the driver was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ecc {
    /// Mended.
    pub corrected: u64,
    /// Not mended.
    pub uncorrected: u64,
}

/// Pages of memory that are out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredPages {
    /// After errors of one bit.
    pub single_bit: u64,
    /// After errors of two.
    pub double_bit: u64,
    /// Whether some wait for a reset.
    pub is_pending: bool,
}

/// Rows of memory that were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemappedRows {
    /// After errors that were mended.
    pub correctable: u32,
    /// After errors that were not.
    pub uncorrectable: u32,
    /// Whether some wait for a reset.
    pub is_pending: bool,
    /// Whether one could not be replaced.
    pub has_failed: bool,
}

/// What goes over PCIe, in KB a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    /// From the GPU.
    pub sent: u32,
    /// To the GPU.
    pub received: u32,
}

/// Who uses a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Processes {
    /// Those that compute.
    pub compute: Vec<Process>,
    /// Those that draw.
    pub graphics: Vec<Process>,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its memory in bytes; absent where the driver does not say.
    pub bytes: Option<u64>,
}

/// An error that the driver tells of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XidEvent {
    /// UUID of the GPU.
    pub gpu: String,
    /// Its number in NVIDIA's list.
    pub xid: u64,
}

impl Recording {
    /// The recording in `path`.
    ///
    /// # Errors
    /// When it can't be read or says something else.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Writes it to `path` at once, so that the library never reads one that is half written.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let part = path.with_extension("part");
        std::fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(part, path)
    }
}

/// The code with which `function` fails.
pub(crate) fn failure(fails: &Failures, function: &str) -> Option<u32> {
    fails.get(function).or_else(|| fails.get("*")).copied()
}
