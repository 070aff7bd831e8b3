//! Pods with a network of their own on a whole node, with hub and agent as processes: they are ready and scale by what
//! is read at their addresses, one waits for a port of the node, the hub shows where they are, and a power cut gives
//! them other addresses.

use crate::site::{PATIENCE, Site};
use serde_json::Value;
use std::collections::BTreeSet;
use tests::real::containerd::Containerd;
use tests::real::process::{free_port, wait_until};

/// Three servers at one port, since their queue is long; one of them says what network it wants.
fn manifest(port: u16) -> String {
    let image = Containerd::image();
    let serve = "mkdir /tmp/w; echo queue_depth 30 > /tmp/w/metrics; exec httpd -f -p 80 -h /tmp/w";
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: queue}}
spec:
  autoscaling: {{minReplicas: 1, maxReplicas: 3, metric: QueueDepth, target: 10}}
  template:
    metadata: {{annotations: {{prometheus.io/scrape: 'true'}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [sh, -c, '{serve}']
        ports: [{{containerPort: 80}}]
        readinessProbe: {{httpGet: {{port: 80, path: /metrics}}, periodSeconds: 1, timeoutSeconds: 5}}
---
apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: door}}
spec:
  placement: {{replicasPerNode: 2}}
  template:
    spec:
      terminationGracePeriodSeconds: 1
      hostNetwork: false
      containers:
      - name: main
        image: {image}
        command: [sh, -c, '{serve}']
        ports: [{{containerPort: 80, hostPort: {port}}}]
---
apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: node}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      hostNetwork: true
      containers: [{{name: main, image: {image}, command: [sleep, '100000']}}]
"
    )
}

fn pods<'a>(status: &'a Value, workload: &str) -> Vec<&'a Value> {
    let pods = status["pods"].as_array().into_iter().flatten();
    let start = format!("default/{workload}-");
    pods.filter(|pod| pod["pod"].as_str().is_some_and(|name| name.starts_with(&start))).collect()
}

/// Addresses of those that are ready, where all are that should be.
fn addresses(status: &Value) -> Option<BTreeSet<String>> {
    let ready = |workload: &str, count: usize| {
        let ready = pods(status, workload).into_iter().filter(|pod| pod["ready"] == true);
        Some(ready.collect::<Vec<_>>()).filter(|ready| ready.len() == count)
    };
    let (queue, door, node) = (ready("queue", 3)?, ready("door", 1)?, ready("node", 1)?);
    assert!(node[0].get("pod_ip").is_none_or(Value::is_null), "{node:?}");
    let own = queue.into_iter().chain(door);
    own.map(|pod| pod["pod_ip"].as_str().map(str::to_owned)).collect()
}

#[test]
fn they_are_ready_and_scale_and_are_back_after_a_power_cut_with_other_addresses() {
    let mut site = Site::with_network();
    let port = free_port().unwrap();
    site.hub.apply("network.yaml", &manifest(port)).unwrap();
    let all_run = |status: &Value| addresses(status).is_some();
    site.agent.wait_for("all that should are ready", PATIENCE, all_run).unwrap();
    let status = site.agent.status().unwrap();
    let before = addresses(&status).unwrap();
    assert_eq!(before.len(), 4, "{before:?}");
    let second = pods(&status, "door").into_iter().find(|pod| pod["ready"] == false).unwrap();
    assert_eq!(second["reason"], "HostPortTaken");
    let words = format!("the node's port {port}/TCP leads to the pod default/door-");
    assert!(second["message"].as_str().unwrap().starts_with(&words), "{second}");

    // Shown where the rest of a pod's status is.
    let shown = || {
        let output =
            site.hub.command(&["why", "mast-17", "default/queue-0"]).unwrap().output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let is_shown = || {
        let text = shown();
        Ok(before.iter().any(|address| text.contains(address)))
    };
    wait_until("the hub shows its address", PATIENCE, is_shown).unwrap();
    let output = site.agent.command(&["status"]).unwrap().output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(before.iter().all(|address| text.contains(address)), "{text}");

    site.hub.kill();
    site.cut_power();
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.agent.wait_for("all are back", PATIENCE, all_run).unwrap();
    let after = addresses(&site.agent.status().unwrap()).unwrap();
    assert!(after.is_disjoint(&before), "{after:?} and {before:?}");
    let taken = || site.containerd.network().map_or(0, |network| network.taken().len());
    wait_until("what is taken is what is used", PATIENCE, || Ok(taken() == 4)).unwrap();

    site.hub.start().unwrap();
    site.hub.withdraw("network.yaml").unwrap();
    site.assert_nothing_is_left();
}
