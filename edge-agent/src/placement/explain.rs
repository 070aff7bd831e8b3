//! Why a pod has no place, as kube-scheduler says it.

use super::node::{GpuLack, Lack, Usage};
use super::{Decision, PodDemand};
use shared::model::{CpuQuantity, GpuDevice, GpuRequest, MemoryQuantity, Toleration};
use std::collections::BTreeMap;

/// Says why pods have no place, when all that has one is placed.
pub(super) struct Explainer<'a, 'u> {
    usage: &'u Usage<'a>,
    /// What was said of GPUs, by what decides it.
    said: Vec<(Asked<'a>, (&'static str, String))>,
}

/// What decides what is said of GPUs: the request, what is borne, and where a GPU's memory is the node's, the bytes
/// that are asked for of that.
type Asked<'a> = (GpuRequest, &'a [Toleration], u64);

impl<'a, 'u> Explainer<'a, 'u> {
    pub(super) fn new(usage: &'u Usage<'a>) -> Self {
        Self { usage, said: vec![] }
    }

    /// The decision for a pod that does not fit.
    pub(super) fn unplaced(
        &mut self,
        pod: usize,
        demand: &'a PodDemand,
        preempted: bool,
    ) -> Decision {
        let usage = self.usage;
        let (reason, message) = match usage.fits(pod) {
            Err(Lack::Cpu { free_millicores }) => {
                ("InsufficientCpu", cpu(usage, demand, free_millicores))
            }
            Err(Lack::Memory { free_bytes }) => {
                ("InsufficientMemory", memory(usage, demand, free_bytes))
            }
            Err(Lack::Gpu) | Ok(_) => self.gpus(demand),
        };
        if preempted {
            let message = format!("made room for a pod of higher priority; {message}");
            return Decision::Unplaced { reason: "Preempted".to_owned(), message };
        }
        Decision::Unplaced { reason: reason.to_owned(), message }
    }

    /// Many pods ask for the same, and hear the same; where pods rest it depends on the pod.
    fn gpus(&mut self, demand: &'a PodDemand) -> (&'static str, String) {
        let is_one = self.usage.node.shares_memory_with_gpu();
        let memory = if is_one { demand.resources.memory.bytes } else { 0 };
        let asked = (demand.resources.gpu, demand.tolerations.as_slice(), memory);
        if let Some((_, said)) = self.said.iter().find(|(known, _)| *known == asked) {
            return said.clone();
        }
        let said = gpus(self.usage, demand);
        if self.usage.node.bars.is_empty() && self.said.len() < SAID_MAX {
            self.said.push((asked, said.clone()));
        }
        said
    }
}

/// Different requests whose words are remembered.
const SAID_MAX: usize = 64;

fn cpu(usage: &Usage<'_>, demand: &PodDemand, free_millicores: u64) -> String {
    let free = CpuQuantity { millicores: free_millicores };
    let all = CpuQuantity { millicores: usage.node.cpu_millicores };
    format!("insufficient cpu (need {}, free {free} of {all})", demand.resources.cpu)
}

fn memory(usage: &Usage<'_>, demand: &PodDemand, free_bytes: u64) -> String {
    let free = MemoryQuantity { bytes: free_bytes };
    let all = MemoryQuantity { bytes: usage.node.memory_bytes };
    let shared = if usage.node.shares_memory_with_gpu() { ", shared with the GPU" } else { "" };
    format!("insufficient memory (need {}, free {free} of {all}{shared})", demand.resources.memory)
}

fn gpus(usage: &Usage<'_>, demand: &PodDemand) -> (&'static str, String) {
    if usage.node.gpus.is_empty() {
        return ("NoGpus", "0/0 GPUs: this node has none (or its driver is not loaded)".to_owned());
    }
    let wants_instance = matches!(demand.resources.gpu, GpuRequest::Mig(_));
    let is_asked_for = |gpu: &GpuDevice| gpu.mig.instance().is_some() == wants_instance;
    let gpus = usage.node.gpus.iter().enumerate();
    let asked_for: Vec<usize> =
        gpus.filter(|(_, gpu)| is_asked_for(gpu)).map(|(index, _)| index).collect();
    let all = asked_for.len();
    if all == 0 && wants_instance {
        let message = "0/0 MIG instances: no GPU of this node is split into instances";
        return ("NoMigInstances", message.to_owned());
    }
    let mut counts: BTreeMap<GpuLack<'_>, usize> = BTreeMap::new();
    for lack in asked_for.into_iter().filter_map(|device| usage.gpu_lack(device, demand)) {
        *counts.entry(lack).or_default() += 1;
    }
    let usable = all - counts.values().sum::<usize>();
    let mut parts: Vec<(String, usize)> =
        counts.iter().map(|(lack, count)| (words(lack, demand), *count)).collect();
    parts.sort_unstable();
    let parts: Vec<String> = parts.iter().map(|(why, count)| format!("{count} {why}")).collect();
    let need = match demand.resources.gpu {
        GpuRequest::Whole(count) if count > 1 => format!(" (need {count})"),
        _ => String::new(),
    };
    let why = if parts.is_empty() { "there are no more".to_owned() } else { parts.join(", ") };
    let devices = if wants_instance { "MIG instances" } else { "GPUs" };
    (reason(counts.keys()), format!("{usable}/{all} {devices}{need}: {why}"))
}

fn reason<'a>(lacks: impl Iterator<Item = &'a GpuLack<'a>> + Clone) -> &'static str {
    let memory =
        |lack: &GpuLack<'_>| matches!(lack, GpuLack::Memory { .. } | GpuLack::MainMemory { .. });
    let unhealthy = |lack: &GpuLack<'_>| matches!(lack, GpuLack::Unhealthy(_));
    if lacks.clone().any(memory) {
        "InsufficientGpuMemory"
    } else if lacks.clone().next().is_some() && { lacks }.all(unhealthy) {
        "UnhealthyGpus"
    } else {
        "InsufficientGpus"
    }
}

fn words(lack: &GpuLack<'_>, demand: &PodDemand) -> String {
    match lack {
        GpuLack::Split => "in MIG mode (given out by instances)".to_owned(),
        GpuLack::Instance => "a MIG instance".to_owned(),
        GpuLack::OtherProfile => match demand.resources.gpu {
            GpuRequest::Mig(profile) => format!("with another MIG profile (want {profile})"),
            _ => "with another MIG profile".to_owned(),
        },
        GpuLack::Unhealthy(why) => format!("unhealthy ({why})"),
        GpuLack::Tainted(key) => format!("with a taint that is not tolerated ({key})"),
        GpuLack::Barred(why) => (*why).to_owned(),
        GpuLack::Exclusive(pod) => format!("exclusive to {pod}"),
        GpuLack::Shared(1) => "shared by a pod".to_owned(),
        GpuLack::Shared(count) => format!("shared by {count} pods"),
        GpuLack::Memory { free_bytes } => {
            let (need, free) = (share(demand), MemoryQuantity { bytes: *free_bytes });
            format!("insufficient memory (need {need}, free {free})")
        }
        GpuLack::MainMemory { free_bytes } => {
            let (need, free) = (share(demand), MemoryQuantity { bytes: *free_bytes });
            let main = demand.resources.memory;
            format!(
                "insufficient memory shared with the node (need {need} and {main}, free {free})"
            )
        }
    }
}

fn share(demand: &PodDemand) -> MemoryQuantity {
    match demand.resources.gpu {
        GpuRequest::SharedMemory(memory) => memory,
        _ => MemoryQuantity::default(),
    }
}
