//! The chart and the Kustomize base in a real API server: installed, upgraded, rolled back, and enough for a
//! hub to run with.

use super::PATIENCE;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tests::real::http::request;
use tests::real::hub::Hub;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;

const RBAC: &str = include_str!("../../../deploy/rbac/hub.yaml");
const RBAC_REPLICATED: &str = include_str!("../../../deploy/rbac/hub-replicated.yaml");
const RBAC_SECRETS: &str = include_str!("../../../deploy/rbac/hub-secrets.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/chart/files/dashboard.json");

fn deploy(part: &str) -> String {
    format!("{}/../deploy/{part}", env!("CARGO_MANIFEST_DIR"))
}

/// Installs or upgrades the release `hub` with these values besides those that must be given.
fn helm(cluster: &Cluster, command: &str, values: &[&str]) -> anyhow::Result<String> {
    let chart = deploy("chart");
    let given = ["image.repository=images.example.com/hub", "broker.advertise=hub.example"];
    let values = given.iter().chain(values).flat_map(|value| ["--set", value]);
    let words = [command, "hub", &chart, "-n", "hinterland", "--create-namespace"];
    let words: Vec<&str> = words.into_iter().chain(values).collect();
    cluster.helm(&words)
}

fn template(cluster: &Cluster, values: &[&str]) -> anyhow::Result<String> {
    let (chart, given) = (deploy("chart"), ["image.repository=images.example.com/hub"]);
    let values = given.iter().chain(values).flat_map(|value| ["--set", value]);
    let words: Vec<&str> = ["template", "hub", &chart].into_iter().chain(values).collect();
    cluster.helm(&words)
}

/// The hub's configuration as the release has it, with what this machine has instead of a pod's folders.
fn configuration(cluster: &Cluster) -> String {
    let held = cluster.get(&["configmap", "hub", "-n", "hinterland"]).unwrap();
    held["data"]["hub.toml"].as_str().unwrap().to_owned()
}

fn rules(objects: &Value, kind: &str) -> Value {
    let items = objects["items"].as_array().unwrap().iter();
    let of_kind = items.filter(|item| item["kind"] == kind && item.to_string().contains("hub"));
    of_kind.map(|item| item["rules"].clone()).next().unwrap_or_default()
}

fn in_folder(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("hub.toml");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn the_chart_is_installed_upgraded_and_rolled_back_and_a_hub_runs_with_what_it_gives() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&folder.path().join("cluster")).unwrap();
    // A server that has just become ready may not know all of its own kinds yet.
    wait_until("the kinds are there", PATIENCE, || cluster.kubectl(&["get", "crd"]).map(|_| true))
        .unwrap();
    helm(&cluster, "install", &["serviceAccount.name=hub"]).unwrap();
    for object in ["sts/hub", "svc/hub", "svc/hub-mqtt", "secret/hub-api", "cm/hub"] {
        cluster.kubectl(&["get", "-n", "hinterland", object]).unwrap();
    }
    let text = configuration(&cluster);
    hub::config::Config::load(Some(&in_folder(folder.path(), &text))).unwrap();

    // With the definitions and the rights of the release a hub runs.
    let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
    let kubeconfig = cluster.kubeconfig("hub");
    hub.configure(&format!("[kubernetes]\nkubeconfig = \"{}\"\n", kubeconfig.display())).unwrap();
    hub.start().unwrap();
    cluster
        .apply("apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {name: a}\n")
        .unwrap();
    wait_until("it writes a status", PATIENCE, || {
        Ok(cluster.get(&["en", "a"])?["status"].to_string().contains("NotEnrolled"))
    })
    .unwrap();
    assert!(!hub.log().contains("orbidden"), "{}", hub.log());

    let secret =
        || cluster.get(&["secret", "hub-api", "-n", "hinterland"]).unwrap()["data"].clone();
    let service = || {
        let service = cluster.get(&["svc", "hub-mqtt", "-n", "hinterland"]).unwrap();
        service["spec"]["ports"][0]["port"].clone()
    };
    let token = secret();
    helm(&cluster, "upgrade", &["serviceAccount.name=hub", "broker.service.port=8884"]).unwrap();
    assert_eq!((service(), secret()), (8884.into(), token.clone()), "the token stays");
    assert!(configuration(&cluster).contains("0.0.0.0:8884"));
    cluster.helm(&["rollback", "hub", "1", "-n", "hinterland"]).unwrap();
    assert_eq!((service(), secret()), (8883.into(), token));

    // Its rights are those of the file, and no others.
    let roles = ["clusterrole,role", "-A", "-l", "app.kubernetes.io/instance=hub"];
    let of_chart = cluster.get(&roles).unwrap();
    cluster
        .kubectl(&["delete", "clusterrole,role", "-A", "-l", "app.kubernetes.io/instance=hub"])
        .unwrap();
    cluster.apply(RBAC).unwrap();
    let of_file = cluster.get(&["clusterrole/hinterland-hub"]).unwrap()["rules"].clone();
    assert_eq!(rules(&of_chart, "ClusterRole"), of_file);
    let of_file =
        cluster.get(&["role/hinterland-hub", "-n", "hinterland"]).unwrap()["rules"].clone();
    assert_eq!(rules(&of_chart, "Role"), of_file);

    // What the release leaves: the definitions, and with them everything that is desired.
    cluster.helm(&["uninstall", "hub", "-n", "hinterland"]).unwrap();
    cluster.get(&["en", "a"]).unwrap();
    // The Kustomize base beside it.
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &deploy("")]).unwrap();
    let base = cluster.get(&["sts", "hub", "-n", "hinterland"]).unwrap();
    let config = base["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].clone();
    let config = cluster.get(&["cm", config.as_str().unwrap(), "-n", "hinterland"]).unwrap();
    let text = config["data"]["hub.toml"].as_str().unwrap();
    hub::config::Config::load(Some(&in_folder(folder.path(), text))).unwrap();
}

