//! Which GPUs and MIG instances there are, and how they are, as the driver lists them.

use super::super::jetson;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use shared::model::{GpuDevice, GpuHealth, MigInstance, MigRole};
use std::collections::BTreeMap;
use std::path::Path;

/// More than any machine has; a driver that counts wrongly must not keep the agent busy.
const DEVICES_MAX: u32 = 64;

/// No GPU is split into more than 7.
const INSTANCES_PER_GPU_MAX: u32 = 8;

/// Looks in a row, 30 s apart, after which a device that can't be read counts as ill.
const FAILED_LOOKS_MAX: u32 = 3;

/// `NVML_DEVICE_MIG_ENABLE` of `nvml.h`.
const MIG_ENABLED: u32 = 1;

/// Of a GPU that the driver calls lost.
const LOST: &str =
    "the driver has lost it: it fell off the bus or can't be reached; restart the machine";

/// What stands between product and profile in the name of an instance.
const MIG_IN_NAME: &str = " MIG ";

/// Each GPU with its instances as they were read last, by the driver's index.
pub(super) type SeenGpus = BTreeMap<u32, SeenGpu>;

/// A GPU and its instances as they were read last.
#[derive(Debug)]
pub(super) struct SeenGpu {
    devices: Vec<GpuDevice>,
    /// In how many looks in a row it could not be read since.
    failed_looks: u32,
}

/// All GPUs, after each its instances.
pub(super) fn inventory(nvml: &Nvml, seen: &mut SeenGpus) -> Result<Vec<GpuDevice>, NvmlError> {
    let count = nvml.device_count()?.min(DEVICES_MAX);
    Ok((0..count).flat_map(|index| look_at(nvml, index, seen)).collect())
}

/// The GPUs that answer.
pub(super) fn answering(nvml: &Nvml) -> impl Iterator<Item = Device<'_>> {
    let count = nvml.device_count().unwrap_or(0).min(DEVICES_MAX);
    (0..count).filter_map(|index| nvml.device_by_index(index).ok())
}

/// A device that can't be read is there all the same: its pods need to be told why. One failed look
/// is not an ill device: it stays as it was read last until a few have failed in a row, or until the
/// driver says that it is lost.
fn look_at(nvml: &Nvml, index: u32, seen: &mut SeenGpus) -> Vec<GpuDevice> {
    let error = match read_gpu(nvml, index) {
        Ok(devices) => {
            seen.insert(index, SeenGpu { devices: devices.clone(), failed_looks: 0 });
            return devices;
        }
        Err(error) => error,
    };
    let why = match error {
        NvmlError::GpuLost => LOST.to_owned(),
        _ => format!("can't be read: {error}"),
    };
    let Some(known) = seen.get_mut(&index) else { return vec![unreadable(index, why)] };
    known.failed_looks = known.failed_looks.saturating_add(1);
    if known.failed_looks < FAILED_LOOKS_MAX && !matches!(error, NvmlError::GpuLost) {
        return known.devices.clone();
    }
    known.devices.iter().map(|device| ill(device, &why)).collect()
}

/// The device as one that takes no pods: an instance because of its GPU.
pub(super) fn ill(device: &GpuDevice, why: &str) -> GpuDevice {
    let health = GpuHealth::Unhealthy(match device.mig.instance() {
        Some(instance) => format!("its GPU {}: {why}", instance.parent),
        None => why.to_owned(),
    });
    GpuDevice { health, ..device.clone() }
}

fn unreadable(index: u32, why: String) -> GpuDevice {
    GpuDevice {
        uuid: format!("GPU-unreadable-{index}"),
        name: "unknown".to_owned(),
        memory_bytes: 0,
        health: GpuHealth::Unhealthy(why),
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    }
}

fn read_gpu(nvml: &Nvml, index: u32) -> Result<Vec<GpuDevice>, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let is_split = is_split(&device)?;
    let memory = memory(&device)?;
    let gpu = GpuDevice {
        uuid: uuid(&device)?,
        name: device.name()?,
        memory_bytes: memory.bytes,
        health: GpuHealth::Healthy,
        mig: if is_split { MigRole::Parent } else { MigRole::Unsplit },
        shares_main_memory: memory.is_main,
    };
    let instances = instances(&device)?;
    let read: Result<Vec<_>, _> =
        instances.iter().map(|instance| read_instance(instance, &gpu.uuid)).collect();
    Ok([vec![gpu], read?].concat())
}

/// Whether a GPU is in MIG mode. One that can't be, and a driver from before MIG, say so; any other
/// error is no answer, and nobody's GPU is taken for whole by it.
fn is_split(device: &Device<'_>) -> Result<bool, NvmlError> {
    match device.mig_mode() {
        Ok(mode) => Ok(mode.current == MIG_ENABLED),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The instances of a GPU; none of one that is not in MIG mode.
pub(super) fn instances<'nvml>(gpu: &Device<'nvml>) -> Result<Vec<Device<'nvml>>, NvmlError> {
    if !is_split(gpu)? {
        return Ok(vec![]);
    }
    let count = gpu.mig_device_count()?.min(INSTANCES_PER_GPU_MAX);
    let at = |index| match gpu.mig_device_by_index(index) {
        Err(NvmlError::NotFound) => None,
        found => Some(found),
    };
    (0..count).filter_map(at).collect()
}

fn read_instance(device: &Device<'_>, parent: &str) -> Result<GpuDevice, NvmlError> {
    let name = device.name()?;
    let profile = match name.rsplit_once(MIG_IN_NAME) {
        Some((_, profile)) => profile.to_owned(),
        None => profile_of_attributes(device)?,
    };
    Ok(GpuDevice {
        uuid: device.uuid()?,
        name,
        memory_bytes: memory(device)?.bytes,
        health: GpuHealth::Healthy,
        mig: MigRole::Instance(MigInstance { profile, parent: parent.to_owned() }),
        shares_main_memory: false,
    })
}

/// NVIDIA rounds the memory up: 9856 MiB are `10gb`.
fn profile_of_attributes(device: &Device<'_>) -> Result<String, NvmlError> {
    let attributes = device.attributes()?;
    let memory_gb = attributes.memory_size_mb.div_ceil(1024);
    Ok(format!("{}g.{memory_gb}gb", attributes.gpu_instance_slice_count))
}

/// The UUID of a GPU or an instance. A Jetson's has one by which it is known without NVML too.
pub(super) fn uuid(device: &Device<'_>) -> Result<String, NvmlError> {
    let root = Path::new("/");
    match device.memory_info() {
        Err(NvmlError::NotSupported) if jetson::chip(root).is_some() => Ok(jetson::uuid(root)),
        _ => device.uuid(),
    }
}

struct Memory {
    bytes: u64,
    /// Whether it is the node's.
    is_main: bool,
}

/// A GPU that shares the main memory has none of its own to tell of.
fn memory(device: &Device<'_>) -> Result<Memory, NvmlError> {
    match device.memory_info() {
        Err(NvmlError::NotSupported) => {
            let bytes = jetson::main_memory_bytes(Path::new("/")).ok_or(NvmlError::NotSupported)?;
            Ok(Memory { bytes, is_main: true })
        }
        told => told.map(|memory| Memory { bytes: memory.total, is_main: false }),
    }
}
