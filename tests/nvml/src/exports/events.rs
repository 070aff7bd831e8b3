//! XID errors as they happen.

#![expect(unsafe_code, reason = "a C interface is exported by name and writes through pointers")]

use crate::answer::{
    INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, TIMEOUT, of_device, recording, tell,
};
use crate::events::{LOOK_INTERVAL_MS, sets};
use crate::handle::Handle;
use nvml_wrapper_sys::bindings as nvml;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::{c_uint, c_ulonglong};
use std::time::Duration;

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvml::nvmlEventSet_t) -> nvmlReturn_t {
    let created = recording("nvmlEventSetCreate").map(|_| sets().create());
    // SAFETY: as the caller promises.
    unsafe { tell(set, created.map(std::ptr::without_provenance_mut)) }
}

/// Of the kinds of events there are XID errors alone.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _kinds: c_ulonglong,
    set: nvml::nvmlEventSet_t,
) -> nvmlReturn_t {
    let answer = of_device(device, "nvmlDeviceRegisterEvents", |device| {
        let gpu = device.only_gpu().ok_or(NOT_SUPPORTED)?;
        sets().register(set.addr(), &gpu.uuid).then_some(()).ok_or(INVALID_ARGUMENT)
    });
    answer.map_or_else(|code| code, |()| SUCCESS)
}

/// # Safety
/// As [`tell`].
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvml::nvmlEventSet_t,
    event: *mut nvml::nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let next = || {
        let recording = recording("nvmlEventSetWait_v2")?;
        sets().next(set.addr(), &recording).ok_or(INVALID_ARGUMENT)
    };
    let mut waited_ms = 0;
    let answer = loop {
        match next() {
            Ok(Some((gpu, xid))) => {
                break Ok(nvml::nvmlEventData_t {
                    device: Handle { gpu, instance: None }.to_c(),
                    eventType: nvml::nvmlEventTypeXidCriticalError.into(),
                    eventData: xid,
                    gpuInstanceId: c_uint::MAX,
                    computeInstanceId: c_uint::MAX,
                });
            }
            Ok(None) if waited_ms >= timeout_ms => break Err(TIMEOUT),
            Ok(None) => {
                std::thread::sleep(Duration::from_millis(LOOK_INTERVAL_MS.into()));
                waited_ms += LOOK_INTERVAL_MS;
            }
            Err(code) => break Err(code),
        }
    };
    // SAFETY: as the caller promises.
    unsafe { tell(event, answer) }
}

/// Frees a set.
#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: nvml::nvmlEventSet_t) -> nvmlReturn_t {
    if sets().free(set.addr()) { SUCCESS } else { INVALID_ARGUMENT }
}
