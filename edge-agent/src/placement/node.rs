//! What a node has, and what of it is taken.
//!
//! Sums are kept up with each pod that comes or goes, so that a place is found without looking at the others.

use super::{MainShare, Placement, PodDemand};
use shared::model::{
    GpuDevice, GpuHealth, GpuRequest, MigRole, PodId, PodResources, Taint, WorkloadKey,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

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
    /// What keeps pods from a GPU for a while, by its UUID.
    pub bars: BTreeMap<String, Bar>,
    /// Pods that get nothing for a while, and why.
    pub evicted: BTreeMap<PodId, String>,
}

impl NodeResources {
    /// What a pod with these requests takes of CPU and main memory at a place: a share of a GPU whose memory is
    /// the node's as well.
    #[must_use]
    pub fn main_share(&self, resources: &PodResources, placement: &Placement) -> MainShare {
        let is_main =
            |uuid: &String| self.gpus.iter().any(|gpu| gpu.shares_main_memory && gpu.uuid == *uuid);
        let share = placement.gpu_memory_bytes.filter(|_| placement.gpus.iter().any(is_main));
        let of_gpu = MainShare { memory_bytes: share.unwrap_or(0), ..MainShare::default() };
        MainShare::of(resources).and(of_gpu)
    }

    /// Whether a GPU of this node has its memory of the node's.
    pub(super) fn shares_memory_with_gpu(&self) -> bool {
        self.gpus.iter().any(|gpu| gpu.shares_main_memory)
    }
}

/// What keeps pods from a GPU for a while: it is too hot, say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bar {
    /// Why, as in `at 91 °C, over its limit of 85`.
    pub why: String,
    /// Nobody gets it but who holds it or is one of these.
    pub is_closed: bool,
    /// Who had it, and may have it again after a restart.
    pub tenants: BTreeSet<PodId>,
    /// Who may not even keep it.
    pub resting: BTreeSet<PodId>,
}

impl Bar {
    fn keeps_out(&self, uuid: &str, demand: &PodDemand) -> bool {
        let holds =
            || demand.held.as_ref().is_some_and(|held| held.gpus.iter().any(|gpu| gpu == uuid));
        let may_have = || self.tenants.contains(&demand.pod) || holds();
        self.resting.contains(&demand.pod) || (self.is_closed && !may_have())
    }
}

/// What is taken, and by whom. Pods are known by their places in the list of demands.
#[derive(Clone)]
pub(super) struct Usage<'a> {
    pub(super) node: &'a NodeResources,
    demands: &'a [&'a PodDemand],
    /// The number of each pod's workload.
    workloads: Rc<[usize]>,
    placed: Vec<Option<Placement>>,
    /// Requests of what is placed, and in memory also shares of GPUs that have theirs of it; what asks for more than
    /// there is of anything is never added up wrongly.
    cpu_millicores: u128,
    memory_bytes: u128,
    gpus: Vec<GpuUse>,
    by_uuid: BTreeMap<&'a str, usize>,
    /// Whether a GPU has its memory of the node's.
    shares_memory_with_gpu: bool,
    /// Pods by priority and then by rank, the ones that go first last.
    by_priority: BTreeMap<i32, BTreeSet<usize>>,
}

/// What of one GPU is taken.
#[derive(Clone, Default)]
struct GpuUse {
    /// Bytes that are shared out.
    shared_bytes: u128,
    /// Who has a share.
    sharers: usize,
    /// Who has all of it.
    owners: Vec<usize>,
    /// How many pods of a workload have a part of it, by the workload's number.
    workloads: BTreeMap<usize, usize>,
}

/// Why a pod does not fit: the first of these that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    Cpu { free_millicores: u64 },
    Memory { free_bytes: u64 },
    Gpu,
}

