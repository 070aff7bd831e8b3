//! ConfigMaps and Secrets that workloads name, from the API server to the files of a pod.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition, node};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fs;
use std::path::{Path, PathBuf};
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;
use tests::real::search::files_with;

/// What only an admin of a namespace gives the hub.
const SECRETS: &str = include_str!("../../../deploy/rbac/hub-secrets.yaml");

const TOKEN: &str = "the-token-that-nobody-reads-1";
const TOKEN_AFTER: &str = "the-token-that-nobody-reads-2";

const WORKLOAD: [&str; 2] = ["iw", "ocr"];

const OCR: &str = "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: ocr, namespace: default}
spec:
  placement: {nodeSelector: {site: gate-3}}
  template:
    spec:
      terminationGracePeriodSeconds: 1
      volumes:
      - {name: settings, configMap: {name: ocr}}
      - {name: keys, secret: {secretName: keys}}
      containers:
      - name: server
        command: [sh, -c, 'test -s $HOME/run/keys/token && exec sleep $NAP']
        env:
        - {name: NAP, valueFrom: {configMapKeyRef: {name: ocr, key: nap}}}
        volumeMounts:
        - {name: settings, mountPath: /etc/ocr}
        - {name: keys, mountPath: /run/keys}
";

/// Each site's pods sleep for as long as its ConfigMap says.
const CAMERA: &str = "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: camera, namespace: default}
spec:
  parametersFrom: [{configMapPrefix: camera-, label: site}]
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: server, command: [sh, -c, 'exec sleep $NAP']}]
";

fn edge_node(name: &str, site: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata:\n  name: {name}\n  labels: {{site: {site}}}\n"
    )
}

fn config(name: &str, nap: &str, text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\n\
         data: {{NAP: '{nap}', nap: '{nap}', ocr.toml: {text}}}\n"
    )
}

fn secret(token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: default}}\nstringData: {{token: {token}}}\n"
    )
}

/// Lets the hub read the Secrets of the namespace `default`.
pub(super) fn let_read_secrets(cluster: &Cluster) {
    cluster.apply(SECRETS).unwrap();
    let binding = ["create", "rolebinding", "hinterland-hub-secrets", "-n", "default"];
    let whom = ["--clusterrole=hinterland-hub-secrets", "--serviceaccount=hinterland:hub"];
    cluster.kubectl(&[&binding[..], &whom[..]].concat()).unwrap();
}

/// A file of the pod, once it holds this.
fn wait_for_file(agent: &Agent, file: &str, text: &str) -> PathBuf {
    let path = agent.state().join("pods/default_ocr-0/home").join(file);
    wait_until(&format!("{file} is {text}"), PATIENCE, || Ok(fs::read_to_string(&path)? == text))
        .unwrap();
    fs::canonicalize(path).unwrap()
}

/// The Secret lies in no file that outlives the machine's power, and in no object but its own.
fn nobody_reads_it(cluster: &Cluster, folders: &[&Path]) {
    let encoded = BASE64_STANDARD.encode(TOKEN);
    let objects = cluster.kubectl(&["get", "iw,en,cm", "-A", "-o", "yaml"]).unwrap();
    for needle in [TOKEN, encoded.trim_end_matches('=')] {
        for folder in folders {
            assert_eq!(files_with(folder, needle.as_bytes()), Vec::<PathBuf>::new());
        }
        assert!(!objects.contains(needle));
    }
}

fn scene(folder: &Path) -> (Cluster, Hub, [Agent; 2]) {
    let (cluster, hub) = cluster_with_hub(folder);
    let agents = [node(folder, &hub, "mast-17"), node(folder, &hub, "mast-18")];
    let nodes = [edge_node("mast-17", "gate-3"), edge_node("mast-18", "gate-4")].join("---\n");
    cluster.apply(&nodes).unwrap();
    (cluster, hub, agents)
}

