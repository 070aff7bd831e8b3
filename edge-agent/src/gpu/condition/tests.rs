//! When a GPU is said to be held down, and when not any more.

use super::*;
use proptest::prelude::*;
use shared::model::{GpuHealth, MigRole};

fn at(seconds: u64) -> MonotonicMs {
    MonotonicMs(seconds * 1000)
}

fn gpus(names: &[&str]) -> Vec<GpuDevice> {
    let gpu = |name: &&str| GpuDevice {
        uuid: (*name).to_owned(),
        name: String::new(),
        memory_bytes: 0,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    };
    names.iter().map(gpu).collect()
}

fn says(name: &str, value: f64) -> Values {
    [(Series::new(name).with("UUID", "GPU-a"), value)].into_iter().collect()
}

/// Looks every 10 s at what `bits` gives; what was told, and when.
fn looks(
    conditions: &mut GpuConditions,
    seconds: std::ops::Range<u64>,
    bits: impl Fn(u64) -> f64,
) -> Vec<(u64, &'static str)> {
    let mut told = vec![];
    for second in seconds.step_by(10) {
        let changes =
            conditions.look(&says(CLOCK_REASONS, bits(second)), &gpus(&["GPU-a"]), at(second));
        told.extend(changes.into_iter().map(|change| (second, change.reason)));
    }
    told
}

fn condition(conditions: &GpuConditions) -> Option<(String, String)> {
    conditions.conditions().next().map(|one| (one.kind, one.message))
}

#[test]
fn clocks_held_down_for_a_minute_are_told_with_the_gpu_and_the_reason_and_five_minutes_after() {
    let mut seen = GpuConditions::default();
    let told = looks(&mut seen, 0..600, |_| 72.0);
    assert_eq!(told, [(60, "GpuThrottled")]);
    let words = "GPU-a: the hardware holds its clocks down since it is too hot";
    assert_eq!(condition(&seen), Some(("GpuThrottled".to_owned(), words.to_owned())));
    let told = looks(&mut seen, 600..1200, |_| 1.0);
    assert_eq!(told, [(890, "GpuNotThrottled")]);
    assert_eq!(condition(&seen), None);
}

#[test]
fn what_every_busy_gpu_meets_and_a_short_time_are_not_told() {
    let mut seen = GpuConditions::default();
    // Idle, application clocks, power limit, sync boost, display clocks.
    for bits in [1.0, 2.0, 4.0, 16.0, 256.0] {
        assert!(looks(&mut seen, 0..600, |_| bits).is_empty(), "{bits}");
    }
    assert!(looks(&mut seen, 600..650, |_| 8.0).is_empty());
    assert!(looks(&mut seen, 650..1200, |_| 0.0).is_empty());
}

#[test]
fn what_flickers_begins_once_and_ends_once() {
    let mut seen = GpuConditions::default();
    // Two looks of three.
    let told = looks(&mut seen, 0..7200, |second| if second / 10 % 3 == 0 { 0.0 } else { 32.0 });
    assert_eq!(told.len(), 1, "{told:?}");
    // One of thirty is still too often to be over.
    let told = looks(&mut seen, 7200..14_400, |s| if s / 10 % 29 == 0 { 32.0 } else { 0.0 });
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_further_reason_is_told_once() {
    let mut seen = GpuConditions::default();
    looks(&mut seen, 0..100, |_| 32.0);
    let told = looks(&mut seen, 100..900, |second| if second / 10 % 2 == 0 { 136.0 } else { 32.0 });
    assert_eq!(told, [(100, "GpuThrottled")]);
    let (_, words) = condition(&seen).unwrap();
    assert!(words.contains("driver holds its clocks down since it is too hot, its power supply"));
}

#[test]
fn what_is_not_told_is_as_it_was_and_a_gpu_that_is_gone_is_forgotten() {
    let mut seen = GpuConditions::default();
    looks(&mut seen, 0..100, |_| 64.0);
    assert!(seen.look(&Values::default(), &gpus(&["GPU-a"]), at(9000)).is_empty());
    assert!(condition(&seen).is_some());
    assert!(seen.look(&Values::default(), &gpus(&["GPU-b"]), at(9010)).is_empty());
    assert_eq!(condition(&seen), None);
}

#[test]
fn two_looks_far_apart_are_not_a_minute() {
    let mut seen = GpuConditions::default();
    let look = |seen: &mut GpuConditions, second| {
        seen.look(&says(CLOCK_REASONS, 64.0), &gpus(&["GPU-a"]), at(second)).len()
    };
    assert_eq!((look(&mut seen, 0), look(&mut seen, 3600), look(&mut seen, 7200)), (0, 0, 1));
}

#[test]
fn memory_that_waits_for_a_reset_is_told_until_it_was() {
    let mut seen = GpuConditions::default();
    let mut look = |name, value| {
        let changes = seen.look(&says(name, value), &gpus(&["GPU-a"]), at(1));
        (changes.first().map(|change| change.reason), condition(&seen))
    };
    assert_eq!(look(RETIRED_PENDING, 0.0), (None, None));
    let (told, holds) = look(RETIRED_PENDING, 1.0);
    assert_eq!(told, Some("GpuResetNeeded"));
    let (kind, message) = holds.unwrap();
    assert_eq!(kind, "GpuResetNeeded");
    assert_eq!(message, format!("GPU-a: pages of its memory wait for retirement: {RESET}"));
    assert_eq!(look(RETIRED_PENDING, 1.0).0, None);
    assert_eq!(look(RETIRED_PENDING, 0.0), (Some("GpuResetDone"), None));
    assert!(
        look(REMAP_PENDING, 1.0).1.unwrap().1.contains("rows of its memory wait to be remapped")
    );
}

#[test]
fn a_machine_full_of_hot_gpus_has_one_condition_of_a_few_names() {
    let names = ["GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-e", "GPU-f"];
    let mut seen = GpuConditions::default();
    for second in (0..=60).step_by(10) {
        let of = |name: &&str| (Series::new(CLOCK_REASONS).with("UUID", name), 64.0);
        let values = names.iter().map(of).collect();
        seen.look(&values, &gpus(&names), at(second));
    }
    assert_eq!(seen.conditions().count(), 1);
    let (_, message) = condition(&seen).unwrap();
    assert!(message.contains("GPU-d") && message.ends_with("; and 2 more"), "{message}");
}

proptest! {
    /// Whatever a GPU says, at most one begin and one end, and three further reasons, in six minutes.
    #[test]
    fn no_gpu_floods_the_link(bits in proptest::collection::vec(0_u16..512, 37)) {
        let mut seen = GpuConditions::default();
        let told = looks(&mut seen, 0..370, |second| f64::from(bits[usize::try_from(second / 10).unwrap()]));
        prop_assert!(told.len() <= 5, "{:?}", told);
    }
}
