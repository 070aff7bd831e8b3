//! Pods with a network of their own, and ports of the node that lead to them.

use super::*;
use shared::model::ContainerPort;

fn with_host_port(port: u16) -> Container {
    let host_port = Some(port);
    let port = ContainerPort { container_port: 80, host_port, ..ContainerPort::default() };
    Container { ports: vec![port], ..container() }
}

fn addressed(pods: &mut Pods, request: &StartRequest, address: &str) {
    let (pod, instance, pod_ip) = (request.pod.clone(), request.instance, address.parse().unwrap());
    pods.handle_runtime(RuntimeEvent::Addressed { pod, instance, pod_ip }, at(1));
}

#[test]
fn a_pod_s_address_is_told_for_as_long_as_it_has_it_and_one_that_is_found_has_its_own() {
    let mut ocr = workload("ocr", 1, with_host_port(8080));
    ocr.template.spec.host_network = Some(false);
    let mut pods = pods_with(&[ocr.clone()]);
    let request = started(&mut pods);
    assert_eq!(request.network.is_host, Some(false));
    assert_eq!(request.network.host_ports, ocr.template.spec.containers[0].ports);
    addressed(&mut pods, &request, "10.88.0.5");
    runs(&mut pods, &request, at(1));
    let address = |pods: &Pods| only_status(pods).pod_ip.map(|address| address.to_string());
    assert_eq!(address(&pods).as_deref(), Some("10.88.0.5"));
    exits(&mut pods, &request, 1, at(2));
    assert_eq!(address(&pods), None);

    let mut found = Pods::new(2);
    let pod_ip = "10.88.0.6".parse().ok();
    found.restore(vec![], vec![Observation { pod_ip, ..found_running(&request) }], at(0));
    found.provide(node(), true, at(0));
    found.assign(&fleet(&[ocr]), at(0));
    assert_eq!(address(&found).as_deref(), Some("10.88.0.6"));
}

#[test]
fn a_port_of_the_node_leads_to_one_pod_and_the_next_waits_for_its_end() {
    let both = [workload("a", 1, with_host_port(8080)), workload("b", 1, with_host_port(8080))];
    let mut pods = pods_with(&both);
    let first = started(&mut pods);
    runs(&mut pods, &first, at(1));
    assert_eq!(first.pod.to_string(), "default/a-0");
    let waits = |pods: &Pods| pods.status(&"default/b-0".parse().unwrap()).unwrap().clone();
    assert_eq!(
        (waits(&pods).phase, waits(&pods).reason.as_str()),
        (PodPhase::Pending, "HostPortTaken")
    );
    assert_eq!(waits(&pods).message, "the node's port 8080/TCP leads to the pod default/a-0");
    // Also where it was found running.
    let mut found = Pods::new(2);
    found.restore(vec![], vec![found_running(&first)], at(0));
    found.provide(node(), true, at(0));
    found.assign(&fleet(&both), at(0));
    assert_eq!(waits(&found).reason, "HostPortTaken");

    pods.assign(&fleet(&both[1..]), at(2));
    assert_eq!(waits(&pods).reason, "HostPortTaken", "it has not ended yet");
    exits(&mut pods, &first, 143, at(3));
    assert_eq!(started(&mut pods).pod.to_string(), "default/b-0");
}

#[test]
fn pods_with_other_ports_of_the_node_do_not_wait_and_neither_do_replicas_with_ports_apart() {
    let other = workload("b", 1, with_host_port(8081));
    let mut apart = workload("c", 1, with_host_port(80));
    apart.replicas = 2;
    let annotation = (shared::model::PORT_OFFSET.to_owned(), "ordinal".to_owned());
    apart.template.metadata.annotations = [annotation].into();
    let mut pods = pods_with(&[workload("a", 1, with_host_port(8080)), other, apart]);
    let starts = actions(&mut pods).into_iter().filter(|one| matches!(one, PodAction::Start(_)));
    assert_eq!(starts.count(), 4);
}

#[test]
fn a_template_for_a_cluster_alone_is_refused_with_the_field() {
    let mut ocr = workload("ocr", 1, container());
    ocr.template.spec.dns_policy = Some(shared::model::DnsPolicy::ClusterFirst);
    let pods = pods_with(&[ocr]);
    let status = only_status(&pods);
    assert_eq!(status.reason, "InvalidTemplate");
    assert!(status.message.starts_with("spec.dnsPolicy: "), "{}", status.message);
}
