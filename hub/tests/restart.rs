//! The hub as a process: killed with signal 9, started again, and what it must remember.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on says where")]

use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use shared::io::mqtt::{LinkEvent, MqttOptions, connect};
use shared::io::tls::{client_config, install_crypto_provider};
use shared::model::NodeId;
use shared::trust::certificate::{NodeKey, serial_of_certificate};
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);

const EDGE_NODE: &str = "apiVersion: hinterland.dev/v1alpha1
kind: EdgeNode
metadata:
  name: mast-17
";

/// A hub process with a folder of its own; killed when it is dropped.
struct Hub {
    folder: PathBuf,
    api: SocketAddr,
    mqtt: SocketAddr,
    process: Option<Child>,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Hub {
    fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(folder.join("manifests/nodes.yaml"), EDGE_NODE).unwrap();
        let hub = Self {
            folder: folder.to_owned(),
            api: free_address(),
            mqtt: free_address(),
            process: None,
        };
        let (api, mqtt, folder) = (hub.api, hub.mqtt, folder.display());
        let config = format!(
            "state_dir = \"{folder}/state\"\nmanifests = \"{folder}/manifests\"\n\
             listen = \"{mqtt}\"\nadvertise = \"{mqtt}\"\napi = \"{api}\"\n"
        );
        fs::write(hub.folder.join("hub.toml"), config).unwrap();
        hub
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hub"));
        command.arg("--config").arg(self.folder.join("hub.toml")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn begin(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    fn start(&mut self) {
        self.begin();
        self.wait_until("the hub is ready", |hub| hub.ask("GET", "/readyz", "").0 == 200);
    }

    fn wait_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert_eq!(ended, None, "the hub has ended:\n{}", self.log());
            assert!(begin.elapsed() < PATIENCE, "in vain until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Signal 9.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM; the exit status.
    fn terminate(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        let id = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let begin = Instant::now();
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.code();
            }
            if begin.elapsed() > PATIENCE {
                process.kill().unwrap();
                panic!("it does not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Status and body; status 0 when nobody answers.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(self.api) else { return (0, String::new()) };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (api, length) = (self.api, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let mut answer = String::new();
        if stream.write_all(head.as_bytes()).is_err() || stream.read_to_string(&mut answer).is_err()
        {
            return (0, String::new());
        }
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status, body.unwrap_or_default())
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
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
            will: None,
            queue_messages_max: 4,
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
    let (status, body) = hub.ask("POST", "/v1/nodes/sign", &node.request);
    assert_eq!(status, 200, "{body}");
    Enrollment::parse(&body).unwrap()
}

#[test]
fn a_killed_hub_leads_with_a_greater_term_knows_its_nodes_and_repeats_no_serial_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(folder.path());
    hub.start();
    let first = sign(&hub, &Node::new("mast-17", 1));
    let term = hub.json("/v1/hub")["term"].as_u64().unwrap();
    hub.kill();
    hub.start();
    assert!(hub.json("/v1/hub")["term"].as_u64().unwrap() > term);
    assert_eq!(hub.json("/v1/nodes/mast-17")["state"], "NeverSeen");
    let second = sign(&hub, &Node::new("mast-18", 2));
    assert!(serial_of(&second) > serial_of(&first));
    assert_eq!(first.authority_pem, second.authority_pem);
    assert_eq!(first.hub_signing_key, second.hub_signing_key);
    assert_eq!(hub.terminate(), Some(0), "{}", hub.log());
}

#[tokio::test]
async fn a_signed_node_connects_also_after_a_restart_and_a_revoked_one_does_not() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(folder.path());
    hub.start();
    let node = Node::new("mast-17", 1);
    let enrollment = sign(&hub, &node);
    assert!(node.connects(&enrollment).await, "{}", hub.log());
    hub.kill();
    hub.start();
    assert!(node.connects(&enrollment).await, "{}", hub.log());
    assert_eq!(hub.ask("POST", "/v1/nodes/mast-17/revoke", "").0, 200);
    assert!(!node.connects(&enrollment).await, "{}", hub.log());
    hub.kill();
    hub.start();
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
    let mut hub = Hub::new(folder.path());
    hub.start();
    let (node, revoked) = (Node::new("mast-17", 1), Node::new("mast-18", 2));
    let (enrollment, refused) = (sign(&hub, &node), sign(&hub, &revoked));
    assert_eq!(hub.ask("POST", "/v1/nodes/mast-18/revoke", "").0, 200);
    hub.kill();
    for entry in fs::read_dir(hub.folder.join("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("store") {
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
    }
    hub.start();
    assert!(node.connects(&enrollment).await, "{}", hub.log());
    assert!(!revoked.connects(&refused).await, "{}", hub.log());
    let next = sign(&hub, &Node::new("mast-19", 3));
    assert!(serial_of(&next) > serial_of(&refused), "a serial number came twice");
}

#[test]
fn a_hub_with_invalid_manifests_says_so_answers_nobody_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(folder.path());
    let manifest = hub.folder.join("manifests/nodes.yaml");
    fs::write(&manifest, EDGE_NODE.replace("EdgeNode", "EdgeNod")).unwrap();
    hub.begin();
    hub.wait_until("the hub answers", |hub| hub.ask("GET", "/healthz", "").0 == 200);
    let problem = |hub: &Hub| hub.json("/v1/hub")["manifests"]["problems"][0].to_string();
    hub.wait_until("the problem is shown", |hub| problem(hub).contains("nodes.yaml"));
    assert_eq!(hub.json("/v1/hub")["has_manifests"], false);
    assert_eq!(hub.ask("GET", "/readyz", "").0, 503);
    let shown = hub.run(&["status"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("no valid manifests"), "{shown}");
    fs::write(&manifest, EDGE_NODE).unwrap();
    hub.wait_until("it is ready", |hub| hub.ask("GET", "/readyz", "").0 == 200);
    fs::write(&manifest, EDGE_NODE.replace("EdgeNode", "EdgeNod")).unwrap();
    hub.wait_until("the new problem is shown", |hub| problem(hub).contains("nodes.yaml"));
    assert_eq!(hub.ask("GET", "/readyz", "").0, 200, "what was read last is in force");
}

#[test]
fn the_commands_enrol_show_and_revoke_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(folder.path());
    let words = |output: &Output| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (ok, text) = words(&hub.run(&["nodes"]));
    assert!(!ok && text.contains("no hub runs here"), "{text}");
    hub.start();
    let request = folder.path().join("mast-17.csr");
    fs::write(&request, Node::new("mast-17", 1).request).unwrap();
    let answer = folder.path().join("answer.json");
    let (request, answer) = (request.display().to_string(), answer.display().to_string());
    let (ok, text) = words(&hub.run(&["node", "sign", &request, "--output", &answer]));
    assert!(ok && text.contains("mast-17"), "{text}");
    assert!(Enrollment::parse(&fs::read_to_string(&answer).unwrap()).is_ok());
    let (ok, text) = words(&hub.run(&["nodes"]));
    assert!(ok && text.contains("NeverSeen"), "{text}");
    let (ok, text) = words(&hub.run(&["describe", "mast-17", "--output", "json"]));
    let view: Value = serde_json::from_str(&text).unwrap();
    assert!(ok && view["node"] == "mast-17");
    let (ok, text) = words(&hub.run(&["why", "mast-17", "default/ocr-0"]));
    assert!(!ok && text.contains("default/ocr"), "{text}");
    let (ok, text) = words(&hub.run(&["node", "revoke", "mast-17"]));
    assert!(ok, "{text}");
    let (_, text) = words(&hub.run(&["nodes"]));
    assert!(text.contains("Revoked"), "{text}");
}
