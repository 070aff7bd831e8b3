//! `kubectl hinterland` against a real API server, hub and agent: cordon, drain, uncordon, and what the hub is
//! asked.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition, node};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::binaries::binary;
use tests::real::hub::Hub;
use tests::real::kubernetes::{ADMIN, Cluster};
use tests::real::process::wait_until;
use tests::story::in_session;

/// How long nothing must come to a node that is cordoned.
const QUIET: Duration = Duration::from_secs(3);

const NODE: &str =
    "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {name: mast-17}\n";

fn sleeper(name: &str, seconds: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n  \
         namespace: default\nspec:\n  template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - name: server\n        command: [sleep, \"{seconds}\"]\n"
    )
}

/// The hub's program by the name under which kubectl finds it.
struct Plugin {
    program: PathBuf,
    kubeconfig: PathBuf,
    api: String,
}

impl Plugin {
    fn new(folder: &Path, cluster: &Cluster, hub: &Hub) -> Self {
        let program = folder.join("kubectl-hinterland");
        symlink(binary("hub").unwrap(), &program).unwrap();
        let api = format!("http://{}", hub.api);
        Self { program, kubeconfig: cluster.kubeconfig(ADMIN), api }
    }

    /// What it prints, or what it complains of.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("HINTERLAND_HUB_API")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn ask_hub(&self, arguments: &[&str]) -> String {
        self.run(&[arguments, &["--api", &self.api]].concat()).unwrap()
    }
}

fn wait_for_sleepers(agent: &Agent, seconds: &str, count: usize) {
    wait_until(&format!("{count} pods sleep {seconds} s"), PATIENCE, || {
        Ok(agent.sleepers(seconds).len() == count)
    })
    .unwrap();
}

#[test]
fn a_node_is_cordoned_drained_and_taken_back_by_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut hub) = cluster_with_hub(folder.path());
    let agent = node(folder.path(), &hub, "mast-17");
    let plugin = Plugin::new(folder.path(), &cluster, &hub);
    let complaint = plugin.run(&["cordon", "mast-17"]).unwrap_err();
    assert!(complaint.starts_with("kubectl hinterland: there is no EdgeNode"), "{complaint}");
    cluster.apply(NODE).unwrap();
    cluster.apply(&sleeper("ocr", "3101")).unwrap();
    wait_for_sleepers(&agent, "3101", 1);
    let pod = agent.sleepers("3101");

    // Nothing new comes; what is there stays, also when the hub starts anew.
    let said = plugin.run(&["cordon", "mast-17"]).unwrap();
    assert_eq!(said, "edgenode/mast-17 cordoned\n");
    assert_eq!(condition(&cluster, &["en", "mast-17"], "SchedulingDisabled", "True").0, "Cordoned");
    cluster.apply(&sleeper("late", "3102")).unwrap();
    condition(&cluster, &["iw", "late"], "Accepted", "True");
    hub.kill();
    hub.start().unwrap();
    agent.wait_for("in session", PATIENCE, in_session).unwrap();
    std::thread::sleep(QUIET);
    assert_eq!((agent.sleepers("3101"), agent.sleepers("3102")), (pod, vec![]));
    let nodes = plugin.run(&["nodes"]).unwrap();
    assert!(nodes.contains("mast-17") && nodes.contains("Cordoned"), "{nodes}");
    let workloads = plugin.run(&["workloads", "-n", "default"]).unwrap();
    assert!(workloads.contains("ocr") && workloads.contains("late"), "{workloads}");

    // The hub is asked where `--api` says.
    let why = plugin.ask_hub(&["why", "mast-17", "default/ocr-0"]);
    assert!(why.contains("the node is cordoned"), "{why}");
    plugin.ask_hub(&["logs", "mast-17", "default/ocr-0"]);
    let run = ["exec", "mast-17", "default/ocr-0", "--api", &plugin.api, "--", "true"];
    let refused = plugin.run(&run).unwrap_err();
    assert!(refused.contains("`remote_access.exec = true` in "), "{refused}");
    wait_until("the command is an Event on the node", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events", "-A", "-o", "wide"])?;
        Ok(events.contains("edgenode/mast-17") && events.contains("[\"true\"] in default/ocr-0"))
    })
    .unwrap();
    let described = plugin.ask_hub(&["describe", "mast-17"]);
    assert!(described.contains("SchedulingDisabled"), "{described}");

    let said = plugin.run(&["drain", "mast-17", "--timeout", "60s"]).unwrap();
    assert!(said.contains("edgenode/mast-17 drained"), "{said}");
    assert!(agent.sleepers("3101").is_empty());
    let object = cluster.get(&["en", "mast-17"]).unwrap();
    assert_eq!(object["spec"]["taints"][0]["key"], "hinterland.dev/drain", "{object}");

    let said = plugin.run(&["uncordon", "mast-17"]).unwrap();
    assert_eq!(said, "edgenode/mast-17 uncordoned\n");
    wait_for_sleepers(&agent, "3101", 1);
    wait_for_sleepers(&agent, "3102", 1);
    let spec = cluster.get(&["en", "mast-17"]).unwrap()["spec"].clone();
    assert!(spec.get("taints").is_none() && spec.get("unschedulable").is_none(), "{spec}");
}

#[test]
fn an_offline_node_drains_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, hub) = cluster_with_hub(folder.path());
    let mut agent = node(folder.path(), &hub, "mast-17");
    let plugin = Plugin::new(folder.path(), &cluster, &hub);
    cluster.apply(NODE).unwrap();
    cluster.apply(&sleeper("ocr", "3103")).unwrap();
    wait_for_sleepers(&agent, "3103", 1);
    agent.kill();
    condition(&cluster, &["en", "mast-17"], "Ready", "Unknown");
    let complaint = plugin.run(&["drain", "mast-17", "--timeout", "5s"]).unwrap_err();
    assert!(complaint.contains("drains when it returns"), "{complaint}");
    assert_eq!(agent.sleepers("3103").len(), 1, "it goes on without the hub");
    agent.start().unwrap();
    wait_for_sleepers(&agent, "3103", 0);
    let said = plugin.run(&["drain", "mast-17", "--timeout", "60s"]).unwrap();
    assert!(said.contains("edgenode/mast-17 drained"), "{said}");
}
