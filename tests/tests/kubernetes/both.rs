//! The same on both roads: what is declared by documents of a directory and by objects of an API server does
//! the same to real nodes.

use super::PATIENCE;
use super::attached::let_read_secrets;
use super::hub::{cluster_with_hub, node};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;

/// By which road the hub is told what should run.
enum Road {
    Directory,
    ApiServer(Cluster),
}

/// A hub and two nodes, `mast-17` and `mast-18`.
struct Scene {
    road: Road,
    hub: Hub,
    agents: [Agent; 2],
    /// Goes last.
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(is_directory: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (road, hub) = if is_directory { alone(folder.path()) } else { beside(folder.path()) };
        let agents = ["mast-17", "mast-18"].map(|name| node(folder.path(), &hub, name));
        Self { road, hub, agents, _folder: folder }
    }

    /// Declares an object, or changes it.
    fn apply(&self, name: &str, text: &str) {
        match &self.road {
            Road::Directory => self.hub.apply(&format!("{name}.yaml"), text).unwrap(),
            Road::ApiServer(cluster) => drop(cluster.apply(text).unwrap()),
        }
    }

    /// Takes an object back.
    fn withdraw(&self, name: &str, kind: &str) {
        match &self.road {
            Road::Directory => self.hub.withdraw(&format!("{name}.yaml")).unwrap(),
            Road::ApiServer(cluster) => {
                drop(cluster.kubectl(&["delete", kind, name, "--timeout=60s"]).unwrap());
            }
        }
    }

    /// Waits until the hub says that it refused `name` in words that contain `words`.
    fn wait_for_refusal(&self, name: &str, words: &str) {
        let said = || -> anyhow::Result<String> {
            let cluster = match &self.road {
                Road::Directory => {
                    return Ok(self.hub.ask("/v1/hub")?["manifests"]["problems"].to_string());
                }
                Road::ApiServer(cluster) => cluster,
            };
            let conditions = cluster.get(&["iw", name])?["status"]["conditions"].clone();
            let refusals = conditions.as_array().cloned().unwrap_or_default();
            let refusals = refusals.iter().filter(|condition| condition["status"] == "False");
            Ok(refusals.map(Value::to_string).collect())
        };
        wait_until(&format!("{name} is refused: {words}"), PATIENCE, || {
            let said = said()?;
            if said.contains(words) { Ok(true) } else { anyhow::bail!("it says {said}") }
        })
        .unwrap();
    }

    /// Waits until each node has so many processes that sleep for `seconds`.
    fn wait_for(&self, what: &str, seconds: &str, counts: [usize; 2]) {
        wait_until(what, PATIENCE, || {
            Ok(self.agents.each_ref().map(|agent| agent.sleepers(seconds).len()) == counts)
        })
        .unwrap();
    }

    fn sleepers(&self, seconds: &str) -> [Vec<u32>; 2] {
        self.agents.each_ref().map(|agent| agent.sleepers(seconds))
    }
}

/// A hub that reads a directory.
fn alone(folder: &Path) -> (Road, Hub) {
    let mut hub = Hub::new(&folder.join("hub")).unwrap();
    hub.start().unwrap();
    (Road::Directory, hub)
}

/// A hub beside an API server.
fn beside(folder: &Path) -> (Road, Hub) {
    let (cluster, hub) = cluster_with_hub(folder);
    let_read_secrets(&cluster);
    (Road::ApiServer(cluster), hub)
}

fn workload(name: &str, seconds: &str, spec: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: {name}, namespace: default}}
spec:
{spec}  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, command: [sleep, '{seconds}']}}]
"
    )
}

fn edge_node(name: &str, site: &str, spec: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {{name: {name}, labels: {{site: {site}}}}}\n\
         spec: {{{spec}}}\n"
    )
}

