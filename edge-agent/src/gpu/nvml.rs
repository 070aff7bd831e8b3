//! GPUs through NVML, which is loaded at run time: the same program runs where there is none.
//!
//! Without NVML there are no GPUs. It is looked for again at each inventory, so that a driver that
//! comes later is noticed. Reads only; sets nothing.

mod devices;
mod events;
mod readings;
mod repair;

use super::{GpuProcess, GpuSample, GpuSource};
use devices::SeenGpus;
use events::XidWatch;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use repair::Repairs;
use shared::model::{GpuDevice, GpuHealth, GpuInventory, GpuSource as InventorySource};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{info, warn};

/// Names under which drivers install the library. The second is there without development packages.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// The GPUs of the driver on this machine.
pub struct NvmlGpus {
    nvml: Option<Arc<Nvml>>,
    /// Errors of the GPUs since this driver was loaded.
    xids: Option<XidWatch>,
    /// Where the library is, if somebody said so.
    library: Option<PathBuf>,
    /// Whether it was said that there is none.
    absence_told: bool,
    /// Whether there is a driver, as far as was ever seen: then its silence is not absence.
    was_present: bool,
    seen: SeenGpus,
    /// What of their memory is out of use, as it was read with the inventory.
    repairs: Repairs,
}

impl NvmlGpus {
    /// Looks for NVML, at `library` or where drivers install it. Where there is none this is a source
    /// without GPUs, until a driver comes. Whoever says where it is has one: its absence is silence.
    #[must_use]
    pub fn open(library: Option<&Path>) -> Self {
        let mut gpus = Self {
            nvml: None,
            xids: None,
            library: library.map(Path::to_owned),
            absence_told: false,
            was_present: library.is_some(),
            seen: SeenGpus::default(),
            repairs: Repairs::default(),
        };
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

    /// A device of a GPU that pods are kept away from because of an error, or of its memory, is unhealthy.
    fn mark(&self, device: &mut GpuDevice) {
        let gpu = device.mig.instance().map_or(device.uuid.as_str(), |part| part.parent.as_str());
        let error = self.xids.as_ref().and_then(|xids| xids.reason(gpu));
        let reason = error.or_else(|| self.repairs.failure(gpu).map(str::to_owned));
        if let Some(why) = reason.filter(|_| device.health == GpuHealth::Healthy) {
            *device = devices::ill(device, &why);
        }
    }

    fn look(&mut self) {
        match load(self.library.as_deref()) {
            Ok(nvml) => {
                let driver = nvml.sys_driver_version().unwrap_or_default();
                info!(driver, "NVML found");
                let nvml = Arc::new(nvml);
                self.xids = Some(XidWatch::begin(&nvml));
                (self.nvml, self.absence_told) = (Some(nvml), false);
                self.was_present = true;
            }
            Err(error) => {
                let is_absent = matches!(error, NvmlError::LibloadingError(_));
                // The library is there: a driver that is being updated, say.
                self.was_present |= !is_absent;
                if is_absent && !self.was_present && !self.absence_told {
                    info!(%error, "no NVML on this machine");
                } else if !self.absence_told {
                    let library = self.library.as_deref().map(Path::display);
                    let library = library.map(tracing::field::display);
                    warn!(%error, library, "NVML does not answer: the GPUs are unknown");
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
        match devices::inventory(nvml, &mut self.seen) {
            Ok(mut devices) => {
                self.repairs.look(nvml);
                devices.iter_mut().for_each(|device| self.mark(device));
                Some(GpuInventory { source: InventorySource::Nvml, devices })
            }
            Err(error) => {
                // A driver that was unloaded or updated: the next inventory loads it anew.
                warn!(%error, "NVML does not answer any more");
                (self.nvml, self.xids, self.repairs) = (None, None, Repairs::default());
                None
            }
        }
    }

    fn has_news(&mut self) -> bool {
        self.xids.as_ref().is_some_and(XidWatch::take_news)
    }

    fn samples(&mut self) -> Vec<GpuSample> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let mut samples = readings::samples(nvml);
        samples.extend(self.repairs.samples());
        samples
    }

    fn processes(&mut self) -> Vec<GpuProcess> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        readings::processes(nvml)
    }
}

impl fmt::Debug for NvmlGpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmlGpus").field("is_present", &self.is_present()).finish()
    }
}

fn load(library: Option<&Path>) -> Result<Nvml, NvmlError> {
    let open = |library: &OsStr| Nvml::builder().lib_path(library).init();
    if let Some(library) = library {
        return open(library.as_os_str());
    }
    let [first, second] = LIBRARIES.map(OsStr::new);
    open(first).or_else(|error| match error {
        NvmlError::LibloadingError(_) => open(second),
        other => Err(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_nvml_is_a_node_without_gpus() {
        let mut gpus = NvmlGpus::open(None);
        let inventory = gpus.inventory().unwrap();
        if gpus.is_present() {
            assert_eq!(inventory.source, InventorySource::Nvml);
        } else {
            assert_eq!(inventory, GpuInventory::default());
            assert_eq!(inventory.source, InventorySource::Absent);
            assert!(gpus.samples().is_empty() && gpus.absence_told);
        }
    }

    #[test]
    fn a_library_that_is_said_to_be_there_and_is_not_leaves_the_gpus_unknown() {
        let mut gpus = NvmlGpus::open(Some(Path::new("/nowhere/libnvidia-ml.so.1")));
        assert!(!gpus.is_present());
        assert_eq!(gpus.inventory(), None);
    }
}
