//! Objects in, desired state and statuses out.

mod deletion;
mod regression;

use super::*;
use crate::core::{HubCore, HubKeys, NodeRecord, StoredState};
use crate::members::{MemberFacts, MemberReport, MemberWorkload};
use serde_json::{Value, json};
use shared::model::{ClockQuality, MonotonicMs, NodeId, Now, UnixMs, WorkloadKey};
use shared::trust::session::{SessionPrivateKey, SessionPublicKey};
use shared::trust::signature::SigningKey;
use std::collections::{BTreeMap, BTreeSet};

mod attached;

const NOW: UnixMs = UnixMs(1_764_000_000_000);

fn core() -> HubCore {
    core_with(StoredState::default())
}

fn core_with(stored: StoredState) -> HubCore {
    let keys = HubKeys {
        session: SessionPrivateKey::generate([1; 32]),
        signing: SigningKey::generate([2; 32]),
    };
    let now = Now { monotonic: MonotonicMs(0), wall: NOW, quality: ClockQuality::Synchronised };
    HubCore::new(keys, [3; 32], stored, now)
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    let namespace = if kind == Kind::Workload { "default" } else { "" };
    ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

fn object(kind: Kind, name: &str, generation: i64, spec: Value) -> Object {
    let (labels, annotations) = (BTreeMap::new(), BTreeMap::new());
    let uid = format!("{kind:?}-{name}");
    Object {
        key: key(kind, name),
        uid,
        generation,
        revision: 0,
        labels,
        annotations,
        deletion: None,
        is_held: false,
        spec,
        status: Value::Null,
    }
}

fn workload(name: &str, generation: i64, command: &str) -> Object {
    let containers = json!([{ "name": "server", "command": [command] }]);
    object(
        Kind::Workload,
        name,
        generation,
        json!({ "template": { "spec": { "containers": containers } } }),
    )
}

fn put(reconciler: &mut Reconciler, object: Object) {
    reconciler.handle(Change::Put(Box::new(object)));
}

/// A reconciler that knows that there is one workload, `ocr`, and no node.
fn listed() -> Reconciler {
    let mut reconciler = Reconciler::default();
    put(&mut reconciler, workload("ocr", 1, "first"));
    reconciler.handle(Change::Listed(Kind::Workload, [key(Kind::Workload, "ocr")].into()));
    reconciler.handle(Change::Listed(Kind::Node, BTreeSet::new()));
    reconciler.handle(Change::Listed(Kind::Cluster, BTreeSet::new()));
    reconciler
}

fn commands(reconciler: &mut Reconciler) -> Option<Vec<String>> {
    let (manifests, _) = reconciler.take_manifests()?;
    let command =
        |w: &crate::manifests::InferenceWorkload| w.template.spec.containers[0].command[0].clone();
    Some(manifests.workloads.values().map(command).collect())
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
}

#[test]
fn nothing_is_desired_before_every_object_is_known() {
    let mut reconciler = Reconciler::default();
    put(&mut reconciler, workload("ocr", 1, "first"));
    reconciler.handle(Change::Listed(Kind::Workload, [key(Kind::Workload, "ocr")].into()));
    assert_eq!(reconciler.take_manifests(), None);
    reconciler.handle(Change::Listed(Kind::Node, BTreeSet::new()));
    reconciler.handle(Change::Listed(Kind::Cluster, BTreeSet::new()));
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned()]));
    assert_eq!(reconciler.take_manifests(), None, "nothing has changed since");
}

