//! What is accepted, and the words in which the rest is refused.

use super::*;
use crate::fleet::rollout::NodeShare;
use insta::assert_snapshot;
use proptest::prelude::*;
use shared::model::{GpuRequest, MemoryQuantity};
use std::fs;
use std::path::Path;

const CLASSIFIER: &str = include_str!("../../../deploy/examples/classifier.yaml");

const WORKLOAD: &str = "\
apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata:
  name: ocr
spec:
  template:
    spec:
      containers:
        - name: server
          command: [ocr]
          resources:
            limits: {memory: 1Gi}
          livenessProbe:
            tcpSocket: {port: 80}
";

const NODE: &str = "\
apiVersion: hinterland.dev/v1alpha1
kind: EdgeNode
metadata:
  name: site-1
  labels: {zone: north}
spec:
  taints:
    - {key: reserved, effect: NoSchedule}
";

/// The words in which `text` is refused.
fn refused(text: &str) -> String {
    parse_documents("w/ocr.yaml", text).unwrap_err().to_string()
}

/// The words in which the workload is refused after one change.
fn changed(from: &str, to: &str) -> String {
    assert!(WORKLOAD.contains(from), "`{from}` is not in the workload");
    refused(&WORKLOAD.replace(from, to))
}

/// The words in which the node is refused after one change.
fn changed_node(from: &str, to: &str) -> String {
    assert!(NODE.contains(from), "`{from}` is not in the node");
    refused(&NODE.replace(from, to))
}

fn only_workload(text: &str) -> InferenceWorkload {
    let manifests = parse_documents("w/ocr.yaml", text).unwrap();
    assert_eq!(manifests.workloads.len(), 1);
    manifests.workloads.into_values().next().unwrap()
}

#[test]
fn what_is_left_out_has_the_defaults_that_are_written_down() {
    let workload = only_workload(WORKLOAD);
    assert_eq!(workload.key.to_string(), "default/ocr");
    assert_eq!(workload.replicas, Replicas::PerNode(1));
    assert_eq!(workload.priority, 0);
    assert!(workload.node_selector.is_empty() && workload.tolerations.is_empty());
    assert_eq!(workload.template.spec.termination_grace_period_seconds, 30);
    let nodes = parse_documents("n.yaml", NODE).unwrap().nodes;
    let node = &nodes[&NodeId::new("site-1").unwrap()];
    assert_eq!(node.labels["zone"], "north");
    assert_eq!(node.taints[0].value, "");
}

#[test]
fn the_classifier_of_the_demo_is_accepted() {
    let workload = only_workload(CLASSIFIER);
    assert_eq!(workload.key.to_string(), "default/file-classifier");
    assert_eq!(workload.replicas, Replicas::PerNode(1));
}

#[test]
fn every_example_is_accepted() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let manifests = read_directory(&examples).unwrap();
    let weld = &manifests.workloads[&"inspection/weld-inspection".parse().unwrap()];
    assert_eq!(weld.replicas, Replicas::Fleet(3));
    let memory = MemoryQuantity { bytes: 4 << 30 };
    assert_eq!(weld.template.resources().gpu, GpuRequest::SharedMemory(memory));
    let node = &manifests.nodes[&NodeId::new("site-0042").unwrap()];
    assert!(weld.tolerations.iter().any(|toleration| toleration.tolerates(&node.taints[0])));
}

#[test]
fn equal_content_has_an_equal_revision_however_it_is_written() {
    let rewritten = WORKLOAD
        .replace("[ocr]", "\n            - \"ocr\"")
        .replace("1Gi", "1024Mi")
        .replace("name: ocr\n", "name: another\n  namespace: lab\n");
    let (workload, same) = (only_workload(WORKLOAD), only_workload(&rewritten));
    assert_eq!(workload.revision, same.revision);
    let other = only_workload(&WORKLOAD.replace("1Gi", "2Gi"));
    assert_ne!(workload.revision, other.revision);
    assert_eq!(
        workload.revision.to_string(),
        "9e1920028d402399",
        "pinned: a change restarts every pod"
    );
}

