//! Values that are asked for by number: of them those of memory that is out of use.

#![expect(unsafe_code, reason = "a C interface is exported by name and writes through pointers")]

use crate::answer::{INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, of_device};
use crate::recording::Gpu;
use nvml_wrapper_sys::bindings as nvml;
use nvml_wrapper_sys::bindings::field_id as id;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::ffi::{c_int, c_uint, c_ulonglong};

/// What a driver answers: pages as 64 bits, rows as 32.
enum Value {
    Long(c_ulonglong),
    Short(c_uint),
}

fn value_of(gpu: &Gpu, field: c_uint) -> Option<Value> {
    let (pages, rows) = (gpu.retired_pages, gpu.remapped_rows);
    Some(match field {
        id::NVML_FI_DEV_RETIRED_SBE => Value::Long(pages?.single_bit),
        id::NVML_FI_DEV_RETIRED_DBE => Value::Long(pages?.double_bit),
        id::NVML_FI_DEV_RETIRED_PENDING => Value::Long(pages?.is_pending.into()),
        id::NVML_FI_DEV_REMAPPED_COR => Value::Short(rows?.correctable),
        id::NVML_FI_DEV_REMAPPED_UNC => Value::Short(rows?.uncorrectable),
        id::NVML_FI_DEV_REMAPPED_PENDING => Value::Short(rows?.is_pending.into()),
        id::NVML_FI_DEV_REMAPPED_FAILURE => Value::Short(rows?.has_failed.into()),
        _ => return None,
    })
}

fn answer(field: &mut nvml::nvmlFieldValue_t, value: Option<Value>) {
    field.nvmlReturn = if value.is_some() { SUCCESS } else { NOT_SUPPORTED };
    match value {
        Some(Value::Long(value)) => {
            field.valueType = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
            field.value.ullVal = value;
        }
        Some(Value::Short(value)) => {
            field.valueType = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
            field.value.uiVal = value;
        }
        None => {}
    }
}

/// # Safety
/// `count` values may be read and written at `values`.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvml::nvmlFieldValue_t,
) -> nvmlReturn_t {
    let Ok(count) = usize::try_from(count) else { return INVALID_ARGUMENT };
    if values.is_null() {
        return INVALID_ARGUMENT;
    }
    let gpu = of_device(device, "nvmlDeviceGetFieldValues", |device| {
        device.only_gpu().cloned().ok_or(NOT_SUPPORTED)
    });
    let gpu = match gpu {
        Ok(gpu) => gpu,
        Err(code) => return code,
    };
    for index in 0..count {
        // SAFETY: as the caller promises.
        let field = unsafe { &mut *values.add(index) };
        let value = value_of(&gpu, field.fieldId);
        answer(field, value);
    }
    SUCCESS
}
