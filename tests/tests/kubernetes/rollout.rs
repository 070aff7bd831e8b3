//! A new template on its way over real nodes, one after the other, with a hub that is killed meanwhile.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition, node};
use serde_json::Value;
use tests::real::agent::Agent;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;

const WORKLOAD: [&str; 2] = ["iw", "ocr"];

fn workload(command: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: ocr\n  \
         namespace: default\nspec:\n  rollout:\n    waves: [1]\n    maxUnavailable: 1\n    \
         minReadySeconds: 2\n    maxRestarts: 0\n  template:\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: server\n        \
         command: {command}\n"
    )
}

fn counts(agents: &[Agent], seconds: &str) -> Vec<usize> {
    agents.iter().map(|agent| agent.sleepers(seconds).len()).collect()
}

fn rollout(cluster: &Cluster) -> anyhow::Result<Value> {
    Ok(cluster.get(&WORKLOAD)?["status"]["rollout"].clone())
}

#[test]
fn a_new_template_goes_over_the_fleet_in_waves_and_a_bad_one_gets_no_further_than_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut hub) = cluster_with_hub(folder.path());
    let agents = ["mast-1", "mast-2", "mast-3"].map(|name| node(folder.path(), &hub, name));
    cluster.apply(&workload("[sleep, \"4001\"]")).unwrap();
    wait_until("all run the first", PATIENCE, || Ok(counts(&agents, "4001") == [1, 1, 1])).unwrap();

    cluster.apply(&workload("[sleep, \"4002\"]")).unwrap();
    wait_until("the first node runs the second", PATIENCE, || {
        Ok(counts(&agents, "4002") == [1, 0, 0])
    })
    .unwrap();
    assert_eq!(counts(&agents, "4001"), [0, 1, 1]);
    hub.kill();
    hub.start().unwrap();
    let (reason, message) = condition(&cluster, &WORKLOAD, "Ready", "False");
    assert!(["RollingOut", "Progressing"].contains(&&*reason), "{reason}: {message}");
    wait_until("all run the second", PATIENCE, || Ok(counts(&agents, "4002") == [1, 1, 1]))
        .unwrap();
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "iw/ocr"]).unwrap();
    assert_eq!(rollout(&cluster).unwrap(), Value::Null);
    let pods: Vec<_> = agents.iter().map(|agent| agent.sleepers("4002")).collect();

    cluster.apply(&workload("[\"false\"]")).unwrap();
    wait_until("it is rolled back", PATIENCE, || Ok(rollout(&cluster)?["phase"] == "RolledBack"))
        .unwrap();
    let told = rollout(&cluster).unwrap();
    assert_eq!((&told["wave"], &told["through"]), (&1.into(), &"mast-1".into()), "{told}");
    assert!(told["message"].as_str().unwrap().starts_with("mast-1: pod default/ocr-0"), "{told}");
    wait_until("all run the second again", PATIENCE, || Ok(counts(&agents, "4002") == [1, 1, 1]))
        .unwrap();
    assert_eq!(agents[1].sleepers("4002"), pods[1], "nobody touched the others");
    assert_eq!(agents[2].sleepers("4002"), pods[2], "nobody touched the others");
    let (reason, _) = condition(&cluster, &WORKLOAD, "Ready", "False");
    assert_eq!(reason, "RolledBack");
    let listed = cluster.kubectl(&["get", "iw", "-o", "wide"]).unwrap();
    assert!(listed.contains("RolledBack") && listed.contains("mast-1: pod"), "{listed}");

    wait_until("an Event says so", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events", "-n", "default"])?;
        Ok(events.contains("RolledBack") && events.contains("mast-1: pod default/ocr-0"))
    })
    .unwrap();

    // A mended one goes its way.
    cluster.apply(&workload("[sleep, \"4003\"]")).unwrap();
    wait_until("all run the third", PATIENCE, || Ok(counts(&agents, "4003") == [1, 1, 1])).unwrap();
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "iw/ocr"]).unwrap();
}
