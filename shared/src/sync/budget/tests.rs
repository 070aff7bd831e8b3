//! A budget is never exceeded in any 24 hours, is used when there is something to send, and survives
//! restarts.

use super::*;
use crate::model::{ClockQuality, UnixMs};
use proptest::prelude::*;

const HOUR_MS: u64 = 3_600_000;

fn at(ms: u64) -> Now {
    Now { monotonic: MonotonicMs(ms), wall: UnixMs(ms), quality: ClockQuality::Unsynchronised }
}

fn budget(bytes_per_day: u64) -> Budget {
    let mut budget = Budget::restore(None, at(0));
    let limits = LinkBudget { bytes_per_day: Some(bytes_per_day), bytes_per_second: None };
    budget.set_limits(limits, MonotonicMs(0));
    budget
}

/// Everything that was sent, to be judged by somebody who does not look at slots.
#[derive(Default)]
struct Judge(Vec<(u64, u64)>);

impl Judge {
    /// The most bytes in any 24 hours.
    fn worst_day(&self) -> u64 {
        let (mut first, mut sum, mut worst) = (0, 0, 0);
        for (now, bytes) in &self.0 {
            sum += bytes;
            while self.0[first].0 + 24 * HOUR_MS <= *now {
                sum -= self.0[first].1;
                first += 1;
            }
            worst = worst.max(sum);
        }
        worst
    }

    fn between(&self, from: u64, to: u64) -> u64 {
        self.0.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, bytes)| bytes).sum()
    }
}

#[test]
fn a_week_with_a_backlog_is_never_over_and_uses_nine_tenths_at_each_budget() {
    for day in [60_000, 250_000, 1_000_000, 10_000_000] {
        let (mut budget, mut judge) = (budget(day), Judge::default());
        let mut now = 0;
        while now < 7 * 24 * HOUR_MS {
            for (class, bytes) in [(LinkClass::Telemetry, 600), (LinkClass::Backfill, 1500)] {
                while budget.may_send(class, bytes, MonotonicMs(now)) {
                    budget.charge(class, bytes, MonotonicMs(now));
                    judge.0.push((now, bytes));
                }
            }
            now += 60_000;
        }
        assert!(judge.worst_day() <= day, "{} of {day}", judge.worst_day());
        for begin in (24..144).step_by(24) {
            let used = judge.between(begin * HOUR_MS, (begin + 24) * HOUR_MS);
            assert!(used * 100 >= day * 90, "{used} of {day} on the day that begins at {begin} h");
        }
    }
}

#[test]
fn alarms_and_control_still_go_when_the_bulk_has_had_its_share() {
    let mut budget = budget(60_000);
    let mut now = 0;
    while now < 30 * HOUR_MS {
        while budget.may_send(LinkClass::Backfill, 1000, MonotonicMs(now)) {
            budget.charge(LinkClass::Backfill, 1000, MonotonicMs(now));
        }
        now += 60_000;
    }
    let now = MonotonicMs(now);
    assert!(budget.may_send(LinkClass::DesiredState, 700, now));
    let mut control = 0;
    while budget.may_send(LinkClass::Events, 200, now) {
        budget.charge(LinkClass::Events, 200, now);
        control += 200;
    }
    assert!((2_800..=3_600).contains(&control), "{control}: five hundredths and a slot");
    assert!(budget.may_send(LinkClass::Alarms, 200, now), "its reserve is its own");
}

#[test]
fn what_waits_is_told_when_to_ask_again() {
    let mut budget = budget(60_000);
    let mut now = MonotonicMs(0);
    let mut sent = 0;
    while now.0 < 48 * HOUR_MS {
        if budget.may_send(LinkClass::Telemetry, 600, now) {
            budget.charge(LinkClass::Telemetry, 600, now);
            sent += 600;
            continue;
        }
        let due = budget.poll_timeout().unwrap();
        assert!(due > now);
        now = due;
        budget.handle_timeout(now);
    }
    assert!((100_000..=115_000).contains(&sent), "{sent} in two days of 60 kB");
}

#[test]
fn a_second_is_kept_and_an_alarm_does_not_wait_for_it() {
    let mut budget = Budget::restore(None, at(0));
    let limits = LinkBudget { bytes_per_day: None, bytes_per_second: Some(8_000) };
    budget.set_limits(limits, MonotonicMs(0));
    let mut sent = 0;
    for now in (0..10_000).map(MonotonicMs) {
        while budget.may_send(LinkClass::DesiredState, 1_500, now) {
            budget.charge(LinkClass::DesiredState, 1_500, now);
            sent += 1_500;
        }
    }
    assert!((80_000..=97_500).contains(&sent), "{sent} in ten seconds, two of them saved");
    budget.charge(LinkClass::DesiredState, 1_500, MonotonicMs(10_000));
    assert!(!budget.may_send(LinkClass::DesiredState, 300, MonotonicMs(10_000)));
    assert!(budget.may_send(LinkClass::Alarms, 300, MonotonicMs(10_000)));
}

