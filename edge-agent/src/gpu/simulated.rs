//! GPUs that are made up, for trials and tests. They exist only by an explicit flag, and their
//! inventory says so. They compute nothing.

use super::{GpuProcess, GpuSample, GpuSource, metrics};
use shared::model::{
    GpuDevice, GpuHealth, GpuInventory, GpuSource as InventorySource, MemoryQuantity, QuantityError,
};
use thiserror::Error;

/// More than any machine has; a slip of the finger must not fill the reported state.
const COUNT_MAX: u32 = 64;

/// Why a description of GPUs was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SimulationError {
    /// Not `COUNTxMEMORY`.
    #[error("`{0}` does not describe GPUs: expected COUNTxMEMORY, as in `2x8Gi`")]
    Malformed(String),
    /// No or too many GPUs.
    #[error("`{0}` describes {1} GPUs: expected 1 to {COUNT_MAX}")]
    Count(String, u32),
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
    /// The inventory that a text as in `2x8Gi` describes: two GPUs of 8 GiB each.
    ///
    /// # Errors
    /// When it is not such a text, or describes no GPU or too many.
    pub fn parse(text: &str) -> Result<GpuInventory, SimulationError> {
        let shown = || text.chars().take(40).collect::<String>();
        let malformed = || SimulationError::Malformed(shown());
        let (count, memory) = text.split_once('x').ok_or_else(malformed)?;
        let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u32 = if is_number { count.parse().map_err(|_| malformed())? } else { 0 };
        if !is_number {
            return Err(malformed());
        }
        if count == 0 || count > COUNT_MAX {
            return Err(SimulationError::Count(shown(), count));
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

fn device(number: u32, memory: MemoryQuantity) -> GpuDevice {
    GpuDevice {
        uuid: format!("GPU-simulated-{number}"),
        name: "Simulated GPU".to_owned(),
        memory_bytes: memory.bytes,
        health: GpuHealth::Healthy,
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