#[test]
fn fields_outside_the_subset_are_refused() {
    let typo = changed("livenessProbe", "livenesProbe");
    assert_snapshot!(typo, @"w/ocr.yaml:13: spec.template.spec.containers[0].livenesProbe: unknown field, expected one of `name`, `image`, `command`, `args`, `workingDir`, `env`, `resources`, `ports`, `startupProbe`, `readinessProbe`, `livenessProbe`, `envFrom`, `volumeMounts`, `restartPolicy`, `imagePullPolicy`, `securityContext`, `lifecycle`, `terminationMessagePath`, `terminationMessagePolicy`");
    let volumes =
        changed("      containers:", "      volumes: [{name: v, nfs: {}}]\n      containers:");
    assert_snapshot!(volumes, @"w/ocr.yaml:8: spec.template.spec.volumes[0].nfs: unknown field, expected one of `name`, `configMap`, `secret`, `emptyDir`, `hostPath`, `persistentVolumeClaim`");
    let other = changed("      containers:", "      ephemeralContainers: []\n      containers:");
    assert_snapshot!(other, @"w/ocr.yaml:8: spec.template.spec.ephemeralContainers: unknown field, expected one of `containers`, `restartPolicy`, `terminationGracePeriodSeconds`, `volumes`, `models`, `initContainers`, `imagePullSecrets`, `securityContext`, `hostNetwork`, `dnsPolicy`");
    let dns = changed("      containers:", "      dnsPolicy: ClusterFirst\n      containers:");
    assert_snapshot!(dns, @"w/ocr.yaml:8: spec.template.spec.dnsPolicy: an edge node has no DNS of a cluster: expected Default, or none");
    let port = "      hostNetwork: true\n      containers:\n        - name: other\n          command: [a]\n          ports: [{containerPort: 80, hostPort: 8080}]";
    assert_snapshot!(changed("      containers:", port), @"w/ocr.yaml:12: spec.template.spec.containers[0].ports[0].hostPort: on the node's network, or with replicas that each have ports of their own: expected the same as containerPort");
    let init = "      initContainers: [{name: server, command: [a]}]\n      containers:";
    assert_snapshot!(changed("      containers:", init), @"w/ocr.yaml:10: spec.template.spec.containers[0].name: there is a container `server` already");
    let init = "      initContainers: [{name: init, command: [a], restartPolicy: Never}]\n      containers:";
    assert_snapshot!(changed("      containers:", init), @"w/ocr.yaml:8: spec.template.spec.initContainers[0].restartPolicy: `Never` is not known, expected one of `Always`");
    let secret = "          env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]\n          command:";
    assert_snapshot!(changed("          command:", secret), @"w/ocr.yaml:10: spec.template.spec.containers[0].env[0].valueFrom.secretKeyRef: a Secret reaches a pod as files only, never in its environment: expected a volume with `secret` and a mount of it");
    assert_snapshot!(changed("spec:\n  template", "status: {}\nspec:\n  template"), @"w/ocr.yaml:5: status: unknown field, expected one of `apiVersion`, `kind`, `metadata`, `spec`");
    assert_snapshot!(changed("{memory: 1Gi}", "{amd.com/gpu: 1}"), @"w/ocr.yaml:12: spec.template.spec.containers[0].resources.limits[amd.com/gpu]: unknown field, expected one of `cpu`, `memory`, `nvidia.com/gpu`, `hinterland.dev/gpu-memory`, `nvidia.com/mig-PROFILE`, `hinterland.dev/device-NAME`");
}