#[test]
fn what_the_wire_says_overrules_the_estimates() {
    let mut budget = budget(1_000_000);
    budget.charge(LinkClass::Telemetry, 400, MonotonicMs(0));
    budget.handle_wire(4_000, MonotonicMs(1));
    assert_eq!(budget.spent().of(LinkClass::Connection), 3_600);
    budget.charge(LinkClass::Telemetry, 500, MonotonicMs(2));
    budget.handle_wire(4_100, MonotonicMs(3));
    assert_eq!(budget.spent_in_day(MonotonicMs(3)), 4_500, "the rest may be on its way");
    budget.handle_wire(4_350, MonotonicMs(20_000));
    assert_eq!(budget.spent_in_day(MonotonicMs(20_000)), 4_350, "it was cheaper");
    budget.handle_wire(4_350, MonotonicMs(40_000));
    assert_eq!(budget.spent_in_day(MonotonicMs(40_000)), 4_350, "nothing more was carried");
    budget.handle_wire(600, MonotonicMs(41_000));
    assert_eq!(budget.spent_in_day(MonotonicMs(41_000)), 4_950, "another connection");
}

#[test]
fn what_can_wait_is_spread_over_the_day_after_a_burst_of_half_an_hour() {
    let mut budget = budget(1_000_000);
    assert_eq!(budget.bulk_bytes_per_day(), Some(920_000));
    let mut sent = 0;
    for now in (0..6 * 60).map(|minute| MonotonicMs(minute * 60_000)) {
        while budget.may_send(LinkClass::Backfill, 100, now) {
            budget.charge(LinkClass::Backfill, 100, now);
            sent += 100;
        }
        assert!(now.0 > 0 || sent == 19_100, "{sent} at once: a forty-eighth");
    }
    assert!((248_000..=249_200).contains(&sent), "{sent} in a quarter of the day");
    assert!(budget.may_send(LinkClass::Events, 100, MonotonicMs(6 * HOUR_MS)), "only the bulk");
}

#[test]
fn bulk_leaves_its_reserve_to_control_whoever_has_spent_the_rest() {
    let mut budget = budget(100_000);
    budget.charge(LinkClass::DesiredState, 91_000, MonotonicMs(0));
    assert!(budget.may_send(LinkClass::Results, 1_000, MonotonicMs(0)));
    assert!(!budget.may_send(LinkClass::Results, 1_001, MonotonicMs(0)));
}

#[test]
fn a_connection_waits_for_the_day_and_one_for_an_alarm_has_the_alarms_reserve() {
    let mut budget = budget(100_000);
    budget.charge(LinkClass::DesiredState, 90_000, MonotonicMs(0));
    assert!(budget.may_connect(7_000, 10_000, false, MonotonicMs(0)));
    assert_eq!(budget.poll_timeout(), None, "nothing waits");
    assert!(!budget.may_connect(7_001, 7_001, false, MonotonicMs(0)));
    assert!(budget.poll_timeout().is_some_and(|due| due.0 > 24 * HOUR_MS));
    assert!(!budget.may_connect(1, 10_001, false, MonotonicMs(0)), "nor at the worst");
    assert!(budget.may_connect(7_001, 10_000, true, MonotonicMs(0)));
    assert!(!budget.may_connect(1, 10_001, true, MonotonicMs(0)));
}

#[test]
fn a_grant_is_counted_before_it_is_spent_and_serves_many_messages() {
    let mut budget = budget(1_000_000);
    let stored = budget.poll_grant(100, at(0)).unwrap();
    let mut after_a_crash = Budget::restore(Some(&stored), at(0));
    assert_eq!(after_a_crash.spent_in_day(MonotonicMs(0)), 5_100);
    budget.charge(LinkClass::Events, 5_000, MonotonicMs(0));
    assert_eq!(budget.poll_grant(100, at(1)), None, "what is left suffices");
    budget.charge(LinkClass::Events, 100, MonotonicMs(1));
    assert!(budget.poll_grant(1, at(1)).is_some());
    let next_quarter = at(HOUR_MS / 4);
    assert!(budget.poll_grant(1, next_quarter).is_some(), "it counts where it is spent");
    assert_eq!(budget.poll_grant(1, next_quarter), None);
}

#[test]
fn a_batch_is_no_larger_than_half_an_hour_of_bulk_or_two_seconds_of_the_link() {
    let mut budget = Budget::restore(None, at(0));
    let mut batch_bytes_max = |bytes_per_day, bytes_per_second| {
        budget.set_limits(LinkBudget { bytes_per_day, bytes_per_second }, MonotonicMs(0));
        budget.batch_bytes_max()
    };
    assert_eq!(batch_bytes_max(None, None), usize::MAX);
    assert_eq!(batch_bytes_max(Some(1_000_000), None), 19_166);
    assert_eq!(batch_bytes_max(Some(1_000_000), Some(8_000)), 16_000);
    assert_eq!(batch_bytes_max(Some(20_000), Some(8_000)), 1_024, "one batch all the same");
}

