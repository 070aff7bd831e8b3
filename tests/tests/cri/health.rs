//! Probes by gRPC on a whole node, with hub and agent as processes. The server that is asked runs in the test: pods
//! are on the node's network, and so is it.

use crate::site::Site;
use serde_json::Value;
use tests::real::containerd::Containerd;
use tests::real::health::{HealthServer, NOT_SERVING, SERVING};

fn manifest(port: u16) -> String {
    let image = Containerd::image();
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: box}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [sleep, '100000']
        startupProbe: {{grpc: {{port: {port}, service: model}}, periodSeconds: 1, failureThreshold: 600}}
        readinessProbe: {{grpc: {{port: {port}}}, periodSeconds: 1, failureThreshold: 1}}
        livenessProbe: {{grpc: {{port: {port}, service: alive}}, periodSeconds: 1, failureThreshold: 3}}
"
    )
}

fn says(pod: &Value, words: &str) -> bool {
    pod["message"].as_str().is_some_and(|message| message.contains(words))
}

#[test]
fn a_pod_starts_is_ready_and_is_started_again_as_its_grpc_server_says() {
    let (site, server) = (Site::new(), HealthServer::start().unwrap());
    let wait = |what: &str, holds: &dyn Fn(&Value) -> bool| site.wait(what, holds);

    server.set("alive", SERVING);
    server.set("", NOT_SERVING);
    site.hub.apply("box.yaml", &manifest(server.port())).unwrap();
    wait("its startup probe fails", &|pod| says(pod, "waits for its startup probe"));
    server.set("model", SERVING);
    let not_ready = format!("Readiness probe failed: the server on port {}", server.port());
    wait("it has started, and is not ready", &|pod| {
        says(pod, &not_ready) && says(pod, "is NOT_SERVING")
    });
    server.set("", SERVING);
    wait("it is ready", &|pod| pod["ready"] == true && pod["restarts"] == 0);

    server.set("alive", NOT_SERVING);
    wait("it is started again", &|pod| pod["restarts"].as_u64() >= Some(1));
    server.set("alive", SERVING);
    wait("it is ready again", &|pod| pod["ready"] == true && pod["restarts"].as_u64() >= Some(1));

    site.hub.withdraw("box.yaml").unwrap();
    site.assert_nothing_is_left();
}