#[test]
fn values_that_nobody_could_run_are_refused_and_toggles_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&folder.path().join("cluster")).unwrap();
    cluster
        .helm(&["lint", &deploy("chart"), "--set", "image.repository=a,broker.advertise=b"])
        .unwrap();
    for (values, words) in [
        (&["broker.advertise=a", "replicas=2"][..], "broker"),
        (&["broker.external.url=mqtts://b:8883", "replicas=2"], "keys"),
        (
            &["broker.external.url=mqtts://b:8883", "keys.existingSecret=k", "replicas=4"],
            "replicas",
        ),
        (&["broker.advertise=a", "replica=1"], "replica"),
        (&["broker.external.url=mqtt://a:1883"], "url"),
        (&[], "broker.advertise: expected HOST[:PORT]"),
        (&["broker.advertise=a", "image.repository="], "image.repository"),
    ] {
        let refused = template(&cluster, values).expect_err(words).to_string();
        assert!(refused.contains(words), "{refused}");
    }
    let plain = template(&cluster, &["broker.advertise=a"]).unwrap();
    assert!(!plain.contains("ServiceMonitor") && !plain.contains("grafana_dashboard"));
    let all = ["serviceMonitor.enabled=true", "dashboard.enabled=true", "broker.advertise=a"];
    let all = template(&cluster, &all).unwrap();
    assert!(all.contains("kind: ServiceMonitor") && all.contains("grafana_dashboard: \"1\""));
    let external = template(&cluster, &["broker.external.url=mqtts://broker:8883"]).unwrap();
    assert!(
        external.contains("broker = \"mqtts://broker:8883\"") && !external.contains("hub-mqtt")
    );
    assert!(!external.contains("leases") && !external.contains("replicated"));
    // Three of them have a Lease, the same keys, and the rights that the file gives.
    let three = [
        "broker.external.url=mqtts://broker:8883",
        "keys.existingSecret=hub-keys",
        "replicas=3",
        "serviceAccount.name=hub",
    ];
    helm(&cluster, "install", &three).unwrap();
    let text = configuration(&cluster);
    let config = hub::config::Config::load(Some(&in_folder(folder.path(), &text))).unwrap();
    config.check().unwrap();
    assert!(config.kubernetes.unwrap().replicated);
    cluster.apply(RBAC_REPLICATED).unwrap();
    let rules = |role| cluster.get(&["role", role, "-n", "hinterland"]).unwrap()["rules"].clone();
    assert_eq!(rules("hub-replicated"), rules("hinterland-hub-replicated"));
    cluster.get(&["pdb", "hub", "-n", "hinterland"]).unwrap();
    // Secrets of the namespaces that are named, and of no other.
    cluster.kubectl(&["create", "namespace", "inspection"]).unwrap();
    helm(&cluster, "upgrade", &[&three[..], &["secrets.namespaces={inspection}"]].concat())
        .unwrap();
    cluster.apply(RBAC_SECRETS).unwrap();
    let of_chart = cluster.get(&["role", "hinterland-hub-secrets", "-n", "inspection"]).unwrap();
    let of_file = cluster.get(&["clusterrole/hinterland-hub-secrets"]).unwrap();
    assert_eq!(of_chart["rules"], of_file["rules"]);
    let can = |namespace: &str| {
        let words = ["auth", "can-i", "list", "secrets", "-n", namespace];
        let user = "--as=system:serviceaccount:hinterland:hub";
        cluster.kubectl(&[&words[..], &[user]].concat()).is_ok()
    };
    assert!(can("inspection") && !can("default") && !can("kube-system"));
}

#[test]
fn the_dashboard_shows_figures_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(folder.path()).unwrap();
    hub.start().unwrap();
    let page = request(hub.api, "GET", "/metrics", &[], PATIENCE).unwrap();
    let there = String::from_utf8(page.body).unwrap();
    // A fresh hub has neither nodes nor sinks.
    let source = include_str!("../../../hub/src/export/mod.rs");
    let words = DASHBOARD.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: Vec<&str> = words.filter(|word| word.starts_with("hinterland_hub_")).collect();
    assert!(named.len() > 9, "{named:?}");
    for name in named {
        let (of_one, rest) = match name.strip_prefix("hinterland_hub_") {
            Some(rest) if rest.starts_with("node_") => (true, &rest[5..]),
            Some(rest) if rest.starts_with("sink_") => (true, &rest[5..]),
            rest => (false, rest.unwrap_or_default()),
        };
        let known =
            if of_one { source.contains(&format!("\"{rest}\"")) } else { there.contains(name) };
        assert!(known, "the dashboard names {name}, which no hub has");
    }
}
