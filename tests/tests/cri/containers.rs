//! Pods of several containers: what they share, in which order they end, and what is left of them when the agent
//! went away. The last tests have the agent's own core decide, as a real agent does.

use crate::scene::{Agent, Node, pod, request, wait_until};
use edge_agent::config::PullPolicy;
use edge_agent::ports::{
    ContainerEvent, ContainerPlan, ContainerRequest, InstanceId, ObservedState, ProbeKind,
    ProbeRequest, Runtime, RuntimeEvent, StartRequest, VolumeContent, VolumeSource,
};
use edge_agent::runtime::tail_log;
use serde_bytes::ByteBuf;
use shared::model::{ConfigItem, Container, ContainerRole, Probe, UnixMs};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tests::real::containerd::Containerd;

/// Runs until it is told to stop, and says so.
const POLITE: &str = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";

/// One that marks its end in the pod's only folder that containers can share: that of its door.
fn marking(name: &str) -> String {
    // Mounted read-only in the containers: the log is where they can write.
    format!("trap 'echo {name} ended; exit 0' TERM; echo {name} up; while :; do sleep 0.1; done")
}

fn group(instance: u64, plan: &[(&str, ContainerRole)]) -> StartRequest {
    let image = Some(Containerd::image().to_owned());
    let plan = plan.iter().map(|(name, role)| ContainerPlan {
        pulls: None,
        is_privileged: false,
        pre_stop: None,
        post_start: None,
        name: (*name).to_owned(),
        role: *role,
        image: image.clone(),
    });
    StartRequest { containers: plan.collect(), ..request(instance, "true") }
}

fn one(instance: u64, name: &str, attempt: u32, script: &str) -> ContainerRequest {
    let start = request(instance, script);
    let container = Container { name: name.to_owned(), ..start.container.clone() };
    ContainerRequest { start: StartRequest { container, ..start }, attempt }
}

/// What one container printed.
fn log(node: &Node, container: Option<&str>) -> String {
    let log = tail_log(&node.pods(), &pod(), container, 1000, 1 << 20).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}

impl Agent {
    #[track_caller]
    fn of_container(&mut self, name: &str) -> ContainerEvent {
        match self.event() {
            RuntimeEvent::Container { container, event, .. } if container == name => event,
            event => panic!("expected something of {name}, not {event:?}"),
        }
    }

    #[track_caller]
    fn begin(&mut self, instance: u64, name: &str, attempt: u32, script: &str) {
        self.within(|runtime| runtime.start_container(one(instance, name, attempt, script)));
        let event = self.of_container(name);
        assert!(
            matches!(event, ContainerEvent::Started { started_at } if started_at > UnixMs(0)),
            "{event:?}"
        );
    }

    #[track_caller]
    fn ended(&mut self, name: &str) -> i32 {
        match self.of_container(name) {
            ContainerEvent::Exited { code } => code,
            event => panic!("expected the end of {name}, not {event:?}"),
        }
    }
}

use ContainerRole::{Init, Main, Sidecar};

#[test]
fn containers_have_logs_of_their_own_and_share_the_network_and_the_volumes() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let data = [("ocr.toml".to_owned(), ByteBuf::from("settings"))];
    let volume = |mount: &str| VolumeContent {
        name: "settings".to_owned(),
        mounts: vec![mount.to_owned()],
        source: VolumeSource::ConfigMap(Arc::new(ConfigItem { data: data.clone().into() })),
        ..VolumeContent::default()
    };
    let start = group(1, &[("server", Main), ("client", Main)]);
    let event = agent.start(StartRequest { volumes: vec![volume("a")], ..start });
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    let mut serves = one(1, "server", 0, &format!("exec httpd -f -p 127.0.0.1:{port} -h /etc/ocr"));
    serves.start.volumes = vec![volume("etc/ocr")];
    agent.within(|runtime| runtime.start_container(serves));
    agent.of_container("server");
    let script = format!(
        "until wget -q -O - http://127.0.0.1:{port}/ocr.toml; do sleep 0.1; done; echo; \
         cat /settings/ocr.toml; echo; test -S $HINTERLAND_RESULTS_SOCKET && echo door; exit 4"
    );
    let mut asks = one(1, "client", 0, &script);
    asks.start.volumes = vec![volume("settings")];
    agent.within(|runtime| runtime.start_container(asks));
    agent.of_container("client");
    assert_eq!(agent.ended("client"), 4);
    assert_eq!(log(&node, Some("client")), "settings\nsettings\ndoor\n");
    assert_eq!(log(&node, None), log(&node, Some("server")));
    // A probe by command is one of its container.
    let exec = serde_json::json!({ "exec": { "command": ["test", "-e", "/etc/ocr/ocr.toml"] }, "timeoutSeconds": 5 });
    let probe: Probe = serde_json::from_value(exec).unwrap();
    let (instance, kind) = (InstanceId(1), ProbeKind::Readiness);
    let container = Some("server".to_owned());
    let probe = ProbeRequest { pod: pod(), instance, container: container.clone(), kind, probe };
    agent.within(|runtime| runtime.probe(probe));
    let event = agent.event();
    let expected = RuntimeEvent::Probed { pod: pod(), instance, container, kind, result: Ok(()) };
    assert_eq!(event, expected);
    agent.clear(&node, 1);
}

