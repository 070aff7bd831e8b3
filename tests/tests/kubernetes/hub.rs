//! The hub on custom resources: with a real broker and a real agent, and no more rights than it is given.

use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;
use tests::story::in_session;

const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing must be written while nothing happens.
const QUIET: Duration = Duration::from_secs(5);

/// A workload whose pods sleep; `fields` are more of its container.
fn sleeper(seconds: &str, fields: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: ocr\n  \
         namespace: default\nspec:\n  placement: {{nodeSelector: {{site: harbour}}}}\n  template:\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: server\n        \
         command: [sleep, \"{seconds}\"]\n{fields}"
    )
}

const NODE: &str = "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata:\n  name: mast-17\n  \
    labels: {site: harbour}\n";

/// An API server in which the hub has the rights of its role, and a hub on it.
pub(super) fn cluster_with_hub(folder: &Path) -> (Cluster, Hub) {
    let cluster = super::cluster_with_definitions(&folder.join("cluster")).unwrap();
    let mut hub = Hub::new(&folder.join("hub")).unwrap();
    cluster.let_in(&hub).unwrap();
    hub.start().unwrap();
    (cluster, hub)
}

/// A node in session with this hub.
pub(super) fn node(folder: &Path, hub: &Hub, name: &str) -> Agent {
    let mut agent = Agent::new(&folder.join(name), name).unwrap();
    agent.enroll(hub).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    agent.wait_for("in session", PATIENCE, in_session).unwrap();
    agent
}

fn scene(folder: &Path) -> (Cluster, Hub, Agent) {
    let (cluster, hub) = cluster_with_hub(folder);
    let agent = node(folder, &hub, "mast-17");
    (cluster, hub, agent)
}

/// Reason and message of a condition, once its status is `status`.
pub(super) fn condition(
    cluster: &Cluster,
    object: &[&str],
    kind: &str,
    status: &str,
) -> (String, String) {
    let mut found = (String::new(), String::new());
    wait_until(&format!("{object:?} has {kind}={status}"), PATIENCE, || {
        let object = cluster.get(object)?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let of_kind = conditions.into_iter().flatten().find(|c| c["type"] == kind);
        let word = |field: &str| of_kind.map(|c| c[field].as_str().unwrap_or_default().to_owned());
        found = (word("reason").unwrap_or_default(), word("message").unwrap_or_default());
        Ok(word("status").as_deref() == Some(status))
    })
    .unwrap();
    found
}

const WORKLOAD: [&str; 2] = ["iw", "ocr"];

