//! Instances of GPUs in MIG mode.

use super::*;

#[test]
fn a_mig_request_gets_an_instance_of_exactly_its_profile() {
    let node = node([split("a", &["1g.10gb", "3g.40gb", "1g.10gb"]), vec![gpu("b", 80)]].concat());
    let small = |name: &str| pod(name, 0, 100, mig("1g.10gb"));
    let demands = [small("x"), small("y"), small("z"), pod("large", 0, 100, mig("3g.40gb"))];
    let decisions = place(&node, &demands);
    assert_eq!(gpus_of(&decisions, "x"), ["MIG-a0"]);
    assert_eq!(gpus_of(&decisions, "y"), ["MIG-a2"]);
    assert_eq!(gpus_of(&decisions, "large"), ["MIG-a1"]);
    assert_eq!(
        why(&decisions, "z"),
        "InsufficientGpus: 0/3 MIG instances: 1 exclusive to default/x-0, \
         1 exclusive to default/y-0, 1 with another MIG profile (want 1g.10gb)"
    );
}

#[test]
fn neither_an_instance_nor_a_gpu_in_mig_mode_goes_to_who_asks_for_a_gpu() {
    let node = node(split("a", &["1g.10gb", "1g.10gb"]));
    for request in [GpuRequest::Whole(1), shared(4)] {
        assert_eq!(
            why(&place(&node, &[pod("ocr", 0, 100, request)]), "ocr"),
            "InsufficientGpus: 0/1 GPUs: 1 in MIG mode (given out by instances)"
        );
    }
}

#[test]
fn a_node_without_instances_says_so() {
    let asks = [pod("ocr", 0, 100, mig("1g.10gb"))];
    assert_eq!(
        why(&place(&node(vec![gpu("a", 80)]), &asks), "ocr"),
        "NoMigInstances: 0/0 MIG instances: no GPU of this node is split into instances"
    );
    assert!(why(&place(&node(vec![]), &asks), "ocr").starts_with("NoGpus"));
}

#[test]
fn a_pod_keeps_its_instance_until_it_falls_ill_or_another_profile_is_asked_for() {
    let mut node = node(split("a", &["1g.10gb", "1g.10gb", "2g.20gb"]));
    let on = |request: GpuRequest, uuid: &str| {
        let held = Placement { gpus: vec![uuid.to_owned()], gpu_memory_bytes: None };
        [PodDemand { held: Some(held), ..pod("ocr", 0, 100, request) }]
    };
    let stays = on(mig("1g.10gb"), "MIG-a1");
    assert_eq!(gpus_of(&place(&node, &stays), "ocr"), ["MIG-a1"]);
    assert_eq!(gpus_of(&place(&node, &on(mig("2g.20gb"), "MIG-a1")), "ocr"), ["MIG-a2"]);
    assert!(why(&place(&node, &on(GpuRequest::Whole(1), "MIG-a1")), "ocr").contains("MIG mode"));
    node.gpus[2].health = GpuHealth::Unhealthy("its GPU fell off the bus".to_owned());
    assert_eq!(gpus_of(&place(&node, &stays), "ocr"), ["MIG-a0"]);
}

#[test]
fn higher_priority_takes_an_instance_of_its_profile_and_no_other() {
    let node = node(split("a", &["1g.10gb", "3g.40gb"]));
    let on = |name: &str, profile: &str, uuid: &str| {
        let held = Placement { gpus: vec![uuid.to_owned()], gpu_memory_bytes: None };
        PodDemand { held: Some(held), ..pod(name, 0, 100, mig(profile)) }
    };
    let demands = [
        on("small", "1g.10gb", "MIG-a0"),
        on("large", "3g.40gb", "MIG-a1"),
        pod("high", 9, 100, mig("3g.40gb")),
    ];
    let decisions = place(&node, &demands);
    assert_eq!(gpus_of(&decisions, "small"), ["MIG-a0"]);
    assert_eq!(gpus_of(&decisions, "high"), ["MIG-a1"]);
    assert!(why(&decisions, "large").starts_with("Preempted: made room"));
}
