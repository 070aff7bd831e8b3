//! A GPU that has its memory of the node's: one memory, counted once.

use super::*;

/// A node of 16 GiB whose GPU has its memory of them.
fn jetson() -> NodeResources {
    node(vec![unified(16)])
}

fn asks(name: &str, priority: i32, memory_gib: u64, gpu: GpuRequest) -> PodDemand {
    let mut demand = pod(name, priority, 100, gpu);
    demand.resources.memory = MemoryQuantity { bytes: memory_gib * GIB };
    demand
}

#[test]
fn what_one_pod_has_of_the_gpu_s_memory_another_does_not_get_as_main_memory() {
    let decisions =
        place(&jetson(), &[asks("llm", 1, 2, shared(9)), asks("db", 0, 6, GpuRequest::None)]);
    assert_eq!(gpus_of(&decisions, "llm"), ["GPU-jetson-1"]);
    assert_eq!(
        why(&decisions, "db"),
        "InsufficientMemory: insufficient memory (need 6Gi, free 5Gi of 16Gi, shared with the GPU)"
    );
    let exactly = [asks("llm", 1, 2, shared(9)), asks("db", 0, 5, GpuRequest::None)];
    assert!(gpus_of(&place(&jetson(), &exactly), "db").is_empty());
}

#[test]
fn a_pod_needs_room_for_both_and_is_told_so() {
    let demands = [asks("db", 1, 6, GpuRequest::None), asks("llm", 0, 2, shared(9))];
    assert_eq!(
        why(&place(&jetson(), &demands), "llm"),
        "InsufficientGpuMemory: 0/1 GPUs: 1 insufficient memory shared with the node (need 9Gi and 2Gi, free 10Gi)"
    );
    // Two that ask for the same of the GPU, and for another main memory, hear each its own.
    let demands = [&demands[..], &[asks("more", 0, 3, shared(9))]].concat();
    assert!(why(&place(&jetson(), &demands), "more").contains("need 9Gi and 3Gi"));
}

#[test]
fn a_pod_of_higher_priority_takes_the_room_of_a_lower_one_whichever_memory_that_has() {
    let mut low = asks("low", 0, 8, GpuRequest::None);
    low.held = Some(Placement::default());
    let decisions = place(&jetson(), &[low, asks("high", 9, 2, shared(9))]);
    assert_eq!(gpus_of(&decisions, "high"), ["GPU-jetson-1"]);
    assert!(why(&decisions, "low").starts_with("Preempted"));

    let mut low = asks("low", 0, 1, shared(9));
    let gpus = vec!["GPU-jetson-1".to_owned()];
    low.held = Some(Placement { gpus, gpu_memory_bytes: Some(9 * GIB) });
    let decisions = place(&jetson(), &[low, asks("high", 9, 8, GpuRequest::None)]);
    assert!(gpus_of(&decisions, "high").is_empty());
    assert!(why(&decisions, "low").starts_with("Preempted"));
}

#[test]
fn all_of_such_a_gpu_takes_what_its_pod_asks_for_of_main_memory() {
    let demands = [asks("all", 1, 12, GpuRequest::Whole(1)), asks("db", 0, 4, GpuRequest::None)];
    let decisions = place(&jetson(), &demands);
    assert_eq!(gpus_of(&decisions, "all"), ["GPU-jetson-1"]);
    assert!(gpus_of(&decisions, "db").is_empty());
}

#[test]
fn a_gpu_with_memory_of_its_own_takes_nothing_of_the_node_s() {
    let demands = [asks("llm", 1, 2, shared(9)), asks("db", 0, 14, GpuRequest::None)];
    assert!(gpus_of(&place(&node(vec![gpu("a", 16)]), &demands), "db").is_empty());
}

fn any_node() -> impl Strategy<Value = NodeResources> {
    let gpus = proptest::collection::vec(2_u64..24, 0..2);
    (1_u64..32, gpus).prop_map(|(memory, gpus)| {
        let others =
            gpus.into_iter().enumerate().map(|(number, gib)| gpu(&number.to_string(), gib));
        let gpus = std::iter::once(unified(memory)).chain(others).collect();
        // Less than there is: a share of it is reserved.
        NodeResources { memory_bytes: memory * GIB - GIB / 2, ..node(gpus) }
    })
}

fn any_demands() -> impl Strategy<Value = Vec<PodDemand>> {
    let request = prop_oneof![
        Just(GpuRequest::None),
        Just(GpuRequest::Whole(1)),
        (1_u64..16).prop_map(shared),
    ];
    let demand = (-2_i32..3, 0_u64..12, request);
    proptest::collection::vec(demand, 0..12).prop_map(|demands| {
        let named = demands.into_iter().enumerate();
        named
            .map(|(number, (priority, gib, gpu))| asks(&format!("p{number}"), priority, gib, gpu))
            .collect()
    })
}

proptest! {
    /// Requests of memory and shares of the GPU together are no more than the node has for pods, at first and when
    /// what runs meets others.
    #[test]
    fn one_memory_is_never_sold_twice(
        node in any_node(), demands in any_demands(), others in any_demands(),
    ) {
        let decisions = place(&node, &demands);
        assert_not_oversold(&node, &demands, &decisions);
        let mut next = held_by(&demands, &decisions);
        next.extend(others.into_iter().enumerate().map(|(number, demand)| PodDemand {
            pod: format!("default/late-{number}").parse().unwrap(),
            ..demand
        }));
        let decisions = place(&node, &next);
        assert_not_oversold(&node, &next, &decisions);
        let mut smaller = node.clone();
        smaller.memory_bytes /= 2;
        let next = held_by(&next, &decisions);
        assert_not_oversold(&smaller, &next, &place(&smaller, &next));
    }

    #[test]
    fn what_fits_into_one_memory_stays_where_it_is(node in any_node(), demands in any_demands()) {
        let first = place(&node, &demands);
        let second = place(&node, &held_by(&demands, &first));
        for (pod, decision) in &first {
            if matches!(decision, Decision::Placed(_)) {
                prop_assert_eq!(&second[pod], decision);
            }
        }
    }
}
