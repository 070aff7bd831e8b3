//! A budget is never exceeded in any 24 hours, is used when there is something to send, and survives
//! restarts.

use super::*;
use crate::model::{ClockQuality, UnixMs};
use proptest::prelude::*;

const HOUR_MS: u64 = 60 * 60 * 1000;

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
            while self.0[first].0 + DAY_MS <= *now {
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
}

#[test]
fn results_leave_telemetry_its_share() {
    let mut budget = budget(10_000_000);
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
    let stored = StoredBudget::new(5_000, at(90_000), Window::default(), Window::default());
    assert_eq!(stored.clock_ms(at(100_000)), 15_000, "the same boot, or at least as long");
    assert_eq!(stored.clock_ms(at(2_000)), 7_000, "another boot");
    let synchronised = |ms, wall| Now {
        monotonic: MonotonicMs(ms),
        wall: UnixMs(wall),
        quality: ClockQuality::Synchronised,
    };
    let stored =
        StoredBudget::new(5_000, synchronised(1, 1_000), Window::default(), Window::default());
    assert_eq!(stored.clock_ms(synchronised(2_000, 51_000)), 55_000);
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
