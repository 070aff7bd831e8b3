//! Placement: how long it takes, and how far it is from the best there is.

use super::Figure;
use anyhow::ensure;
use edge_agent::placement::{Decision, NodeResources, PodDemand, place};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use shared::model::{
    CpuQuantity, GpuDevice, GpuHealth, GpuRequest, MemoryQuantity, MigRole, PodId, PodResources,
    Revision, WorkloadKey,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;

/// Pods and GPUs of the node whose time is told.
const PODS: u32 = 1000;
const GPUS: u32 = 16;

/// Runs, of which the median counts.
const RUNS: usize = 101;

/// Small cases that are held against the best placement of all.
const CASES: u32 = 5000;
const CASE_PODS: u32 = 7;
const CASE_GPUS: u32 = 3;

/// The time, and the gap.
pub(super) fn placement() -> anyhow::Result<Vec<Figure>> {
    let (node, demands) = large();
    let decisions = place(&node, &demands);
    let placed = decisions.values().filter(|d| matches!(d, Decision::Placed(_))).count();
    let held = held_by(&demands, &decisions);
    let (cold, change) = (median(|| place(&node, &demands)), median(|| place(&node, &held)));
    let what = format!(
        "median of {RUNS}: {PODS} pods of five priorities on {GPUS} GPUs of 80 GiB, shares of 1 to 3 GiB, some whole \
         GPUs, of which {placed} find a place and the others a reason"
    );
    let again = format!("the same, with every pod that has a place holding it; {what}");
    let (worse, missed, best) = gap()?;
    let cases = format!(
        "{CASES} cases of up to {CASE_PODS} pods on up to {CASE_GPUS} GPUs, against every placement that there is, by \
         pods placed of each priority, the highest first: {worse} cases are not the best, and of {best} pods that the \
         best have placed {missed} are not placed"
    );
    let percent = |part: u32, all: u32| format!("{:.2}", f64::from(part) * 100.0 / f64::from(all));
    Ok(vec![
        Figure::new("placement_us_1000_pods_16_gpus", cold.as_micros(), "us", &what),
        Figure::new("placement_us_1000_pods_16_gpus_held", change.as_micros(), "us", &again),
        Figure::new("placement_gap_cases_percent", percent(worse, CASES), "%", &cases),
        Figure::new("placement_gap_pods_percent", percent(missed, best), "%", &cases),
    ])
}

fn median<T>(mut run: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            std::hint::black_box(run());
            begin.elapsed()
        })
        .collect();
    times.sort();
    times.get(RUNS / 2).copied().unwrap_or_default()
}

fn gpu(number: u32, gib: u64) -> GpuDevice {
    GpuDevice {
        uuid: format!("GPU-{number:02}"),
        name: "made up".to_owned(),
        memory_bytes: gib * GIB,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    }
}

fn node(gpus: Vec<GpuDevice>) -> NodeResources {
    NodeResources {
        cpu_millicores: 256_000,
        memory_bytes: 2048 * GIB,
        gpus,
        ..NodeResources::default()
    }
}

fn pod(workload: u32, ordinal: u32, priority: i32, gpu: GpuRequest) -> anyhow::Result<PodDemand> {
    let workload = WorkloadKey::new("default", &format!("workload-{workload}"))?;
    Ok(PodDemand {
        pod: PodId { workload, ordinal },
        revision: Revision(1),
        priority,
        resources: PodResources {
            cpu: CpuQuantity { millicores: 100 },
            memory: MemoryQuantity { bytes: GIB },
            gpu,
        },
        tolerations: vec![],
        held: None,
        planned: None,
    })
}

fn share(gib: u64) -> GpuRequest {
    GpuRequest::SharedMemory(MemoryQuantity { bytes: gib * GIB })
}

fn large() -> (NodeResources, Vec<PodDemand>) {
    let mut random = ChaCha20Rng::seed_from_u64(1);
    let demands = (0..PODS).filter_map(|number| {
        let request = match number % 250 {
            0 => GpuRequest::Whole(1),
            _ => share(1 + u64::from(random.next_u32() % 3)),
        };
        let priority = i32::try_from(random.next_u32() % 5).unwrap_or(0);
        pod(number / 10, number % 10, priority, request).ok()
    });
    (node((0..GPUS).map(|number| gpu(number, 80)).collect()), demands.collect())
}

