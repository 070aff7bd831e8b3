//! The hub as a process: killed with signal 9, started again, and what it must remember.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use shared::io::mqtt::{LinkEvent, MqttOptions, connect, permitted};
use shared::io::tls::{client_config, install_crypto_provider};
use shared::model::NodeId;
use shared::trust::certificate::{NodeKey, serial_of_certificate};
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tests::real::http::request;
use tests::real::hub::Hub;
use tests::real::process::wait_until;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);

const EDGE_NODE: &str = "apiVersion: hinterland.dev/v1alpha1
kind: EdgeNode
metadata:
  name: mast-17
";

/// A hub that does not run yet, with one node in its manifests.
fn hub_in(folder: &Path) -> Hub {
    let hub = Hub::new(folder).unwrap();
    hub.apply("nodes.yaml", EDGE_NODE).unwrap();
    hub
}

fn run(hub: &Hub, arguments: &[&str]) -> (bool, String) {
    let output = hub.command(arguments).unwrap().output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

fn revoke(hub: &Hub, node: &str) {
    let answer = hub.tell(&format!("/v1/nodes/{node}/revoke"), &[]).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A node's keys and its request.
struct Node {
    key: NodeKey,
    request: String,
}

impl Node {
    fn new(name: &str, number: u8) -> Self {
        let key = NodeKey::generate().unwrap();
        let session = SessionPrivateKey::generate([number; 32]).public();
        let request = key.request(&NodeId::new(name).unwrap(), &session).unwrap();
        Self { key, request }
    }

    /// Tries once to connect as the enrolment says.
    async fn connects(&self, enrollment: &Enrollment) -> bool {
        let (host, port) = enrollment.broker_address().unwrap();
        let tls = client_config(
            &enrollment.authority_pem,
            &enrollment.certificate_pem,
            &self.key.to_pem(),
            Arc::new(DefaultTimeProvider),
        );
        let (events, mut received) = mpsc::channel(8);
        let node = &enrollment.node;
        let options = MqttOptions {
            client_id: node.to_string(),
            host,
            port,
            server_name: enrollment.broker_name.clone(),
            tls: tls.unwrap(),
            keep_alive: Duration::from_secs(60),
            subscriptions: vec![format!("e/{node}/d")],
            speaks_first: false,
            will: None,
            queue_messages_max: 4,
            permit: permitted(),
            seed: [7; 32],
        };
        let client = connect(options, events);
        let event = tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
        client.close().await;
        matches!(event, LinkEvent::Up { .. })
    }
}

fn serial_of(enrollment: &Enrollment) -> u64 {
    let der = CertificateDer::from_pem_slice(enrollment.certificate_pem.as_bytes()).unwrap();
    u64::from_str_radix(&serial_of_certificate(&der).unwrap(), 16).unwrap()
}

fn sign(hub: &Hub, node: &Node) -> Enrollment {
    let answer = hub.tell("/v1/nodes/sign", node.request.as_bytes()).unwrap();
    let body = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{body}");
    Enrollment::parse(&body).unwrap()
}

#[test]
fn a_killed_hub_leads_with_a_greater_term_knows_its_nodes_and_repeats_no_serial_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub_in(folder.path());
    hub.start().unwrap();
    let first = sign(&hub, &Node::new("mast-17", 1));
    let term = hub.ask("/v1/hub").unwrap()["term"].as_u64().unwrap();
    hub.kill();
    hub.start().unwrap();
    assert!(hub.ask("/v1/hub").unwrap()["term"].as_u64().unwrap() > term);
    assert_eq!(hub.ask("/v1/nodes/mast-17").unwrap()["state"], "NeverSeen");
    let second = sign(&hub, &Node::new("mast-18", 2));
    assert!(serial_of(&second) > serial_of(&first));
    assert_eq!(first.authority_pem, second.authority_pem);
    assert_eq!(first.hub_signing_key, second.hub_signing_key);
    assert_eq!(hub.terminate().unwrap(), Some(0), "{}", hub.log());
}

#[tokio::test]
async fn a_signed_node_connects_also_after_a_restart_and_a_revoked_one_does_not() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub_in(folder.path());
    hub.start().unwrap();
    let node = Node::new("mast-17", 1);
    let enrollment = sign(&hub, &node);
    assert!(node.connects(&enrollment).await, "{}", hub.log());
    hub.kill();
    hub.start().unwrap();
    assert!(node.connects(&enrollment).await, "{}", hub.log());
    revoke(&hub, "mast-17");
    assert!(!node.connects(&enrollment).await, "{}", hub.log());
    hub.kill();
    hub.start().unwrap();
    assert!(!node.connects(&enrollment).await, "{}", hub.log());
    // Another holder of the name comes in, and the old certificate does not come with him.
    let successor = Node::new("mast-17", 9);
    let anew = sign(&hub, &successor);
    assert!(successor.connects(&anew).await, "{}", hub.log());
    assert!(!node.connects(&enrollment).await, "{}", hub.log());
}

