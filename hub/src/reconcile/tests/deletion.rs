//! A workload that is deleted is held until its pods are gone, and not for ever.

use super::*;
use crate::core::tests::reports::reported_pod;
use crate::reconcile::deletion::FinalizerPatch;

/// A core that knows from an earlier start that `mast-17` runs a pod of the workload.
fn core_with_a_pod() -> HubCore {
    let mut record = NodeRecord::new(SessionPublicKey([1; 32]), "1".to_owned(), NOW);
    record.last_seen = Some(NOW);
    let node = NodeId::new("mast-17").unwrap();
    let nodes = BTreeMap::from([(node.clone(), record)]);
    let reported = BTreeMap::from([(node, [reported_pod("default/ocr-0")].into())]);
    core_with(StoredState { nodes, reported, ..StoredState::default() })
}

fn deleted(generation: i64, policy: Value) -> Object {
    let mut object = workload("ocr", generation, "first");
    object.spec["offlinePolicy"] = policy;
    Object { deletion: Some(NOW), is_held: true, ..object }
}

fn holds(patches: &[FinalizerPatch]) -> Vec<(bool, bool)> {
    patches.iter().map(|patch| (patch.holds, patch.unconfirmed.is_some())).collect()
}

#[test]
fn one_that_is_accepted_is_held_once() {
    let (mut reconciler, core) = (listed(), core());
    assert_eq!(reconciler.take_finalizers(&core, NOW), []);
    reconciler.take_manifests();
    assert_eq!(holds(&reconciler.take_finalizers(&core, NOW)), [(true, false)]);
    assert_eq!(reconciler.take_finalizers(&core, NOW), [], "it is on its way");
    reconciler.handle(Change::NotFinalized(key(Kind::Workload, "ocr"), Some("no".to_owned())));
    assert!(reconciler.problems()[0].contains("can't be held"), "{:?}", reconciler.problems());
    assert_eq!(holds(&reconciler.take_finalizers(&core, NOW)), [(true, false)]);
    reconciler.handle(Change::Finalized(key(Kind::Workload, "ocr"), true));
    assert_eq!(reconciler.take_finalizers(&core, NOW), []);
    assert!(reconciler.problems().is_empty());
    assert_eq!(reconciler.take_manifests(), None, "what it says is the same");
}

#[test]
fn one_that_is_refused_from_the_first_is_not_held() {
    let mut reconciler = listed();
    let mut wrong = workload("ocr", 1, "first");
    wrong.spec["template"]["spec"]["hostPID"] = json!(true);
    reconciler.handle(Change::Removed(key(Kind::Workload, "ocr")));
    put(&mut reconciler, wrong);
    reconciler.take_manifests();
    assert_eq!(reconciler.take_finalizers(&core(), NOW), []);
}

#[test]
fn a_deleted_one_runs_nowhere_and_its_object_waits_for_those_that_have_it() {
    let (mut reconciler, core) = (listed(), core_with_a_pod());
    reconciler.take_manifests();
    put(&mut reconciler, deleted(2, json!({})));
    assert_eq!(commands(&mut reconciler), Some(vec![]), "nodes are told at once");
    assert_eq!(reconciler.take_finalizers(&core, NOW), []);
    let status = &reconciler.take_statuses(&core, NOW)[0].status;
    let ready = condition(status, "Ready");
    assert_eq!(ready["reason"], "Deleting");
    let message = ready["message"].as_str().unwrap();
    assert!(message.starts_with("1 nodes have not confirmed"), "{message}");
    assert!(message.contains("1 of them are offline"), "{message}");
    // Nothing happens any more, and the deadline is waited for.
    let wait_ms = reconciler.wait_ms(NOW).unwrap();
    assert_eq!(wait_ms, 300_000);
    let late = UnixMs(NOW.0 + wait_ms);
    assert_eq!(holds(&reconciler.take_finalizers(&core, late)), [(false, true)]);
}

#[test]
fn a_deleted_one_goes_at_once_where_nobody_has_it_or_nobody_is_waited_for() {
    let mut reconciler = listed();
    reconciler.take_manifests();
    put(&mut reconciler, deleted(2, json!({})));
    reconciler.take_manifests();
    assert_eq!(holds(&reconciler.take_finalizers(&core(), NOW)), [(false, false)]);

    let mut reconciler = listed();
    reconciler.take_manifests();
    put(&mut reconciler, deleted(2, json!({ "deletionDeadlineSeconds": 0 })));
    reconciler.take_manifests();
    assert_eq!(holds(&reconciler.take_finalizers(&core_with_a_pod(), NOW)), [(false, true)]);
}

#[test]
fn a_member_cluster_that_has_it_is_waited_for() {
    let mut reconciler = listed();
    reconciler.take_manifests();
    let there = MemberWorkload { wanted: 2, ready: 2, updated: 2, problem: None };
    reconciler.handle(report("a", there));
    put(&mut reconciler, deleted(2, json!({})));
    reconciler.take_manifests();
    assert_eq!(reconciler.take_finalizers(&core(), NOW), []);
    reconciler.handle(away("a"));
    assert_eq!(reconciler.take_finalizers(&core(), NOW), [], "it has what it had");
    reconciler.handle(Change::Removed(key(Kind::Cluster, "a")));
    assert_eq!(holds(&reconciler.take_finalizers(&core(), NOW)), [(false, false)]);
}
