//! GPUs as the node sees them.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::mig::MigRole;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Whether pods may be placed on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuHealth {
    /// Usable.
    Healthy,
    /// Not usable; the text says why, in words a person can act on.
    Unhealthy(String),
}

/// One GPU, or one MIG instance of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuDevice {
    /// The identifier that survives reboots and re-enumeration (`GPU-…` or `MIG-…` as NVML gives it).
    pub uuid: String,
    /// The product's name.
    pub name: String,
    /// Whole memory of the device in bytes.
    pub memory_bytes: u64,
    /// Whether pods may be placed on it.
    pub health: GpuHealth,
    /// Whether it is split into instances, or is one.
    #[serde(default, skip_serializing_if = "MigRole::is_unsplit")]
    pub mig: MigRole,
    /// Whether its memory is the node's main memory, as that of a GPU in a system-on-chip (Jetson): what pods get of
    /// the one is taken of the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_main_memory: bool,
}

/// What the UUID of the GPU in a Jetson's system-on-chip begins with; the serial number of the machine follows.
pub const JETSON_GPU_PREFIX: &str = "GPU-jetson-";

/// By which name CUDA and the container runtimes know a GPU: its UUID, but for a Jetson's, which they know by its
/// index alone. There is one in a machine.
#[must_use]
pub fn visible_gpu_name(uuid: &str) -> &str {
    if uuid.starts_with(JETSON_GPU_PREFIX) { "0" } else { uuid }
}

/// Where an inventory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GpuSource {
    /// The machine has no NVML: a node without GPUs.
    #[default]
    Absent,
    /// Read from the driver through NVML.
    Nvml,
    /// Made up by an explicit flag, for trials and tests; status and logs say so.
    Simulated,
    /// A Jetson's, read from the kernel's files where there is no NVML for it.
    Sysfs,
}

/// All GPUs of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuInventory {
    /// Where the list comes from.
    pub source: GpuSource,
    /// The devices, in the driver's order; after each GPU in MIG mode its instances.
    pub devices: Vec<GpuDevice>,
}

impl GpuInventory {
    /// The GPUs: all devices but the instances.
    pub fn gpus(&self) -> impl Iterator<Item = &GpuDevice> {
        self.devices.iter().filter(|device| device.mig.instance().is_none())
    }

    /// How many MIG instances there are, by profile.
    #[must_use]
    pub fn mig_instances(&self) -> BTreeMap<&str, u32> {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for instance in self.devices.iter().filter_map(|device| device.mig.instance()) {
            *counts.entry(instance.profile.as_str()).or_default() += 1;
        }
        counts
    }
}

/// As in `1 GPUs (MIG: 7 x 1g.10gb)`.
impl fmt::Display for GpuInventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            GpuSource::Absent => return write!(f, "no GPUs"),
            GpuSource::Nvml | GpuSource::Sysfs => write!(f, "{} GPUs", self.gpus().count())?,
            GpuSource::Simulated => write!(f, "{} SIMULATED GPUs", self.gpus().count())?,
        }
        let instances = self.mig_instances();
        if instances.is_empty() {
            return Ok(());
        }
        let words = instances.iter().map(|(profile, count)| format!("{count} x {profile}"));
        write!(f, " (MIG: {})", words.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::mig::MigInstance;
    use super::*;
    use crate::wire::{decode, encode};

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Earlier {
        uuid: String,
        name: String,
        memory_bytes: u64,
        health: GpuHealth,
    }

    fn device(uuid: &str, mig: MigRole) -> GpuDevice {
        let (name, health) = ("NVIDIA H100".to_owned(), GpuHealth::Healthy);
        GpuDevice {
            uuid: uuid.to_owned(),
            name,
            memory_bytes: 5,
            health,
            mig,
            shares_main_memory: false,
        }
    }

    fn instance(uuid: &str, profile: &str) -> GpuDevice {
        let (profile, parent) = (profile.to_owned(), "GPU-1".to_owned());
        device(uuid, MigRole::Instance(MigInstance { profile, parent }))
    }

    #[test]
    fn a_gpu_that_is_not_split_is_written_as_before_there_was_mig() {
        let gpu = device("GPU-1", MigRole::Unsplit);
        let bytes = encode("GPU", &gpu).unwrap();
        let earlier: Earlier = decode("GPU", &bytes, 4096).unwrap();
        assert_eq!(encode("GPU", &earlier).unwrap(), bytes);
        assert_eq!(decode::<GpuDevice>("GPU", &bytes, 4096).unwrap(), gpu);
        // An earlier hub passes over what it does not know.
        let instance = instance("MIG-1", "1g.10gb");
        let bytes = encode("GPU", &instance).unwrap();
        assert_eq!(decode::<Earlier>("GPU", &bytes, 4096).unwrap().uuid, "MIG-1");
        assert_eq!(decode::<GpuDevice>("GPU", &bytes, 4096).unwrap(), instance);
    }

    #[test]
    fn a_gpu_with_memory_of_its_own_is_written_as_before_there_were_others() {
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct BeforeJetson {
            uuid: String,
            name: String,
            memory_bytes: u64,
            health: GpuHealth,
            #[serde(default, skip_serializing_if = "MigRole::is_unsplit")]
            mig: MigRole,
        }
        let split = device("GPU-1", MigRole::Parent);
        let bytes = encode("GPU", &split).unwrap();
        let earlier: BeforeJetson = decode("GPU", &bytes, 4096).unwrap();
        assert_eq!(encode("GPU", &earlier).unwrap(), bytes);
        assert_eq!(decode::<GpuDevice>("GPU", &bytes, 4096).unwrap(), split);
        let jetson = GpuDevice { shares_main_memory: true, ..device("GPU-1", MigRole::Unsplit) };
        let bytes = encode("GPU", &jetson).unwrap();
        assert_eq!(decode::<GpuDevice>("GPU", &bytes, 4096).unwrap(), jetson);
        assert_eq!(decode::<BeforeJetson>("GPU", &bytes, 4096).unwrap().uuid, "GPU-1");
    }

    #[test]
    fn a_jetson_s_gpu_is_known_by_its_index_and_others_by_their_uuids() {
        assert_eq!(visible_gpu_name("GPU-jetson-1424021037591"), "0");
        assert_eq!(visible_gpu_name("GPU-8f0c1f5e"), "GPU-8f0c1f5e");
    }

    #[test]
    fn instances_are_counted_by_profile_and_not_as_gpus() {
        let devices = vec![
            device("GPU-1", MigRole::Parent),
            instance("MIG-1", "1g.10gb"),
            instance("MIG-2", "1g.10gb"),
            instance("MIG-3", "3g.40gb"),
            device("GPU-2", MigRole::Unsplit),
        ];
        let mut inventory = GpuInventory { source: GpuSource::Nvml, devices };
        assert_eq!(inventory.to_string(), "2 GPUs (MIG: 2 x 1g.10gb, 1 x 3g.40gb)");
        inventory.source = GpuSource::Simulated;
        inventory.devices.truncate(1);
        assert_eq!(inventory.to_string(), "1 SIMULATED GPUs");
        assert_eq!(GpuInventory::default().to_string(), "no GPUs");
    }
}
