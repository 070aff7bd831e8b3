//! Sentences with their data in view, and properties over random nodes.

mod bars;
mod mig;
mod plan;
mod unified;

use super::*;
use proptest::prelude::*;
use shared::model::{
    CpuQuantity, GpuDevice, GpuHealth, GpuRequest, MemoryQuantity, MigInstance, MigRole, Taint,
    TaintEffect,
};

const GIB: u64 = 1 << 30;

fn gpu(name: &str, memory_gib: u64) -> GpuDevice {
    GpuDevice {
        uuid: format!("GPU-{name}"),
        name: "test".to_owned(),
        memory_bytes: memory_gib * GIB,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    }
}

/// A GPU that has its memory of the node's.
fn unified(memory_gib: u64) -> GpuDevice {
    let uuid = "GPU-jetson-1".to_owned();
    GpuDevice { uuid, shares_main_memory: true, ..gpu("", memory_gib) }
}

/// A GPU in MIG mode and its instances: `GPU-a`, `MIG-a0`, `MIG-a1`, …
fn split(name: &str, profiles: &[&str]) -> Vec<GpuDevice> {
    let parent = GpuDevice { mig: MigRole::Parent, ..gpu(name, 80) };
    let instance = |(number, profile): (usize, &&str)| GpuDevice {
        uuid: format!("MIG-{name}{number}"),
        mig: MigRole::Instance(MigInstance {
            profile: (*profile).to_owned(),
            parent: parent.uuid.clone(),
        }),
        ..gpu(name, 10)
    };
    let instances: Vec<GpuDevice> = profiles.iter().enumerate().map(instance).collect();
    [vec![parent], instances].concat()
}

fn mig(profile: &str) -> GpuRequest {
    GpuRequest::Mig(profile.parse().unwrap())
}

fn node(gpus: Vec<GpuDevice>) -> NodeResources {
    NodeResources {
        cpu_millicores: 4000,
        memory_bytes: 16 * GIB,
        gpus,
        gpu_taints: BTreeMap::new(),
        bars: BTreeMap::new(),
        evicted: BTreeMap::new(),
    }
}

fn pod(name: &str, priority: i32, cpu: u64, gpu: GpuRequest) -> PodDemand {
    PodDemand {
        pod: format!("default/{name}-0").parse().unwrap(),
        revision: Revision(1),
        priority,
        resources: PodResources {
            cpu: CpuQuantity { millicores: cpu },
            memory: MemoryQuantity { bytes: GIB },
            gpu,
        },
        tolerations: vec![],
        held: None,
        planned: None,
    }
}

fn shared(gib: u64) -> GpuRequest {
    GpuRequest::SharedMemory(MemoryQuantity { bytes: gib * GIB })
}

fn gpus_of(decisions: &BTreeMap<PodId, Decision>, name: &str) -> Vec<String> {
    match &decisions[&format!("default/{name}-0").parse().unwrap()] {
        Decision::Placed(placement) => placement.gpus.clone(),
        Decision::Unplaced { reason, message } => panic!("{name}: {reason}: {message}"),
    }
}

fn why(decisions: &BTreeMap<PodId, Decision>, name: &str) -> String {
    match &decisions[&format!("default/{name}-0").parse().unwrap()] {
        Decision::Unplaced { reason, message } => format!("{reason}: {message}"),
        Decision::Placed(placement) => panic!("{name} was placed on {placement:?}"),
    }
}

#[test]
fn a_share_goes_to_the_gpu_with_the_least_room_that_is_enough() {
    let node = node(vec![gpu("a", 24), gpu("b", 8)]);
    let decisions = place(&node, &[pod("ocr", 0, 100, shared(6))]);
    assert_eq!(gpus_of(&decisions, "ocr"), ["GPU-b"]);
}

#[test]
fn a_whole_gpu_is_shared_with_nobody() {
    let node = node(vec![gpu("a", 8)]);
    let demands = [pod("ocr", 1, 100, GpuRequest::Whole(1)), pod("asr", 0, 100, shared(1))];
    let decisions = place(&node, &demands);
    assert_eq!(gpus_of(&decisions, "ocr"), ["GPU-a"]);
    assert_eq!(why(&decisions, "asr"), "InsufficientGpus: 0/1 GPUs: 1 exclusive to default/ocr-0");
}

