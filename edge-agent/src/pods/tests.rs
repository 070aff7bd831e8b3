//! Sentences about one pod, and a property over everything that can happen to some.

mod attached;
mod containers;
mod ending;
mod gpus;
mod network;
mod return_of_the_agent;

use super::*;
use crate::placement::Placement;
use crate::ports::{Observation, ObservedState, ProbeKind, StartRequest};
use proptest::prelude::*;
use serde_json::json;
use shared::model::{
    Container, GpuDevice, GpuHealth, MigInstance, MigRole, PodPhase, PodSpec, PodTemplate, Probe,
    ResourceList, ResourceRequirements, RestartPolicy, Revision, UnixMs,
};

fn at(seconds: u64) -> Now {
    Now { monotonic: MonotonicMs(seconds * 1000), ..Now::default() }
}

fn container() -> Container {
    Container { name: "main".into(), command: vec!["/bin/true".into()], ..Container::default() }
}

fn workload(name: &str, revision: u64, container: Container) -> Workload {
    let spec = PodSpec {
        containers: vec![container],
        restart_policy: RestartPolicy::Always,
        termination_grace_period_seconds: 5,
        ..PodSpec::default()
    };
    Workload {
        key: format!("default/{name}").parse().unwrap(),
        revision: Revision(revision),
        replicas: 1,
        priority: 0,
        tolerations: vec![],
        template: PodTemplate { spec, ..PodTemplate::default() },
        results: vec![],
        parameters: BTreeMap::new(),
        autoscaling: None,
    }
}

fn fleet(workloads: &[Workload]) -> BTreeMap<WorkloadKey, Workload> {
    workloads.iter().map(|workload| (workload.key.clone(), workload.clone())).collect()
}

fn with_gpu(mut container: Container) -> Container {
    let limits = ResourceList { gpu_count: Some(1), ..ResourceList::default() };
    container.resources = ResourceRequirements { limits, ..ResourceRequirements::default() };
    container
}

fn probe(failure_threshold: u32) -> Probe {
    let said = json!({ "tcpSocket": { "port": 1 }, "failureThreshold": failure_threshold });
    serde_json::from_value(said).unwrap()
}

fn node() -> NodeResources {
    let gpu = |uuid: &str| GpuDevice {
        uuid: uuid.to_owned(),
        name: "test".to_owned(),
        memory_bytes: 8 << 30,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    };
    NodeResources {
        cpu_millicores: 4000,
        memory_bytes: 8 << 30,
        gpus: vec![gpu("GPU-a"), gpu("GPU-b")],
        gpu_taints: BTreeMap::new(),
        bars: BTreeMap::new(),
        evicted: BTreeMap::new(),
    }
}

fn pods_with(workloads: &[Workload]) -> Pods {
    let mut pods = Pods::new(1);
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(workloads), at(0));
    pods
}

fn actions(pods: &mut Pods) -> Vec<PodAction> {
    std::iter::from_fn(|| pods.poll_action()).collect()
}

/// The start that is among the actions.
fn started(pods: &mut Pods) -> StartRequest {
    let start = actions(pods).into_iter().find_map(|action| match action {
        PodAction::Start(request) => Some(request),
        _ => None,
    });
    start.expect("a start")
}

fn runs(pods: &mut Pods, request: &StartRequest, now: Now) {
    let (pod, instance) = (request.pod.clone(), request.instance);
    pods.handle_runtime(RuntimeEvent::Started { pod, instance, started_at: UnixMs(1) }, now);
}

fn exits(pods: &mut Pods, request: &StartRequest, code: i32, now: Now) {
    let (pod, instance) = (request.pod.clone(), request.instance);
    pods.handle_runtime(RuntimeEvent::Exited { pod, instance, code }, now);
}

fn probed(pods: &mut Pods, request: &StartRequest, kind: ProbeKind, good: bool, now: Now) {
    let (pod, instance) = (request.pod.clone(), request.instance);
    let result = if good { Ok(()) } else { Err("refused".to_owned()) };
    let container = None;
    pods.handle_runtime(RuntimeEvent::Probed { pod, instance, container, kind, result }, now);
}

fn only_status(pods: &Pods) -> &PodStatus {
    pods.statuses().next().expect("a pod")
}

#[test]
fn a_record_comes_before_the_start_that_depends_on_it() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let actions = actions(&mut pods);
    assert!(matches!(&actions[..], [PodAction::Record(record), PodAction::Start(request)]
        if record.instance == request.instance && record.pod == request.pod));
}

