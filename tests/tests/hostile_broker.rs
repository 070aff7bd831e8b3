//! A broker that belongs to an enemy: a real mosquitto without rules, and a client that reads
//! everything and publishes what it likes. It forges, replays, reorders, moves, rolls back and
//! acknowledges falsely; nothing of it is accepted, and what is genuine still arrives.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::io::mqtt::{LinkEvent, MqttClient, MqttOptions, connect};
use shared::trust::certificate::CertificateAuthority;
use shared::wire::Envelope;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::mosquitto::{ListenerFiles, Mosquitto};
use tests::real::process::wait_until;
use tests::story::{in_session, number};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

/// The broker's owner may do everything.
const NO_RULES: &str = "pattern readwrite #\n";

/// A pod that is ready at once; `version` makes its content another.
fn manifest(version: u32) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: idle\n\
         spec:\n  template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n        \
         - name: idle\n          command: [sleep, \"100000\"]\n          env:\n            \
         - {{name: VERSION, value: \"{version}\"}}\n"
    )
}

/// Topic and payload of everything that crossed the broker.
type Recorded = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

struct Enemy {
    client: MqttClient,
    recorded: Recorded,
}

impl Enemy {
    /// Connects with a certificate that the broker's owner has issued for himself.
    async fn begin(authority: &CertificateAuthority, broker: &Mosquitto) -> Result<Self> {
        let now = shared::io::clock::SystemClock::new().now().wall;
        let own = authority.issue_hub_client("_enemy", now, 3650)?;
        let time = shared::io::clock::TrustedTime::new(now);
        let tls = shared::io::tls::client_config(
            authority.certificate_pem(),
            &own.certificate_pem,
            &own.key_pem,
            time,
        );
        let options = MqttOptions {
            client_id: "_enemy".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: broker.address().port(),
            server_name: "127.0.0.1".to_owned(),
            tls: tls?,
            keep_alive: Duration::from_secs(60),
            subscriptions: vec!["e/#".to_owned()],
            will: None,
            queue_messages_max: 4096,
            seed: [6; 32],
        };
        let (sender, mut events) = mpsc::channel(4096);
        let client = connect(options, sender);
        match events.recv().await.context("the link ended")? {
            LinkEvent::Up { .. } => {}
            other => anyhow::bail!("the enemy could not connect: {other:?}"),
        }
        let recorded = Recorded::default();
        let memory = Arc::clone(&recorded);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let LinkEvent::Received { topic, payload } = event {
                    memory.lock().unwrap().push((topic, payload));
                }
            }
        });
        Ok(Self { client, recorded })
    }

    fn memory(&self) -> Vec<(String, Vec<u8>)> {
        self.recorded.lock().unwrap().clone()
    }

    /// Publishes, a little at a time, so that no queue is full.
    async fn publish(&self, messages: &[(String, Vec<u8>)]) {
        for (topic, payload) in messages {
            while self.client.try_publish(topic, payload.clone()).is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

struct Site {
    hub: Hub,
    agents: Vec<Agent>,
    broker: Mosquitto,
    authority: CertificateAuthority,
}

fn site(folder: &Path) -> Result<Site> {
    let mut hub = Hub::new(&folder.join("hub"))?;
    let made = hub.command(&["ca", "init"])?.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let state = folder.join("hub/state");
    let read = |name: &str| fs::read_to_string(state.join(name)).context(name.to_owned());
    let authority = CertificateAuthority::from_pem(&read("ca.pem")?, &read("keys/ca.key")?)?;
    let place = folder.join("broker");
    fs::create_dir_all(&place)?;
    let now = shared::io::clock::SystemClock::new().now().wall;
    let server = authority.issue_server(&["127.0.0.1".to_owned()], now, 3650)?;
    let files = ListenerFiles {
        ca: place.join("ca.pem"),
        certificate: place.join("server.pem"),
        key: place.join("server.key"),
    };
    fs::write(&files.ca, authority.certificate_pem())?;
    fs::write(&files.certificate, server.certificate_pem)?;
    fs::write(&files.key, server.key_pem)?;
    let broker = Mosquitto::start_with_acl(&place, &files, NO_RULES)?;
    hub.use_broker(broker.address())?;
    hub.apply("idle.yaml", &manifest(1))?;
    hub.start()?;
    let mut agents = Vec::new();
    for name in ["mast-17", "mast-18"] {
        let agent = Agent::new(&folder.join(name), name)?;
        agent.enroll(&hub)?;
        agents.push(agent);
    }
    Ok(Site { hub, agents, broker, authority })
}

fn runs(status: &Value) -> bool {
    status["pods"][0]["phase"] == "Running" && in_session(status)
}

fn settled(site: &Site) {
    for agent in &site.agents {
        agent.wait_for("in session with its pod", PATIENCE, runs).unwrap();
        wait_until("counts agree", PATIENCE, || {
            let (status, view) = (agent.status()?, site.hub.node(&agent.node)?);
            let made = number(&status, "/outbox/samples_recorded");
            let (taken, lost) =
                (number(&view, "/samples_received"), number(&view, "/records_lost"));
            ensure!(made == taken && lost == 0, "made {made}, taken {taken}, lost {lost}");
            Ok(view["in_sync"] == true)
        })
        .unwrap();
    }
}

/// Every payload flipped in one bit, and envelopes that nobody sealed.
fn forgeries(genuine: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let mut forged: Vec<(String, Vec<u8>)> = genuine
        .iter()
        .enumerate()
        .map(|(index, (topic, payload))| {
            let mut payload = payload.clone();
            let at = index * 7 % payload.len().max(1);
            if let Some(byte) = payload.get_mut(at) {
                *byte ^= 1 << (index % 8);
            }
            (topic.clone(), payload)
        })
        .collect();
    for node in ["mast-17", "mast-18"] {
        for way in ["u", "d"] {
            for kind in 0..4 {
                let noise = vec![kind * 31; 90];
                let envelope = match kind {
                    0 => Envelope::Open(noise),
                    1 => Envelope::Accept(noise),
                    2 => Envelope::Sealed { counter: 3, ciphertext: noise },
                    _ => Envelope::UnknownSession,
                };
                forged.push((format!("e/{node}/{way}"), envelope.encode().unwrap()));
            }
        }
    }
    forged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_hostile_broker_is_accepted_and_what_is_genuine_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = site(folder.path()).unwrap();
    let enemy = Enemy::begin(&site.authority, &site.broker).await.unwrap();
    for agent in &mut site.agents {
        agent.start().unwrap();
        agent.wait_until_up().unwrap();
    }
    settled(&site);
    site.hub.apply("idle.yaml", &manifest(2)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    settled(&site);
    let genuine = enemy.memory();
    assert!(genuine.len() > 20, "the enemy heard only {} messages", genuine.len());
    let versions: Vec<Value> = site
        .agents
        .iter()
        .map(|a| a.status().unwrap()["sync"]["desired_version"].clone())
        .collect();

    // Replayed, in order and backwards; each to the other node; forged.
    enemy.publish(&genuine).await;
    let backwards: Vec<_> = genuine.iter().rev().cloned().collect();
    enemy.publish(&backwards).await;
    let moved = |(topic, payload): &(String, Vec<u8>)| {
        let other = if topic.contains("mast-17") {
            topic.replace("mast-17", "mast-18")
        } else {
            topic.replace("mast-18", "mast-17")
        };
        (other, payload.clone())
    };
    enemy.publish(&genuine.iter().map(moved).collect::<Vec<_>>()).await;
    enemy.publish(&forgeries(&genuine)).await;
    std::thread::sleep(Duration::from_secs(3));
    settled(&site);

    for (agent, version) in site.agents.iter().zip(&versions) {
        let status = agent.status().unwrap();
        assert_eq!(status["sync"]["desired_version"], *version, "{status}");
        assert!(number(&status, "/sync/refused_payloads") > 0, "{status}");
        assert_eq!(number(&status, "/pods/0/restarts"), 0);
    }
    assert!(number(&site.hub.ask("/v1/hub").unwrap(), "/refused_payloads") > 0);

    // The hub begins anew: what it said before is the past, and still not accepted.
    site.hub.kill();
    site.hub.start().unwrap();
    site.hub.apply("idle.yaml", &manifest(3)).unwrap();
    enemy.publish(&genuine).await;
    std::thread::sleep(Duration::from_secs(2));
    settled(&site);
    for (agent, version) in site.agents.iter().zip(&versions) {
        agent
            .wait_for("newer desired state is in force", PATIENCE, |status| {
                runs(status) && status["sync"]["desired_version"] != *version
            })
            .unwrap();
    }
}