#[test]
fn each_reason_is_said_with_its_numbers() {
    let mut lost = gpu("b", 8);
    lost.health = GpuHealth::Unhealthy("XID 79".to_owned());
    let node = node(vec![gpu("a", 8), lost]);
    let decisions =
        place(&node, &[pod("llm", 0, 100, shared(12)), pod("big", 0, 9000, GpuRequest::None)]);
    assert_eq!(
        why(&decisions, "llm"),
        "InsufficientGpuMemory: 0/2 GPUs: 1 insufficient memory (need 12Gi, free 8Gi), 1 unhealthy (XID 79)"
    );
    assert_eq!(why(&decisions, "big"), "InsufficientCpu: insufficient cpu (need 9, free 4 of 4)");
}

#[test]
fn higher_priority_takes_the_place_of_the_fewest_and_lowest() {
    let node = node(vec![gpu("a", 8), gpu("b", 8)]);
    let on = |name: &str, uuid: &str, priority, gib| {
        let mut demand = pod(name, priority, 100, shared(gib));
        let gpu_memory_bytes = Some(gib * GIB);
        demand.held = Some(Placement { gpus: vec![uuid.to_owned()], gpu_memory_bytes });
        demand
    };
    let demands =
        [on("low", "GPU-a", 1, 6), on("mid", "GPU-b", 2, 6), pod("high", 9, 100, shared(7))];
    let decisions = place(&node, &demands);
    assert_eq!(gpus_of(&decisions, "high"), ["GPU-a"]);
    assert_eq!(gpus_of(&decisions, "mid"), ["GPU-b"]);
    assert!(why(&decisions, "low").starts_with("Preempted: made room"));
}

#[test]
fn nobody_is_evicted_for_a_pod_that_would_not_fit_anyway() {
    let node = node(vec![gpu("a", 8)]);
    let mut low = pod("low", 0, 100, shared(6));
    low.held = Some(Placement { gpus: vec!["GPU-a".into()], gpu_memory_bytes: Some(6 * GIB) });
    let decisions = place(&node, &[low, pod("high", 9, 100, shared(20))]);
    assert_eq!(gpus_of(&decisions, "low"), ["GPU-a"]);
}

#[test]
fn a_pod_on_a_gpu_that_fell_ill_moves_to_another() {
    let mut lost = gpu("a", 8);
    lost.health = GpuHealth::Unhealthy("fell off the bus".to_owned());
    let node = node(vec![lost, gpu("b", 8)]);
    let mut demand = pod("ocr", 0, 100, shared(6));
    demand.held = Some(Placement { gpus: vec!["GPU-a".into()], gpu_memory_bytes: Some(6 * GIB) });
    assert_eq!(gpus_of(&place(&node, &[demand]), "ocr"), ["GPU-b"]);
}

#[test]
fn a_tainted_gpu_takes_only_who_bears_it() {
    let mut node = node(vec![gpu("a", 8)]);
    let taint = Taint { key: "hot".into(), value: String::new(), effect: TaintEffect::NoSchedule };
    node.gpu_taints.insert("GPU-a".into(), vec![taint]);
    let mut bears = pod("bears", 0, 100, shared(2));
    bears.tolerations = vec![Toleration { key: Some("hot".into()), ..Toleration::default() }];
    let decisions = place(&node, &[bears, pod("not", 0, 100, shared(2))]);
    assert_eq!(gpus_of(&decisions, "bears"), ["GPU-a"]);
    assert!(why(&decisions, "not").contains("(hot)"));
}

#[test]
fn the_last_of_cpu_memory_and_a_gpu_may_be_taken_and_no_more() {
    let node = node(vec![gpu("a", 8)]);
    let with_memory = |name: &str, cpu: u64, memory: u64, gpu: GpuRequest| {
        let mut demand = pod(name, 0, cpu, gpu);
        demand.resources.memory = MemoryQuantity { bytes: memory };
        demand
    };
    let all = with_memory("all", 4000, 16 * GIB, shared(8));
    assert_eq!(gpus_of(&place(&node, &[all]), "all"), ["GPU-a"]);
    let more_cpu = with_memory("more", 4001, GIB, GpuRequest::None);
    assert!(why(&place(&node, &[more_cpu]), "more").starts_with("InsufficientCpu"));
    let more_memory = with_memory("more", 100, 17 * GIB, GpuRequest::None);
    assert_eq!(
        why(&place(&node, &[more_memory]), "more"),
        "InsufficientMemory: insufficient memory (need 17Gi, free 16Gi of 16Gi)"
    );
}