#[test]
fn a_pod_without_probes_is_ready_as_soon_as_it_runs() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    assert_eq!(only_status(&pods).phase, PodPhase::Starting);
    runs(&mut pods, &request, at(1));
    assert!(only_status(&pods).ready);
}

#[test]
fn a_pod_is_ready_when_its_probe_says_so_and_no_longer_when_it_fails_thrice() {
    let probed_container = Container { readiness_probe: Some(probe(3)), ..container() };
    let mut pods = pods_with(&[workload("ocr", 1, probed_container)]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    assert!(!only_status(&pods).ready);
    probed(&mut pods, &request, ProbeKind::Readiness, true, at(2));
    assert!(only_status(&pods).ready);
    for second in 3..5 {
        probed(&mut pods, &request, ProbeKind::Readiness, false, at(second));
        assert!(only_status(&pods).ready, "two failures are borne");
    }
    probed(&mut pods, &request, ProbeKind::Readiness, false, at(5));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.ready), (PodPhase::Running, false));
    assert_eq!(status.message, "Readiness probe failed: refused");
}

#[test]
fn the_startup_probe_holds_the_others_back() {
    let (startup, liveness) = (Some(probe(30)), Some(probe(1)));
    let container = Container { startup_probe: startup, liveness_probe: liveness, ..container() };
    let mut pods = pods_with(&[workload("ocr", 1, container)]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.handle_timeout(at(1));
    let kinds = |actions: Vec<PodAction>| -> Vec<ProbeKind> {
        let kind = |action| match action {
            PodAction::Probe(request) => Some(request.kind),
            _ => None,
        };
        actions.into_iter().filter_map(kind).collect()
    };
    assert_eq!(kinds(actions(&mut pods)), [ProbeKind::Startup]);
    probed(&mut pods, &request, ProbeKind::Startup, true, at(2));
    pods.handle_timeout(at(2));
    assert_eq!(kinds(actions(&mut pods)), [ProbeKind::Liveness]);
}

#[test]
fn a_failed_liveness_probe_stops_the_pod_and_starts_it_again() {
    let container = Container { liveness_probe: Some(probe(1)), ..container() };
    let mut pods = pods_with(&[workload("ocr", 1, container)]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    probed(&mut pods, &request, ProbeKind::Liveness, false, at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { grace_ms: 5000, .. }]));
    exits(&mut pods, &request, 143, at(3));
    let again = started(&mut pods);
    assert_ne!(again.instance, request.instance);
    assert_eq!(only_status(&pods).restarts, 1);
}

#[test]
fn a_crash_loop_backs_off_and_says_so() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    exits(&mut pods, &request, 1, at(2));
    let second = started(&mut pods);
    exits(&mut pods, &second, 1, at(3));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::BackingOff, "CrashLoopBackOff"));
    assert_eq!(status.message, "ended with status 1: see its log; is started again after 10 s");
    assert_eq!(pods.poll_timeout(), Some(MonotonicMs(13_000)));
    pods.handle_timeout(at(13));
    started(&mut pods);
}

#[test]
fn another_revision_replaces_the_pod_after_its_grace() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.assign(&fleet(&[workload("ocr", 2, container())]), at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    exits(&mut pods, &request, 143, at(3));
    let next = started(&mut pods);
    assert_eq!(next.revision, Revision(2));
    assert_eq!(only_status(&pods).restarts, 0);
}

#[test]
fn a_change_of_replicas_or_priority_leaves_running_pods_alone() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    let more = Workload { replicas: 2, priority: 7, ..workload("ocr", 1, container()) };
    pods.assign(&fleet(&[more]), at(2));
    assert_eq!(started(&mut pods).pod.ordinal, 1);
}

#[test]
fn a_workload_that_vanishes_is_stopped_removed_and_forgotten() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.assign(&BTreeMap::new(), at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    exits(&mut pods, &request, 0, at(3));
    assert!(matches!(
        &actions(&mut pods)[..],
        [PodAction::Remove { keep_logs: false, .. }, PodAction::Forget(_)]
    ));
    assert_eq!(pods.statuses().count(), 0);
}

#[test]
fn while_held_nothing_is_stopped_and_what_crashes_starts_again() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.hold(true);
    pods.assign(&fleet(&[workload("new", 1, container())]), at(2));
    assert!(actions(&mut pods).is_empty());
    exits(&mut pods, &request, 1, at(3));
    assert_eq!(started(&mut pods).pod, request.pod);
}

