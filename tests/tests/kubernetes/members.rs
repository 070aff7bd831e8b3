//! Workloads in a member cluster: another real API server, and one that accepts connections and says nothing.

use super::PATIENCE;
use super::hub::{cluster_with_hub, condition};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;

pub(super) const MEMBER_RBAC: &str = include_str!("../../../deploy/rbac/member.yaml");

const WORKLOAD: [&str; 4] = ["iw", "ocr", "-n", "inspection"];

pub(super) fn edge_cluster(name: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeCluster\nmetadata:\n  name: {name}\n  labels: {{tier: gpu, site: gate-3}}\n\
         spec:\n  kubeconfigSecretRef: {{name: {name}}}\n"
    )
}

fn workload(name: &str, tier: &str, image: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n  \
         namespace: inspection\nspec:\n  priority: 100\n  placement:\n    clusterSelector: {{tier: {tier}}}\n    \
         replicas: 2\n  template:\n    spec:\n      containers:\n      - name: server\n        image: {image}\n        \
         ports: [{{name: http, containerPort: 8080}}]\n        resources: {{limits: {{nvidia.com/gpu: 1}}}}\n"
    )
}

/// The kubeconfig in `file` as the Secret of the member `name`.
pub(super) fn give_access(management: &Cluster, name: &str, file: &Path) {
    let file = format!("--from-file=kubeconfig={}", file.display());
    management.kubectl(&["create", "secret", "generic", name, "-n", "hinterland", &file]).unwrap();
}

/// What the controllers of the member would say, which it has none of.
fn all_ready(member: &Cluster, name: &str) -> anyhow::Result<bool> {
    let deployment = member.get(&["deploy", name, "-n", "inspection"])?;
    let status = serde_json::json!({ "status": {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
    }});
    let patch = status.to_string();
    let target =
        ["patch", "deploy", name, "-n", "inspection", "--subresource=status", "--type=merge"];
    member.kubectl(&[&target[..], &["-p", &patch]].concat())?;
    Ok(true)
}

fn number(cluster: &Cluster, path: &str) -> anyhow::Result<Option<u64>> {
    Ok(cluster.get(&WORKLOAD)?.pointer(path).and_then(Value::as_u64))
}

/// The kubeconfig of `member`, but of a server that accepts connections and says nothing.
fn of_one_that_hangs(member: &Cluster, folder: &Path) -> (TcpListener, PathBuf) {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let kubeconfig = fs::read_to_string(member.kubeconfig("hub")).unwrap();
    let port = kubeconfig.split("127.0.0.1:").nth(1).unwrap().lines().next().unwrap();
    let silent = kubeconfig.replace(port, &hangs.local_addr().unwrap().port().to_string());
    let file = folder.join("silent");
    fs::write(&file, silent).unwrap();
    (hangs, file)
}

/// What somebody changes in a member is put right; what is not the hub's is left alone.
fn meddle(management: &Cluster, member: &Cluster) {
    member.kubectl(&["scale", "deploy/ocr", "-n", "inspection", "--replicas=7"]).unwrap();
    member.kubectl(&["delete", "svc/ocr", "-n", "inspection"]).unwrap();
    wait_until("it is put right", PATIENCE, || {
        let deployment = member.get(&["deploy", "ocr", "-n", "inspection"])?;
        member.kubectl(&["get", "svc/ocr", "-n", "inspection"])?;
        Ok(deployment["spec"]["replicas"] == 2)
    })
    .unwrap();
    let of_others = ["create", "deployment", "mine", "--image=theirs", "-n", "inspection"];
    member.kubectl(&of_others).unwrap();
    management.apply(&workload("mine", "gpu", "registry.example.com/mine:1")).unwrap();
    let mine = ["iw", "mine", "-n", "inspection"];
    wait_until("it says whose it is", PATIENCE, || {
        let status = management.get(&mine)?["status"].to_string();
        Ok(status.contains("site-1: Deployment mine: there is one that is not the hub's"))
    })
    .unwrap();
    let theirs = member.get(&["deploy", "mine", "-n", "inspection"]).unwrap();
    assert_eq!(theirs["spec"]["template"]["spec"]["containers"][0]["image"], "theirs");
    management.kubectl(&["delete", "iw/mine", "-n", "inspection"]).unwrap();
}

