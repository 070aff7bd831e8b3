//! What each node has of its own, and how much of what workloads name a node is told.

use super::*;

fn from(rest: &str) -> String {
    let spec = format!(
        "  parametersFrom: [{{configMapPrefix: camera-, label: hinterland.dev/site{rest}}}]\n"
    );
    workload("ocr", "{}") + &spec
}

fn site(node: &str, site: &str) -> String {
    document("EdgeNode", node, &format!("  labels: {{hinterland.dev/site: {site}}}\n"))
}

fn camera(site: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: camera-{site}}}\ndata: {{CAMERA: {address}}}\n"
    )
}

fn cameras(assignment: &Assignment, nodes: &Nodes) -> Vec<Option<String>> {
    let camera = |node| {
        let told = assignment.per_node.get(node)?.get(&key("ocr"))?;
        told.parameters.get("CAMERA").cloned()
    };
    nodes.keys().map(camera).collect()
}

#[test]
fn each_node_has_the_parameters_of_its_site_and_one_without_them_is_not_chosen() {
    let manifests = manifests(&[
        from(""),
        site("n00000", "north"),
        site("n00001", "south"),
        site("n00002", "west"),
        camera("north", "10.0.0.1"),
        camera("south", "10.0.0.2"),
    ]);
    let nodes = online(4);
    let assignment = assign_all(&manifests, &nodes);
    let addresses = [Some("10.0.0.1"), Some("10.0.0.2"), None, None];
    assert_eq!(cameras(&assignment, &nodes), addresses.map(|a| a.map(str::to_owned)));
    assert_eq!(
        reasons(&assignment, "ocr"),
        [
            ("no label `hinterland.dev/site`, by which its parameters are found".to_owned(), 1),
            ("no ConfigMap `camera-…` for its label `hinterland.dev/site`".to_owned(), 1),
        ]
    );
    // Who has the same is told the same, once.
    let revision = |node: &str| assignment.per_node[&id(node)][&key("ocr")].revision;
    assert_eq!(revision("n00000"), revision("n00001"), "the template is the same");
}

#[test]
fn with_optional_parameters_a_node_is_chosen_all_the_same() {
    let manifests =
        manifests(&[from(", optional: true"), site("n00000", "north"), camera("north", "a")]);
    let nodes = online(2);
    let assignment = assign_all(&manifests, &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [1, 1]);
    assert_eq!(cameras(&assignment, &nodes), [Some("a".to_owned()), None]);
}

#[test]
fn a_node_is_told_no_more_than_fits_with_what_its_workloads_name() {
    let named = |name: &str| {
        let template = format!(
            "  template: {{spec: {{volumes: [{{name: v, configMap: {{name: {name}}}}}], containers: \
             [{{name: c, command: [c], volumeMounts: [{{name: v, mountPath: /v}}]}}]}}}}\n"
        );
        document("InferenceWorkload", name, &format!("spec:\n{template}"))
    };
    let large = |name: &str| {
        let text = "x".repeat(200_000);
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: {text}}}\n"
        )
    };
    let names: Vec<String> = (0..20).map(|index| format!("w{index:02}")).collect();
    let documents: Vec<_> = names.iter().flat_map(|name| [named(name), large(name)]).collect();
    let (manifests, nodes) = (manifests(&documents), online(1));
    let assignment = assign_all(&manifests, &nodes);
    let given: usize = assignment.per_node.values().map(BTreeMap::len).sum();
    // 200 kB fifteen times are 3 MB, and 3 MiB are all that a node is told.
    assert_eq!(given, 15);
    let full = "as many pods or bytes as one node can be assigned";
    assert_eq!(reasons(&assignment, "w19"), [(full.to_owned(), 1)]);
}