/// What a runtime finds of a pod that was started and runs.
fn found_running(request: &StartRequest) -> Observation {
    Observation {
        pod: request.pod.clone(),
        instance: request.instance,
        revision: request.revision,
        state: ObservedState::Running { started_at: UnixMs(1) },
        placement: Placement::default(),
        taken: None,
        parameters_id: 0,
        containers: vec![],
        pod_ip: None,
    }
}

#[test]
fn a_pod_that_runs_when_the_agent_comes_back_is_adopted() {
    let mut first = pods_with(&[workload("ocr", 1, with_gpu(container()))]);
    let made = actions(&mut first);
    let [PodAction::Record(record), PodAction::Start(request)] = &made[..] else { panic!() };
    let running = found_running(request);
    let mut pods = Pods::new(2);
    pods.restore(vec![record.clone()], vec![running], at(0));
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(&[workload("ocr", 1, with_gpu(container()))]), at(0));
    assert!(actions(&mut pods).is_empty());
    assert_eq!(only_status(&pods).phase, PodPhase::Running);
    assert_eq!(only_status(&pods).gpus, request.gpus);
}

#[test]
fn a_pod_whose_record_is_lost_keeps_the_gpus_that_its_start_was_told() {
    let mut first = pods_with(&[workload("ocr", 1, with_gpu(container()))]);
    let request = started(&mut first);
    let placement = Placement { gpus: request.gpus.clone(), gpu_memory_bytes: None };
    let running = Observation { placement, ..found_running(&request) };
    let mut pods = Pods::new(2);
    pods.restore(vec![], vec![running], at(0));
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(&[workload("ocr", 1, with_gpu(container()))]), at(0));
    let restarted =
        |action: &PodAction| matches!(action, PodAction::Stop { .. } | PodAction::Start(_));
    assert!(!actions(&mut pods).iter().any(restarted));
    assert_eq!(only_status(&pods).gpus, request.gpus);
}

#[test]
fn a_pod_lost_in_a_power_cut_starts_at_once() {
    let mut first = pods_with(&[workload("ocr", 1, container())]);
    let made = actions(&mut first);
    let [PodAction::Record(record), _] = &made[..] else { panic!() };
    let mut pods = Pods::new(2);
    pods.restore(vec![PodRecord { backoff_level: 6, ..record.clone() }], vec![], at(0));
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(&[workload("ocr", 1, container())]), at(0));
    started(&mut pods);
}

#[test]
fn a_template_that_cannot_be_run_says_which_field() {
    let empty = Container { command: vec![], ..container() };
    let mut pods = pods_with(&[workload("ocr", 1, empty)]);
    assert!(actions(&mut pods).is_empty());
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Pending, "InvalidTemplate"));
    assert!(status.message.starts_with("spec.containers[0].command"), "{}", status.message);
}