/// A member that is away and back has what changed meanwhile.
fn leave_and_return(management: &Cluster, member: &mut Cluster) {
    member.kill_server();
    management.apply(&workload("ocr", "gpu", "registry.example.com/ocr:2")).unwrap();
    assert_eq!(condition(management, &["ec", "site-1"], "Ready", "Unknown").0, "Unreachable");
    member.start_server().unwrap();
    wait_until("it has the second", PATIENCE * 2, || {
        let deployment = member.get(&["deploy", "ocr", "-n", "inspection"])?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        Ok(container["image"] == "registry.example.com/ocr:2")
    })
    .unwrap();
    wait_until("what is not the hub's is left, the rest of it is pruned", PATIENCE, || {
        let left = member.get(&["deploy,svc,pdb", "-n", "inspection"])?;
        let names = left["items"].as_array().into_iter().flatten();
        Ok(names.filter(|item| item["metadata"]["name"] == "mine").count() == 1)
    })
    .unwrap();
}

#[test]
fn a_member_has_what_selects_it_is_put_right_and_pruned_and_one_that_hangs_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (management, hub) = cluster_with_hub(folder.path());
    let mut member = Cluster::start(&folder.path().join("member")).unwrap();
    // Who names no ConfigMap needs no right to any, as with the role of an earlier version.
    let role = MEMBER_RBAC.replace("[services, configmaps]", "[services]");
    assert_ne!(role, MEMBER_RBAC);
    wait_until("the role is taken", PATIENCE, || member.apply(&role).map(|_| true)).unwrap();
    management.kubectl(&["create", "namespace", "inspection"]).unwrap();
    let (_hangs, silent) = of_one_that_hangs(&member, folder.path());

    // Before its Secret is there it says what it lacks.
    management.apply(&edge_cluster("site-1")).unwrap();
    let (reason, message) = condition(&management, &["ec", "site-1"], "Ready", "Unknown");
    assert!(["Connecting", "NoAccess"].contains(&&*reason), "{reason}: {message}");
    give_access(&management, "site-1", &member.kubeconfig("hub"));
    give_access(&management, "silent", &silent);
    management.apply(&edge_cluster("silent")).unwrap();
    management.apply(&workload("ocr", "gpu", "registry.example.com/ocr:1")).unwrap();
    wait_until("the member has it", PATIENCE, || all_ready(&member, "ocr")).unwrap();
    for object in ["svc/ocr", "pdb/ocr", "priorityclass/hinterland-100"] {
        member.kubectl(&["get", "-n", "inspection", object]).unwrap();
    }
    wait_until("its pods are counted", PATIENCE, || {
        let found = ["/status/clusters/selected", "/status/clusters/ready", "/status/ready"];
        let found: Result<Vec<_>, _> = found.iter().map(|path| number(&management, path)).collect();
        Ok(found? == [2, 1, 2].map(Some))
    })
    .unwrap();
    wait_until("the silent one is not reached", PATIENCE, || {
        Ok(number(&management, "/status/clusters/unreachable")? == Some(1))
    })
    .unwrap();
    assert_eq!(condition(&management, &WORKLOAD, "Ready", "True").0, "ClustersUnreachable");
    assert_eq!(condition(&management, &["ec", "site-1"], "Ready", "True").0, "InSync");
    let listed = management.kubectl(&["get", "ec", "-o", "wide"]).unwrap();
    assert!(listed.contains("InSync") && listed.contains("Unreachable"), "{listed}");

    meddle(&management, &member);
    leave_and_return(&management, &mut member);

    // What selects it no more is pruned.
    management.apply(&workload("ocr", "none", "registry.example.com/ocr:2")).unwrap();
    wait_until("it is pruned", PATIENCE, || {
        let left = member.get(&["deploy,svc,pdb,priorityclass", "-n", "inspection"])?;
        let ours = "applyset.kubernetes.io/part-of";
        Ok(!left.to_string().contains(ours))
    })
    .unwrap();
    assert_eq!(condition(&management, &WORKLOAD, "Ready", "False").0, "NoClusters");
    member.kubectl(&["get", "deploy/mine", "-n", "inspection"]).unwrap();
    assert!(!hub.log().contains("panicked"), "{}", hub.log());
}
