//! What waits keeps its place, so that nothing is started and stopped in turn.

use super::*;

/// The demands as they come next time, when of what was placed only some has been started.
fn with_plan(
    demands: &[PodDemand],
    decisions: &BTreeMap<PodId, Decision>,
    has_started: impl Fn(&PodDemand) -> bool,
) -> Vec<PodDemand> {
    let next = |demand: &PodDemand| {
        let place = match &decisions[&demand.pod] {
            Decision::Placed(placement) => Some(placement.clone()),
            Decision::Unplaced { .. } => None,
        };
        let (held, planned) = if has_started(demand) { (place, None) } else { (None, place) };
        PodDemand { held, planned, ..demand.clone() }
    };
    demands.iter().map(next).collect()
}

/// Found by the simulated world: `speech` and `detect` were waiting for their images. Placed anew beside
/// `ocr` they left it so little that `track` could take its place; without it they left `track` none.
#[test]
fn a_pod_that_was_just_started_is_not_preempted_for_one_that_found_no_place_before() {
    let node = node(vec![gpu("a", 16), gpu("b", 16)]);
    let demands = [
        pod("speech", 2, 100, shared(6)),
        pod("detect", 1, 100, shared(8)),
        pod("detect2", 1, 100, shared(8)),
        pod("track", 1, 100, shared(10)),
        pod("ocr", 0, 100, shared(8)),
    ];
    let first = place(&node, &demands);
    assert_eq!(gpus_of(&first, "ocr"), ["GPU-b"]);
    assert!(why(&first, "track").starts_with("InsufficientGpuMemory"));
    let second = place(&node, &with_plan(&demands, &first, |d| d.priority == 0));
    assert_eq!(second, first);
}

#[test]
fn a_plan_that_has_become_impossible_is_made_anew() {
    let mut waits = pod("waits", 0, 100, shared(4));
    let on_a = Placement { gpus: vec!["GPU-a".to_owned()], gpu_memory_bytes: Some(4 * GIB) };
    waits.planned = Some(on_a);
    let decisions = place(&node(vec![gpu("a", 8), gpu("b", 6)]), &[waits.clone()]);
    assert_eq!(gpus_of(&decisions, "waits"), ["GPU-a"], "though b has less room");
    let decisions = place(&node(vec![gpu("b", 6)]), &[waits.clone()]);
    assert_eq!(gpus_of(&decisions, "waits"), ["GPU-b"]);
    let asks_for_more = PodDemand { resources: pod("waits", 0, 100, shared(5)).resources, ..waits };
    let decisions = place(&node(vec![gpu("a", 8), gpu("b", 6)]), &[asks_for_more]);
    assert_eq!(gpus_of(&decisions, "waits"), ["GPU-b"]);
}

#[test]
fn what_runs_goes_before_what_waits_for_the_same() {
    let place_on_a = Placement { gpus: vec!["GPU-a".to_owned()], gpu_memory_bytes: Some(6 * GIB) };
    let waits = PodDemand { planned: Some(place_on_a.clone()), ..pod("a", 0, 100, shared(6)) };
    let runs = PodDemand { held: Some(place_on_a.clone()), ..pod("b", 0, 100, shared(6)) };
    let new = pod("0", 0, 100, shared(6));
    let node = node(vec![gpu("a", 8)]);
    let decisions = place(&node, &[new.clone(), waits.clone(), runs]);
    assert_eq!(gpus_of(&decisions, "b"), ["GPU-a"]);
    let decisions = place(&node, &[new, waits]);
    assert_eq!(gpus_of(&decisions, "a"), ["GPU-a"], "and this before what is new");
}

#[test]
fn only_what_ran_is_said_to_have_made_room() {
    let place_on_a = Placement { gpus: vec!["GPU-a".to_owned()], gpu_memory_bytes: Some(6 * GIB) };
    let waits = PodDemand { planned: Some(place_on_a), ..pod("waits", 0, 100, shared(6)) };
    let decisions = place(&node(vec![gpu("a", 8)]), &[waits, pod("high", 9, 100, shared(6))]);
    assert_eq!(gpus_of(&decisions, "high"), ["GPU-a"]);
    assert!(why(&decisions, "waits").starts_with("InsufficientGpuMemory"));
}

proptest! {
    #[test]
    fn whatever_of_a_plan_is_started_first_changes_nothing((node, demands) in any_case(), started: u16) {
        let first = place(&node, &demands);
        let has_started = |demand: &PodDemand| {
            let index = demands.iter().position(|other| other.pod == demand.pod).unwrap();
            started & (1 << index) != 0
        };
        let second = place(&node, &with_plan(&demands, &first, has_started));
        let placed = |d: &BTreeMap<PodId, Decision>| -> BTreeMap<PodId, Decision> {
            d.iter().filter(|(_, d)| matches!(d, Decision::Placed(_))).map(|(p, d)| (p.clone(), d.clone())).collect()
        };
        prop_assert_eq!(placed(&second), placed(&first));
    }
}