#[test]
fn a_change_that_is_refused_leaves_the_earlier_in_force_and_says_where_it_is_wrong() {
    let mut reconciler = listed();
    reconciler.take_manifests();
    let mut wrong = workload("ocr", 2, "second");
    wrong.spec["template"]["spec"]["containers"][0]["readinessProbe"] =
        json!({ "grpc": { "port": 70_000 } });
    put(&mut reconciler, wrong);
    put(&mut reconciler, workload("other", 1, "other"));
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned(), "other".to_owned()]));
    let statuses = reconciler.take_statuses(&core(), NOW);
    let of_ocr = &statuses.iter().find(|patch| patch.key.name == "ocr").unwrap().status;
    let accepted = condition(of_ocr, "Accepted");
    assert_eq!(
        (&accepted["status"], &accepted["observedGeneration"]),
        (&json!("False"), &json!(2))
    );
    let message = accepted["message"].as_str().unwrap();
    assert!(message.starts_with("spec.template.spec.containers[0].readinessProbe"), "{message}");
    put(&mut reconciler, workload("ocr", 3, "third"));
    assert_eq!(commands(&mut reconciler), Some(vec!["third".to_owned(), "other".to_owned()]));
}

#[test]
fn a_status_is_written_once_and_its_time_is_of_the_transition() {
    let (mut reconciler, core) = (listed(), core());
    reconciler.take_manifests();
    let first = reconciler.take_statuses(&core, NOW);
    assert_eq!(first.len(), 1);
    let later = UnixMs(NOW.0 + 60_000);
    assert_eq!(reconciler.take_statuses(&core, later), [], "it is on its way");
    // It was, and the watch shows it as it was stored.
    reconciler.handle(Change::Written(key(Kind::Workload, "ocr")));
    let stored = |status: &Value| Object { status: status.clone(), ..workload("ocr", 1, "first") };
    put(&mut reconciler, stored(&first[0].status));
    assert_eq!(reconciler.take_statuses(&core, later), []);
    put(&mut reconciler, stored(&first[0].status));
    assert_eq!(reconciler.take_manifests(), None, "a status is no change");
    // Somebody has made something else of it: it is put right, and says since when.
    put(
        &mut reconciler,
        stored(&json!({ "conditions": first[0].status["conditions"], "ready": 7 })),
    );
    assert_eq!(reconciler.take_statuses(&core, later), first);
    reconciler.handle(Change::NotWritten(key(Kind::Workload, "ocr"), None));
    assert_eq!(reconciler.take_statuses(&core, later), first, "it was not written");
}

#[test]
fn a_start_that_would_stop_pods_of_a_workload_that_is_refused_waits_until_it_is_mended() {
    let wrong = |status: Value| {
        let mut wrong = workload("ocr", 2, "second");
        wrong.spec["template"]["spec"]["hostPID"] = json!(true);
        Object { status, ..wrong }
    };
    let listed = |object: Object| {
        let mut reconciler = Reconciler::default();
        put(&mut reconciler, object);
        reconciler.handle(Change::Listed(Kind::Workload, [key(Kind::Workload, "ocr")].into()));
        reconciler.handle(Change::Listed(Kind::Node, BTreeSet::new()));
        reconciler.handle(Change::Listed(Kind::Cluster, BTreeSet::new()));
        reconciler
    };
    let mut never_ran = listed(wrong(json!({ "assigned": 0 })));
    assert_eq!(commands(&mut never_ran), Some(vec![]));

    let ran = json!({ "assigned": 3, "conditions": [{ "type": "Ready", "status": "True" }] });
    let mut reconciler = listed(wrong(ran));
    assert_eq!(commands(&mut reconciler), None);
    assert!(reconciler.problems()[0].contains("InferenceWorkload default/ocr: is refused"));
    // It says why, and what it says of pods stays: the next start reads it as well.
    let status = &reconciler.take_statuses(&core(), NOW)[0].status;
    assert_eq!(condition(status, "Accepted")["status"], "False");
    assert_eq!(
        (&condition(status, "Ready")["status"], &status["assigned"]),
        (&json!("True"), &json!(3))
    );
    put(&mut reconciler, workload("ocr", 3, "third"));
    assert_eq!(commands(&mut reconciler), Some(vec!["third".to_owned()]));
    assert!(reconciler.problems().is_empty());
}

