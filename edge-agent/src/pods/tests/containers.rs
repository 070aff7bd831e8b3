//! Pods of several containers: who waits for whom, who is started again, and what that makes of the pod.

use super::*;
use crate::ports::{ContainerEvent, ObservedContainer};
use serde_json::{Value, json};

/// One pod of several containers, and its present start.
struct Bench {
    pods: Pods,
    start: StartRequest,
}

fn workload_of(spec: &Value) -> Workload {
    let template = serde_json::from_value(json!({ "spec": spec })).unwrap();
    Workload { template, ..workload("ocr", 1, container()) }
}

fn with(name: &str, rest: &Value) -> Value {
    let mut fields = json!({ "name": name, "image": "a" });
    fields.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    fields
}

fn plain(name: &str) -> Value {
    with(name, &json!({}))
}

fn sidecar(name: &str) -> Value {
    with(name, &json!({ "restartPolicy": "Always" }))
}

/// Two init containers with a sidecar between, and two others.
fn whole(policy: &str) -> Value {
    json!({ "restartPolicy": policy, "terminationGracePeriodSeconds": 5,
        "initContainers": [plain("fetch"), sidecar("proxy"), plain("migrate")],
        "containers": [plain("server"), plain("worker")] })
}

impl Bench {
    fn new(spec: &Value) -> Self {
        let mut pods = pods_with(&[workload_of(spec)]);
        let start = started(&mut pods);
        Self { pods, start }
    }

    /// What is to be done, in words.
    fn due(&mut self) -> Vec<String> {
        let words = |action| match action {
            PodAction::StartContainer(request) => {
                Some(format!("start {}#{}", request.start.container.name, request.attempt))
            }
            PodAction::StopContainer { container, grace_ms, .. } => {
                Some(format!("stop {container} {grace_ms}"))
            }
            PodAction::Probe(request) => {
                Some(format!("probe {} {:?}", request.container.unwrap_or_default(), request.kind))
            }
            PodAction::Stop { grace_ms, .. } => Some(format!("stop pod {grace_ms}")),
            PodAction::Start(request) => {
                self.start = request;
                Some("start pod".to_owned())
            }
            PodAction::Record(_) | PodAction::Remove { .. } => None,
            other => panic!("nobody asked for {other:?}"),
        };
        actions(&mut self.pods).into_iter().filter_map(words).collect()
    }

    fn pod_runs(&mut self, now: Now) -> Vec<String> {
        let start = self.start.clone();
        runs(&mut self.pods, &start, now);
        self.due()
    }

    fn pod_exits(&mut self, code: i32, now: Now) -> Vec<String> {
        let start = self.start.clone();
        exits(&mut self.pods, &start, code, now);
        self.due()
    }

    fn tell(&mut self, container: &str, event: ContainerEvent, now: Now) -> Vec<String> {
        let (pod, instance) = (self.start.pod.clone(), self.start.instance);
        let container = container.to_owned();
        self.pods.handle_runtime(RuntimeEvent::Container { pod, instance, container, event }, now);
        self.due()
    }

    fn runs(&mut self, container: &str, now: Now) -> Vec<String> {
        self.tell(container, ContainerEvent::Started { started_at: UnixMs(1) }, now)
    }

    fn ends(&mut self, container: &str, code: i32, now: Now) -> Vec<String> {
        self.tell(container, ContainerEvent::Exited { code }, now)
    }

    fn probed(&mut self, container: &str, kind: ProbeKind, good: bool, now: Now) -> Vec<String> {
        let (pod, instance) = (self.start.pod.clone(), self.start.instance);
        let result = if good { Ok(()) } else { Err("refused".to_owned()) };
        let container = Some(container.to_owned());
        let event = RuntimeEvent::Probed { pod, instance, container, kind, result };
        self.pods.handle_runtime(event, now);
        self.due()
    }

    fn waits(&mut self, now: Now) -> Vec<String> {
        self.pods.handle_timeout(now);
        self.due()
    }

