//! What a node has, and what of it is taken.

use super::{Placement, PodDemand};
use shared::model::{GpuDevice, GpuHealth, GpuRequest, MigRole, PodId, Taint};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What pods may have of a node: its capacity less the reserved share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeResources {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// Bytes of main memory.
    pub memory_bytes: u64,
    /// GPUs and MIG instances.
    pub gpus: Vec<GpuDevice>,
    /// Taints of GPUs by UUID.
    pub gpu_taints: BTreeMap<String, Vec<Taint>>,
}

/// What is taken, and by whom.
pub(super) struct Usage<'a> {
    pub(super) node: &'a NodeResources,
    placed: BTreeMap<PodId, (&'a PodDemand, Placement)>,
}

/// Why a pod does not fit: the first of these that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    Cpu { free_millicores: u64 },
    Memory { free_bytes: u64 },
    Gpu,
}

/// Why one GPU can't take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GpuLack {
    /// It is in MIG mode.
    Split,
    /// It is an instance, and none was asked for.
    Instance,
    /// It is no instance of the profile that was asked for.
    OtherProfile,
    Unhealthy(String),
    Tainted(String),
    Exclusive(PodId),
    Shared(usize),
    Memory {
        free_bytes: u64,
    },
}

impl<'a> Usage<'a> {
    pub(super) fn of(node: &'a NodeResources) -> Self {
        Self { node, placed: BTreeMap::new() }
    }

    pub(super) fn into_placements(self) -> BTreeMap<PodId, Placement> {
        self.placed.into_iter().map(|(pod, (_, placement))| (pod, placement)).collect()
    }

    pub(super) fn put(&mut self, demand: &'a PodDemand, placement: Placement) {
        self.placed.insert(demand.pod.clone(), (demand, placement));
    }

    pub(super) fn remove(&mut self, pod: &PodId) {
        self.placed.remove(pod);
    }

    /// Leaves the pod where it runs, if that is still possible.
    pub(super) fn keep(&mut self, demand: &'a PodDemand) -> bool {
        let Some(held) = &demand.held else { return false };
        let possible = self.main_lack(demand).is_none() && self.held_fits(demand, held);
        if possible {
            self.put(demand, held.clone());
        }
        possible
    }

    fn held_fits(&self, demand: &PodDemand, held: &Placement) -> bool {
        let devices: Option<Vec<&GpuDevice>> = held
            .gpus
            .iter()
            .map(|uuid| self.node.gpus.iter().find(|device| device.uuid == *uuid))
            .collect();
        let Some(devices) = devices else { return false };
        let usable = devices.iter().all(|device| self.gpu_lack(device, demand).is_none());
        usable
            && match demand.resources.gpu {
                GpuRequest::None => held.gpus.is_empty(),
                GpuRequest::Whole(count) => {
                    u32::try_from(held.gpus.len()) == Ok(count) && held.gpu_memory_bytes.is_none()
                }
                GpuRequest::Mig(_) => held.gpus.len() == 1 && held.gpu_memory_bytes.is_none(),
                GpuRequest::SharedMemory(memory) => {
                    held.gpus.len() == 1 && held.gpu_memory_bytes == Some(memory.bytes)
                }
            }
    }

    /// Gives the pod a place, if there is one.
    pub(super) fn add(&mut self, demand: &'a PodDemand) -> bool {
        match self.fits(demand) {
            Ok(placement) => {
                self.put(demand, placement);
                true
            }
            Err(_) => false,
        }
    }

    /// The place that the pod would get: of the GPUs that can take it those with the least memory
    /// free, so that room for large pods is left.
    pub(super) fn fits(&self, demand: &PodDemand) -> Result<Placement, Lack> {
        if let Some(lack) = self.main_lack(demand) {
            return Err(lack);
        }
        let (count, gpu_memory_bytes) = match demand.resources.gpu {
            GpuRequest::None => return Ok(Placement::default()),
            GpuRequest::Whole(count) => (count, None),
            GpuRequest::Mig(_) => (1, None),
            GpuRequest::SharedMemory(memory) => (1, Some(memory.bytes)),
        };
        let devices = self.node.gpus.iter();
        let mut usable: Vec<&GpuDevice> =
            devices.filter(|device| self.gpu_lack(device, demand).is_none()).collect();
        usable.sort_by_key(|device| (self.gpu_free_bytes(device), device.uuid.clone()));
        let count = usize::try_from(count).map_err(|_| Lack::Gpu)?;
        if usable.len() < count {
            return Err(Lack::Gpu);
        }
        let gpus = usable.into_iter().take(count).map(|device| device.uuid.clone()).collect();
        Ok(Placement { gpus, gpu_memory_bytes })
    }

