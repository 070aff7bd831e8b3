//! ConfigMaps and Secrets that workloads name, from the management cluster to a member.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition};
use super::members::{MEMBER_RBAC, edge_cluster, give_access};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tests::real::hub::Hub;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;
use tests::real::search::files_with;

/// What only who answers for a namespace gives the hub: to read Secrets here, and to keep some there.
const SECRETS: &str = include_str!("../../../deploy/rbac/hub-secrets.yaml");
const MEMBER_SECRETS: &str = include_str!("../../../deploy/rbac/member-secrets.yaml");

const TOKEN: &str = "the-token-that-nobody-reads-1";
const TOKEN_AFTER: &str = "the-token-that-nobody-reads-2";

const OCR: &str = "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: ocr, namespace: inspection}
spec:
  placement: {clusterSelector: {tier: gpu}, replicas: 2}
  parametersFrom: [{configMapPrefix: camera-, label: site}]
  template:
    spec:
      volumes:
      - {name: settings, configMap: {name: ocr}}
      - {name: keys, secret: {secretName: keys}}
      containers:
      - name: server
        image: registry.example.com/ocr:1
        env:
        - {name: NAP, valueFrom: {configMapKeyRef: {name: ocr, key: nap}}}
        volumeMounts:
        - {name: settings, mountPath: /etc/ocr}
        - {name: keys, mountPath: /run/keys}
";

/// A workload of its own whose files are those of one ConfigMap.
fn with_files_of(name: &str, config: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {{name: {name}, namespace: inspection}}\n\
         spec:\n  placement: {{clusterSelector: {{tier: gpu}}}}\n  template:\n    spec:\n      \
         volumes: [{{name: a, configMap: {{name: {config}}}}}]\n      containers:\n      - name: server\n        \
         image: registry.example.com/a:1\n        volumeMounts: [{{name: a, mountPath: /a}}]\n"
    )
}

fn config(name: &str, pairs: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: inspection}}\ndata: {{{pairs}}}\n"
    )
}

fn secret(token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: inspection}}\nstringData: {{token: {token}}}\n"
    )
}

/// Lets the hub have the rights of `role` in the namespace.
fn bind(cluster: &Cluster, manifest: &str, role: &str) {
    cluster.apply(manifest).unwrap();
    let whom = [&*format!("--clusterrole={role}"), "--serviceaccount=hinterland:hub"];
    let binding = ["create", "rolebinding", role, "-n", "inspection"];
    cluster.kubectl(&[&binding[..], &whom[..]].concat()).unwrap();
}

fn of(member: &Cluster, object: &str) -> anyhow::Result<Value> {
    member.get(&[object, "-n", "inspection"])
}

fn wait_for_token(member: &Cluster, token: &str) {
    let encoded = BASE64_STANDARD.encode(token);
    wait_until("the Secret is this", PATIENCE * 2, || {
        Ok(of(member, "secret/keys")?["data"]["token"] == encoded)
    })
    .unwrap();
}

/// The hash of what the environment has, and the number of the Deployment's specs.
fn template(member: &Cluster) -> anyhow::Result<(String, Value)> {
    let deployment = of(member, "deploy/ocr")?;
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    let hash = annotations["hinterland.dev/environment-hash"].as_str().unwrap_or_default();
    Ok((hash.to_owned(), deployment["metadata"]["generation"].clone()))
}

/// It is in no object but its own, in no file of the hub and in nothing that it says.
fn nobody_reads_it(clusters: [&Cluster; 2], hub: &Hub, folder: &Path) {
    let objects = clusters.map(|cluster| {
        let events = cluster.kubectl(&["get", "cm,deploy,events", "-A", "-o", "yaml"]).unwrap();
        let statuses = cluster.kubectl(&["get", "iw,en,ec", "-A", "-o", "yaml"]);
        events + &statuses.unwrap_or_default()
    });
    for token in [TOKEN, TOKEN_AFTER] {
        let encoded = BASE64_STANDARD.encode(token);
        for needle in [token, encoded.trim_end_matches('=')] {
            assert!(objects.iter().all(|text| !text.contains(needle)));
            assert!(!hub.log().contains(needle));
            assert_eq!(files_with(folder, needle.as_bytes()), Vec::<PathBuf>::new());
        }
    }
}

/// A hub that may read Secrets of the namespace, and a member in which it may not keep any yet.
fn scene(folder: &Path) -> (Cluster, Hub, Cluster) {
    let (management, hub) = cluster_with_hub(folder);
    let member = Cluster::start(&folder.join("member")).unwrap();
    wait_until("the role is taken", PATIENCE, || member.apply(MEMBER_RBAC).map(|_| true)).unwrap();
    management.kubectl(&["create", "namespace", "inspection"]).unwrap();
    bind(&management, SECRETS, "hinterland-hub-secrets");
    give_access(&management, "site-1", &member.kubeconfig("hub"));
    management.apply(&edge_cluster("site-1")).unwrap();
    let objects =
        [config("ocr", "nap: '7', ocr.toml: a"), config("camera-gate-3", "CAMERA: 10.0.0.3")];
    management.apply(&[objects.join("---\n"), secret(TOKEN)].join("---\n")).unwrap();
    (management, hub, member)
}

