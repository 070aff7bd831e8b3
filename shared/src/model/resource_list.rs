//! Amounts by resource name, as a container asks for them.
//!
//! A MIG instance is asked for by a name that holds its profile, as the device plugin of NVIDIA names it
//! (`nvidia.com/mig-1g.10gb: 1`), and so is a device of the node (`hinterland.dev/device-camera: 1`): so this is
//! read and written by hand. On the wire (packed CBOR, fields by position) profile and names are the values: fields
//! are only ever appended.

use super::ids::NodeId;
use super::mig::MigProfile;
use super::quantity::{CpuQuantity, MemoryQuantity};
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;

/// What precedes the profile in the name of the resource, in NVIDIA's "mixed" strategy.
const MIG_PREFIX: &str = "nvidia.com/mig-";

/// What precedes the name of a device of the node.
const DEVICE_PREFIX: &str = "hinterland.dev/device-";

/// The fields by position, as people write them.
const FIELDS: [&str; 6] = [
    "cpu",
    "memory",
    "nvidia.com/gpu",
    "hinterland.dev/gpu-memory",
    "nvidia.com/mig-PROFILE",
    "hinterland.dev/device-NAME",
];

/// Amounts by resource name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceList {
    /// Cores.
    pub cpu: Option<CpuQuantity>,
    /// Bytes of main memory.
    pub memory: Option<MemoryQuantity>,
    /// Whole GPUs.
    pub gpu_count: Option<u32>,
    /// Bytes of the memory of one shared GPU.
    pub gpu_memory: Option<MemoryQuantity>,
    /// One MIG instance of this profile.
    pub mig: Option<MigProfile>,
    /// Devices, by the names that the node's configuration gives them.
    pub devices: BTreeSet<String>,
}

/// The resource that a device of the node is, as in `hinterland.dev/device-camera`.
#[must_use]
pub fn device_resource(name: &str) -> String {
    format!("{DEVICE_PREFIX}{name}")
}

/// Whether a device of a node may be called so.
///
/// # Errors
/// What is wrong with it.
pub fn check_device_name(name: &str) -> Result<(), String> {
    NodeId::new(name).map(drop).map_err(|error| error.to_string())
}

impl MigProfile {
    /// The resource that one instance of the profile is, as in `nvidia.com/mig-1g.10gb`.
    #[must_use]
    pub fn resource_name(self) -> String {
        format!("{MIG_PREFIX}{self}")
    }
}

impl Serialize for ResourceList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [cpu, memory, gpu_count, gpu_memory, mig, devices] = FIELDS;
        let fields = 4 + usize::from(self.mig.is_some());
        if serializer.is_human_readable() {
            let fields = fields + self.devices.len();
            let mut list = serializer.serialize_map(Some(fields))?;
            list.serialize_entry(cpu, &self.cpu)?;
            list.serialize_entry(memory, &self.memory)?;
            list.serialize_entry(gpu_count, &self.gpu_count)?;
            list.serialize_entry(gpu_memory, &self.gpu_memory)?;
            if let Some(profile) = self.mig {
                list.serialize_entry(&profile.resource_name(), &1)?;
            }
            for name in &self.devices {
                list.serialize_entry(&device_resource(name), &1)?;
            }
            return list.end();
        }
        let fields = fields + usize::from(!self.devices.is_empty());
        let mut list = serializer.serialize_struct("ResourceList", fields)?;
        list.serialize_field(cpu, &self.cpu)?;
        list.serialize_field(memory, &self.memory)?;
        list.serialize_field(gpu_count, &self.gpu_count)?;
        list.serialize_field(gpu_memory, &self.gpu_memory)?;
        match self.mig {
            Some(profile) => list.serialize_field(mig, &profile)?,
            None => list.skip_field(mig)?,
        }
        match self.devices.is_empty() {
            false => list.serialize_field(devices, &self.devices)?,
            true => list.skip_field(devices)?,
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for ResourceList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("ResourceList", &FIELDS, ListVisitor)
    }
}

