//! What the driver measures of its GPUs: load, memory, heat, errors, and whose memory it is.
//!
//! Of a MIG instance it tells the memory alone: the rest is the GPU's.

use super::super::{GpuProcess, GpuSample, metrics};
use super::devices::{answering, instances, uuid};
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeMap;

/// A mebibyte in bytes, in DCGM's unit of memory.
const MIB: u64 = 1024 * 1024;

/// Readings of all GPUs and instances; what one does not offer is left out.
pub(super) fn samples(nvml: &Nvml) -> Vec<GpuSample> {
    let mut samples = Vec::new();
    for gpu in answering(nvml) {
        samples.extend(readings(&gpu));
        let instances = instances(&gpu).unwrap_or_default();
        samples.extend(instances.iter().flat_map(instance_readings));
    }
    samples
}

/// Who uses how much memory. Of a GPU in MIG mode the driver tells it by instance.
pub(super) fn processes(nvml: &Nvml) -> Vec<GpuProcess> {
    let of_gpu = |gpu: Device<'_>| match instances(&gpu).unwrap_or_default() {
        instances if instances.is_empty() => processes_of(&gpu),
        instances => instances.iter().flat_map(processes_of).collect(),
    };
    answering(nvml).flat_map(of_gpu).collect()
}

fn readings(device: &Device<'_>) -> Vec<GpuSample> {
    let Ok(uuid) = uuid(device) else { return Vec::new() };
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
    offered(&uuid, values)
}

fn instance_readings(device: &Device<'_>) -> Vec<GpuSample> {
    let Ok(uuid) = uuid(device) else { return Vec::new() };
    let memory = device.memory_info().ok();
    let values = [
        (metrics::MEMORY_USED_MIB, memory.as_ref().map(|memory| mib(memory.used))),
        (metrics::MEMORY_FREE_MIB, memory.map(|memory| mib(memory.free))),
    ];
    offered(&uuid, values)
}

fn offered<const N: usize>(uuid: &str, values: [(&'static str, Option<f64>); N]) -> Vec<GpuSample> {
    let offered = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    offered.map(|(name, value)| GpuSample { uuid: uuid.to_owned(), name, value }).collect()
}

/// A process that computes and draws is listed under both, with the same memory.
fn processes_of(device: &Device<'_>) -> Vec<GpuProcess> {
    let Ok(uuid) = uuid(device) else { return Vec::new() };
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
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / MIB).unwrap_or(u32::MAX))
}