#[test]
fn a_refused_gpu_request_says_how_many_there_are_and_what_holds_them() {
    let mut lost = gpu("b", 8);
    lost.health = GpuHealth::Unhealthy("XID 79".to_owned());
    let refused = |gpus: Vec<GpuDevice>, others: &[PodDemand], gpu: GpuRequest| {
        let demands = [others, &[pod("late", -1, 100, gpu)]].concat();
        why(&place(&node(gpus), &demands), "late")
    };
    assert_eq!(
        refused(vec![], &[], GpuRequest::Whole(1)),
        "NoGpus: 0/0 GPUs: this node has none (or its driver is not loaded)"
    );
    assert_eq!(
        refused(vec![lost.clone()], &[], GpuRequest::Whole(1)),
        "UnhealthyGpus: 0/1 GPUs: 1 unhealthy (XID 79)"
    );
    assert_eq!(
        refused(vec![gpu("a", 8), gpu("c", 8)], &[], GpuRequest::Whole(3)),
        "InsufficientGpus: 2/2 GPUs (need 3): there are no more"
    );
    let shares = [pod("x", 0, 100, shared(1)), pod("y", 0, 100, shared(1))];
    assert_eq!(
        refused(vec![gpu("a", 8), lost], &shares, GpuRequest::Whole(1)),
        "InsufficientGpus: 0/2 GPUs: 1 shared by 2 pods, 1 unhealthy (XID 79)"
    );
    assert_eq!(
        refused(vec![gpu("a", 8), gpu("c", 8)], &shares[..1], GpuRequest::Whole(2)),
        "InsufficientGpus: 1/2 GPUs (need 2): 1 shared by a pod"
    );
}

#[test]
fn what_a_pod_holds_is_kept_only_while_it_is_what_it_asks_for() {
    let node = node(vec![gpu("a", 8), gpu("b", 8)]);
    let on = |gpus: &[&str], share_gib: Option<u64>| Placement {
        gpus: gpus.iter().map(|gpu| format!("GPU-{gpu}")).collect(),
        gpu_memory_bytes: share_gib.map(|gib| gib * GIB),
    };
    let next = |request: GpuRequest, held: Placement| {
        let demand = PodDemand { held: Some(held), ..pod("ocr", 0, 100, request) };
        place(&node, &[demand]).into_values().next().expect("a decision")
    };
    let whole = GpuRequest::Whole;
    assert_eq!(next(whole(1), on(&["b"], None)), Decision::Placed(on(&["b"], None)));
    assert_eq!(next(whole(2), on(&["b"], None)), Decision::Placed(on(&["a", "b"], None)));
    assert_eq!(next(whole(1), on(&["gone"], None)), Decision::Placed(on(&["a"], None)));
    assert_eq!(next(GpuRequest::None, on(&["b"], None)), Decision::Placed(on(&[], None)));
    assert_eq!(next(shared(2), on(&["b"], Some(2))), Decision::Placed(on(&["b"], Some(2))));
    assert_eq!(next(shared(2), on(&["b"], Some(1))), Decision::Placed(on(&["a"], Some(2))));
    assert_eq!(next(shared(2), on(&["b", "a"], Some(2))), Decision::Placed(on(&["a"], Some(2))));
}

#[test]
fn a_pod_takes_no_place_of_its_equals() {
    let node = node(vec![gpu("a", 8)]);
    let mut runs = pod("runs", 3, 100, shared(6));
    runs.held = Some(Placement { gpus: vec!["GPU-a".into()], gpu_memory_bytes: Some(6 * GIB) });
    let decisions = place(&node, &[runs, pod("asks", 3, 100, shared(6))]);
    assert_eq!(gpus_of(&decisions, "runs"), ["GPU-a"]);
    assert!(why(&decisions, "asks").starts_with("InsufficientGpuMemory"));
}

fn any_demand() -> impl Strategy<Value = PodDemand> {
    let request = prop_oneof![
        Just(GpuRequest::None),
        (1_u32..3).prop_map(GpuRequest::Whole),
        (1_u64..12).prop_map(shared),
        prop_oneof![Just("1g.10gb"), Just("3g.40gb")].prop_map(mig),
    ];
    (0_u32..12, -2_i32..3, 0_u64..2000, request)
        .prop_map(|(name, priority, cpu, gpu)| pod(&format!("p{name}"), priority, cpu, gpu))
}