    fn main_lack(&self, demand: &PodDemand) -> Option<Lack> {
        let taken = |of: fn(&PodDemand) -> u64| -> u64 {
            self.placed.values().map(|(placed, _)| of(placed)).fold(0, u64::saturating_add)
        };
        let cpu = |demand: &PodDemand| demand.resources.cpu.millicores;
        let memory = |demand: &PodDemand| demand.resources.memory.bytes;
        let free_millicores = self.node.cpu_millicores.saturating_sub(taken(cpu));
        if cpu(demand) > free_millicores {
            return Some(Lack::Cpu { free_millicores });
        }
        let free_bytes = self.node.memory_bytes.saturating_sub(taken(memory));
        (memory(demand) > free_bytes).then_some(Lack::Memory { free_bytes })
    }

    fn holders(&self, device: &GpuDevice) -> impl Iterator<Item = (&PodId, &Placement)> {
        let uuid = device.uuid.clone();
        let placed = self.placed.iter().map(|(pod, (_, placement))| (pod, placement));
        placed.filter(move |(_, placement)| placement.gpus.contains(&uuid))
    }

    fn gpu_free_bytes(&self, device: &GpuDevice) -> u64 {
        let shares = self.holders(device).filter_map(|(_, placement)| placement.gpu_memory_bytes);
        device.memory_bytes.saturating_sub(shares.fold(0, u64::saturating_add))
    }

    /// Why `device` can't take the pod; `None` when it can.
    pub(super) fn gpu_lack(&self, device: &GpuDevice, demand: &PodDemand) -> Option<GpuLack> {
        if let Some(lack) = kind_lack(device, demand.resources.gpu) {
            return Some(lack);
        }
        if let GpuHealth::Unhealthy(why) = &device.health {
            return Some(GpuLack::Unhealthy(why.clone()));
        }
        let taints = self.node.gpu_taints.get(&device.uuid).into_iter().flatten();
        let borne = |taint: &&Taint| demand.tolerations.iter().any(|t| t.tolerates(taint));
        if let Some(taint) = taints.into_iter().find(|taint| !borne(taint)) {
            return Some(GpuLack::Tainted(taint.key.clone()));
        }
        let mut holders = self.holders(device);
        if let Some((pod, _)) = holders.find(|(_, p)| p.gpu_memory_bytes.is_none()) {
            return Some(GpuLack::Exclusive(pod.clone()));
        }
        match demand.resources.gpu {
            GpuRequest::SharedMemory(memory) => {
                let free_bytes = self.gpu_free_bytes(device);
                (memory.bytes > free_bytes).then_some(GpuLack::Memory { free_bytes })
            }
            GpuRequest::None | GpuRequest::Whole(_) | GpuRequest::Mig(_) => {
                let sharers = self.holders(device).count();
                (sharers > 0).then_some(GpuLack::Shared(sharers))
            }
        }
    }

    /// What is placed with a lower priority, the lowest first.
    pub(super) fn lower_than(&self, priority: i32) -> Vec<(&'a PodDemand, Placement)> {
        let placed = self.placed.values().filter(|(demand, _)| demand.priority < priority);
        let mut lower: Vec<_> = placed.cloned().collect();
        lower.sort_by_key(|(demand, _)| (demand.priority, Reverse(demand.pod.clone())));
        lower
    }
}

/// Why no pod with this request gets a device of this kind, whatever its state; `None` when it may.
fn kind_lack(device: &GpuDevice, request: GpuRequest) -> Option<GpuLack> {
    match (request, &device.mig) {
        (GpuRequest::Mig(profile), MigRole::Instance(instance)) => {
            (instance.profile != profile.to_string()).then_some(GpuLack::OtherProfile)
        }
        (GpuRequest::Mig(_), _) => Some(GpuLack::OtherProfile),
        (_, MigRole::Parent) => Some(GpuLack::Split),
        (_, MigRole::Instance(_)) => Some(GpuLack::Instance),
        (_, MigRole::Unsplit) => None,
    }
}
