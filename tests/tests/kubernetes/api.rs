//! The custom resources as the API server takes them.

use std::sync::OnceLock;
use tests::real::kubernetes::Cluster;

/// The one API server of these tests; each test has its own names.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let started = CLUSTER.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    started.as_ref().expect("an API server")
}

fn start() -> anyhow::Result<Cluster> {
    // Nobody drops it: its programs end with this process, the folder stays for who looks for its logs.
    let folder = tests::real::binaries::binary_folder()?.join("kubernetes-test");
    let _ = std::fs::remove_dir_all(&folder);
    super::cluster_with_definitions(&folder)
}

fn workload(name: &str, placement: &str, template: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n  \
         namespace: default\nspec:\n  placement: {placement}\n  template:\n    spec: {template}\n"
    )
}

fn cluster_with_spec(spec: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeCluster\nmetadata: {{name: a}}\nspec: {spec}\n"
    )
}

const PLAIN: &str = "{containers: [{name: server, command: [server]}]}";

#[test]
fn the_examples_are_accepted_as_they_are() {
    cluster().kubectl(&["create", "namespace", "inspection"]).unwrap();
    for example in
        ["classifier", "configured", "edge-node", "kubernetes/member-cluster", "shared-gpu"]
    {
        let file = format!("{}/../deploy/examples/{example}.yaml", env!("CARGO_MANIFEST_DIR"));
        // The server warns of a field that it does not know; `strict` refuses it.
        cluster().kubectl(&["apply", "--server-side", "--validate=strict", "-f", &file]).unwrap();
    }
}

#[test]
fn nonsense_is_refused_with_a_message_that_names_the_field() {
    let pod =
        |fields: &str| format!("{{containers: [{{name: server, command: [server]{fields}}}]}}");
    let seventeen: Vec<_> = (0..17).map(|n| format!("{{name: c{n}, command: [c]}}")).collect();
    let cases = [
        (
            workload("both", "{replicas: 2, replicasPerNode: 1}", PLAIN),
            "placement.replicas: expected replicas over the fleet or replicasPerNode, not both",
        ),
        (
            workload("seventeen", "{}", &format!("{{containers: [{}]}}", seventeen.join(", "))),
            "template.spec.containers: Too many: 17: must have at most 16 items",
        ),
        (
            workload("sidecar", "{}", &pod(", restartPolicy: Always")),
            "template.spec.containers[].restartPolicy: only an init container has one",
        ),
        (
            workload("volumes", "{}", "{volumes: [{name: a, nfs: {server: a, path: /a}}], containers: [{name: a, command: [a]}]}"),
            "template.spec.volumes[].nfs: is not supported on edge nodes",
        ),
        (
            workload("pid", "{}", "{hostPID: true, containers: [{name: a, command: [a]}]}"),
            "template.spec.hostPID: is not supported on edge nodes",
        ),
        (
            workload("masked", "{}", &pod(", securityContext: {procMount: Unmasked}")),
            "template.spec.containers[].securityContext.procMount: is not supported on edge nodes",
        ),
        (
            workload("bears", "{tolerations: [{operator: Exists, value: x}]}", PLAIN),
            "value: expected no value with operator Exists",
        ),
        (workload("many", "{replicasPerNode: 257}", PLAIN), "should be less than or equal to 256"),
        (
            workload("results", "{}", PLAIN) + "  results: [{topic: a, thinning: {everyNth: 2, latestEverySeconds: 3}}]\n",
            "thinning: expected exactly one of latestEverySeconds, everyNth and deadband",
        ),
        (
            "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {name: a}\nspec: {link: {bytesPerDay: lots}}\n".to_owned(),
            "spec.link.bytesPerDay",
        ),
        (
            workload("members", "{clusterSelector: {}, replicasPerNode: 2}", PLAIN),
            "placement.replicasPerNode: a member cluster places pods itself: expected replicas",
        ),
        (
            workload("waves", "{}", PLAIN) + "  rollout: {waves: [120%]}\n",
            "spec.rollout.waves[0]",
        ),
        (
            cluster_with_spec("{}"),
            "spec: expected exactly one of kubeconfigSecretRef and clusterRef",
        ),
        (
            cluster_with_spec("{kubeconfigSecretRef: {name: a}, clusterRef: {name: a, namespace: b}}"),
            "spec: expected exactly one of kubeconfigSecretRef and clusterRef",
        ),
    ];
    for (manifest, words) in cases {
        let refusal = cluster().apply(&manifest).expect_err(words).to_string();
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn a_network_of_its_own_and_ports_of_the_node_are_taken() {
    let ports = "[{containerPort: 80, hostPort: 8080, hostIP: 10.0.0.7}]";
    let pod = format!(
        "{{hostNetwork: false, dnsPolicy: Default, containers: [{{name: a, command: [a], ports: {ports}}}]}}"
    );
    cluster().apply(&workload("network", "{}", &pod)).unwrap();
}

#[test]
fn several_containers_and_sidecars_are_taken() {
    let spec = "{initContainers: [{name: proxy, image: a, restartPolicy: Always}, {name: fetch, image: a}], \
                containers: [{name: server, image: a}, {name: worker, image: a}]}";
    cluster().apply(&workload("several", "{}", spec)).unwrap();
}

#[test]
fn a_field_that_the_template_knows_is_kept_whole() {
    let cluster = cluster();
    let probed =
        "{containers: [{name: server, command: [server], readinessProbe: {grpc: {port: 5}}}]}";
    cluster.apply(&workload("probed", "{}", probed)).unwrap();
    let stored = cluster.get(&["iw", "probed"]).unwrap();
    let probe = stored.pointer("/spec/template/spec/containers/0/readinessProbe/grpc/port");
    assert_eq!(probe.and_then(serde_json::Value::as_u64), Some(5), "{stored}");
}

#[test]
fn what_is_left_out_has_its_default_and_replicas_can_be_scaled() {
    let cluster = cluster();
    cluster.apply(&workload("scaled", "{replicas: 2}", PLAIN)).unwrap();
    cluster.kubectl(&["scale", "iw/scaled", "--replicas=5"]).unwrap();
    let stored = cluster.get(&["iw", "scaled"]).unwrap();
    assert_eq!(stored["spec"]["placement"]["replicas"], 5, "{stored}");
    assert_eq!(stored["spec"]["priority"], 0, "{stored}");
}

#[test]
fn kubectl_lists_and_explains_them() {
    let cluster = cluster();
    cluster.apply(&workload("listed", "{}", PLAIN)).unwrap();
    let listed = cluster.kubectl(&["get", "iw,en,ec", "-A", "-o", "wide"]).unwrap();
    for column in ["DESIRED", "ASSIGNED", "READY", "UPDATED", "STATUS", "WHY"] {
        assert!(listed.contains(column), "{listed}");
    }
    assert!(cluster.kubectl(&["get", "hinterland", "-A"]).unwrap().contains("listed"));
    for (field, words) in [
        ("iw.spec.placement.replicas", "So many pods over the fleet"),
        (
            "iw.spec.template.spec.containers.resources",
            "Compute Resources required by this container",
        ),
        ("en.spec.link.bytesPerDay", "Bytes of any 24 hours"),
        ("iw.status.unchosen", "Why nodes were not chosen"),
        ("iw.spec.rollout.waves", "How many nodes have the new template after each wave"),
        ("ec.spec.clusterRef", "A `Cluster` of Cluster API"),
    ] {
        let explained = cluster.kubectl(&["explain", field]).unwrap();
        let explained: Vec<&str> = explained.split_whitespace().collect();
        assert!(explained.join(" ").contains(words), "{field}: {explained:?}");
    }
}