#[test]
fn a_start_that_finds_what_ran_refused_goes_on_with_what_the_last_start_accepted() {
    let mut before = listed();
    let earlier: Vec<_> = before.take_manifests().unwrap().0.workloads.into_values().collect();
    let after = |status: Value| {
        let mut reconciler = Reconciler::new(earlier.clone(), SeenState::default());
        let mut wrong = workload("ocr", 2, "second");
        wrong.spec["template"]["spec"]["hostPID"] = json!(true);
        put(&mut reconciler, Object { status, ..wrong });
        put(&mut reconciler, workload("other", 1, "other"));
        let all = ["ocr", "other"].map(|name| key(Kind::Workload, name));
        reconciler.handle(Change::Listed(Kind::Workload, all.into()));
        reconciler.handle(Change::Listed(Kind::Node, BTreeSet::new()));
        reconciler.handle(Change::Listed(Kind::Cluster, BTreeSet::new()));
        reconciler
    };
    let mut reconciler = after(json!({ "assigned": 1 }));
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned(), "other".to_owned()]));
    let statuses = reconciler.take_statuses(&core(), NOW);
    let of_ocr = &statuses.iter().find(|patch| patch.key.name == "ocr").unwrap().status;
    assert_eq!(condition(of_ocr, "Accepted")["status"], "False");
    // One that never ran is another of the same name.
    assert_eq!(commands(&mut after(json!({}))), Some(vec!["other".to_owned()]));
}

#[test]
fn what_is_gone_is_gone_also_where_nobody_saw_it_go() {
    let mut reconciler = listed();
    put(&mut reconciler, workload("other", 1, "other"));
    put(&mut reconciler, object(Kind::Node, "mast-17", 1, json!({})));
    let manifests = reconciler.take_manifests().unwrap().0;
    assert_eq!((manifests.workloads.len(), manifests.nodes.len()), (2, 1));
    reconciler.handle(Change::Removed(key(Kind::Node, "mast-17")));
    // The watch had broken off, and what is listed anew lacks one.
    reconciler.handle(Change::Listed(Kind::Workload, [key(Kind::Workload, "ocr")].into()));
    let manifests = reconciler.take_manifests().unwrap().0;
    assert_eq!((manifests.workloads.len(), manifests.nodes.len()), (1, 0));
    assert_eq!(reconciler.take_statuses(&core(), NOW).len(), 1);
}

#[test]
fn a_node_that_nobody_enrolled_and_one_that_is_wrong_say_so() {
    let mut reconciler = listed();
    put(
        &mut reconciler,
        object(Kind::Node, "mast-17", 1, json!({ "link": { "bytesPerDay": "1k" } })),
    );
    let statuses = reconciler.take_statuses(&core(), NOW);
    let of_node = &statuses.iter().find(|patch| patch.key.kind == Kind::Node).unwrap().status;
    assert_eq!(condition(of_node, "Ready")["reason"], "NotEnrolled");
    let message = condition(of_node, "Accepted")["message"].as_str().unwrap();
    assert!(message.starts_with("spec.link.bytesPerDay: "), "{message}");
}

#[test]
fn a_node_says_that_it_is_cordoned_or_drained_as_long_as_it_is() {
    let mut reconciler = listed();
    let mut reason_of = |generation: i64, spec: Value| {
        put(&mut reconciler, object(Kind::Node, "mast-17", generation, spec));
        let status = status_of(&mut reconciler, Kind::Node, "mast-17");
        let conditions = status["conditions"].as_array().unwrap().clone();
        let found = conditions.into_iter().find(|c| c["type"] == "SchedulingDisabled");
        found.map(|condition| (condition["status"].clone(), condition["reason"].clone()))
    };
    let is = |reason: &str| Some((json!("True"), json!(reason)));
    assert_eq!(reason_of(1, json!({})), None);
    assert_eq!(reason_of(2, json!({ "unschedulable": true })), is("Cordoned"));
    let drain = json!([{ "key": "hinterland.dev/drain", "effect": "NoExecute" }]);
    let drained = reason_of(3, json!({ "unschedulable": true, "taints": drain }));
    assert_eq!(drained, is("Drained"), "nobody is enrolled by this name");
    assert_eq!(reason_of(4, json!({})), None);
}

