//! Spread, stability and reasons.

use super::*;
use crate::manifests::{Replicas, parse_documents};
use proptest::prelude::*;
use std::collections::BTreeSet;

mod affinity;
mod parameters;
mod rollouts;

/// What runs where while every workload has one template.
fn assign_all(manifests: &Manifests, nodes: &Nodes) -> Assignment {
    assign(manifests, nodes, &OlderTemplates::new())
}

type Nodes = BTreeMap<NodeId, FleetNode>;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn key(name: &str) -> WorkloadKey {
    WorkloadKey::new("default", name).unwrap()
}

/// `count` nodes without a manifest, in session.
fn online(count: usize) -> Nodes {
    let node = FleetNode { online: true, ..FleetNode::default() };
    (0..count).map(|index| (id(&format!("n{index:05}")), node.clone())).collect()
}

fn document(kind: &str, name: &str, rest: &str) -> String {
    format!("apiVersion: hinterland.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n{rest}")
}

fn workload(name: &str, placement: &str) -> String {
    let template = "template: {spec: {containers: [{name: c, command: [c]}]}}";
    document("InferenceWorkload", name, &format!("spec:\n  placement: {placement}\n  {template}\n"))
}

fn manifests(documents: &[String]) -> Manifests {
    parse_documents("test.yaml", &documents.join("---\n")).unwrap()
}

fn held(assignment: &Assignment, node: &NodeId, workload: &WorkloadKey) -> u32 {
    let node = assignment.per_node.get(node);
    node.and_then(|node| node.get(workload)).map_or(0, |told| told.replicas)
}

/// Pods of `workload` on each node, in the order of the nodes.
fn spread(assignment: &Assignment, nodes: &Nodes, workload: &str) -> Vec<u32> {
    nodes.keys().map(|node| held(assignment, node, &key(workload))).collect()
}

/// The nodes after they have taken `assignment` over.
fn settled(nodes: &Nodes, assignment: &Assignment) -> Nodes {
    let mut nodes = nodes.clone();
    for (id, node) in &mut nodes {
        let told = assignment.per_node.get(id).into_iter().flatten();
        node.previous = told.map(|(key, told)| (key.clone(), told.replicas)).collect();
    }
    nodes
}

fn reasons(assignment: &Assignment, workload: &str) -> Vec<(String, u32)> {
    assignment.workloads[&key(workload)].reasons.clone()
}

#[test]
fn each_selected_node_gets_its_replicas_and_the_others_have_a_reason() {
    let site = |name: &str, zone: &str| {
        document("EdgeNode", name, &format!("  labels: {{zone: {zone}}}\n"))
    };
    let placement = "{replicasPerNode: 2, nodeSelector: {zone: north}}";
    let manifests = manifests(&[
        workload("ocr", placement),
        site("n00000", "north"),
        site("n00001", "south"),
        site("unknown", "north"),
    ]);
    let nodes = online(3);
    let assignment = assign_all(&manifests, &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [2, 0, 0]);
    let summary = &assignment.workloads[&key("ocr")];
    assert_eq!((summary.desired, summary.assigned), (2, 2));
    let reason = "node selector does not match: no label `zone=north`";
    assert_eq!(summary.reasons, [(reason.to_owned(), 2)]);
}

#[test]
fn every_node_can_be_selected_by_its_name() {
    let selector = "{nodeSelector: {kubernetes.io/hostname: n00001}}";
    let nodes = online(3);
    let assignment = assign_all(&manifests(&[workload("ocr", selector)]), &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [0, 1, 0]);
}

