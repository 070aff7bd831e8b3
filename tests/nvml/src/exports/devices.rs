//! The driver, its GPUs and their MIG instances: which there are, and what they are called.

#![expect(unsafe_code, reason = "a C interface is exported by name and writes through pointers")]

use crate::answer::{
    INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS, of_device, of_gpu, recording, tell,
    tell_text,
};
use crate::handle::{Device, Handle};
use crate::recording::{Gpu, Recording};
use nvml_wrapper_sys::bindings as nvml;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::{CStr, c_char, c_uint};

/// Fails while the recording says so, as without a driver.
#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    recording("nvmlInit_v2").map_or_else(|code| code, |_| SUCCESS)
}

/// Never fails.
#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    SUCCESS
}

/// The agent's wrapper has words of its own.
#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(_code: nvmlReturn_t) -> *const c_char {
    const WORDS: &CStr = c"replayed";
    WORDS.as_ptr()
}

/// # Safety
/// As [`tell_text`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    let answer = recording("nvmlSystemGetDriverVersion").map(|recording| recording.driver);
    // SAFETY: as the caller promises.
    unsafe { tell_text(version, length, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    let gpus = |recording: Recording| c_uint::try_from(recording.gpus.len()).unwrap_or(c_uint::MAX);
    // SAFETY: as the caller promises.
    unsafe { tell(count, recording("nvmlDeviceGetCount_v2").map(gpus)) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let handle = Handle { gpu: index as usize, instance: None }.to_c();
    let answer = of_device(handle, "nvmlDeviceGetHandleByIndex_v2", |_| Ok(handle));
    // SAFETY: as the caller promises.
    unsafe { tell(device, answer) }
}

/// # Safety
/// As [`tell_text`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    let answer = of_device(device, "nvmlDeviceGetUUID", |device| match device {
        Device::Gpu(gpu) => Ok(gpu.uuid.clone()),
        Device::Instance(_, instance) => Ok(instance.uuid.clone()),
    });
    // SAFETY: as the caller promises.
    unsafe { tell_text(uuid, length, answer) }
}

/// # Safety
/// As [`tell_text`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    let answer = of_device(device, "nvmlDeviceGetName", |device| match device {
        Device::Gpu(gpu) => Ok(gpu.name.clone()),
        Device::Instance(_, instance) => Ok(instance.name.clone()),
    });
    // SAFETY: as the caller promises.
    unsafe { tell_text(name, length, answer) }
}

/// # Safety
/// As [`tell`]; what is there has its version set.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvml::nvmlMemory_v2_t,
) -> nvmlReturn_t {
    let answer = of_device(device, "nvmlDeviceGetMemoryInfo_v2", |device| {
        let memory = match device {
            Device::Gpu(gpu) => gpu.memory,
            Device::Instance(_, instance) => instance.memory,
        };
        let memory = memory.ok_or(NOT_SUPPORTED)?;
        Ok(nvml::nvmlMemory_v2_t {
            version: 0,
            total: memory.total,
            reserved: memory.reserved,
            free: memory.total.saturating_sub(memory.used).saturating_sub(memory.reserved),
            used: memory.used,
        })
    });
    // SAFETY: as the caller promises.
    unsafe { tell(memory, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    let mode = |gpu: &Gpu| gpu.mig.as_ref().map(|mig| c_uint::from(mig.is_enabled));
    let answer = of_gpu(device, "nvmlDeviceGetMigMode", mode);
    // SAFETY: as the caller promises.
    match unsafe { tell(pending, answer) } {
        // SAFETY: as the caller promises.
        SUCCESS => unsafe { tell(current, answer) },
        code => code,
    }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    device: nvmlDevice_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    let places = |gpu: &Gpu| c_uint::try_from(gpu.mig.as_ref()?.instances.len()).ok();
    let answer = of_gpu(device, "nvmlDeviceGetMaxMigDeviceCount", places);
    // SAFETY: as the caller promises.
    unsafe { tell(count, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    instance: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let answer = of_device(device, "nvmlDeviceGetMigDeviceHandleByIndex", |found| {
        let mig = found.only_gpu().and_then(|gpu| gpu.mig.as_ref()).ok_or(NOT_SUPPORTED)?;
        let place = mig.instances.get(index as usize).ok_or(INVALID_ARGUMENT)?;
        let parent = Handle::of_c(device).filter(|_| place.is_some()).ok_or(NOT_FOUND)?;
        Ok(Handle { instance: Some(index as usize), ..parent }.to_c())
    });
    // SAFETY: as the caller promises.
    unsafe { tell(instance, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetAttributes_v2(
    device: nvmlDevice_t,
    attributes: *mut nvml::nvmlDeviceAttributes_t,
) -> nvmlReturn_t {
    let answer = of_device(device, "nvmlDeviceGetAttributes_v2", |device| {
        let Device::Instance(_, instance) = device else { return Err(NOT_SUPPORTED) };
        let memory = instance.memory.ok_or(NOT_SUPPORTED)?;
        // SAFETY: integers may be zero.
        let nothing: nvml::nvmlDeviceAttributes_t = unsafe { std::mem::zeroed() };
        Ok(nvml::nvmlDeviceAttributes_t {
            gpuInstanceSliceCount: instance.slices,
            memorySizeMB: memory.total >> 20,
            ..nothing
        })
    });
    // SAFETY: as the caller promises.
    unsafe { tell(attributes, answer) }
}
