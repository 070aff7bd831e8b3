//! GPUs that fail, vanish or are not listed, and who waits for whom.

use super::*;

fn node_with(gpus: &[&str]) -> NodeResources {
    let mut node = node();
    node.gpus.retain(|gpu| gpus.contains(&gpu.uuid.as_str()));
    node
}

/// A pod that runs on `GPU-a` of a node with two.
fn on_gpu_a() -> (Pods, StartRequest) {
    let mut pods = pods_with(&[workload("ocr", 1, with_gpu(container()))]);
    let request = started(&mut pods);
    assert_eq!(request.gpus, ["GPU-a"]);
    runs(&mut pods, &request, at(1));
    (pods, request)
}

#[test]
fn a_pod_keeps_its_gpu_while_the_driver_does_not_say_what_there_is() {
    let (mut pods, _) = on_gpu_a();
    pods.provide(node_with(&[]), true, at(2));
    assert!(actions(&mut pods).is_empty(), "a driver that lists none is being replaced");
    pods.provide(node_with(&["GPU-b"]), false, at(3));
    assert!(actions(&mut pods).is_empty(), "nothing is known");
    assert_eq!(only_status(&pods).phase, PodPhase::Running);
}

#[test]
fn a_pod_whose_gpu_is_gone_moves_to_another() {
    let (mut pods, request) = on_gpu_a();
    pods.provide(node_with(&["GPU-b"]), true, at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    let status = only_status(&pods);
    assert_eq!(
        (status.reason.as_str(), status.message.as_str()),
        ("Moved", "moves to another GPU")
    );
    exits(&mut pods, &request, 143, at(3));
    assert_eq!(started(&mut pods).gpus, ["GPU-b"]);
    assert_eq!(only_status(&pods).restarts, 0, "it was not its fault");
}

#[test]
fn a_pod_without_gpus_leaves_a_node_that_shrinks_whatever_the_driver_says() {
    let mut wanted = workload("ocr", 1, container());
    wanted.template.spec.containers[0].resources.requests.memory =
        Some(shared::model::MemoryQuantity { bytes: 4 << 30 });
    let mut pods = pods_with(&[wanted]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    let smaller = NodeResources { memory_bytes: 2 << 30, ..node_with(&[]) };
    pods.provide(smaller, false, at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    exits(&mut pods, &request, 143, at(3));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Pending, "InsufficientMemory"));
}

#[test]
fn a_pod_says_that_it_waits_for_the_gpu_of_one_that_stops() {
    let mut pods = Pods::new(1);
    pods.provide(node_with(&["GPU-a"]), true, at(0));
    pods.assign(&fleet(&[workload("old", 1, with_gpu(container()))]), at(0));
    let old = started(&mut pods);
    runs(&mut pods, &old, at(1));
    pods.assign(&fleet(&[workload("new", 1, with_gpu(container()))]), at(2));
    let new = only_status(&pods);
    assert_eq!(new.pod.to_string(), "default/new-0");
    assert_eq!((new.phase, new.reason.as_str()), (PodPhase::Pending, "WaitingForGpu"));
    pods.assign(&BTreeMap::new(), at(3));
    assert_eq!(only_status(&pods).pod, old.pod, "what only waited is gone at once");
}

/// Found by the simulated world: cores were sold twice during a grace period.
#[test]
fn a_pod_waits_for_the_cores_and_the_memory_of_one_that_stops() {
    let asking = |name, cpu, memory_gib: u64| {
        let mut workload = workload(name, 1, container());
        let requests = &mut workload.template.spec.containers[0].resources.requests;
        requests.cpu = Some(shared::model::CpuQuantity { millicores: cpu });
        requests.memory = Some(shared::model::MemoryQuantity { bytes: memory_gib << 30 });
        workload
    };
    let whole = node();
    let (cpu, gib) = (whole.cpu_millicores, whole.memory_bytes >> 30);
    for (old, new) in [((cpu, 0), (1, 0)), ((0, gib), (0, 1))] {
        let mut pods = pods_with(&[asking("old", old.0, old.1)]);
        let old = started(&mut pods);
        runs(&mut pods, &old, at(1));
        pods.assign(&fleet(&[asking("new", new.0, new.1)]), at(2));
        assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
        let waits = pods.statuses().find(|status| status.pod != old.pod).unwrap();
        assert_eq!((waits.phase, waits.reason.as_str()), (PodPhase::Pending, "WaitingForRoom"));
        exits(&mut pods, &old, 143, at(3));
        assert_eq!(started(&mut pods).pod.to_string(), "default/new-0");
    }
}

/// Without this two pods would run on one exclusive GPU until the hold ends.
#[test]
fn while_held_a_pod_of_higher_priority_waits_for_the_gpu_that_another_keeps() {
    let low = workload("low", 1, with_gpu(container()));
    let high = Workload { priority: 9, ..workload("high", 1, with_gpu(container())) };
    let mut pods = pods_with(&[low, high]);
    let requests: Vec<StartRequest> = actions(&mut pods)
        .into_iter()
        .filter_map(|action| match action {
            PodAction::Start(request) => Some(request),
            _ => None,
        })
        .collect();
    let [high, low] = &requests[..] else { panic!("two starts") };
    for request in [high, low] {
        runs(&mut pods, request, at(1));
    }
    pods.hold(true);
    pods.provide(node_with(&[low.gpus[0].as_str()]), true, at(2));
    exits(&mut pods, high, 1, at(3));
    let again = |action: &PodAction| matches!(action, PodAction::Start(_));
    assert!(!actions(&mut pods).iter().any(again));
    assert_eq!(pods.status(&high.pod).unwrap().reason, "WaitingForGpu");
    pods.hold(false);
    pods.handle_timeout(at(4));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { pod, .. }] if *pod == low.pod));
    exits(&mut pods, low, 143, at(5));
    assert_eq!(started(&mut pods).pod, high.pod);
}