#[test]
fn a_taint_keeps_new_pods_away_and_leaves_what_is_there() {
    let taint = |name: &str, effect: &str| {
        document("EdgeNode", name, &format!("spec: {{taints: [{{key: k, effect: {effect}}}]}}\n"))
    };
    let taints = [taint("n00000", "NoSchedule"), taint("n00001", "NoExecute")];
    let tolerant = "{replicasPerNode: 1, tolerations: [{key: k, operator: Exists}]}";
    let workloads = [workload("ocr", "{replicasPerNode: 2}"), workload("tough", tolerant)];
    let manifests = manifests(&[workloads.as_slice(), taints.as_slice()].concat());
    let mut nodes = online(3);
    let fresh = assign_all(&manifests, &nodes);
    assert_eq!(spread(&fresh, &nodes, "ocr"), [0, 0, 2]);
    assert_eq!(spread(&fresh, &nodes, "tough"), [1, 1, 1]);
    for node in nodes.values_mut() {
        node.previous = BTreeMap::from([(key("ocr"), 1)]);
    }
    let later = assign_all(&manifests, &nodes);
    assert_eq!(
        spread(&later, &nodes, "ocr"),
        [1, 0, 2],
        "one stays, none is added, one is evicted"
    );
    assert_eq!(reasons(&later, "ocr"), [("taint `k:NoExecute` is not tolerated".to_owned(), 1)]);
}

#[test]
fn a_cordoned_node_keeps_and_updates_what_it_has_and_gets_nothing_new() {
    let cordon = document("EdgeNode", "n00000", "spec: {unschedulable: true}\n");
    // Not even what bears every taint.
    let per_node = "{replicasPerNode: 2, tolerations: [{operator: Exists}]}";
    let written = |command: &str| {
        let workloads = [workload("ocr", "{replicas: 3}"), workload("log", per_node)];
        let workloads = workloads.map(|text| text.replace("[c]", command));
        manifests(&[workloads.as_slice(), std::slice::from_ref(&cordon)].concat())
    };
    let mut nodes = online(2);
    let fresh = assign_all(&written("[c]"), &nodes);
    assert_eq!(spread(&fresh, &nodes, "ocr"), [0, 3]);
    assert_eq!(spread(&fresh, &nodes, "log"), [0, 2]);
    let cordoned = "cordoned: nothing new comes there".to_owned();
    assert_eq!(reasons(&fresh, "log"), [(cordoned, 1)]);
    let holds = BTreeMap::from([(key("ocr"), 1), (key("log"), 1)]);
    nodes.get_mut(&id("n00000")).unwrap().previous = holds;
    let later = assign_all(&written("[d]"), &nodes);
    assert_eq!(spread(&later, &nodes, "ocr"), [1, 2]);
    assert_eq!(spread(&later, &nodes, "log"), [1, 2]);
    let told = &later.per_node[&id("n00000")][&key("ocr")];
    assert_eq!(told.template.spec.containers[0].command, ["d"]);
}

#[test]
fn a_drained_node_loses_all_but_what_bears_that_and_its_replicas_go_elsewhere() {
    let taint = "{key: hinterland.dev/drain, effect: NoExecute}";
    let drain = format!("spec: {{unschedulable: true, taints: [{taint}]}}\n");
    let bears = "{tolerations: [{key: hinterland.dev/drain, operator: Exists}]}";
    let manifests = manifests(&[
        document("EdgeNode", "n00000", &drain),
        workload("ocr", "{replicas: 3}"),
        workload("log", "{}"),
        workload("base", bears),
    ]);
    let mut nodes = online(2);
    for node in nodes.values_mut() {
        node.previous = ["ocr", "log", "base"].map(|name| (key(name), 1)).into();
    }
    nodes.get_mut(&id("n00000")).unwrap().online = false;
    let assignment = assign_all(&manifests, &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [0, 3]);
    assert_eq!(spread(&assignment, &nodes, "log"), [0, 1]);
    assert_eq!(spread(&assignment, &nodes, "base"), [1, 1]);
}

#[test]
fn fleet_replicas_go_to_the_emptiest_nodes_that_are_online() {
    let mut nodes = online(4);
    nodes.get_mut(&id("n00000")).unwrap().online = false;
    let assignment = assign_all(&manifests(&[workload("ocr", "{replicas: 5}")]), &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [0, 2, 2, 1]);
    let not_needed = "not needed: other nodes hold all replicas".to_owned();
    assert_eq!(reasons(&assignment, "ocr"), [(not_needed, 1)]);
}

