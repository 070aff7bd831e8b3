//! How fast the simulated world runs, and whether it holds.

use super::Figure;
use crate::sim::{Options, run_seeds};
use std::time::Instant;

/// Seeds that are run: about half an hour on two cores.
const SEEDS: u64 = 20_000;

/// Worlds of two nodes, 15 simulated minutes of faults each and the healing after them.
pub(super) fn simulation() -> anyhow::Result<Vec<Figure>> {
    let begin = Instant::now();
    let failures = run_seeds(0..SEEDS, Options::default());
    let how = format!("{SEEDS} seeds on all cores of this machine");
    #[allow(clippy::cast_precision_loss)]
    let rate = SEEDS as f64 / begin.elapsed().as_secs_f64();
    Ok(vec![
        Figure::new("sim_seeds_per_s", format!("{rate:.1}"), "1/s", &how),
        Figure::new("sim_failures", failures.len(), "seeds", "of the same"),
    ])
}