#[test]
fn what_a_workload_names_travels_with_it_and_a_secret_is_read_by_its_node_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut hub, [agent, other]) = scene(folder.path());

    // What is missing is named, and nothing runs.
    cluster.apply(OCR).unwrap();
    let (reason, message) = condition(&cluster, &WORKLOAD, "Accepted", "False");
    assert_eq!(reason, "MissingObjects");
    assert!(message.ends_with("there is no ConfigMap default/ocr"), "{message}");
    cluster.apply(&[config("ocr", "4001", "a"), secret(TOKEN)].join("---\n")).unwrap();
    // So is what the hub may not read, in the words of the API server.
    wait_until("the hub may not read it", PATIENCE, || {
        let message = condition(&cluster, &WORKLOAD, "Accepted", "False").1;
        Ok(message.contains("Secret default/keys can't be used") && message.contains("forbidden"))
    })
    .unwrap();
    assert!(agent.sleepers("4001").is_empty());
    let_read_secrets(&cluster);
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("4001").len() == 1)).unwrap();
    condition(&cluster, &WORKLOAD, "Accepted", "True");
    let pod = agent.sleepers("4001");
    wait_for_file(&agent, "etc/ocr/ocr.toml", "a");
    let token = wait_for_file(&agent, "run/keys/token", TOKEN);
    assert!(!token.starts_with(folder.path()), "{}", token.display());
    nobody_reads_it(&cluster, &[&agent.state(), &other.state(), &folder.path().join("hub")]);
    assert!(!other.state().join("pods/default_ocr-0").exists());

    // A hub that starts anew seals to the same bytes: the files are those that they were.
    hub.kill();
    hub.start().unwrap();
    hub.wait_for_node("mast-17", "it is in sync", PATIENCE, |view| view["in_sync"] == true)
        .unwrap();
    assert_eq!(wait_for_file(&agent, "run/keys/token", TOKEN), token);
    assert!(!agent.log().contains("renewing its files"), "{}", agent.log());

    // A change arrives in the files, and no pod is restarted.
    cluster.apply(&[config("ocr", "4002", "b"), secret(TOKEN_AFTER)].join("---\n")).unwrap();
    wait_for_file(&agent, "etc/ocr/ocr.toml", "b");
    let after = wait_for_file(&agent, "run/keys/token", TOKEN_AFTER);
    assert_eq!(agent.sleepers("4001"), pod, "its environment is the next start's");

    // What is deleted is said, and stops nothing.
    cluster.kubectl(&["delete", "secret/keys"]).unwrap();
    assert_eq!(condition(&cluster, &WORKLOAD, "Accepted", "False").0, "MissingObjects");
    assert_eq!(agent.sleepers("4001"), pod);
    cluster.kubectl(&["delete", "iw/ocr"]).unwrap();
    wait_until("its Secrets go with the pod", PATIENCE, || Ok(!after.exists())).unwrap();
    let _ = fs::remove_dir(after.ancestors().nth(4).unwrap());
}

#[test]
fn a_workload_has_other_parameters_on_each_node() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, _hub, [first, second]) = scene(folder.path());
    cluster.apply(CAMERA).unwrap();
    cluster.apply(&config("camera-gate-3", "4103", "a")).unwrap();
    wait_until("the first has its own", PATIENCE, || Ok(first.sleepers("4103").len() == 1))
        .unwrap();
    let pod = first.sleepers("4103");
    wait_until("why not the second", PATIENCE, || {
        let unchosen = cluster.get(&["iw", "camera"])?["status"]["unchosen"].to_string();
        Ok(unchosen.contains("no ConfigMap `camera-…` for its label `site`"))
    })
    .unwrap();
    cluster.apply(&config("camera-gate-4", "4104", "a")).unwrap();
    wait_until("the second too", PATIENCE, || Ok(second.sleepers("4104").len() == 1)).unwrap();
    // Another address restarts the pods of that site, and no other.
    cluster.apply(&config("camera-gate-4", "4105", "a")).unwrap();
    wait_until("it has another", PATIENCE, || Ok(second.sleepers("4105").len() == 1)).unwrap();
    assert!(second.sleepers("4104").is_empty());
    assert_eq!(first.sleepers("4103"), pod);
    wait_until("all have the present template", PATIENCE, || {
        let status = cluster.get(&["iw", "camera"])?["status"].clone();
        Ok(status["updated"] == 2 && status["ready"] == 2)
    })
    .unwrap();
}
