//! GPUs from which pods are kept for a while.

use super::*;

#[test]
fn a_barred_gpu_takes_nobody_new_and_who_rests_goes_elsewhere_or_waits() {
    let mut node = node(vec![gpu("a", 8)]);
    let on_a = |name: &str| {
        let held = Placement { gpus: vec!["GPU-a".into()], gpu_memory_bytes: Some(2 * GIB) };
        PodDemand { held: Some(held), ..pod(name, 0, 100, shared(2)) }
    };
    let demands = [on_a("stays"), on_a("rests"), pod("new", 0, 100, shared(2))];
    let why_hot = "at 91 °C, over its limit of 85".to_owned();
    let resting = [demands[1].pod.clone()].into();
    let bar = Bar { why: why_hot, is_closed: true, resting, ..Bar::default() };
    node.bars = [("GPU-a".to_owned(), bar)].into();
    let decisions = place(&node, &demands);
    assert_eq!(gpus_of(&decisions, "stays"), ["GPU-a"]);
    for name in ["rests", "new"] {
        let words = "InsufficientGpus: 0/1 GPUs: 1 at 91 °C, over its limit of 85";
        assert_eq!(why(&decisions, name), words);
    }
    // One that had it comes back after a crash.
    let crashed = pod("stays", 0, 100, shared(2));
    assert!(matches!(
        place(&node, std::slice::from_ref(&crashed))[&crashed.pod],
        Decision::Unplaced { .. }
    ));
    node.bars.values_mut().for_each(|bar| bar.tenants = [crashed.pod.clone()].into());
    assert_eq!(gpus_of(&place(&node, &[crashed]), "stays"), ["GPU-a"]);
    node.bars.values_mut().for_each(|bar| bar.is_closed = false);
    assert_eq!(gpus_of(&place(&node, &demands), "new"), ["GPU-a"]);
    node.gpus.push(gpu("b", 8));
    assert_eq!(gpus_of(&place(&node, &demands), "rests"), ["GPU-b"]);
}