#[test]
fn values_of_the_wrong_form_are_refused() {
    assert_snapshot!(changed("1Gi", "1GiB"), @"w/ocr.yaml:12: spec.template.spec.containers[0].resources.limits.memory: `1GiB` is not a quantity: expected a number with an optional suffix, as in `512Mi` or `2G`");
    assert_snapshot!(changed("memory: 1Gi", "nvidia.com/gpu: -1"), @"w/ocr.yaml:12: spec.template.spec.containers[0].resources.limits[nvidia.com/gpu]: expected a whole number from 0 to 4294967295");
    assert_snapshot!(changed("{port: 80}", "{port: 70000}"), @"w/ocr.yaml:14: spec.template.spec.containers[0].livenessProbe.tcpSocket.port: found integer `70000`, expected a port of 1 to 65535, or the name of one of the container's ports");
    assert_snapshot!(changed("[ocr]", "[ocr, 8080]"), @"w/ocr.yaml:10: spec.template.spec.containers[0].command[1]: `8080` is a number or a truth value, expected a string: put it in quotes");
    assert_snapshot!(changed("[ocr]", "[ocr, yes]"), @"w/ocr.yaml:10: spec.template.spec.containers[0].command[1]: `yes` is a number or a truth value, expected a string: put it in quotes");
    assert_snapshot!(changed("[ocr]", "ocr"), @"w/ocr.yaml:10: spec.template.spec.containers[0].command: expected a list");
    assert_snapshot!(changed("name: ocr", "name:"), @"w/ocr.yaml:4: metadata.name: found nothing, expected a string");
    let policy = changed("      containers:", "      restartPolicy: Sometimes\n      containers:");
    assert_snapshot!(policy, @"w/ocr.yaml:8: spec.template.spec.restartPolicy: `Sometimes` is not known, expected one of `Always`, `OnFailure`, `Never`");
}

#[test]
fn what_the_types_allow_and_the_pod_does_not_is_refused() {
    let both = "tcpSocket: {port: 80}\n            exec: {command: [x]}";
    assert_snapshot!(changed("tcpSocket: {port: 80}", both), @"w/ocr.yaml:13: spec.template.spec.containers[0].livenessProbe: expected exactly one of exec, grpc, httpGet and tcpSocket");
    assert_snapshot!(changed("command: [ocr]", "args: [ocr]"), @"w/ocr.yaml:9: spec.template.spec.containers[0].command: expected a command, an image, or both");
    assert_snapshot!(changed("- name: server", "- name: Server"), @"w/ocr.yaml:9: spec.template.spec.containers[0].name: `Server` is not a valid name: expected 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit");
    let ports = "command: [ocr]\n          ports: [{containerPort: 80}, {containerPort: 0}]";
    assert_snapshot!(changed("command: [ocr]", ports), @"w/ocr.yaml:11: spec.template.spec.containers[0].ports[1].containerPort: expected a port of 1 to 65535");
    let gpus = "{nvidia.com/gpu: 1, hinterland.dev/gpu-memory: 1Gi}";
    assert_snapshot!(changed("{memory: 1Gi}", gpus), @"w/ocr.yaml:12: spec.template.spec.containers[0].resources.limits[hinterland.dev/gpu-memory]: expected whole GPUs or shared GPU memory, not both");
    let env = "command: [ocr]\n          env:\n            - name: A\n            - name: A=B";
    assert_snapshot!(changed("command: [ocr]", env), @"w/ocr.yaml:13: spec.template.spec.containers[0].env[1]: expected a name without `=` and no NUL character");
}

