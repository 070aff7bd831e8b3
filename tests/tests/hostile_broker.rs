//! A broker that belongs to an enemy: a real mosquitto without rules, and a client that reads
//! everything and publishes what it likes. It forges, replays, reorders, moves, rolls back and
//! acknowledges falsely; nothing of it is accepted, and what is genuine still arrives.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::io::mqtt::{LinkEvent, MqttClient, MqttOptions, connect, permitted};
use shared::trust::certificate::CertificateAuthority;
use shared::wire::Envelope;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::mosquitto::{ListenerFiles, Mosquitto};
use tests::real::process::wait_until;
use tests::story::{in_session, number};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

/// Refusals that have not become more for this long become no more: what the enemy published has
/// been through the broker, which needs a millisecond for a message.
const CALM: Duration = Duration::from_millis(300);

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
            speaks_first: false,
            will: None,
            queue_messages_max: 4096,
            permit: permitted(),
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
    let files = ListenerFiles::signed_by(&authority, &place)?;
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

/// The desired state that is in force at each node.
fn versions(site: &Site) -> Vec<Value> {
    let version = |agent: &Agent| agent.status().unwrap()["sync"]["desired_version"].clone();
    site.agents.iter().map(version).collect()
}

/// Waits until every node runs something else than it did, as `before` has it.
fn wait_for_newer(site: &Site, before: &[Value]) {
    for (agent, before) in site.agents.iter().zip(before) {
        agent
            .wait_for("newer desired state is in force", PATIENCE, |status| {
                let version = &status["sync"]["desired_version"];
                runs(status) && version.is_string() && version != before
            })
            .unwrap();
    }
}

fn refusals(site: &Site) -> Vec<u64> {
    let of = |agent: &Agent| number(&agent.status().unwrap(), "/sync/refused_payloads");
    site.agents.iter().map(of).collect()
}

/// The enemy publishes, and every node has refused some of it, and then no more.
async fn attack(site: &Site, enemy: &Enemy, messages: &[(String, Vec<u8>)]) {
    let before = refusals(site);
    enemy.publish(messages).await;
    let (mut last, mut since) = (before.clone(), Instant::now());
    wait_until("every node has refused the attack", PATIENCE, || {
        let now = refusals(site);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let all_refuse = last.iter().zip(&before).all(|(now, before)| now > before);
        ensure!(all_refuse, "refused {before:?} before and {last:?} now");
        Ok(since.elapsed() >= CALM)
    })
    .unwrap();
}

/// The enemy says that both nodes are gone, until the hub has believed it of both.
async fn forge_wills(site: &Site, enemy: &Enemy) {
    let gone = |node: &str| site.hub.node(node).unwrap()["state"] == "Offline";
    let mut waiting = vec!["mast-17", "mast-18"];
    let begin = Instant::now();
    while !waiting.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "the hub believes no will of {waiting:?}");
        for node in waiting.clone() {
            enemy.publish(&[(format!("e/{node}/w"), vec![])]).await;
        }
        waiting.retain(|node| !gone(node));
    }
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
            let (at_node, at_hub) = (&status["sync"]["desired_version"], &view["desired_version"]);
            ensure!(at_node == at_hub, "the node has {at_node}, the hub {at_hub}");
            Ok(view["in_sync"] == true)
        })
        .unwrap();
    }
}

/// The same message to the other node.
fn moved((topic, payload): &(String, Vec<u8>)) -> (String, Vec<u8>) {
    let other = if topic.contains("mast-17") {
        topic.replace("mast-17", "mast-18")
    } else {
        topic.replace("mast-18", "mast-17")
    };
    (other, payload.clone())
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
                forged.push((format!("e/{node}/{way}"), envelope.encode()));
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
    let first = versions(&site);
    site.hub.apply("idle.yaml", &manifest(2)).unwrap();
    wait_for_newer(&site, &first);
    settled(&site);
    let genuine = enemy.memory();
    assert!(genuine.len() > 20, "the enemy heard only {} messages", genuine.len());
    let second = versions(&site);

    // Replayed, in order and backwards; each to the other node; forged.
    attack(&site, &enemy, &genuine).await;
    let backwards: Vec<_> = genuine.iter().rev().cloned().collect();
    attack(&site, &enemy, &backwards).await;
    attack(&site, &enemy, &genuine.iter().map(moved).collect::<Vec<_>>()).await;
    attack(&site, &enemy, &forgeries(&genuine)).await;
    settled(&site);

    assert_eq!(versions(&site), second);
    for agent in &site.agents {
        assert_eq!(number(&agent.status().unwrap(), "/pods/0/restarts"), 0);
    }
    assert!(number(&site.hub.ask("/v1/hub").unwrap(), "/refused_payloads") > 0);

    // Nodes that are there are said to be gone: the hub learns better and goes on telling them.
    forge_wills(&site, &enemy).await;
    site.hub.apply("idle.yaml", &manifest(3)).unwrap();
    wait_for_newer(&site, &second);
    for agent in &site.agents {
        let online = |view: &Value| view["state"] == "Online" && view["in_sync"] == true;
        site.hub.wait_for_node(&agent.node, "it is online again", PATIENCE, online).unwrap();
    }
    settled(&site);

    // The hub begins anew: what it said before is the past, and still not accepted.
    site.hub.kill();
    site.hub.start().unwrap();
    settled(&site);
    let third = versions(&site);
    attack(&site, &enemy, &genuine).await;
    assert_eq!(versions(&site), third);
    site.hub.apply("idle.yaml", &manifest(4)).unwrap();
    wait_for_newer(&site, &third);
    settled(&site);
}
