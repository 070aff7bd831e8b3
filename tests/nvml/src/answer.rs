//! What a C function answers: from the recording as it is now, through the caller's pointers.

#![expect(unsafe_code, reason = "a C interface is exported by name and writes through pointers")]

use crate::handle::{Device, Handle};
use crate::place;
use crate::recording::{Gpu, Recording, failure};
use nvml_wrapper_sys::bindings as nvml;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::{c_char, c_uint};

pub(crate) const SUCCESS: nvmlReturn_t = nvml::nvmlReturn_enum_NVML_SUCCESS;
pub(crate) const INVALID_ARGUMENT: nvmlReturn_t = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
pub(crate) const NOT_SUPPORTED: nvmlReturn_t = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
pub(crate) const NOT_FOUND: nvmlReturn_t = nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
pub(crate) const INSUFFICIENT_SIZE: nvmlReturn_t =
    nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
pub(crate) const LIBRARY_NOT_FOUND: nvmlReturn_t =
    nvml::nvmlReturn_enum_NVML_ERROR_LIBRARY_NOT_FOUND;
pub(crate) const TIMEOUT: nvmlReturn_t = nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT;

pub(crate) type Answer<T> = Result<T, nvmlReturn_t>;

/// The recording, unless `function` fails as a whole.
pub(crate) fn recording(function: &str) -> Answer<Recording> {
    let path = place::recording().ok_or(LIBRARY_NOT_FOUND)?;
    let recording = Recording::read(&path).map_err(|_| LIBRARY_NOT_FOUND)?;
    failure(&recording.fails, function).map_or(Ok(recording), Err)
}

/// What `read` finds of a device, unless `function` fails for it.
pub(crate) fn of_device<T>(
    handle: nvmlDevice_t,
    function: &str,
    read: impl FnOnce(Device<'_>) -> Answer<T>,
) -> Answer<T> {
    let recording = recording(function)?;
    let device = Handle::of_c(handle).and_then(|handle| handle.device(&recording));
    let device = device.ok_or(INVALID_ARGUMENT)?;
    failure(&device.parent().fails, function).map_or(Ok(()), Err)?;
    read(device)
}

/// A value of a GPU; instances do not offer it.
pub(crate) fn of_gpu<T>(
    handle: nvmlDevice_t,
    function: &str,
    read: impl FnOnce(&Gpu) -> Option<T>,
) -> Answer<T> {
    of_device(handle, function, |device| device.only_gpu().and_then(read).ok_or(NOT_SUPPORTED))
}

/// Writes an answer.
///
/// # Safety
/// `into` is null or may be written.
pub(crate) unsafe fn tell<T>(into: *mut T, answer: Answer<T>) -> nvmlReturn_t {
    match answer {
        Ok(_) if into.is_null() => INVALID_ARGUMENT,
        Ok(value) => {
            // SAFETY: as the caller promises.
            unsafe { into.write(value) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Writes a text with its NUL.
///
/// # Safety
/// `into` is null or `length` bytes of it may be written.
pub(crate) unsafe fn tell_text(
    into: *mut c_char,
    length: c_uint,
    answer: Answer<String>,
) -> nvmlReturn_t {
    let text = match answer {
        Ok(text) => text,
        Err(code) => return code,
    };
    if into.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() >= length as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the text and its NUL are no longer than `length`, and overlap nothing of the caller's.
    unsafe {
        into.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        into.add(text.len()).write(0);
    }
    SUCCESS
}
