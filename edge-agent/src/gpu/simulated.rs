//! GPUs that are made up, for trials and tests. They exist only by an explicit flag, and their
//! inventory says so. They compute nothing.

use super::{GpuProcess, GpuSample, GpuSource, metrics};
use shared::model::{
    GpuDevice, GpuHealth, GpuInventory, GpuSource as InventorySource, MemoryQuantity, MigInstance,
    MigProfile, MigProfileError, MigRole, QuantityError,
};
use thiserror::Error;

/// More than any machine has; a slip of the finger must not fill the reported state.
const COUNT_MAX: u32 = 64;

/// As many as a GPU can be split into.
const INSTANCES_MAX: u32 = 7;

/// Why a description of GPUs was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SimulationError {
    /// Neither `COUNTxMEMORY` nor `COUNTxMIG(COUNTxPROFILE)`.
    #[error(
        "`{0}` does not describe GPUs: expected COUNTxMEMORY or COUNTxMIG(COUNTxPROFILE), as in \
         `2x8Gi` or `1xMIG(7x1g.10gb)`"
    )]
    Malformed(String),
    /// No or too many GPUs.
    #[error("`{0}` describes {1} GPUs: expected 1 to {COUNT_MAX}")]
    Count(String, u32),
    /// No or too many instances of each GPU.
    #[error("`{0}` describes GPUs of {1} instances each: expected 1 to {INSTANCES_MAX}")]
    Instances(String, u32),
    /// Not a profile.
    #[error("`{0}` does not describe GPUs: its instances are wrong")]
    Profile(String, #[source] MigProfileError),
    /// GPUs without memory take no pod.
    #[error("`{0}` describes GPUs without memory")]
    NoMemory(String),
    /// The memory is not a quantity.
    #[error("`{0}` does not describe GPUs: its memory is wrong")]
    Memory(String, #[source] QuantityError),
}

/// GPUs that are made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedGpus {
    inventory: GpuInventory,
}

impl SimulatedGpus {
    /// The inventory that a text as in `2x8Gi` describes: two GPUs of 8 GiB each. `1xMIG(7x1g.10gb)`
    /// is a GPU in MIG mode with seven instances.
    ///
    /// # Errors
    /// When it is not such a text, or describes no GPU or too many.
    pub fn parse(text: &str) -> Result<GpuInventory, SimulationError> {
        let shown = || text.chars().take(40).collect::<String>();
        let malformed = || SimulationError::Malformed(shown());
        let (count, memory) = counted(text).ok_or_else(malformed)?;
        if count == 0 || count > COUNT_MAX {
            return Err(SimulationError::Count(shown(), count));
        }
        if let Some(instances) = memory.strip_prefix("MIG(") {
            let instances = instances.strip_suffix(')').and_then(counted);
            let (each, profile) = instances.ok_or_else(malformed)?;
            if each == 0 || each > INSTANCES_MAX {
                return Err(SimulationError::Instances(shown(), each));
            }
            let refused = |error| SimulationError::Profile(shown(), error);
            let profile: MigProfile = profile.parse().map_err(refused)?;
            let devices = (0..count).flat_map(|number| split(number, each, profile)).collect();
            return Ok(GpuInventory { source: InventorySource::Simulated, devices });
        }
        let memory: MemoryQuantity =
            memory.parse().map_err(|error| SimulationError::Memory(shown(), error))?;
        if memory.bytes == 0 {
            return Err(SimulationError::NoMemory(shown()));
        }
        let devices = (0..count).map(|number| device(number, memory)).collect();
        Ok(GpuInventory { source: InventorySource::Simulated, devices })
    }

    /// A source of these GPUs, for an agent that was told to make them up.
    #[must_use]
    pub fn new(inventory: GpuInventory) -> Self {
        Self { inventory }
    }
}

impl GpuSource for SimulatedGpus {
    fn inventory(&mut self) -> Option<GpuInventory> {
        Some(self.inventory.clone())
    }

    fn samples(&mut self) -> Vec<GpuSample> {
        let readings = |device: &GpuDevice| {
            // No GPU has 2^52 bytes.
            let whole_mib = u32::try_from(device.memory_bytes >> 20).unwrap_or(u32::MAX);
            let idle = [
                (metrics::UTILIZATION_PERCENT, 0.0),
                (metrics::MEMORY_UTILIZATION_PERCENT, 0.0),
                (metrics::MEMORY_USED_MIB, 0.0),
                (metrics::MEMORY_FREE_MIB, f64::from(whole_mib)),
                (metrics::TEMPERATURE_CELSIUS, 40.0),
                (metrics::POWER_WATTS, 10.0),
                (metrics::SM_CLOCK_MHZ, 300.0),
                (metrics::MEMORY_CLOCK_MHZ, 405.0),
                (metrics::ECC_SINGLE_BIT, 0.0),
                (metrics::ECC_DOUBLE_BIT, 0.0),
                // Idle.
                (metrics::CLOCK_REASONS, 1.0),
                (metrics::PCIE_SENT_KB_S, 0.0),
                (metrics::PCIE_RECEIVED_KB_S, 0.0),
            ];
            let uuid = device.uuid.clone();
            idle.map(|(name, value)| GpuSample { uuid: uuid.clone(), name, value })
        };
        self.inventory.devices.iter().flat_map(readings).collect()
    }