fn any_case() -> impl Strategy<Value = (NodeResources, Vec<PodDemand>)> {
    let gpus = proptest::collection::vec((2_u64..24, any::<u8>()), 0..4);
    let demands = proptest::collection::vec(any_demand(), 0..12);
    (gpus, demands).prop_map(|(gpus, demands)| {
        let device = |(index, (gib, byte)): (usize, (u64, u8))| {
            let name = index.to_string();
            let mut devices = match byte % 5 {
                0 => split(&name, &["1g.10gb", "3g.40gb", "1g.10gb"]),
                1 if index == 0 => vec![unified(gib)],
                _ => vec![gpu(&name, gib)],
            };
            if byte.is_multiple_of(8) {
                let ill = usize::from(byte / 8) % devices.len();
                devices[ill].health = GpuHealth::Unhealthy("test".to_owned());
            }
            devices
        };
        let gpus = gpus.into_iter().enumerate().flat_map(device).collect();
        let unique: BTreeMap<PodId, PodDemand> =
            demands.into_iter().map(|demand| (demand.pod.clone(), demand)).collect();
        (node(gpus), unique.into_values().collect())
    })
}

/// The demands as they would come next time: what was placed is held.
fn held_by(demands: &[PodDemand], decisions: &BTreeMap<PodId, Decision>) -> Vec<PodDemand> {
    let hold = |demand: &PodDemand| PodDemand {
        held: match &decisions[&demand.pod] {
            Decision::Placed(placement) => Some(placement.clone()),
            Decision::Unplaced { .. } => None,
        },
        ..demand.clone()
    };
    demands.iter().map(hold).collect()
}

