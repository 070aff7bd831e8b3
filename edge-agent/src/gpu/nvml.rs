//! GPUs through NVML, which is loaded at run time: the same program runs where there is none.
//!
//! Without NVML there are no GPUs. It is looked for again at each inventory, so that a driver that
//! comes later is noticed. Reads only; sets nothing.

use super::{GpuProcess, GpuSample, GpuSource, metrics};
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use shared::model::{GpuDevice, GpuHealth, GpuInventory, GpuSource as InventorySource};
use std::collections::BTreeMap;
use std::fmt;
use tracing::{info, warn};

/// More than any machine has; a driver that counts wrongly must not keep the agent busy.
const DEVICES_MAX: u32 = 64;

/// Looks in a row, 30 s apart, after which a device that can't be read counts as ill.
const FAILED_LOOKS_MAX: u32 = 3;

/// A mebibyte in bytes, in DCGM's unit of memory.
const MIB: u64 = 1024 * 1024;

/// Names under which drivers install the library. The second is there without development packages.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// The GPUs of the driver on this machine.
pub struct NvmlGpus {
    nvml: Option<Nvml>,
    /// Whether it was said that there is none.
    absence_told: bool,
    /// Whether there is a driver, as far as was ever seen: then its silence is not absence.
    was_present: bool,
    /// Each device as it was read last, and in how many looks in a row it could not be read since.
    seen: BTreeMap<u32, (GpuDevice, u32)>,
}

impl NvmlGpus {
    /// Looks for NVML. Where there is none this is a source without GPUs, until a driver comes.
    #[must_use]
    pub fn open() -> Self {
        let mut gpus =
            Self { nvml: None, absence_told: false, was_present: false, seen: BTreeMap::new() };
        gpus.look();
        gpus
    }

    /// Whether NVML was found.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.nvml.is_some()
    }

    /// A node without a driver has no GPUs. One whose driver was there is not known to have none.
    fn without_driver(&self) -> Option<GpuInventory> {
        (!self.was_present).then(GpuInventory::default)
    }

    fn look(&mut self) {
        match load() {
            Ok(nvml) => {
                let driver = nvml.sys_driver_version().unwrap_or_default();
                info!(driver, "NVML found");
                (self.nvml, self.absence_told) = (Some(nvml), false);
                self.was_present = true;
            }
            Err(error) => {
                let is_absent = matches!(error, NvmlError::LibloadingError(_));
                // The library is there: a driver that is being updated, say.
                self.was_present |= !is_absent;
                if is_absent && !self.absence_told {
                    info!(%error, "no NVML on this machine: a node without GPUs");
                } else if !self.absence_told {
                    warn!(%error, "NVML is here and does not answer: the GPUs are unknown");
                }
                self.absence_told = true;
            }
        }
    }
}

impl GpuSource for NvmlGpus {
    fn inventory(&mut self) -> Option<GpuInventory> {
        if self.nvml.is_none() {
            self.look();
        }
        let Some(nvml) = &self.nvml else { return self.without_driver() };
        match devices(nvml, &mut self.seen) {
            Ok(devices) => Some(GpuInventory { source: InventorySource::Nvml, devices }),
            Err(error) => {
                // A driver that was unloaded or updated: the next inventory loads it anew.
                warn!(%error, "NVML does not answer any more");
                self.nvml = None;
                None
            }
        }
    }

    fn samples(&mut self) -> Vec<GpuSample> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        devices_of(nvml).flat_map(|device| readings(&device)).collect()
    }

    fn processes(&mut self) -> Vec<GpuProcess> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        devices_of(nvml).flat_map(|device| processes(&device)).collect()
    }
}

impl fmt::Debug for NvmlGpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmlGpus").field("is_present", &self.is_present()).finish()
    }
}

fn load() -> Result<Nvml, NvmlError> {
    let [first, second] = LIBRARIES;
    let open = |library: &str| Nvml::builder().lib_path(library.as_ref()).init();
    open(first).or_else(|error| match error {
        NvmlError::LibloadingError(_) => open(second),
        other => Err(other),
    })
}

fn devices_of(nvml: &Nvml) -> impl Iterator<Item = Device<'_>> {
    let count = nvml.device_count().unwrap_or(0).min(DEVICES_MAX);
    (0..count).filter_map(|index| nvml.device_by_index(index).ok())
}

fn devices(
    nvml: &Nvml,
    seen: &mut BTreeMap<u32, (GpuDevice, u32)>,
) -> Result<Vec<GpuDevice>, NvmlError> {
    let count = nvml.device_count()?.min(DEVICES_MAX);
    Ok((0..count).map(|index| device(nvml, index, seen)).collect())
}

/// A device that can't be read is there all the same: its pods need to be told why. One failed look
/// is not an ill device: it stays as it was read last until a few have failed in a row.
fn device(nvml: &Nvml, index: u32, seen: &mut BTreeMap<u32, (GpuDevice, u32)>) -> GpuDevice {
    let error = match read_device(nvml, index) {
        Ok(device) => {
            seen.insert(index, (device.clone(), 0));
            return device;
        }
        Err(error) => error,
    };
    let known = seen.get_mut(&index).map(|(device, failed)| {
        *failed = failed.saturating_add(1);
        (device.clone(), *failed)
    });
    let health = GpuHealth::Unhealthy(format!("can't be read: {error}"));
    match known {
        Some((device, failed)) if failed < FAILED_LOOKS_MAX => device,
        Some((device, _)) => GpuDevice { health, ..device },
        None => GpuDevice {
            uuid: format!("GPU-unreadable-{index}"),
            name: "unknown".to_owned(),
            memory_bytes: 0,
            health,
        },
    }
}

