//! Nodes, GPUs, workloads and samples of the simulated world.

use super::hub::RESULT_SINKS;
use super::link::chance;
use hub::manifests::{EdgeNode, InferenceWorkload, Manifests, OfflinePolicy, Replicas};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use shared::model::{
    ClockStamp, Container, CpuQuantity, GpuDevice, GpuHealth, GpuInventory, GpuSource, LinkBudget,
    MemoryQuantity, MigRole, NodeId, Now, PodId, PodMetadata, PodSpec, PodTemplate, ResourceList,
    ResourceRequirements, RestartPolicy, ResultRoute, Revision, WorkloadKey,
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
        memory_bytes: GPU_MEMORY_BYTES,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    };
    GpuInventory { source: GpuSource::Simulated, devices: (0..GPUS).map(device).collect() }
}

/// Bytes of a GPU's memory.
pub(super) const GPU_MEMORY_BYTES: u64 = 16 << 30;

/// What each pod asks for of the node's cores, and what the node has.
pub(super) const POD_MILLICORES: u64 = 500;
pub(super) const NODE_MILLICORES: u64 = 4_000;

/// What a node measures.
pub(super) fn sample_at(now: Now, boot: u64, series: usize) -> Sample {
    // A figure with 53 bits is far beyond the length of a simulation.
    #[allow(clippy::cast_precision_loss)]
    let seconds = now.monotonic.0 as f64 / 1000.0;
    let gauge = |number: usize| {
        let step = now.monotonic.0 / 10_000 / (1 + number as u64 % 7);
        let value = f64::from(u32::try_from(step * 31 % 97).unwrap_or(0));
        (Series::new("node_load1").with("of", &number.to_string()), value)
    };
    let uptime = (Series::new("node_uptime_seconds"), seconds);
    let values = (1..series).map(gauge).chain([uptime]).collect();
    // Time since boot is the simulation's own; the wall clock may be wrong.
    Sample { at: now.wall, clock: ClockStamp::of(now, boot), values }
}

/// What the fleet should run.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    workloads: BTreeMap<String, Wanted>,
    revisions: u64,
    /// What links may carry.
    budgets: BTreeMap<NodeId, LinkBudget>,
}

#[derive(Debug, Clone)]
struct Wanted {
    revision: u64,
    replicas: u32,
    gpu: WantedGpu,
    priority: i32,
    /// Where its results go.
    sink: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum WantedGpu {
    Whole(u32),
    SharedGibibytes(u64),
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
            gpu: match random.next_u32() % 6 {
                whole @ 0..=2 => WantedGpu::Whole(whole),
                shared => WantedGpu::SharedGibibytes(u64::from(shared) * 2),
            },
            priority: i32::try_from(random.next_u32() % 3).unwrap_or(0),
            sink: if chance(random, 500) { RESULT_SINKS[0] } else { RESULT_SINKS[1] },
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
        let budgeted = |(node, link): (&NodeId, &LinkBudget)| {
            (node.clone(), EdgeNode { link: *link, ..EdgeNode::default() })
        };
        Manifests {
            workloads: workloads.collect(),
            nodes: self.budgets.iter().map(budgeted).collect(),
            ..Manifests::default()
        }
    }

    /// A node's link may carry this from now on.
    pub(super) fn set_budget(&mut self, node: NodeId, link: LinkBudget) {
        self.budgets.insert(node, link);
    }

    /// A workload of one pod a node without a GPU, with results for `sink`.
    pub(super) fn want(&mut self, name: &str, sink: &'static str) {
        self.revisions += 1;
        let (revision, gpu) = (self.revisions, WantedGpu::Whole(0));
        let wanted = Wanted { revision, replicas: 1, gpu, priority: 1, sink };
        self.workloads.insert(name.to_owned(), wanted);
    }
}

fn workload(key: WorkloadKey, wanted: &Wanted) -> InferenceWorkload {
    let limits = ResourceList {
        cpu: Some(CpuQuantity { millicores: POD_MILLICORES }),
        memory: Some(MemoryQuantity { bytes: 512 << 20 }),
        gpu_count: match wanted.gpu {
            WantedGpu::Whole(count) => Some(count),
            WantedGpu::SharedGibibytes(_) => None,
        },
        gpu_memory: match wanted.gpu {
            WantedGpu::Whole(_) => None,
            WantedGpu::SharedGibibytes(count) => Some(MemoryQuantity { bytes: count << 30 }),
        },
        ..ResourceList::default()
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
                // Every other one has a network of its own.
                host_network: wanted.revision.is_multiple_of(2).then_some(false),
                ..PodSpec::default()
            },
        },
        results: routes(wanted.sink),
        rollout: None,
        cluster_selector: None,
        affinity: None,
        offline: OfflinePolicy::default(),
        mig: None,
        autoscaling: None,
        parameters_from: vec![],
    }
}

/// Without any route results go to the default sink.
fn routes(sink: &str) -> Vec<ResultRoute> {
    let route = ResultRoute { topic: "*".to_owned(), sink: sink.to_owned(), thinning: None };
    if sink == shared::model::DEFAULT_SINK { vec![] } else { vec![route] }
}