/// A core that knows `mast-17` from an earlier start, and has heard nothing of it in this one.
fn core_with_a_node() -> HubCore {
    let mut record = NodeRecord::new(SessionPublicKey([1; 32]), "1".to_owned(), NOW);
    record.last_seen = Some(NOW);
    let nodes = BTreeMap::from([(NodeId::new("mast-17").unwrap(), record)]);
    core_with(StoredState { nodes, ..StoredState::default() })
}

fn in_session(spec: Value) -> Object {
    let conditions = json!([
        { "type": "Ready", "status": "True", "reason": "Online", "message": "in session",
          "lastTransitionTime": "2025-11-24T00:00:00Z", "observedGeneration": 1 },
        { "type": "Accepted", "status": "True", "reason": "Valid", "message": "",
          "lastTransitionTime": "2025-11-24T00:00:00Z", "observedGeneration": 1 },
    ]);
    let status = json!({ "conditions": conditions, "pods": { "total": 2 } });
    Object { status, ..object(Kind::Node, "mast-17", 1, spec) }
}

#[test]
fn a_hub_that_starts_says_of_no_node_that_it_is_offline_before_it_could_be_back() {
    let (mut reconciler, core) = (listed(), core_with_a_node());
    put(&mut reconciler, in_session(json!({})));
    reconciler.take_manifests();
    let of_nodes = |patches: Vec<StatusPatch>| {
        patches.into_iter().filter(|patch| patch.key.kind == Kind::Node).collect::<Vec<_>>()
    };
    assert_eq!(of_nodes(reconciler.take_statuses(&core, NOW)), []);
    let wait_ms = reconciler.wait_ms(NOW).unwrap();
    let statuses = of_nodes(reconciler.take_statuses(&core, UnixMs(NOW.0 + wait_ms)));
    assert_eq!(condition(&statuses[0].status, "Ready")["reason"], "Offline");

    // What is wrong with what is written is said all the same.
    let mut reconciler = listed();
    put(&mut reconciler, in_session(json!({ "link": { "bytesPerDay": "1k" } })));
    reconciler.take_manifests();
    let status = &of_nodes(reconciler.take_statuses(&core, NOW))[0].status;
    assert_eq!(condition(status, "Accepted")["status"], "False");
    assert_eq!(condition(status, "Ready")["reason"], "Online");
    assert_eq!(status["conditions"][0]["type"], "Ready", "in their order");
    assert_eq!(status["pods"]["total"], 2);
}

#[test]
fn one_that_goes_while_the_hub_runs_is_said_to_be_offline_a_moment_later() {
    let (mut reconciler, core) = (listed(), core_with_a_node());
    put(&mut reconciler, in_session(json!({})));
    reconciler.take_manifests();
    reconciler.take_statuses(&core, NOW);
    reconciler.touch_node(&NodeId::new("mast-17").unwrap());
    assert_eq!(reconciler.take_statuses(&core, NOW), []);
    let later = UnixMs(NOW.0 + reconciler.wait_ms(NOW).unwrap());
    assert_eq!(later, UnixMs(NOW.0 + 1_000));
    let status = &reconciler.take_statuses(&core, later)[0].status;
    assert_eq!(condition(status, "Ready")["reason"], "Offline");
}

fn cluster_object(name: &str, tier: &str) -> Object {
    let spec = json!({ "kubeconfigSecretRef": { "name": name } });
    let labels = BTreeMap::from([("tier".to_owned(), tier.to_owned())]);
    Object { labels, ..object(Kind::Cluster, name, 1, spec) }
}