    /// Its phase, whether it is ready, its reason and its message.
    fn state(&self) -> (PodPhase, bool, &str, &str) {
        let status = only_status(&self.pods);
        (status.phase, status.ready, &status.reason, &status.message)
    }

    /// Everything runs.
    fn up(spec: &Value) -> Self {
        let mut bench = Self::new(spec);
        bench.pod_runs(at(0));
        bench.runs("fetch", at(0));
        bench.ends("fetch", 0, at(0));
        bench.runs("proxy", at(0));
        bench.runs("migrate", at(0));
        bench.ends("migrate", 0, at(0));
        bench.runs("server", at(0));
        bench.runs("worker", at(0));
        assert_eq!(bench.state(), (PodPhase::Running, true, "", ""));
        bench
    }
}

#[test]
fn init_containers_run_one_after_the_other_and_a_sidecar_only_has_to_start() {
    let mut bench = Bench::new(&whole("Always"));
    let plan: Vec<_> = bench.start.containers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(plan, ["fetch", "proxy", "migrate", "server", "worker"]);
    assert_eq!(bench.pod_runs(at(0)), ["start fetch#0"]);
    assert_eq!(bench.runs("fetch", at(1)), [""; 0]);
    let runs = "the init container `fetch`: runs";
    assert_eq!(bench.state(), (PodPhase::Starting, false, "Init:0/3", runs));
    assert_eq!(bench.ends("fetch", 0, at(2)), ["start proxy#0"]);
    assert_eq!(bench.runs("proxy", at(3)), ["start migrate#0"]);
    assert_eq!(bench.state().2, "Init:2/3");
    assert_eq!(bench.runs("migrate", at(4)), [""; 0]);
    assert_eq!(bench.ends("migrate", 0, at(5)), ["start server#0", "start worker#0"]);
    assert_eq!(bench.state().0, PodPhase::Running);
    bench.runs("server", at(6));
    let waits = "the container `worker`: is being started";
    assert_eq!(bench.state(), (PodPhase::Running, false, "NotReady", waits));
    bench.runs("worker", at(6));
    assert_eq!(bench.state(), (PodPhase::Running, true, "", ""));
    let statuses = &only_status(&bench.pods).containers;
    assert!(statuses.iter().all(|one| one.ready && one.restarts == 0), "{statuses:?}");
}

#[test]
fn a_failed_init_container_has_the_pod_begin_anew_after_its_backoff() {
    let mut bench = Bench::new(&whole("OnFailure"));
    bench.pod_runs(at(0));
    bench.runs("fetch", at(1));
    assert_eq!(bench.ends("fetch", 3, at(2)), ["stop pod 5000"]);
    let first = bench.start.instance;
    assert_eq!(bench.pod_exits(255, at(3)), ["start pod"], "the first time is forgiven");
    assert_ne!(bench.start.instance, first);
    assert_eq!(only_status(&bench.pods).last_exit_code, Some(3));
    bench.pod_runs(at(4));
    bench.runs("fetch", at(4));
    bench.ends("fetch", 3, at(5));
    bench.pod_exits(255, at(5));
    let message = "the init container `fetch`: ended with status 3: see its log; is started \
                   again after 10 s";
    let expected = (PodPhase::BackingOff, false, "Init:CrashLoopBackOff", message);
    assert_eq!(bench.state(), expected);
    assert_eq!(bench.waits(at(14)), [""; 0]);
    assert_eq!(bench.waits(at(15)), ["start pod"]);
    assert_eq!(bench.pod_runs(at(15)), ["start fetch#0"]);
}

#[test]
fn with_never_a_failed_init_container_is_the_end() {
    let mut bench = Bench::new(&whole("Never"));
    bench.pod_runs(at(0));
    bench.runs("fetch", at(1));
    bench.ends("fetch", 3, at(2));
    assert_eq!(bench.pod_exits(255, at(3)), [""; 0]);
    let message = "the init container `fetch`: ended with status 3: see its log";
    assert_eq!(bench.state(), (PodPhase::Failed, false, "Init:Error", message));
}

