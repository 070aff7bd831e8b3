//! Two hubs, of which one leads: killed, and stopped for a minute and gone on. Nodes notice nothing.

use super::PATIENCE;
use super::hub::node;
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::real::agent::Agent;
use tests::real::http::request;
use tests::real::process::{signal, wait_until};
use tests::real::replicas::Replicas;

/// A Lease holds 15 s; on a busy machine what follows takes a moment longer.
const TAKEOVER: Duration = Duration::from_secs(25);

/// How long the leader is stopped.
const STOPPED: Duration = Duration::from_secs(60);

/// A greeting and the header under a new term; the workload has three kilobytes more.
const GREETING_BYTES_MAX: u64 = 1_200;

fn workload(seconds: &str) -> String {
    let padding = "x".repeat(3_000);
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: ocr\n  \
         namespace: default\nspec:\n  template:\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: server\n        \
         command: [sleep, \"{seconds}\"]\n        env: [{{name: PADDING, value: \"{padding}\"}}]\n"
    )
}

struct Scene {
    replicas: Replicas,
    agents: Vec<Agent>,
}

impl Scene {
    /// Two hubs, the first of which leads, and two nodes that run what they should.
    fn new(folder: &Path) -> Self {
        let cluster = super::cluster_with_definitions(&folder.join("cluster")).unwrap();
        let mut replicas = Replicas::start(folder, cluster).unwrap();
        replicas.hubs[0].start().unwrap();
        replicas.wait_until_leading(0).unwrap();
        replicas.hubs[1].start().unwrap();
        let agents = ["mast-1", "mast-2"].map(|name| node(folder, &replicas.hubs[0], name));
        replicas.cluster.apply(&workload("5001")).unwrap();
        let scene = Self { replicas, agents: agents.into() };
        scene.wait_for_pods("5001");
        scene
    }

    fn pods(&self, seconds: &str) -> Vec<Vec<u32>> {
        self.agents.iter().map(|agent| agent.sleepers(seconds)).collect()
    }

    fn wait_for_pods(&self, seconds: &str) {
        wait_until(&format!("all run {seconds}"), PATIENCE, || {
            Ok(self.pods(seconds).iter().all(|pods| pods.len() == 1))
        })
        .unwrap();
    }

    /// Each node's term, and how many bytes it has received.
    fn seen(&self) -> Vec<(u64, u64)> {
        let of = |agent: &Agent| {
            let status = agent.status().unwrap();
            let version = status["sync"]["desired_version"].as_str().unwrap().to_owned();
            let (term, _) = version.split_once('.').unwrap();
            (term.parse().unwrap(), status["link"]["received_bytes"].as_u64().unwrap())
        };
        self.agents.iter().map(of).collect()
    }

    /// Waits until every node has accepted a term above those of `before`, and the hub knows it.
    fn wait_for_new_leader(&self, which: usize, before: &[(u64, u64)]) {
        wait_until("the nodes follow the next", TAKEOVER, || {
            let seen = self.seen();
            Ok(seen.iter().zip(before).all(|(now, before)| now.0 > before.0))
        })
        .unwrap();
        for agent in &self.agents {
            self.replicas.hubs[which]
                .wait_for_node(&agent.node, "in sync", PATIENCE, |node| node["in_sync"] == true)
                .unwrap();
        }
    }
}

#[test]
fn a_leader_that_is_killed_is_followed_by_the_other_and_no_node_is_sent_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(folder.path());
    let answer = request(scene.replicas.hubs[1].api, "GET", "/v1/hub", &[], PATIENCE).unwrap();
    let words = String::from_utf8(answer.body).unwrap();
    assert!(answer.status == 503 && words.contains("stands by"), "{words}");
    let (pods, before) = (scene.pods("5001"), scene.seen());
    let status = || scene.replicas.cluster.get(&["iw", "ocr"]).unwrap()["status"].clone();
    let told = status();

    scene.replicas.hubs[0].kill();
    scene.wait_for_new_leader(1, &before);
    for (now, before) in scene.seen().iter().zip(&before) {
        assert!(now.1 - before.1 < GREETING_BYTES_MAX, "{before:?}, then {now:?}");
    }
    assert_eq!(scene.pods("5001"), pods, "no pod was touched");
    scene.replicas.cluster.apply(&workload("5002")).unwrap();
    scene.wait_for_pods("5002");
    wait_until("the status is written by the next", PATIENCE, || {
        Ok(scene.replicas.cluster.get(&["iw", "ocr"])?["status"]["ready"] == told["ready"])
    })
    .unwrap();

    // One that stops gives the Lease back: the other, which stands by now, follows at once.
    scene.replicas.hubs[0].start().unwrap();
    let before = scene.seen();
    let began = Instant::now();
    assert_eq!(scene.replicas.hubs[1].terminate().unwrap(), Some(0));
    scene.wait_for_new_leader(0, &before);
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
}

#[test]
fn a_leader_that_was_stopped_for_a_minute_is_fenced_when_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(folder.path());
    let before = scene.seen();
    let first = scene.replicas.hubs[0].id().unwrap();
    let stopped = Instant::now();
    signal(first, Signal::STOP);
    scene.wait_for_new_leader(1, &before);
    scene.replicas.cluster.apply(&workload("5002")).unwrap();
    scene.wait_for_pods("5002");
    let (pods, after) = (scene.pods("5002"), scene.seen());
    std::thread::sleep(STOPPED.saturating_sub(stopped.elapsed()));
    signal(first, Signal::CONT);
    wait_until("it says that it does not lead any more", PATIENCE, || {
        Ok(scene.replicas.hubs[0].log().contains("does not lead any more"))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let terms = |seen: Vec<(u64, u64)>| seen.into_iter().map(|(term, _)| term).collect::<Vec<_>>();
    assert_eq!(terms(scene.seen()), terms(after), "nobody follows it");
    assert_eq!(scene.pods("5002"), pods, "no pod was touched");
    // It begins anew as one that stands by.
    scene.replicas.hubs[0].start().unwrap();
    let holder =
        scene.replicas.cluster.get(&["lease", "hinterland-hub", "-n", "hinterland"]).unwrap();
    assert_ne!(holder["spec"]["holderIdentity"], Value::Null);
    let answer = request(scene.replicas.hubs[0].api, "GET", "/v1/hub", &[], PATIENCE).unwrap();
    assert_eq!(answer.status, 503);
}
