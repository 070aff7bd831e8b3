//! Terms over labels, and replicas that leave nodes which stay offline.

use super::*;

fn labelled(name: &str, labels: &str) -> String {
    document("EdgeNode", name, &format!("  labels: {labels}\n"))
}

/// A workload with the offline policy `policy`, without braces.
fn with_policy(name: &str, placement: &str, policy: &str) -> String {
    format!("{}  offlinePolicy: {{{policy}}}\n", workload(name, placement))
}

#[test]
fn a_node_must_match_one_of_the_terms_and_the_reason_names_what_the_first_lacks() {
    let term = |rest: &str| format!("{{matchExpressions: [{{{rest}}}]}}");
    let terms = [
        term("key: gpu, operator: In, values: [orin, l4]"),
        term("key: ram, operator: Gt, values: ['31']"),
    ];
    let placement = format!("{{affinity: {{required: [{}]}}}}", terms.join(", "));
    let manifests = manifests(&[
        workload("ocr", &placement),
        labelled("n00000", "{gpu: l4}"),
        labelled("n00001", "{gpu: t4, ram: '64'}"),
        labelled("n00002", "{gpu: t4, ram: '31'}"),
        labelled("n00003", "{ram: much}"),
    ]);
    let nodes = online(4);
    let assignment = assign_all(&manifests, &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [1, 1, 0, 0]);
    let reason = "affinity does not match: `gpu In orin, l4`".to_owned();
    assert_eq!(reasons(&assignment, "ocr"), [(reason, 2)]);
}

#[test]
fn operators_decide_as_in_kubernetes_also_where_there_is_no_label() {
    let chosen = |expression: &str| {
        let placement =
            format!("{{affinity: {{required: [{{matchExpressions: [{{{expression}}}]}}]}}}}");
        let manifests = manifests(&[workload("ocr", &placement), labelled("n00000", "{a: '5'}")]);
        let nodes = online(2);
        spread(&assign_all(&manifests, &nodes), &nodes, "ocr")
    };
    for (expression, expected) in [
        ("key: a, operator: In, values: ['5']", [1, 0]),
        ("key: a, operator: NotIn, values: ['5']", [0, 1]),
        ("key: a, operator: Exists", [1, 0]),
        ("key: a, operator: DoesNotExist", [0, 1]),
        ("key: a, operator: Gt, values: ['4']", [1, 0]),
        ("key: a, operator: Lt, values: ['5']", [0, 0]),
        ("key: kubernetes.io/hostname, operator: In, values: [n00001]", [0, 1]),
    ] {
        assert_eq!(chosen(expression), expected, "{expression}");
    }
}

#[test]
fn a_preferred_node_is_first_among_equals_and_nothing_moves_for_it() {
    let preferred = "affinity: {preferred: [{weight: 10, preference: \
                     {matchExpressions: [{key: gpu, operator: Exists}]}}]}";
    let fleet = |replicas: u32| {
        manifests(&[
            workload("ocr", &format!("{{replicas: {replicas}, {preferred}}}")),
            labelled("n00002", "{gpu: l4}"),
        ])
    };
    let nodes = online(3);
    let one = assign_all(&fleet(1), &nodes);
    assert_eq!(spread(&one, &nodes, "ocr"), [0, 0, 1]);
    let four = assign_all(&fleet(4), &nodes);
    assert_eq!(spread(&four, &nodes, "ocr"), [1, 1, 2], "spread comes first");
    let elsewhere = {
        let mut nodes = nodes.clone();
        nodes.get_mut(&id("n00000")).unwrap().previous = BTreeMap::from([(key("ocr"), 1)]);
        nodes
    };
    assert_eq!(spread(&assign_all(&fleet(1), &elsewhere), &nodes, "ocr"), [1, 0, 0]);
    let fewer = assign_all(&fleet(2), &settled(&nodes, &four));
    assert_eq!(spread(&fewer, &nodes, "ocr"), [1, 0, 1], "and it is the last to lose one");
}

const TEN_MINUTES: &str = "reschedule: {afterSeconds: 600}";

/// Two replicas on `n00000`, which has been offline for so long, and `others` in session.
fn one_away(offline_ms: u64, others: usize) -> Nodes {
    let mut nodes = online(1 + others);
    let previous = BTreeMap::from([(key("ocr"), 2)]);
    nodes.insert(id("n00000"), FleetNode { online: false, offline_ms, previous });
    nodes
}

#[test]
fn replicas_leave_a_node_that_stays_offline_and_do_not_return_with_it() {
    let manifests = manifests(&[with_policy("ocr", "{replicas: 2}", TEN_MINUTES)]);
    let early = one_away(599_000, 2);
    let waiting = assign_all(&manifests, &early);
    assert_eq!(spread(&waiting, &early, "ocr"), [2, 0, 0]);
    assert_eq!(waiting.look_again_in_ms, Some(1_000));
    let late = one_away(600_000, 2);
    let moved = assign_all(&manifests, &late);
    assert_eq!(spread(&moved, &late, "ocr"), [0, 1, 1]);
    assert_eq!(moved.look_again_in_ms, None);
    let mut back = settled(&late, &moved);
    back.insert(id("n00000"), FleetNode { online: true, ..FleetNode::default() });
    assert_eq!(spread(&assign_all(&manifests, &back), &back, "ocr"), [0, 1, 1]);
}

#[test]
fn replicas_that_nobody_else_may_have_stay_where_they_are_and_are_looked_at_again() {
    let manifests = manifests(&[with_policy("ocr", "{replicas: 2}", TEN_MINUTES)]);
    let alone = one_away(600_000, 0);
    let kept = assign_all(&manifests, &alone);
    assert_eq!(spread(&kept, &alone, "ocr"), [2]);
    assert!(kept.look_again_in_ms.is_some());
}

#[test]
fn without_the_policy_a_node_may_be_offline_for_ever() {
    let manifests = manifests(&[workload("ocr", "{replicas: 2}")]);
    let nodes = one_away(u64::MAX, 2);
    let assignment = assign_all(&manifests, &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [2, 0, 0]);
    assert_eq!(assignment.look_again_in_ms, None);
}

#[test]
fn only_replicas_over_the_fleet_can_go_elsewhere() {
    let text = with_policy("ocr", "{replicasPerNode: 2}", TEN_MINUTES);
    let problems = parse_documents("a.yaml", &text).unwrap_err().to_string();
    assert!(problems.contains("spec.offlinePolicy.reschedule: only"), "{problems}");
}
