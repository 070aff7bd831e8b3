//! An API server in trouble: throttling, conflicts, watches that have expired, missing rights, missing
//! definitions, slowness. What runs goes on, nothing is lost, and people hear of it.

use super::hub::{condition, node};
use super::{PATIENCE, cluster_with_definitions};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::fault_proxy::{Fault, FaultAnswer, FaultProxy};
use tests::real::hub::Hub;
use tests::real::kubernetes::Cluster;
use tests::real::kubernetes_proxy::KubernetesProxy;
use tests::real::process::wait_until;

const RBAC: &str = include_str!("../../../deploy/rbac/hub.yaml");

const WORKLOAD: [&str; 2] = ["iw", "ocr"];

const STATUS: &str = "/inferenceworkloads/ocr/status";

const WATCH: &str = "inferenceworkloads?&watch=true";

/// What an API server sends down a watch whose version is too old.
const EXPIRED: &str = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\
    \"status\":\"Failure\",\"message\":\"too old resource version\",\"reason\":\"Expired\",\"code\":410}}\n";

const THROTTLED: &str = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\
    \"message\":\"too many requests\",\"reason\":\"TooManyRequests\",\"code\":429}";

const CONFLICT: &str = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\
    \"message\":\"the object has been modified\",\"reason\":\"Conflict\",\"code\":409}";

fn workload(seconds: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: ocr\n  \
         namespace: default\nspec:\n  template:\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: server\n        \
         command: [sleep, \"{seconds}\"]\n"
    )
}

/// A hub that reaches the API server through a proxy with faults, with the rights of its role.
struct Scene {
    cluster: Cluster,
    faults: FaultProxy,
    hub: Hub,
    agent: Agent,
    _plain: KubernetesProxy,
}

impl Scene {
    fn new(folder: &Path) -> Self {
        let cluster = cluster_with_definitions(&folder.join("cluster")).unwrap();
        cluster.kubectl(&["create", "namespace", "hinterland"]).unwrap();
        cluster.apply(RBAC).unwrap();
        let plain = cluster.proxy_as("hub").unwrap();
        let faults = FaultProxy::start(plain.address()).unwrap();
        let kubeconfig = folder.join("faults.kubeconfig");
        fs::write(
            &kubeconfig,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: \
                 {{server: \"http://{}\"}}\nusers:\n- name: test\n  user: {{}}\ncontexts:\n- name: test\n  \
                 context: {{cluster: test, user: test, namespace: hinterland}}\n",
                faults.address()
            ),
        )
        .unwrap();
        let mut hub = Hub::new(&folder.join("hub")).unwrap();
        let tables = format!("[kubernetes]\nkubeconfig = \"{}\"\n", kubeconfig.display());
        hub.configure(&tables).unwrap();
        hub.start().unwrap();
        let agent = node(folder, &hub, "mast-17");
        let scene = Self { cluster, faults, hub, agent, _plain: plain };
        scene.change_to("6001");
        condition(&scene.cluster, &WORKLOAD, "Ready", "True");
        scene
    }

    /// Another template is applied, and runs.
    fn change_to(&self, seconds: &str) {
        self.cluster.apply(&workload(seconds)).unwrap();
        self.wait_for_pod(seconds);
    }

    fn wait_for_pod(&self, seconds: &str) {
        wait_until(&format!("a pod runs {seconds}"), PATIENCE, || {
            Ok(self.agent.sleepers(seconds).len() == 1)
        })
        .unwrap();
    }

    /// The status says that the present generation is ready.
    fn wait_for_truth(&self) {
        wait_until("the status is about what is", PATIENCE, || {
            let object = self.cluster.get(&WORKLOAD)?;
            let ready = object["status"]["ready"] == 1 && object["status"]["updated"] == 1;
            Ok(ready && object["status"]["observedGeneration"] == object["metadata"]["generation"])
        })
        .unwrap();
    }

    fn problems(&self) -> String {
        self.hub.ask("/v1/hub").unwrap()["manifests"]["problems"].to_string()
    }

    fn wait_for_problem(&self, words: &str) {
        wait_until(&format!("the hub says `{words}`"), PATIENCE, || {
            Ok(self.problems().contains(words))
        })
        .unwrap();
    }

    fn wait_until_well(&self) {
        let patience = PATIENCE + Duration::from_secs(60);
        wait_until("the hub says nothing", patience, || Ok(self.problems() == "[]")).unwrap();
    }
}

#[test]
fn throttling_conflicts_and_connections_that_break_delay_a_status_and_lose_none() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::new(folder.path());
    let answers = [
        FaultAnswer::Status(429, THROTTLED, "Retry-After: 1\r\n"),
        FaultAnswer::Status(409, CONFLICT, ""),
        FaultAnswer::Status(500, "not even JSON", ""),
        FaultAnswer::Closed,
        FaultAnswer::Late(Duration::from_secs(3)),
    ];
    for (number, answer) in (6002..).zip(answers) {
        let before = scene.faults.seen("PATCH", STATUS);
        scene.faults.add(Fault { method: "PATCH", path: STATUS, answer, times: 2 });
        // Pods do not wait for statuses.
        scene.change_to(&number.to_string());
        scene.wait_for_truth();
        assert!(scene.faults.seen("PATCH", STATUS) >= before + 2, "{number}: the fault was met");
        scene.faults.clear();
    }
    scene.wait_until_well();
}

