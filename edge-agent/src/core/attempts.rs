//! When the link may be tried again, where each try is paid for.
//!
//! A try that leads to no session costs a few hundred bytes, over a day's outage more than a small
//! budget has. The pauses between them double until tries cost no more than their part of the day, and
//! begin with a 64th of that. Without a limit of the day the link's own pauses suffice.

use shared::model::MonotonicMs;

/// The shortest pause.
const PAUSE_MS_MIN: u64 = 1_000;

/// The first pause is this part of the longest.
const FIRST_PAUSE_PARTS: u64 = 64;

/// The longest, whatever a try costs.
const PAUSE_MS_MAX: u64 = 60 * 60_000;

/// Per cent of the day's bytes that tries in vain may cost, should the outage last.
const TRIES_PERCENT: u64 = 20;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Tries that led to no session, one after the other.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    in_vain: u32,
    /// What was spent in all when the last one ended.
    spent_before: u64,
    retry_at: Option<MonotonicMs>,
}

impl Attempts {
    /// A try, or the connection that came of it, has ended. `spent` is what the link has cost in all.
    pub(super) fn ended(
        &mut self,
        had_session: bool,
        spent: u64,
        bytes_per_day: Option<u64>,
        now: MonotonicMs,
    ) {
        let cost = spent.saturating_sub(std::mem::replace(&mut self.spent_before, spent));
        let Some(day) = bytes_per_day.filter(|_| !had_session) else {
            (self.in_vain, self.retry_at) = (0, None);
            return;
        };
        let affordable = (day.saturating_mul(TRIES_PERCENT) / 100).max(1);
        let longest = (cost.saturating_mul(DAY_MS) / affordable).min(PAUSE_MS_MAX);
        let first = (longest / FIRST_PAUSE_PARTS).max(PAUSE_MS_MIN);
        let doubled = first << self.in_vain.min(16);
        self.in_vain = self.in_vain.saturating_add(1);
        self.retry_at = Some(now.plus_ms(doubled.min(longest)));
    }

    /// Whether the link may be tried now.
    pub(super) fn may_try(&self, now: MonotonicMs) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.retry_at
    }

    /// Ends a pause that is over.
    pub(super) fn handle_timeout(&mut self, now: MonotonicMs) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: MonotonicMs = MonotonicMs(1_000_000);

    /// Pauses of so many tries in a row, each of which costs `cost`.
    fn pauses(count: u64, cost: u64, bytes_per_day: Option<u64>) -> Vec<u64> {
        let mut attempts = Attempts::default();
        let pause = |attempt| {
            attempts.ended(false, attempt * cost, bytes_per_day, NOW);
            attempts.poll_timeout().map_or(0, |at| at.since_ms(NOW))
        };
        (1..=count).map(pause).collect()
    }

    #[test]
    fn pauses_double_until_tries_cost_their_part_of_the_day() {
        // A fifth of the day's bytes are 12 000, which is 66 tries.
        let longest = 86_400_000 * 180 / 12_000;
        let doubling = [64, 32, 16, 8, 4, 2, 1, 1].map(|parts| longest / parts);
        assert_eq!(pauses(8, 180, Some(60_000)), doubling);
        assert_eq!(pauses(3, 180, Some(10_000_000))[..3], [1_000, 2_000, 4_000]);
    }

    #[test]
    fn an_hour_is_the_longest_pause_however_much_a_try_costs() {
        assert_eq!(pauses(20, 100_000, Some(1))[19], 3_600_000);
        assert_eq!(pauses(100, u64::MAX / 100, Some(0))[99], 3_600_000);
    }

    #[test]
    fn without_a_limit_there_is_no_pause() {
        assert_eq!(pauses(10, 5_000, None), [0; 10]);
    }

    #[test]
    fn a_try_waits_for_the_end_of_its_pause_and_a_session_ends_the_pauses() {
        let mut attempts = Attempts::default();
        assert!(attempts.may_try(NOW));
        for spent in [180, 360, 540] {
            attempts.ended(false, spent, Some(1_000_000), NOW);
        }
        assert!(!attempts.may_try(NOW.plus_ms(4_859)));
        assert!(attempts.may_try(NOW.plus_ms(4_860)));
        attempts.handle_timeout(NOW.plus_ms(4_859));
        assert_eq!(attempts.poll_timeout(), Some(NOW.plus_ms(4_860)));
        attempts.handle_timeout(NOW.plus_ms(4_860));
        assert_eq!(attempts.poll_timeout(), None);
        attempts.ended(true, 9_000, Some(1_000_000), NOW);
        assert!(attempts.may_try(NOW));
        attempts.ended(false, 9_180, Some(1_000_000), NOW);
        assert_eq!(attempts.poll_timeout(), Some(NOW.plus_ms(1_215)));
    }
}
