//! A token bucket in whole bytes: fills at a rate, up to a capacity; may owe one message.

use crate::model::MonotonicMs;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    bytes_per_period: u64,
    period_ms: u64,
    capacity: u64,
    /// In bytes × `period_ms`, so that no fraction is lost; negative when it owes.
    level: i128,
    at: MonotonicMs,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(
        bytes_per_period: u64,
        period_ms: u64,
        capacity: u64,
        now: MonotonicMs,
    ) -> Self {
        let level = i128::from(capacity) * i128::from(period_ms);
        Self { bytes_per_period, period_ms, capacity, level, at: now }
    }

    /// Bytes that it holds at most.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    fn full(&self) -> i128 {
        i128::from(self.capacity) * i128::from(self.period_ms)
    }

    fn fill(&mut self, now: MonotonicMs) {
        let gained =
            i128::from(self.bytes_per_period).saturating_mul(i128::from(now.since_ms(self.at)));
        self.level = self.level.saturating_add(gained).min(self.full());
        self.at = self.at.max(now);
    }

    /// Milliseconds until `bytes` may be taken: when they are there, or when it is full.
    pub(super) fn wait_ms(&mut self, bytes: u64, now: MonotonicMs) -> u64 {
        self.fill(now);
        let wanted = (i128::from(bytes) * i128::from(self.period_ms)).min(self.full());
        let missing = wanted.saturating_sub(self.level);
        if missing <= 0 {
            return 0;
        }
        let rate = i128::from(self.bytes_per_period.max(1));
        u64::try_from(missing.saturating_add(rate - 1) / rate).unwrap_or(u64::MAX).max(1)
    }

    /// Takes `bytes`, whether or not they are there.
    pub(super) fn take(&mut self, bytes: u64, now: MonotonicMs) {
        self.fill(now);
        self.level = self.level.saturating_sub(i128::from(bytes) * i128::from(self.period_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two bytes a second, empty at second 0.
    fn slow_and_empty(capacity: u64) -> Bucket {
        let mut bucket = Bucket::new(2, 1000, capacity, MonotonicMs(0));
        bucket.take(capacity, MonotonicMs(0));
        bucket
    }

    /// Found by fuzzing.
    #[test]
    fn no_limit_and_no_time_overflow_it() {
        let mut bucket = Bucket::new(u64::MAX, 1000, u64::MAX, MonotonicMs(0));
        bucket.take(u64::MAX, MonotonicMs(0));
        assert_eq!(bucket.wait_ms(u64::MAX, MonotonicMs(999)), 1);
        assert_eq!(bucket.wait_ms(u64::MAX, MonotonicMs(u64::MAX)), 0);
    }

    #[test]
    fn the_wait_is_told_to_the_millisecond_and_rounded_up() {
        let mut bucket = slow_and_empty(10);
        assert_eq!(bucket.wait_ms(1, MonotonicMs(0)), 500);
        assert_eq!(bucket.wait_ms(1, MonotonicMs(499)), 1);
        assert_eq!(bucket.wait_ms(1, MonotonicMs(500)), 0);
        let mut thirds = Bucket::new(3, 1000, 1, MonotonicMs(0));
        thirds.take(1, MonotonicMs(0));
        assert_eq!(thirds.wait_ms(1, MonotonicMs(0)), 334);
    }

    #[test]
    fn it_saves_no_more_than_it_holds_and_may_owe() {
        let mut bucket = slow_and_empty(10);
        assert_eq!(bucket.capacity(), 10);
        let later = MonotonicMs(3_600_000);
        assert_eq!(bucket.wait_ms(10, later), 0);
        bucket.take(14, later);
        assert_eq!(bucket.wait_ms(1, later), 2_500);
    }

    #[test]
    fn what_is_larger_than_the_bucket_waits_until_it_is_full() {
        assert_eq!(slow_and_empty(10).wait_ms(1_000, MonotonicMs(0)), 5_000);
    }
}
