//! A node's wall clock, which may be wrong and may drift.

use shared::model::{ClockQuality, MonotonicMs, Now, UnixMs};

/// By how much a node's wall clock is wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NodeClock {
    offset_ms: i64,
    /// Parts in a million, since this moment of the world's clock.
    drift_ppm: i64,
    since: MonotonicMs,
}

impl NodeClock {
    /// A clock that is wrong by `offset_ms` at `since`, and runs too fast or too slow.
    pub(super) fn wrong_by(offset_ms: i64, drift_ppm: i64, since: MonotonicMs) -> Self {
        Self { offset_ms, drift_ppm, since }
    }

    /// What the node takes for `now`, which is right; `at` is the moment by the world's clock.
    pub(super) fn read(self, now: Now, at: MonotonicMs) -> Now {
        if self.offset_ms == 0 && self.drift_ppm == 0 {
            return now;
        }
        let elapsed_ms = i64::try_from(at.since_ms(self.since)).unwrap_or(i64::MAX);
        let drifted_ms = elapsed_ms.saturating_mul(self.drift_ppm) / 1_000_000;
        let wall = now.wall.0.saturating_add_signed(self.offset_ms.saturating_add(drifted_ms));
        Now { wall: UnixMs(wall), quality: ClockQuality::Unsynchronised, ..now }
    }
}