/// The demands as they come next time: what was placed is held.
fn held_by(demands: &[PodDemand], decisions: &BTreeMap<PodId, Decision>) -> Vec<PodDemand> {
    let held = |demand: &PodDemand| match decisions.get(&demand.pod) {
        Some(Decision::Placed(placement)) => Some(placement.clone()),
        _ => None,
    };
    demands.iter().map(|demand| PodDemand { held: held(demand), ..demand.clone() }).collect()
}

/// Cases that are not the best, pods that they miss, and pods that the best have.
fn gap() -> anyhow::Result<(u32, u32, u32)> {
    let (mut worse, mut missed, mut all) = (0, 0, 0);
    for seed in 0..CASES {
        let (node, demands) = small(seed)?;
        let decisions = place(&node, &demands);
        let is_placed = |d: &&PodDemand| matches!(decisions.get(&d.pod), Some(Decision::Placed(_)));
        let found = score(demands.iter().filter(is_placed));
        let best = best(&node, &demands);
        ensure!(found <= best, "seed {seed}: placed {found:?}, and the best is {best:?}");
        let count = |score: &Score| score.values().sum::<u32>();
        worse += u32::from(found != best);
        missed += count(&best).saturating_sub(count(&found));
        all += count(&best);
    }
    Ok((worse, missed, all))
}

fn small(seed: u32) -> anyhow::Result<(NodeResources, Vec<PodDemand>)> {
    let mut random = ChaCha20Rng::seed_from_u64(u64::from(seed));
    let mut below = |limit: u32| random.next_u32() % limit;
    let gpus = (0..=below(CASE_GPUS)).map(|number| gpu(number, 4 + u64::from(below(12)))).collect();
    let demands = (0..=below(CASE_PODS)).map(|number| {
        let request =
            if below(6) == 0 { GpuRequest::Whole(1) } else { share(1 + u64::from(below(9))) };
        pod(number, 0, i32::try_from(below(3))?, request)
    });
    Ok((node(gpus), demands.collect::<anyhow::Result<_>>()?))
}

/// Pods placed by priority, the highest first: the greater is the better.
type Score = BTreeMap<std::cmp::Reverse<i32>, u32>;

fn score<'a>(placed: impl Iterator<Item = &'a PodDemand>) -> Score {
    // The same priorities in all scores, so that they compare place by place.
    let mut score: Score = (0..3).map(|priority| (std::cmp::Reverse(priority), 0)).collect();
    placed.for_each(|demand| *score.entry(std::cmp::Reverse(demand.priority)).or_default() += 1);
    score
}

/// The best score of all placements, by trying every one.
fn best(node: &NodeResources, demands: &[PodDemand]) -> Score {
    let free: Vec<Option<u64>> = node.gpus.iter().map(|gpu| Some(gpu.memory_bytes)).collect();
    let whole: Vec<u64> = node.gpus.iter().map(|gpu| gpu.memory_bytes).collect();
    let mut best = score([].into_iter());
    search(demands, free, &whole, &mut vec![], &mut best);
    best
}

/// `free` is `None` where a pod has the whole GPU.
fn search<'a>(
    demands: &'a [PodDemand],
    free: Vec<Option<u64>>,
    whole: &[u64],
    placed: &mut Vec<&'a PodDemand>,
    best: &mut Score,
) {
    let Some((demand, others)) = demands.split_first() else {
        let found = score(placed.iter().copied());
        if found > *best {
            *best = found;
        }
        return;
    };
    for gpu in 0..free.len() {
        let (Some(Some(left)), Some(all)) = (free.get(gpu).copied(), whole.get(gpu)) else {
            continue;
        };
        let after = match demand.resources.gpu {
            GpuRequest::SharedMemory(memory) if memory.bytes <= left => Some(left - memory.bytes),
            GpuRequest::Whole(_) if left == *all => None,
            _ => continue,
        };
        let mut next = free.clone();
        next.iter_mut().skip(gpu).take(1).for_each(|free| *free = after);
        placed.push(demand);
        search(others, next, whole, placed, best);
        placed.pop();
    }
    search(others, free, whole, placed, best);
}