/// A key of the list, by name or by position.
enum Key {
    Cpu,
    Memory,
    GpuCount,
    GpuMemory,
    /// Its value is the profile.
    Mig,
    /// Its value is how many.
    MigOf(MigProfile),
    /// Its value are the names.
    Devices,
    /// Its value is how many.
    Device(String),
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a resource")
    }

    fn visit_u64<E: Error>(self, position: u64) -> Result<Key, E> {
        Ok(match position {
            0 => Key::Cpu,
            1 => Key::Memory,
            2 => Key::GpuCount,
            3 => Key::GpuMemory,
            4 => Key::Mig,
            5 => Key::Devices,
            _ => return Err(E::custom(format_args!("{position}: expected a field of 0 to 5"))),
        })
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        if let Some(profile) = name.strip_prefix(MIG_PREFIX) {
            return profile.parse().map(Key::MigOf).map_err(E::custom);
        }
        if let Some(name) = name.strip_prefix(DEVICE_PREFIX) {
            check_device_name(name).map_err(E::custom)?;
            return Ok(Key::Device(name.to_owned()));
        }
        match FIELDS.iter().position(|field| *field == name) {
            Some(position) => self.visit_u64(position as u64),
            None => Err(E::unknown_field(name, &FIELDS)),
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(KeyVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = ResourceList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("amounts by the names of resources")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResourceList, A::Error> {
        let (mut list, mut seen) = (ResourceList::default(), [false; FIELDS.len()]);
        while let Some(key) = map.next_key::<Key>()? {
            if let Key::Device(name) = key {
                list.devices.insert(map.next_value().map(|One| name)?);
                continue;
            }
            let position = match key {
                Key::Cpu => 0,
                Key::Memory => 1,
                Key::GpuCount => 2,
                Key::GpuMemory => 3,
                Key::Mig | Key::MigOf(_) => 4,
                Key::Devices | Key::Device(_) => 5,
            };
            let again = seen.get_mut(position).is_some_and(|seen| std::mem::replace(seen, true));
            if again {
                return Err(A::Error::duplicate_field(FIELDS.get(position).copied().unwrap_or("")));
            }
            match key {
                Key::Cpu => list.cpu = map.next_value()?,
                Key::Memory => list.memory = map.next_value()?,
                Key::GpuCount => list.gpu_count = map.next_value()?,
                Key::GpuMemory => list.gpu_memory = map.next_value()?,
                Key::Mig => list.mig = map.next_value()?,
                Key::MigOf(profile) => list.mig = map.next_value().map(|One| Some(profile))?,
                Key::Devices | Key::Device(_) => list.devices = map.next_value()?,
            }
        }
        Ok(list)
    }
}

/// The number 1, or nothing: a pod has one instance at most, and each device once.
struct One;

impl<'de> Deserialize<'de> for One {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(D::Error::custom(format_args!("{other}: expected 1"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Earlier {
        cpu: Option<CpuQuantity>,
        memory: Option<MemoryQuantity>,
        #[serde(rename = "nvidia.com/gpu")]
        gpu_count: Option<u32>,
        #[serde(rename = "hinterland.dev/gpu-memory")]
        gpu_memory: Option<MemoryQuantity>,
    }

    fn refusal(text: &str) -> String {
        serde_json::from_str::<ResourceList>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_list_without_mig_is_written_as_before_there_was_any() {
        let text =
            r#"{"cpu":"500m","memory":"2Gi","nvidia.com/gpu":2,"hinterland.dev/gpu-memory":null}"#;
        let list: ResourceList = serde_json::from_str(text).unwrap();
        let earlier: Earlier = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&list).unwrap(), text);
        assert_eq!(serde_json::to_string(&earlier).unwrap(), text);
        let bytes = encode("list", &earlier).unwrap();
        assert_eq!(encode("list", &list).unwrap(), bytes);
        assert_eq!(decode::<ResourceList>("list", &bytes, 4096).unwrap(), list);
    }

    #[test]
    fn a_mig_instance_is_a_resource_named_by_its_profile() {
        let list: ResourceList = serde_json::from_str(r#"{"nvidia.com/mig-1g.10gb":1}"#).unwrap();
        assert_eq!(list.mig, Some(MigProfile { slices: 1, memory_gb: 10 }));
        let text = serde_json::to_string(&list).unwrap();
        assert!(text.ends_with(r#""nvidia.com/mig-1g.10gb":1}"#), "{text}");
        assert_eq!(serde_json::from_str::<ResourceList>(&text).unwrap(), list);
        let bytes = encode("list", &list).unwrap();
        assert_eq!(decode::<ResourceList>("list", &bytes, 4096).unwrap(), list);
        // An earlier agent does not run in part what it does not know.
        assert!(decode::<Earlier>("list", &bytes, 4096).is_err());
    }

    #[test]
    fn a_device_is_a_resource_named_by_the_node_s_configuration() {
        let text = r#"{"hinterland.dev/device-camera":1,"hinterland.dev/device-lidar":1}"#;
        let list: ResourceList = serde_json::from_str(text).unwrap();
        assert_eq!(list.devices.iter().collect::<Vec<_>>(), ["camera", "lidar"]);
        let written = serde_json::to_string(&list).unwrap();
        assert!(written.ends_with(&text[1..]), "{written}");
        assert_eq!(serde_json::from_str::<ResourceList>(&written).unwrap(), list);
        let bytes = encode("list", &list).unwrap();
        assert_eq!(decode::<ResourceList>("list", &bytes, 4096).unwrap(), list);
        assert!(decode::<Earlier>("list", &bytes, 4096).is_err());
        for text in
            [r#"{"hinterland.dev/device-camera":2}"#, r#"{"hinterland.dev/device-Camera":1}"#]
        {
            assert!(serde_json::from_str::<ResourceList>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_no_node_can_give_is_refused_with_what_was_expected() {
        let words = refusal(r#"{"nvidia.com/mig-1g.10gb":2}"#);
        assert!(words.starts_with("2: expected 1"), "{words}");
        let words = refusal(r#"{"nvidia.com/mig-large":1}"#);
        assert!(words.contains("expected one as in `1g.10gb`"), "{words}");
        let words = refusal(r#"{"nvidia.com/mig-1g.10gb":1,"nvidia.com/mig-2g.20gb":1}"#);
        assert!(words.starts_with("duplicate field `nvidia.com/mig-PROFILE`"), "{words}");
        let words = refusal(r#"{"amd.com/gpu":1}"#);
        assert!(words.contains("unknown field `amd.com/gpu`, expected one of"), "{words}");
    }
}