#[test]
fn each_class_is_counted_under_a_name_of_its_own() {
    let mut budget = budget(1_000_000);
    let mut names = std::collections::BTreeSet::new();
    for (class, bytes) in LinkClass::ALL.into_iter().zip(1..) {
        assert!(!class.name().is_empty() && names.insert(class.name()));
        budget.charge(class, bytes, MonotonicMs(0));
        budget.charge(class, 10, MonotonicMs(0));
        assert_eq!(budget.spent().of(class), bytes + 10);
    }
    assert_eq!(budget.spent().total(), 155);
}

#[test]
fn limits_may_be_as_large_as_a_number_can_be() {
    let limits = LinkBudget { bytes_per_day: Some(u64::MAX), bytes_per_second: Some(u64::MAX) };
    let mut budget = Budget::restore(None, at(0));
    budget.set_limits(limits, MonotonicMs(0));
    assert_eq!(budget.limits(), limits);
    assert!(budget.may_send(LinkClass::Results, message_bytes(1_000), MonotonicMs(0)));
}

#[test]
fn a_message_costs_more_than_its_payload() {
    assert!((1_050..1_200).contains(&message_bytes(1_000)));
}

#[test]
fn results_leave_telemetry_its_share() {
    let mut budget = budget(10_000_000);
    assert!(!budget.telemetry_is_next(), "results begin");
    let (mut results, mut telemetry) = (0, 0);
    for now in (0..24 * 60).map(|minute| MonotonicMs(minute * 60_000)) {
        loop {
            let next =
                if budget.telemetry_is_next() { LinkClass::Telemetry } else { LinkClass::Results };
            if !budget.may_send(next, 500, now) {
                break;
            }
            budget.charge(next, 500, now);
            *(if next == LinkClass::Results { &mut results } else { &mut telemetry }) += 500;
        }
    }
    let share = results * 100 / (results + telemetry);
    assert!((55..=65).contains(&share), "{share} per cent are results");
}

#[test]
fn a_clock_that_goes_back_at_a_reboot_makes_nobody_richer() {
    let stored = StoredBudget::new(5_000, at(90_000), Window::default());
    assert_eq!(stored.clock_ms(at(100_000)), 15_000, "the same boot, or at least as long");
    assert_eq!(stored.clock_ms(at(2_000)), 7_000, "another boot");
}

#[test]
fn a_wall_clock_counts_only_where_it_was_right_at_both_ends() {
    let clock = |synchronised, ms, wall| Now {
        monotonic: MonotonicMs(ms),
        wall: UnixMs(wall),
        quality: if synchronised {
            ClockQuality::Synchronised
        } else {
            ClockQuality::Unsynchronised
        },
    };
    let passed = |was_right, is_right| {
        let stored = StoredBudget::new(5_000, clock(was_right, 1, 1_000), Window::default());
        stored.clock_ms(clock(is_right, 2_001, 51_000)) - 5_000
    };
    assert_eq!(passed(true, true), 50_000);
    assert_eq!((passed(true, false), passed(false, true)), (2_000, 2_000));
}

#[test]
fn the_record_of_a_full_day_is_read_again_and_one_of_more_is_not_believed() {
    let full = |slots: u64| {
        let text = format!(
            "{{\"slots\":{:?}}}",
            (0..slots).map(|n| [1 << 40 | n, 1 << 60]).collect::<Vec<_>>()
        );
        let window: Window = serde_json::from_str(&text).unwrap();
        StoredBudget::new(1 << 60, at(1 << 60), window)
    };
    let read = |stored: &StoredBudget| StoredBudget::decode(&stored.encode().unwrap()).unwrap();
    assert_eq!(read(&full(97)), full(97));
    assert_eq!(read(&full(98)).all, Window::default());
}

proptest! {
    #[test]
    fn no_day_is_exceeded_whatever_is_sent_and_whenever_the_agent_dies(
        day in 20_000..2_000_000_u64,
        steps in proptest::collection::vec((0..7_200_000_u64, 0..10_usize, 1..3_000_u64, 0..12_u8), 1..400),
    ) {
        let limits = LinkBudget { bytes_per_day: Some(day), bytes_per_second: None };
        let (mut budget, mut judge) = (budget(day), Judge::default());
        let mut stored: Option<StoredBudget> = None;
        let mut now = 0;
        for (pause, class, bytes, fate) in steps {
            now += pause;
            if fate == 0 {
                let encoded = stored.as_ref().map(|stored| stored.encode().unwrap());
                let found = encoded.map(|bytes| StoredBudget::decode(&bytes).unwrap());
                budget = Budget::restore(found.as_ref(), at(now));
                budget.set_limits(limits, MonotonicMs(now));
            }
            let class = LinkClass::ALL[class];
            if budget.may_send(class, bytes, MonotonicMs(now)) {
                if let Some(grant) = budget.poll_grant(bytes, at(now)) {
                    stored = Some(grant);
                }
                budget.charge(class, bytes, MonotonicMs(now));
                judge.0.push((now, bytes));
            }
        }
        prop_assert!(judge.worst_day() <= day, "{} of {}", judge.worst_day(), day);
    }

    #[test]
    fn no_record_makes_the_budget_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(stored) = StoredBudget::decode(&bytes) {
            Budget::restore(Some(&stored), at(1)).spent_in_day(MonotonicMs(1));
        }
    }
}