#[test]
fn a_watch_that_has_expired_is_begun_anew_and_what_happened_meanwhile_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::new(folder.path());
    let pods = scene.agent.sleepers("6001");
    let expired = FaultAnswer::Status(200, EXPIRED, "");
    let watch = Fault { method: "GET", path: WATCH, answer: expired, times: 3 };
    scene.faults.add(watch);
    // The watch that is open ends with its proxy; the next ones are too old.
    scene.faults.cut();
    wait_until("watches were begun anew", PATIENCE, || Ok(scene.faults.seen("GET", WATCH) >= 4))
        .unwrap();
    assert_eq!(scene.agent.sleepers("6001"), pods, "nothing was touched");
    scene.change_to("6002");
    scene.wait_for_truth();
    scene.wait_until_well();
}

#[test]
fn rights_and_definitions_that_are_missing_are_told_and_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(folder.path());
    let pods = scene.agent.sleepers("6001");
    scene.cluster.kubectl(&["delete", "clusterrolebinding", "hinterland-hub"]).unwrap();
    scene.faults.cut();
    scene.wait_for_problem("can't be watched");
    scene.cluster.apply(&workload("6002")).unwrap();
    scene.agent.kill();
    scene.agent.start().unwrap();
    scene.agent.wait_until_up().unwrap();
    assert_eq!(scene.agent.sleepers("6001"), pods, "nothing was touched");
    scene.cluster.apply(RBAC).unwrap();
    scene.wait_for_pod("6002");
    scene.wait_for_truth();
    scene.wait_until_well();

    // A hub that starts where nobody has installed the definitions waits for them, and stops nothing.
    let pods = scene.agent.sleepers("6002");
    scene.hub.kill();
    let missing = FaultAnswer::Status(404, "404 page not found\n", "");
    let list = Fault { method: "GET", path: "/apis/hinterland.dev/", answer: missing, times: 12 };
    scene.faults.add(list);
    scene.hub.begin().unwrap();
    scene.hub.wait_for_status("/readyz", 503).unwrap();
    scene.wait_for_problem("can't be watched");
    assert_eq!(scene.agent.sleepers("6002"), pods, "nothing was touched");
    scene.faults.clear();
    scene.hub.wait_for_status("/readyz", 200).unwrap();
    assert_eq!(scene.agent.sleepers("6002"), pods, "nothing was touched");
    scene.change_to("6003");
    scene.wait_for_truth();
}
