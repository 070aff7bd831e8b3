//! What is measured of a device, and whose memory it is.

#![expect(unsafe_code, reason = "a C interface is exported by name and writes through pointers")]

use crate::answer::{
    Answer, INSUFFICIENT_SIZE, INVALID_ARGUMENT, SUCCESS, of_device, of_gpu, tell,
};
use crate::handle::Device;
use crate::recording::{Process, Processes};
use nvml_wrapper_sys::bindings as nvml;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::{c_uint, c_ulonglong};

/// Memory that the driver does not tell.
const NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    utilization: *mut nvml::nvmlUtilization_t,
) -> nvmlReturn_t {
    let answer = of_gpu(device, "nvmlDeviceGetUtilizationRates", |gpu| {
        gpu.utilization
            .map(|rates| nvml::nvmlUtilization_t { gpu: rates.gpu, memory: rates.memory })
    });
    // SAFETY: as the caller promises.
    unsafe { tell(utilization, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: c_uint,
    celsius: *mut c_uint,
) -> nvmlReturn_t {
    let answer = of_gpu(device, "nvmlDeviceGetTemperature", |gpu| gpu.temperature_celsius);
    // SAFETY: as the caller promises.
    unsafe { tell(celsius, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(
    device: nvmlDevice_t,
    milliwatts: *mut c_uint,
) -> nvmlReturn_t {
    let answer = of_gpu(device, "nvmlDeviceGetPowerUsage", |gpu| gpu.power_milliwatts);
    // SAFETY: as the caller promises.
    unsafe { tell(milliwatts, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    clock: c_uint,
    mhz: *mut c_uint,
) -> nvmlReturn_t {
    let answer = of_gpu(device, "nvmlDeviceGetClockInfo", |gpu| match (clock, gpu.clocks?) {
        (nvml::nvmlClockType_enum_NVML_CLOCK_SM, clocks) => Some(clocks.sm),
        (nvml::nvmlClockType_enum_NVML_CLOCK_MEM, clocks) => Some(clocks.memory),
        _ => None,
    });
    // SAFETY: as the caller promises.
    unsafe { tell(mhz, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    kind: c_uint,
    _since: c_uint,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    let answer = of_gpu(device, "nvmlDeviceGetTotalEccErrors", |gpu| match (kind, gpu.ecc?) {
        (nvml::nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_CORRECTED, ecc) => {
            Some(ecc.corrected)
        }
        (_, ecc) => Some(ecc.uncorrected),
    });
    // SAFETY: as the caller promises.
    unsafe { tell(count, answer) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    let function = "nvmlDeviceGetCurrentClocksThrottleReasons";
    // SAFETY: as the caller promises.
    unsafe { tell(reasons, of_gpu(device, function, |gpu| gpu.clock_reasons)) }
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPcieThroughput(
    device: nvmlDevice_t,
    way: c_uint,
    kb_a_second: *mut c_uint,
) -> nvmlReturn_t {
    let answer = of_gpu(device, "nvmlDeviceGetPcieThroughput", |gpu| match (way, gpu.pcie?) {
        (nvml::nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_TX_BYTES, pcie) => Some(pcie.sent),
        (_, pcie) => Some(pcie.received),
    });
    // SAFETY: as the caller promises.
    unsafe { tell(kb_a_second, answer) }
}

/// A list of processes; where there is room for fewer, how many there are.
///
/// # Safety
/// `count` may be read and written, and as many of `infos` as it says may be written.
unsafe fn tell_processes(
    count: *mut c_uint,
    infos: *mut nvml::nvmlProcessInfo_t,
    answer: Answer<Vec<nvml::nvmlProcessInfo_t>>,
) -> nvmlReturn_t {
    let processes = match answer {
        Ok(processes) => processes,
        Err(code) => return code,
    };
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: as the caller promises.
    let room = unsafe { count.read() } as usize;
    // SAFETY: as the caller promises.
    unsafe { count.write(c_uint::try_from(processes.len()).unwrap_or(c_uint::MAX)) };
    if processes.len() > room {
        return INSUFFICIENT_SIZE;
    }
    for (index, process) in processes.into_iter().enumerate() {
        // SAFETY: there is room for all of them.
        unsafe { infos.add(index).write(process) };
    }
    SUCCESS
}

fn processes_of(
    device: nvmlDevice_t,
    function: &str,
    kind: fn(&Processes) -> &Vec<Process>,
) -> Answer<Vec<nvml::nvmlProcessInfo_t>> {
    let info = |process: &Process| nvml::nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.bytes.unwrap_or(NOT_AVAILABLE),
        gpuInstanceId: c_uint::MAX,
        computeInstanceId: c_uint::MAX,
    };
    of_device(device, function, |device| {
        let processes = match device {
            Device::Gpu(gpu) => &gpu.processes,
            Device::Instance(_, instance) => &instance.processes,
        };
        Ok(kind(processes).iter().map(info).collect())
    })
}

/// # Safety
/// As [`tell_processes`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvml::nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let function = "nvmlDeviceGetComputeRunningProcesses_v3";
    let answer = processes_of(device, function, |processes| &processes.compute);
    // SAFETY: as the caller promises.
    unsafe { tell_processes(count, infos, answer) }
}

/// # Safety
/// As [`tell_processes`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvml::nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let function = "nvmlDeviceGetGraphicsRunningProcesses_v3";
    let answer = processes_of(device, function, |processes| &processes.graphics);
    // SAFETY: as the caller promises.
    unsafe { tell_processes(count, infos, answer) }
}
