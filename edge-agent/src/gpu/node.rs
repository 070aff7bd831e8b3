//! The GPUs of this machine, whoever tells of them: NVML where it lists any, else the kernel of a Jetson.
//!
//! Where NVML lists a Jetson's GPU it says little of it; the kernel's files tell the rest. Both give it the same UUID,
//! so that it stays the same GPU whichever of them answers.

use super::{GpuProcess, GpuSample, GpuSource, JetsonGpus, NvmlGpus};
use shared::model::{GpuInventory, GpuSource as InventorySource};
use std::path::Path;
use tracing::info;

/// The GPUs of this machine.
#[derive(Debug)]
pub(super) struct NodeGpus<N = NvmlGpus> {
    nvml: N,
    jetson: JetsonGpus,
    /// What was listed last.
    listed: GpuInventory,
    /// Whether it was said who tells of them, or that nobody does.
    is_told: bool,
}

impl NodeGpus {
    /// Looks for NVML, at `library` or where drivers install it, and for a Jetson.
    pub(super) fn open(library: Option<&Path>) -> Self {
        Self::of(NvmlGpus::open(library), JetsonGpus::open(Path::new("/")))
    }
}

impl<N: GpuSource> NodeGpus<N> {
    fn of(nvml: N, jetson: JetsonGpus) -> Self {
        Self { nvml, jetson, listed: GpuInventory::default(), is_told: false }
    }

    /// NVML that was there and is silent leaves its GPUs unknown; one that never listed any on a Jetson says nothing
    /// of its GPU.
    fn look(&mut self) -> Option<GpuInventory> {
        let by_nvml = self.nvml.inventory();
        let lists = by_nvml.as_ref().is_some_and(|inventory| !inventory.devices.is_empty());
        if lists || self.jetson.chip().is_none() {
            return by_nvml;
        }
        let by_kernel = self.jetson.inventory()?;
        let is_known = by_nvml.is_some() || self.listed.source != InventorySource::Nvml;
        if is_known && !by_kernel.devices.is_empty() { Some(by_kernel) } else { by_nvml }
    }

    fn say_once(&mut self) {
        if self.is_told {
            return;
        }
        self.is_told = true;
        match self.listed.source {
            InventorySource::Absent => info!("no NVML and no Jetson: a node without GPUs"),
            InventorySource::Sysfs => {
                let chip = self.jetson.chip();
                info!(chip, "the GPU of this Jetson is read from the kernel's files");
            }
            InventorySource::Nvml | InventorySource::Simulated => {}
        }
    }
}

impl<N: GpuSource> GpuSource for NodeGpus<N> {
    fn inventory(&mut self) -> Option<GpuInventory> {
        let inventory = self.look()?;
        self.is_told &= self.listed.source == inventory.source;
        self.listed = inventory.clone();
        self.say_once();
        Some(inventory)
    }

    fn has_news(&mut self) -> bool {
        self.nvml.has_news()
    }

    fn samples(&mut self) -> Vec<GpuSample> {
        let mut samples = self.nvml.samples();
        if self.jetson.chip().is_none() {
            return samples;
        }
        let known = self.jetson.samples().into_iter().filter(|sample| {
            let is_told = |told: &GpuSample| (&told.uuid, told.name) == (&sample.uuid, sample.name);
            self.listed.devices.iter().any(|gpu| gpu.uuid == sample.uuid)
                && !samples.iter().any(is_told)
        });
        let known: Vec<GpuSample> = known.collect();
        samples.extend(known);
        samples
    }

    fn processes(&mut self) -> Vec<GpuProcess> {
        self.nvml.processes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{jetson, metrics};
    use super::*;
    use shared::model::{GpuDevice, GpuHealth, MigRole};
    use std::path::PathBuf;

    /// NVML that says what it is told to say.
    #[derive(Debug)]
    struct Nvml(Option<GpuInventory>);

    impl GpuSource for Nvml {
        fn inventory(&mut self) -> Option<GpuInventory> {
            self.0.clone()
        }

        fn samples(&mut self) -> Vec<GpuSample> {
            let gpus = self.0.iter().flat_map(|inventory| &inventory.devices);
            let load = |gpu: &GpuDevice| GpuSample {
                uuid: gpu.uuid.clone(),
                name: metrics::UTILIZATION_PERCENT,
                value: 7.0,
            };
            gpus.map(load).collect()
        }

        fn processes(&mut self) -> Vec<GpuProcess> {
            vec![]
        }
    }

    fn orin() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/jetson/agx-orin")
    }

    fn lists(uuid: &str) -> Nvml {
        let device = GpuDevice {
            uuid: uuid.to_owned(),
            name: "by NVML".to_owned(),
            memory_bytes: 1,
            health: GpuHealth::Healthy,
            mig: MigRole::Unsplit,
            shares_main_memory: false,
        };
        Nvml(Some(GpuInventory { source: InventorySource::Nvml, devices: vec![device] }))
    }

    fn names(gpus: &mut NodeGpus<Nvml>) -> Option<Vec<String>> {
        let devices = gpus.inventory()?.devices;
        Some(devices.into_iter().map(|gpu| gpu.name).collect())
    }

    #[test]
    fn nvml_that_lists_a_gpu_wins_and_the_kernel_tells_what_it_leaves_out() {
        let mut gpus = NodeGpus::of(lists(&jetson::uuid(&orin())), JetsonGpus::open(&orin()));
        assert_eq!(names(&mut gpus).unwrap(), ["by NVML"]);
        let samples = gpus.samples();
        let of = |name: &str| -> Vec<f64> {
            samples.iter().filter(|one| one.name == name).map(|one| one.value).collect()
        };
        assert_eq!(of(metrics::UTILIZATION_PERCENT), [7.0]);
        assert_eq!(of(metrics::TEMPERATURE_CELSIUS).len(), 1);
        let mut other = NodeGpus::of(lists("GPU-other"), JetsonGpus::open(&orin()));
        other.inventory();
        assert_eq!(other.samples().len(), 1, "nothing of a GPU that is not listed");
    }

    #[test]
    fn a_jetson_without_nvml_or_with_one_that_lists_none_or_is_silent_is_read_from_the_kernel() {
        for nvml in [Some(GpuInventory::default()), None] {
            let mut gpus = NodeGpus::of(Nvml(nvml), JetsonGpus::open(&orin()));
            let inventory = gpus.inventory().unwrap();
            assert_eq!(inventory.source, InventorySource::Sysfs);
            assert_eq!(inventory.devices.len(), 1);
        }
    }

    #[test]
    fn nvml_that_has_listed_gpus_and_is_silent_leaves_them_unknown() {
        let mut gpus = NodeGpus::of(lists("GPU-a"), JetsonGpus::open(&orin()));
        assert!(gpus.inventory().is_some());
        gpus.nvml = Nvml(None);
        assert_eq!(names(&mut gpus), None);
    }

    #[test]
    fn elsewhere_nvml_alone_counts() {
        let nowhere = || JetsonGpus::open(Path::new("/nowhere"));
        let mut none = NodeGpus::of(Nvml(Some(GpuInventory::default())), nowhere());
        assert_eq!(none.inventory(), Some(GpuInventory::default()));
        assert_eq!(NodeGpus::of(Nvml(None), nowhere()).inventory(), None);
        assert_eq!(names(&mut NodeGpus::of(lists("GPU-a"), nowhere())).unwrap(), ["by NVML"]);
    }
}
