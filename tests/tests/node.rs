//! What a node decides by itself, with real processes and no hub in reach: how many pods it takes, and whether
//! it has the model that a pod needs.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::http::request;
use tests::real::hub::Hub;
use tests::real::process::{free_ports_in_a_row, wait_until};
use tests::story::questions;

const PATIENCE: Duration = Duration::from_secs(90);

/// A hub, and a node that it has in session.
fn pair(folder: &Path) -> Result<(Hub, Agent)> {
    let mut hub = Hub::new(&folder.join("hub"))?;
    hub.start()?;
    let mut agent = Agent::new(&folder.join("node"), "mast-17")?;
    agent.enroll(&hub)?;
    agent.start()?;
    agent.wait_until_up()?;
    Ok((hub, agent))
}

fn pods(status: &Value) -> Vec<&Value> {
    status["pods"].as_array().into_iter().flatten().collect()
}

fn ready(status: &Value) -> usize {
    pods(status).iter().filter(|pod| pod["ready"] == true).count()
}

/// The example's server, of which each replica listens on a port of its own.
fn scaled(port: u16) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: classifier}}
spec:
  autoscaling:
    maxReplicas: 3
    metric: RequestsPerSecond
    metricName: file_classifier_request_seconds
    target: 1
    scaleDownStabilizationSeconds: 0
  template:
    metadata:
      annotations:
        prometheus.io/scrape: 'true'
        hinterland.dev/port-offset: ordinal
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: server
        command: [sh, -c, 'exec file-classifier --listen 127.0.0.1:$PORT']
        ports: [{{containerPort: {port}}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: {port}}}, periodSeconds: 60, failureThreshold: 1}}
        startupProbe: {{httpGet: {{path: /readyz, port: {port}}}, periodSeconds: 1, failureThreshold: 60}}
"
    )
}

#[test]
fn a_node_without_a_hub_runs_as_many_pods_as_their_requests_take() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports_in_a_row(3).unwrap();
    let (mut hub, mut agent) = pair(folder.path()).unwrap();
    hub.apply("classifier.yaml", &scaled(port)).unwrap();
    agent.wait_for("the fewest pods are ready", PATIENCE, |status| ready(status) == 1).unwrap();
    hub.kill();

    let first = SocketAddr::from(([127, 0, 0, 1], port));
    let question = questions().first().unwrap();
    let asked = || request(first, "POST", "/v1/classify", question.content, PATIENCE);
    wait_until("requests are served by three pods", PATIENCE, || {
        for _ in 0..20 {
            asked()?.json()?;
        }
        Ok(ready(&agent.status()?) == 3)
    })
    .unwrap();
    for offset in 0..3 {
        let own = SocketAddr::from(([127, 0, 0, 1], port + offset));
        request(own, "GET", "/readyz", &[], PATIENCE).unwrap().json().unwrap();
    }

    // The power goes: as many come back as there were, though the desired state says the fewest.
    agent.cut_power();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    let status = agent.status().unwrap();
    assert_eq!(pods(&status).len(), 3, "{status}");
    agent.wait_for("nobody asks any more", PATIENCE, |status| pods(status).len() == 1).unwrap();
    let scaling = agent.status().unwrap()["scaling"][0].clone();
    assert_eq!((&scaling["replicas"], &scaling["max_replicas"]), (&1.into(), &3.into()));

    hub.start().unwrap();
    wait_until("the hub hears of it", PATIENCE, || {
        let events = hub.node("mast-17")?["events"].to_string();
        Ok(events.contains("ScaledUp") && events.contains("ScaledDown"))
    })
    .unwrap();
}

/// What `sha256sum` says of the seven bytes `weights`.
const WEIGHTS: &str = "sha256:9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

/// A pod that needs a model: it says what it found.
fn with_model(digest: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: ocr}}
spec:
  models: [{{name: ocr, digest: '{digest}', sizeBytes: 7, path: /models/ocr.onnx}}]
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: server
        command: [sh, -c, 'cp models/ocr.onnx found; exec sleep 4299']
"
    )
}

fn import(agent: &Agent, file: &Path, digest: Option<&str>) -> Result<String> {
    let file = file.to_str().unwrap();
    let mut arguments = vec!["models", "import", file];
    arguments.extend(digest.into_iter().flat_map(|digest| ["--digest", digest]));
    let output = agent.command(&arguments)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_pod_waits_for_its_model_and_starts_when_somebody_brings_it() {
    let folder = tempfile::tempdir().unwrap();
    let (stick, other) = (folder.path().join("ocr.onnx"), folder.path().join("other.onnx"));
    fs::write(&stick, "weights").unwrap();
    fs::write(&other, "garbage").unwrap();
    let (mut hub, mut agent) = pair(folder.path()).unwrap();
    hub.apply("ocr.yaml", &with_model(WEIGHTS)).unwrap();
    let reason = |status: &Value, reason: &str| pods(status).iter().any(|p| p["reason"] == reason);
    agent
        .wait_for("the pod says what it lacks", PATIENCE, |status| reason(status, "ModelMissing"))
        .unwrap();
    wait_until("the hub can say it", PATIENCE, || {
        let words = hub.node("mast-17")?["pods"].to_string();
        Ok(words.contains("edge-agent models import") && words.contains(WEIGHTS))
    })
    .unwrap();
    hub.kill();

    let refused = import(&agent, &other, Some(WEIGHTS)).unwrap_err();
    assert!(refused.to_string().contains("expected sha256:"), "{refused}");
    assert_eq!(import(&agent, &stick, Some(WEIGHTS)).unwrap(), format!("{WEIGHTS} 7\n"));
    wait_until("the pod runs", PATIENCE, || Ok(agent.sleepers("4299").len() == 1)).unwrap();
    let home = agent.state().join("pods/default_ocr-0/home");
    assert_eq!(fs::read_to_string(home.join("found")).unwrap(), "weights");

    agent.cut_power();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    wait_until("the pod runs again", PATIENCE, || Ok(agent.sleepers("4299").len() == 1)).unwrap();
    let listed = agent.command(&["models", "list"]).unwrap().output().unwrap().stdout;
    assert_eq!(String::from_utf8(listed).unwrap(), format!("{WEIGHTS} 7\n"));
}