fn read_device(nvml: &Nvml, index: u32) -> Result<GpuDevice, NvmlError> {
    let device = nvml.device_by_index(index)?;
    Ok(GpuDevice {
        uuid: device.uuid()?,
        name: device.name()?,
        memory_bytes: memory_bytes(&device)?,
        health: health(&device),
    })
}

/// A GPU that shares the main memory (Jetson) has none of its own to tell of.
fn memory_bytes(device: &Device<'_>) -> Result<u64, NvmlError> {
    match device.memory_info() {
        Err(NvmlError::NotSupported) => main_memory_bytes().ok_or(NvmlError::NotSupported),
        told => told.map(|memory| memory.total),
    }
}

fn main_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Whole devices in MIG mode can't be given to a pod; their instances are not offered yet.
fn health(device: &Device<'_>) -> GpuHealth {
    match device.mig_mode() {
        Ok(mode) if mode.current == MIG_ENABLED => {
            GpuHealth::Unhealthy("is in MIG mode, whose instances are not offered yet".to_owned())
        }
        _ => GpuHealth::Healthy,
    }
}

/// `NVML_DEVICE_MIG_ENABLE` of `nvml.h`.
const MIG_ENABLED: u32 = 1;

fn readings(device: &Device<'_>) -> Vec<GpuSample> {
    let Ok(uuid) = device.uuid() else { return Vec::new() };
    let utilization = device.utilization_rates().ok();
    let memory = device.memory_info().ok();
    let mhz = |clock| device.clock_info(clock).ok().map(f64::from);
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok().map(number);
    let reasons = device.current_throttle_reasons().ok().map(|bits| number(bits.bits()));
    let pcie = |way| device.pcie_throughput(way).ok().map(f64::from);
    let celsius = device.temperature(TemperatureSensor::Gpu).ok().map(f64::from);
    let values = [
        (metrics::UTILIZATION_PERCENT, utilization.as_ref().map(|rates| f64::from(rates.gpu))),
        (metrics::MEMORY_UTILIZATION_PERCENT, utilization.map(|rates| f64::from(rates.memory))),
        (metrics::MEMORY_USED_MIB, memory.as_ref().map(|memory| mib(memory.used))),
        (metrics::MEMORY_FREE_MIB, memory.map(|memory| mib(memory.free))),
        (metrics::TEMPERATURE_CELSIUS, celsius),
        // NVML says milliwatts.
        (metrics::POWER_WATTS, device.power_usage().ok().map(|power| f64::from(power) / 1000.0)),
        (metrics::SM_CLOCK_MHZ, mhz(Clock::SM)),
        (metrics::MEMORY_CLOCK_MHZ, mhz(Clock::Memory)),
        (metrics::ECC_SINGLE_BIT, ecc(MemoryError::Corrected)),
        (metrics::ECC_DOUBLE_BIT, ecc(MemoryError::Uncorrected)),
        (metrics::CLOCK_REASONS, reasons),
        (metrics::PCIE_SENT_KB_S, pcie(PcieUtilCounter::Send)),
        (metrics::PCIE_RECEIVED_KB_S, pcie(PcieUtilCounter::Receive)),
    ];
    let offered = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    offered.map(|(name, value)| GpuSample { uuid: uuid.clone(), name, value }).collect()
}

/// A process that computes and draws is listed under both, with the same memory.
fn processes(device: &Device<'_>) -> Vec<GpuProcess> {
    let Ok(uuid) = device.uuid() else { return Vec::new() };
    let computing = device.running_compute_processes().unwrap_or_default();
    let drawing = device.running_graphics_processes().unwrap_or_default();
    let mut found = BTreeMap::new();
    for process in computing.into_iter().chain(drawing) {
        if let (Ok(pid), UsedGpuMemory::Used(bytes)) =
            (i32::try_from(process.pid), process.used_gpu_memory)
        {
            found.insert(pid, number(bytes));
        }
    }
    let of = |(pid, bytes)| GpuProcess { uuid: uuid.clone(), pid, bytes };
    found.into_iter().map(of).collect()
}

#[expect(clippy::cast_precision_loss, reason = "past 2^53 the last digits are lost")]
fn number(value: u64) -> f64 {
    value as f64
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / MIB).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_nvml_is_a_node_without_gpus() {
        let mut gpus = NvmlGpus::open();
        let inventory = gpus.inventory().unwrap();
        if gpus.is_present() {
            assert_eq!(inventory.source, InventorySource::Nvml);
        } else {
            assert_eq!(inventory, GpuInventory::default());
            assert_eq!(inventory.source, InventorySource::Absent);
            assert!(gpus.samples().is_empty() && gpus.absence_told);
        }
    }
}
