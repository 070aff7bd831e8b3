//! What is deleted, and who is denied: with a real API server, hub and agent.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition, node};
use std::time::Duration;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;

fn sleeper(seconds: &str, policy: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {{name: ocr, namespace: default}}\n\
         spec:\n  offlinePolicy: {{{policy}}}\n  template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - name: server\n        command: [sleep, \"{seconds}\"]\n"
    )
}

fn is_there(cluster: &Cluster) -> bool {
    let found = cluster.kubectl(&["get", "iw", "ocr", "--ignore-not-found", "-o", "name"]).unwrap();
    !found.trim().is_empty()
}

#[test]
fn a_deletion_waits_for_its_nodes_and_for_those_that_are_away_only_so_long() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, hub) = cluster_with_hub(folder.path());
    let mut agent = node(folder.path(), &hub, "mast-17");
    let held = || {
        wait_until("the workload is held", PATIENCE, || {
            let object = cluster.get(&["iw", "ocr"])?;
            Ok(object["metadata"]["finalizers"][0] == "hinterland.dev/pods")
        })
        .unwrap();
    };

    // kubectl returns when the node has confirmed it.
    cluster.apply(&sleeper("3201", "")).unwrap();
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("3201").len() == 1)).unwrap();
    held();
    cluster.kubectl(&["delete", "iw", "ocr", "--timeout=60s"]).unwrap();
    assert!(agent.sleepers("3201").is_empty(), "gone, and its pod runs");

    // A node that is away is said, and waited for.
    cluster.apply(&sleeper("3202", "")).unwrap();
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("3202").len() == 1)).unwrap();
    condition(&cluster, &["iw", "ocr"], "Ready", "True");
    held();
    agent.kill();
    cluster.kubectl(&["delete", "iw", "ocr", "--wait=false"]).unwrap();
    wait_until("it is said who is waited for", PATIENCE, || {
        let (reason, message) = condition(&cluster, &["iw", "ocr"], "Ready", "False");
        Ok(reason == "Deleting" && message.contains("1 of them are offline"))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(is_there(&cluster));
    // The way out, also while it is being deleted.
    let patch = r#"{"spec":{"offlinePolicy":{"deletionDeadlineSeconds":0}}}"#;
    cluster.kubectl(&["patch", "iw", "ocr", "--type=merge", "-p", patch]).unwrap();
    wait_until("it is gone", PATIENCE, || Ok(!is_there(&cluster))).unwrap();
    assert!(hub.log().contains("it is waited no longer"), "{}", hub.log());
    assert_eq!(agent.sleepers("3202").len(), 1, "the node does not know it yet");
    agent.start().unwrap();
    wait_until("the pod stops", PATIENCE, || Ok(agent.sleepers("3202").is_empty())).unwrap();
}

#[test]
fn a_node_that_is_denied_is_thrown_out_and_comes_back_when_it_is_approved() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, hub) = cluster_with_hub(folder.path());
    let agent = node(folder.path(), &hub, "mast-17");
    let spec = |spec: &str| {
        let head =
            "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {name: mast-17}\n";
        cluster.apply(&format!("{head}spec: {{{spec}}}\n")).unwrap();
    };
    let object = ["en", "mast-17"];
    cluster.apply(&sleeper("3203", "")).unwrap();
    spec("");
    condition(&cluster, &object, "Ready", "True");
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("3203").len() == 1)).unwrap();
    let status = cluster.get(&object).unwrap()["status"].clone();
    let key = status["identity"]["sessionKey"].as_str().unwrap().to_owned();
    let millicores = |of: &str| {
        let cpu = status[of]["cpu"].as_str().unwrap().trim_end_matches('m').to_owned();
        cpu.parse::<u64>().unwrap()
    };
    assert!(millicores("allocatable") <= millicores("capacity"), "{status}");

    spec("approval: Denied");
    assert_eq!(condition(&cluster, &object, "Ready", "False").0, "Denied");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.sleepers("3203").len(), 1, "what it runs goes on");
    spec("approval: Approved");
    condition(&cluster, &object, "Ready", "True");

    // Pinned to its own key it stays; another key is not this node.
    spec(&format!("identity: {{sessionKey: {key}}}"));
    std::thread::sleep(Duration::from_secs(2));
    condition(&cluster, &object, "Ready", "True");
    spec(&format!("identity: {{sessionKey: {}}}", key.chars().rev().collect::<String>()));
    let (reason, message) = condition(&cluster, &object, "Ready", "False");
    assert_eq!(reason, "Denied");
    assert!(message.contains("names another key"), "{message}");
    assert_eq!(agent.sleepers("3203").len(), 1);
}