#[test]
fn what_can_t_be_started_is_said_and_tried_again_by_itself_or_with_the_pod() {
    let failed = || {
        let (reason, message) = ("ProgramNotFound".to_owned(), "no such file".to_owned());
        ContainerEvent::StartFailed { reason, message }
    };
    let mut bench = Bench::up(&whole("Always"));
    bench.ends("server", 1, at(1));
    bench.waits(at(1));
    assert_eq!(bench.tell("server", failed(), at(1)), [""; 0]);
    let message = "the container `server`: no such file";
    assert_eq!(bench.state(), (PodPhase::Running, false, "ProgramNotFound", message));
    assert_eq!(bench.waits(at(11)), ["start server#2"]);
    let mut bench = Bench::new(&whole("Never"));
    bench.pod_runs(at(0));
    assert_eq!(bench.tell("fetch", failed(), at(1)), ["stop pod 5000"]);
    bench.pod_exits(255, at(2));
    let message = "the init container `fetch`: no such file";
    assert_eq!(bench.state(), (PodPhase::BackingOff, false, "ProgramNotFound", message));
    assert_eq!(bench.waits(at(12)), ["start pod"]);
}

#[test]
fn a_container_that_ends_is_started_again_by_itself_with_its_own_backoff() {
    let mut bench = Bench::up(&whole("Always"));
    assert_eq!(bench.ends("server", 7, at(1)), ["start server#1"]);
    bench.runs("server", at(1));
    assert!(only_status(&bench.pods).ready);
    bench.ends("server", 7, at(2));
    let message =
        "the container `server`: ended with status 7: see its log; is started again after 10 s";
    assert_eq!(bench.state(), (PodPhase::Running, false, "CrashLoopBackOff", message));
    // Another's end is another's.
    assert_eq!(bench.ends("worker", 0, at(3)), ["start worker#1"]);
    assert_eq!(bench.waits(at(12)), ["start server#2"]);
    let status = only_status(&bench.pods);
    let restarts: Vec<u32> = status.containers.iter().map(|one| one.restarts).collect();
    assert_eq!((restarts, status.restarts), (vec![0, 0, 0, 2, 1], 3));
    assert_eq!(status.containers[3].last_exit_code, Some(7));
}

#[test]
fn a_sidecar_is_started_again_whatever_the_policy_and_is_no_end() {
    let mut bench = Bench::up(&whole("Never"));
    assert_eq!(bench.ends("proxy", 0, at(1)), ["start proxy#1"]);
    assert_eq!(bench.state().3, "the sidecar `proxy`: is being started");
    bench.runs("proxy", at(2));
    assert!(only_status(&bench.pods).ready);
    assert_eq!(bench.ends("server", 0, at(3)), [""; 0]);
    assert_eq!(bench.state().3, "the container `server`: ended with status 0");
    assert_eq!(bench.ends("worker", 4, at(4)), ["stop pod 5000"]);
    bench.pod_exits(143, at(5));
    let message = "the container `worker`: ended with status 4: see its log";
    assert_eq!(bench.state(), (PodPhase::Failed, false, "Error", message));
    assert_eq!(only_status(&bench.pods).last_exit_code, Some(4), "that which decided");
}

#[test]
fn with_on_failure_the_pod_succeeds_when_each_has() {
    let mut bench = Bench::up(&whole("OnFailure"));
    assert_eq!(bench.ends("server", 0, at(1)), [""; 0]);
    assert_eq!(bench.ends("worker", 1, at(1)), ["start worker#1"]);
    bench.runs("worker", at(2));
    assert_eq!(bench.ends("worker", 0, at(3)), ["stop pod 5000"]);
    bench.pod_exits(143, at(4));
    assert_eq!(bench.state().0, PodPhase::Succeeded);
    assert_eq!(only_status(&bench.pods).last_exit_code, Some(0));
}

fn probe_of(period_seconds: u64) -> Value {
    json!({ "tcpSocket": { "port": 1 }, "periodSeconds": period_seconds, "failureThreshold": 1 })
}

