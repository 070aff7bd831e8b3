//! The simulated world, as often as `make test` has time for. `make sim` runs more.

use tests::sim::{Options, run_seeds};

/// Seeds of each run; the same every time, so that a failure is the change's.
const SEEDS: u64 = 150;

#[test]
fn every_seed_keeps_the_invariants_and_comes_to_rest() {
    let failures = run_seeds(0..SEEDS, Options::default());
    let told: Vec<_> = failures.iter().map(|f| format!("seed {}: {}", f.seed, f.problem)).collect();
    assert!(told.is_empty(), "replay with `make sim SEED=…`:\n{}", told.join("\n"));
}
