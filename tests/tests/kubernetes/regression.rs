//! A management cluster that is put back to an older backup, with a real API server on a real etcd.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition, node};
use std::process::Command;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::binaries::binary;
use tests::real::hub::Hub;
use tests::real::process::wait_until;

fn sleeper(name: &str, seconds: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n  \
         namespace: default\nspec:\n  template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - name: server\n        command: [sleep, \"{seconds}\"]\n"
    )
}

fn sleep_now(agent: &Agent) -> [usize; 3] {
    ["3301", "3302", "3303"].map(|seconds| agent.sleepers(seconds).len())
}

/// The hub says what it does not take over, and nothing has become of it.
fn is_held_back(hub: &Hub, agent: &Agent) {
    wait_until("the hub says what would change", PATIENCE, || {
        let said = hub.ask("/v1/hub")?.to_string();
        let parts = ["put back to an older state", "1 would stop (default/new)", "1 would change"];
        Ok(parts.iter().all(|part| said.contains(part)))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sleep_now(agent), [0, 1, 1]);
}

#[test]
fn a_cluster_that_is_put_back_changes_nothing_before_it_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, mut hub) = cluster_with_hub(folder.path());
    let agent = node(folder.path(), &hub, "mast-17");
    cluster.apply(&sleeper("ocr", "3301")).unwrap();
    wait_until("the first runs", PATIENCE, || Ok(sleep_now(&agent) == [1, 0, 0])).unwrap();
    let backup = folder.path().join("backup");
    cluster.back_up(&backup).unwrap();
    wait_until("it is back", PATIENCE, || Ok(cluster.get(&["iw", "ocr"]).is_ok())).unwrap();
    cluster.apply(&sleeper("ocr", "3302")).unwrap();
    cluster.apply(&sleeper("new", "3303")).unwrap();
    wait_until("what came later runs", PATIENCE, || Ok(sleep_now(&agent) == [0, 1, 1])).unwrap();
    condition(&cluster, &["iw", "new"], "Ready", "True");

    cluster.put_back(&backup).unwrap();
    is_held_back(&hub, &agent);
    // Nor does a hub that starts now: it knows what was seen before.
    hub.kill();
    hub.begin().unwrap();
    hub.wait_for_status("/healthz", 200).unwrap();
    is_held_back(&hub, &agent);

    let api = format!("http://{}", hub.api);
    let confirm = || {
        let mut command = Command::new(binary("hub").unwrap());
        command.args(["confirm-regression", "--api", &api]).output().unwrap()
    };
    assert!(confirm().status.success());
    wait_until("it is taken over", PATIENCE, || Ok(sleep_now(&agent) == [1, 0, 0])).unwrap();
    let again = confirm();
    let complaint = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && complaint.contains("nothing to confirm"), "{complaint}");
}
