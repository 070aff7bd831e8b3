//! An API server that was put back to an older state.

use super::*;
use crate::manifests::InferenceWorkload;

fn names(reconciler: &mut Reconciler) -> Option<Vec<String>> {
    let (manifests, _) = reconciler.take_manifests()?;
    Some(manifests.workloads.keys().map(|key| key.name().to_owned()).collect())
}

fn at(revision: u64, object: Object) -> Object {
    Object { revision, ..object }
}

/// The watches broke off, and these are the workloads of a server whose newest version is that.
fn list(reconciler: &mut Reconciler, revision: u64, objects: &[Object]) {
    list_workloads(reconciler, revision, objects);
    for kind in [Kind::Node, Kind::Cluster] {
        reconciler.handle(Change::Listed(kind, BTreeSet::new()));
    }
}

fn list_workloads(reconciler: &mut Reconciler, revision: u64, objects: &[Object]) {
    reconciler.handle(Change::Listing(revision));
    objects.iter().for_each(|object| put(reconciler, object.clone()));
    let keys = objects.iter().map(|object| object.key.clone()).collect();
    reconciler.handle(Change::Listed(Kind::Workload, keys));
}

/// A reconciler that has taken over `ocr` and `plates`, at version 70.
fn settled() -> Reconciler {
    settled_with().0
}

/// The same with what is in force then.
fn settled_with() -> (Reconciler, Vec<InferenceWorkload>) {
    let mut reconciler = listed();
    put(&mut reconciler, at(60, workload("ocr", 3, "third")));
    put(&mut reconciler, at(70, workload("plates", 1, "plates")));
    let (manifests, _) = reconciler.take_manifests().unwrap();
    let in_force: Vec<_> = manifests.workloads.into_values().collect();
    assert_eq!(in_force.len(), 2);
    (reconciler, in_force)
}

#[test]
fn what_it_has_is_not_taken_over_before_somebody_has_read_what_would_change() {
    let mut reconciler = settled();
    let older = [at(40, workload("ocr", 2, "second")), at(41, workload("weld", 1, "weld"))];
    list(&mut reconciler, 45, &older);
    assert_eq!(names(&mut reconciler), None);
    let said = reconciler.problems().remove(0);
    for part in [
        "version 45, and 70 was seen",
        "1 would stop (default/plates)",
        "1 would come back (default/weld)",
        "1 would change (default/ocr)",
        "hub confirm-regression",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // Nor when it has grown past what was seen.
    put(&mut reconciler, at(90, workload("more", 1, "more")));
    list(&mut reconciler, 95, &older);
    assert_eq!(names(&mut reconciler), None);
    assert!(reconciler.confirm_regression());
    assert_eq!(names(&mut reconciler).unwrap(), ["ocr", "weld"]);
    assert!(reconciler.problems().is_empty());
    assert!(!reconciler.confirm_regression(), "there is nothing to be confirmed any more");
}

#[test]
fn a_list_that_broke_off_and_goes_on_is_nothing_of_the_kind() {
    let mut reconciler = settled();
    list(&mut reconciler, 71, &[at(60, workload("ocr", 3, "third"))]);
    assert_eq!(names(&mut reconciler).unwrap(), ["ocr"], "it was deleted meanwhile");
}

#[test]
fn an_older_state_that_makes_no_difference_is_taken_over_as_it_is() {
    let mut reconciler = settled();
    let same = [at(40, workload("ocr", 3, "third")), at(41, workload("plates", 1, "plates"))];
    list(&mut reconciler, 45, &same);
    // The restored objects may have other numbers than those that are held.
    put(&mut reconciler, at(46, workload("ocr", 4, "third")));
    assert_eq!(names(&mut reconciler).unwrap(), ["ocr", "plates"]);
    list(&mut reconciler, 50, &[at(46, workload("ocr", 4, "third"))]);
    assert_eq!(names(&mut reconciler).unwrap(), ["ocr"], "it counts from now on");
}

#[test]
fn nothing_is_concluded_from_what_was_read_before_it_was_put_back() {
    let mut reconciler = settled();
    // Somebody else's list says so first, and something else changes.
    reconciler.handle(Change::Listing(45));
    reconciler.handle(Change::Listed(Kind::Node, BTreeSet::new()));
    assert_eq!(names(&mut reconciler), None, "what is held is what was in force");
    let said = reconciler.problems().remove(0);
    assert!(said.contains("not known before all of it was read"), "{said}");
    list_workloads(&mut reconciler, 45, &[at(40, workload("ocr", 2, "second"))]);
    assert_eq!(names(&mut reconciler), None);
    reconciler.handle(Change::Listed(Kind::Cluster, BTreeSet::new()));
    assert_eq!(names(&mut reconciler), None);
    let said = reconciler.problems().remove(0);
    assert!(said.contains("1 would stop (default/plates), 1 would change (default/ocr)"), "{said}");
}

#[test]
fn a_hub_that_starts_while_an_older_state_waits_to_be_confirmed_waits_as_well() {
    let (mut before, in_force) = settled_with();
    assert_eq!(before.take_put_back(), None);
    let older = [at(40, workload("ocr", 2, "second"))];
    list(&mut before, 45, &older);
    let stored = before.take_put_back().unwrap();
    assert_eq!(before.take_put_back(), None, "once");
    let start = |seen: SeenState| {
        let mut reconciler = Reconciler::new(in_force.clone(), seen);
        // It has grown past what was seen.
        list(&mut reconciler, 95, &older);
        reconciler
    };
    let mut started = start(stored);
    assert_eq!(names(&mut started), None);
    assert!(started.problems().remove(0).contains("version 45, and 95 was seen"));
    assert!(started.confirm_regression());
    let (_, stored) = started.take_manifests().unwrap();
    assert_eq!(stored.put_back_to, None);
    assert_eq!(names(&mut start(stored)).unwrap(), ["ocr"]);
    // What a hub of before has stored.
    #[derive(serde::Serialize)]
    struct Former {
        revision: u64,
        nodes: shared::wire::Digest,
    }
    let former = Former { revision: 70, nodes: stored.nodes };
    let former = shared::wire::encode("seen state", &former).unwrap();
    let read: SeenState = shared::wire::decode("seen state", &former, 128).unwrap();
    assert_eq!(read, SeenState { revision: 70, nodes: stored.nodes, put_back_to: None });
}

#[test]
fn a_hub_that_starts_on_an_older_state_notices_it_as_well() {
    let mut before = listed();
    put(&mut before, at(70, workload("plates", 1, "plates")));
    let (manifests, seen) = before.take_manifests().unwrap();
    assert_eq!(seen.revision, 70);
    let earlier: Vec<_> = manifests.workloads.into_values().collect();
    let started = |seen: SeenState| {
        let mut reconciler = Reconciler::new(earlier.clone(), seen);
        for kind in [Kind::Node, Kind::Cluster] {
            reconciler.handle(Change::Listing(45));
            reconciler.handle(Change::Listed(kind, BTreeSet::new()));
        }
        list(&mut reconciler, 45, &[at(40, workload("ocr", 1, "first"))]);
        reconciler
    };
    let mut reconciler = started(seen);
    assert_eq!(names(&mut reconciler), None);
    let said = reconciler.problems().remove(0);
    assert!(said.contains("1 would stop (default/plates)"), "{said}");
    // By `--confirm-regression` it has seen nothing.
    assert_eq!(names(&mut started(SeenState::default())).unwrap(), ["ocr"]);
}