#[test]
fn what_is_applied_runs_and_its_status_tells_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut hub, mut agent) = scene(folder.path());

    // Nothing selects the node before it has its label.
    cluster.apply(&sleeper("3001", "")).unwrap();
    assert_eq!(condition(&cluster, &WORKLOAD, "Ready", "True").0, "NoPods");
    cluster.apply(NODE).unwrap();
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("3001").len() == 1)).unwrap();
    cluster
        .kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "iw/ocr", "en/mast-17"])
        .unwrap();
    wait_until("the numbers are those of one ready pod", PATIENCE, || {
        let status = cluster.get(&WORKLOAD)?["status"].clone();
        let numbers = ["desired", "assigned", "ready", "updated", "offline", "unschedulable"];
        Ok(numbers.map(|number| status[number].as_u64()) == [1, 1, 1, 1, 0, 0].map(Some))
    })
    .unwrap();

    // What the API server takes and a node can't run is refused with its path, and changes nothing.
    cluster
        .apply(&sleeper("3002", "        readinessProbe: {tcpSocket: {port: nowhere}}\n"))
        .unwrap();
    let (reason, message) = condition(&cluster, &WORKLOAD, "Accepted", "False");
    assert_eq!(reason, "Invalid");
    assert!(message.starts_with("spec.template.spec.containers[0].readinessProbe"), "{message}");
    assert_eq!((agent.sleepers("3001").len(), agent.sleepers("3002").len()), (1, 0));
    // Nor does a hub that starts now: it remembers what was accepted before.
    hub.kill();
    hub.start().unwrap();
    wait_until("the hub says what is refused", PATIENCE, || {
        let problem =
            "InferenceWorkload default/ocr: spec.template.spec.containers[0].readinessProbe";
        Ok(hub.ask("/v1/hub")?.to_string().contains(problem))
    })
    .unwrap();
    agent.wait_for("in session", PATIENCE, in_session).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((agent.sleepers("3001").len(), agent.sleepers("3002").len()), (1, 0));
    cluster.apply(&sleeper("3002", "")).unwrap();
    condition(&cluster, &WORKLOAD, "Accepted", "True");
    wait_until("the pod is another", PATIENCE, || Ok(agent.sleepers("3002").len() == 1)).unwrap();
    wait_until("the status is about that", PATIENCE, || {
        let object = cluster.get(&WORKLOAD)?;
        let ready = object["status"]["ready"] == 1 && object["status"]["updated"] == 1;
        Ok(ready && object["status"]["observedGeneration"] == object["metadata"]["generation"])
    })
    .unwrap();

    // While nothing happens nothing is written, though samples and reports arrive.
    let versions = || {
        let objects = cluster.get(&["iw,en", "-A"]).unwrap();
        let items = objects["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["resourceVersion"].clone()).collect::<Vec<_>>()
    };
    let before = versions();
    std::thread::sleep(QUIET);
    assert_eq!(
        versions(),
        before,
        "{}",
        cluster.kubectl(&["get", "iw,en", "-A", "-o", "yaml"]).unwrap()
    );

    // Offline is not dead.
    agent.kill();
    let node = ["en", "mast-17"];
    assert_eq!(condition(&cluster, &node, "Ready", "Unknown").0, "Offline");
    wait_until("the workload says so", PATIENCE, || {
        Ok(cluster.get(&WORKLOAD)?["status"]["offline"] == 1)
    })
    .unwrap();
    assert_eq!(condition(&cluster, &WORKLOAD, "Ready", "True").0, "NodesOffline");
    agent.start().unwrap();
    condition(&cluster, &node, "Ready", "True");

    // What is deleted stops.
    cluster.kubectl(&["delete", "iw/ocr"]).unwrap();
    wait_until("its pod stops", PATIENCE, || Ok(agent.sleepers("3002").is_empty())).unwrap();
    assert!(!hub.log().contains("was not written"), "{}", hub.log());
}

#[test]
fn an_api_server_that_is_away_stops_nothing_and_is_told_once_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, mut hub, mut agent) = scene(folder.path());
    cluster.apply(NODE).unwrap();
    cluster.apply(&sleeper("3003", "")).unwrap();
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("3003").len() == 1)).unwrap();
    let pod = agent.sleepers("3003");
    condition(&cluster, &["en", "mast-17"], "Ready", "True");

    cluster.kill_server();
    agent.kill();
    wait_until("the hub sees that the node is gone", PATIENCE, || {
        Ok(hub.node("mast-17")?["state"] == "Offline")
    })
    .unwrap();
    cluster.start_server().unwrap();
    assert_eq!(condition(&cluster, &["en", "mast-17"], "Ready", "Unknown").0, "Offline");
    assert_eq!(agent.sleepers("3003"), pod);

    // A hub that starts without an API server tells no node anything.
    cluster.kill_server();
    hub.kill();
    hub.begin().unwrap();
    hub.wait_for_status("/readyz", 503).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.sleepers("3003"), pod, "{}", hub.log());
    cluster.start_server().unwrap();
    hub.wait_for_status("/readyz", 200).unwrap();
    condition(&cluster, &["en", "mast-17"], "Ready", "True");
    assert_eq!(agent.sleepers("3003"), pod, "{}", hub.log());
}