#[test]
fn a_port_by_its_name_is_the_container_s_of_that_name() {
    let ports = "ports: [{name: http, containerPort: 80}, {name: admin, containerPort: 81}]";
    let hook = "lifecycle: {preStop: {httpGet: {port: admin}}}";
    let said = |probed: &str, hook: &str| {
        let rest = format!("{{{probed}}}\n          {ports}\n          {hook}");
        WORKLOAD.replace("\n            tcpSocket: {port: 80}", &format!(" {rest}"))
    };
    let by_name = only_workload(&said("tcpSocket: {port: http}", hook));
    let by_number = only_workload(&said("tcpSocket: {port: 80}", &hook.replace("admin", "81")));
    assert_eq!(by_name, by_number);
    let grpc = only_workload(&said("grpc: {port: 81, service: ocr}", hook));
    assert_ne!(grpc.revision, by_name.revision);
    assert_snapshot!(refused(&said("tcpSocket: {port: htp}", hook)), @"w/ocr.yaml:13: spec.template.spec.containers[0].livenessProbe.tcpSocket.port: the container has no port named `htp`: expected a number, or one of `http`, `admin`");
    assert_snapshot!(refused(&said("httpGet: {port: '80'}", hook)), @"w/ocr.yaml:13: spec.template.spec.containers[0].livenessProbe.httpGet.port: the container has no port named `80`: expected a number, or one of `http`, `admin`");
    assert_snapshot!(refused(&said("tcpSocket: {port: 80}", &hook.replace("admin", "x"))), @"w/ocr.yaml:15: spec.template.spec.containers[0].lifecycle.preStop.httpGet.port: the container has no port named `x`: expected a number, or one of `http`, `admin`");
    assert_snapshot!(changed("{port: 80}", "{port: http}"), @"w/ocr.yaml:14: spec.template.spec.containers[0].livenessProbe.tcpSocket.port: the container has no port named `http`: expected a number, since none of its ports has a name");
    let words = refused(&said("grpc: {port: http}", hook));
    let path = "w/ocr.yaml:13: spec.template.spec.containers[0].livenessProbe.grpc.port: ";
    assert!(words.starts_with(path), "a number, as in Kubernetes: {words}");
    assert_snapshot!(refused(&said("grpc: {port: 0}", hook)), @"w/ocr.yaml:13: spec.template.spec.containers[0].livenessProbe.grpc.port: expected a port of 1 to 65535");
}

#[test]
fn names_and_kinds_that_are_none_are_refused() {
    assert_snapshot!(changed("name: ocr", "name: OCR"), @"w/ocr.yaml:4: metadata.name: `OCR` is not a valid name: expected 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit");
    assert_snapshot!(changed("name: ocr", "name: ocr\n  namespace: a/b"), @"w/ocr.yaml:5: metadata.namespace: `a/b` is not a valid name: expected 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit");
    assert_snapshot!(changed("  name: ocr", "  labels: {}"), @"w/ocr.yaml:4: metadata.name: is missing");
    assert_snapshot!(changed("v1alpha1", "v1"), @"w/ocr.yaml:1: apiVersion: `hinterland.dev/v1` is not known, expected `hinterland.dev/v1alpha1`");
    assert_snapshot!(changed("InferenceWorkload", "Deployment"), @"w/ocr.yaml:2: kind: `Deployment` is not known, expected one of `InferenceWorkload`, `EdgeNode`");
    assert_snapshot!(changed("kind: InferenceWorkload\n", ""), @"w/ocr.yaml:4: kind: is missing");
}