#[test]
fn a_container_is_started_again_beside_the_others_and_sidecars_end_last_in_reverse_order() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let plan = [("first", Sidecar), ("second", Sidecar), ("server", Main), ("worker", Main)];
    agent.start(group(1, &plan));
    for name in ["first", "second", "worker"] {
        agent.begin(1, name, 0, &marking(name));
    }
    agent.begin(1, "server", 0, "echo once; exit 3");
    assert_eq!(agent.ended("server"), 3);
    agent.begin(1, "server", 1, &marking("server"));
    wait_until("all run", || {
        let names = plan.iter().map(|(name, _)| *name);
        { names }.all(|name| log(&node, Some(name)).contains("up"))
    });
    assert!(log(&node, None).starts_with("once\nserver up"), "{}", log(&node, None));
    assert_eq!(log(&node, Some("first")).matches("up").count(), 1, "it went on");
    // A sandbox, and one container for each name.
    assert_eq!(node.containerd.containers().unwrap().len(), 5);
    assert_eq!(agent.stop(1, 30_000), 0);
    let ended_at = |name: &str| {
        let raw = node.pods().join(format!("default_ocr-0/log/{name}/container.0.log"));
        let raw = std::fs::read_to_string(raw).unwrap();
        let line = raw.lines().find(|line| line.ends_with(" ended")).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let [first, second, server, worker] = plan.map(|(name, _)| ended_at(name));
    assert!(
        server < second && worker < second && second < first,
        "{server} {worker} {second} {first}"
    );
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn one_container_is_stopped_alone_and_killed_after_its_grace() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start(group(1, &[("server", Main), ("worker", Main)]));
    agent.begin(1, "server", 0, "trap '' TERM; echo deaf; while :; do sleep 0.1; done");
    agent.begin(1, "worker", 0, POLITE);
    wait_until("both run", || {
        log(&node, None).contains("deaf") && log(&node, Some("worker")).contains("up")
    });
    agent.within(|runtime| runtime.stop_container(&pod(), InstanceId(1), "server", 1000));
    assert_eq!(agent.ended("server"), 137);
    assert!(agent.event_within(Duration::from_secs(2)).is_none(), "the other goes on");
    assert_eq!(agent.stop(1, 30_000), 7);
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn what_can_t_start_says_why_and_the_others_go_on() {
    let node = Node::new();
    let mut agent = Agent::pulling(&node, PullPolicy::Never);
    let mut start = group(1, &[("server", Main), ("worker", Main)]);
    start.containers[1].image = Some("docker.io/hinterland/none:1".to_owned());
    let (reason, message) = agent.refusal(start);
    assert_eq!(reason, "ImageMissing");
    assert!(message.starts_with("the container `worker`: the image docker.io/"), "{message}");
    node.assert_clean();
    agent.start(group(1, &[("server", Main), ("worker", Main)]));
    agent.begin(1, "server", 0, POLITE);
    let mut wrong = one(1, "worker", 0, "true");
    wrong.start.container.command = vec!["/bin/nothing".to_owned()];
    agent.within(|runtime| runtime.start_container(wrong));
    let event = agent.of_container("worker");
    let ContainerEvent::StartFailed { reason, .. } = &event else { panic!("{event:?}") };
    assert_eq!(reason, "ProgramNotFound");
    // The same again, as the core asks for it, and what was tried is not in the way.
    agent.begin(1, "worker", 0, POLITE);
    agent.clear(&node, 1);
}

#[test]
fn an_agent_that_comes_back_finds_each_container_and_none_is_started_twice() {
    let node = Node::new();
    let mut first = Agent::new(&node);
    let plan = [("fetch", Init), ("proxy", Sidecar), ("migrate", Init), ("server", Main)];
    first.start(group(1, &plan));
    first.begin(1, "fetch", 0, "echo fetched");
    assert_eq!(first.ended("fetch"), 0);
    first.begin(1, "proxy", 0, "exit 1");
    assert_eq!(first.ended("proxy"), 1);
    first.begin(1, "proxy", 1, POLITE);
    first.begin(1, "migrate", 0, "until test -e /run/hinterland/go; do sleep 0.1; done; exit 5");
    drop(first);

    let mut second = Agent::new(&node);
    let found = second.observe();
    assert_eq!((found.len(), found[0].instance), (1, InstanceId(1)), "{found:?}");
    assert!(matches!(found[0].state, ObservedState::Running { .. }));
    let of = |name: &str| found[0].containers.iter().find(|one| one.name == name);
    assert_eq!(of("fetch").unwrap().state, ObservedState::Exited { code: 0 });
    assert!(matches!(of("migrate").unwrap().state, ObservedState::Running { .. }));
    assert_eq!((of("proxy").unwrap().attempt, of("server")), (1, None));
    second.within(|runtime| runtime.start_container(one(1, "migrate", 0, POLITE)));
    let event = second.of_container("migrate");
    assert!(
        matches!(&event, ContainerEvent::StartFailed { reason, .. } if reason == "StillRunning"),
        "{event:?}"
    );
    std::fs::write(node.pods().join("default_ocr-0/door/go"), "").unwrap();
    assert_eq!(second.ended("migrate"), 5);
    second.begin(1, "server", 0, POLITE);
    second.clear(&node, 1);
}

#[test]
fn an_agent_that_dies_while_a_container_starts_leaves_one_of_it_or_none() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start(group(1, &[("server", Main)]));
    for round in 0..12_u64 {
        agent.within(|runtime| runtime.start_container(one(1, "server", 0, POLITE)));
        // Somewhere between being asked for and running.
        std::thread::sleep(Duration::from_millis(15 * round));
        agent = Agent::new(&node);
        let found = agent.observe();
        let [server] = found[0].containers.as_slice() else {
            assert!(found[0].containers.is_empty(), "{found:?}");
            continue;
        };
        assert!(matches!(server.state, ObservedState::Running { .. }), "{found:?}");
        agent.within(|runtime| runtime.stop_container(&pod(), InstanceId(1), "server", 0));
        assert_eq!(agent.ended("server"), 137);
    }
    agent.begin(1, "server", 0, POLITE);
    wait_until("it runs", || log(&node, None).ends_with("up\n"));
    // The pause of the sandbox, and the shell with what it runs.
    assert_eq!(node.containerd.containers().unwrap().len(), 2);
    agent.clear(&node, 1);
}

#[test]
fn after_a_power_cut_the_pod_is_lost_and_a_sandbox_that_dies_ends_it() {
    let mut node = Node::new();
    let mut first = Agent::new(&node);
    first.start(group(1, &[("server", Main), ("worker", Main)]));
    first.begin(1, "server", 0, POLITE);
    drop(first);
    node.containerd.cut_power().unwrap();
    node.containerd.resume().unwrap();
    let mut second = Agent::new(&node);
    let found = second.observe();
    assert_eq!((found[0].instance, found[0].state), (InstanceId(1), ObservedState::Lost));
    second.forget(1, true);
    second.start(group(2, &[("server", Main), ("worker", Main)]));
    second.begin(2, "server", 0, POLITE);
    // The shim, the pause and the container.
    for id in node.containerd.processes() {
        tests::real::process::signal(id, rustix::process::Signal::KILL);
    }
    second.ended("server");
    second.within(|runtime| runtime.start_container(one(2, "server", 1, POLITE)));
    let event = second.of_container("server");
    assert!(matches!(event, ContainerEvent::StartFailed { .. }), "{event:?}");
    assert_ne!(second.exit(2), 0);
    second.forget(2, false);
    node.assert_clean();
}