#[tokio::test]
async fn a_hub_that_lost_its_store_lets_its_nodes_in_and_the_revoked_stay_out() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub_in(folder.path());
    hub.start().unwrap();
    let (node, revoked) = (Node::new("mast-17", 1), Node::new("mast-18", 2));
    let (enrollment, refused) = (sign(&hub, &node), sign(&hub, &revoked));
    revoke(&hub, "mast-18");
    hub.kill();
    for entry in fs::read_dir(hub.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("store") {
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
    }
    hub.start().unwrap();
    assert!(node.connects(&enrollment).await, "{}", hub.log());
    assert!(!revoked.connects(&refused).await, "{}", hub.log());
    let next = sign(&hub, &Node::new("mast-19", 3));
    assert!(serial_of(&next) > serial_of(&refused), "a serial number came twice");
}

#[test]
fn a_hub_with_invalid_manifests_says_so_answers_nobody_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub_in(folder.path());
    let invalid = EDGE_NODE.replace("EdgeNode", "EdgeNod");
    hub.apply("nodes.yaml", &invalid).unwrap();
    hub.begin().unwrap();
    hub.wait_for_status("/healthz", 200).unwrap();
    wait_for_problem(&hub);
    assert_eq!(hub.ask("/v1/hub").unwrap()["has_manifests"], false);
    hub.wait_for_status("/readyz", 503).unwrap();
    let (_, shown) = run(&hub, &["status"]);
    assert!(shown.contains("no valid manifests"), "{shown}");
    hub.apply("nodes.yaml", EDGE_NODE).unwrap();
    hub.wait_for_status("/readyz", 200).unwrap();
    hub.apply("nodes.yaml", &invalid).unwrap();
    wait_for_problem(&hub);
    let status = request(hub.api, "GET", "/readyz", &[], PATIENCE).unwrap().status;
    assert_eq!(status, 200, "what was read last is in force");
}

fn wait_for_problem(hub: &Hub) {
    wait_until("the problem is shown", PATIENCE, || {
        let problem = hub.ask("/v1/hub")?["manifests"]["problems"][0].to_string();
        Ok(problem.contains("nodes.yaml"))
    })
    .unwrap();
}

#[test]
fn the_commands_enrol_show_and_revoke_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub_in(folder.path());
    let (ok, text) = run(&hub, &["nodes"]);
    assert!(!ok && text.contains("no hub runs here"), "{text}");
    hub.start().unwrap();
    let request = folder.path().join("mast-17.csr");
    fs::write(&request, Node::new("mast-17", 1).request).unwrap();
    let answer = folder.path().join("answer.json");
    let (request, answer) = (request.display().to_string(), answer.display().to_string());
    let (ok, text) = run(&hub, &["node", "sign", &request, "--output", &answer]);
    assert!(ok && text.contains("mast-17"), "{text}");
    assert!(Enrollment::parse(&fs::read_to_string(&answer).unwrap()).is_ok());
    let (ok, text) = run(&hub, &["nodes"]);
    assert!(ok && text.contains("NeverSeen"), "{text}");
    let (ok, text) = run(&hub, &["describe", "mast-17", "--output", "json"]);
    let view: Value = serde_json::from_str(&text).unwrap();
    assert!(ok && view["node"] == "mast-17");
    let (ok, text) = run(&hub, &["why", "mast-17", "default/ocr-0"]);
    assert!(!ok && text.contains("default/ocr"), "{text}");
    let (ok, text) = run(&hub, &["node", "revoke", "mast-17"]);
    assert!(ok, "{text}");
    let (_, text) = run(&hub, &["nodes"]);
    assert!(text.contains("Revoked"), "{text}");
}