#[test]
fn placement_that_can_not_be_meant_is_refused() {
    let placed = |placement: &str| {
        changed("spec:\n  template", &format!("spec:\n  placement:\n    {placement}\n  template"))
    };
    assert_snapshot!(placed("replicas: 1\n    replicasPerNode: 1"), @"w/ocr.yaml:7: spec.placement.replicas: expected replicas over the fleet or replicasPerNode, not both");
    assert_snapshot!(placed("replicasPerNode: 257"), @"w/ocr.yaml:7: spec.placement.replicasPerNode: 257 is over 256");
    assert_snapshot!(placed("replicas: 100001"), @"w/ocr.yaml:7: spec.placement.replicas: 100001 is over 100000");
    assert_snapshot!(placed("replicas: -1"), @"w/ocr.yaml:7: spec.placement.replicas: expected a whole number from 0 to 4294967295");
    assert_snapshot!(placed("nodeSelector: {zone: no rth}"), @"w/ocr.yaml:7: spec.placement.nodeSelector.zone: `no rth` is not a value: expected nothing, or at most 63 characters of letters, digits, '-', '_' and '.', beginning and ending with a letter or digit");
    assert_snapshot!(placed("tolerations: [{value: x}]"), @"w/ocr.yaml:7: spec.placement.tolerations[0].key: is missing: only operator `Exists` goes without a key");
    assert_snapshot!(placed("tolerations: [{key: a, operator: Exists, value: x}]"), @"w/ocr.yaml:7: spec.placement.tolerations[0].value: expected no value with operator `Exists`");
    assert_snapshot!(placed("tolerations: [{key: a, effect: PreferNoSchedule}]"), @"w/ocr.yaml:7: spec.placement.tolerations[0].effect: `PreferNoSchedule` is not known, expected one of `NoSchedule`, `NoExecute`");
}

#[test]
fn a_node_can_be_cordoned_and_drained_by_its_document() {
    let said = |more: &str| {
        let text = NODE.replace("spec:\n", &format!("spec:\n{more}"));
        let node = parse_documents("w/site.yaml", &text).unwrap().nodes.pop_first().unwrap().1;
        (node.unschedulable, node.scheduling_word())
    };
    assert_eq!(said(""), (false, ""));
    assert_eq!(said("  unschedulable: true\n"), (true, "Cordoned"));
    let drain =
        "  unschedulable: true\n  taints: [{key: hinterland.dev/drain, effect: NoExecute}]\n";
    let text =
        NODE.split("  taints").next().unwrap().replace("spec:\n", &format!("spec:\n{drain}"));
    let node = parse_documents("w/site.yaml", &text).unwrap().nodes.pop_first().unwrap().1;
    assert_eq!((node.unschedulable, node.scheduling_word()), (true, "Draining"));
    assert_snapshot!(changed_node("taints:", "unschedulable: maybe\n  taints:"), @"w/ocr.yaml:7: spec.unschedulable: expected a value of type boolean");
}

#[test]
fn nodes_that_can_not_be_meant_are_refused() {
    assert_snapshot!(changed_node("name: site-1", "name: site-1\n  namespace: lab"), @"w/ocr.yaml:5: metadata.namespace: an EdgeNode belongs to no namespace, expected none");
    assert_snapshot!(changed_node("zone: north", "zone/: north"), @"w/ocr.yaml:5: metadata.labels[zone/]: `zone/` is not a key: expected at most 63 characters of letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, after an optional DNS name and '/'");
    assert_snapshot!(changed_node("zone: north", "kubernetes.io/hostname: x"), @"w/ocr.yaml:5: metadata.labels[kubernetes.io/hostname]: is always the node's name, expected `site-1` or nothing");
    assert_snapshot!(changed_node("effect: NoSchedule", "value: x"), @"w/ocr.yaml:8: spec.taints[0].effect: is missing");
    let link = |said: &str| changed_node("taints:", &format!("link: {{{said}}}\n  taints:"));
    assert_snapshot!(link("bytesPerDay: 19k"), @"w/ocr.yaml:7: spec.link.bytesPerDay: `19000` is too little to connect at all, expected at least 20000");
    assert_snapshot!(link("bytesPerSecond: 0"), @"w/ocr.yaml:7: spec.link.bytesPerSecond: `0` is too little to connect at all, expected at least 500");
    assert_snapshot!(link("bytesPerDay: lots"), @"w/ocr.yaml:7: spec.link.bytesPerDay: `lots` is not a quantity: expected a number with an optional suffix, as in `512Mi` or `2G`");
    assert_snapshot!(link("bytesPerHour: 1k"), @"w/ocr.yaml:7: spec.link.bytesPerHour: unknown field, expected one of `bytesPerDay`, `bytesPerSecond`");
    let twice = "NoSchedule}\n    - {key: reserved, value: b, effect: NoSchedule}";
    assert_snapshot!(changed_node("NoSchedule}", twice), @"w/ocr.yaml:9: spec.taints[1].key: `reserved` is given twice with the same effect");
}

