//! Nodes, GPUs, workloads and samples of the simulated world.

use super::link::chance;
use hub::manifests::{InferenceWorkload, Manifests, Replicas};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use shared::model::{
    ClockStamp, Container, CpuQuantity, GpuDevice, GpuHealth, GpuInventory, GpuSource,
    MemoryQuantity, NodeId, Now, PodId, PodMetadata, PodSpec, PodTemplate, ResourceList,
    ResourceRequirements, RestartPolicy, Revision, WorkloadKey,
};
use shared::telemetry::{Sample, Series};
use std::collections::BTreeMap;

/// Workloads that come and go.
const NAMES: [&str; 5] = ["ocr", "detect", "count", "track", "speech"];

/// GPUs of each node.
const GPUS: usize = 2;

/// The name of a node.
pub(super) fn node(index: usize) -> NodeId {
    let name = format!("node-{index}");
    match NodeId::new(&name) {
        Ok(node) => node,
        Err(error) => unreachable_name(&name, &error),
    }
}

#[allow(clippy::panic)]
fn unreachable_name(name: &str, error: &shared::model::IdError) -> ! {
    panic!("the simulation made a bad name `{name}`: {error}")
}

/// The number in a node's name.
pub(super) fn index_of(node: &NodeId) -> Option<usize> {
    node.as_str().strip_prefix("node-")?.parse().ok()
}

/// The GPUs of a node.
pub(super) fn gpus(index: usize) -> GpuInventory {
    let device = |number| GpuDevice {
        uuid: format!("GPU-{index}-{number}"),
        name: "simulated".to_owned(),
        memory_bytes: 16 << 30,
        health: GpuHealth::Healthy,
    };
    GpuInventory { source: GpuSource::Simulated, devices: (0..GPUS).map(device).collect() }
}

/// The one boot of every machine here.
const BOOT: u64 = 1;

/// What a node measures.
pub(super) fn sample_at(now: Now) -> Sample {
    // A figure with 53 bits is far beyond the length of a simulation.
    #[allow(clippy::cast_precision_loss)]
    let seconds = now.monotonic.0 as f64 / 1000.0;
    let values = [(Series::new("node_uptime_seconds"), seconds)].into();
    // Time since boot is the simulation's own; the wall clock may be wrong.
    Sample { at: now.wall, clock: ClockStamp::of(now, BOOT), values }
}

/// What the fleet should run.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    workloads: BTreeMap<String, Wanted>,
    revisions: u64,
}

#[derive(Debug, Clone)]
struct Wanted {
    revision: u64,
    replicas: u32,
    whole_gpus: u32,
    priority: i32,
}

impl Fleet {
    /// One change; what it was, for the event log.
    pub(super) fn change(&mut self, random: &mut ChaCha20Rng) -> String {
        let index = usize::try_from(random.next_u32()).unwrap_or(0) % NAMES.len();
        let name = NAMES.get(index).copied().unwrap_or("ocr").to_owned();
        if self.workloads.contains_key(&name) && chance(random, 400) {
            self.workloads.remove(&name);
            return format!("{name} is withdrawn");
        }
        self.revisions += 1;
        let wanted = Wanted {
            revision: self.revisions,
            replicas: random.next_u32() % 3,
            whole_gpus: random.next_u32() % 3,
            priority: i32::try_from(random.next_u32() % 3).unwrap_or(0),
        };
        let change = format!("{name} becomes {wanted:?}");
        self.workloads.insert(name, wanted);
        change
    }

    /// The priority of a pod that the fleet wants just so; `None` when it does not. A revision is
    /// never used twice, so one that is wanted was wanted ever since it was first.
    pub(super) fn priority_of(&self, pod: &PodId, revision: Revision) -> Option<i32> {
        let wanted = self.workloads.get(pod.workload.name())?;
        let same = Revision(wanted.revision) == revision && pod.ordinal < wanted.replicas;
        same.then_some(wanted.priority)
    }

    /// The manifests that say so.
    pub(super) fn manifests(&self) -> Manifests {
        let workloads = self.workloads.iter().filter_map(|(name, wanted)| {
            let key = WorkloadKey::new("default", name).ok()?;
            Some((key.clone(), workload(key, wanted)))
        });
        Manifests { workloads: workloads.collect(), nodes: BTreeMap::new() }
    }
}

fn workload(key: WorkloadKey, wanted: &Wanted) -> InferenceWorkload {
    let limits = ResourceList {
        cpu: Some(CpuQuantity { millicores: 500 }),
        memory: Some(MemoryQuantity { bytes: 512 << 20 }),
        gpu_count: Some(wanted.whole_gpus),
        gpu_memory: None,
    };
    let container = Container {
        name: "server".to_owned(),
        command: vec!["server".to_owned(), wanted.revision.to_string()],
        resources: ResourceRequirements { requests: ResourceList::default(), limits },
        ..Container::default()
    };
    InferenceWorkload {
        key,
        revision: Revision(wanted.revision),
        priority: wanted.priority,
        replicas: Replicas::PerNode(wanted.replicas),
        node_selector: BTreeMap::new(),
        tolerations: vec![],
        template: PodTemplate {
            metadata: PodMetadata::default(),
            spec: PodSpec {
                containers: vec![container],
                restart_policy: RestartPolicy::Always,
                termination_grace_period_seconds: 5,
            },
        },
        results: vec![],
    }
}