#[test]
fn nodes_that_are_offline_are_given_replicas_when_nobody_is_online() {
    let nodes: Nodes = online(2).into_keys().map(|id| (id, FleetNode::default())).collect();
    let assignment = assign_all(&manifests(&[workload("ocr", "{replicas: 2}")]), &nodes);
    assert_eq!(spread(&assignment, &nodes, "ocr"), [1, 1]);
}

#[test]
fn single_replicas_of_many_workloads_do_not_crowd_one_node() {
    let single = |name: &str| workload(name, "{replicas: 1}");
    let nodes = online(3);
    let assignment = assign_all(&manifests(&[single("a"), single("b"), single("c")]), &nodes);
    assert!(assignment.per_node.values().all(|node| node.len() == 1));
    assert_eq!(assignment.per_node.len(), 3);
}

#[test]
fn fewer_replicas_leave_the_fullest_first_and_the_offline_among_equals() {
    let mut nodes = online(3);
    for (node, pods) in nodes.values_mut().zip([3, 1, 1]) {
        node.previous = BTreeMap::from([(key("ocr"), pods)]);
    }
    nodes.get_mut(&id("n00001")).unwrap().online = false;
    let wanting = |count: u32| {
        let manifests = manifests(&[workload("ocr", &format!("{{replicas: {count}}}"))]);
        spread(&assign_all(&manifests, &nodes), &nodes, "ocr")
    };
    assert_eq!(wanting(5), [3, 1, 1]);
    assert_eq!(wanting(3), [1, 1, 1]);
    assert_eq!(wanting(2), [1, 0, 1]);
    assert_eq!(wanting(0), [0, 0, 0]);
}

#[test]
fn more_replicas_than_the_fleet_may_hold_are_left_unassigned_with_the_reason() {
    let nodes = online(2);
    let assignment = assign_all(&manifests(&[workload("ocr", "{replicas: 1000}")]), &nodes);
    let summary = &assignment.workloads[&key("ocr")];
    assert_eq!((summary.desired, summary.assigned), (1000, 512));
    let five: Vec<_> =
        (0..5).map(|n| workload(&format!("w{n}"), "{replicasPerNode: 256}")).collect();
    let assignment = assign_all(&manifests(&five), &online(1));
    let assigned = assignment.workloads.values().map(|summary| summary.assigned);
    assert_eq!(assigned.collect::<Vec<_>>(), [256, 256, 256, 256, 0]);
    let full = "as many pods or bytes as one node can be assigned".to_owned();
    assert_eq!(reasons(&assignment, "w4"), [(full, 1)]);
}

#[test]
fn a_node_is_never_told_more_than_fits_one_update() {
    let large = |n: usize| {
        let spec = format!(
            "spec: {{priority: {n}, template: {{spec: {{containers: [{{name: c, command: [{}]}}]}}}}}}\n",
            "x".repeat(200_000)
        );
        document("InferenceWorkload", &format!("w{n:02}"), &spec)
    };
    let documents: Vec<_> = (0..20).map(large).collect();
    let assignment = assign_all(&manifests(&documents), &online(1));
    let told = &assignment.per_node[&id("n00000")];
    let bytes: usize = told.values().map(|told| encode_len(told)).sum();
    assert!(bytes <= NODE_BYTES_MAX && bytes > NODE_BYTES_MAX - 250_000, "{bytes}");
    assert!(told.contains_key(&key("w19")) && !told.contains_key(&key("w00")), "by priority");
}

fn encode_len(told: &Workload) -> usize {
    shared::wire::encode("workload", told).unwrap().len()
}