/// What is declared comes, what is changed changes, what is refused changes nothing, what is taken back goes.
fn objects_come_change_and_go(scene: &mut Scene) {
    scene.apply("a", &workload("a", "5101", ""));
    scene.wait_for("each node runs it", "5101", [1, 1]);
    scene.apply("a", &workload("a", "5102", "  placement: {replicasPerNode: 2}\n"));
    scene.wait_for("two of another kind", "5102", [2, 2]);
    scene.wait_for("none of the first", "5101", [0, 0]);

    let before = scene.sleepers("5102");
    // What no rule of the API server can see.
    let words = "spec.template.spec.containers[0].env[0]";
    let refused = "env: [{name: 'A=B', value: x}], command:";
    scene.apply("a", &workload("a", "5103", "").replace("command:", refused));
    scene.wait_for_refusal("a", words);
    scene.hub.kill();
    scene.hub.begin().unwrap();
    scene.wait_for_refusal("a", words);
    assert_eq!(scene.sleepers("5102"), before, "what ran goes on");

    scene.apply("a", &workload("a", "5102", "  placement: {replicasPerNode: 2}\n  priority: 7\n"));
    scene.apply(
        "b",
        &workload(
            "b",
            "5104",
            "  autoscaling: {minReplicas: 3, maxReplicas: 4, metric: CPUUtilization, target: 50}\n",
        )
        .replace("command:", "resources: {requests: {cpu: 10m}}, command:"),
    );
    scene.wait_for("the fewest of what scales", "5104", [3, 3]);
    assert_eq!(scene.sleepers("5102"), before, "another priority restarts nothing");
    scene.withdraw("a", "iw");
    scene.wait_for("all of it is gone", "5102", [0, 0]);
    assert_eq!(scene.sleepers("5104").map(|pods| pods.len()), [3, 3]);
}

/// Labels choose nodes, a cordon keeps new pods away, a taint sends pods away.
fn nodes_are_chosen_as_they_are_declared(scene: &mut Scene) {
    scene.apply("mast-17", &edge_node("mast-17", "north", ""));
    scene.apply("mast-18", &edge_node("mast-18", "south", ""));
    let north = "  placement: {nodeSelector: {site: north}}\n";
    scene.apply("a", &workload("a", "5201", north));
    scene.wait_for("the one node runs it", "5201", [1, 0]);
    scene.apply("mast-17", &edge_node("mast-17", "north", "unschedulable: true"));
    scene.apply("mast-18", &edge_node("mast-18", "north", ""));
    scene.wait_for("the other too, and what ran stays", "5201", [1, 1]);
    scene.apply("b", &workload("b", "5202", north));
    scene.wait_for("a cordoned node gets nothing new", "5202", [0, 1]);
    let taint = "taints: [{key: repair, effect: NoExecute}]";
    scene.apply("mast-18", &edge_node("mast-18", "north", taint));
    scene.wait_for("what does not bear it goes", "5202", [0, 0]);
    assert_eq!(scene.sleepers("5201")[0].len(), 1);
}

/// ConfigMaps and Secrets are files of pods, and each site has parameters of its own.
fn what_workloads_name_travels_with_them(scene: &mut Scene) {
    let map = |name: &str, nap: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{NAP: '{nap}'}}\n"
        )
    };
    scene.apply("nap-north", &map("nap-north", "5301"));
    scene.apply("nap-south", &map("nap-south", "5302"));
    scene.apply(
        "keys",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: default}\nstringData: {token: hunter2}\n",
    );
    scene.apply("mast-17", &edge_node("mast-17", "north", ""));
    scene.apply("mast-18", &edge_node("mast-18", "south", ""));
    let spec = "  parametersFrom: [{configMapPrefix: nap-, label: site}]\n";
    let named = workload("a", "$NAP", spec)
        .replace(
            "[sleep, '$NAP']",
            "[sh, -c, 'exec sleep $NAP'], volumeMounts: [{name: keys, mountPath: /keys}]",
        )
        .replace(
            "      containers:",
            "      volumes: [{name: keys, secret: {secretName: keys}}]\n      containers:",
        );
    scene.apply("a", &named);
    scene.wait_for("the north sleeps as it is told", "5301", [1, 0]);
    scene.wait_for("the south as well", "5302", [0, 1]);
    for agent in &scene.agents {
        let token = agent.state().join("pods/default_a-0/home/keys/token");
        assert_eq!(fs::read_to_string(token).unwrap(), "hunter2");
    }
    scene.apply("nap-south", &map("nap-south", "5303"));
    scene.wait_for("another parameter restarts that node's pod", "5303", [0, 1]);
    assert_eq!(scene.sleepers("5301")[0].len(), 1);
}

macro_rules! on_both_roads {
    ($($scenario:ident: $directory:ident, $objects:ident;)*) => {$(
        #[test]
        fn $directory() {
            $scenario(&mut Scene::new(true));
        }

        #[test]
        fn $objects() {
            $scenario(&mut Scene::new(false));
        }
    )*};
}

on_both_roads! {
    objects_come_change_and_go:
        documents_come_change_and_go, objects_of_the_api_server_come_change_and_go;
    nodes_are_chosen_as_they_are_declared:
        nodes_are_chosen_by_documents, nodes_are_chosen_by_objects;
    what_workloads_name_travels_with_them:
        what_documents_name_travels_with_them, what_objects_name_travels_with_them;
}