#[test]
fn what_comes_after_a_sidecar_waits_for_its_startup_probe() {
    let slow = json!({ "restartPolicy": "Always", "startupProbe": probe_of(10) });
    let spec = json!({ "terminationGracePeriodSeconds": 5,
        "initContainers": [with("proxy", &slow)], "containers": [plain("server")] });
    let mut bench = Bench::new(&spec);
    assert_eq!(bench.pod_runs(at(0)), ["start proxy#0"]);
    assert_eq!(bench.runs("proxy", at(1)), ["probe proxy Startup"]);
    let message = "the sidecar `proxy`: waits for its startup probe";
    assert_eq!(bench.state(), (PodPhase::Starting, false, "Init:0/1", message));
    assert_eq!(bench.probed("proxy", ProbeKind::Startup, true, at(2)), ["start server#0"]);
    // Started once, it holds nothing back any more.
    assert_eq!(bench.ends("proxy", 1, at(3)), ["start proxy#1"]);
    bench.runs("server", at(4));
    assert_eq!(bench.state().3, "the sidecar `proxy`: is being started");
}

#[test]
fn a_pod_is_ready_when_all_are_and_one_that_is_not_alive_is_stopped_alone() {
    let ready = json!({ "readinessProbe": probe_of(10) });
    let alive = json!({ "livenessProbe": probe_of(10) });
    let spec = json!({ "terminationGracePeriodSeconds": 5,
        "containers": [with("server", &ready), with("worker", &alive)] });
    let mut bench = Bench::new(&spec);
    assert_eq!(bench.pod_runs(at(0)), ["start server#0", "start worker#0"]);
    assert_eq!(bench.runs("server", at(1)), ["probe server Readiness"]);
    assert_eq!(bench.runs("worker", at(1)), ["probe worker Liveness"]);
    let message = "the container `server`: waits for its readiness probe";
    assert_eq!(bench.state(), (PodPhase::Running, false, "NotReady", message));
    bench.probed("server", ProbeKind::Readiness, true, at(1));
    assert!(only_status(&bench.pods).ready);
    assert_eq!(bench.probed("worker", ProbeKind::Liveness, false, at(2)), ["stop worker 5000"]);
    let message = "the container `worker`: Liveness probe failed: refused";
    assert_eq!(bench.state(), (PodPhase::Running, false, "Unhealthy", message));
    // A stop that nobody hears is asked for again.
    let again = bench.waits(at(2 + 5 + 30));
    assert!(again.contains(&"stop worker 0".to_owned()), "{again:?}");
    assert_eq!(bench.ends("worker", 137, at(38)), ["start worker#1"]);
}

#[test]
fn only_the_container_that_asks_for_gpus_gets_them() {
    let asks = json!({ "resources": { "limits": { "nvidia.com/gpu": 1, "cpu": "500m" } } });
    let volume = json!({ "name": "v", "configMap": { "name": "settings", "optional": true } });
    let mounts = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/etc/v" }] });
    let spec = json!({ "volumes": [volume],
        "containers": [with("server", &asks), with("worker", &mounts)] });
    let mut bench = Bench::new(&spec);
    assert_eq!(bench.start.gpus.len(), 1);
    let start = bench.start.clone();
    runs(&mut bench.pods, &start, at(0));
    let of = |action| match action {
        PodAction::StartContainer(request) => Some(request.start),
        _ => None,
    };
    let starts: Vec<StartRequest> = actions(&mut bench.pods).into_iter().filter_map(of).collect();
    assert_eq!((&starts[0].gpus, starts[1].gpus.len()), (&bench.start.gpus, 0));
    assert_eq!((starts[0].taken.cpu_millicores, starts[1].taken.cpu_millicores), (500, 0));
    assert_eq!(
        (starts[0].volumes.len(), starts[1].volumes[0].mounts.as_slice()),
        (0, ["etc/v".to_owned()].as_slice())
    );
}