#[test]
fn many_reasons_are_cut_short_without_losing_count() {
    let site = |n: usize| {
        let taint = format!("spec: {{taints: [{{key: k{n}, effect: NoSchedule}}]}}\n");
        document("EdgeNode", &format!("n{n:05}"), &taint)
    };
    let mut documents: Vec<_> = (0..20).map(site).collect();
    documents.push(workload("ocr", "{}"));
    let assignment = assign_all(&manifests(&documents), &online(20));
    let reasons = reasons(&assignment, "ocr");
    assert_eq!(reasons.len(), REASONS_MAX);
    assert_eq!(reasons.iter().map(|(_, nodes)| nodes).sum::<u32>(), 20);
}

#[test]
fn ten_thousand_nodes_and_a_hundred_workloads_are_decided_in_one_go() {
    let mut documents: Vec<_> = (0..50).map(|n| workload(&format!("p{n}"), "{}")).collect();
    documents.extend((0..50).map(|n| workload(&format!("f{n}"), "{replicas: 2000}")));
    let (manifests, nodes) = (manifests(&documents), online(10_000));
    let first = assign_all(&manifests, &nodes);
    let nodes = settled(&nodes, &first);
    let second = assign_all(&manifests, &nodes);
    assert_eq!(first, second);
    let entries = first.per_node.values().map(BTreeMap::len).sum::<usize>();
    assert_eq!(entries, 50 * 10_000 + 50 * 2000);
    let pods = first.per_node.values().flat_map(BTreeMap::values).map(|told| told.replicas);
    let told = first.per_node.values().flat_map(BTreeMap::values);
    let distinct = told.map(Arc::as_ptr).collect::<BTreeSet<_>>().len();
    assert_eq!((pods.sum::<u32>(), distinct), (600_000, 100), "nodes share what they are told");
}

/// Whether each node is online, its zone, and whether it is tainted.
fn any_nodes() -> impl Strategy<Value = Vec<(bool, bool, bool)>> {
    proptest::collection::vec(any::<(bool, bool, bool)>(), 1..12)
}

/// Replicas over the fleet, and whether only one zone is selected.
fn any_workloads() -> impl Strategy<Value = Vec<(u32, bool)>> {
    proptest::collection::vec((0_u32..30, any::<bool>()), 1..4)
}

fn world(nodes: &[(bool, bool, bool)], workloads: &[(u32, bool)]) -> (Manifests, Nodes) {
    let mut documents = Vec::new();
    let mut fleet = Nodes::new();
    for (index, (online, north, tainted)) in nodes.iter().enumerate() {
        let name = format!("n{index:05}");
        let zone = if *north { "north" } else { "south" };
        let taints = if *tainted { "[{key: k, effect: NoSchedule}]" } else { "[]" };
        let rest = format!("  labels: {{zone: {zone}}}\nspec: {{taints: {taints}}}\n");
        documents.push(document("EdgeNode", &name, &rest));
        fleet.insert(id(&name), FleetNode { online: *online, ..FleetNode::default() });
    }
    for (index, (replicas, north)) in workloads.iter().enumerate() {
        let selector = if *north { ", nodeSelector: {zone: north}" } else { "" };
        let placement = format!("{{replicas: {replicas}{selector}}}");
        documents.push(workload(&format!("w{index}"), &placement));
    }
    (manifests(&documents), fleet)
}

/// Nodes of `world` that `workload` may be given to.
fn eligible(manifests: &Manifests, nodes: &Nodes, workload: &WorkloadKey) -> Vec<NodeId> {
    let selector = &manifests.workloads[workload].node_selector;
    let fits = |id: &&NodeId| {
        let said = &manifests.nodes[*id];
        said.taints.is_empty() && selector.iter().all(|(k, v)| said.labels.get(k) == Some(v))
    };
    nodes.keys().filter(fits).cloned().collect()
}

