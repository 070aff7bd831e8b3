//! Which GPU or MIG instance a C handle stands for: its index plus one in the upper bits, its instance's
//! index plus one in the lowest eight, zero for the GPU itself. Nothing is allocated, so that a handle
//! outlives every change of the recording, as NVML's do.

use crate::recording::{Gpu, Instance, Recording};
use nvml_wrapper_sys::bindings::nvmlDevice_t;

/// Bits of the instance.
const INSTANCE_BITS: u32 = 8;

/// A device by its indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) gpu: usize,
    pub(crate) instance: Option<usize>,
}

/// What a handle stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Device<'a> {
    Gpu(&'a Gpu),
    Instance(&'a Gpu, &'a Instance),
}

impl Handle {
    pub(crate) fn of_c(device: nvmlDevice_t) -> Option<Self> {
        let number = device.addr();
        let instance = number & ((1 << INSTANCE_BITS) - 1);
        Some(Self {
            gpu: (number >> INSTANCE_BITS).checked_sub(1)?,
            instance: instance.checked_sub(1),
        })
    }

    pub(crate) fn to_c(self) -> nvmlDevice_t {
        let instance = self.instance.map_or(0, |index| index + 1);
        let number = ((self.gpu + 1) << INSTANCE_BITS) | instance;
        std::ptr::without_provenance_mut(number)
    }

    pub(crate) fn device(self, recording: &Recording) -> Option<Device<'_>> {
        let gpu = recording.gpus.get(self.gpu)?;
        let Some(index) = self.instance else { return Some(Device::Gpu(gpu)) };
        let instance = gpu.mig.as_ref().filter(|mig| mig.is_enabled)?.instances.get(index)?;
        instance.as_ref().map(|instance| Device::Instance(gpu, instance))
    }
}

impl<'a> Device<'a> {
    /// The GPU, which an instance is a part of.
    pub(crate) fn parent(self) -> &'a Gpu {
        match self {
            Self::Gpu(gpu) | Self::Instance(gpu, _) => gpu,
        }
    }

    /// The GPU, of what instances do not offer.
    pub(crate) fn only_gpu(self) -> Option<&'a Gpu> {
        match self {
            Self::Gpu(gpu) => Some(gpu),
            Self::Instance(..) => None,
        }
    }
}
