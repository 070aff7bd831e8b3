//! Pods with a network of their own, by Debian's CNI plugins: who reaches them where, and what is left of their
//! addresses when they end, when their agent or containerd is killed, and when the power is cut.

use crate::scene::{Agent, Node, PATIENCE, pod, request, wait_until};
use edge_agent::ports::{
    ContainerEvent, ContainerPlan, ContainerRequest, InstanceId, NetworkRequest, ObservedState,
    Runtime, RuntimeEvent, StartRequest,
};
use serde_json::json;
use shared::model::{Container, ContainerPort, ContainerRole, EnvVar, PodId, Probe};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tests::real::containerd::Containerd;
use tests::real::http;
use tests::real::process::free_port;

/// Serves its own name and address, and a page of its own name, at port 80.
const SERVER: &str = "mkdir /tmp/w; echo $HINTERLAND_POD_NAME $IP > /tmp/w/who; \
                      touch /tmp/w/$HINTERLAND_POD_NAME; exec httpd -f -vv -p 80 -h /tmp/w";

fn replica(ordinal: u32) -> PodId {
    PodId { ordinal, ..pod() }
}

fn ip_variable() -> EnvVar {
    serde_json::from_value(json!({ "name": "IP", "valueFrom": {
        "fieldRef": { "fieldPath": "status.podIP" } } }))
    .unwrap()
}

/// A server with a network of its own.
fn server(ordinal: u32, instance: u64) -> StartRequest {
    let plain = request(instance, SERVER);
    let container = Container { env: vec![ip_variable()], ..plain.container };
    let network = NetworkRequest { is_host: Some(false), host_ports: vec![] };
    StartRequest { pod: replica(ordinal), container, network, ..plain }
}

/// Starts a pod; its address.
#[track_caller]
fn start(agent: &mut Agent, request: StartRequest) -> IpAddr {
    agent.within(|runtime| runtime.start(request));
    let pod_ip = address(agent);
    let event = agent.event();
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    pod_ip
}

/// The address of the pod that is being started. It may wait for a configuration that has just been written.
#[track_caller]
fn address(agent: &mut Agent) -> IpAddr {
    let begin = Instant::now();
    loop {
        match agent.event() {
            RuntimeEvent::Preparing { .. } if begin.elapsed() < PATIENCE => {}
            RuntimeEvent::Addressed { pod_ip, .. } => return pod_ip,
            event => panic!("{event:?}"),
        }
    }
}

#[track_caller]
fn end(agent: &mut Agent, ordinal: u32, instance: u64) {
    let (pod, instance) = (replica(ordinal), InstanceId(instance));
    agent.within(|runtime| runtime.stop(&pod, instance, 0));
    agent.exit(instance.0);
    agent.within(|runtime| runtime.forget(&pod, instance, false));
}