#[test]
fn a_runtime_of_one_container_refuses_more_with_the_field_and_what_to_do() {
    let mut pods = Pods::new(1);
    pods.refuse_several_containers();
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(&[workload_of(&whole("Always"))]), at(0));
    assert!(actions(&mut pods).is_empty());
    let status = only_status(&pods);
    assert_eq!(status.reason, "InvalidTemplate");
    let expected = "spec.initContainers: the process runtime runs one container";
    assert!(status.message.starts_with(expected), "{}", status.message);
}

/// An agent that comes back and finds these containers.
fn back(spec: &Value, containers: &[(&str, u32, ObservedState)]) -> Bench {
    let before = Bench::new(spec);
    let start = before.start;
    let observed = |(name, attempt, state): &(&str, u32, ObservedState)| ObservedContainer {
        name: (*name).to_owned(),
        attempt: *attempt,
        state: *state,
    };
    let containers = containers.iter().map(observed).collect();
    let found = Observation { containers, ..found_running(&start) };
    let mut pods = Pods::new(2);
    pods.restore(vec![], vec![found], at(0));
    pods.provide(node(), true, at(0));
    Bench { pods, start }
}

#[test]
fn an_agent_that_comes_back_goes_on_where_the_containers_are() {
    let running = ObservedState::Running { started_at: UnixMs(1) };
    let done = ObservedState::Exited { code: 0 };
    let spec = whole("Always");
    let goes_on = |containers: &[(&str, u32, ObservedState)]| {
        let mut bench = back(&spec, containers);
        assert!(bench.due().is_empty(), "nobody knows what is wanted");
        bench.pods.assign(&fleet(&[workload_of(&spec)]), at(0));
        let due = bench.due();
        (due, bench.state().2.to_owned())
    };
    let words = |steps: &[&str], reason: &str| {
        (steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>(), reason.to_owned())
    };
    assert_eq!(goes_on(&[]), words(&["start fetch#0"], "Init:0/3"));
    assert_eq!(goes_on(&[("fetch", 0, running)]), words(&[], "Init:0/3"));
    assert_eq!(goes_on(&[("fetch", 0, done)]), words(&["start proxy#0"], "Init:1/3"));
    let between = [("fetch", 0, done), ("proxy", 2, running)];
    assert_eq!(goes_on(&between), words(&["start migrate#0"], "Init:2/3"));
    // What was removed to be started again had been there.
    let no_sidecar = [("fetch", 0, done), ("migrate", 0, done), ("server", 0, running)];
    let expected = words(&["start proxy#0", "start worker#0"], "NotReady");
    assert_eq!(goes_on(&no_sidecar), expected);
    let failed = [("fetch", 0, ObservedState::Exited { code: 3 })];
    assert_eq!(goes_on(&failed), words(&["stop pod 5000"], "Init:Error"));
}

#[test]
fn what_ends_before_it_is_known_what_is_wanted_is_judged_then() {
    let running = ObservedState::Running { started_at: UnixMs(1) };
    let (spec, done) = (whole("Always"), ObservedState::Exited { code: 0 });
    let found = [
        ("fetch", 0, done),
        ("proxy", 0, running),
        ("migrate", 0, done),
        ("server", 3, running),
        ("worker", 0, running),
    ];
    let mut bench = back(&spec, &found);
    bench.ends("server", 9, at(1));
    bench.pods.assign(&fleet(&[workload_of(&spec)]), at(1));
    assert_eq!(bench.state().2, "CrashLoopBackOff");
    assert_eq!(only_status(&bench.pods).restarts, 4);
    // Another revision is wanted: all of it makes place.
    let mut bench = back(&spec, &found);
    let other = Workload { revision: Revision(2), ..workload_of(&spec) };
    bench.pods.assign(&fleet(&[other]), at(1));
    assert_eq!(bench.due(), ["stop pod 30000"]);
}

#[test]
fn a_sandbox_that_is_gone_has_the_pod_begin_anew() {
    let mut bench = Bench::up(&whole("Always"));
    bench.ends("worker", 1, at(1));
    assert_eq!(bench.pod_exits(255, at(2)), ["start pod"]);
    assert_eq!(only_status(&bench.pods).restarts, 2, "its containers' restarts are not forgotten");
}
