//! A link's budget that a store holds, and what follows from it.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use shared::model::{ClockQuality, LinkBudget, MonotonicMs, Now, UnixMs};
use shared::sync::{Budget, LinkClass, StoredBudget};

/// A record of the store, the time, the limits, and then what is asked and charged.
///
/// # Panics
/// When more is permitted than the day has left, or what is to be stored can't be.
pub fn budget(data: &[u8]) {
    let mut input = Input::new(data);
    let stored = StoredBudget::decode(input.chunk()).ok();
    let mut at = now(&mut input);
    let mut budget = Budget::restore(stored.as_ref(), at);
    budget.set_limits(limits(&mut input), at.monotonic);
    while !input.is_empty() {
        let bytes = u64::from(input.small());
        let class = LinkClass::ALL.get(usize::from(input.byte()) % 10);
        let class = class.copied().unwrap_or(LinkClass::Connection);
        match input.byte() % 6 {
            0 => at.monotonic = at.monotonic.plus_ms(input.number()),
            1 => budget.handle_wire(bytes, at.monotonic),
            2 => budget.set_limits(limits(&mut input), at.monotonic),
            3 => {
                let grant = budget.poll_grant(bytes, at);
                let record = grant.map(|grant| grant.encode().expect("it can be stored"));
                record.iter().for_each(|record| {
                    StoredBudget::decode(record).expect("what was stored can be read");
                });
            }
            4 => budget.handle_timeout(at.monotonic),
            _ => spend(&mut budget, class, bytes, at.monotonic),
        }
        let _ = (budget.poll_timeout(), budget.batch_bytes_max(), budget.telemetry_is_next());
    }
}

/// Spends what may be spent.
fn spend(budget: &mut Budget, class: LinkClass, bytes: u64, now: MonotonicMs) {
    if budget.may_send(class, bytes, now) {
        budget.charge(class, bytes, now);
        let (spent, limits) = (budget.spent_in_day(now), budget.limits());
        let within = limits.bytes_per_day.is_none_or(|day| spent <= day);
        assert!(within, "{spent} bytes of {limits:?}");
    }
}

fn limits(input: &mut Input<'_>) -> LinkBudget {
    let mut limit = || input.yes().then(|| input.number());
    LinkBudget { bytes_per_day: limit(), bytes_per_second: limit() }
}

fn now(input: &mut Input<'_>) -> Now {
    let quality =
        if input.yes() { ClockQuality::Synchronised } else { ClockQuality::Unsynchronised };
    Now { monotonic: MonotonicMs(input.number()), wall: UnixMs(input.number()), quality }
}
