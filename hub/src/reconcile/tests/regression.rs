//! An API server that was put back to an older state.

use super::*;

fn names(reconciler: &mut Reconciler) -> Option<Vec<String>> {
    let (manifests, _) = reconciler.take_manifests()?;
    Some(manifests.workloads.keys().map(|key| key.name().to_owned()).collect())
}

fn at(revision: u64, object: Object) -> Object {
    Object { revision, ..object }
}

/// The watch of workloads broke off, and this is what is listed by a server whose newest version is that.
fn list(reconciler: &mut Reconciler, revision: u64, objects: &[Object]) {
    reconciler.handle(Change::Listing(revision));
    objects.iter().for_each(|object| put(reconciler, object.clone()));
    let keys = objects.iter().map(|object| object.key.clone()).collect();
    reconciler.handle(Change::Listed(Kind::Workload, keys));
}

/// A reconciler that has taken over `ocr` and `plates`, at version 70.
fn settled() -> Reconciler {
    let mut reconciler = listed();
    put(&mut reconciler, at(60, workload("ocr", 3, "third")));
    put(&mut reconciler, at(70, workload("plates", 1, "plates")));
    assert_eq!(names(&mut reconciler).unwrap(), ["ocr", "plates"]);
    reconciler
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