fn assert_not_oversold(
    node: &NodeResources,
    demands: &[PodDemand],
    decisions: &BTreeMap<PodId, Decision>,
) {
    let placed: Vec<(&PodDemand, &Placement)> = demands
        .iter()
        .filter_map(|demand| match &decisions[&demand.pod] {
            Decision::Placed(placement) => Some((demand, placement)),
            Decision::Unplaced { reason, message } => {
                assert!(!reason.is_empty() && !message.is_empty(), "{}: no reason", demand.pod);
                None
            }
        })
        .collect();
    let cpu: u64 = placed.iter().map(|(demand, _)| demand.resources.cpu.millicores).sum();
    let memory: u64 = placed.iter().map(|(demand, _)| demand.resources.memory.bytes).sum();
    let is_main = |placement: &Placement| {
        let mut devices = node.gpus.iter().filter(|gpu| placement.gpus.contains(&gpu.uuid));
        devices.any(|gpu| gpu.shares_main_memory)
    };
    let shares = placed.iter().filter(|(_, placement)| is_main(placement));
    let shares: u64 = shares.filter_map(|(_, placement)| placement.gpu_memory_bytes).sum();
    assert!(cpu <= node.cpu_millicores && memory + shares <= node.memory_bytes);
    for device in &node.gpus {
        let holders: Vec<_> =
            placed.iter().filter(|(_, p)| p.gpus.contains(&device.uuid)).collect();
        let shares: u64 = holders.iter().filter_map(|(_, p)| p.gpu_memory_bytes).sum();
        let exclusive = holders.iter().any(|(_, p)| p.gpu_memory_bytes.is_none());
        assert!(shares <= device.memory_bytes, "{} is oversold", device.uuid);
        assert!(!exclusive || holders.len() == 1, "{} is shared and exclusive", device.uuid);
        assert!(holders.is_empty() || device.health == GpuHealth::Healthy);
        for (demand, _) in holders {
            let offered = match &device.mig {
                MigRole::Unsplit => !matches!(demand.resources.gpu, GpuRequest::Mig(_)),
                MigRole::Parent => false,
                MigRole::Instance(instance) => demand.resources.gpu == mig(&instance.profile),
            };
            assert!(offered, "{} went to {}", device.uuid, demand.pod);
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_sold_twice_and_every_refusal_has_a_reason((node, demands) in any_case()) {
        let decisions = place(&node, &demands);
        prop_assert_eq!(decisions.len(), demands.len());
        assert_not_oversold(&node, &demands, &decisions);
    }

    #[test]
    fn the_order_of_the_demands_does_not_matter((node, mut demands) in any_case()) {
        let decisions = place(&node, &demands);
        demands.reverse();
        prop_assert_eq!(place(&node, &demands), decisions);
    }

    #[test]
    fn what_was_placed_stays_where_it_is((node, demands) in any_case()) {
        let first = place(&node, &demands);
        let held = held_by(&demands, &first);
        let second = place(&node, &held);
        let placed = |d: &BTreeMap<PodId, Decision>| -> BTreeMap<PodId, Decision> {
            d.iter().filter(|(_, d)| matches!(d, Decision::Placed(_))).map(|(p, d)| (p.clone(), d.clone())).collect()
        };
        prop_assert_eq!(placed(&first), placed(&second));
    }

    /// Of equal priorities: a pod of higher priority that needs two GPUs may take a lower one's.
    #[test]
    fn another_gpu_moves_nobody_and_stops_nobody((node, mut demands) in any_case()) {
        demands.iter_mut().for_each(|demand| demand.priority = 0);
        let first = place(&node, &demands);
        let held = held_by(&demands, &first);
        let mut larger = node.clone();
        larger.gpus.push(gpu("more", 24));
        let second = place(&larger, &held);
        for (pod, decision) in &first {
            if matches!(decision, Decision::Placed(_)) {
                prop_assert_eq!(&second[pod], decision);
            }
        }
        assert_not_oversold(&larger, &held, &second);
    }
}

#[test]
fn replicas_of_one_workload_are_spread_over_the_gpus_that_there_are() {
    let node = node(vec![gpu("a", 8), gpu("b", 16), gpu("c", 24)]);
    let replica = |ordinal: u32| {
        let mut demand = pod("ocr", 0, 100, shared(2));
        demand.pod.ordinal = ordinal;
        demand
    };
    let demands: Vec<PodDemand> = (0..4).map(replica).collect();
    let decisions = place(&node, &demands);
    let gpus = decisions.values().map(|decision| match decision {
        Decision::Placed(placement) => placement.gpus[0].as_str(),
        Decision::Unplaced { message, .. } => panic!("{message}"),
    });
    assert_eq!(gpus.collect::<Vec<_>>(), ["GPU-a", "GPU-b", "GPU-c", "GPU-a"]);
    // Another workload is packed where there is the least room.
    let mut with_other = held_by(&demands, &decisions);
    with_other.push(pod("weld", 0, 100, shared(2)));
    assert_eq!(gpus_of(&place(&node, &with_other), "weld"), ["GPU-a"]);
}

/// Whether each demand was placed, in the order of their ranks.
fn placed_by_rank(demands: &[PodDemand], decisions: &BTreeMap<PodId, Decision>) -> Vec<bool> {
    let mut ranked: Vec<&PodDemand> = demands.iter().collect();
    ranked.sort_by_key(|demand| (std::cmp::Reverse(demand.priority), demand.pod.clone()));
    ranked.iter().map(|demand| matches!(decisions[&demand.pod], Decision::Placed(_))).collect()
}

proptest! {
    /// One GPU fewer or more: only pods of that GPU, and those that make room for them, are moved.
    #[test]
    fn a_gpu_that_goes_moves_only_what_was_on_it((node, mut demands) in any_case()) {
        demands.iter_mut().for_each(|demand| demand.priority = 0);
        let first = place(&node, &demands);
        let held = held_by(&demands, &first);
        let mut smaller = node.clone();
        let Some(gone) = smaller.gpus.pop() else { return Ok(()) };
        let second = place(&smaller, &held);
        for demand in &held {
            let Some(placement) = &demand.held else { continue };
            if !placement.gpus.contains(&gone.uuid) {
                prop_assert_eq!(&second[&demand.pod], &first[&demand.pod]);
            }
        }
    }

    /// For shares alone, of one workload each: with more room nobody of a higher rank is worse off.
    #[test]
    fn another_gpu_is_no_worse_for_shares(
        sizes in proptest::collection::vec(1_u64..9, 0..10),
        gpus in proptest::collection::vec(4_u64..16, 1..4),
        more in 4_u64..16,
    ) {
        let demands: Vec<PodDemand> = sizes
            .iter()
            .enumerate()
            .map(|(number, gib)| pod(&format!("p{number}"), 0, 100, shared(*gib)))
            .collect();
        let named = |gpus: &[u64]| {
            gpus.iter().enumerate().map(|(number, gib)| gpu(&number.to_string(), *gib)).collect()
        };
        let before = place(&node(named(&gpus)), &demands);
        let after = place(&node(named(&[gpus, vec![more]].concat())), &demands);
        prop_assert!(placed_by_rank(&demands, &after) >= placed_by_rank(&demands, &before));
    }
}