#[test]
fn a_nodes_link_is_given_in_bytes_or_quantities() {
    let text =
        NODE.replace("taints:", "link: {bytesPerDay: 250k, bytesPerSecond: 8000}\n  taints:");
    let manifests = parse_documents("w/ocr.yaml", &text).unwrap();
    let link = manifests.nodes.values().next().unwrap().link;
    assert_eq!((link.bytes_per_day, link.bytes_per_second), (Some(250_000), Some(8_000)));
}

#[test]
fn an_empty_section_is_refused_rather_than_guessed_at() {
    let words = changed("name: ocr\n", "name: ocr\n  labels:\n");
    assert_snapshot!(words, @"w/ocr.yaml:5: metadata.labels: expected a mapping");
}

#[test]
fn what_is_no_yaml_is_refused() {
    assert_snapshot!(changed("[ocr]", "[ocr"), @"w/ocr.yaml:11: spec.template.spec.containers[0].command: illegal placement of ':' indicator");
    assert_snapshot!(changed("kind:", "kind: EdgeNode\nkind:"), @"w/ocr.yaml:3: kind: is given twice");
    assert_snapshot!(changed("1Gi}", "1Gi, memory: 2Gi}"), @"w/ocr.yaml:12: spec.template.spec.containers[0].resources.limits.memory: is given twice");
    assert_snapshot!(changed("[ocr]", "*nothing"), @"w/ocr.yaml:10: spec.template.spec.containers[0]: alias references unknown anchor");
    assert_snapshot!(refused("- a\n"), @"w/ocr.yaml:1: expected a mapping");
    assert_snapshot!(refused("%YAML 1.2\n---\na: b\n"), @r#"
w/ocr.yaml:2: did not find expected <document start>
w/ocr.yaml:3: apiVersion: is missing
"#);
}

#[test]
fn every_document_with_a_problem_is_named() {
    let text = [
        WORKLOAD.replace("1Gi", "lots"),
        NODE.to_owned(),
        NODE.replace("site-1", "site-2").replace("taints", "taint"),
        "a: [\n".to_owned(),
        WORKLOAD.to_owned(),
        WORKLOAD.to_owned(),
    ];
    assert_snapshot!(refused(&text.join("---\n")), @r#"
w/ocr.yaml:12: spec.template.spec.containers[0].resources.limits.memory: `lots` is not a quantity: expected a number with an optional suffix, as in `512Mi` or `2G`
w/ocr.yaml:31: spec.taint: unknown field, expected one of `identity`, `approval`, `taints`, `unschedulable`, `link`
w/ocr.yaml:34: a: unclosed bracket '['
w/ocr.yaml:54: metadata.name: InferenceWorkload `default/ocr` is declared already by the document at w/ocr.yaml:35
"#);
}

#[test]
fn a_name_that_two_files_declare_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.yml", ".hidden.yaml", "c.yaml.bak", "d.json"] {
        fs::write(directory.path().join(name), NODE).unwrap();
    }
    let problems = read_directory(directory.path()).unwrap_err().to_string();
    let words = problems.replace(&*directory.path().to_string_lossy(), "DIR");
    assert_snapshot!(words, @"DIR/b.yml:4: metadata.name: EdgeNode `site-1` is declared already by the document at DIR/a.yaml:1");
}