#[test]
fn a_pod_waits_until_the_one_that_leaves_its_gpu_has_ended() {
    let mut small = node();
    small.gpus.truncate(1);
    let mut pods = Pods::new(1);
    pods.provide(small, true, at(0));
    pods.assign(&fleet(&[workload("old", 1, with_gpu(container()))]), at(0));
    let old = started(&mut pods);
    runs(&mut pods, &old, at(1));
    pods.assign(&fleet(&[workload("new", 1, with_gpu(container()))]), at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    exits(&mut pods, &old, 0, at(3));
    assert_eq!(started(&mut pods).gpus, ["GPU-a"]);
}

/// A machine for the property below: what runs, and what it will say.
#[derive(Default)]
struct Machine {
    live: BTreeMap<PodId, StartRequest>,
    recorded: BTreeMap<PodId, PodRecord>,
    said: Vec<RuntimeEvent>,
}

impl Machine {
    fn perform(&mut self, action: PodAction) {
        match action {
            PodAction::Record(record) => drop(self.recorded.insert(record.pod.clone(), record)),
            PodAction::Forget(pod) => drop(self.recorded.remove(&pod)),
            PodAction::Start(request) => {
                let record = self.recorded.get(&request.pod).expect("a record before the start");
                assert_eq!(record.instance, request.instance, "the record of this start");
                assert!(!self.live.contains_key(&request.pod), "{} runs twice", request.pod);
                for other in self.live.values() {
                    let shared = other.gpus.iter().any(|gpu| request.gpus.contains(gpu));
                    assert!(!shared, "{} and {} on one GPU", other.pod, request.pod);
                }
                let (pod, instance) = (request.pod.clone(), request.instance);
                self.said.push(RuntimeEvent::Started { pod, instance, started_at: UnixMs(1) });
                self.live.insert(request.pod.clone(), request);
            }
            PodAction::Stop { pod, instance, .. } => {
                self.live.remove(&pod);
                self.said.push(RuntimeEvent::Exited { pod, instance, code: 143 });
            }
            PodAction::Remove { .. }
            | PodAction::Attach { .. }
            | PodAction::StartContainer(_)
            | PodAction::StopContainer { .. } => {}
            PodAction::Probe(request) => self.said.push(RuntimeEvent::Probed {
                pod: request.pod,
                instance: request.instance,
                container: request.container,
                kind: request.kind,
                result: Ok(()),
            }),
        }
    }

    fn observations(&self) -> Vec<Observation> {
        self.live.values().map(found_running).collect()
    }
}

fn any_fleet() -> impl Strategy<Value = BTreeMap<WorkloadKey, Workload>> {
    let one =
        ("[a-c]", 1_u64..3, 0_u32..3, any::<bool>()).prop_map(|(name, revision, replicas, gpu)| {
            let container = if gpu { with_gpu(container()) } else { container() };
            let revision = revision * 2 + u64::from(gpu);
            Workload { replicas, ..workload(&name, revision, container) }
        });
    proptest::collection::vec(one, 0..4).prop_map(|workloads| fleet(&workloads))
}

proptest! {
    #[test]
    fn whatever_happens_no_pod_runs_twice_and_in_the_end_what_should_run_runs(
        steps in proptest::collection::vec((0_u8..7, any::<u8>(), any_fleet()), 1..40)
    ) {
        let mut machine = Machine::default();
        let mut pods = Pods::new(1);
        let (mut seconds, mut incarnation) = (0, 1);
        let mut wanted = BTreeMap::new();
        pods.provide(node(), true, at(0));
        pods.assign(&wanted, at(0));
        for (kind, byte, fleet) in steps {
            match kind {
                0 => {
                    wanted = fleet;
                    pods.assign(&wanted, at(seconds));
                }
                1 if !machine.said.is_empty() => {
                    let event = machine.said.remove(0);
                    // Some things are said twice.
                    if byte.is_multiple_of(4) {
                        pods.handle_runtime(event.clone(), at(seconds));
                    }
                    pods.handle_runtime(event, at(seconds));
                }
                2 => {
                    let at_index = usize::from(byte) % machine.live.len().max(1);
                    if let Some(pod) = machine.live.keys().nth(at_index).cloned() {
                        let request = machine.live.remove(&pod).unwrap();
                        let (instance, code) = (request.instance, i32::from(byte));
                        machine.said.push(RuntimeEvent::Exited { pod, instance, code });
                    }
                }
                3 => {
                    seconds += u64::from(byte);
                    pods.handle_timeout(at(seconds));
                }
                4 if byte.is_multiple_of(3) => {
                    incarnation += 1;
                    machine.said.clear();
                    if byte.is_multiple_of(2) {
                        machine.live.clear();
                    }
                    pods = Pods::new(incarnation);
                    let records = machine.recorded.values().cloned().collect();
                    pods.restore(records, machine.observations(), at(seconds));
                    pods.provide(node(), true, at(seconds));
                    pods.assign(&wanted, at(seconds));
                }
                _ => {
                    if let Some(action) = pods.poll_action() {
                        machine.perform(action);
                    }
                }
            }
        }
        for _ in 0..2000 {
            while let Some(action) = pods.poll_action() {
                machine.perform(action);
            }
            if machine.said.is_empty() {
                seconds += 60;
                pods.handle_timeout(at(seconds));
            } else {
                let event = machine.said.remove(0);
                pods.handle_runtime(event, at(seconds));
            }
        }
        for status in pods.statuses() {
            let runs = machine.live.contains_key(&status.pod);
            prop_assert_eq!(runs, status.phase == PodPhase::Running, "{:?}", status);
            prop_assert!(runs || (status.phase == PodPhase::Pending && !status.reason.is_empty()), "{:?}", status);
        }
        let expected: Vec<PodId> = wanted.values().flat_map(|w| w.pods().collect::<Vec<_>>()).collect();
        prop_assert_eq!(pods.statuses().map(|s| s.pod.clone()).collect::<Vec<_>>(), expected);
        prop_assert_eq!(machine.recorded.keys().all(|pod| pods.status(pod).is_some()), true);
    }
}
