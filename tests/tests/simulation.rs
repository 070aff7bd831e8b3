//! The simulated world, as often as `make test` has time for, and its scenarios. `make sim` runs more.

use std::path::Path;
use tests::sim::{Options, run_seed, run_seeds, scenarios};

/// Seeds of each run; the same every time, so that a failure is the change's.
const SEEDS: u64 = 2_000;

#[test]
fn every_seed_keeps_the_invariants_and_comes_to_rest() {
    let failures = run_seeds(0..SEEDS, Options::default());
    let told = failures.iter().map(|failure| {
        let log = failure.log.as_deref().map(Path::display);
        let log = log.map_or("not kept".to_owned(), |path| path.to_string());
        format!("seed {}: {}\n    event log: {log}", failure.seed, failure.problem)
    });
    let told: Vec<String> = told.collect();
    assert!(told.is_empty(), "replay with `make sim SEED=…`:\n{}", told.join("\n"));
}

#[test]
fn seeds_that_failed_once_hold() {
    for (seed, what) in scenarios::SEEDS_THAT_FAILED {
        let outcome = run_seed(*seed, Options::default());
        assert!(outcome.is_ok(), "seed {seed}, which had shown: {what}: {outcome:?}");
    }
}

#[test]
fn four_hundred_days_offline_end_at_rest_and_with_even_books() {
    let outcome = scenarios::offline_for_400_days();
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// `goes_down` says whether telemetry must become coarser for the week to fit.
fn holds(week: &scenarios::Week, goes_down: bool) {
    assert_eq!(week.steps_down > 0, goes_down, "{week:?}");
    assert!(week.day_max_bytes <= week.bytes_per_day, "{week:?}");
    assert!(week.used_percent >= 90, "{week:?}");
    assert!(week.changes.0 > 20 && week.alarms.0 > 20, "{week:?}");
    assert!(week.changes.1 <= 60 && week.alarms.1 <= 60, "{week:?}");
}

#[test]
fn a_week_keeps_within_a_megabyte_a_day_and_uses_it() {
    holds(&scenarios::week_within(1_000_000).unwrap(), false);
}

#[test]
fn a_week_keeps_within_ten_megabytes_a_day_and_uses_it() {
    holds(&scenarios::week_within(10_000_000).unwrap(), false);
}

#[test]
fn a_week_keeps_within_60_kilobytes_a_day_and_uses_it() {
    holds(&scenarios::week_within(60_000).unwrap(), true);
}

#[test]
fn a_week_keeps_within_250_kilobytes_a_day_and_uses_it() {
    holds(&scenarios::week_within(250_000).unwrap(), true);
}

#[test]
fn an_impostor_changes_nothing() {
    let outcome = scenarios::impostors();
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn what_was_signed_for_another_node_changes_nothing() {
    let outcome = scenarios::what_was_signed_for_another();
    assert!(outcome.is_ok(), "{outcome:?}");
}