    /// They compute nothing, for nobody.
    fn processes(&mut self) -> Vec<GpuProcess> {
        Vec::new()
    }
}

/// As in `2x8Gi`: a number, and what there is so often.
fn counted(text: &str) -> Option<(u32, &str)> {
    let (count, what) = text.split_once('x')?;
    let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
    Some((count.parse().ok().filter(|_| is_number)?, what))
}

/// A GPU and its instances.
fn split(number: u32, instances: u32, profile: MigProfile) -> Vec<GpuDevice> {
    let bytes = |count: u32| (u64::from(profile.memory_gb) << 30).saturating_mul(count.into());
    let parent = GpuDevice {
        mig: MigRole::Parent,
        ..device(number, MemoryQuantity { bytes: bytes(instances) })
    };
    let instance = |index| GpuDevice {
        uuid: format!("MIG-simulated-{number}-{index}"),
        name: format!("Simulated GPU MIG {profile}"),
        memory_bytes: bytes(1),
        health: GpuHealth::Healthy,
        mig: MigRole::Instance(MigInstance {
            profile: profile.to_string(),
            parent: parent.uuid.clone(),
        }),
        shares_main_memory: false,
    };
    let instances: Vec<_> = (0..instances).map(instance).collect();
    [vec![parent], instances].concat()
}

fn device(number: u32, memory: MemoryQuantity) -> GpuDevice {
    GpuDevice {
        uuid: format!("GPU-simulated-{number}"),
        name: "Simulated GPU".to_owned(),
        memory_bytes: memory.bytes,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_gpus_of_8_gib_are_two_gpus_of_8_gib_and_say_that_they_are_made_up() {
        let inventory = SimulatedGpus::parse("2x8Gi").unwrap();
        assert_eq!(inventory.source, InventorySource::Simulated);
        let seen: Vec<_> =
            inventory.devices.iter().map(|gpu| (gpu.uuid.as_str(), gpu.memory_bytes)).collect();
        assert_eq!(seen, [("GPU-simulated-0", 8 << 30), ("GPU-simulated-1", 8 << 30)]);
        let samples = SimulatedGpus::new(inventory).samples();
        assert!(samples.iter().any(|sample| {
            sample.name == metrics::MEMORY_FREE_MIB && (sample.value - 8192.0).abs() < 0.5
        }));
    }

    #[test]
    fn a_gpu_in_mig_mode_is_a_gpu_and_its_instances() {
        let inventory = SimulatedGpus::parse("2xMIG(3x1g.10gb)").unwrap();
        assert_eq!(inventory.to_string(), "2 SIMULATED GPUs (MIG: 6 x 1g.10gb)");
        let uuids: Vec<_> = inventory.devices.iter().map(|gpu| gpu.uuid.as_str()).collect();
        assert_eq!(uuids[..2], ["GPU-simulated-0", "MIG-simulated-0-0"]);
        assert_eq!(inventory.devices[1].memory_bytes, 10 << 30);
        for text in ["1xMIG", "1xMIG()", "1xMIG(1g.10gb)", "1xMIG(1x10Gi)", "1xMIG(1x1g.10gb"] {
            let error = SimulatedGpus::parse(text).unwrap_err();
            assert!(error.to_string().contains("does not describe GPUs"), "{text}: {error}");
        }
        let many = SimulatedGpus::parse("1xMIG(8x1g.10gb)");
        assert!(matches!(many, Err(SimulationError::Instances(_, 8))), "{many:?}");
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        for text in ["", "x", "2", "2x", "x8Gi", "-1x8Gi", "+2x8Gi", "2 x8Gi", "2X8Gi", "2x8GiB"] {
            let error = SimulatedGpus::parse(text).unwrap_err();
            assert!(error.to_string().contains("does not describe GPUs"), "{text}: {error}");
        }
        assert_eq!(SimulatedGpus::parse("0x8Gi"), Err(SimulationError::Count("0x8Gi".into(), 0)));
        assert!(matches!(SimulatedGpus::parse("65x1Gi"), Err(SimulationError::Count(_, 65))));
        assert!(matches!(SimulatedGpus::parse("1x0"), Err(SimulationError::NoMemory(_))));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,30}") {
            let _ = SimulatedGpus::parse(&text);
        }
    }
}