/// Why one GPU can't take a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GpuLack<'a> {
    /// It is in MIG mode.
    Split,
    /// It is an instance, and none was asked for.
    Instance,
    /// It is no instance of the profile that was asked for.
    OtherProfile,
    Unhealthy(&'a str),
    Tainted(&'a str),
    /// It is too hot, say.
    Barred(&'a str),
    Exclusive(&'a PodId),
    Shared(usize),
    Memory {
        free_bytes: u64,
    },
    /// Its memory is the node's, of which so much is free.
    MainMemory {
        free_bytes: u64,
    },
}

impl<'a> Usage<'a> {
    /// Nothing is placed yet of `demands`, which are in the order of their ranks.
    pub(super) fn of(node: &'a NodeResources, demands: &'a [&'a PodDemand]) -> Self {
        let by_uuid = node.gpus.iter().enumerate().map(|(index, gpu)| (gpu.uuid.as_str(), index));
        let mut numbers: BTreeMap<&WorkloadKey, usize> = BTreeMap::new();
        let number = |demand: &&'a PodDemand| {
            let next = numbers.len();
            *numbers.entry(&demand.pod.workload).or_insert(next)
        };
        Self {
            node,
            demands,
            workloads: demands.iter().map(number).collect(),
            placed: vec![None; demands.len()],
            cpu_millicores: 0,
            memory_bytes: 0,
            gpus: vec![GpuUse::default(); node.gpus.len()],
            by_uuid: by_uuid.collect(),
            shares_memory_with_gpu: node.shares_memory_with_gpu(),
            by_priority: BTreeMap::new(),
        }
    }

    pub(super) fn into_placements(self) -> impl Iterator<Item = (usize, Placement)> {
        let placed = self.placed.into_iter().enumerate();
        placed.filter_map(|(pod, placement)| Some((pod, placement?)))
    }

    pub(super) fn demand(&self, pod: usize) -> Option<&'a PodDemand> {
        self.demands.get(pod).copied()
    }

    /// Where a pod is placed.
    pub(super) fn placement(&self, pod: usize) -> Option<(&'a PodDemand, &Placement)> {
        Some((self.demand(pod)?, self.placed.get(pod)?.as_ref()?))
    }

    pub(super) fn put(&mut self, pod: usize, placement: Placement) {
        let Some(demand) = self.demand(pod) else { return };
        self.cpu_millicores += u128::from(demand.resources.cpu.millicores);
        self.memory_bytes += u128::from(demand.resources.memory.bytes);
        let workload = self.workload(pod);
        self.memory_bytes += self.share_of_main_memory(&placement);
        for uuid in &placement.gpus {
            let Some(gpu) = self.gpu_mut(uuid) else { continue };
            *gpu.workloads.entry(workload).or_default() += 1;
            match placement.gpu_memory_bytes {
                Some(bytes) => {
                    gpu.shared_bytes += u128::from(bytes);
                    gpu.sharers += 1;
                }
                None => gpu.owners.push(pod),
            }
        }
        self.by_priority.entry(demand.priority).or_default().insert(pod);
        if let Some(place) = self.placed.get_mut(pod) {
            *place = Some(placement);
        }
    }

    /// Takes a pod away; where it was.
    pub(super) fn remove(&mut self, pod: usize) -> Option<Placement> {
        let placement = self.placed.get_mut(pod)?.take()?;
        let demand = self.demand(pod)?;
        self.cpu_millicores -= u128::from(demand.resources.cpu.millicores);
        self.memory_bytes -= u128::from(demand.resources.memory.bytes);
        self.memory_bytes -= self.share_of_main_memory(&placement);
        let workload = self.workload(pod);
        for uuid in &placement.gpus {
            let Some(gpu) = self.gpu_mut(uuid) else { continue };
            if let Some(count) = gpu.workloads.get_mut(&workload) {
                *count -= 1;
            }
            match placement.gpu_memory_bytes {
                Some(bytes) => {
                    gpu.shared_bytes -= u128::from(bytes);
                    gpu.sharers -= 1;
                }
                None => gpu.owners.retain(|owner| *owner != pod),
            }
        }
        if let Some(of_priority) = self.by_priority.get_mut(&demand.priority) {
            of_priority.remove(&pod);
        }
        Some(placement)
    }

    /// What of a GPU's memory that a pod has at a place is main memory.
    fn share_of_main_memory(&self, placement: &Placement) -> u128 {
        if !self.shares_memory_with_gpu {
            return 0;
        }
        let device = |uuid: &String| self.node.gpus.get(*self.by_uuid.get(uuid.as_str())?);
        let mut devices = placement.gpus.iter().filter_map(device);
        let is_main = devices.any(|gpu| gpu.shares_main_memory);
        placement.gpu_memory_bytes.filter(|_| is_main).map_or(0, u128::from)
    }

    fn workload(&self, pod: usize) -> usize {
        self.workloads.get(pod).copied().unwrap_or_default()
    }

    fn gpu_mut(&mut self, uuid: &str) -> Option<&mut GpuUse> {
        self.gpus.get_mut(*self.by_uuid.get(uuid)?)
    }

    /// Leaves the pod where it runs or was to run, if that is still possible.
    pub(super) fn keep(&mut self, pod: usize) -> bool {
        let Some(demand) = self.demand(pod) else { return false };
        let Some(place) = demand.place_so_far() else { return false };
        let possible = self.main_lack(demand).is_none() && self.place_fits(demand, place);
        if possible {
            self.put(pod, place.clone());
        }
        possible
    }

    fn place_fits(&self, demand: &PodDemand, place: &Placement) -> bool {
        let devices: Option<Vec<usize>> =
            place.gpus.iter().map(|uuid| self.by_uuid.get(uuid.as_str()).copied()).collect();
        let Some(devices) = devices else { return false };
        let usable = devices.iter().all(|device| self.gpu_lack(*device, demand).is_none());
        usable
            && match demand.resources.gpu {
                GpuRequest::None => place.gpus.is_empty(),
                GpuRequest::Whole(count) => {
                    u32::try_from(place.gpus.len()) == Ok(count) && place.gpu_memory_bytes.is_none()
                }
                GpuRequest::Mig(_) => place.gpus.len() == 1 && place.gpu_memory_bytes.is_none(),
                GpuRequest::SharedMemory(memory) => {
                    place.gpus.len() == 1 && place.gpu_memory_bytes == Some(memory.bytes)
                }
            }
    }

    /// Gives the pod a place, if there is one.
    pub(super) fn add(&mut self, pod: usize) -> bool {
        let Ok(placement) = self.fits(pod) else { return false };
        self.put(pod, placement);
        true
    }

    /// The place that the pod would get: of the GPUs that can take it those with the fewest pods of its
    /// workload, and of these those with the least memory free, so that room for large pods is left.
    pub(super) fn fits(&self, pod: usize) -> Result<Placement, Lack> {
        let (Some(demand), workload) = (self.demand(pod), self.workload(pod)) else {
            return Err(Lack::Gpu);
        };
        if let Some(lack) = self.main_lack(demand) {
            return Err(lack);
        }
        let count = gpus_of(demand.resources.gpu);
        if count == 0 {
            return Ok(Placement::default());
        }
        let gpu_memory_bytes = match demand.resources.gpu {
            GpuRequest::SharedMemory(memory) => Some(memory.bytes),
            GpuRequest::None | GpuRequest::Whole(_) | GpuRequest::Mig(_) => None,
        };
        let ranked = self.usable(demand).filter_map(|gpu| {
            let (device, used) = (self.node.gpus.get(gpu)?, self.gpus.get(gpu)?);
            let siblings = used.workloads.get(&workload).copied().unwrap_or(0);
            Some((siblings, self.gpu_free_bytes(gpu), device.uuid.as_str()))
        });
        let gpus: Vec<String> = if count == 1 {
            ranked.min().into_iter().map(|(_, _, uuid)| uuid.to_owned()).collect()
        } else {
            let mut ranked: Vec<_> = ranked.collect();
            ranked.sort_unstable();
            let count = usize::try_from(count).map_err(|_| Lack::Gpu)?;
            ranked.into_iter().take(count).map(|(_, _, uuid)| uuid.to_owned()).collect()
        };
        let found = u32::try_from(gpus.len()) == Ok(count);
        if found { Ok(Placement { gpus, gpu_memory_bytes }) } else { Err(Lack::Gpu) }
    }

    /// Whether [`Self::fits`] would find a place.
    pub(super) fn has_place(&self, pod: usize) -> bool {
        let Some(demand) = self.demand(pod) else { return false };
        let count = usize::try_from(gpus_of(demand.resources.gpu));
        self.main_lack(demand).is_none()
            && count.is_ok_and(|count| self.usable(demand).take(count).count() == count)
    }

    /// The GPUs that can take a pod.
    fn usable(&self, demand: &PodDemand) -> impl Iterator<Item = usize> {
        (0..self.gpus.len()).filter(|gpu| self.gpu_lack(*gpu, demand).is_none())
    }

    fn main_lack(&self, demand: &PodDemand) -> Option<Lack> {
        let free_millicores = free(self.node.cpu_millicores, self.cpu_millicores);
        if demand.resources.cpu.millicores > free_millicores {
            return Some(Lack::Cpu { free_millicores });
        }
        let free_bytes = self.free_memory_bytes();
        (demand.resources.memory.bytes > free_bytes).then_some(Lack::Memory { free_bytes })
    }

    fn free_memory_bytes(&self) -> u64 {
        free(self.node.memory_bytes, self.memory_bytes)
    }

    fn gpu_free_bytes(&self, gpu: usize) -> u64 {
        let (Some(device), Some(used)) = (self.node.gpus.get(gpu), self.gpus.get(gpu)) else {
            return 0;
        };
        free(device.memory_bytes, used.shared_bytes)
    }

    /// Whether too little of a GPU's memory is free for a share; where that is main memory, besides what the pod
    /// asks for of it.
    fn memory_lack(&self, gpu: usize, share: u64, demand: &PodDemand) -> Option<GpuLack<'a>> {
        let free_bytes = self.gpu_free_bytes(gpu);
        if share > free_bytes {
            return Some(GpuLack::Memory { free_bytes });
        }
        let is_main = self.node.gpus.get(gpu).is_some_and(|gpu| gpu.shares_main_memory);
        let free_bytes = self.free_memory_bytes();
        let needed = share.saturating_add(demand.resources.memory.bytes);
        (is_main && needed > free_bytes).then_some(GpuLack::MainMemory { free_bytes })
    }

    /// Why a GPU can't take the pod; `None` when it can.
    pub(super) fn gpu_lack(&self, gpu: usize, demand: &PodDemand) -> Option<GpuLack<'a>> {
        let (Some(device), Some(used)) = (self.node.gpus.get(gpu), self.gpus.get(gpu)) else {
            return Some(GpuLack::Unhealthy("is not there"));
        };
        if let Some(lack) = kind_lack(device, demand.resources.gpu) {
            return Some(lack);
        }
        if let GpuHealth::Unhealthy(why) = &device.health {
            return Some(GpuLack::Unhealthy(why));
        }
        let taints = self.node.gpu_taints.get(&device.uuid).into_iter().flatten();
        let borne = |taint: &&Taint| demand.tolerations.iter().any(|t| t.tolerates(taint));
        if let Some(taint) = taints.into_iter().find(|taint| !borne(taint)) {
            return Some(GpuLack::Tainted(&taint.key));
        }
        let bar = self.node.bars.get(&device.uuid);
        if let Some(bar) = bar.filter(|bar| bar.keeps_out(&device.uuid, demand)) {
            return Some(GpuLack::Barred(&bar.why));
        }
        if let Some(owner) = used.owners.first().and_then(|owner| self.demand(*owner)) {
            return Some(GpuLack::Exclusive(&owner.pod));
        }
        match demand.resources.gpu {
            GpuRequest::SharedMemory(memory) => self.memory_lack(gpu, memory.bytes, demand),
            GpuRequest::None | GpuRequest::Whole(_) | GpuRequest::Mig(_) => {
                (used.sharers > 0).then_some(GpuLack::Shared(used.sharers))
            }
        }
    }

    /// What is placed with a lower priority: the lowest first, and of equal ones the last in rank.
    pub(super) fn lower_than(&self, priority: i32) -> Vec<usize> {
        let lower = self.by_priority.range(..priority).map(|(_, pods)| pods);
        lower.flat_map(|pods| pods.iter().rev().copied()).collect()
    }
}

fn free(all: u64, taken: u128) -> u64 {
    u64::try_from(u128::from(all).saturating_sub(taken)).unwrap_or(u64::MAX)
}

/// How many devices a request is of.
fn gpus_of(request: GpuRequest) -> u32 {
    match request {
        GpuRequest::None => 0,
        GpuRequest::Whole(count) => count,
        GpuRequest::Mig(_) | GpuRequest::SharedMemory(_) => 1,
    }
}

/// Why no pod with this request gets a device of this kind, whatever its state; `None` when it may.
fn kind_lack<'a>(device: &GpuDevice, request: GpuRequest) -> Option<GpuLack<'a>> {
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
