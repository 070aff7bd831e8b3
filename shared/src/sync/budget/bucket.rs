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
        let gained = i128::from(self.bytes_per_period) * i128::from(now.since_ms(self.at));
        self.level = (self.level + gained).min(self.full());
        self.at = self.at.max(now);
    }

    /// Milliseconds until `bytes` may be taken: when they are there, or when it is full.
    pub(super) fn wait_ms(&mut self, bytes: u64, now: MonotonicMs) -> u64 {
        self.fill(now);
        let wanted = (i128::from(bytes) * i128::from(self.period_ms)).min(self.full());
        let missing = wanted - self.level;
        if missing <= 0 {
            return 0;
        }
        let rate = i128::from(self.bytes_per_period.max(1));
        u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX).max(1)
    }

    /// Takes `bytes`, whether or not they are there.
    pub(super) fn take(&mut self, bytes: u64, now: MonotonicMs) {
        self.fill(now);
        self.level -= i128::from(bytes) * i128::from(self.period_ms);
    }
}