fn report(cluster: &str, workload: MemberWorkload) -> Change {
    let key = WorkloadKey::new("default", "ocr").unwrap();
    let facts = Ok(MemberFacts { version: "v1.36.3+k3s1".to_owned(), nodes: 3, gpus: 2 });
    let workloads = [(key, workload)].into();
    Change::Member(Box::new(MemberReport { cluster: cluster.to_owned(), facts, workloads }))
}

fn away(cluster: &str) -> Change {
    let facts = Err(("Unreachable".to_owned(), "no answer".to_owned()));
    let workloads = BTreeMap::new();
    Change::Member(Box::new(MemberReport { cluster: cluster.to_owned(), facts, workloads }))
}

/// The newest status of an object, written or not.
fn status_of(reconciler: &mut Reconciler, kind: Kind, name: &str) -> Value {
    reconciler.handle(Change::NotWritten(key(kind, name), None));
    let statuses = reconciler.take_statuses(&core(), NOW);
    statuses.into_iter().find(|patch| patch.key.name == name).unwrap().status
}

#[test]
fn a_workload_in_members_counts_them_and_one_that_is_away_is_not_dead() {
    let mut reconciler = Reconciler::default();
    let mut workload = workload("ocr", 1, "first");
    workload.spec["placement"] = json!({ "clusterSelector": { "tier": "gpu" }, "replicas": 2 });
    workload.spec["template"]["spec"]["containers"][0]["image"] = json!("a");
    put(&mut reconciler, workload);
    for (name, tier) in [("a", "gpu"), ("b", "gpu"), ("c", "cpu")] {
        put(&mut reconciler, cluster_object(name, tier));
    }
    let all = |kind, names: &[&str]| {
        Change::Listed(kind, names.iter().map(|name| key(kind, name)).collect())
    };
    reconciler.handle(all(Kind::Workload, &["ocr"]));
    reconciler.handle(all(Kind::Node, &[]));
    assert!(reconciler.take_manifests().is_none(), "the clusters are not all known");
    assert!(reconciler.members().is_none());
    reconciler.handle(all(Kind::Cluster, &["a", "b", "c"]));
    reconciler.take_manifests().unwrap();
    let members = reconciler.members().unwrap();
    let selected: Vec<usize> = members.values().map(|(_, workloads)| workloads.len()).collect();
    assert_eq!(selected, [1, 1, 0]);

    let good = MemberWorkload { wanted: 2, ready: 2, updated: 2, problem: None };
    reconciler.handle(report("a", good.clone()));
    reconciler.handle(report("b", MemberWorkload { ready: 1, ..good.clone() }));
    let status = status_of(&mut reconciler, Kind::Workload, "ocr");
    assert_eq!(condition(&status, "Ready")["reason"], "Progressing");
    let numbers = ["desired", "assigned", "ready", "updated"].map(|name| status[name].clone());
    assert_eq!(numbers, [4, 4, 3, 4].map(|number| json!(number)));
    reconciler.handle(away("b"));
    let status = status_of(&mut reconciler, Kind::Workload, "ocr");
    assert_eq!(condition(&status, "Ready")["reason"], "ClustersUnreachable");
    assert_eq!(status["clusters"], json!({ "selected": 2, "ready": 1, "unreachable": 1 }));
    assert_eq!(status["ready"], 3, "it has what it had");
    let status = status_of(&mut reconciler, Kind::Cluster, "b");
    let ready = condition(&status, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("Unreachable")));
    let problem = Some("Deployment ocr: no".to_owned());
    reconciler.handle(report("b", MemberWorkload { problem, ..good }));
    let status = status_of(&mut reconciler, Kind::Workload, "ocr");
    let message = condition(&status, "Ready")["message"].as_str().unwrap();
    assert_eq!(message, "ready in 1 of 2 member clusters: b: Deployment ocr: no");
    let status = status_of(&mut reconciler, Kind::Cluster, "b");
    assert_eq!(condition(&status, "Ready")["reason"], "NotApplied");
    assert_eq!((&status["nodes"], &status["version"]), (&json!(3), &json!("v1.36.3+k3s1")));
}