#[test]
fn pods_that_share_a_gpu_wait_neither_for_each_other_nor_for_one_that_is_restarted() {
    let sharing = |name| {
        let mut shared = workload(name, 1, container());
        let memory = Some(shared::model::MemoryQuantity { bytes: 2 << 30 });
        let container = &mut shared.template.spec.containers[0];
        container.resources.limits.gpu_memory = memory;
        container.liveness_probe = Some(probe(1));
        shared
    };
    let mut pods = Pods::new(1);
    pods.provide(node_with(&["GPU-a"]), true, at(0));
    pods.assign(&fleet(&[sharing("one")]), at(0));
    let one = started(&mut pods);
    runs(&mut pods, &one, at(1));
    pods.assign(&fleet(&[sharing("one"), sharing("two")]), at(2));
    assert_eq!(started(&mut pods).gpus, ["GPU-a"]);
    probed(&mut pods, &one, ProbeKind::Liveness, false, at(3));
    pods.assign(&fleet(&[sharing("one"), sharing("three"), sharing("two")]), at(4));
    assert_eq!(started(&mut pods).pod.to_string(), "default/three-0");
}

#[test]
fn a_pod_is_started_on_its_mig_instance_and_waits_where_that_is_gone() {
    let mut wanted = workload("ocr", 1, container());
    let profile = "1g.10gb".to_owned();
    wanted.template.spec.containers[0].resources.limits.mig = profile.parse().ok();
    let mut split = node_with(&["GPU-a"]);
    split.gpus[0].mig = MigRole::Parent;
    let alone = split.clone();
    let parent = split.gpus[0].uuid.clone();
    let mig = MigRole::Instance(MigInstance { profile, parent });
    split.gpus.push(GpuDevice { uuid: "MIG-1".to_owned(), mig, ..split.gpus[0].clone() });
    let mut pods = Pods::new(1);
    pods.provide(split, true, at(0));
    pods.assign(&fleet(&[wanted]), at(0));
    let request = started(&mut pods);
    assert_eq!((&request.gpus[..], request.gpu_memory_bytes), (&["MIG-1".to_owned()][..], None));
    runs(&mut pods, &request, at(1));
    pods.provide(alone, true, at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    exits(&mut pods, &request, 143, at(3));
    assert_eq!(only_status(&pods).reason, "NoMigInstances");
}

#[test]
fn memory_of_a_jetson_s_gpu_is_waited_for_until_the_pod_that_has_it_as_main_memory_has_ended() {
    const GIB: u64 = 1 << 30;
    let memory = |gib: u64| Some(shared::model::MemoryQuantity { bytes: gib * GIB });
    let mut node = node_with(&["GPU-a"]);
    node.gpus[0].shares_main_memory = true;
    (node.memory_bytes, node.gpus[0].memory_bytes) = (8 * GIB, 8 * GIB);
    let mut old = workload("old", 1, container());
    old.template.spec.containers[0].resources.requests.memory = memory(5);
    let mut new = workload("new", 1, container());
    new.template.spec.containers[0].resources.limits.gpu_memory = memory(6);
    let mut pods = Pods::new(7);
    pods.provide(node, true, at(0));
    pods.assign(&fleet(&[old]), at(0));
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.assign(&fleet(&[new]), at(2));
    actions(&mut pods);
    let waits = pods.statuses().find(|status| status.pod.workload.name() == "new").unwrap();
    assert_eq!(waits.reason, "WaitingForRoom");
    exits(&mut pods, &request, 143, at(3));
    let request = started(&mut pods);
    assert_eq!(request.gpu_memory_bytes, Some(6 * GIB));
    assert!(request.taken.memory_bytes >= 6 * GIB, "{:?}", request.taken);
}