#[test]
fn a_directory_with_one_bad_file_is_refused_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    write("good.yaml", WORKLOAD.as_bytes());
    write("latin.yaml", b"# one\n# caf\xe9\n");
    write("large.yaml", &vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1]);
    fs::create_dir(directory.path().join("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("dangling.yaml")).unwrap();
    let problems = read_directory(directory.path()).unwrap_err().to_string();
    let words = problems.replace(&*directory.path().to_string_lossy(), "DIR");
    assert_snapshot!(words, @r#"
DIR/dangling.yaml: can't be read: No such file or directory (os error 2)
DIR/folder.yaml: is not a regular file
DIR/large.yaml: is over the limit of 4194304 bytes a file
DIR/latin.yaml:2: is not UTF-8
"#);
}

#[test]
fn a_directory_that_is_not_there_is_refused() {
    let problems = read_directory(Path::new("/nowhere/at/all")).unwrap_err();
    assert_snapshot!(problems, @"/nowhere/at/all: the directory can't be read: No such file or directory (os error 2)");
}

#[test]
fn a_workload_that_does_not_fit_its_item_is_refused() {
    let large = format!("[ocr, {}]", "x".repeat(shared::limits::MAP_ITEM_BYTES_MAX));
    assert_snapshot!(changed("[ocr]", &large), @"w/ocr.yaml:5: spec: 262276 bytes, as a node is sent them, are over the limit of 262144");
}

proptest! {
    #[test]
    fn a_damaged_file_gives_problems_with_places_and_no_panic(
        at in 0..WORKLOAD.len(), cut in 0_usize..40, insert in "[-a-z0-9:{}\\[\\]&*!|>'\"#%~ \n]{0,6}"
    ) {
        let end = (at + cut).min(WORKLOAD.len());
        let text = format!("{}{insert}{}", &WORKLOAD[..at], &WORKLOAD[end..]);
        let lines = text.lines().count() as u64 + 1;
        if let Err(refused) = parse_documents("w/ocr.yaml", &text) {
            for problem in refused.problems {
                let placed = (1..=lines).contains(&problem.line);
                prop_assert!(placed && !problem.problem.is_empty(), "{problem} in {text:?}");
            }
        }
    }
}

#[test]
fn a_rollout_says_how_many_nodes_in_numbers_or_parts() {
    let text = |rollout: &str| {
        format!(
            "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {{name: ocr}}\n\
             spec:\n  rollout: {rollout}\n  template: {{spec: {{containers: [{{name: c, command: [c]}}]}}}}\n"
        )
    };
    let policy = only_workload(&text("{waves: [1, \"5\", 20%], maxUnavailable: 100%}")).rollout;
    let policy = policy.unwrap();
    assert_eq!(policy.waves, [NodeShare::Nodes(1), NodeShare::Nodes(5), NodeShare::Percent(20)]);
    assert_eq!(policy.max_unavailable, NodeShare::Percent(100));
    assert_eq!((policy.min_ready_ms, policy.rolls_back, policy.paused), (10_000, true, false));
    assert_eq!(only_workload(&text("{}")).rollout.unwrap().wave_count(), 1);
    for (rollout, path) in [
        ("{waves: [0]}", "spec.rollout.waves[0]: 0: expected a number of nodes"),
        ("{waves: [101%]}", "spec.rollout.waves[0]: `101%`: expected"),
        ("{waves: [\"+5\"]}", "spec.rollout.waves[0]: `+5`: expected"),
        ("{waves: [3, 3]}", "spec.rollout.waves[1]: expected more nodes than in the wave before"),
        ("{maxUnavailable: many}", "spec.rollout.maxUnavailable: `many`: expected"),
        ("{minReadySeconds: 600}", "spec.rollout.progressDeadlineSeconds: expected more than"),
        ("{onFailure: Retry}", "spec.rollout.onFailure: `Retry` is not known"),
        ("{wave: 1}", "spec.rollout.wave: unknown field"),
    ] {
        let problems = parse_documents("ocr.yaml", &text(rollout)).unwrap_err().to_string();
        assert!(problems.contains(path), "{rollout}: {problems}");
    }
}