/// What is said at this place, once it is.
#[track_caller]
fn page(address: IpAddr, port: u16, path: &str) -> String {
    let (begin, place) = (Instant::now(), SocketAddr::new(address, port));
    loop {
        match http::request(place, "GET", path, b"", Duration::from_secs(2)) {
            Ok(answer) => return String::from_utf8_lossy(&answer.body).into_owned(),
            Err(error) if begin.elapsed() > PATIENCE => panic!("{place}{path}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn http_probe(port: u16, path: &str) -> Probe {
    serde_json::from_value(json!({ "httpGet": { "port": port, "path": path } })).unwrap()
}

fn exec_probe(script: &str) -> Probe {
    let exec = json!({ "exec": { "command": ["sh", "-c", script] }, "timeoutSeconds": 5 });
    serde_json::from_value(exec).unwrap()
}

#[test]
fn replicas_listen_on_the_same_port_and_are_probed_each_at_its_own_address() {
    let node = Node::with_network();
    node.network().configure().unwrap();
    let mut agent = Agent::new(&node);
    let addresses = [start(&mut agent, server(0, 1)), start(&mut agent, server(1, 2))];
    let port = free_port().unwrap();
    let script = format!("touch /tmp/of-node; exec httpd -f -p 127.0.0.1:{port} -h /tmp");
    let of_node = StartRequest { pod: replica(2), ..request(3, &script) };
    let event = agent.start(of_node);
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");

    assert_ne!(addresses[0], addresses[1]);
    for (ordinal, address) in (0..).zip(addresses) {
        let said = page(address, 80, "/who");
        assert_eq!(said, format!("ocr-{ordinal} {address}\n"));
        let mut probe = |probe| agent.probe_of(replica(ordinal), u64::from(ordinal) + 1, probe);
        probe(http_probe(80, &format!("/ocr-{ordinal}"))).unwrap();
        let other = probe(http_probe(80, &format!("/ocr-{}", 1 - ordinal))).unwrap_err();
        assert!(other.contains("404"), "{other}");
        let tcp = |port| serde_json::from_value(json!({ "tcpSocket": { "port": port } })).unwrap();
        probe(tcp(80)).unwrap();
        let nobody = probe(tcp(81)).unwrap_err();
        assert!(nobody.contains(&format!("{address}:81")), "{nobody}");
        let name = format!("test $(hostname) = ocr-{ordinal}");
        probe(exec_probe(&name)).unwrap();
        probe(exec_probe(&format!("grep -q '^{address}\tocr-{ordinal}$' /etc/hosts"))).unwrap();
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap();
        let servers: Vec<_> = resolv.lines().filter(|l| l.starts_with("nameserver")).collect();
        for server in servers {
            probe(exec_probe(&format!("grep -q '^{server}$' /etc/resolv.conf"))).unwrap();
        }
    }
    wait_until("the one on the node's network answers there", || {
        agent.probe_of(replica(2), 3, http_probe(port, "/of-node")).is_ok()
    });
    let hidden = agent.probe_of(replica(0), 1, http_probe(port, "/of-node")).unwrap_err();
    assert!(hidden.contains(&addresses[0].to_string()), "{hidden}");
    (0..3).for_each(|ordinal| end(&mut agent, ordinal, u64::from(ordinal) + 1));
    node.assert_clean();
}

#[test]
fn a_port_of_the_node_leads_to_the_pod_and_goes_with_it() {
    let node = Node::with_network();
    node.network().configure().unwrap();
    let mut agent = Agent::new(&node);
    let (all, one) = (free_port().unwrap(), free_port().unwrap());
    let gateway = IpAddr::V4(node.network().gateway());
    let mut request = server(0, 1);
    let port = |host_port, host_ip| ContainerPort {
        container_port: 80,
        host_port: Some(host_port),
        host_ip,
        ..ContainerPort::default()
    };
    request.network.host_ports = vec![port(all, None), port(one, Some(gateway.to_string()))];
    let address = start(&mut agent, request);
    let said = format!("ocr-0 {address}\n");
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    assert_eq!(page(loopback, all, "/who"), said);
    assert_eq!(page(gateway, all, "/who"), said);
    assert_eq!(page(gateway, one, "/who"), said);
    let closed = |address| {
        let place = SocketAddr::new(address, one);
        http::request(place, "GET", "/who", b"", Duration::from_secs(1)).is_err()
    };
    assert!(closed(loopback), "it is open at one address of the node alone");
    end(&mut agent, 0, 1);
    node.assert_clean();
    assert!(closed(gateway));
}

#[test]
fn a_pod_keeps_its_address_when_the_agent_or_containerd_is_killed() {
    let mut node = Node::with_network();
    node.network().configure().unwrap();
    let mut agent = Agent::new(&node);
    let mut request = server(0, 1);
    let hook = json!({ "preStop": { "httpGet": { "port": 80, "path": "/good-bye" } } });
    request.container.lifecycle = serde_json::from_value(hook).unwrap();
    let address = start(&mut agent, request);
    assert!(page(address, 80, "/who").starts_with("ocr-0"));
    drop(agent);

    let mut agent = Agent::new(&node);
    let found = agent.observe();
    assert!(matches!(found[0].state, ObservedState::Running { .. }), "{found:?}");
    assert_eq!(found[0].pod_ip, Some(address));
    agent.probe(http_probe(80, "/ocr-0")).unwrap();

    node.containerd.kill();
    agent.probe(http_probe(80, "/ocr-0")).unwrap();
    node.containerd.resume().unwrap();
    agent.probe(http_probe(80, "/ocr-0")).unwrap();
    drop(agent);
    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe()[0].pod_ip, Some(address));
    // With grace: its preStop hook goes to its own address.
    agent.within(|runtime| runtime.stop(&pod(), InstanceId(1), 2_000));
    wait_until("it was asked", || node.log().contains("url:/good-bye"));
    agent.exit(1);
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn after_a_power_cut_addresses_of_the_boot_before_are_given_back_and_others_are_given_out() {
    let mut node = Node::with_network();
    node.network().configure().unwrap();
    let mut agent = Agent::new(&node);
    let before = [start(&mut agent, server(0, 1)), start(&mut agent, server(1, 2))];
    drop(agent);
    node.containerd.cut_power().unwrap();
    assert_eq!(node.network().taken().len(), 2, "they are noted on the disk");
    node.containerd.resume().unwrap();

    let mut agent = Agent::new(&node);
    let found = agent.observe();
    assert_eq!(found.len(), 2, "{found:?}");
    for (ordinal, one) in (0..).zip(found) {
        assert_eq!((one.state, one.pod_ip), (ObservedState::Lost, None));
        agent.within(|runtime| runtime.forget(&one.pod, one.instance, true));
        let address = start(&mut agent, server(ordinal, u64::from(ordinal) + 10));
        assert!(!before.contains(&address), "{address} of {before:?}");
        assert_eq!(page(address, 80, "/who"), format!("ocr-{ordinal} {address}\n"));
    }
    wait_until("what is taken is what is used", || node.network().taken().len() == 2);
    (0..2).for_each(|ordinal| end(&mut agent, ordinal, u64::from(ordinal) + 10));
    node.assert_clean();
}

#[test]
fn an_agent_that_is_killed_at_any_moment_of_a_start_leaves_no_address() {
    let node = Node::with_network();
    node.network().configure().unwrap();
    for round in 0..12_u32 {
        let mut agent = Agent::new(&node);
        for one in agent.observe() {
            if let ObservedState::Running { .. } = one.state {
                agent.within(|runtime| runtime.stop(&one.pod, one.instance, 0));
                agent.exit(one.instance.0);
            }
            agent.within(|runtime| runtime.forget(&one.pod, one.instance, true));
        }
        let request = server(0, u64::from(round) + 1);
        agent.within(|runtime| runtime.start(request));
        std::thread::sleep(Duration::from_millis(u64::from(round) * 40));
    }
    let mut agent = Agent::new(&node);
    for one in agent.observe() {
        end_found(&mut agent, &one.pod, one.instance);
    }
    let address = start(&mut agent, server(0, 100));
    assert!(page(address, 80, "/who").starts_with("ocr-0"));
    end(&mut agent, 0, 100);
    node.assert_clean();
}

#[test]
fn a_containerd_that_is_killed_at_any_moment_of_a_start_leaves_no_address() {
    let mut node = Node::with_network();
    node.network().configure().unwrap();
    let mut agent = Agent::new(&node);
    for round in 0..12_u32 {
        let (pod, instance) = (replica(0), InstanceId(u64::from(round) + 1));
        agent.within(|runtime| runtime.start(server(0, instance.0)));
        std::thread::sleep(Duration::from_millis(u64::from(round) * 20));
        node.containerd.kill();
        node.containerd.resume().unwrap();
        loop {
            match agent.event() {
                RuntimeEvent::Started { .. } => {
                    agent.within(|runtime| runtime.stop(&pod, instance, 0));
                }
                RuntimeEvent::StartFailed { .. } | RuntimeEvent::Exited { .. } => break,
                _ => {}
            }
        }
        agent.within(|runtime| runtime.forget(&pod, instance, true));
    }
    let address = start(&mut agent, server(0, 100));
    assert!(page(address, 80, "/who").starts_with("ocr-0"));
    end(&mut agent, 0, 100);
    node.assert_clean();
}

fn end_found(agent: &mut Agent, pod: &PodId, instance: InstanceId) {
    agent.within(|runtime| runtime.stop(pod, instance, 0));
    agent.exit(instance.0);
    agent.within(|runtime| runtime.forget(pod, instance, false));
}

#[test]
fn without_a_cni_configuration_a_pod_waits_and_says_so_and_starts_when_there_is_one() {
    let node = Node::with_network();
    let mut agent = Agent::new(&node);
    let waits = |event: RuntimeEvent| match event {
        RuntimeEvent::Preparing { reason, message, .. } => (reason, message),
        event => panic!("{event:?}"),
    };
    let (reason, message) = waits(agent.start(server(0, 1)));
    assert_eq!(reason, "NetworkNotReady");
    assert!(message.contains("cni plugin not initialized"), "{message}");
    assert!(message.contains("expected its CNI configuration"), "{message}");
    // It may be given up meanwhile.
    agent.within(|runtime| runtime.stop(&pod(), InstanceId(1), 0));
    let event = agent.event();
    assert!(matches!(event, RuntimeEvent::StartFailed { .. }), "{event:?}");

    waits(agent.start(server(0, 2)));
    node.network().configure().unwrap();
    let pod_ip = address(&mut agent);
    let event = agent.event();
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    assert_eq!(page(pod_ip, 80, "/who"), format!("ocr-0 {pod_ip}\n"));
    end(&mut agent, 0, 2);
    node.assert_clean();
}

#[test]
fn on_the_node_s_network_what_needs_one_of_its_own_is_refused() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let of_node = |mut request: StartRequest| {
        request.network.is_host = None;
        request
    };
    let (reason, message) = agent.refusal(of_node(server(0, 1)));
    assert_eq!(reason, "NeedsPodNetwork");
    assert!(message.starts_with("`status.podIP` needs a network of the pod's own"), "{message}");
    let mut mapped = request(1, "true");
    let port = json!({ "containerPort": 80, "hostPort": 8080 });
    mapped.network.host_ports = vec![serde_json::from_value(port).unwrap()];
    let (reason, message) = agent.refusal(mapped);
    assert_eq!(reason, "NeedsPodNetwork");
    assert!(message.starts_with("a `hostPort` other than its containerPort"), "{message}");
    node.assert_clean();
}

#[test]
fn containers_of_one_pod_share_its_address_also_one_that_starts_after_the_agent_came_back() {
    let node = Node::with_network();
    node.network().configure().unwrap();
    let mut agent = Agent::new(&node);
    let whole = server(0, 1);
    let plan = ["main", "reader"].map(|name| ContainerPlan {
        name: name.to_owned(),
        role: ContainerRole::Main,
        image: Some(Containerd::image().to_owned()),
        pulls: None,
        is_privileged: false,
        post_start: None,
        pre_stop: None,
    });
    let address = start(&mut agent, StartRequest { containers: plan.to_vec(), ..whole.clone() });
    let begin = |agent: &mut Agent, start: StartRequest| {
        agent.within(|runtime| runtime.start_container(ContainerRequest { start, attempt: 0 }));
        match agent.event() {
            RuntimeEvent::Container { event: ContainerEvent::Started { .. }, .. } => {}
            event => panic!("{event:?}"),
        }
    };
    begin(&mut agent, whole.clone());
    assert_eq!(page(address, 80, "/who"), format!("ocr-0 {address}\n"));
    drop(agent);

    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe()[0].pod_ip, Some(address));
    let script = "said=$(printf 'GET /who HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80 | tail -n 1); \
                  test \"$said\" = \"ocr-0 $IP\" && echo same; exec sleep 1000";
    let mut reader = whole;
    reader.container.name = "reader".to_owned();
    reader.container.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    begin(&mut agent, reader);
    let log = || {
        let log = edge_agent::runtime::tail_log(&node.pods(), &pod(), Some("reader"), 10, 4096);
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    };
    wait_until("it read its own page", || log() == "same\n");
    agent.within(|runtime| runtime.stop(&pod(), InstanceId(1), 0));
    agent.exit(1);
    agent.forget(1, false);
    node.assert_clean();
}