/// Without the right to keep Secrets there only who names one waits.
fn without_rights(management: &Cluster, member: &Cluster) {
    management.apply(&[OCR, &with_files_of("plain", "ocr")].join("---\n")).unwrap();
    wait_until("it says what it lacks", PATIENCE, || {
        let status = management.get(&["iw", "ocr", "-n", "inspection"])?["status"].to_string();
        Ok(status.contains("site-1: Secret keys: secrets is forbidden"))
    })
    .unwrap();
    wait_until("another is there", PATIENCE, || of(member, "deploy/plain").map(|_| true)).unwrap();
    assert_eq!(of(member, "cm/ocr").unwrap()["data"]["ocr.toml"], "a");
    assert!(of(member, "deploy/ocr").is_err(), "it waits");
    bind(member, MEMBER_SECRETS, "hinterland-hub-member-secrets");
    wait_for_token(member, TOKEN);
    wait_until("it is there too", PATIENCE, || of(member, "deploy/ocr").map(|_| true)).unwrap();
}

/// Files change in place; what the environment has makes other pods.
fn change(management: &Cluster, member: &Cluster) {
    let container = &of(member, "deploy/ocr").unwrap()["spec"]["template"]["spec"]["containers"][0];
    let camera = serde_json::json!({ "name": "CAMERA", "value": "10.0.0.3" });
    assert!(container["env"].as_array().unwrap().contains(&camera), "{container}");
    let before = template(member).unwrap();
    management.apply(&config("ocr", "nap: '7', ocr.toml: b")).unwrap();
    management.apply(&secret(TOKEN_AFTER)).unwrap();
    wait_for_token(member, TOKEN_AFTER);
    wait_until("the file is another", PATIENCE, || {
        Ok(of(member, "cm/ocr")?["data"]["ocr.toml"] == "b")
    })
    .unwrap();
    assert_eq!(template(member).unwrap(), before);
    management.apply(&config("ocr", "nap: '8', ocr.toml: b")).unwrap();
    wait_until("pods are others", PATIENCE, || Ok(template(member)?.0 != before.0)).unwrap();
    management.apply(&config("camera-gate-3", "CAMERA: 10.0.0.4")).unwrap();
    wait_until("the camera is another", PATIENCE, || {
        Ok(of(member, "deploy/ocr")?.to_string().contains("10.0.0.4"))
    })
    .unwrap();
}

/// Somebody changes and deletes what is the hub's, and has something of his own.
fn meddle(management: &Cluster, member: &Cluster) {
    let patch = r#"{"stringData":{"token":"of-somebody"}}"#;
    member.kubectl(&["patch", "secret/keys", "-n", "inspection", "-p", patch]).unwrap();
    wait_for_token(member, TOKEN_AFTER);
    member.kubectl(&["delete", "cm/ocr", "-n", "inspection"]).unwrap();
    wait_until("it is there again", PATIENCE, || of(member, "cm/ocr").map(|_| true)).unwrap();
    member
        .kubectl(&["create", "cm", "theirs", "-n", "inspection", "--from-literal=a=theirs"])
        .unwrap();
    let both = [config("theirs", "a: ours"), with_files_of("other", "theirs")];
    management.apply(&both.join("---\n")).unwrap();
    wait_until("it says whose it is", PATIENCE, || {
        let status = management.get(&["iw", "other", "-n", "inspection"])?["status"].to_string();
        Ok(status.contains("ConfigMap theirs: there is one that is not the hub's"))
    })
    .unwrap();
    assert_eq!(of(member, "cm/theirs").unwrap()["data"]["a"], "theirs");
    assert!(of(member, "deploy/other").is_err(), "it would run otherwise than it is written");
    management.kubectl(&["delete", "iw/other", "-n", "inspection"]).unwrap();
}

/// What is missing is said, and what is there goes on; a member without parameters has nothing of it.
fn miss(management: &Cluster, member: &Cluster) {
    let name = ["iw", "ocr", "-n", "inspection"];
    management.kubectl(&["delete", "secret/keys", "-n", "inspection"]).unwrap();
    assert_eq!(condition(management, &name, "Accepted", "False").0, "MissingObjects");
    wait_for_token(member, TOKEN_AFTER);
    management.apply(&secret(TOKEN_AFTER)).unwrap();
    condition(management, &name, "Accepted", "True");
    management.kubectl(&["delete", "cm/camera-gate-3", "-n", "inspection"]).unwrap();
    wait_until("it is not there", PATIENCE, || Ok(of(member, "deploy/ocr").is_err())).unwrap();
    let message = condition(management, &name, "Ready", "False").1;
    assert!(message.contains("site-1: no ConfigMap `camera-…` for its label `site`"), "{message}");
    management.apply(&config("camera-gate-3", "CAMERA: 10.0.0.3")).unwrap();
    wait_until("it is there again", PATIENCE, || of(member, "deploy/ocr").map(|_| true)).unwrap();
}

#[test]
fn what_a_workload_names_is_kept_in_a_member_and_one_right_that_is_missing_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (management, mut hub, member) = scene(folder.path());
    without_rights(&management, &member);
    change(&management, &member);
    meddle(&management, &member);
    miss(&management, &member);
    nobody_reads_it([&management, &member], &hub, &folder.path().join("hub"));

    // A hub that was away while nobody named the Secret any more prunes it as well.
    hub.kill();
    management.apply(&OCR.replace("tier: gpu", "tier: none")).unwrap();
    hub.start().unwrap();
    wait_until("it is pruned, and what another names is not", PATIENCE * 2, || {
        let left = member.get(&["cm,secret,deploy", "-n", "inspection"])?;
        let names = left["items"].as_array().into_iter().flatten();
        let ours = |item: &&Value| {
            item["metadata"]["labels"].get("applyset.kubernetes.io/part-of").is_some()
        };
        let names = names.filter(ours).map(|item| item["metadata"]["name"].to_string());
        Ok(names.collect::<Vec<_>>() == ["\"ocr\"", "\"plain\""])
    })
    .unwrap();
    assert!(!hub.log().contains("panicked"), "{}", hub.log());
}