proptest! {
    #[test]
    fn all_replicas_are_assigned_when_any_node_may_have_them(
        nodes in any_nodes(), workloads in any_workloads()
    ) {
        let (manifests, nodes) = world(&nodes, &workloads);
        let assignment = assign_all(&manifests, &nodes);
        for (key, workload) in &manifests.workloads {
            let Replicas::Fleet(wanted) = workload.replicas else { unreachable!() };
            let possible = !eligible(&manifests, &nodes, key).is_empty();
            let summary = &assignment.workloads[key];
            prop_assert_eq!(summary.assigned, if possible { wanted } else { 0 });
            let total: u32 = nodes.keys().map(|node| held(&assignment, node, key)).sum();
            prop_assert_eq!(summary.assigned, total);
        }
    }

    #[test]
    fn a_fresh_assignment_is_even_within_one(nodes in any_nodes(), workloads in any_workloads()) {
        let (manifests, nodes) = world(&nodes, &workloads);
        let assignment = assign_all(&manifests, &nodes);
        for key in manifests.workloads.keys() {
            let eligible = eligible(&manifests, &nodes, key);
            let online = eligible.iter().filter(|node| nodes[*node].online);
            let online: Vec<u32> = online.map(|node| held(&assignment, node, key)).collect();
            if let (Some(least), Some(most)) = (online.iter().min(), online.iter().max()) {
                prop_assert!(most - least <= 1, "{:?}", online);
                let total: u32 = online.iter().sum();
                prop_assert_eq!(total, assignment.workloads[key].assigned, "none is offline");
            }
        }
    }

    #[test]
    fn an_assignment_gives_itself_whoever_is_offline_meanwhile(
        nodes in any_nodes(), workloads in any_workloads(), later in any::<[bool; 12]>()
    ) {
        let (manifests, nodes) = world(&nodes, &workloads);
        let first = assign_all(&manifests, &nodes);
        let mut nodes = settled(&nodes, &first);
        nodes.values_mut().zip(later).for_each(|(node, online)| node.online = online);
        prop_assert_eq!(assign_all(&manifests, &nodes).per_node, first.per_node);
    }

    #[test]
    fn a_new_node_moves_nothing(nodes in any_nodes(), workloads in any_workloads()) {
        let (manifests, mut nodes) = world(&nodes, &workloads);
        let newest = nodes.pop_last().unwrap();
        let first = assign_all(&manifests, &nodes);
        let settled_nodes = settled(&nodes, &first);
        let mut grown = settled_nodes.clone();
        grown.insert(newest.0, newest.1);
        let second = assign_all(&manifests, &grown);
        for (key, summary) in &first.workloads {
            for node in nodes.keys() {
                let (before, after) = (held(&first, node, key), held(&second, node, key));
                prop_assert_eq!(before, after);
            }
            prop_assert!(second.workloads[key].assigned >= summary.assigned);
        }
    }

    #[test]
    fn a_node_that_is_gone_moves_its_own_replicas_only(
        nodes in any_nodes(), workloads in any_workloads()
    ) {
        let (manifests, nodes) = world(&nodes, &workloads);
        let first = assign_all(&manifests, &nodes);
        let mut fewer = settled(&nodes, &first);
        fewer.pop_last();
        let second = assign_all(&manifests, &fewer);
        for key in manifests.workloads.keys() {
            for node in fewer.keys() {
                prop_assert!(held(&second, node, key) >= held(&first, node, key));
            }
            if !eligible(&manifests, &fewer, key).is_empty() {
                prop_assert_eq!(second.workloads[key].assigned, first.workloads[key].desired);
            }
        }
    }

    #[test]
    fn the_order_in_which_things_are_declared_does_not_matter(
        nodes in any_nodes(), workloads in any_workloads()
    ) {
        let (manifests, nodes) = world(&nodes, &workloads);
        let turned = Manifests {
            workloads: manifests.workloads.clone().into_iter().rev().collect(),
            nodes: manifests.nodes.clone().into_iter().rev().collect(),
            ..Manifests::default()
        };
        let turned_nodes: Nodes = nodes.clone().into_iter().rev().collect();
        prop_assert_eq!(assign_all(&manifests, &nodes), assign_all(&turned, &turned_nodes));
    }
}
